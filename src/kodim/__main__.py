"""`python -m kodim` is the `kodim` command."""

import sys

from kodim.cli import main

if __name__ == "__main__":
    sys.exit(main())
