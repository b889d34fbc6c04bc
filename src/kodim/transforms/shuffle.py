"""Hyper transforms without strided convolutions: pixels move into channels and back (2002.03711, section 4)."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..coding.exact import ExactSequential
from .pyramid import down  # a convolution that preserves the variance: of shrinking ones the latents round to zero


def shuffle_down(c_in: int, width: int, hidden: int, c_out: int) -> nn.Sequential:
    """(B, c_in, h, w) -> (B, c_out, h/2, w/2): a 3x3 layer to `width`, space to depth, a network of 1x1 layers."""
    return nn.Sequential(
        down(c_in, width, 3, 1),
        nn.PixelUnshuffle(2),
        down(4 * width, hidden, 1, 1),
        nn.ReLU(),
        down(hidden, hidden, 1, 1),
        nn.ReLU(),
        down(hidden, c_out, 1, 1),
    )


def shuffle_up(c_in: int, hidden: int, width: int, c_out: int) -> ExactSequential:
    """The mirror of :func:`shuffle_down`, exact outside training: (B, c_in, h, w) -> (B, c_out, 2 h, 2 w)."""
    return ExactSequential(
        down(c_in, hidden, 1, 1),
        down(hidden, hidden, 1, 1),
        nn.ReLU(),
        down(hidden, 4 * width, 1, 1),
        nn.ReLU(),
        nn.PixelShuffle(2),
        down(width, c_out, 3, 1),
    )


class PatchPredictor(ExactSequential):
    """A network on the 5x5 patch around each position, zero outside the patch: (B, C, h, w) -> (B, outputs, h, w).

    Nothing is shared between patches, so it costs 25 times what a convolution of the same layers would.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, 2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, outputs, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        columns = nn.functional.unfold(x, 5, padding=2)  # (B, 25 C, h w)
        patches = columns.transpose(1, 2).reshape(b * h * w, c, 5, 5)
        return super().forward(patches).view(b, h * w, -1).transpose(1, 2).reshape(b, -1, h, w)


def convolutional_predictor(channels: int, widths: Sequence[int], outputs: int) -> ExactSequential:
    """The same field of view in two 3x3 layers and a 1x1 layer, shared between positions as convolutions are."""
    first, second = widths
    return ExactSequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(second, outputs, 1),
    )
