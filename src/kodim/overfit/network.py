"""The networks of the picture's decoder, in floats: upsampling, synthesis, features and entropy model.

All are functions of `net`, a dictionary of tensors that may have a batch dimension in front (B, ...); maps are
(B, C, h, w), and everything that is no filter is a product of matrices on (B, C, N).
:mod:`kodim.overfit.exact` is the same in integers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .pyramid import FEATURES, GRIDS, LEVELS, TAPS, coarser

Net = Mapping[str, Tensor]
Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
CUBIC = (-0.03515625, -0.10546875, 0.26171875, 0.87890625)  # the quarter-phase cubic filter, as (a, b, c, d)


@dataclass(frozen=True)
class Sizes:
    """How large the networks are.

    Attributes:
        context: spatial neighbours that the entropy model sees.
        features: inter-level features that it sees.
        hidden: channels between the two 1x1 layers of the synthesis.
        residuals: 3x3 layers behind them.
    """

    context: int
    features: int
    hidden: int
    residuals: int

    @property
    def width(self) -> int:
        return self.context + self.features

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor: weights (out, in), biases (out,), filters (levels, 4)."""
        c, hidden = self.width, self.hidden
        shapes: dict[str, tuple[int, ...]] = {}
        for name, out, fan in (("arm0", c, c), ("arm1", c, c), ("arm2", 2, c)):
            shapes |= {f"{name}_w": (out, fan), f"{name}_b": (out,)}
        shapes["arm_skip_w"] = (2, c)
        for level in FEATURES:
            shapes |= {f"ifce{level}_w": (self.features, len(coarser(level))), f"ifce{level}_b": (self.features,)}
        shapes |= {"syn0_w": (hidden, LEVELS), "syn0_b": (hidden,), "syn1_w": (3, hidden), "syn1_b": (3,)}
        for i in range(self.residuals):
            shapes |= {f"syn_res{i}_w": (3, 27), f"syn_res{i}_b": (3,)}
        shapes["syn_skip_w"] = (3, LEVELS)
        shapes["up_w"] = (LEVELS - 1, 4)
        return shapes

    def macs_per_pixel(self) -> float:
        """Multiply-accumulates of the decoder for each pixel of a picture."""
        c, values = self.width, sum(4.0**-g.level for g in GRIDS)
        arm = values * (2 * c * c + 4 * c)
        ifce = sum(self.features * len(coarser(level)) * 4.0 ** -(level + 1) for level in FEATURES)
        synthesis = LEVELS * self.hidden + 3 * self.hidden + 3 * LEVELS + 81 * self.residuals
        upsampling = sum((LEVELS - 1 - k) * 4.0**-k * (2 + 4) for k in range(LEVELS - 1))
        return arm + ifce + synthesis + upsampling


