"""Mixtures, categories and bits: priors whose every element has probabilities of its own.

The priors of :mod:`kodim.coding.priors` pick one of a few stored tables. Here a network emits logits, means and
scales per element, so the counts of every element are worked out while coding. They are worked out in
integers only: networks hand over multiples of 2^-10, and the few curves needed (exp, the reciprocal of a
scale, the standard cumulatives) are stored with the weights as integer lookup tables. No float decides a count.

Fixed point: parameters 2^-10; distance over scale 2^-18; weights of a mixture 2^-16; exp and cumulatives 2^-24.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..transforms.gdn import lower_bound
from .exact import ACTIVATION_BITS, CLAMP
from .priors import _CUMULATIVES, FLOOR, PriorModule
from .tables import PRECISION, TOTAL, Individual

BITS = 24  # of exp and of the cumulatives
ONE = 1 << BITS
POSITION_BITS = 18  # of a distance in units of its scale
POSITION_LIMIT = 1 << 30  # distances saturate here, so that a window's sums fit int32
KNOT_BITS = 7
KNOTS = 1 << KNOT_BITS  # knots of a cumulative per unit of its scale; linear in between, wrong by 2^-19 at most
REACH = 16  # cumulatives are tabulated over +-16 scales, where all of them have come to 0 and 1
SUBSTEPS = 8  # scales between two entries of a ScalePrior
EXP_REACH = 18  # exp(-18) rounds to 0
MAX_RISE = 1 << 18  # between two knots, so that interpolation fits int32; a Laplacian has 2^16
UNIT = 1 << ACTIVATION_BITS  # 1 as a parameter
CHUNK = 1 << 17  # counts worked on at once, to stay in the cache

Curve = tuple[np.ndarray, np.ndarray]  # a cumulative: its knots and the rise from each to the next


class LookupTables(nn.Module):
    """Integer curves, each monotone: what :class:`~kodim.coding.tables.IntegerTables` is to the other priors.

    Buffer: `values` (sum of lengths,) int32.

    Args:
        falling: (length, first value) of curves that fall towards 0.
        rising: lengths of the curves behind them, cumulatives that rise from 0 to 2^24.
    """

    values: Tensor

    def __init__(self, falling: list[tuple[int, int]], rising: list[int]) -> None:
        super().__init__()
        self.falling, self.rising = falling, rising
        self.register_buffer("values", torch.zeros(0, dtype=torch.int32))

    @property
    def ready(self) -> bool:
        return self.values.numel() > 0

    def clear(self) -> None:
        self.values = self.values.new_zeros(0)
        self._forget()

    def fill(self, curves: list[np.ndarray]) -> None:
        """Keep float curves, rounded to integers."""
        self.values = torch.as_tensor(np.rint(np.concatenate(curves)), dtype=torch.int32, device=self.values.device)
        self._forget()

    def _load_from_state_dict(self, state, prefix, *args) -> None:  # type: ignore[no-untyped-def]
        if prefix + "values" in state:  # nothing before the first freeze
            self.values = torch.empty_like(state[prefix + "values"])
        self._forget()
        super()._load_from_state_dict(state, prefix, *args)

    def _forget(self) -> None:
        for name in ("curves", "knots"):
            self.__dict__.pop(name, None)

    def _split(self) -> list[np.ndarray]:
        lengths = [length for length, _ in self.falling] + self.rising
        return np.split(self.values.cpu().numpy().astype(np.int64), np.cumsum(lengths)[:-1])

    def check(self) -> bool:
        """Whether proper counts follow for any parameters (weights files come from anywhere)."""
        if self.values.shape != (sum(length for length, _ in self.falling) + sum(self.rising),):
            return False
        curves = self._split()
        for curve, (_, first) in zip(curves, self.falling, strict=False):
            if curve[0] != first or curve[-1] < 0 or (np.diff(curve) > 0).any():
                return False
        for curve in curves[len(self.falling) :]:
            rise = np.diff(curve)
            if curve[0] != 0 or curve[-1] != ONE or (rise < 0).any() or (rise > MAX_RISE).any():
                return False
        return True

    @cached_property
    def curves(self) -> list[np.ndarray]:
        """The falling curves."""
        return self._split()[: len(self.falling)]

    @cached_property
    def knots(self) -> list[Curve]:
        """The rising curves, continued by a knot at rest on either side."""
        closed = [np.concatenate([[0], v, [ONE, ONE]]).astype(np.int32) for v in self._split()[len(self.falling) :]]
        return [(v[:-1], np.diff(v)) for v in closed]


class _LookupPrior(PriorModule):
    """Base of priors that compute counts from :class:`LookupTables`; the first two curves make up exp.

    The curves follow from nothing learned, yet are stored: libraries differ in the last digit of an exp.
    """

    tables: LookupTables  # type: ignore[assignment]

    def __init__(self, falling: tuple[tuple[int, int], ...] = (), rising: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.tables = LookupTables([(EXP_REACH + 1, ONE), (UNIT, ONE), *falling], [*rising])

    def own_curves(self) -> list[np.ndarray]:
        """The curves behind those of exp."""
        return []

    @torch.no_grad()
    def freeze(self) -> None:
        whole, fraction = np.exp(-np.arange(EXP_REACH + 1.0)), np.exp(-np.arange(UNIT) / UNIT)
        self.tables.fill([ONE * whole, ONE * fraction, *self.own_curves()])

    def lookup(self) -> LookupTables:
        if not self.tables.ready:
            self.freeze()
        return self.tables


@dataclass(frozen=True)
class Mixture:
    """:class:`MixturePrior` bound to its parameters, each (B, K, C, h, w)."""

    module: "MixturePrior"
    logits: Tensor
    mean: Tensor
    scale_index: Tensor

    centre = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logits.shape[0], *self.logits.shape[2:]

    def bits(self, r: Tensor) -> Tensor:
        r = -(r[:, None] - self.mean).abs()  # (B, K, C, h, w); the lower tail is where the cumulative is accurate
        scale = self.module.scale(self.scale_index)
        upper, lower = (r + 0.5) / scale, (r - 0.5) / scale
        masses = [
            cumulative(upper[:, k]) - cumulative(lower[:, k]) for k, cumulative in enumerate(self.module.cumulatives)
        ]
        mass = (torch.softmax(self.logits, 1) * torch.stack(masses, 1)).sum(1)
        return -torch.log2(lower_bound(mass, FLOOR))

    def distributions(self) -> Individual:
        m = self.module
        index = torch.floor(self.scale_index.double() * SUBSTEPS + 0.5).clamp(0, m.positions - 1)
        return m.individual(_fixed(self.logits), _fixed(self.mean), _by_component(index))


class MixturePrior(_LookupPrior):
    """Mixtures of K Gaussians, Laplacians and logistics, one family per component, all parameters per element.

    2001.01568 (three Gaussians), 2107.06463 (families mixed), 1811.12817 (logistics). As there,
    values are rounded to plain integers (centre 0) and the means lie inside the mixture.

    Scale indices are those of :class:`ScalePrior`. Counts cover `window` symbols around the mixture, others
    are escapes. Each symbol of the window costs 2^-16 of probability, and four bytes per element.
    """

    def __init__(
        self,
        families: tuple[str, ...] = ("gaussian",) * 3,
        *,
        low: float = 0.11,
        high: float = 256.0,
        count: int = 64,
        window: int = 64,
    ) -> None:
        if window < 2 or window / low * 2**POSITION_BITS > 0.99 * POSITION_LIMIT:
            raise ValueError(f"a window of {window} symbols does not go with scales down to {low}")
        self.positions = (count - 1) * SUBSTEPS + 1  # tabulated scales
        self.kinds = sorted(set(families))  # the order of their curves
        super().__init__(
            falling=((self.positions, round(2**POSITION_BITS / low)),),
            rising=(2 * REACH * KNOTS + 1,) * len(self.kinds),
        )
        self.families, self.low, self.count, self.window = families, low, count, window
        self.step = math.log(high / low) / (count - 1)
        self.cumulatives = [_CUMULATIVES[family] for family in families]

    def forward(self, logits: Tensor, mean: Tensor, scale_index: Tensor) -> Mixture:
        """All (B, K, C, h, w) -> a distribution for a (B, C, h, w) latent."""
        return Mixture(self, logits, mean, scale_index)

    def scale(self, index: Tensor) -> Tensor:
        """Table position -> scale; positions outside the table count as its ends."""
        bounded = -lower_bound(-lower_bound(index, 0.0), float(1 - self.count))
        return self.low * torch.exp(bounded * self.step)

    def own_curves(self) -> list[np.ndarray]:
        index = np.arange(self.positions) / SUBSTEPS
        knots = torch.arange(-REACH * KNOTS, REACH * KNOTS + 1, dtype=torch.float64) / KNOTS
        rises = [ONE * _CUMULATIVES[kind](knots).numpy() for kind in self.kinds]
        for rise in rises:
            rise[0], rise[-1] = 0, ONE
        return [2.0**POSITION_BITS / self.low * np.exp(-self.step * index), *rises]

    def individual(self, logits: np.ndarray, mean: np.ndarray, index: np.ndarray) -> Individual:
        """Integer parameters (K, n) -> counts (n, window + 1) and first symbols (n,)."""
        tables = self.lookup()
        whole, fraction, inverse = tables.curves
        curves = [tables.knots[self.kinds.index(family)] for family in self.families]
        n = logits.shape[1]
        counts, low = np.empty((n, self.window + 1), dtype=np.int32), np.empty(n, dtype=np.int64)
        chunk = CHUNK // self.window
        for start in range(0, n, chunk):
            part = slice(start, start + chunk)
            weights = _proportions(_exp(logits[:, part], whole, fraction), TOTAL)
            step = inverse[index[:, part]]
            low[part] = self._place(weights, mean[:, part], step, curves)
            total = _mixture(low[part], self.window + 1, weights, mean[:, part], step, curves)
            counts[part] = _to_counts(total)
        return Individual(counts, low)

    def _place(self, weights: np.ndarray, mean: np.ndarray, step: np.ndarray, curves: list[Curve]) -> np.ndarray:
        """First symbols (n,) of the windows: around the mixture's mean or a component's, whatever holds more."""
        average = (weights * mean).sum(0, keepdims=True) >> PRECISION
        centres = np.concatenate([average, mean]) + (UNIT // 2) >> ACTIVATION_BITS  # (1 + K, n)
        lows = centres - self.window // 2
        inside = [np.diff(_mixture(low, 2, weights, mean, step, curves, pitch=self.window)) for low in lows]
        return np.take_along_axis(lows, np.concatenate(inside, 1).argmax(1)[None], 0)[0]


@dataclass(frozen=True)
class Categories:
    """:class:`CategoricalPrior` bound to logits (B, K, C, h, w)."""

    module: "CategoricalPrior"
    logits: Tensor

    centre = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logits.shape[0], *self.logits.shape[2:]

    def bits(self, r: Tensor) -> Tensor:
        """The nearest symbol's bits; to r flows the slope between that symbol's two neighbours."""
        costs = F.log_softmax(self.logits, 1) / -math.log(2)
        last = costs.shape[1] - 1
        symbol = r.detach().round().clamp(0, last).long()
        below, above = (symbol - 1).clamp_min(0), (symbol + 1).clamp_max(last)
        at = [costs.gather(1, s[:, None])[:, 0] for s in (symbol, below, above)]
        slope = ((at[2] - at[1]) / (above - below).clamp_min(1)).detach()
        return at[0] + slope * (r - r.detach())

    def distributions(self) -> Individual:
        return self.module.individual(_fixed(self.logits))


class CategoricalPrior(_LookupPrior):
    """One of K symbols 0 .. K - 1, with K logits per element. There is no escape: latents must be such symbols."""

    def forward(self, logits: Tensor) -> Categories:
        """(B, K, C, h, w) -> a distribution for a (B, C, h, w) latent."""
        return Categories(self, logits)

    def individual(self, logits: np.ndarray) -> Individual:
        """Integer logits (K, n) -> counts (n, K + 1)."""
        whole, fraction = self.lookup().curves
        k, n = logits.shape
        counts = np.zeros((n, k + 1), dtype=np.int32)
        chunk = max(CHUNK // k, 1)
        for start in range(0, n, chunk):
            part = slice(start, start + chunk)
            counts[part, :k] = 1 + _proportions(_exp(logits[:, part], whole, fraction), TOTAL - k).T
        return Individual(counts, np.zeros(n, dtype=np.int64))


class BernoulliPrior(CategoricalPrior):
    """Symbols 0 and 1, with the logit of 1 per element."""

    def forward(self, logit: Tensor) -> Categories:
        """(B, C, h, w) -> a distribution for a latent of that shape."""
        return Categories(self, torch.stack([torch.zeros_like(logit), logit], 1))


def _by_component(x: Tensor) -> np.ndarray:
    """Integers carried in floats (B, K, C, h, w) -> (K, B C h w) int64."""
    return x.transpose(0, 1).reshape(x.shape[1], -1).to("cpu", torch.int64).numpy()


def _fixed(x: Tensor) -> np.ndarray:
    """Parameters (B, K, C, h, w) -> (K, B C h w) in units of 2^-10, within +-1024."""
    return _by_component(torch.floor(x.double() * UNIT + 0.5).clamp(-CLAMP, CLAMP))


def _exp(logits: np.ndarray, whole: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """exp(logits - max) in units of 2^-24, (K, n) -> (K, n), as exp(-whole part) times exp(-fraction)."""
    below = np.minimum(logits.max(0) - logits, len(whole) * UNIT - 1)
    return whole[below >> ACTIVATION_BITS] * fraction[below & UNIT - 1] >> BITS


def _proportions(weights: np.ndarray, total: int) -> np.ndarray:
    """Weights (K, n) -> integers in proportion, whose sums are `total`; the largest takes what rounding leaves."""
    shares = weights * total // weights.sum(0)
    np.put_along_axis(shares, shares.argmax(0)[None], shares.max(0) + total - shares.sum(0), 0)
    return shares


def _mixture(
    low: np.ndarray,
    edges: int,
    weights: np.ndarray,
    mean: np.ndarray,
    step: np.ndarray,
    curves: list[Curve],
    pitch: int = 1,
) -> np.ndarray:
    """Cumulatives of mixtures at `low - 1/2 + pitch * (0 .. edges - 1)`: (n, edges), up to 2^40.

    Args:
        low: (n,) symbols.
        weights, mean, step: (K, n) in units of 2^-16, 2^-10 and 2^-18: step is the reciprocal of the scale.
        curves: of each component, knots and the rises to the next.
    """
    first = ((2 * low - 1) * (UNIT // 2) - mean) * step >> ACTIVATION_BITS  # (K, n)
    first = (first + (REACH << POSITION_BITS)).clip(-POSITION_LIMIT, POSITION_LIMIT).astype(np.int32)
    steps = step.astype(np.int32)
    offsets = pitch * np.arange(edges, dtype=np.int32)
    total = np.zeros((len(low), edges), dtype=np.int64)
    for k, (knots, rises) in enumerate(curves):
        position = first[k][:, None] + steps[k][:, None] * offsets
        left = position >> POSITION_BITS - KNOT_BITS
        position &= (1 << POSITION_BITS - KNOT_BITS) - 1
        left += 1  # the first knot is the closing one
        value = rises.take(left, mode="clip")
        value *= position
        value >>= POSITION_BITS - KNOT_BITS
        value += knots.take(left, mode="clip")
        total += value * weights[k][:, None]
    return total


def _to_counts(cumulative: np.ndarray) -> np.ndarray:
    """(n, window + 1) cumulatives up to 2^40 -> (n, window + 1) counts of 1 or more, the escape's last."""
    window = cumulative.shape[1] - 1
    cumulative = cumulative * (TOTAL - window - 1) >> BITS + PRECISION
    inside = np.diff(cumulative) + 1
    return np.concatenate([inside, TOTAL - inside.sum(1, keepdims=True)], 1)
