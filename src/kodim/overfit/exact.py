"""The decoder's networks in integers, so that tables and pixels are the same on every machine.

Weights and biases are multiples of 2^-16, activations of 2^-12, both carried in float64. Weights stay within +-16,
activations within +-16384, and no sum has more than 64 terms, so all stay below 2^53 and are exact in any order.
Every layer ends in rounding, halves up.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import network
from .network import Net

WEIGHT, ACTIVATION = 2.0**16, 2.0**12  # units in 1
WEIGHT_LIMIT, LIMIT = 2.0**20, 2.0**26
MAX_LATENT = 127.0
BAND = 1 << 17  # positions done at a time, to bound memory
_HUNDREDTHS = 10_000  # of quality


def fixed(value: Tensor) -> Tensor:
    """Parameters -> float64 integers in units of 2^-16."""
    return torch.floor(value.detach().double() * WEIGHT + 0.5).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)


def interpolated(common: Tensor, own: Tensor, level: Tensor) -> Tensor:
    """Parameters (...) plus those of each anchor (K, ...) at rate levels (B,) -> (B, ...), as :func:`fixed`.

    A level counts in hundredths of quality, as files keep it.
    """
    anchors = fixed(common) + fixed(own)
    last = max(len(own) - 1, 1)
    place = torch.floor(level.double() * (_HUNDREDTHS / last) + 0.5) * last
    below = torch.floor(place / _HUNDREDTHS).clamp(0, max(len(own) - 2, 0))
    share = (place - below * _HUNDREDTHS).reshape(-1, *[1] * common.ndim)
    low = below.long()
    mixed = anchors[low] * (_HUNDREDTHS - share) + anchors[(low + 1).clamp_max(len(own) - 1)] * share
    return torch.floor((mixed + _HUNDREDTHS / 2) / _HUNDREDTHS).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)


def settle(sums: Tensor) -> Tensor:
    """Products of activations and weights -> activations."""
    return sums.mul_(1 / WEIGHT).add_(0.5).floor_().clamp_(-LIMIT, LIMIT)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, in, N) -> (B, out, N), on activations."""
    out = weight @ x
    return settle(out if bias is None else out.add_(bias[..., None] * ACTIVATION))


def features(net: Net, grids: Sequence[Tensor], level: int) -> Tensor:
    """What the entropy model of `level` is told of integer grids (B, 1, h, w): activations (B, F, h_level, w_level)."""
    return network.features(net, grids, level).mul_(ACTIVATION / WEIGHT).add_(0.5).floor_().clamp_(-LIMIT, LIMIT)


def entropy(net: Net, x: Tensor) -> Tensor:
    """Activations (B, C, N) -> mean and log-scale (B, 2, N), activations."""
    return network.entropy(net, x, linear)


def picture(net: Net, grids: Sequence[Tensor]) -> Tensor:
    """Integer grids (B, 1, h, w), fine before coarse -> the picture (B, 3, H, W), multiples of 1/255 in float64."""
    x = network.upsample(net, [g * ACTIVATION for g in grids], settle)
    height, width = x.shape[2:]
    halo = network.residuals(net)
    out = x.new_empty(len(x), 3, height, width)
    rows = max(BAND // width, 1)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        first, last = max(top - halo, 0), min(end + halo, height)
        # A band that starts inside the picture is painted from `halo` rows before it, each layer using up one.
        painted = _paint(net, x[:, :, first:last], (first == 0, last == height))
        skip = top - first if first == 0 else 0
        out[:, :, top:end] = painted[:, :, skip : skip + end - top]
    return out


def _paint(net: Net, x: Tensor, edges: tuple[bool, bool]) -> Tensor:
    values = network.synthesis(net, x, edges, linear)
    return (values * 255 + ACTIVATION / 2).mul_(1 / ACTIVATION).floor_().clamp_(0, 255).div_(255)
