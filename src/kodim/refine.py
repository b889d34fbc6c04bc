"""Encoder effort: look for better symbols for this very picture.

One pass of the analysis is a guess, made by a network that has to serve all pictures at once. Gradient descent
on the latents themselves, against the bits and the error of the decoder's own picture, finds symbols that cost
less or say more; the decoder is not changed and does not know. What is searched is a nudge for every latent of
every site, in units of the quantiser's step, so it works for any codec that is written as a program.

While searching, a value is rounded softly, ever more decidedly: the annealing of Y. Yang, R. Bamler, S. Mandt,
"Improving Inference for Neural Image Compression" (NeurIPS 2020, arXiv 2006.04240, section 3.2), with its mean
instead of its Gumbel draw. The draw is the better explorer over thousands of steps; over tens of steps it
mostly adds noise (`docs/decisions.md`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .coding.sites import BoundPrior, Estimate, WithPicture
from .progress import report

if TYPE_CHECKING:
    from .codec import Codec

TRAVEL, LARGEST_RATE = 0.25, 0.06  # how far a nudge can go in all, and in one step of Adam, in quantiser steps
WINDOW, MARGIN = 1024, 64  # pixels that are searched at a time, and what is seen around them
HOT, COLD = 0.5, 0.05  # temperatures of the soft rounding: first almost linear, at the end a staircase


def refine(codec: "Codec", x: Tensor, level: Tensor, size: Sequence[int], steps: int) -> list[Tensor]:
    """Nudges for the sites of `codec.program`, in the order of their calls; [] where nothing better was found.

    Nothing is found for codecs that look at the picture more than once (recurrent ones).

    Args:
        codec: in eval mode, with its tables.
        x: (1, 3, H, W) padded picture in [0, 1].
        level: (1,) rate level; its lambda weighs error against bits.
        size: height and width without the padding, where the error counts.
        steps: of Adam.

    A large picture is searched window by window, so that memory stays bounded (about 1 kB a pixel of a window). The
    result depends on floating-point sums and may differ between machines; any result is a valid file.
    """
    windows = [(rows, columns) for rows in _windows(x.shape[2]) for columns in _windows(x.shape[3])]
    found: list[Tensor] = []
    for i, (rows, columns) in enumerate(windows):
        part = x[:, :, rows.outer, columns.outer]
        inside = [min(size[0] - rows.outer.start, part.shape[2]), min(size[1] - columns.outer.start, part.shape[3])]
        nudges = _search(codec, part, level, inside, steps, lambda share, i=i: report((i + share) / len(windows)))  # type: ignore[misc]
        if len(windows) == 1:
            found = nudges
        elif not _paste(found, nudges, x, part, rows, columns):
            return []
    with torch.no_grad():
        plain, searched = (float(_loss(codec, Estimate(x, level, n), size)) for n in ([], found))
    return found if searched < plain else []


def _search(
    codec: "Codec", x: Tensor, level: Tensor, size: Sequence[int], steps: int, progress: Callable[[float], None]
) -> list[Tensor]:
    nudges: list[Tensor] = []
    encoded: list[Tensor] = []
    # Long searches in long strides learn to live off values between the integers, which are gone in the end.
    rate = min(LARGEST_RATE, TRAVEL / steps)
    with _differentiable(codec), torch.enable_grad():
        optimiser: torch.optim.Optimizer | None = None
        for step in range(steps):
            share = step / max(steps - 1, 1)
            progress(step / steps)
            loss = _loss(codec, _Search(x, level, nudges, encoded, HOT * (COLD / HOT) ** share), size)
            if len(encoded) > 1:  # looks at the picture again, with what was decoded in mind: no list of nudges fits
                return []
            if optimiser is None:
                optimiser = torch.optim.Adam(nudges, lr=rate, betas=(0.9, 0.99))
            for group in optimiser.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return [n.detach() for n in nudges]


@dataclass(frozen=True)
class _Window:
    """A stretch of rows or columns: what is searched, and the part of it that is kept."""

    outer: slice
    core: slice


def _windows(length: int) -> list[_Window]:
    if length <= WINDOW + 2 * MARGIN:
        return [_Window(slice(0, length), slice(0, length))]
    starts = range(0, length, WINDOW)
    return [
        _Window(slice(max(s - MARGIN, 0), min(s + WINDOW + MARGIN, length)), slice(s, min(s + WINDOW, length)))
        for s in starts
    ]


def _paste(found: list[Tensor], nudges: list[Tensor], x: Tensor, part: Tensor, rows: _Window, columns: _Window) -> bool:
    """Copy the kept part of a window's nudges into those of the picture; False where a site is no grid of (h, w)."""
    for i, nudge in enumerate(nudges):
        stride = _stride(part.shape[2:], nudge.shape[2:]) if nudge.ndim == 4 else 0
        if not stride:
            return False
        if i == len(found):
            found.append(nudge.new_zeros(*nudge.shape[:2], *(-(-n // stride) for n in x.shape[2:])))
        here, there = [], []
        for w in (rows, columns):
            here.append(slice((w.core.start - w.outer.start) // stride, -(-(w.core.stop - w.outer.start) // stride)))
            there.append(slice(w.core.start // stride, -(-w.core.stop // stride)))
        found[i][:, :, there[0], there[1]] = nudge[:, :, here[0], here[1]]
    return True


def _stride(size: Sequence[int], grid: Sequence[int]) -> int:
    """The power of two by which (h, w) divides (H, W), up to a border; 0: there is none that windows are made of."""
    for stride in (2**n for n in range(MARGIN.bit_length())):
        if all(-(-n // stride) == m for n, m in zip(size, grid, strict=True)):
            return stride
    return 0


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
        self.site = self.glance = 0

    def encoder(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self.glance == len(self.encoded):
            with torch.no_grad():
                self.encoded.append(function(self.x))
        self.glance += 1
        return self.encoded[self.glance - 1]

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        r = latent() - prior.centre
        if self.site == len(self.found):
            self.found.append(torch.zeros_like(r, requires_grad=True))
        q = _soft_round(r + self.found[self.site], self.temperature)
        self.site += 1
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
