"""Bits and error of a picture with their gradients, computed in pieces that fit in a processor's cache.

Fitting is many steps through small networks at half a million positions. Taken whole, every operation streams
megabytes through memory, and that is what takes the time. Here the forward pass goes piece by piece, computes each
piece's gradients while its values are still in the cache, and keeps only their sums.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import network
from .laplace import price_and_slopes
from .network import Net
from .pyramid import GRIDS, TAPS, coarser

POSITIONS = 1 << 15  # of a piece of the entropy model
PIXELS = 1 << 15  # pixels of a piece of the synthesis

LANES = 16  # a product with the transpose of a matrix of 14 rows takes three times as long as one of 16

_threshold = torch.ops.aten.threshold_backward.grad_input


def _gate(gradient: Tensor, output: Tensor) -> Tensor:
    """Where a rectifier let values through, in place."""
    return _threshold(gradient, output, 0.0, grad_input=gradient)


class _Scratch(threading.local):
    """Memory that is used again by each piece and each step: the system takes its time to hand out fresh pages."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def __call__(self, name: str, rows: int, n: int) -> Tensor:
        """(rows, n), with what was left there; the same memory as any other of that name."""
        kept = self._kept.get(name)
        if kept is None or kept.numel() < rows * n:
            kept = self._kept[name] = torch.empty(rows * n)
        return kept[: rows * n].view(rows, n)

    def lanes(self, name: str, rows: int, n: int) -> Tensor:
        """`rows` to fill, a row of ones, which is what biases multiply, and zeros: (a multiple of LANES, n)."""
        whole = self(name, -(-(rows + 1) // LANES) * LANES, n)
        whole[rows] = 1
        whole[rows + 1 :] = 0
        return whole


_scratch = _Scratch()

ENTROPY = ("arm0_w", "arm0_b", "arm1_w", "arm1_b", "arm2_w", "arm2_b", "arm_skip_w")


def bits(net: Net, grid: Tensor, side: Tensor | None, context: int) -> Tensor:
    """Bits of a (noisy) grid (h, w), given `context` neighbours and its features (F, h, w), if any: a scalar."""
    return _Bits.apply(grid, side, context, *(net[n] for n in ENTROPY))


def features(net: Net, grids: Sequence[Tensor], level: int) -> Tensor:
    """:func:`network.features` of grids (1, 1, h, w): (F, h_level, w_level)."""
    seen = coarser(level)
    places = [GRIDS[i].level for i in seen]
    return _Features.apply(places, net[f"ifce{level}_w"], net[f"ifce{level}_b"], *(grids[i][0, 0] for i in seen))


def error(net: Net, x: Tensor, target: Tensor) -> Tensor:
    """Sum of squared errors of the synthesis of x (1, 7, H, W), within target (1, 3, <= H, <= W); differentiable."""
    middle = [f"syn_res{i}_{kind}" for i in range(network.residuals(net)) for kind in "wb"]
    names = ["syn0_w", "syn0_b", "syn1_w", "syn1_b", *middle, "syn_skip_w"]
    return _Error.apply(x, target, *(net[n] for n in names))


class _Features(torch.autograd.Function):
    """Sums from coarse to fine, each of as few values as it can be of; gradients go the same way back."""

    @staticmethod
    def forward(ctx: Any, places: list[int], weight: Tensor, bias: Tensor, *grids: Tensor) -> Tensor:
        ctx.places = places
        ctx.save_for_backward(weight, *grids)
        total = bias[:, None, None]
        for column in reversed(range(len(grids))):
            grid = grids[column]
            total = torch.addcmul(total, weight[:, column, None, None], grid)
            if column == 0 or places[column - 1] != places[column]:
                total = network.double(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, *grids = ctx.saved_tensors
        by_weight, by_grids = torch.empty_like(weight), []
        grad = _halved(grad)
        by_bias = grad.sum((1, 2))
        for column, grid in enumerate(grids):
            if column and ctx.places[column] != ctx.places[column - 1]:
                grad = _halved(grad)
            by_weight[:, column] = grad.flatten(1) @ grid.flatten()
            by_grids.append((weight[:, column] @ grad.flatten(1)).view_as(grid))
        return None, by_weight, by_bias, *by_grids


def _halved(x: Tensor) -> Tensor:
    """The adjoint of :func:`network.double`."""
    return F.avg_pool2d(x[None], 2)[0].mul_(4)


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
    used = len(taps) + told  # inputs of levels without features are zero: left out
    model = _Model(weights, used)
    total = grid.new_zeros(())
    rows = max(POSITIONS // stride, 1)
    coded = F.pad(grid.new_ones(rows, w), (border, border)).flatten()  # the border is not
    offsets = [dy * stride + dx for dy, dx in taps]
    for top in range(0, h, rows):
        n = (min(top + rows, h) - top) * stride
        first, here = (top + border) * stride, slice(top * stride, top * stride + n)
        x = _scratch.lanes("x", used, n)
        for row, offset in zip(x, offsets, strict=False):
            row.copy_(flat[first + offset : first + offset + n])
        if extra is not None:
            x[len(taps) : used] = extra[:, here]
        part, by_value, by_x = model.run(x, flat[first : first + n], coded[:n])
        total += part
        by_flat[first : first + n].add_(by_value)
        for row, offset in zip(by_x, offsets, strict=False):
            by_flat[first + offset : first + offset + n].add_(row)
        if by_extra is not None:
            by_extra[:, here] = by_x[len(taps) :]
    grads = [by_flat.view(h + border, stride)[border:, border : border + w]]
    if by_extra is not None:
        grads.append(by_extra.view(told, h, stride)[:, :, border : border + w])
    return total, grads + model.sums()


class _Model:
    """The entropy model on `used` of its inputs, forwards and backwards at once."""

    def __init__(self, weights: Sequence[Tensor], used: int) -> None:
        w0, b0, w1, b1, w2, b2, skip = weights
        self.used, self.width = used, len(w0)
        eye = torch.eye(self.width)
        self.w0, self.w1, self.w2, self.skip = (w0 + eye)[:, :used], w1 + eye, w2, skip[:, :used]
        # With the bias as the last column, for inputs whose last row is of ones.
        self.first, self.second, self.third = (
            torch.cat((w, b[:, None]), 1) for w, b in ((self.w0, b0), (self.w1, b1), (self.w2, b2))
        )
        inputs, hidden = (-(-(n + 1) // LANES) * LANES for n in (used, self.width))
        self.by_first, self.by_skip = w0.new_zeros(self.width, inputs), w0.new_zeros(2, inputs)
        self.by_second, self.by_third = w0.new_zeros(self.width, hidden), w0.new_zeros(2, hidden)

    def run(self, x: Tensor, value: Tensor, coded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bits of values (n,) where `coded` is 1, with inputs x (`used`, a row of ones and more, n).

        Returns them and the gradients by both; those of weights are summed up.
        """
        used, width, n = self.used, self.width, x.shape[1]
        h0, h1 = (_scratch.lanes(f"h{i}", width, n) for i in range(2))
        torch.mm(self.first, x[: used + 1], out=h0[:width]).relu_()
        torch.mm(self.second, h0[: width + 1], out=h1[:width]).relu_()
        out = torch.mm(self.third, h1[: width + 1], out=_scratch("out", 2, n)).addmm_(self.skip, x[:used])
        price, by_value, by_scale = price_and_slopes(value - out[0], out[1])
        by_value.mul_(coded)
        torch.neg(by_value, out=out[0])
        torch.mul(by_scale, coded, out=out[1])
        by_h1 = _gate(torch.mm(self.w2.T, out, out=_scratch("by_h1", width, n)), h1[:width])
        by_h0 = _gate(torch.mm(self.w1.T, by_h1, out=_scratch("by_h0", width, n)), h0[:width])
        self.by_first.addmm_(by_h0, x.T)
        self.by_second.addmm_(by_h1, h0.T)
        self.by_third.addmm_(out, h1.T)
        self.by_skip.addmm_(out, x.T)
        by_x = torch.mm(self.w0.T, by_h0, out=_scratch("by_x", used, n)).addmm_(self.skip.T, out)
        return price @ coded, by_value, by_x

    def sums(self) -> list[Tensor]:
        """Gradients by the weights, of all pieces so far."""
        used, width = self.used, self.width
        rest = (0, width - used)
        first, skip = F.pad(self.by_first[:, :used], rest), F.pad(self.by_skip[:, :used], rest)
        second, third = ((by[:, :width], by[:, width]) for by in (self.by_second, self.by_third))
        return [first, self.by_first[:, used], *second, *third, skip]


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
        by_x[:, :, first:last].add_(model.blame(F.pad(wrong.mul_(2), (0, right, skip, below))))
    return total, [by_x, *model.sums]


class _Painter:
    """:func:`network.synthesis` of bands, and its gradients, which are summed up in `sums`."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.sums = [torch.zeros_like(v) for v in weights]
        (self.w0, b0, self.w1, b1, *rest), self.skip = weights[:-1], weights[-1]
        self.b0, self.b1 = b0[:, None], b1[:, None]
        self.layers = [
            _Layer(f"layer{i}", w, b, *self.sums[4 + 2 * i : 6 + 2 * i])
            for i, (w, b) in enumerate(zip(rest[::2], rest[1::2], strict=True))
        ]
        self.halo = len(self.layers)

    def paint(self, x: Tensor, edges: tuple[bool, bool]) -> Tensor:
        """(1, 7, h, w) -> (1, 3, h', w), as :func:`network.synthesis`."""
        (h, w), self.x = x.shape[2:], x[0].flatten(1)
        self.pads = [0 if edge else 1 for edge in edges]  # rows that each 3x3 layer uses up
        top, bottom = self.pads
        self.hidden = torch.addmm(self.b0, self.w0, self.x, out=_scratch("hidden", len(self.w0), h * w)).relu_()
        picture = torch.addmm(self.b1, self.w1, self.hidden).view(1, 3, h, w)
        for layer in self.layers:
            picture = layer.forward(F.pad(picture, (1, 1, 1 - top, 1 - bottom), mode="replicate"))
        self.inner = self.x[:, top * self.halo * w : (h - bottom * self.halo) * w]
        return picture + (self.skip @ self.inner).view_as(picture)

    def blame(self, grad: Tensor) -> Tensor:
        """Gradient by the picture (1, 3, h', w) -> that by x (1, 7, h, w)."""
        (top, bottom), w = self.pads, grad.shape[3]
        by_picture = grad[0].flatten(1)
        self.sums[-1].addmm_(by_picture, self.inner.T)
        by_inner = self.skip.T @ by_picture
        for layer in reversed(self.layers):
            wide = layer.backward(grad)
            # Repeated edges answer to what they repeat.
            for dim, before, after in ((2, 1 - top, 1 - bottom), (3, 1, 1)):
                size = wide.shape[dim]
                if before:
                    wide.narrow(dim, 1, 1).add_(wide.narrow(dim, 0, 1))
                if after:
                    wide.narrow(dim, size - 2, 1).add_(wide.narrow(dim, size - 1, 1))
                wide = wide.narrow(dim, before, size - before - after)
            grad = wide.contiguous()
        by_picture = grad[0].flatten(1)
        by_hidden = torch.mm(self.w1.T, by_picture, out=_scratch("by_hidden", *self.hidden.shape))
        _gate(by_hidden, self.hidden)
        self.sums[0].addmm_(by_hidden, self.x.T)
        self.sums[1].add_(by_hidden.sum(1))
        self.sums[2].addmm_(by_picture, self.hidden.T)
        self.sums[3].add_(by_picture.sum(1))
        by_x = self.w0.T @ by_hidden
        by_x[:, top * self.halo * w : by_x.shape[1] - bottom * self.halo * w].add_(by_inner)
        return by_x.view(1, -1, grad.shape[2], w)


class _Layer:
    """A residual 3x3 layer from 3 to 3 channels, as products of matrices; `by_w` and `by_b` collect its gradients.

    In rows that are two pixels wider, a neighbour's values are a slice. Those above and below are the nine inputs of a
    product that gives, for the column to the left, here and to the right, three outputs each, which are added as they
    lie; values at a row's end, where there are no three columns, mean nothing.
    """

    def __init__(self, name: str, w: Tensor, b: Tensor, by_w: Tensor, by_b: Tensor) -> None:
        kernel = w.view(3, 3, 3, 3).clone()  # (out, in, dy, dx)
        kernel[:, :, 1, 1] += torch.eye(3)
        self.name, self.matrix = name, kernel.permute(3, 0, 2, 1).reshape(9, 9)
        self.b, self.by_w, self.by_b = b[:, None], by_w.view(3, 3, 3, 3), by_b

    def forward(self, wide: Tensor) -> Tensor:
        """(1, 3, h + 2, w + 2) -> (1, 3, h, w)."""
        h, self.stride = wide.shape[2] - 2, wide.shape[3]
        n, flat = h * self.stride, wide[0].flatten(1)
        self.seen = _scratch(self.name, LANES, n)
        self.seen[9:] = 0
        for dy in range(3):
            self.seen[3 * dy : 3 * dy + 3] = flat[:, dy * self.stride : dy * self.stride + n]
        left, here, right = torch.mm(self.matrix, self.seen[:9], out=_scratch("parts", 9, n)).split(3)
        out = left + self.b
        out[:, :-1].add_(here[:, 1:])
        out[:, :-2].add_(right[:, 2:])
        return out.view(1, 3, h, self.stride)[..., :-2]

    def backward(self, grad: Tensor) -> Tensor:
        """Gradient by the output (1, 3, h, w) -> that by the input (1, 3, h + 2, w + 2)."""
        h, stride, n = grad.shape[2], self.stride, self.seen.shape[1]
        by_parts = _scratch("parts", 9, n)
        left = by_parts[:3].view(3, h, stride)
        left[..., :-2] = grad[0]
        left[..., -2:] = 0
        for dx in (1, 2):
            by_parts[3 * dx : 3 * dx + 3, dx:] = by_parts[:3, :-dx]
            by_parts[3 * dx : 3 * dx + 3, :dx] = 0
        self.by_w.add_((by_parts @ self.seen.T)[:, :9].view(3, 3, 3, 3).permute(1, 3, 2, 0))  # of (dx, out, dy, in)
        self.by_b.add_(grad.sum((0, 2, 3)))
        by_seen = torch.mm(self.matrix.T, by_parts, out=_scratch("by_seen", 9, n))
        by_wide = grad.new_zeros(3, n + 2 * stride)
        for dy in range(3):
            by_wide[:, dy * stride : dy * stride + n].add_(by_seen[3 * dy : 3 * dy + 3])
        return by_wide.view(1, 3, h + 2, stride)


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
