"""Serial contexts in few steps: positions that cannot see one another are coded together.

A causal mask of radius r lets a position see r rows above it, r columns to either side there, and r columns
to the left in its own row. Two positions with equal x + (r + 1) y are then independent, so a raster scan over
w x h positions takes w + (r + 1)(h - 1) steps, its fronts, instead of w h. For r = 2 (a 5x5 mask) the front of
each position is::

    0  1  2  3  4  5
    3  4  5  6  7  8
    6  7  8  9 10 11

(A window that reaches r columns to the right takes the same fronts, however far it reaches otherwise.)
Every handler walks the same fronts in eval mode, the encoder and the estimate too: with mean-shifted rounding,
`round(y - mean) + mean`, a value depends on the mean at its place, the mean on the values before it. All numbers
are integers on the grid of :mod:`kodim.coding.exact`, so nothing depends on how positions are batched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .exact import ACTIVATION_BITS, CLAMP, _round
from .sites import BoundPrior, Code


@dataclass(frozen=True)
class Window:
    """What a position sees: `up` rows above it from `left` columns before to `right` behind, and `left` before it."""

    up: int
    left: int
    right: int

    @property
    def taps(self) -> int:
        return self.up * (self.left + 1 + self.right) + self.left

    @property
    def near(self) -> list[tuple[int, int]]:
        """(dy, dx) of every neighbour, in raster order."""
        rows, columns = range(-self.up, 1), range(-self.left, self.right + 1)
        return [(dy, dx) for dy in rows for dx in columns][: self.taps]


def mask(radius: int) -> Window:
    """The causal part of a square kernel: radius 2 for a 5x5 one."""
    return Window(radius, radius, radius)


def causal_taps(radius: int) -> int:
    """Positions that a causal mask sees: 12 for a 5x5 one."""
    return mask(radius).taps


def fronts(height: int, width: int, window: int | Window = 2) -> list[Tensor]:
    """The independent sets of an (h, w) grid in coding order, each the sorted indices y * w + x (int64)."""
    right = window if isinstance(window, int) else window.right
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    step = (x + (right + 1) * y).flatten()
    order = torch.argsort(step, stable=True)
    return [front for front in order.split(torch.bincount(step).tolist()) if len(front)]


def to_grid(x: Tensor) -> Tensor:
    """Integers as exact networks carry them: x in units of 2^-10, within +-2^20, in float64."""
    return _round(x.double() * 2.0**ACTIVATION_BITS).clamp(-CLAMP, CLAMP)


def wavefront(
    code: Code,
    name: str,
    side: Tensor,
    channels: int,
    predict: Callable[[Tensor, Tensor], Tensor],
    bind: Callable[[Tensor], BoundPrior],
    latent: Callable[[], Tensor],
    window: int | Window = 2,
) -> Tensor:
    """Code a latent (B, channels, h, w) front by front, each from what came before; returns the decoded values.

    Args:
        side: (B, S, h, w) what is known beforehand, in multiples of 2^-10.
        predict: exact; neighbours (B, n, taps * channels), tap by tap in raster order and zero outside, and side
            (B, n, S), both on the integer grid of :func:`to_grid` -> parameters (B, n, P) on that grid.
        bind: parameters (B, P, n, 1) -> the prior of a (B, channels, n, 1) part of the latent.
        latent: (B, channels, h, w), never called by the decoder.
        window: what a position sees, or the radius of a square mask.
    """
    h, w = side.shape[2:]
    window = mask(window) if isinstance(window, int) else window
    steps = fronts(h, w, window)
    return in_steps(code, name, side, channels, steps, window.near, lambda _, *seen: predict(*seen), bind, latent)


def in_steps(
    code: Code,
    name: str,
    side: Tensor,
    channels: int,
    steps: Sequence[Tensor],
    near: Sequence[tuple[int, int]],
    predict: Callable[[int, Tensor, Tensor], Tensor],
    bind: Callable[[Tensor], BoundPrior],
    latent: Callable[[], Tensor],
) -> Tensor:
    """The same in any order: `steps` are the sets of positions y * w + x, `near` the (dy, dx) that each may see.

    `predict` is also told the number of the step; neighbours that are not decoded yet are zero.
    """
    b, _, h, w = side.shape
    known = to_grid(side).flatten(2).transpose(1, 2).contiguous()  # (B, h w, S)
    decoded = side.new_zeros(b, h * w, channels)
    place, taps, size = _canvas_indices(h, w, near, side.device)
    canvas = known.new_zeros(b, size, channels)  # decoded, with a border of zeros
    with code.serial(latent) as whole:
        values = cache(lambda: whole().flatten(2).transpose(1, 2).contiguous())  # never called by the decoder
        for step, front in enumerate(steps):
            if not len(front):
                continue
            front = front.to(side.device)
            at = place[front]
            neighbours = canvas.index_select(1, (at[:, None] + taps).flatten()).view(b, len(front), -1)
            parameters = predict(step, neighbours, known.index_select(1, front)) * 2.0**-ACTIVATION_BITS
            code.part = front, (h, w)
            prior = bind(_to_columns(parameters).to(side.dtype))
            y_hat = code(name, prior, lambda front=front: _to_columns(values()[:, front]))  # type: ignore[misc]
            y_hat = y_hat[..., 0].transpose(1, 2)
            decoded.index_copy_(1, front, y_hat.to(decoded.dtype))
            canvas.index_copy_(1, at, to_grid(y_hat))
    return decoded.transpose(1, 2).reshape(b, channels, h, w).contiguous()


def _to_columns(x: Tensor) -> Tensor:
    """(B, n, C) -> (B, C, n, 1), the shape of a latent."""
    return x.transpose(1, 2).unsqueeze(3).contiguous()


def _canvas_indices(
    h: int, w: int, near: Sequence[tuple[int, int]], device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """Where each position lies on the bordered canvas, the offsets of its neighbours, and the size of the canvas."""
    up, left, down, right = (max([0, *(sign * n[axis] for n in near)]) for sign in (-1, 1) for axis in (0, 1))
    stride = w + left + right
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = (y + up) * stride + x + left
    taps = torch.tensor([dy * stride + dx for dy, dx in near])
    return place.flatten().to(device), taps.to(device), (h + up + down) * stride
