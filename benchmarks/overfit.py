"""The overfitted codec against others, picture by picture: `python benchmarks/overfit.py FOLDER -o points.csv`

Encodes the first pictures of a folder at four qualities with each effort, and the others, `kodim` and classical
codecs, along their whole range; real files of bare pixels (no colour profile, no EXIF data), decoded again. Every point
is a line of the CSV, written when it is there, so a run that was stopped goes on where it was. With `--blank` networks
start at random and latents at nothing, as in Cool-chic, instead of from what was learned beforehand. Prints the BD-rate
(PSNR over RGB, pchip) of each picture against each of them and, with `--published`, a JSON file {"pictures": {name:
[[bpp, dB], ..]}}, against published points.
With other jobs on the machine the seconds say little; the rates do not change.
"""

import argparse
import atexit
import csv
import json
import math
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from kodim import registry
from kodim.bench.evaluate import bare
from kodim.errors import BadRequest
from kodim.learned import LearnedCodec
from kodim.metrics import bd_rate, psnr
from kodim.overfit import fit
from kodim.picture import Picture, load
from kodim.training.checkpoint import save_averaged

FIELDS = ("picture", "codec", "effort", "quality", "bytes", "bpp", "psnr", "encode_s", "decode_s")
ANCHORS = ("jpeg", "jpeg2000", "webp", "heic", "avif", "kodim")
ANCHOR_QUALITIES = (5, 15, 25, 35, 45, 55, 65, 75, 85, 92)

BLANK = "overfit-blank"
Curve = list[tuple[float, float]]


class Points:
    """The CSV: what is there is not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str, str, str], dict[str, str]] = {}
        if path.exists():
            with path.open(newline="") as f:
                for row in csv.DictReader(f):
                    self.rows[row["picture"], row["codec"], row["effort"], row["quality"]] = row

    def measure(self, name: str, picture: Picture, codec: str, effort: int, quality: float) -> None:
        key = (name, codec, str(effort), f"{quality:g}")
        if key in self.rows:
            return
        coder, started = blank() if codec == BLANK else registry.get(codec), time.perf_counter()
        data = coder.encode(picture, quality, effort=effort or None)
        encoded = time.perf_counter()
        decoded = coder.decode(data).pixels
        bpp = 8 * len(data) / (picture.width * picture.height)
        values = (len(data), f"{bpp:.5f}", f"{psnr(picture.pixels, decoded):.4f}",
                  f"{encoded - started:.2f}", f"{time.perf_counter() - encoded:.2f}")  # fmt: skip
        row = dict(zip(FIELDS, (*key, *map(str, values)), strict=True))
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as f:
            writer = csv.DictWriter(f, FIELDS)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        self.rows[key] = row
        if codec in ("overfit", BLANK):
            print("  ".join(row.values()), flush=True)

    def curve(self, name: str, codec: str, effort: int) -> Curve:
        rows = [r for (p, c, e, _), r in self.rows.items() if (p, c, e) == (name, codec, str(effort))]
        return [(float(r["bpp"]), float(r["psnr"])) for r in rows]

    def seconds(self, names: Sequence[str], codec: str, effort: int, field: str) -> float:
        return float(np.mean([float(r[field]) for (p, c, e, _), r in self.rows.items()
                              if p in names and (c, e) == (codec, str(effort))]))  # fmt: skip


@cache
def blank() -> LearnedCodec:
    """The system with nothing learned: random networks, latents at zero, and Cool-chic's rates for both."""
    fit.NETWORK_RATE, fit.LATENT_RATE, fit.NETWORKS_WORTH = 1e-2, 0.16, -1
    torch.manual_seed(0)
    entry = registry.find("overfit")
    codec = registry.create(entry.slug, pretrained=False)
    for head in codec.analysis.heads:  # type: ignore[union-attr]
        for p in head.parameters():
            torch.nn.init.zeros_(p)
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "blank.safetensors"
    metadata = {"kodim": "checkpoint", "codec": entry.slug, "preset": codec.preset}
    save_averaged(path, codec, metadata | {"lambdas": json.dumps(codec.lambdas)})
    return LearnedCodec(entry, codec.preset, path)


def difference(anchor: Curve, test: Curve) -> float:
    try:
        return bd_rate(*zip(*anchor, strict=True), *zip(*test, strict=True))
    except BadRequest:
        return math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the CSV")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--efforts", default="7,9", help="7 takes about 2 minutes on two free cores, 9 about 10")
    parser.add_argument("--qualities", default="20,40,60,80")
    parser.add_argument("--anchors", default=",".join(ANCHORS))
    parser.add_argument("--published", type=Path)
    parser.add_argument("--blank", action="store_true", help="nothing learned beforehand")
    parser.add_argument("--side", type=int, default=0, help="crop the pictures to this side, for a quick look")
    args = parser.parse_args()
    efforts = [int(e) for e in args.efforts.split(",")]
    anchors = [c for c in args.anchors.split(",") if c]
    pictures = {p.stem: bare(load(p)) for p in sorted(args.folder.iterdir())[: args.pictures]}
    if args.side:
        pictures = {n: load(p.pixels[: args.side, : args.side].copy()) for n, p in pictures.items()}
    points, codec = Points(args.output), BLANK if args.blank else "overfit"
    for name, picture in pictures.items():
        for anchor in anchors:
            for quality in ANCHOR_QUALITIES:
                points.measure(name, picture, anchor, 0, quality)
    for effort in efforts:
        for name, picture in pictures.items():
            for quality in map(float, args.qualities.split(",")):
                points.measure(name, picture, codec, effort, quality)
    published = json.loads(args.published.read_text())["pictures"] if args.published else {}
    for effort in efforts:
        columns = [*anchors, *(["published"] if published else [])]
        encode, decode = (points.seconds(list(pictures), codec, effort, f) for f in ("encode_s", "decode_s"))
        print(f"\neffort {effort}: {encode:.0f} s to encode, {decode:.1f} s to decode; BD-rate in percent")
        print(f"{'picture':16s}" + "".join(f"{c:>11s}" for c in columns))
        table = []
        for name in pictures:
            test = points.curve(name, codec, effort)
            curves = [points.curve(name, c, 0) for c in anchors]
            curves += [[(b, q) for b, q in published.get(name, [])]] if published else []
            table.append([difference(anchor, test) for anchor in curves])
            print(f"{name:16s}" + "".join(f"{v:+11.1f}" for v in table[-1]))
        print(f"{'mean':16s}" + "".join(f"{v:+11.1f}" for v in np.nanmean(table, 0)))


if __name__ == "__main__":
    main()
