"""Does the estimate agree with the file? `python benchmarks/agreement.py FOLDER` for every learned codec.

For each picture and quality: exact bits that `codec(x)` reports against 8 x the bytes of the payload.
The bound is 0.1% + 64 bits. Exit code 1 if any file lies outside.
"""

import sys
from pathlib import Path

from kodim import registry
from kodim.learned import to_tensor
from kodim.picture import load


def main(folder: str, *slugs: str) -> int:
    worst = 0
    for slug in slugs or [e.slug for e in registry.entries(kind="learned") if "compact" in e.weights]:
        codec = registry.create(slug)
        relative, bits_off, outside, count = 0.0, 0.0, 0, 0
        for path in sorted(Path(folder).iterdir()):
            x = to_tensor(load(path).pixels)
            for quality in (0.0, 25.0, 50.0, 75.0, 100.0):
                estimate = float(sum(b.double().sum() for b in codec(x, quality).bits.values()))
                real = 8 * len(codec.compress(x, quality)[0].data)
                off = abs(real - estimate)
                relative, bits_off = max(relative, off / estimate), max(bits_off, off)
                outside += off > 0.001 * estimate + 64
                count += 1
        print(
            f"{slug}: {count} files, largest difference {bits_off:.0f} bits, {100 * relative:.3f}%, outside {outside}"
        )
        worst += outside
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
