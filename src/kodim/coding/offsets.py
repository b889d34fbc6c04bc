"""Values rounded to plain integers whose expected place is not an integer.

The mean-shifted rounding of :class:`~kodim.coding.priors.ScalePrior` moves the grid of values to the mean. Papers
that round to integers keep the grid and move the density instead. The whole part of the mean is then a shift of
symbols, and the fraction picks one of a few tables, so coding stays as fast.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .priors import TAIL, ScalePrior
from .tables import Indexed

WIDE = 4.0  # scales from here on do not feel a fraction of a step: it would save less than 0.004 bits


@dataclass(frozen=True)
class Offset:
    """:class:`OffsetPrior` bound to a scale index and a mean per element."""

    module: "OffsetPrior"
    scale_index: Tensor  # (B, C, h, w), as in LocationScale
    mean: Tensor

    @property
    def centre(self) -> Tensor:
        """The nearest integer, so that values stay integers."""
        return torch.floor(self.mean.detach() + 0.5)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.scale_index.shape)

    def bits(self, r: Tensor) -> Tensor:
        m = self.module
        return m.bits(r - (self.mean - self.centre), m.scale(self.scale_index))

    def distributions(self) -> Indexed:
        m = self.module
        index = torch.floor(self.scale_index + 0.5).clamp(0, m.count - 1)
        fraction = torch.floor((self.mean - self.centre + 0.5) * m.offsets).clamp(0, m.offsets - 1)
        fine = index * m.offsets + fraction
        return m.indexed(torch.where(index < m.narrow, fine, index + m.narrow * (m.offsets - 1)))


class OffsetPrior(ScalePrior):
    """Gaussian, Laplace or logistic values on the plain integers, with a real mean.

    Means are kept to 1/`offsets` of a step below a scale of 4, and to whole steps above.
    """

    def __init__(
        self,
        family: str = "gaussian",
        *,
        low: float = 0.11,
        high: float = 256.0,
        count: int = 64,
        offsets: int = 8,
    ) -> None:
        super().__init__(family, low=low, high=high, count=count)
        self.offsets = offsets
        self.narrow = min(count, math.ceil(math.log(WIDE / low) / self.step))  # scales with fractions

    def forward(self, scale_index: Tensor, mean: Tensor | None = None) -> Offset:  # type: ignore[override]
        return Offset(self, scale_index, torch.zeros_like(scale_index) if mean is None else mean)

    def masses(self) -> tuple[list[np.ndarray], list[int]]:
        masses, low = [], []
        for i in range(self.count):
            scale = torch.tensor(self.low * math.exp(i * self.step), dtype=torch.float64)
            reach = 1
            while 2 * self.cumulative((0.5 - reach - 0.5) / scale) > TAIL:
                reach = max(reach + 1, int(reach * 1.05))
            steps = self.offsets if i < self.narrow else 1
            for k in range(steps):
                edges = (torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5) - ((k + 0.5) / steps - 0.5)
                inside = np.diff(self.cumulative(edges / scale).numpy())
                masses.append(np.append(inside, max(1 - inside.sum(), 1e-12)))
                low.append(-reach)
        return masses, low
