"""Probability models of latents.

A *prior module* owns parameters and integer tables; called inside a program it gives a *bound prior*:
a distribution for every element of one latent. A bound prior answers from the same parameters to

- `centre`: the value that rounding is relative to; latents are coded as `round(v - centre)`,
- `bits(r)`: differentiable -log2 p of (noisy) residuals `r = v - centre`, for training,
- `distributions()`: the integer counts of every element, for estimate, encoder and decoder.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantizers.gains import interpolate
from ..transforms.gdn import lower_bound
from .tables import Indexed, IntegerTables

FLOOR = 1e-9  # of a training likelihood: keeps log2 finite; the coder's own floor is the escape
TAIL = 2.0**-13  # mass that tables leave to their escape
LARGEST = 4096  # symbol that is counted on its own; no table of a scale below 1000 reaches it
SMOOTHING = 100.0  # weight of the family's curve, in symbols seen, for every entry of a table


class PriorModule(nn.Module):
    """Base of prior modules: integer tables that live and die with the float parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = IntegerTables()

    def masses(self) -> tuple[list[np.ndarray], list[int]]:
        """Per table row: probability masses (escape last) and the first symbol."""
        raise NotImplementedError

    @torch.no_grad()
    def freeze(self) -> None:
        """Compute the integer tables from the present parameters."""
        self.tables.fill(*self.masses())

    def forget(self) -> None:
        """Drop the integer tables: parameters are about to move."""
        self.tables.clear()

    def indexed(self, rows: Tensor) -> Indexed:
        """The table rows (any shape) of a latent's elements, for the coder."""
        if not self.tables.ready:
            self.freeze()
        return Indexed(self.tables.rows, rows.reshape(-1).to("cpu", torch.int64).numpy())


@dataclass(frozen=True)
class Factorized:
    """:class:`FactorizedPrior` bound to a grid of positions and a level per picture."""

    module: "FactorizedPrior"
    level: Tensor  # (B,)
    grid: tuple[int, int]

    centre = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.level), self.module.channels, *self.grid

    def bits(self, r: Tensor) -> Tensor:
        log_scale = interpolate(self.module.log_scale, self.level)  # (B, C)
        return self.module.bits(r * torch.exp(-log_scale)[:, :, None, None], torch.exp(-log_scale))

    def distributions(self) -> Indexed:
        m = self.module
        step = torch.round(self.level * m.substeps).long()  # nearest tabulated level
        rows = step[:, None] * m.channels + torch.arange(m.channels, device=step.device)
        return m.indexed(rows[:, :, None, None].expand(self.shape))


