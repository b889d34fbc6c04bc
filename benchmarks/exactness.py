"""The same latents in every setting? `python benchmarks/exactness.py kodak/ [CODEC...]`

Encodes the first pictures of a folder at four qualities with every codec that ships weights, decodes each file
with other thread counts, memory formats, precisions, without oneDNN, on a GPU where there is one, and, in
processes of their own, with the instruction sets of older processors. Prints a table; exit code 1 if any latent
differed anywhere.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from kodim import registry
from kodim.bench.exactness import ISA, check
from kodim.learned import LearnedCodec, decode_kdm, to_tensor
from kodim.picture import load

PICTURES, QUALITIES = 3, (5.0, 35.0, 65.0, 95.0)
DECODE = """
import sys, numpy as np
from pathlib import Path
from kodim.learned import decode_kdm
for name in sys.argv[1:]:
    np.save(name + ".npy", decode_kdm(Path(name).read_bytes()).pixels)
"""


def main(folder: str, slugs: list[str]) -> int:
    pictures = sorted(Path(folder).glob("*.png"))[:PICTURES]
    wrong = 0
    for slug in slugs or [e.slug for e in registry.entries(kind="learned", trained=True)]:
        found: dict[str, list[tuple[bool, float]]] = {}
        coder = LearnedCodec(registry.find(slug))
        with tempfile.TemporaryDirectory() as scratch:
            files = {}
            for picture in pictures:
                pixels = load(picture).pixels
                for quality in QUALITIES:
                    stream, _ = coder.codec.compress(to_tensor(pixels), quality)
                    for f in check(coder.codec, stream, pixels.shape[:2], quality):
                        found.setdefault(f.setting, []).append((f.same_latents, f.difference or 0.0))
                    name = Path(scratch) / f"{picture.stem}-{quality:g}.kdm"
                    name.write_bytes(coder.encode(load(picture), quality))
                    files[name] = decode_kdm(name.read_bytes()).pixels.astype(int)
            for isa, variables in ISA.items():
                subprocess.run(
                    [sys.executable, "-c", DECODE, *map(str, files)], env={**os.environ, **variables}, check=False
                )
                for name, plain in files.items():
                    there = Path(f"{name}.npy")
                    same = there.exists()
                    found.setdefault(isa, []).append(
                        (same, float(np.abs(np.load(there).astype(int) - plain).max()) if same else 0.0)
                    )
                    there.unlink(missing_ok=True)
        for setting, results in found.items():
            bad = sum(not same for same, _ in results)
            wrong += bad
            largest = max(difference for _, difference in results)
            print(f"{slug:16} {setting:14} {len(results):3} files, {bad} with other latents, "
                  f"pixels differ by at most {largest:.3g}/255", flush=True)  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
