"""The command line: `kodim compress photo.jpg`, `kodim --help`.

This package parses, reads, writes and reports; everything it says about pictures comes from the library.
Each command lives in its own module; heavy imports stay inside the commands, so that `kodim --help` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments after the program's name; `sys.argv[1:]` when omitted.

    Returns:
        0 when everything asked for was done, 2 when the input or the request is at fault, 1 when kodim is,
        128 plus the number of the signal that ended the run.
    """
    from kodim.cli.run import run

    return run(argv)
