"""Building blocks for exact networks in float32: the same integers on every machine, at the speed of floats.

:mod:`kodim.coding.exact` carries generous integers in float64. Context networks run once per coding pass
inside the decoder, so here they are frugal enough for float32, where integers are exact below 2^24:

- what enters a layer is rounded to multiples of 2^-6 and clipped, so it is an integer below 2^11 in size;
- weights become integers below 2^11, by a power of two per output channel, such that the absolute weights
  that meet in one output sum to at most 2^13. No partial sum can then reach 2^24, in whatever order, with or
  without fused multiply-adds, and even TensorFloat-32 (11 bits of mantissa) changes nothing;
- what follows (scaling by a power of two, bias, rectifier, residual sum) is one rounding per element and
  operation, which IEEE 754 fixes.

While training the layers are ordinary float layers with the same clipping.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantizers.gains import interpolate
from ..transforms.pointwise import one_by_one

GRID_BITS = 6
LIMIT = 2**11 - 1
RANGE = LIMIT * 2.0**-GRID_BITS  # activations are clipped to +-31.98
SUM_LIMIT = 2.0**13
TABLE_BITS = 8  # of the logarithms in ExactLevels
LEVEL_BITS = 10  # of a rate level's fraction
MANTISSA_BITS = 11


class _Exact(nn.Module):
    """A linear layer with `weight` (out, in per group, kh, kw) and `bias` (out,), float while training."""

    def __init__(self, out: int, fan: tuple[int, int, int], *, zero: bool = False) -> None:
        super().__init__()
        count = fan[0] * fan[1] * fan[2]
        self.weight = nn.Parameter(torch.zeros(out, *fan) if zero else torch.randn(out, *fan) * count**-0.5)
        self.bias = nn.Parameter(torch.zeros(out))
        self._frozen: tuple[object, Tensor, Tensor] | None = None

    def integers(self) -> tuple[Tensor, Tensor]:
        """Integer weights (as `weight`, float32) and the power of two (out,) that turns sums into outputs."""
        key = (self.weight.data_ptr(), self.weight._version, self.weight.device)
        if self._frozen is None or self._frozen[0] != key:
            self._frozen = (key, *_integers(self.weight.detach()))
        return self._frozen[1:]

    def _scaled(self, sums: Tensor, scale: Tensor) -> Tensor:
        """Sums (B, out, h, w) -> outputs, in their place: fresh memory costs more than the arithmetic."""
        return sums.mul_(scale[:, None, None]).add_(self.bias[:, None, None].float())


class ExactPointwise(_Exact):
    """1x1 convolution in `groups`: (B, groups * c_in, h, w) -> (B, groups * c_out, h, w)."""

    def __init__(self, c_in: int, c_out: int, *, groups: int = 1, zero: bool = False) -> None:
        super().__init__(groups * c_out, (c_in, 1, 1), zero=zero)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            b, _, h, w = x.shape
            columns = x.clamp(-RANGE, RANGE).reshape(b, self.groups, -1, h * w)
            out = self.weight.view(self.groups, -1, self.weight.shape[1]) @ columns
            return out.reshape(b, -1, h, w) + self.bias[:, None, None]
        weight, scale = self.integers()
        return self._scaled(one_by_one(_grid(x), weight, groups=self.groups), scale)


class ExactDepthwise(_Exact):
    """Depthwise 3x3 convolution, zero outside: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, (1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.conv2d(x.clamp(-RANGE, RANGE), self.weight, self.bias, padding=1, groups=len(self.weight))
        weight, scale = self.integers()
        return self._scaled(F.conv2d(_grid(x), weight, padding=1, groups=len(weight)), scale)


class ExactBlock(nn.Module):
    """Residual block: depthwise 3x3, 1x1, rectifier, 1x1 (starting at zero); 2 C^2 + 9 C MAC a position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = ExactDepthwise(channels)
        self.widen = ExactPointwise(channels, channels)
        self.narrow = ExactPointwise(channels, channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.widen(self.depthwise(x))
        if self.training:
            return x + self.narrow(inner.clamp_min(0))
        return self.narrow(inner.clamp_min_(0)).add_(x)


class ExactLevels(nn.Module):
    """A vector per rate level, linearly interpolated between levels: (B,) -> (B, C, 1, 1), multiples of 2^-8.

    Args:
        start: (levels, C) values to start from, within +-31.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(start.clone())

    def forward(self, level: Tensor) -> Tensor:
        if self.training:
            return interpolate(self.rows.clamp(-RANGE, RANGE), level)[:, :, None, None]
        return exact_interpolation(self.rows, level)


def exact_interpolation(rows: Tensor, level: Tensor) -> Tensor:
    """Rows (levels, C), within +-31, at real row numbers (B,) -> (B, C, 1, 1), multiples of 2^-8, float32."""
    below = level.floor().clamp(0, max(len(rows) - 2, 0))
    above = (below + 1).clamp_max(len(rows) - 1).long()
    integers = _round(rows.detach().float().clamp(-RANGE, RANGE) * 2.0**TABLE_BITS)  # below 2^13
    t = _round((level - below)[:, None].float() * 2.0**LEVEL_BITS)
    mixed = integers[below.long()] * (2.0**LEVEL_BITS - t) + integers[above] * t  # exact: below 2^24
    return (_round(mixed * 2.0**-LEVEL_BITS) * 2.0**-TABLE_BITS)[:, :, None, None]


def exact_exp2(x: Tensor, training: bool) -> Tensor:
    """2^x for multiples of 2^-8 within +-32, to 11 bits and the same on every machine; float while training.

    A product of the result and an integer below 2^12 is exact in float32.
    """
    if training:
        return torch.exp2(x)
    whole = x.floor()
    fraction = ((x - whole) * 2.0**TABLE_BITS).long()
    mantissas = [round(2 ** (k / 2**TABLE_BITS + MANTISSA_BITS)) for k in range(2**TABLE_BITS)]  # far from ties
    powers = [2.0 ** (k - MANTISSA_BITS) for k in range(-32, 33)]
    table, power = (torch.tensor(v, dtype=torch.float32, device=x.device) for v in (mantissas, powers))
    return table[fraction] * power[whole.long() + 32]


def _integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integer weights whose rows sum, in size, to at most 2^13, and the scale of each row's sums."""
    exact = _round(weight.double() * 2.0**30)  # sums of these are exact, whatever their order
    flat = exact.flatten(1).abs()
    room = (SUM_LIMIT - flat.shape[1] / 2) / flat.sum(1).clamp_min(1)  # rounding adds half a unit a weight at most
    room = torch.minimum(room, LIMIT / flat.amax(1).clamp_min(1))
    exponent = (torch.frexp(room).exponent - 1).clamp_max(-10)  # floor of log2; at most 2^20 to one
    factor = _power(exponent)
    integers = _round(exact * factor.view(-1, *[1] * (weight.ndim - 1)))
    if float(integers.flatten(1).abs().sum(1).max()) > SUM_LIMIT:
        raise ValueError("a layer cannot be made exact: too many inputs meet in one output")
    return integers.float(), _power(-exponent - 30 - GRID_BITS).float()


def _power(exponent: Tensor) -> Tensor:
    """2^exponent, exactly (pow of some libraries is not)."""
    return torch.tensor([2.0**e for e in exponent.tolist()], dtype=torch.float64, device=exponent.device)


def _grid(x: Tensor) -> Tensor:
    """Integers of at most 11 bits: x in multiples of 2^-6, clipped."""
    return (x.float() * 2.0**GRID_BITS).add_(0.5).floor_().clamp_(-LIMIT, LIMIT)


def _round(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5)