class FactorizedPrior(PriorModule):
    """One learned density per channel, shared by all positions: a monotone net is its cumulative.

    The cumulative is a chain of `softplus(H) x + b` and `x + tanh(a) tanh(x)` closed by a sigmoid
    (1802.01436, appendix 6.1). With gain units the latents of level l are stretched by a factor per
    channel; the density is stretched along by `log_scale`, learned per level and channel, so every
    level's samples train the same curve. Tables exist for `substeps` points per level.

    The centre is 0: straight-through values let the transform put its modes on integers by itself.
    """

    def __init__(
        self, channels: int, levels: int = 1, *, spread: float = 0.0, substeps: int = 2, init: float = 10.0
    ) -> None:
        super().__init__()
        self.channels, self.levels, self.substeps = channels, levels, substeps
        widths = (1, 3, 3, 3, 1)
        scale = init ** (1 / (len(widths) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            start = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, fan_out, 1).uniform_(-0.5, 0.5)))
        for fan_out in widths[1:-1]:
            self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))
        log_scale = torch.linspace(-spread, spread, levels) if levels > 1 else torch.zeros(1)
        self.log_scale = nn.Parameter(log_scale[:, None].expand(levels, channels).clone(), requires_grad=levels > 1)

    def forward(self, level: Tensor, grid: tuple[int, int]) -> Factorized:
        """level (B,), grid (h, w) -> a distribution for a (B, C, h, w) latent."""
        return Factorized(self, level, grid)

    def logits(self, x: Tensor) -> Tensor:
        """Logit of the cumulative at x (C, 1, n)."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = F.softplus(matrix) @ x + bias
            if i < len(self.factors):
                x = x + torch.tanh(self.factors[i]) * torch.tanh(x)
        return x

    def bits(self, x: Tensor, width: Tensor) -> Tensor:
        """-log2 of the mass of the bins of widths (B, C) around x (B, C, h, w)."""
        flat = x.transpose(0, 1).flatten(1).unsqueeze(1)  # (C, 1, B h w)
        half = (width / 2).T[:, :, None].expand(-1, -1, x[0, 0].numel()).flatten(1).unsqueeze(1)
        lower, upper = self.logits(flat - half), self.logits(flat + half)
        sign = -torch.sign(lower + upper).detach()  # evaluate in the tail where sigmoids do not saturate
        mass = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))
        bits = -torch.log2(lower_bound(mass, FLOOR))
        return bits.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)

    def masses(self) -> tuple[list[np.ndarray], list[int]]:
        reach = 512
        edges = torch.arange(-reach, reach + 2, device=self.log_scale.device) - 0.5
        masses, low = [], []
        steps = (self.levels - 1) * self.substeps + 1
        for step in range(steps):
            level = torch.tensor([step / self.substeps], device=edges.device)
            scale = torch.exp(interpolate(self.log_scale, level))[0]  # (C,)
            cdf = torch.sigmoid(self.logits(edges / scale[:, None, None]).double())[:, 0].cpu().numpy()
            for c in cdf:
                first = int(np.searchsorted(c, TAIL / 2, side="right")) - 1
                last = int(np.searchsorted(c, 1 - TAIL / 2))
                first, last = max(min(first, len(c) - 2), 0), min(max(last, 1), len(c) - 1)
                last = max(last, first + 1)
                inside = np.diff(c[first : last + 1])
                masses.append(np.append(inside, max(1 - inside.sum(), 1e-12)))
                low.append(first - reach)
        return masses, low


@dataclass(frozen=True)
class LocationScale:
    """:class:`ScalePrior` bound to a scale index (and mean) per element."""

    module: "ScalePrior"
    scale_index: Tensor  # (B, C, h, w), real while training, multiples of 2^-10 otherwise
    mean: Tensor | None

    @property
    def centre(self) -> Tensor | float:
        return 0.0 if self.mean is None else self.mean

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.scale_index.shape)

    def bits(self, r: Tensor) -> Tensor:
        return self.module.bits(r, self.module.scale(self.scale_index))

    def distributions(self) -> Indexed:
        return self.module.indexed(torch.floor(self.scale_index + 0.5).clamp(0, self.module.count - 1))


class ScalePrior(PriorModule):
    """Gaussian, Laplace or logistic residuals whose scale is one of `count` log-spaced table entries.

    The network emits the *position in the table* (real while training), so that choosing a row takes
    one rounding and no logarithm: index i means the scale `low * (high / low)^(i / (count - 1))`.
    Defaults are those of 1802.01436: 64 Gaussians of sigma 0.11 to 256.
    """

    def __init__(
        self,
        family: str = "gaussian",
        *,
        low: float = 0.11,
        high: float = 256.0,
        count: int = 64,
        runs: bool = False,
    ) -> None:
        """`runs`: code what is all but certain in runs (:mod:`kodim.coding.tables`)."""
        super().__init__()
        self.tables.runs = runs
        self.family, self.low, self.count = family, low, count
        self.step = math.log(high / low) / (count - 1)
        self.cumulative = _CUMULATIVES[family]
        self.seen: np.ndarray | None = None  # (count, 2 LARGEST + 1) how often each symbol came with each row

    def forward(self, scale_index: Tensor, mean: Tensor | None = None) -> LocationScale:
        return LocationScale(self, scale_index, mean)

    def scale(self, index: Tensor) -> Tensor:
        """Table position -> scale; positions outside the table count as its ends."""
        bounded = -lower_bound(-lower_bound(index, 0.0), float(1 - self.count))
        return self.low * torch.exp(bounded * self.step)

    def bits(self, r: Tensor, scale: Tensor) -> Tensor:
        r = -r.abs()  # the lower tail is where the cumulative is accurate
        mass = self.cumulative((r + 0.5) / scale) - self.cumulative((r - 0.5) / scale)
        return -torch.log2(lower_bound(mass, FLOOR))

    def forget(self) -> None:
        super().forget()
        self.seen = None

    def watch(self, distributions: Indexed, symbols: Tensor) -> None:
        """Count symbols (any shape) beside their rows; tables frozen later follow what was seen."""
        if self.seen is None:
            self.seen = np.zeros((self.count, 2 * LARGEST + 1))
        column = symbols.reshape(-1).long().clamp(-LARGEST, LARGEST).cpu().numpy() + LARGEST
        np.add.at(self.seen, (distributions.rows, column), 1)

    def masses(self) -> tuple[list[np.ndarray], list[int]]:
        """Those of the family, or, where symbols were counted, of the counts: symmetric, smoothed by the family."""
        masses, low = self._model()
        if self.seen is not None:
            for row, (mass, first, seen) in enumerate(zip(masses, low, self.seen, strict=True)):
                both = seen + seen[::-1]
                inside = both[LARGEST + first : LARGEST - first + 1]
                counted = np.append(inside, both.sum() - inside.sum()) / 2
                masses[row] = counted + SMOOTHING * len(mass) * mass
        return masses, low

    def _model(self) -> tuple[list[np.ndarray], list[int]]:
        masses, low = [], []
        for i in range(self.count):
            scale = torch.tensor(self.low * math.exp(i * self.step), dtype=torch.float64)
            reach = 1
            while 2 * self.cumulative((-reach - 0.5) / scale) > TAIL:
                reach = max(reach + 1, int(reach * 1.05))
            edges = (torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5) / scale
            inside = np.diff(self.cumulative(edges).numpy())
            masses.append(np.append(inside, max(1 - inside.sum(), 1e-12)))
            low.append(-reach)
        return masses, low


def _gaussian(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x * 2**-0.5)


def _laplace(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.5 * torch.exp(x.clamp_max(0)), 1 - 0.5 * torch.exp(-x.clamp_min(0)))


_CUMULATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian": _gaussian,
    "laplace": _laplace,
    "logistic": torch.sigmoid,
}
