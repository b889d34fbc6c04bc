"""Networks whose outputs are the same integers on every machine.

Range decoding survives no difference: one bit of one probability off, and everything after it is noise.
Float networks do differ, between CPUs, thread counts, memory formats. So every network that picks a
probability runs, when it is not being trained, in fixed point: activations are multiples of 2^-10,
weights of 2^-14, both carried in float64, where integers are exact below 2^53. Every partial sum
stays below that (checked layer by layer), hence no order of summation, no fused multiply-add and no
blocking can change a bit. Convolutions are written as unfold + matrix product, so that no library is
tempted by transforms (Winograd, FFT) that multiply by fractions.

Background: Balle, Johnston, Minnen, "Integer Networks for Data Compression", ICLR 2019. Post-training
fixed point with this many bits costs nothing measurable and needs no calibration.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATION_BITS = 10
WEIGHT_BITS = 14
CLAMP = 2.0**20  # activations stay within +-1024.0


class ExactSequential(nn.Sequential):
    """A `nn.Sequential` of convolutions and rectifiers that is float while training and exact in eval mode.

    Layers may be `Conv2d`, `ConvTranspose2d` (no dilation, no groups), `ReLU`, `LeakyReLU`, `PixelShuffle` and
    `Sequential`s of these.
    In eval mode the input is rounded to multiples of 2^-10 and the output consists of such multiples, within +-1024.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            a = _round(x.double() * 2.0**ACTIVATION_BITS).clamp(-CLAMP, CLAMP)
            for layer in self:
                a = _exact_layer(layer, a)
            out = a * 2.0**-ACTIVATION_BITS
            return out if x.dtype == torch.float64 else out.float()  # 21 bits: exact in float32 too

    def __getitem__(self, index: slice | int) -> nn.Module:
        part = super().__getitem__(index)
        if isinstance(index, slice):
            part.training = self.training  # a slice is a new module, and new modules are training: in floats
        return part


def _round(x: Tensor) -> Tensor:
    """Round half up: one definition for negative numbers, the same everywhere."""
    return torch.floor(x + 0.5)


def _fixed(w: Tensor, bits: int) -> Tensor:
    return _round(w.detach().double() * 2.0**bits)


def _exact_layer(layer: nn.Module, a: Tensor) -> Tensor:
    """One layer on integers scaled by 2^10, carried in float64."""
    match layer:
        case nn.Sequential():
            for inner in layer:
                a = _exact_layer(inner, a)
            return a
        case nn.PixelShuffle():
            return layer(a)
        case nn.ReLU():
            return a.clamp_min(0)
        case nn.LeakyReLU():
            slope = round(layer.negative_slope * 2**WEIGHT_BITS)
            return torch.where(a < 0, _round(a * slope * 2.0**-WEIGHT_BITS), a)
        case nn.Conv2d() | nn.ConvTranspose2d():
            weight = _fixed(layer.weight, WEIGHT_BITS)
            bias = torch.zeros(1, dtype=a.dtype, device=a.device)
            if layer.bias is not None:
                bias = _fixed(layer.bias, WEIGHT_BITS + ACTIVATION_BITS).view(1, -1, 1, 1)
            # The absolute weights that meet in one output bound every partial sum, whatever the order.
            transposed = isinstance(layer, nn.ConvTranspose2d)
            worst = float(weight.abs().sum((0, 2, 3) if transposed else (1, 2, 3)).max()) * CLAMP
            if worst + float(bias.abs().max()) >= 2.0**53:
                raise ValueError(f"{layer} cannot be made exact: its sums may reach 2^53")
            out = (_conv_transpose if transposed else _conv)(layer, weight, a) + bias
            return _round(out * 2.0**-WEIGHT_BITS).clamp(-CLAMP, CLAMP)
    raise TypeError(f"ExactSequential has no integer form of {type(layer).__name__}")


def _conv(layer: nn.Module, weight: Tensor, a: Tensor) -> Tensor:
    (kh, kw), (sh, sw), (ph, pw) = _pairs(layer)
    h, w = (a.shape[2] + 2 * ph - kh) // sh + 1, (a.shape[3] + 2 * pw - kw) // sw + 1
    columns = F.unfold(a, (kh, kw), padding=(ph, pw), stride=(sh, sw))
    return (weight.flatten(1) @ columns).view(len(a), -1, h, w)


def _conv_transpose(layer: nn.Module, weight: Tensor, a: Tensor) -> Tensor:
    (kh, kw), (sh, sw), (ph, pw) = _pairs(layer)
    oh, ow = getattr(layer, "output_padding")  # noqa: B009
    h, w = (a.shape[2] - 1) * sh - 2 * ph + kh + oh, (a.shape[3] - 1) * sw - 2 * pw + kw + ow
    columns = weight.flatten(1).T @ a.flatten(2)
    return F.fold(columns, (h, w), (kh, kw), padding=(ph, pw), stride=(sh, sw))


def _pairs(layer: nn.Module) -> tuple[tuple[int, int], ...]:
    """Kernel size, stride and padding, each as (vertical, horizontal)."""
    return tuple(getattr(layer, name) for name in ("kernel_size", "stride", "padding"))
