"""Whole transforms in eight-bit integers, with the same outputs on every machine (2111.09348; Balle et al., ICLR 2019).

What is multiplied is integers: weights are codes of eight bits into a non-linear codebook, activations codes of
eight bits on a step of their channel. Sums of products stay below 2^53 in units of their last digit (checked layer
by layer), so float64 computes them exactly, in whatever order. All else (a factor per channel, bias, rectifiers,
the root in a divisive normalisation, rounding) takes one element at a time, by operations whose result IEEE 754
fixes to the bit.

While training, weights and activations are rounded in the same way, with the gradient of the identity.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..coding.exact import _pairs, _round
from ..coding.exact_blocks import _power
from ..quantizers.rounding import straight_through
from .gdn import GDN, lower_bound
from .pyramid import _Full

CODE = 127  # largest code of a weight
POWERS = (1.0, 1.5, 2.0)  # of the codebooks: level k is (k / 127)^p
LEVEL = 2**15  # a codebook's levels are kept as integers of 16 bits
LOW, HIGH = -128, 127  # codes of activations
START = -5.0  # logarithm of an activation's step before any calibration: a range of +-4
OUTPUT_BITS = 13  # below the point, of what a transform gives; within +-1024
SQUARE_BITS = 12  # of the squares that are normalised with; within 2^18
STRIP = 1 << 23  # values unfolded at a time
RENEWAL = 100  # steps of training after which codebooks are chosen anew

_LEVELS = torch.tensor(
    [[round(LEVEL * (k / CODE) * math.sqrt(k / CODE) ** round(2 * p - 2)) for k in range(CODE + 1)] for p in POWERS],
    dtype=torch.float64,
)
_MIDDLES = (_LEVELS[:, 1:] + _LEVELS[:, :-1]) / 2


def codebook(rows: Tensor, which: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (groups, n) -> the integer levels (groups, n) that stand for them, with signs, and what levels mean.

    Returns also the factor (groups,) that turns levels into weights, a group's largest weight over 2^15, and
    the codebook (groups,) of each: an index into POWERS, the one of the least squared error if not given.
    """
    rows = rows.detach().double()
    peak = rows.abs().amax(1).clamp_min(1e-30)
    size = rows.abs() / peak[:, None] * LEVEL
    if which is None:
        errors = []
        for p in range(len(POWERS)):
            level = _nearest(size, torch.full(peak.shape, p, device=rows.device))
            errors.append((_round(size) - level).square().sum(1))  # of integers: exact
        which = torch.stack(errors).argmin(0)
    return torch.sign(rows) * _nearest(size, which), peak / LEVEL, which


def _nearest(size: Tensor, which: Tensor) -> Tensor:
    """Values (groups, n) in 0 .. 2^15 -> the nearest levels of the codebooks `which` (groups,)."""
    middles, levels = _MIDDLES.to(size.device)[which], _LEVELS.to(size.device)[which]
    return levels.gather(1, torch.searchsorted(middles, size.contiguous()))


class Activations(nn.Module):
    """Activations (B, C, h, w) as codes of eight bits, on a step per channel that is a power of two.

    `step` (C,) holds the logarithms of the steps, `mean` (C,) what is subtracted before and added after, if `shifted`.
    Both are chosen on the first batch that training shows, and learned from there.
    """

    def __init__(self, channels: int, *, shifted: bool = False) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.full((channels,), START))
        self.mean = nn.Parameter(torch.zeros(channels)) if shifted else None
        self.new = True

    def forward(self, x: Tensor) -> Tensor:
        """Rounded values, differentiably."""
        if self.new and self.step.requires_grad:
            self.new = False
            if bool((self.step == START).all()):
                self.calibrate(x.detach())
        step = torch.exp2(straight_through(self.step))[:, None, None]
        mean = 0.0 if self.mean is None else self.mean[:, None, None]
        return straight_through((x - mean) / step).clamp(LOW, HIGH) * step + mean

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Means of the channels, and twice the steps of least squared error: a batch does not show all tails."""
        if self.mean is not None:
            self.mean.copy_(x.mean((0, 2, 3)))
            x = x - self.mean[:, None, None]
        top = torch.log2(x.abs().amax((0, 2, 3)).clamp_min(1e-3) / HIGH).ceil()
        errors = []
        for lower in range(8):
            step = torch.exp2(top - lower)[:, None, None]
            errors.append((torch.round(x / step).clamp(LOW, HIGH) * step - x).square().mean((0, 2, 3)))
        self.step.copy_(top + 1 - torch.stack(errors).argmin(0))

    def integers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same values, float64 multiples of their steps; the steps, and the largest size of a value (C,)."""
        step = _power(_round(self.step.detach().double()).clamp(-20, 20))
        mean = torch.zeros_like(step) if self.mean is None else _round(self.mean.detach().double() / step) * step
        codes = _round((x - mean[:, None, None]) / step[:, None, None]).clamp(LOW, HIGH)
        return codes * step[:, None, None] + mean[:, None, None], step, -LOW * step + mean.abs()


