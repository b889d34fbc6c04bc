"""Attention over channels and places, the "hybrid domain" of CBAM-like modules."""

import torch
from torch import Tensor, nn

from ..coding.exact import ACTIVATION_BITS, CLAMP, ExactSequential, _round
from .blocks import ResidualBlock

LIMIT = CLAMP * 2.0**-ACTIVATION_BITS


class HybridAttention(nn.Module):
    """`x + strength * u * channel gate * spatial gate`, u two residual blocks on x: (B, C, h, w) -> same.

    The channel gate looks at the mean and the maximum of each channel, the spatial gate at those over the channels of
    each place. Pooling is over all there is, so in a tiled picture each tile is seen alone, on both sides.

    Args:
        channels: C.
        hidden: width of the residual blocks.
        reduction: of the network between pooled channels and their gates.
        start: of `strength` (C, 1, 1), which is learned; 0 leaves x alone at first.
        exact: outside training in exact integers, for a network that picks probabilities; gates are then piecewise
            linear, and x must consist of multiples of 2^-10.
    """

    def __init__(self, channels: int, hidden: int, *, reduction: int = 16, start: float = 1.0, exact: bool = False):
        super().__init__()
        self.exact = exact
        sequential = ExactSequential if exact else nn.Sequential
        narrow = max(channels // reduction, 4)
        self.blocks = nn.Sequential(*(ResidualBlock(channels, hidden, exact=exact) for _ in range(2)))
        self.channel = sequential(nn.Conv2d(channels, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, channels, 1))
        self.spatial = sequential(nn.Conv2d(2, 1, 7, padding=3))
        self.strength = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, x: Tensor) -> Tensor:
        u = self.blocks(x.double() if self._fixed else x)  # products of three integers need more than 24 bits
        channel, spatial = self.gates(u)
        change = self._round(u * channel * spatial) * self._round(self.strength)
        return x + self._round(change).clamp(-LIMIT, LIMIT).to(x.dtype)

    @property
    def _fixed(self) -> bool:
        return self.exact and not self.training

    def gates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Of u (B, C, h, w): the channel gates (B, C, 1, 1) and the spatial gate (B, 1, h, w), both within 0..1."""
        mean, peak = self._mean(u, (2, 3)), u.amax((2, 3), keepdim=True)
        channel = self._gate(self.channel(mean) + self.channel(peak))
        places = torch.cat((self._mean(u, (1,)), u.amax(1, keepdim=True)), 1)
        return channel, self._gate(self.spatial(places))

    def _gate(self, logit: Tensor) -> Tensor:
        # The piecewise linear gate has the slope of the sigmoid at 0.
        return self._round((0.25 * logit + 0.5).clamp(0, 1)) if self.exact else torch.sigmoid(logit)

    def _mean(self, u: Tensor, dims: tuple[int, ...]) -> Tensor:
        """The mean; if exact, one division of a sum of integers, which no order of summation changes."""
        if not self._fixed:
            return u.mean(dims, keepdim=True)
        total = u.sum(dims, keepdim=True)
        return self._round(total / (u.numel() // total.numel()))

    def _round(self, x: Tensor) -> Tensor:
        """To multiples of 2^-10, if exact."""
        return _round(x.double() * 2.0**ACTIVATION_BITS) * 2.0**-ACTIVATION_BITS if self._fixed else x
