"""Scalar quantisation: what stands in for rounding while training, and rounding itself."""

import torch
from torch import Tensor


def noisy(x: Tensor) -> Tensor:
    """`x + U(-1/2, 1/2)`: the differentiable stand-in whose density is the rounded value's (1611.01704, section 3)."""
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


def straight_through(x: Tensor) -> Tensor:
    """`round(x)` with the gradient of the identity."""
    return x + (x.round() - x).detach()
