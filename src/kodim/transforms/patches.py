"""Transforms of large pictures patch by patch: the same numbers, from memory that is at hand already."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def in_patches(
    function: Callable[[Tensor], Tensor], x: Tensor, *, side: int, halo: int, unit: int = 1, stride: float
) -> Tensor:
    """`function` of x (B, C, h, w), computed on patches that overlap: as of the whole, up to rounding.

    Fresh memory for features of tens of megabytes is what costs most in a large picture. Where gradients are wanted
    the function gets the whole.

    Args:
        function: (B, C, h, w) -> (B, D, h / stride, w / stride); no result depends on more than `halo` around it.
        side: of a patch, at most, without what it overlaps.
        unit: patches start at multiples of it.
    """
    if torch.is_grad_enabled() or max(x.shape[2:]) <= side + halo:
        return function(x)
    out: Tensor | None = None
    for top, bottom in _cuts(x.shape[2], side, unit):
        for left, right in _cuts(x.shape[3], side, unit):
            above, before = min(halo, top), min(halo, left)
            part = function(x[:, :, top - above : bottom + halo, left - before : right + halo])
            rows, columns = (slice(round(a / stride), round(b / stride)) for a, b in ((top, bottom), (left, right)))
            if out is None:
                out = part.new_empty(*part.shape[:2], *(round(n / stride) for n in x.shape[2:]))
            goal = out[:, :, rows, columns]
            part = part[:, :, round(above / stride) :, round(before / stride) :]
            goal.copy_(part[:, :, : goal.shape[2], : goal.shape[3]])
    assert out is not None
    return out


def _cuts(length: int, side: int, unit: int) -> list[tuple[int, int]]:
    """Even parts of 0..length, none longer than `side`, from multiples of `unit` on."""
    count = -(-length // side)
    marks = [length * i // count // unit * unit for i in range(count)] + [length]
    return list(pairwise(marks))
