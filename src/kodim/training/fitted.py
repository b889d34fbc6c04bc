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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import KodimError
from ..overfit.fit import LATENT_RATE, Task, annealed, mover, softened
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
        self.adam = mover(self.latents)
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
        self.adam.param_groups[0]["lr"] = LATENT_RATE * annealed(self.share)
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

    Ctrl-C ends it early and keeps what was learned. Returns the pixels of all steps of all fits.
    """
    shared = [p for n, p in codec.named_parameters() if n.startswith(("common.", "own.")) and not n.endswith("up_w")]
    learner = Learner(torch.optim.Adam(shared, betas=(0.9, 0.99)), RATE)
    analysis = list(codec.analysis.parameters())
    muon = Muon([p for p in analysis if p.ndim == 4], [p for p in analysis if p.ndim != 4], ANALYSIS_RATE)
    guesser = Learner(muon, ANALYSIS_RATE)
    course = Course(codec, pictures, rng, learner, guesser)
    start = shown = time.monotonic()
    try:
        while (share := (time.monotonic() - start) / seconds) < 1:
            course.step(share)
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                _say(f"{(shown - start) / 60:5.1f} min  {course}")
    except KeyboardInterrupt:
        _say("stopped; what was learned is kept")
    learner.settle()
    guesser.settle()
    return course.count * SIDE**2


class Course:
    """The crops that are being fitted, and who learns from them."""

    def __init__(
        self, codec: Overfit, pictures: Pictures, rng: np.random.Generator, learner: Learner, guesser: Learner
    ) -> None:
        self.codec, self.pictures, self.rng, self.learner, self.guesser = codec, pictures, rng, learner, guesser
        self.lessons = [Lesson(codec, pictures, rng) for _ in range(POOL)]
        self.count = self.done = 0
        self.end = self.far = 0.0  # moving averages: logarithm of a fit's last loss, distance of the guesses

    def step(self, share: float) -> None:
        """One step of one crop's fit; now and then one of the networks. `share` of the time is gone."""
        i = int(self.rng.integers(POOL))
        loss = self.lessons[i].step(self.codec)
        if self.lessons[i].age == self.lessons[i].steps:
            self.done += 1
            self.end += (math.log(loss) - self.end) / min(self.done, 50)
            self.lessons[i] = Lesson(self.codec, self.pictures, self.rng)
        self.count += 1
        if self.count % BATCH == 0:
            self.learner.step(share)
        ripe = [lesson for lesson in self.lessons if lesson.share >= DONE]
        if self.count % ANALYSIS_EVERY == 0 and ripe:
            distance = ripe[int(self.rng.integers(len(ripe)))].distance(self.codec)
            distance.backward()
            self.guesser.step(share)
            now = float(distance.detach())
            self.far = 0.99 * (self.far or now) + 0.01 * now

    def __str__(self) -> str:
        ends = f", which end at {math.exp(self.end):.4f}" if self.done else ""
        far = f", guesses are {self.far:.4f} away" if self.far else ""
        return f"step {self.count}, {self.done} fits{ends}{far}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(source: str, output: str, folder: str, seconds: float = 3600) -> None:
    codec, metadata = checkpoint.averaged(source)
    if not isinstance(codec, Overfit):
        raise KodimError(f"{source}: of {metadata['codec']}, which is not fitted to pictures")
    torch.manual_seed(0)
    pictures, rng = Pictures([folder]), np.random.default_rng(0)
    start, cpu = time.monotonic(), time.process_time()
    pixels = teach(codec, pictures, seconds, rng)
    spent = {"minutes": time.monotonic() - start, "core_minutes": time.process_time() - cpu}
    leg = {k: round(v / 60, 1) for k, v in spent.items()} | {"megapixels": round(pixels / 1e6), "device": "cpu"}
    progress = json.loads(metadata.get("progress", "{}"))
    progress["legs"] = [*progress.get("legs", []), {"codec": codec.info["slug"], **leg}]
    checkpoint.save_averaged(output, codec, metadata | {"progress": json.dumps(progress)})


if __name__ == "__main__":
    checkpoint.lesson(main, __doc__)
