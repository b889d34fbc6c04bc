"""Does a fresh process decode exactly what the encoder saw? `python benchmarks/roundtrip.py`

Every learned codec with weights, at sizes from 1x1 to 3000x2000, in grey, RGB and RGBA: compressed here,
decompressed by `kodim decompress` in a process of its own, compared pixel by pixel with the encoder's
reconstruction. Exit code 1 if anything differs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from kodim import registry, tiles
from kodim.learned import LearnedCodec, to_pixels, to_tensor
from kodim.picture import Picture, load

SIZES = [(1, 1), (1, 500), (67, 93), (512, 768), (3000, 2000)]
MODES = ("RGB", "L", "RGBA")


def sample(height: int, width: int, mode: str) -> Picture:
    photo = skimage.data.astronaut()
    reps = (-(-height // 512), -(-width // 512), 1)
    image = Image.fromarray(np.ascontiguousarray(np.tile(photo, reps)[:height, :width])).convert(mode)
    if mode == "RGBA":
        image.putalpha(image.getchannel("R"))
    return load(image)


def reconstruction(coder: LearnedCodec, picture: Picture, quality: float) -> np.ndarray:
    """What the encoder itself sees, tile by tile."""
    seen = np.empty_like(picture.pixels)
    for rows, columns in tiles.layout(picture.height, picture.width):
        _, x_hat = coder.codec.compress(to_tensor(picture.pixels[rows.outer, columns.outer]), quality)
        seen[rows.core, columns.core] = to_pixels(x_hat)[rows.inner, columns.inner]
    return np.asarray(picture.with_pixels(seen).image())


def main() -> int:
    wrong = 0
    for entry in registry.entries(kind="learned"):
        if "compact" not in entry.weights:
            continue
        coder = LearnedCodec(entry)
        with tempfile.TemporaryDirectory() as folder:
            expected = {}
            for height, width in SIZES:
                for mode in MODES:
                    picture = sample(height, width, mode)
                    name = Path(folder) / f"{height}x{width}-{mode}.kdm"
                    name.write_bytes(coder.encode(picture, 55.0))
                    expected[name] = reconstruction(coder, picture, 55.0)
            command = [sys.executable, "-m", "kodim", "decompress", *map(str, expected), "-o", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for name, seen in expected.items():
                with Image.open(name.with_suffix(".png")) as image:
                    same = np.array_equal(np.asarray(image), seen)
                wrong += not same
                print(f"{entry.slug} {name.stem}: {name.stat().st_size} bytes, {'identical' if same else 'DIFFERENT'}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
