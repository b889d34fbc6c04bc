"""Bits and error of a picture with their gradients, computed in pieces that fit in a processor's cache.

Fitting is many steps through small networks at half a million positions. Taken whole, every operation streams
megabytes through memory, and that is what takes the time. Here the forward pass goes piece by piece, computes each
piece's gradients while its values are still in the cache, and keeps only their sums.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import network
from .laplace import price_and_slopes
from .network import Net
from .pyramid import GRIDS, TAPS

POSITIONS = 1 << 15  # of a piece of the entropy model
PIXELS = 1 << 15  # pixels of a piece of the synthesis

_gate = torch.ops.aten.threshold_backward  # (gradient, output, 0): where a rectifier let values through

ENTROPY = ("arm0_w", "arm0_b", "arm1_w", "arm1_b", "arm2_w", "arm2_b", "arm_skip_w")


def bits(net: Net, grid: Tensor, side: Tensor | None, context: int) -> Tensor:
    """Bits of a (noisy) grid (h, w), given `context` neighbours and its features (F, h, w), if any: a scalar."""
    return _Bits.apply(grid, side, context, *(net[n] for n in ENTROPY))


def error(net: Net, x: Tensor, target: Tensor) -> Tensor:
    """Sum of squared errors of the synthesis of x (1, 7, H, W), within target (1, 3, <= H, <= W); differentiable."""
    middle = [f"syn_res{i}_{kind}" for i in range(network.residuals(net)) for kind in "wb"]
    names = ["syn0_w", "syn0_b", "syn1_w", "syn1_b", *middle, "syn_skip_w"]
    return _Error.apply(x, target, *(net[n] for n in names))


class _Bits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, side: Tensor | None, context: int, *weights: Tensor) -> Tensor:
        total, grads = _bits(grid, side, context, weights)
        ctx.save_for_backward(*grads)
        ctx.with_side = side is not None
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [g * grad for g in ctx.saved_tensors]
        by_side = grads.pop(1) if ctx.with_side else None
        return (grads[0], by_side, None, *grads[1:])


def _bits(grid: Tensor, side: Tensor | None, context: int, weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The bits, and their gradients by grid, features (if any) and weights.

    The grid gets a border of zeros and is then one long row, of which every neighbour's values are a slice.
    """
    h, w = grid.shape
    taps, told = TAPS[:context], 0 if side is None else len(side)
    border = max(max(-dy, abs(dx)) for dy, dx in taps)
    stride = w + 2 * border
    flat = F.pad(grid, (border, border, border, 0)).flatten()
    extra = None if side is None else F.pad(side, (border, border)).flatten(1)
    by_flat = torch.zeros_like(flat)
    by_extra = None if extra is None else torch.empty_like(extra)
    sums = [torch.zeros_like(v) for v in weights]
    used = len(taps) + told  # inputs of levels without features are zero: left out
    model = _Model(weights, used)
    total = grid.new_zeros(())
    rows = max(POSITIONS // stride, 1)
    offsets = [dy * stride + dx for dy, dx in taps]
    for top in range(0, h, rows):
        n = (min(top + rows, h) - top) * stride
        first = (top + border) * stride
        x = grid.new_empty(used, n)
        for i, offset in enumerate(offsets):
            x[i] = flat[first + offset : first + offset + n]
        if extra is not None:
            x[len(taps) :] = extra[:, top * stride : top * stride + n]
        part, by_value, by_x = model.run(x, flat[first : first + n], stride, border, sums)
        total += part
        by_flat[first : first + n] += by_value
        for i, offset in enumerate(offsets):
            by_flat[first + offset : first + offset + n] += by_x[i]
        if by_extra is not None:
            by_extra[:, top * stride : top * stride + n] = by_x[len(taps) :]
    grads = [by_flat.view(h + border, stride)[border:, border : border + w]]
    if by_extra is not None:
        grads.append(by_extra.view(told, h, stride)[:, :, border : border + w])
    return total, grads + sums


class _Model:
    """The entropy model on `used` of its inputs, forwards and backwards at once."""

    def __init__(self, weights: Sequence[Tensor], used: int) -> None:
        w0, b0, w1, b1, w2, b2, skip = weights
        eye = torch.eye(len(w0))
        self.w0, self.w1, self.w2, self.skip = (w0 + eye)[:, :used], w1 + eye, w2, skip[:, :used]
        self.b0, self.b1, self.b2, self.used = b0[:, None], b1[:, None], b2[:, None], used

    def run(
        self, x: Tensor, value: Tensor, stride: int, border: int, sums: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bits of values (n,) with inputs x (used, n), and the gradients by both; those of weights go to `sums`."""
        h0 = torch.addmm(self.b0, self.w0, x).relu_()
        h1 = torch.addmm(self.b1, self.w1, h0).relu_()
        out = torch.addmm(self.b2, self.w2, h1).addmm_(self.skip, x)
        price, by_value, by_scale = price_and_slopes(value - out[0], out[1])
        by_out = torch.stack((by_value.neg(), by_scale))
        for t in (price, by_value, by_out):  # the border is not coded
            lines = t.view(-1, t.shape[-1] // stride, stride)
            lines[..., :border] = 0
            lines[..., stride - border :] = 0
        by_h1 = _gate(torch.mm(self.w2.T, by_out), h1, 0.0)
        by_h0 = _gate(torch.mm(self.w1.T, by_h1), h0, 0.0)
        sums[0][:, : self.used].addmm_(by_h0, x.T)
        sums[1].add_(by_h0.sum(1))
        sums[2].addmm_(by_h1, h0.T)
        sums[3].add_(by_h1.sum(1))
        sums[4].addmm_(by_out, h1.T)
        sums[5].add_(by_out.sum(1))
        sums[6][:, : self.used].addmm_(by_out, x.T)
        by_x = torch.mm(self.w0.T, by_h0).addmm_(self.skip.T, by_out)
        return price.sum(), by_value, by_x


class _Error(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, *weights: Tensor) -> Tensor:
        total, grads = _error(x, target, weights)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_x, *rest = (g * grad for g in ctx.saved_tensors)
        return (by_x, None, *rest)


def _error(x: Tensor, target: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Squared error, and its gradients by x and the weights; band after band of rows."""
    (height, width), end_of_x = target.shape[2:], x.shape[2]
    model = _Painter(weights)
    by_x, total = torch.zeros_like(x), x.new_zeros(())
    rows = max(PIXELS // x.shape[3], 2)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        first, last = max(top - model.halo, 0), min(end + model.halo, end_of_x)
        picture = model.paint(x[:, :, first:last], (first == 0, last == end_of_x))
        skip = top - first if first == 0 else 0
        wrong = picture[:, :, skip : skip + end - top, :width] - target[:, :, top:end]
        total += wrong.square().sum()
        below, right = picture.shape[2] - skip - (end - top), picture.shape[3] - width
        by_x[:, :, first:last] += model.blame(F.pad(wrong.mul_(2), (0, right, skip, below)))
    return total, [by_x, *model.sums]


class _Painter:
    """:func:`network.synthesis` of bands, and its gradients, which are summed up in `sums`."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.sums = [torch.zeros_like(v) for v in weights]
        (self.w0, b0, self.w1, b1, *rest), self.skip = weights[:-1], weights[-1]
        self.b0, self.b1 = b0[:, None], b1[:, None]
        self.biases = rest[1::2]
        self.kernels = [w.view(3, 3, 3, 3).clone() for w in rest[::2]]
        for kernel in self.kernels:  # the layers are residual
            kernel[:, :, 1, 1] += torch.eye(3)
        self.halo = len(self.kernels)

    def paint(self, x: Tensor, edges: tuple[bool, bool]) -> Tensor:
        """(1, 7, h, w) -> (1, 3, h', w), as :func:`network.synthesis`."""
        (h, w), self.x = x.shape[2:], x[0].flatten(1)
        self.pads = [0 if edge else 1 for edge in edges]  # rows that each 3x3 layer uses up
        self.hidden = torch.addmm(self.b0, self.w0, self.x).relu_()
        picture = torch.addmm(self.b1, self.w1, self.hidden).view(1, 3, h, w)
        self.wide = []
        top, bottom = self.pads
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            self.wide.append(F.pad(picture, (1, 1, 1 - top, 1 - bottom), mode="replicate"))
            picture = F.conv2d(self.wide[-1], kernel, bias)
        self.inner = self.x[:, top * self.halo * w : (h - bottom * self.halo) * w]
        return picture + (self.skip @ self.inner).view_as(picture)

    def blame(self, grad: Tensor) -> Tensor:
        """Gradient by the picture (1, 3, h', w) -> that by x (1, 7, h, w)."""
        (top, bottom), w = self.pads, grad.shape[3]
        by_picture = grad[0].flatten(1)
        self.sums[-1].addmm_(by_picture, self.inner.T)
        by_inner = self.skip.T @ by_picture
        for i in reversed(range(self.halo)):
            self._blame_kernel(i, grad)
            flipped = self.kernels[i].flip(2, 3).transpose(0, 1)
            wide = F.conv2d(grad, flipped, padding=2)
            for dim, before, after in (
                (2, 1 - top, 1 - bottom),
                (3, 1, 1),
            ):  # repeated edges answer to what they repeat
                size = wide.shape[dim]
                if before:
                    wide.narrow(dim, 1, 1).add_(wide.narrow(dim, 0, 1))
                if after:
                    wide.narrow(dim, size - 2, 1).add_(wide.narrow(dim, size - 1, 1))
                wide = wide.narrow(dim, before, size - before - after)
            grad = wide.contiguous()
        by_picture = grad[0].flatten(1)
        by_hidden = _gate(self.w1.T @ by_picture, self.hidden, 0.0)
        self.sums[0].addmm_(by_hidden, self.x.T)
        self.sums[1].add_(by_hidden.sum(1))
        self.sums[2].addmm_(by_picture, self.hidden.T)
        self.sums[3].add_(by_picture.sum(1))
        by_x = self.w0.T @ by_hidden
        by_x[:, top * self.halo * w : by_x.shape[1] - bottom * self.halo * w] += by_inner
        return by_x.view(1, -1, grad.shape[2], w)

    def _blame_kernel(self, i: int, grad: Tensor) -> None:
        """A tap's gradient is a product of two matrices: values that far on in the padded rows, and `grad` as wide."""
        wide, stride = self.wide[i][0].flatten(1), grad.shape[3] + 2
        by = F.pad(grad[0], (0, 2)).flatten(1)[:, :-2]
        sums = self.sums[4 + 2 * i].view(3, 3, 9)
        for tap in range(9):
            offset = tap // 3 * stride + tap % 3
            sums[:, :, tap] += by @ wide[:, offset : offset + by.shape[1]].T
        self.sums[5 + 2 * i].add_(grad.sum((0, 2, 3)))


def upsample(filters: Sequence[tuple[float, ...]], grids: Sequence[Tensor]) -> Tensor:
    """:func:`network.upsample` with filters (level by level) that are not fitted."""
    shown = [g for g, grid in zip(grids, GRIDS, strict=True) if not grid.hyper]
    x = shown[-1]
    for level in range(len(filters) - 1, -1, -1):
        x = _Twice.apply(_Twice.apply(x, filters[level], 2), filters[level], 3)
        x = torch.cat((shown[level], x), 1)
    return x


class _Twice(torch.autograd.Function):
    """:func:`network.twice` and its adjoint, as sums of shifted values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: tuple[float, ...], dim: int) -> Tensor:
        ctx.taps, ctx.dim = taps, dim
        (a, b, c, d), n = taps, x.shape[dim]
        wide = F.pad(x, (2, 2, 0, 0) if dim == 3 else (0, 0, 2, 2), mode="replicate")
        v = [wide.narrow(dim, i, n) for i in range(5)]
        even = (v[0] * a).add_(v[1], alpha=c).add_(v[2], alpha=d).add_(v[3], alpha=b)
        odd = (v[1] * b).add_(v[2], alpha=d).add_(v[3], alpha=c).add_(v[4], alpha=a)
        return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (a, b, c, d), dim = ctx.taps, ctx.dim
        even, odd = (g.contiguous() for g in grad.unflatten(dim, (-1, 2)).unbind(dim + 1))
        n = even.shape[dim]
        shape = list(even.shape)
        shape[dim] += 4
        wide = grad.new_zeros(shape)
        for i, (e, o) in enumerate(((a, 0.0), (c, b), (d, d), (b, c), (0.0, a))):
            part = wide.narrow(dim, i, n)
            if e:
                part.add_(even, alpha=e)
            if o:
                part.add_(odd, alpha=o)
        by_x = wide.narrow(dim, 2, n)
        by_x.narrow(dim, 0, 1).add_(wide.narrow(dim, 0, 2).sum(dim, keepdim=True))
        by_x.narrow(dim, n - 1, 1).add_(wide.narrow(dim, n + 2, 2).sum(dim, keepdim=True))
        return by_x, None, None
