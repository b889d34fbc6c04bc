"""Stacks of masked convolutions over a plane or a volume, walked in wavefronts.

A position sees its 3x3 neighbourhood in the plane behind it (3-D only) and what comes before it in its own plane.
However deep the stack, it looks at most one column to the right for each row up, so positions with equal
w + 2 h + 4 d do not depend on one another: w + 2 (h - 1) + 4 (d - 1) steps. What a layer has computed for a
position is remembered; each step does only the work of its own positions, in exact integers.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.exact import ACTIVATION_BITS
from ..coding.sites import BoundPrior, Code
from ..coding.wavefront import to_grid
from .raster import ExactContext, Matrix, _dense, _matrix

Shape = tuple[int, int, int]  # (depth, height, width)


class Masked(nn.Module):
    """A masked 3x3 (deep: 2x3x3) convolution of (B, D, C, h, w); only its causal taps are parameters.

    Args:
        own: whether a position sees itself (mask B) or not (mask A, for the first layer).
        deep: whether it sees the plane behind it.
    """

    def __init__(self, c_in: int, c_out: int, *, own: bool, deep: bool) -> None:
        super().__init__()
        self.behind, taps = 9 * deep, 9 * deep + 4 + own
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 1, taps) * (c_in * taps) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor, outside: Tensor | float = 0.0) -> Tensor:
        b, d = x.shape[:2]
        padded = torch.zeros_like(F.pad(x, (1, 1, 1, 1))) + outside
        padded[..., 1:-1, 1:-1] = x
        own = F.pad(self.weight[:, :, 0, self.behind :], (0, 9 - self.weight.shape[3] + self.behind))
        y = F.conv2d(padded.flatten(0, 1), own.unflatten(2, (3, 3)), self.bias)
        if self.behind:
            before = torch.cat((torch.zeros_like(padded[:, :1]) + outside, padded[:, :-1]), 1)
            behind = self.weight[:, :, 0, : self.behind].unflatten(2, (3, 3))
            y = y + F.conv2d(before.flatten(0, 1), behind)
        return y.unflatten(0, (b, d))

    def matrix(self) -> Matrix:
        return _matrix(self.weight[:, :, 0].transpose(1, 2).flatten(1), self.bias)


class Canvas:
    """What has been computed of a volume, with a border: (B, positions, C) integers.

    `deep`: the border has a plane too, behind the first one.
    """

    def __init__(self, shape: Shape, like: Tensor, channels: int, *, deep: bool, outside: Tensor | float = 0.0) -> None:
        d, h, w = shape
        self.row, self.plane, self.deep = w + 2, (w + 2) * (h + 2), int(deep)
        self.values = like.new_zeros(len(like), (d + self.deep) * self.plane, channels)
        if isinstance(outside, Tensor) or outside:
            self.values += outside
        offsets = torch.arange(-1, 2, device=like.device)
        around = (offsets[:, None] * self.row + offsets).flatten()
        self.offsets = torch.cat((around - self.plane, around))

    def place(self, d: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return (d + self.deep) * self.plane + (y + 1) * self.row + x + 1

    def near(self, at: Tensor, layer: Masked) -> Tensor:
        """What the layer sees from the places `at` (n,): (B, n, taps * C)."""
        offsets = self.offsets[9 - layer.behind :][: layer.weight.shape[3]]
        return self.values.index_select(1, (at[:, None] + offsets).flatten()).view(len(self.values), len(at), -1)


class MaskedStack(ExactContext):
    """Mask A and a rectifier, residual blocks of two layers, a last masked layer, 1x1 layers; (B, 1, D, h, w) in.

    Args:
        width: channels of the layers.
        blocks: residual blocks; where there are more than one, the first layer is added behind them once more.
        tail: widths of the 1x1 layers, the last one's the outputs; () ends with the last masked layer.
        deep: whether planes see the plane behind them.
    """

    def __init__(self, width: int, blocks: int, outputs: int, tail: tuple[int, ...] = (), *, deep: bool) -> None:
        super().__init__()
        self.width = width
        self.first = Masked(1, width, own=False, deep=deep)
        self.blocks = nn.ModuleList(Masked(width, width, own=True, deep=deep) for _ in range(2 * blocks))
        widths = (width, *tail, outputs) if tail else ()
        self.last = Masked(width, width if tail else outputs, own=True, deep=deep)
        self.tail = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))

    def forward(self, x: Tensor, side: Tensor, outside: Tensor | float = 0.0) -> Tensor:
        """Volumes (B, D, h, w), side (B, D or 1, width, h or 1, w or 1) -> parameters (B, D, outputs, h, w)."""
        a = start = F.relu(self.first(x.unsqueeze(2), outside) + side)
        for one, two in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            a = a + two(F.relu(one(a)))
        if len(self.blocks) > 2:
            a = a + start
        a = self.last(a)
        b, d = a.shape[:2]
        a = a.flatten(0, 1)
        for layer in self.tail:
            a = layer(F.relu(a))
        return a.unflatten(0, (b, d))

    def _matrices(self) -> list[Matrix]:
        layers = [self.first, *self.blocks, self.last, *self.tail]
        masked = [m.matrix() for m in layers if isinstance(m, Masked)]
        tail = [_matrix(m.weight.flatten(1), m.bias) for m in layers if isinstance(m, nn.Conv2d)]  # type: ignore[arg-type]
        return masked + tail

    def code(
        self,
        code: Code,
        name: str,
        shape: Shape,
        side: Tensor,
        embed: Callable[[Tensor], Tensor],
        bind: Callable[[Tensor], BoundPrior],
        latent: Callable[[], Tensor],
        outside: Tensor | float = 0.0,
    ) -> Tensor:
        """Code volumes (B, V, D, h, w), V of them a picture, each by itself; returns the decoded values.

        Args:
            side: (B V, D or 1, width, h or 1, w or 1), added in the first layer.
            embed: decoded values -> what the first layer sees.
            bind: parameters (B, V, n, outputs) -> the prior of a (B, V, n, 1) part of the volumes.
            latent: (B, V, D, h, w), never called by the decoder.
            outside: what the first layer sees beyond the border, already embedded.
        """
        b = len(code.level)
        v, (d, h, w) = len(side) // b, shape
        if self.training:
            values = latent()
            parameters = self(embed(values.detach().round()).flatten(0, 1), side, outside)
            flat = parameters.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(0, (b, v))
            decoded = code(name, bind(flat), lambda: values.reshape(b, v, -1, 1))
            return decoded.view(b, v, d, h, w)
        with torch.no_grad(), torch.autocast(side.device.type, enabled=False):
            return self._walked(code, name, (b, v, shape), side, embed, bind, latent, outside)

    def _walked(self, code, name, sizes, side, embed, bind, latent, outside) -> Tensor:  # type: ignore[no-untyped-def]
        b, v, shape = sizes
        given = to_grid(side.expand(-1, shape[0], -1, *shape[1:]).transpose(1, 2).flatten(2).transpose(1, 2))
        walk = Walk(self, shape, given.contiguous(), to_grid(torch.as_tensor(outside, device=side.device)))
        decoded = side.new_zeros(b, v, shape[0] * shape[1] * shape[2])
        with code.serial(latent) as whole:
            values = cache(lambda: whole().reshape(b, v, -1, 1))  # never called by the decoder
            for front in walk.fronts():
                parameters = walk.parameters(front).unflatten(0, (b, v)) * 2.0**-ACTIVATION_BITS
                code.part = front % (shape[1] * shape[2]), (shape[1], shape[2])
                part = code(name, bind(parameters.to(side.dtype)), lambda front=front: values()[:, :, front])
                decoded.index_copy_(2, front, part[..., 0].to(decoded.dtype))
                walk.put(front, to_grid(embed(part[..., 0])).view(b * v, -1, 1))
        return decoded.view(b, v, *shape)


class Walk:
    """A stack on its way through volumes of one shape; side (B, D h w or 1, width) and outside are integers."""

    def __init__(self, net: MaskedStack, shape: Shape, side: Tensor, outside: Tensor) -> None:
        self.net, self.shape, self.side = net, shape, side
        self.matrices = net._integers()
        deep = net.first.behind > 0
        self.symbols = Canvas(shape, side, 1, deep=deep, outside=outside)
        self.canvases = [Canvas(shape, side, net.width, deep=deep) for _ in range(len(net.blocks) + 1)]

    def fronts(self) -> Iterator[Tensor]:
        """Indices (n,) of the positions that are next, in coding order."""
        d, y, x = torch.meshgrid(*(torch.arange(n) for n in self.shape), indexing="ij")
        step = (x + 2 * y + 4 * d).flatten()
        order = torch.argsort(step, stable=True)
        for front in order.split(torch.bincount(step).tolist()):
            if len(front):
                yield front.to(self.side.device)

    def _place(self, front: Tensor) -> Tensor:
        _, h, w = self.shape
        return self.symbols.place(front // (h * w), front // w % h, front % w)

    def parameters(self, front: Tensor) -> Tensor:
        """(B, n, outputs) integers."""
        net, at = self.net, self._place(front)
        first, *layers = self.matrices
        side = self.side if self.side.shape[1] == 1 else self.side.index_select(1, front)
        a = start = (_dense(self.symbols.near(at, net.first), first) + side).clamp_min(0)
        self.canvases[0].values.index_copy_(1, at, a)
        for i in range(0, len(net.blocks), 2):
            inner = _dense(self.canvases[i].near(at, net.blocks[i]), layers[i]).clamp_min(0)  # type: ignore[arg-type]
            self.canvases[i + 1].values.index_copy_(1, at, inner)
            a = a + _dense(self.canvases[i + 1].near(at, net.blocks[i + 1]), layers[i + 1])  # type: ignore[arg-type]
            if i + 2 == len(net.blocks) > 2:
                a = a + start
            self.canvases[i + 2].values.index_copy_(1, at, a)
        count = len(net.blocks)
        a = _dense(self.canvases[count].near(at, net.last), layers[count])
        for layer in layers[count + 1 :]:
            a = _dense(a.clamp_min(0), layer)
        return a

    def put(self, front: Tensor, values: Tensor) -> None:
        """Make known what was decoded at a front: (B, n, 1) integers."""
        self.symbols.values.index_copy_(1, self._place(front), values)
