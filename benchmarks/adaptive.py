"""What does it gain to stop where the picture is good enough? `python benchmarks/adaptive.py FOLDER [PICTURES]`

Codes pictures with the spatially adaptive codecs over their qualities, and with their non-adaptive twins: the same
weights, every place sending in every pass, one to all of them. Prints the BD-rate (PSNR, RGB) of adaptive against twin,
on the pictures of the folder and on the same with their left half made flat; how near `--psnr` lands; and the same
BD-rates where places stop as soon as they are good enough, as in the papers (`even`).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kodim import registry
from kodim.codec import Codec
from kodim.learned import to_tensor
from kodim.metrics import bd_rate, overlap
from kodim.picture import load
from kodim.progressive import Adaptive
from kodim.rate import compress_to

SYSTEMS = ("johnston2018", "covell2017", "minnen2017")
QUALITIES = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
TARGETS = (0.2, 0.5, 0.8)  # of the way from the lowest to the highest PSNR of the codec
Curve = list[tuple[float, float]]


def psnr(x: Tensor, y: Tensor) -> float:
    return float(-10 * torch.log10((x - y).square().mean()))


@torch.no_grad()
def adaptive(codec: Codec, x: Tensor) -> Curve:
    """(bpp, PSNR) over the qualities."""
    found = []
    for quality in QUALITIES:
        out = codec(x, quality)
        found.append((float(out.bpp[0]), psnr(x, out.x_hat)))
    return found


@torch.no_grad()
def twin(codec: Codec, x: Tensor) -> Curve:
    """(bpp, PSNR) over the passes, all places sending in each."""
    if isinstance(codec, Adaptive):
        before, codec.even, codec.worst, codec.best = (codec.even, codec.worst, codec.best), True, 1e-6, 1e-6
        out = codec(x, 100.0)
        codec.even, codec.worst, codec.best = before
        bits = np.cumsum([float(b[0]) for b in out.pass_bits]) / out.pixels
        return [(float(b), psnr(x, p)) for b, p in zip(bits, out.pictures, strict=True)]
    found, steps, before = [], codec.steps, (codec.even, codec.lowest, codec.highest)
    codec.even, codec.lowest, codec.highest = True, 1e3, 1e3  # type: ignore[assignment]
    for k in range(1, int(steps) + 1):  # type: ignore[arg-type]
        codec.steps = k  # type: ignore[assignment]
        out = codec(x, 100.0)
        found.append((float(out.bpp[0]), psnr(x, out.x_hat)))
    codec.steps, (codec.even, codec.lowest, codec.highest) = steps, before
    return found


def half_flat(x: Tensor) -> Tensor:
    flat = x.clone()
    half = x.shape[3] // 2
    flat[..., :half] = x[..., :half].mean((2, 3), keepdim=True)
    return flat


def compare(codec: Codec, pictures: list[Tensor]) -> str:
    curves = [np.mean([curve(codec, x) for x in pictures], 0) for curve in (twin, adaptive)]
    (r0, q0), (r1, q1) = (c.T.tolist() for c in curves)
    return f"{bd_rate(r0, q0, r1, q1):+.1f}% ({100 * overlap(q0, q1):.0f}%)"


def main() -> None:
    files = sorted(Path(sys.argv[1]).iterdir())[: int(sys.argv[2]) if len(sys.argv) > 2 else 6]
    pictures = [to_tensor(load(p).pixels) for p in files]
    halves = [half_flat(x) for x in pictures]
    print("| codec | as they are | left half flat | --psnr: largest miss | even: as they are | half flat |")
    print("|---|---|---|---|---|---|")
    for slug in SYSTEMS:
        codec = registry.create(slug)
        columns = [compare(codec, pictures), compare(codec, halves)]
        system = registry.get(slug)
        first, last = (q for _, q in adaptive(codec, pictures[0])[:: len(QUALITIES) - 1])
        wishes = [first + share * (last - first) for share in TARGETS]
        misses = [abs(compress_to(system, load(files[0]), psnr=wish).psnr - wish) for wish in wishes]
        codec.even = True  # type: ignore[assignment]
        columns += [f"{max(misses):.2f} dB", compare(codec, pictures), compare(codec, halves)]
        print(f"| `{slug}` | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
