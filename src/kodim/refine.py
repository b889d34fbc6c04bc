"""Encoder effort: look for better symbols for this very picture.

One pass of the analysis is a guess, made by a network that has to serve all pictures at once. Gradient descent
on the latents themselves, against the bits and the error of the decoder's own picture, finds symbols that cost
less or say more; the decoder is not changed and does not know. What is searched is a nudge for every latent of
every site, in units of the quantiser's step, so it works for any codec that is written as a program.

While searching, a value is rounded softly, ever more decidedly: the annealing of Y. Yang, R. Bamler, S. Mandt,
"Improving Inference for Neural Image Compression" (NeurIPS 2020, arXiv 2006.04240, section 3.2), with its mean
instead of its Gumbel draw. The draw is the better explorer over thousands of steps; over tens of steps it
mostly adds noise (`benchmarks/effort.py`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .coding.sites import BoundPrior, Estimate, WithPicture

if TYPE_CHECKING:
    from .codec import Codec

LEARNING_RATE = 0.08  # of the nudges, in quantiser steps
HOT, COLD = 0.5, 0.05  # temperatures of the soft rounding: first almost linear, at the end a staircase


def refine(codec: "Codec", x: Tensor, level: Tensor, size: Sequence[int], steps: int) -> list[Tensor]:
    """Nudges for the sites of `codec.program`, in the order of their calls; [] where nothing better was found.

    Args:
        codec: in eval mode, with its tables.
        x: (1, 3, H, W) padded picture in [0, 1].
        level: (1,) rate level; its lambda weighs error against bits.
        size: height and width without the padding, where the error counts.
        steps: of Adam.

    The result depends on floating-point sums and may differ between machines; any result is a valid file.
    """
    nudges: list[Tensor] = []
    encoded: list[Tensor] = []
    with _differentiable(codec), torch.enable_grad():
        optimiser: torch.optim.Optimizer | None = None
        for step in range(steps):
            share = step / max(steps - 1, 1)
            code = _Search(x, level, nudges, encoded, HOT * (COLD / HOT) ** share)
            loss = _loss(codec, code, size)
            if optimiser is None:
                optimiser = torch.optim.Adam(nudges, lr=LEARNING_RATE, betas=(0.9, 0.99))
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * share))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        found = [n.detach() for n in nudges]
        better = float(_loss(codec, Estimate(x, level, found), size)) < float(_loss(codec, Estimate(x, level), size))
    return found if better else []


def _loss(codec: "Codec", code: WithPicture, size: Sequence[int]) -> Tensor:
    x_hat = codec.program(code)[:, :, : size[0], : size[1]]
    mse = (x_hat - code.x[:, :, : size[0], : size[1]]).square().mean() * 255**2
    bits = torch.stack([b.sum() for b in code.bits.values()]).sum()
    return bits / (size[0] * size[1]) + codec.distortion_weight(code.level)[0] * mse


class _Search(WithPicture):
    """Rounds softly between two neighbouring integers; what the analysis gave is kept from the first pass."""

    def __init__(
        self,
        x: Tensor,
        level: Tensor,
        nudges: list[Tensor],
        encoded: list[Tensor],
        temperature: float,
    ) -> None:
        super().__init__(x, level)
        self.found, self.encoded, self.temperature = nudges, encoded, temperature
        self.calls = self.pictures = 0

    def encoder(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pictures == len(self.encoded):
            with torch.no_grad():
                self.encoded.append(function(self.x))
        self.pictures += 1
        return self.encoded[self.pictures - 1]

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        r = latent() - prior.centre
        if self.calls == len(self.found):
            self.found.append(torch.zeros_like(r, requires_grad=True))
        q = _soft_round(r + self.found[self.calls], self.temperature)
        self.calls += 1
        self.add(name, prior.bits(q).sum((1, 2, 3)))
        return q + prior.centre


def _soft_round(r: Tensor, temperature: float) -> Tensor:
    below = r.detach().floor()
    t = (r - below).clamp(1e-3, 1 - 1e-3)
    return below + torch.sigmoid((torch.atanh(t) - torch.atanh(1 - t)) / temperature)


@contextmanager
def _differentiable(codec: "Codec") -> Iterator[None]:
    """The smooth networks of training, with the weights left alone and the tables kept."""
    modules = [m for m in codec.modules() if not m.training]
    wanted = [p for p in codec.parameters() if p.requires_grad]
    for module in modules:
        module.training = True
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for module in modules:
            module.training = False
        for p in wanted:
            p.requires_grad_(True)
