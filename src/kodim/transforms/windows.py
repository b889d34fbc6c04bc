"""Tiles that are predicted from the tiles around them: the part of a picture that a decoder has, and windows of it.

A window is twice the side of a tile and has the tile in its lower right; the other three quarters hold what is above
and to the left, as far as it is decoded. Tiles of equal x + y are independent and are done together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .start import _dct

TILE = 32
STEPS = (0.01, 0.3)  # of the quantiser that makes a picture look decoded, for pixels in [0, 1]


def split(x: Tensor) -> Tensor:
    """(B, C, H, W) -> tiles (B, n, C, 32, 32) in raster order."""
    b, c, h, w = x.shape
    tiles = x.reshape(b, c, h // TILE, TILE, w // TILE, TILE).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(b, -1, c, TILE, TILE)


def join(tiles: Tensor, rows: int) -> Tensor:
    """The inverse of :func:`split`, for a picture of `rows` rows of tiles."""
    b, n, c, _, _ = tiles.shape
    x = tiles.reshape(b, rows, n // rows, c, TILE, TILE).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, c, rows * TILE, -1)


class Canvas:
    """What of a picture is decoded, with a channel that says where.

    Args:
        batch, rows, columns: pictures, and the tiles of each.
        like: has the device and the type.
    """

    def __init__(self, batch: int, rows: int, columns: int, like: Tensor) -> None:
        self.rows, self.columns = rows, columns
        self.values = like.new_zeros(batch, 4, (rows + 1) * TILE, (columns + 1) * TILE)

    def place(self, front: Tensor, tiles: Tensor) -> None:
        """Put tiles (B, n, 3, 32, 32), centred pixels, where the indices `front` (n,) say."""
        for i, (y, x) in enumerate(self._corners(front)):
            area = self.values[:, :, y + TILE : y + 2 * TILE, x + TILE : x + 2 * TILE]
            area[:, :3], area[:, 3] = tiles[:, i], 1

    def windows(self, front: Tensor) -> Tensor:
        """(B, n, 4, 64, 64): pixels and mask around the tiles of `front`, whose own quarters are 0."""
        size = 2 * TILE
        found = torch.stack([self.values[:, :, y : y + size, x : x + size] for y, x in self._corners(front)], 1)
        found[..., TILE:, TILE:] = 0
        return found

    def _corners(self, front: Tensor) -> list[tuple[int, int]]:
        return [(TILE * (i // self.columns), TILE * (i % self.columns)) for i in front.tolist()]


def as_decoded(x: Tensor) -> Tensor:
    """Centred pixels as a file gives them: clipped and rounded to 8 bits, the same for encoder and decoder."""
    return torch.round((x.detach() + 0.5).clamp(0, 1) * 255) / 255 - 0.5


@torch.no_grad()
def degrade(x: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as a coarse codec leaves them: 8x8 DCTs, rounded with a random step each.

    A stand-in for decoded neighbours in training, when all tiles are done at once.
    """
    b, c, h, w = x.shape
    block = _dct(8).to(x)
    patterns = torch.einsum("ui,vj->uvij", block, block).reshape(64, 1, 8, 8)
    low, high = STEPS
    step = low * (high / low) ** torch.rand(b, 1, 1, 1, device=x.device)
    coefficients = F.conv2d(x.reshape(b * c, 1, h, w), patterns, stride=8).reshape(b, -1, h // 8, w // 8)
    coarse = torch.round(coefficients / step) * step
    out = F.conv_transpose2d(coarse.reshape(b * c, 64, h // 8, w // 8), patterns, stride=8)
    return out.reshape(b, c, h, w).clamp(0, 1)
