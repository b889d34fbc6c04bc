"""Scalar quantisation: what stands in for rounding while training, and rounding itself."""

from collections.abc import Callable

import torch
from torch import Tensor


def noisy(x: Tensor) -> Tensor:
    """`x + U(-1/2, 1/2)`: the differentiable stand-in whose density is the rounded value's (1611.01704, section 3)."""
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


def straight_through(x: Tensor) -> Tensor:
    """`round(x)` with the gradient of the identity."""
    return x + (x.round() - x).detach()


def rate_aware(x: Tensor, bits: Callable[[Tensor], Tensor], weight: float) -> Tensor:
    """Of the nearest integer and its neighbour towards 0, the one with less `weight * error^2 + bits`.

    The rate-distortion optimised quantisation of video coders, for one value at a time. At high rate the best
    uniform step makes a squared error of one step worth 6 / ln 2 = 8.7 bits; what `weight` pays best is measured
    (`benchmarks/effort.py`).
    """
    nearest = torch.round(x)
    smaller = nearest - torch.sign(nearest)
    gain = bits(nearest) - bits(smaller)
    return torch.where(weight * ((x - smaller).square() - (x - nearest).square()) < gain, smaller, nearest)
