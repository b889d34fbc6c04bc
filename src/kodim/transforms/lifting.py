"""A trained lifting scheme: a wavelet transform whose predictions are networks, invertible whatever they say."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.exact import ACTIVATION_BITS, WEIGHT_BITS, _exact_layer, _fixed
from ..coding.wavefront import to_grid

CDF97 = (-1.586134342, -0.052980119, 0.882911076, 0.443506852)  # the steps of the biorthogonal 9/7 wavelet
LOW, HIGH = 1.149604399, 0.869864452  # what its halves are scaled by
AMPLITUDE = 256.0  # of pixels, which the networks see scaled to 1
SHARE = 0.1  # of a network in its step: keeps the early training calm


class Step(nn.Module):
    """`f(v) + 0.1 * 256 * P(f(v) / 256)` of rows v (N, 1, h, w): a three-tap filter across rows, and a network on it.

    Args:
        tap: both of the filter's taps at the start.
        ahead: they lie on this row and the next, otherwise on the one before and this.
        width: channels of P, which starts at zero.
    """

    def __init__(self, tap: float, ahead: bool, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.tensor([0.0, tap, tap] if ahead else [tap, tap, 0.0]).view(1, 1, 3, 1))
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.leave = nn.Conv2d(width, 1, 3, padding=1)
        for p in self.leave.parameters():
            nn.init.zeros_(p)

    def forward(self, v: Tensor) -> Tensor:
        f = F.conv2d(F.pad(v, (0, 0, 1, 1), mode="replicate"), self.taps)
        first = a = self.enter(f / AMPLITUDE)
        for layer in self.inner:
            a = layer(a.clamp(-1, 1))
        return f + SHARE * AMPLITUDE * self.leave(a + first)

    def whole(self, v: Tensor) -> Tensor:
        """The same rounded to integers, for integers v (float64): identical on every machine."""
        unit = 2.0**ACTIVATION_BITS
        padded = F.pad(v, (0, 0, 1, 1), mode="replicate")
        taps = _fixed(self.taps, WEIGHT_BITS).flatten()
        rows = v.shape[2]
        f = torch.stack([padded[:, :, i : i + rows] * taps[i] for i in range(3)]).sum(0) * 2.0**-WEIGHT_BITS  # exact
        first = a = _exact_layer(self.enter, to_grid(f / AMPLITUDE))
        for layer in self.inner:
            a = _exact_layer(layer, a.clamp(-unit, unit))
        p = _exact_layer(self.leave, a + first)
        return torch.floor(f + p * (SHARE * AMPLITUDE / unit) + 0.5)


class Lifting(nn.Module):
    """Planes (N, 1, H, W) <-> subbands in Mallat's layout: low ones at the top left, recursively.

    Args:
        depth: levels; H and W are multiples of 2^depth.
        width: channels of the networks, which rows, columns, levels and planes share.
        whole: every step gives integers, nothing is scaled: integers to integers, exactly.
    """

    def __init__(self, depth: int, width: int, *, whole: bool = False) -> None:
        super().__init__()
        self.depth, self.whole = depth, whole
        self.steps = nn.ModuleList(Step(tap, i % 2 == 0, width) for i, tap in enumerate(CDF97))
        if not whole:
            self.scale = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        out = x.clone()
        for level in range(self.depth):
            h, w = x.shape[2] >> level, x.shape[3] >> level
            part = torch.cat(self._split(out[:, :, :h, :w]), 2).transpose(2, 3)
            part = torch.cat(self._split(part), 2).transpose(2, 3)
            out = _insert(out, part)
        return out

    def inverse(self, bands: Tensor) -> Tensor:
        out = bands.clone()
        for level in reversed(range(self.depth)):
            h, w = bands.shape[2] >> level, bands.shape[3] >> level
            part = self._join(*out[:, :, :h, :w].transpose(2, 3).chunk(2, 2)).transpose(2, 3)
            out = _insert(out, self._join(*part.chunk(2, 2)))
        return out

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = x[:, :, ::2], x[:, :, 1::2]
        for i, step in enumerate(self._calls()):
            if i % 2 == 0:
                high = high + step(low)
            else:
                low = low + step(high)
        a, b = self._scales()
        return low * a, high * b

    def _join(self, low: Tensor, high: Tensor) -> Tensor:
        a, b = self._scales()
        low, high = low / a, high / b
        for i, step in reversed(list(enumerate(self._calls()))):
            if i % 2 == 0:
                high = high - step(low)
            else:
                low = low - step(high)
        return torch.stack((low, high), 3).flatten(2, 3)

    def _calls(self) -> list[Callable[[Tensor], Tensor]]:
        if not self.whole:
            return list(self.steps)
        if self.training:
            return [lambda v, s=step: _rounded(s(v)) for step in self.steps]  # type: ignore[misc]
        return [step.whole for step in self.steps]  # type: ignore[misc]

    def _scales(self) -> tuple[Tensor | float, Tensor | float]:
        return (1.0, 1.0) if self.whole else (LOW + 0.1 * self.scale[0], HIGH + 0.1 * self.scale[1])


def _rounded(x: Tensor) -> Tensor:
    return x + (torch.floor(x + 0.5) - x).detach()


def _insert(out: Tensor, part: Tensor) -> Tensor:
    """`out` with its top left replaced."""
    h, w = part.shape[2:]
    top = torch.cat((part, out[:, :, :h, w:]), 3)
    return torch.cat((top, out[:, :, h:]), 2)


# Luma and two chroma differences, of pixels in 0..255 (rows as the paper rounds them), and back.
YUV = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.499], [0.499, -0.418, -0.0813]])
RGB = torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344, -0.714], [1.0, 1.772, 0.0]])


def to_planes(x: Tensor, whole: bool) -> Tensor:
    """Pixels (B, 3, H, W) in [0, 1] -> planes in 0..255, chroma around 0; `whole`: by YCoCg-R, integers to integers."""
    if not whole:
        return torch.einsum("ij,bjhw->bihw", YUV.to(x), x * 255)
    r, g, b = torch.round(x.double() * 255).unbind(1)
    orange = r - b
    t = b + torch.floor(orange / 2)
    green = g - t
    return torch.stack((t + torch.floor(green / 2), orange, green), 1)


def to_pixels(planes: Tensor, whole: bool) -> Tensor:
    """Inverse of :func:`to_planes`; of `whole` planes exactly."""
    if not whole:
        return torch.einsum("ij,bjhw->bihw", RGB.to(planes), planes) / 255
    y, orange, green = planes.unbind(1)
    t = y - torch.floor(green / 2)
    b = t - torch.floor(orange / 2)
    return torch.stack((b + orange, green + t, b), 1) / 255
