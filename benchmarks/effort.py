"""What encoder effort costs and gives: `python benchmarks/effort.py FOLDER [--codec kodim] [--efforts 1,2,4,6]`

Encodes the first pictures of a folder at five qualities with each effort; prints the BD-rate (PSNR, mean of the
pictures' points first) against effort 1 and the seconds to encode a megapixel. Real files of bare pixels,
decoded again.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from kodim import registry
from kodim.bench.evaluate import bare
from kodim.metrics import bd_rate, psnr
from kodim.picture import load

QUALITIES = (10.0, 30.0, 50.0, 70.0, 90.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", default="kodim")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--efforts", default="1,2,3,4,5,6")
    parser.add_argument("--side", type=int, default=0, help="crop the pictures to this side, for a quick look")
    args = parser.parse_args()
    codec = registry.get(args.codec)
    pictures = [bare(load(p)) for p in sorted(args.folder.iterdir())[: args.pictures]]
    if args.side:
        pictures = [load(p.pixels[: args.side, : args.side].copy()) for p in pictures]
    codec.encode(pictures[0], 50)  # loads weights, warms up
    plain: list[tuple[float, float]] = []
    for effort in map(int, args.efforts.split(",")):
        points, seconds, pixels = [], 0.0, 0
        for quality in QUALITIES:
            rates, values = [], []
            for picture in pictures:
                start = time.perf_counter()
                data = codec.encode(picture, quality, effort=effort)
                seconds += time.perf_counter() - start
                pixels += picture.width * picture.height
                rates.append(8 * len(data) / (picture.width * picture.height))
                values.append(psnr(picture.pixels, codec.decode(data).pixels))
            points.append((float(np.mean(rates)), float(np.mean(values))))
        plain = plain or points
        rate = bd_rate(*zip(*plain, strict=True), *zip(*points, strict=True))
        line = "  ".join(f"{r:.3f}/{v:.2f}" for r, v in points)
        print(f"effort {effort}  BD-rate {rate:+6.1f}%  {seconds / pixels * 1e6:7.2f} s/Mpx  {line}", flush=True)


if __name__ == "__main__":
    main()