class IntegerSequential(nn.Sequential):
    """A pyramid (:mod:`kodim.transforms.pyramid`) or hyper transform in integers: what ExactSequential is to networks.

    Layers may be Conv2d, ConvTranspose2d, GDN, ReLU and LeakyReLU. Their parameters keep their names; a convolution
    gets `ranges`, the :class:`Activations` that enter it. Outside training, outputs are multiples of 2^-13 within
    +-1024.

    Args:
        layers: to be taken over.
        pixels: what enters is a picture in [0, 1], whose own 256 values are kept.
        shifted: what enters has means to be removed.
    """

    def __init__(self, layers: nn.Sequential, *, pixels: bool = False, shifted: bool = False) -> None:
        super().__init__(*layers)
        self.pixels = pixels
        self._powers: dict[str, tuple[int, Tensor]] = {}
        self._frozen: dict[str, tuple[object, Tensor, Tensor]] = {}
        for i, layer in list(self.named_children()):
            convolution = _plain(layer)
            if isinstance(convolution, (nn.Conv2d, nn.ConvTranspose2d)) and not (pixels and i == "0"):
                convolution.ranges = Activations(convolution.in_channels, shifted=shifted and i == "0")

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            if self.training:
                for i, layer in self.named_children():
                    x = self._rounded(i, _plain(layer), x.float())
                return x
            with torch.no_grad():
                a = x.double()
                for i, layer in self.named_children():
                    a = self._exact(i, _plain(layer), a)
                unit = 2.0**OUTPUT_BITS
                a = _round(a * unit).clamp(-1024 * unit, 1024 * unit) / unit
                return a if x.dtype == torch.float64 else a.float()

    def _rounded(self, i: str, layer: nn.Module, x: Tensor) -> Tensor:
        """A layer of training."""
        match layer:
            case nn.Conv2d() | nn.ConvTranspose2d():
                x = _pixels(x) / 255 if self._sees_pixels(i) else layer.ranges(x)  # type: ignore[operator]
                return functional_call(layer, {"weight": self._weight(i, layer.weight, _outputs(layer))}, x)
            case GDN():
                beta, gamma = _coefficients(layer)
                norm = F.conv2d(x.square(), self._weight(i, gamma, 0)[:, :, None, None], beta)
                return x * (norm.sqrt() if layer.inverse else norm.rsqrt())
        return layer(x)

    def _exact(self, i: str, layer: nn.Module, a: Tensor) -> Tensor:
        """A layer in integers, as the docstring of this file has it."""
        match layer:
            case nn.Conv2d() | nn.ConvTranspose2d():
                if self._sees_pixels(i):
                    a, unit = _pixels(a), 255.0
                    step, peak = a.new_ones(a.shape[1]), a.new_full((a.shape[1],), 255.0)
                else:
                    (a, step, peak), unit = layer.ranges.integers(a), 1.0  # type: ignore[operator,union-attr]
                level, factor = self._levels(i, layer.weight, _outputs(layer))
                dims = (1, 2, 3) if isinstance(layer, nn.Conv2d) else (0, 2, 3)
                inputs = peak.view(1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else peak.view(-1, 1, 1, 1)
                _check(layer, (level.abs() * inputs).sum(dims), step)
                out = _strips(layer, level, a) * (factor / unit)[:, None, None]
                return out if layer.bias is None else out + layer.bias.detach().double()[:, None, None]
            case GDN():
                beta, gamma = _coefficients(layer)
                level, factor = self._levels(i, gamma, 0)
                square = _round((a * a).clamp_max(2.0**18) * 2.0**SQUARE_BITS)
                _check(layer, level.abs().sum(1) * 2.0 ** (18 + SQUARE_BITS), square.new_ones(1))
                total = (level @ square.flatten(2)).view_as(a)
                norm = total * (factor * 2.0**-SQUARE_BITS)[:, None, None] + beta.detach().double()[:, None, None]
                return a * norm.sqrt() if layer.inverse else a / norm.sqrt()
            case nn.ReLU() | nn.LeakyReLU():
                return layer(a)
        raise TypeError(f"IntegerSequential has no integer form of {type(layer).__name__}")

    def _sees_pixels(self, i: str) -> bool:
        return self.pixels and i == "0"

    def _weight(self, i: str, weight: Tensor, outputs: int) -> Tensor:
        """Weights rounded to their codebooks, differentiably."""
        rows = weight.transpose(0, outputs)
        count, which = self._powers.get(i, (0, None))
        level, factor, which = codebook(rows.flatten(1), which if count % RENEWAL else None)
        self._powers[i] = (count + 1, which)
        rounded = (level * factor[:, None]).view(rows.shape).transpose(0, outputs).to(weight.dtype)
        return weight + (rounded - weight).detach()

    def _levels(self, i: str, weight: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
        """Integer levels in the shape of the weights, and the factor of each output; remembered."""
        key = (weight.data_ptr(), weight._version, weight.device) if isinstance(weight, nn.Parameter) else None
        if key is None or i not in self._frozen or self._frozen[i][0] != key:
            rows = weight.transpose(0, outputs)
            level, factor, _ = codebook(rows.flatten(1))
            self._frozen[i] = (key, level.view(rows.shape).transpose(0, outputs), factor)
        return self._frozen[i][1:]


def _plain(layer: nn.Module) -> nn.Module:
    return layer.layer if isinstance(layer, _Full) else layer


def _outputs(layer: nn.Module) -> int:
    """The dimension of a layer's weights that counts its outputs."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def _pixels(x: Tensor) -> Tensor:
    """0..1 -> 0..255, integers."""
    return _round(x.clamp(0, 1) * 255)


def _coefficients(layer: GDN) -> tuple[Tensor, Tensor]:
    """beta and gamma of a GDN, in double precision outside training: squares are then the same everywhere."""
    beta, gamma = (p if layer.training else p.detach().double() for p in (layer.beta, layer.gamma))
    beta = lower_bound(beta, (1e-6 + GDN.PEDESTAL) ** 0.5).square() - GDN.PEDESTAL
    return beta, lower_bound(gamma, GDN.PEDESTAL**0.5).square() - GDN.PEDESTAL


def _check(layer: nn.Module, worst: Tensor, step: Tensor) -> None:
    """Refuse a layer whose sums may need more than the 53 bits of a float64."""
    if float(worst.max()) >= 2.0**53 * float(step.min()):
        raise ValueError(f"{layer} cannot be computed in integers: its sums may reach 2^53")


def _strips(layer: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, a: Tensor) -> Tensor:
    """The convolution as matrix products, on a few rows at a time, without its bias."""
    (kh, kw), (sh, sw), (ph, pw) = _pairs(layer)
    b, _, h, w = a.shape
    rows = max(STRIP // (kh * kw * max(weight.shape[:2]) * w), 1)
    if isinstance(layer, nn.ConvTranspose2d):
        oh, ow = layer.output_padding
        canvas = a.new_zeros(b, weight.shape[1], (h - 1) * sh + kh + oh, (w - 1) * sw + kw + ow)
        for top in range(0, h, rows):
            part = a[:, :, top : top + rows]
            size = ((part.shape[2] - 1) * sh + kh, (w - 1) * sw + kw)
            columns = weight.flatten(1).T @ part.flatten(2)
            area = canvas[:, :, top * sh : top * sh + size[0], : size[1]]
            area += F.fold(columns, size, (kh, kw), stride=(sh, sw))
        return canvas[:, :, ph : canvas.shape[2] - ph, pw : canvas.shape[3] - pw]
    a = F.pad(a, (pw, pw, ph, ph))
    height, width = (a.shape[2] - kh) // sh + 1, (a.shape[3] - kw) // sw + 1
    parts = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        columns = F.unfold(a[:, :, top * sh : (bottom - 1) * sh + kh], (kh, kw), stride=(sh, sw))
        parts.append((weight.flatten(1) @ columns).view(b, -1, bottom - top, width))
    return torch.cat(parts, 2)
