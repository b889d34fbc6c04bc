"""Laplace distributions: as integer tables for the coder, and as a smooth price while fitting.

A table row belongs to one of `SCALES` scales, e^(1/8) apart, and one of `PHASES` places of the mean between two
integers. The tables are computed with decimal arithmetic, whose every operation is defined to the last digit: the
same integers on every machine, without a file of them.
"""

from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..coding.tables import TOTAL, Individual

SCALES, PER_UNIT, LOWEST = 64, 8, -4.0  # scale i is e^(LOWEST + i / PER_UNIT): 0.018 to 48
HIGHEST = LOWEST + (SCALES - 1) / PER_UNIT
PHASES = 16
REACH = 32  # symbols -REACH .. REACH - 1 around the mean have a place in the table, others escape
FLOOR = 2.0**-16  # of a likelihood while fitting: keeps its gradient finite
_FINE = 1 << 24  # the coder's own precision


@cache
def tables() -> np.ndarray:
    """Counts (SCALES * PHASES, 2 REACH + 1) in multiples of 2^-8 that sum to 2^16; the last one is the escape's."""
    digits, total = Context(prec=30), _FINE - 2 * REACH - 1
    counts = np.empty((SCALES, PHASES, 2 * REACH + 1), dtype=np.int64)
    steps = PHASES * (REACH + 1)
    for i in range(SCALES):
        scale = digits.exp(digits.divide(Decimal(round(LOWEST * PER_UNIT) + i), Decimal(PER_UNIT)))
        ratio = digits.exp(digits.divide(Decimal(-1), digits.multiply(scale, Decimal(PHASES))))
        tail = [Decimal("0.5")]  # mass beyond a distance of n / PHASES
        for _ in range(steps):
            tail.append(digits.multiply(tail[-1], ratio))
        below = [int(digits.to_integral_value(digits.multiply(t, Decimal(total)))) for t in tail]
        for phase in range(PHASES):
            # Edges of the symbols' bins, less the mean, in 1 / PHASES; below[-n] and 1 - below[n] are the cumulative.
            edges = [PHASES * (k - REACH) - (phase - PHASES // 2) - PHASES // 2 for k in range(2 * REACH + 1)]
            cumulative = [below[-e] if e < 0 else total - below[e] for e in edges]
            counts[i, phase] = np.diff(np.array([*cumulative, total + cumulative[0]])) + 1
    return counts.reshape(SCALES * PHASES, -1) * (TOTAL / _FINE)


@dataclass(frozen=True)
class Laplace:
    """A distribution for each of (B, 1, n, 1) values: its integer centre and its table row, both (B, n) int64."""

    nearest: Tensor
    row: Tensor

    @property
    def centre(self) -> Tensor:
        return self.nearest[:, None, :, None].to(torch.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.row), 1, self.row.shape[1], 1

    def bits(self, r: Tensor) -> Tensor:
        """-log2 p of residuals (B, 1, n, 1)."""
        phase = (self.row % PHASES - PHASES // 2) / PHASES
        log_scale = LOWEST + torch.div(self.row, PHASES, rounding_mode="floor") / PER_UNIT
        return price(r - phase[:, None, :, None], log_scale[:, None, :, None])

    def distributions(self) -> Individual:
        rows = self.row.reshape(-1).cpu().numpy()
        return Individual(tables()[rows], np.full(len(rows), -REACH))


@dataclass(frozen=True)
class Uniform:
    """`count` values for each picture, all of 0 .. `size` - 1 equally likely; the encoder's and decoder's only."""

    batch: int
    count: int
    size: int

    centre = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.batch, 1, self.count, 1

    def bits(self, r: Tensor) -> Tensor:
        return torch.full_like(r, float(np.log2(self.size)))

    def distributions(self) -> Individual:
        counts = np.full((self.batch * self.count, self.size + 1), TOTAL / self.size)
        counts[:, -1] = 0  # no escape
        return Individual(counts, np.zeros(len(counts), dtype=np.int64))


@dataclass(frozen=True)
class Smooth:
    """What :class:`Laplace` is while training: mean and log-scale of each value, real, of the values' shape."""

    mean: Tensor
    log_scale: Tensor

    centre = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    def bits(self, r: Tensor) -> Tensor:
        return price(r - self.mean, self.log_scale)

    def distributions(self) -> Individual:
        raise NotImplementedError("a smooth distribution has no tables: the coder's are exact")


def price(distance: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of the unit bin at `distance` from the mean; differentiable in both, log-scales are clipped."""
    return _Price.apply(distance, log_scale)


def price_and_slopes(distance: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bits, and their derivatives by distance and log-scale, in closed form.

    With a = |distance|, near = e^-|a - 1/2|/b and far = e^-(a + 1/2)/b the mass is (near - far) / 2 where the bin
    lies to one side of the mean, else 1 - (near + far) / 2.
    """
    bounded = log_scale.clamp(LOWEST, HIGHEST)
    inverse = torch.exp(-bounded)
    a = distance.abs()
    inner, outer = (a - 0.5).mul_(inverse), (a + 0.5).mul_(inverse)
    near, far = inner.abs().neg_().exp_(), outer.neg().exp_()
    side = torch.sign(inner)
    mass = (1 - side).addcmul_(side, near).sub_(far).mul_(0.5).clamp_min_(FLOOR)
    slope = mass.reciprocal().mul_(-0.5 / float(np.log(2)))  # of bits by twice the mass
    by_distance = (far - near).mul_(inverse).mul_(slope).mul_(torch.sign(distance))
    by_scale = inner.mul_(near).sub_(outer.mul_(far)).mul_(slope)
    # A log-scale beyond an end still feels what would bring it back.
    by_scale.masked_fill_(bounded.sub_(log_scale).mul_(by_scale) > 0, 0.0)
    return -torch.log2(mass), by_distance, by_scale


class _Price(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance: Tensor, log_scale: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        bits, *slopes = price_and_slopes(distance, log_scale)
        ctx.save_for_backward(*slopes)
        return bits

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        by_distance, by_scale = ctx.saved_tensors
        return grad * by_distance, grad * by_scale
