"""Small blocks that several systems are built of."""

from torch import Tensor, nn

from ..coding.exact import ExactSequential


class ResidualBlock(nn.Module):
    """`x + conv3x3(relu(conv3x3(x)))`, the second starting at zero: (B, C, h, w) -> same.

    Args:
        channels: C.
        hidden: channels between the two; C if not given. 0: C, and neither mixes channels.
        exact: outside training in exact integers (:mod:`kodim.coding.exact`).
        slope: of the rectifier below 0.
    """

    def __init__(self, channels: int, hidden: int | None = None, *, exact: bool = False, slope: float = 0.0) -> None:
        super().__init__()
        groups, hidden = channels if hidden == 0 else 1, hidden or channels
        first = nn.Conv2d(channels, hidden, 3, padding=1, groups=groups)
        last = nn.Conv2d(hidden, channels, 3, padding=1, groups=groups)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        layers = (first, nn.LeakyReLU(slope) if slope else nn.ReLU(), last)
        self.layers = ExactSequential(*layers) if exact else nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
