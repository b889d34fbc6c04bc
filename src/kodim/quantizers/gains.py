"""Gain units: one set of weights for every rate (Cui et al. 2021, arXiv 2003.02012)."""

import math

import torch
from torch import Tensor, nn


class Gain(nn.Module):
    """Per-channel quantisation steps for `levels` rates, with a matching inverse for the synthesis.

    A level may be any real number in [0, levels - 1]: between two trained levels the vectors are
    interpolated exponentially, `g = g_l^(1-t) * g_(l+1)^t`. One level means a fixed-rate model: the
    gains are then the constant 1, as in the papers that train one model per lambda.

    Args:
        channels: C of the latents.
        levels: number of trained rates.
        low, high: gains of the first and the last level at the start.
    """

    def __init__(self, channels: int, levels: int, low: float = 4.0, high: float = 40.0) -> None:
        super().__init__()
        self.levels = levels
        start = torch.linspace(math.log(low), math.log(high), levels) if levels > 1 else torch.zeros(1)
        log_gain = start[:, None].expand(levels, channels).clone()
        self.log_gain = nn.Parameter(log_gain, requires_grad=levels > 1)
        self.log_inverse = nn.Parameter(-log_gain, requires_grad=levels > 1)

    def forward(self, level: Tensor) -> Tensor:
        """level (B,) -> gain (B, C, 1, 1), to multiply the latents with."""
        return interpolate(self.log_gain, level).exp()[:, :, None, None]

    def inverse(self, level: Tensor) -> Tensor:
        """level (B,) -> inverse gain (B, C, 1, 1), to multiply the decoded latents with."""
        return interpolate(self.log_inverse, level).exp()[:, :, None, None]


def interpolate(rows: Tensor, level: Tensor) -> Tensor:
    """Linear interpolation between the rows of a (levels, C) tensor at real row numbers (B,) -> (B, C)."""
    below = level.floor().clamp(0, max(len(rows) - 2, 0)).long()
    above = (below + 1).clamp_max(len(rows) - 1)
    t = (level - below)[:, None].to(rows.dtype)
    return rows[below] * (1 - t) + rows[above] * t
