"""Teach `overfit` on fitted latents: `python -m kodim.training.fitted CHECKPOINT OUTPUT PICTURES [MINUTES]`.

As an autoencoder (:mod:`kodim.training.loop`) the shared networks learn to serve what the analysis network makes, which
is far from what a fit ends at. Here many crops are being fitted side by side, as an encoder would fit them, and the
shared networks learn, slowly, from where those latents have come to: first-order meta-learning, after Reptile (Nichol,
Achiam, Schulman 2018, arXiv 1803.02999). The analysis network stays as it is, so the autoencoder's loop comes first,
and may follow. The checkpoint's averaged weights are taken and written back.
"""

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from .. import weights
from ..errors import KodimError
from ..overfit.fit import LATENT_RATE, Task, softened
from ..registry import create
from ..systems.overfit import Overfit
from . import checkpoint
from .data import Pictures

SIDE, POOL = 256, 24  # of a crop; crops at a time
STEPS = (120, 240, 480)  # of a crop's fit: one of these
RIPE = 0.25  # share of a fit before the networks learn from it
BATCH, RATE, AVERAGE = 8, 2e-3, 0.005


class Lesson:
    """A crop on its way from the analysis network's guess to fitted latents."""

    def __init__(self, codec: Overfit, pictures: Pictures, rng: np.random.Generator) -> None:
        x = pictures.crops(rng, 1, SIDE)
        self.level = torch.as_tensor(rng.uniform(0, codec.levels - 1, 1), dtype=torch.float32)
        weight = float(codec.distortion_weight(self.level))
        self.task = Task(x, (SIDE, SIDE), codec.sizes, codec.integers(self.level), weight)
        with torch.no_grad():
            guess = torch.cat([g.flatten() for g in codec.analysis(x, self.level)])
        self.latents = guess.requires_grad_()
        self.adam = torch.optim.Adam([self.latents], lr=LATENT_RATE, betas=(0.9, 0.99), fused=True)
        self.steps, self.age = int(rng.choice(STEPS)), 0

    @property
    def share(self) -> float:
        return self.age / self.steps

    def step(self, codec: Overfit) -> float:
        """One step of the latents; the networks' parameters get their gradients of log(loss)."""
        net = {n: v[0] for n, v in codec.floats(self.level).items()}
        if self.share < RIPE:
            net = {n: v.detach() for n, v in net.items()}
        noise = torch.randn_like(self.latents)
        grids = self.task.split(softened(self.latents, noise, self.share))
        loss = self.task.loss(self.task.bits(net, grids), self.task.mse(net, grids))
        loss.log().backward()
        self.adam.param_groups[0]["lr"] = LATENT_RATE * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * self.share)))
        self.adam.step()
        self.adam.zero_grad()
        self.age += 1
        return float(loss.detach())


def teach(codec: Overfit, pictures: Pictures, seconds: float, rng: np.random.Generator) -> None:
    """Train the shared networks for as long as there is time; says every half minute how fits end."""
    moving = [p for n, p in codec.named_parameters() if n.startswith(("common.", "own.")) and not n.endswith("up_w")]
    optimiser = torch.optim.Adam(moving, lr=RATE, betas=(0.9, 0.99))
    average = [p.detach().clone() for p in moving]
    lessons = [Lesson(codec, pictures, rng) for _ in range(POOL)]
    start = shown = time.monotonic()
    count, done, ends = 0, 0, 0.0
    while (share := (time.monotonic() - start) / seconds) < 1:
        i = int(rng.integers(POOL))
        loss = lessons[i].step(codec)
        if lessons[i].age == lessons[i].steps:
            done += 1
            ends = ends + (math.log(loss) - ends) / min(done, 50)
            lessons[i] = Lesson(codec, pictures, rng)
        count += 1
        if count % BATCH == 0:
            optimiser.param_groups[0]["lr"] = RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
            if all(p.grad is None for p in moving):
                continue
            optimiser.step()
            optimiser.zero_grad()
            for mean, p in zip(average, moving, strict=True):
                mean.lerp_(p.detach(), AVERAGE)
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"{(shown - start) / 60:5.1f} min  step {count}  {done} fits, the last end at {math.exp(ends):.4f}",
                  file=sys.stderr, flush=True)  # fmt: skip
    with torch.no_grad():
        for p, mean in zip(moving, average, strict=True):
            p.copy_(mean)


def main(source: str, output: str, folder: str, minutes: str = "60") -> None:
    metadata = weights.describe(source)
    codec = create(metadata["codec"], preset=metadata["preset"], pretrained=False)
    if not isinstance(codec, Overfit):
        raise KodimError(f"{source}: of {metadata['codec']}, which is not fitted to pictures")
    torch.manual_seed(0)
    checkpoint.load_shared(source, codec)
    teach(codec, Pictures([folder]), float(minutes) * 60, np.random.default_rng(0))
    save_file({f"ema/{n}": p.detach().contiguous() for n, p in codec.named_parameters()}, Path(output), metadata)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (KodimError, OSError) as error:
        sys.exit(f"kodim: {error}")
