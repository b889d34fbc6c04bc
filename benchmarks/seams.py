"""Do tiles show? `python benchmarks/seams.py PICTURES... [--codec CODEC]`

Codes each picture whole, and cut into cores of 512 x 512 with the halo that files have, at three qualities. Prints how
PSNR and bytes change, and the same for the pixels within 8 of a seam alone, where a difference would show.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kodim import registry, tiles
from kodim.picture import Picture, load

CORE = 512  # smaller than real tiles, so that pictures of ordinary size have seams
BESIDE = 8
QUALITIES = (15.0, 50.0, 85.0)


@contextmanager
def cut(core: int) -> Iterator[None]:
    """Within the block, every picture is coded in tiles."""
    before = tiles.WHOLE, tiles.CORE
    tiles.WHOLE, tiles.CORE = 0, core
    try:
        yield
    finally:
        tiles.WHOLE, tiles.CORE = before


def beside_seams(height: int, width: int) -> np.ndarray:
    """(H, W) boolean: within BESIDE pixels of a place where two cores meet."""
    rows, columns = (
        np.any([abs(np.arange(n) + 0.5 - seam) < BESIDE for seam in range(CORE, n, CORE)] or [np.zeros(n, bool)], 0)
        for n in (height, width)
    )
    return rows[:, None] | columns


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def measure(codec: object, picture: Picture, quality: float) -> list[float]:
    """Change of PSNR everywhere and beside seams in dB, of bytes in %."""
    whole = codec.encode(picture, quality)  # type: ignore[attr-defined]
    plain = codec.decode(whole).pixels  # type: ignore[attr-defined]
    with cut(CORE):
        tiled = codec.encode(picture, quality)  # type: ignore[attr-defined]
        shown = codec.decode(tiled).pixels  # type: ignore[attr-defined]
    near = beside_seams(picture.height, picture.width)
    everywhere = psnr(picture.pixels, shown) - psnr(picture.pixels, plain)
    there = psnr(picture.pixels[near], shown[near]) - psnr(picture.pixels[near], plain[near])
    return [everywhere, there, 100 * (len(tiled) / len(whole) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--codec", default="kodim")
    args = parser.parse_args()
    codec = registry.get(args.codec)
    files = [f for p in args.pictures for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    pictures = [load(f) for f in files if f.suffix.lower() in (".png", ".jpg", ".webp")]
    print("| quality | PSNR, dB | PSNR beside seams, dB | largest loss, dB | bytes, % |\n|---|---|---|---|---|")
    for quality in QUALITIES:
        found = np.array([measure(codec, picture, quality) for picture in pictures])
        mean = found.mean(0)
        print(
            f"| {quality:g} | {mean[0]:+.3f} | {mean[1]:+.3f} | {found[:, 0].min():+.3f} | {mean[2]:+.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
