"""A context in four passes over 2x2 cells: each place of the cell sees whatever neighbours are already there.

After the checkerboard of D. He et al. (CVPR 2021, arXiv 2103.15306) with twice its passes: the first place of a cell
sees nothing, the second one its diagonal neighbours, the third one those beside and above it, the last one all eight.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.sites import BoundPrior, Code
from ..coding.wavefront import in_steps
from .raster import ExactContext, Matrix, _chain, _dense, _matrix, joining

PLACES = ((0, 0), (1, 1), (0, 1), (1, 0))  # (row, column) in the cell, in coding order
NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
OTHERS = [0, 1, 2, 3, 5, 6, 7, 8]  # of a 3x3 window, all but its centre


class QuadContext(ExactContext):
    """A convolution over the eight neighbours, joined with side information by 1x1 layers.

    Args:
        channels: C of the latent.
        side: channels of the side information.
        context: outputs of the convolution, of which every pass has its own.
        hidden: widths of the joining network.
        outputs: channels of the parameters that it emits.
    """

    def __init__(self, channels: int, side: int, context: int, hidden: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.randn(len(PLACES) * context, channels, 1, 8) * (8 * channels) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(len(PLACES), context))
        self.join = joining(side + context, *hidden, outputs)
        for p in self.join[-1].parameters():  # starts by saying the same everywhere
            nn.init.zeros_(p)

    def forward(
        self,
        code: Code,
        name: str,
        side: Tensor,
        bind: Callable[[Tensor], BoundPrior],
        latent: Callable[[], Tensor],
    ) -> Tensor:
        """Code the latent (B, C, h, w), of any size, at the site `name`, given side information (B, S, h, w).

        `bind` makes a prior of the parameters (B, outputs, ..). While training all passes are done at once, on the
        handler's stand-in for decoded values.
        """
        if self.training:
            return code(name, bind(self._at_once(code.preview(latent()), side)), latent)
        with torch.no_grad(), torch.autocast(side.device.type, enabled=False):
            steps = _passes(*side.shape[2:])
            return in_steps(code, name, side, self.channels, steps, NEIGHBOURS, self._predict, bind, latent)

    def _at_once(self, values: Tensor, side: Tensor) -> Tensor:
        """(B, C, h, w), (B, S, h, w) -> parameters (B, outputs, h, w)."""
        h, w = values.shape[2:]
        around = F.unfold(values, 3, padding=1).unflatten(1, (-1, 9))  # (B, C, 9, h w)
        around, known = around[:, :, OTHERS], side.flatten(2)
        parts = []
        for i, ((row, column), at) in enumerate(zip(PLACES, _passes(h, w), strict=True)):
            if not len(at):  # grids of one row or column have no such place
                continue
            there = torch.tensor([PLACES.index(((row + dy) % 2, (column + dx) % 2)) < i for dy, dx in NEIGHBOURS])
            near = around[..., at] * there.to(values)[:, None]
            context = torch.einsum("bctn,oct->bon", near, self._taps(i)) + self.bias[i][:, None]
            parts.append(self.join(torch.cat((known[..., at], context), 1).unsqueeze(3)))
        order = torch.cat(_passes(h, w)).argsort()
        return torch.cat(parts, 2)[:, :, order].view(len(values), -1, h, w)

    def _predict(self, i: int, neighbours: Tensor, side: Tensor) -> Tensor:
        """Integers of pass i: (B, n, 8 C), (B, n, S) -> (B, n, outputs)."""
        layers = self._integers()
        return _chain(torch.cat((side, _dense(neighbours, layers[i])), 2), layers[len(PLACES) :])

    def _taps(self, i: int) -> Tensor:
        """The convolution of pass i, (context, channels, 8)."""
        return self.weight[:, :, 0].chunk(len(PLACES))[i]

    def _matrices(self) -> list[Matrix]:
        layers = [m for m in self.join if isinstance(m, nn.Conv2d)]
        return [
            *(_matrix(self._taps(i).transpose(1, 2).flatten(1), self.bias[i]) for i in range(len(PLACES))),
            *(_matrix(layer.weight.flatten(1), layer.bias) for layer in layers),  # type: ignore[arg-type]
        ]


def _passes(h: int, w: int) -> list[Tensor]:
    """The positions y * w + x of each pass."""
    grid = torch.arange(h * w).view(h, w)
    return [grid[row::2, column::2].flatten() for row, column in PLACES]
