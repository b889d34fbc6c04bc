"""The analysis network: from a picture to a first guess of all latents. The decoder never sees it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantizers.gains import interpolate
from .pyramid import GRIDS, LEVELS

WIDTHS = (32, 48, 64, 64, 64, 64)  # features at 1/2, 1/4, .. 1/64 of the resolution


class Stage(nn.Module):
    """(B, in, h, w) -> (B, C, h, w), or half that size; features are stretched as the rate level wants."""

    def __init__(self, c_in: int, channels: int, levels: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(c_in, channels, 3, stride, 1)
        self.log_gain = nn.Parameter(torch.zeros(levels, channels))
        self.inside = nn.Conv2d(channels, channels, 3, 1, 1)
        nn.init.zeros_(self.inside.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        x = F.silu(self.enter(x) * interpolate(self.log_gain, level).exp()[:, :, None, None])
        return x + self.inside(x)


class Analysis(nn.Module):
    """Picture (B, 3, H, W) in [0, 1], sides multiples of 64 -> one (B, 1, h, w) latent for each of `GRIDS`."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        fans = (12, *WIDTHS)
        self.stages = nn.ModuleList(
            Stage(fan, width, levels, 1 if i == 0 else 2)
            for i, (fan, width) in enumerate(zip(fans, WIDTHS, strict=False))
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(WIDTHS[0], 4, 3, 1, 1) if i == 0 else nn.Conv2d(WIDTHS[i - 1], 2 if i >= 4 else 1, 3, 1, 1)
            for i in range(LEVELS)
        )
        self.log_gain = nn.Parameter(torch.linspace(0.0, 2.0, levels)[:, None].repeat(1, len(GRIDS)))

    def forward(self, x: Tensor, level: Tensor) -> list[Tensor]:
        x = F.pixel_unshuffle(4 * x - 2, 2)
        grids: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            x = stage(x, level)
            if i == 0:
                grids.append(F.pixel_shuffle(self.heads[0](x), 2))
            grids += self.heads[i + 1](x).float().chunk(2 if i + 1 >= 4 else 1, 1)
        gains = interpolate(self.log_gain, level).exp()
        return [g.float() * gains[:, i, None, None, None] for i, g in enumerate(grids)]
