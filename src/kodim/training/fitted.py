"""Teach `overfit` on fitted latents: `python -m kodim.training.fitted CHECKPOINT OUTPUT PICTURES [MINUTES]`.

As an autoencoder (:mod:`kodim.training.loop`) the shared networks learn to serve what the analysis network makes, which
is far from what a fit ends at. Here many crops are being fitted side by side, as an encoder would fit them, and the
shared networks learn, slowly, from where those latents have come to: first-order meta-learning, after Reptile (Nichol,
Achiam, Schulman 2018, arXiv 1803.02999). The analysis network learns to guess at once what fits come to. The
autoencoder's loop comes first. The checkpoint's averaged weights are taken and written back.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from .. import weights
from ..errors import KodimError
from ..overfit.fit import LATENT_RATE, Task, softened
from ..registry import create
from ..systems.overfit import Overfit
from . import checkpoint
from .data import Pictures
from .muon import Muon

SIDE, POOL = 256, 24  # of a crop; crops at a time
STEPS = (120, 240, 480)  # of a crop's fit: one of these
RIPE, DONE = 0.25, 0.6  # share of a fit before the networks, and the analysis network, learn from it
BATCH, RATE, AVERAGE = 8, 2e-3, 0.005
ANALYSIS_RATE, ANALYSIS_EVERY = 1e-3, 4


class Lesson:
    """A crop on its way from the analysis network's guess to fitted latents."""

    def __init__(self, codec: Overfit, pictures: Pictures, rng: np.random.Generator) -> None:
        x = pictures.crops(rng, 1, SIDE)
        self.level = torch.as_tensor(rng.uniform(0, codec.levels - 1, 1), dtype=torch.float32)
        weight = float(codec.distortion_weight(self.level))
        self.x = x
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

    def distance(self, codec: Overfit) -> Tensor:
        """How far a guess of the analysis network is from these latents: Huber's, mean of the grids' means."""
        wanted = self.task.split(self.latents.detach())
        guess = codec.analysis(self.x, self.level)
        return torch.stack([F.smooth_l1_loss(g, w) for g, w in zip(guess, wanted, strict=True)]).mean()


class Learner:
    """Adam or Muon with a cosine over the time, and the moving average of what it trains."""

    def __init__(self, optimiser: torch.optim.Optimizer, rate: float) -> None:
        self.optimiser, self.rate = optimiser, rate
        self.moving = [p for group in optimiser.param_groups for p in group["params"]]
        self.average = [p.detach().clone() for p in self.moving]

    def step(self, share: float) -> None:
        if all(p.grad is None for p in self.moving):
            return
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        self.optimiser.step()
        self.optimiser.zero_grad()
        for mean, p in zip(self.average, self.moving, strict=True):
            mean.lerp_(p.detach(), AVERAGE)

    @torch.no_grad()
    def settle(self) -> None:
        """Leave the average in the place of the last values."""
        for p, mean in zip(self.moving, self.average, strict=True):
            p.copy_(mean)


def teach(codec: Overfit, pictures: Pictures, seconds: float, rng: np.random.Generator) -> int:
    """Train shared networks and analysis for as long as there is time; says every half minute how fits end.

    Returns the pixels of all steps of all fits.
    """
    moving = [p for n, p in codec.named_parameters() if n.startswith(("common.", "own.")) and not n.endswith("up_w")]
    learner = Learner(torch.optim.Adam(moving, betas=(0.9, 0.99)), RATE)
    moving = list(codec.analysis.parameters())
    muon = Muon([p for p in moving if p.ndim == 4], [p for p in moving if p.ndim != 4], ANALYSIS_RATE)
    guesser = Learner(muon, ANALYSIS_RATE)
    lessons = [Lesson(codec, pictures, rng) for _ in range(POOL)]
    start = shown = time.monotonic()
    count, done, ends, far = 0, 0, 0.0, 0.0
    while (share := (time.monotonic() - start) / seconds) < 1:
        i = int(rng.integers(POOL))
        loss = lessons[i].step(codec)
        if lessons[i].age == lessons[i].steps:
            done += 1
            ends += (math.log(loss) - ends) / min(done, 50)
            lessons[i] = Lesson(codec, pictures, rng)
        count += 1
        if count % BATCH == 0:
            learner.step(share)
        ripe = [lesson for lesson in lessons if lesson.share >= DONE]
        if count % ANALYSIS_EVERY == 0 and ripe:
            distance = ripe[int(rng.integers(len(ripe)))].distance(codec)
            distance.backward()
            guesser.step(share)
            now = float(distance.detach())
            far = 0.99 * (far or now) + 0.01 * now
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            _say(f"{(shown - start) / 60:5.1f} min  step {count}  {done} fits, the last end at {math.exp(ends):.4f}, "
                 f"guesses are {far:.4f} away")  # fmt: skip
    learner.settle()
    guesser.settle()
    return count * SIDE**2


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(source: str, output: str, folder: str, minutes: str = "60") -> None:
    metadata = weights.describe(source)
    codec = create(metadata["codec"], preset=metadata["preset"], pretrained=False)
    if not isinstance(codec, Overfit):
        raise KodimError(f"{source}: of {metadata['codec']}, which is not fitted to pictures")
    torch.manual_seed(0)
    checkpoint.load_shared(source, codec)
    pictures, rng, seconds = Pictures([folder]), np.random.default_rng(0), float(minutes) * 60
    start, cpu = time.monotonic(), time.process_time()
    pixels = teach(codec, pictures, seconds, rng)
    spent = {"minutes": time.monotonic() - start, "core_minutes": time.process_time() - cpu}
    leg = {k: round(v / 60, 1) for k, v in spent.items()} | {"megapixels": round(pixels / 1e6), "device": "cpu"}
    progress = json.loads(metadata["progress"])
    progress["legs"] = [*progress.get("legs", []), {"codec": codec.info["slug"], **leg}]
    metadata["progress"] = json.dumps(progress)
    save_file({f"ema/{n}": p.detach().contiguous() for n, p in codec.named_parameters()}, Path(output), metadata)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (KodimError, OSError) as error:
        sys.exit(f"kodim: {error}")
