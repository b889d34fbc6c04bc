"""A decoder that also uses what its entropy model knows (2002.03711, "information aggregation")."""

import torch
from torch import Tensor, nn

from .pyramid import up


class Aggregation(nn.Module):
    """Features at 1/2 and those of the hyper-prior, (B, N, H/2, W/2) and (B, S, H/16, W/16) -> (B, 3, H, W).

    Args:
        features: N.
        side: S.
        width: of the branch that brings the latter up to the former.
        tail: widths of the last two layers before the picture.
        correction: start with a picture of zeros, to be added to another one.
    """

    def __init__(self, features: int, side: int, width: int, tail: tuple[int, int], *, correction: bool) -> None:
        super().__init__()
        both, (wide, narrow) = features + width, tail
        self.side = nn.Sequential(
            up(side, width), up(width, width), nn.LeakyReLU(0.2), up(width, width), nn.LeakyReLU(0.2)
        )
        self.mix = nn.Sequential(
            nn.Conv2d(both, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, both, 3, padding=1),
        )
        self.tail = nn.Sequential(
            up(both, wide), nn.Conv2d(wide, narrow, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(narrow, 3, 1)
        )
        if correction:
            nn.init.zeros_(self.tail[-1].weight)  # type: ignore[arg-type]
        nn.init.constant_(self.tail[-1].bias, 0.0 if correction else 0.5)  # type: ignore[arg-type]

    def forward(self, features: Tensor, side: Tensor) -> Tensor:
        x = torch.cat((features, self.side(side)), 1)
        return self.tail(x + self.mix(x))
