"""Train the side information's context alone: `python -m kodim.training.side CHECKPOINT OUTPUT PICTURES [MINUTES]`.

One z stands for 64x64 pixels, so in the crops that networks are trained on hardly a z has neighbours. Here `kodim`'s z
are collected from whole pictures, with everything else as it is, and their context learns from those. What it codes
does not change: only bits are saved. The checkpoint's averaged weights are taken and written back.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..coding.sites import BoundPrior, Estimate, Train
from ..errors import KodimError
from ..systems.kodim import Kodim
from . import checkpoint
from .data import Pictures

PARTS = ("z_context.", "z_level.")
RATE, BATCH = 2e-3, 12
SHARE = 0.6  # of the time: collecting
FEWEST = 20  # pictures


@dataclass(frozen=True)
class Sample:
    """z (1, Z, h, w), integers, and the rate level (1,) they are of."""

    z: Tensor
    level: Tensor


class _Found(Exception):
    def __init__(self, z: Tensor) -> None:
        self.z = z


class _Look(Estimate):
    """Goes as far as z."""

    def serial(self, latent: Callable[[], Tensor]):  # type: ignore[no-untyped-def]
        raise _Found(torch.round(latent()))


class _Price(Train):
    """Bits of the values themselves, without noise."""

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        z = latent()
        self.add(name, prior.bits(z - prior.centre).sum((1, 2, 3)))
        return z

    def preview(self, value: Tensor) -> Tensor:
        return value


def collect(codec: Kodim, pictures: Pictures, seconds: float, rng: np.random.Generator) -> list[Sample]:
    """The z of whole pictures, each at one random level, for as long as there is time."""
    found: list[Sample] = []
    codec.eval()
    end = time.monotonic() + seconds
    order = rng.permutation(len(pictures.shapes))
    for i in order:
        if time.monotonic() > end:
            break
        x = pictures.whole(int(i))
        level = torch.as_tensor(rng.uniform(0, codec.levels - 1, 1), dtype=torch.float32)
        try:
            with torch.no_grad():
                codec.program(_Look(codec._pad(codec._turned(x)[0]), level))
        except _Found as look:
            found.append(Sample(look.z, level))
    return found


def bits(codec: Kodim, sample: Sample) -> Tensor:
    """Bits of a sample's z."""
    h, w = sample.z.shape[2:]
    code = _Price(torch.empty(1, 0, 64 * h, 64 * w), sample.level)
    codec.side(code, lambda: sample.z)
    return code.bits["z"].sum()


def fit(codec: Kodim, samples: list[Sample], seconds: float, rng: np.random.Generator) -> tuple[float, float]:
    """Train `PARTS`; returns bits per z position of samples held back, before and after."""
    held, samples = samples[::10], [s for i, s in enumerate(samples) if i % 10]
    moving = [p for n, p in codec.named_parameters() if n.startswith(PARTS)]
    codec.train()

    def judge() -> float:
        with torch.no_grad():
            total = sum(float(bits(codec, s)) for s in held)
        return total / sum(s.z[0, 0].numel() for s in held)

    before = judge()
    average = [p.detach().clone() for p in moving]
    optimiser = torch.optim.Adam(moving, lr=RATE, betas=(0.9, 0.98))
    start = time.monotonic()
    while (share := (time.monotonic() - start) / seconds) < 1:
        batch = [samples[int(i)] for i in rng.integers(len(samples), size=BATCH)]
        loss = torch.stack([bits(codec, s) for s in batch]).sum() / sum(s.z[0, 0].numel() for s in batch)
        optimiser.param_groups[0]["lr"] = RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for mean, p in zip(average, moving, strict=True):
                mean.lerp_(p, 0.01)
    with torch.no_grad():
        for p, mean in zip(moving, average, strict=True):
            p.copy_(mean)
    return before, judge()


def main(source: str, output: str, folder: str, seconds: float = 240) -> None:
    codec, metadata = checkpoint.averaged(source)
    if not isinstance(codec, Kodim):
        raise KodimError(f"{source}: of {metadata['codec']}, which has no context of side information")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    samples = collect(codec, Pictures([folder]), SHARE * seconds, rng)
    if len(samples) < FEWEST:
        raise KodimError(f"{len(samples)} pictures in {SHARE * seconds:.0f} s are too few to learn from")
    before, after = fit(codec, samples, (1 - SHARE) * seconds, rng)
    checkpoint.save_averaged(output, codec, metadata)
    print(f"{output}: {len(samples)} pictures, {before:.1f} -> {after:.1f} bits for 64x64 pixels")


if __name__ == "__main__":
    checkpoint.lesson(main, __doc__)
