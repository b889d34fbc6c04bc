"""What do bit coders save? `python benchmarks/bits.py FOLDER [PICTURES] [CODECS...]`

Codes pictures with progressive codecs at full depth and prints, for each pass, mean PSNR (RGB) and bits per pixel with
every entropy coder on the very same codes: none, counts that start from nothing, and the one that ships with the
system (counts or a network, trained). Exact estimates, which are within rounding of the file.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from kodim import registry
from kodim.codec import Codec
from kodim.coding.tables import TOTAL
from kodim.contexts.binary import CountedBits, Counters
from kodim.learned import to_tensor
from kodim.picture import load
from kodim.progressive import make_coder

SYSTEMS = ("toderici2016", "toderici2017", "islam2021", "johnston2018", "covell2017", "minnen2017", "baig2017")


class FairBits(CountedBits):
    """Every bit costs a bit."""

    def counters(self, batch: int) -> Counters:
        return _Fair(np.zeros(1, dtype=np.int64), batch)


class _Fair(Counters):
    def ones(self, context: np.ndarray) -> np.ndarray:
        return np.full(context.shape, TOTAL // 2)

    def count(self, context: np.ndarray, bits: np.ndarray, active: np.ndarray | None) -> None:
        pass


def stand_in(own: torch.nn.Module, name: str) -> torch.nn.Module:
    """What codes the bits instead of `own`: "raw", "adaptive" (from nothing), or "own"."""
    if name == "own":
        return own
    if isinstance(own, CountedBits):
        coder: torch.nn.Module = (FairBits if name == "raw" else CountedBits)(len(own.start))
    else:
        coder = make_coder(name, own.passes, own.channels, own.stride)  # type: ignore[arg-type]
    for module in coder.modules():
        if hasattr(module, "freeze"):
            module.freeze()
    return coder.eval().requires_grad_(False)


def measure(codec: Codec, pictures: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """PSNR and bits per pixel (passes,), means over the pictures; of a codec of one pass, of that."""
    quality, bits = [], []
    for x in pictures:
        with torch.no_grad():
            out = codec(x, 100.0)
        quality.append([float(-10 * torch.log10((p - x).square().mean())) for p in out.pictures or [out.x_hat]])
        bits.append([float(b) / out.pixels for b in out.pass_bits or [sum(out.bits.values())]])
    return np.mean(quality, 0), np.mean(bits, 0)


def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 24
    pictures = [to_tensor(load(p).pixels) for p in sorted(Path(sys.argv[1]).iterdir())[:count]]
    for slug in sys.argv[3:] or SYSTEMS:
        codec = registry.create(slug)
        part = "coder" if hasattr(codec, "coder") else "planes"
        own = getattr(codec, part)
        rows = {}
        for name in ("raw", "adaptive", "own"):
            setattr(codec, part, stand_in(own, name))
            psnr, rows[name] = measure(codec, pictures)
        print(f"\n{slug}: {type(own).__name__}\n| pass | PSNR dB | raw bpp | counts bpp | own bpp |")
        print("|---|---|---|---|---|")
        for k, (value, *bpp) in enumerate(zip(psnr, *rows.values(), strict=True), 1):
            print(f"| {k} | {value:.2f} | " + " | ".join(f"{b:.4f}" for b in bpp) + " |")
        total = [float(r.sum()) for r in rows.values()]
        print(
            "| all | | " + " | ".join(f"{t:.3f} ({100 * (t / total[0] - 1):+.1f}%)" for t in total) + " |", flush=True
        )


if __name__ == "__main__":
    main()
