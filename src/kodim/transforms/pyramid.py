"""Strided convolution pyramids: the analysis and synthesis of the hyper-prior family."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from .gdn import GDN

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d)


def down(c_in: int, c_out: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """Convolution that divides height and width by `stride`; starts out preserving the variance."""
    return _start(nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2), c_in * kernel**2)


def up(c_in: int, c_out: int, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """Transposed convolution that multiplies height and width by `stride`; starts out preserving the variance."""
    layer = nn.ConvTranspose2d(c_in, c_out, kernel, stride, kernel // 2, output_padding=stride - 1)
    return _start(layer, c_in * kernel**2 / stride**2)


def _start(layer: Layer, fan_in: float) -> Layer:
    """PyTorch's own start shrinks the signal by sqrt(3) a layer, which costs a short training many steps."""
    nn.init.normal_(layer.weight, std=fan_in**-0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class _Full(nn.Module):
    """Runs its layer in float32 inside a bfloat16 region.

    Eight bits of mantissa would round a latent of 100 by half a step, as much as the quantiser itself.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.to(next(self.layer.parameters()).dtype))


def analysis(widths: Sequence[int], kernels: Sequence[int], strides: Sequence[int], *, gdn_last: bool) -> nn.Sequential:
    """(B, 3, H, W) in [0, 1] -> (B, widths[-1], H/s, W/s), s the product of `strides`; GDN between the layers."""
    layers: list[nn.Module] = []
    for c_in, c_out, kernel, stride in zip((3, *widths), widths, kernels, strides, strict=False):
        layers += [down(c_in, c_out, kernel, stride), GDN(c_out)]
    if not gdn_last:
        layers.pop()
    layers[-1 - gdn_last] = _Full(layers[-1 - gdn_last])
    if gdn_last:
        layers[-1] = _Full(layers[-1])
    return nn.Sequential(*layers)


def synthesis(
    widths: Sequence[int], kernels: Sequence[int], strides: Sequence[int], *, gdn_first: bool
) -> nn.Sequential:
    """The mirror of :func:`analysis`, called with the same arguments: latents -> (B, 3, H, W), not clamped."""
    layers: list[nn.Module] = []
    outs = (*reversed(widths[:-1]), 3)
    for c_in, c_out, kernel, stride in zip(reversed(widths), outs, reversed(kernels), reversed(strides), strict=True):
        layers += [GDN(c_in, inverse=True), up(c_in, c_out, kernel, stride)]
    if not gdn_first:
        layers.pop(0)
    nn.init.constant_(layers[-1].bias, 0.5)  # type: ignore[arg-type]  # mid-grey
    layers[-1] = _Full(layers[-1])
    return nn.Sequential(*layers)
