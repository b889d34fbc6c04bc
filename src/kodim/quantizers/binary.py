"""Binary codes: a decision per value, and what stands in for it while training (1511.06085, section 3.1)."""

import torch
from torch import Tensor


def decide(u: Tensor) -> Tensor:
    """+1 where u >= 0, -1 elsewhere; there is no third value, not even for 0. Without gradient."""
    return torch.where(u.detach() >= 0, 1.0, -1.0).to(u.dtype)


def binarize(u: Tensor, *, stochastic: bool) -> Tensor:
    """Values within +-1 -> +-1, with the gradient of the identity.

    `stochastic`: +1 with probability (1 + u) / 2, so that the mean of what is sent is u; otherwise :func:`decide`.
    """
    if not stochastic:
        return u + (decide(u) - u).detach()
    b = torch.where(torch.rand_like(u) * 2 < 1 + u.detach(), 1.0, -1.0).to(u.dtype)
    return u + (b - u).detach()