def start(sizes: Sizes) -> dict[str, Tensor]:
    """Random networks to start from: residual layers at nothing, filters cubic, a synthesis that paints grey."""
    net = {}
    for name, shape in sizes.shapes().items():
        if name == "up_w":
            net[name] = torch.tensor(CUBIC).repeat(LEVELS - 1, 1)
        elif name.endswith("_b") or name in ("arm0_w", "arm1_w") or name.startswith("syn_res"):
            net[name] = torch.zeros(shape)
        elif name in ("arm2_w", "arm_skip_w"):
            net[name] = 0.1 * torch.randn(shape)
        elif name.startswith("ifce"):
            net[name] = torch.randn(shape) / sizes.features**2
        else:
            net[name] = torch.randn(shape) * (0.3 if name == "syn0_w" else 0.06)
    net["syn1_b"] += 0.5
    return net


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, in, N) -> (B, out, N)."""
    out = weight @ x
    return out if bias is None else out + bias[..., None]


def features(net: Net, grids: Sequence[Tensor], level: int) -> Tensor:
    """What the entropy model of `level` is told of all coarser grids (B, 1, h, w) -> (B, F, h_level, w_level)."""
    weight, bias = net[f"ifce{level}_w"], net[f"ifce{level}_b"]
    total: Tensor | None = None
    for column, index in reversed(list(enumerate(coarser(level)))):
        if total is not None and GRIDS[index].level != GRIDS[index + 1].level:
            total = double(total)
        term = weight[..., :, column, None, None] * grids[index]
        total = term if total is None else total + term
    assert total is not None
    return double(total + bias[..., None, None])


def double(x: Tensor) -> Tensor:
    """Nearest neighbours: (.., h, w) -> (.., 2h, 2w)."""
    *start, h, w = x.shape
    return x[..., :, None, :, None].expand(*start, h, 2, w, 2).reshape(*start, 2 * h, 2 * w)


def neighbours(grid: Tensor, count: int) -> Tensor:
    """Causal neighbours of every position, zero outside: (B, 1, h, w) -> (B, count, h w)."""
    h, w = grid.shape[-2:]
    reach = max(max(-dy, abs(dx)) for dy, dx in TAPS[:count])
    padded = F.pad(grid[:, 0], (reach, reach, reach, 0))
    views = [padded[:, reach + dy : reach + dy + h, reach + dx : reach + dx + w] for dy, dx in TAPS[:count]]
    return torch.stack(views, 1).flatten(2)


def entropy(net: Net, x: Tensor, linear: Linear = affine) -> Tensor:
    """Neighbours and features (B, C, N) -> mean and log-scale (B, 2, N)."""
    h = torch.relu(linear(x, net["arm0_w"], net["arm0_b"]) + x)
    h = torch.relu(linear(h, net["arm1_w"], net["arm1_b"]) + h)
    return linear(h, net["arm2_w"], net["arm2_b"]) + linear(x, net["arm_skip_w"], None)


def upsample(net: Net, grids: Sequence[Tensor], settle: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """The grids (B, 1, h, w), fine before coarse -> (B, LEVELS, H, W), the finest first; `settle` follows each pass."""
    shown = [g for g, grid in zip(grids, GRIDS, strict=True) if not grid.hyper]
    x = shown[-1]
    for level in range(LEVELS - 2, -1, -1):
        taps = net["up_w"][..., level, :]
        x = torch.cat((shown[level], settle(twice(settle(twice(x, taps, -2)), taps, -1))), 1)
    return x


def twice(x: Tensor, taps: Tensor, dim: int) -> Tensor:
    """Upsampling by 2 along one dimension of (B, C, h, w), edges repeated: a polyphase filter of eight taps.

    Of `taps` (.., 4) = (a, b, c, d): even outputs are a x[-2] + c x[-1] + d x[0] + b x[1], odd ones the mirror image.
    """
    a, b, c, d = (taps[..., i].reshape(-1, 1, 1, 1) for i in range(4))
    size = x.shape[dim]
    index = torch.arange(-2, size + 2, device=x.device).clamp(0, size - 1)
    wide = x.index_select(dim, index)
    v = [wide.narrow(dim, i, size) for i in range(5)]
    even = a * v[0] + c * v[1] + d * v[2] + b * v[3]
    odd = b * v[1] + d * v[2] + c * v[3] + a * v[4]
    return torch.stack((even, odd), dim % 4 + 1).flatten(dim % 4, dim % 4 + 1)


def synthesis(net: Net, x: Tensor, edges: tuple[bool, bool] = (True, True), linear: Linear = affine) -> Tensor:
    """(B, LEVELS, h, w) -> the picture (B, 3, h, w), not clamped.

    `edges` says whether the first and the last row are those of the picture. Where they are not, each 3x3 layer
    leaves a row out there.
    """
    h, w = x.shape[2:]
    flat = x.flatten(2)
    out = linear(torch.relu(linear(flat, net["syn0_w"], net["syn0_b"])), net["syn1_w"], net["syn1_b"])
    picture = out.unflatten(2, (h, w))
    cut_top, cut_bottom = (0 if edge else 1 for edge in edges)
    for i in range(residuals(net)):
        wide = F.pad(picture, (1, 1, 1 - cut_top, 1 - cut_bottom), mode="replicate")
        rows = wide.shape[2] - 2
        columns = torch.stack([wide[:, :, dy : dy + rows, dx : dx + w] for dy in range(3) for dx in range(3)], 2)
        change = linear(columns.flatten(1, 2).flatten(2), net[f"syn_res{i}_w"], net[f"syn_res{i}_b"])
        picture = wide[:, :, 1 : 1 + rows, 1 : 1 + w] + change.unflatten(2, (rows, w))
    inner = x[:, :, cut_top * residuals(net) : h - cut_bottom * residuals(net)]
    return picture + linear(inner.flatten(2), net["syn_skip_w"], None).unflatten(2, tuple(inner.shape[2:]))


def residuals(net: Net) -> int:
    """3x3 layers of the synthesis."""
    return sum(name.startswith("syn_res") and name.endswith("_w") for name in net)
