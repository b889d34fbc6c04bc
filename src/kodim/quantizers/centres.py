"""Scalar quantisation to learned centres (1801.04260, section 3.1; after 1704.00648)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Centres(nn.Module):
    """A few values that all symbols share; the nearest one stands for a number.

    Args:
        start: the values they start with, ascending.
    """

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(start))

    def nearest(self, z: Tensor) -> Tensor:
        """Numbers of any shape -> the indices of their centres, as floats."""
        return (z.detach().unsqueeze(-1) - self.values.detach()).abs().argmin(-1).to(z.dtype)

    def at(self, symbols: Tensor) -> Tensor:
        """Indices (as floats) -> centres."""
        return self.values[symbols.long().clamp(0, len(self.values) - 1)]

    def soft(self, z: Tensor, symbols: Tensor) -> Tensor:
        """The centres of `symbols`, with the gradient of the softmax-weighted mean of all centres around z."""
        weights = torch.softmax(-(z.unsqueeze(-1) - self.values).square(), -1)
        soft = (weights * self.values).sum(-1)
        return soft + (self.at(symbols) - soft).detach()
