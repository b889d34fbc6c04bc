"""A causal transformer over positions and channel segments (2203.02452), with attention that wavefronts can follow.

The latent is cut into segments of channels; every (row, column, segment) is a token, in the order of segments
within positions within rows. What goes in at a token are the values of the token before it. It attends to itself,
to the segments before it at its position, and to all segments of the positions in a causal window around it: so
positions with equal w + (radius + 1) h do not depend on one another, and keys and values are computed once.

Everything is float while training and integers otherwise. To that end softmax has base 2, and layers are normalised
without parameters of their own; both need only operations that IEEE 754 rounds correctly.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.exact import ACTIVATION_BITS, CLAMP, _round
from ..coding.exact_blocks import exact_exp2
from ..coding.sites import BoundPrior, Code
from ..coding.wavefront import _canvas_indices, fronts, mask, to_grid
from .raster import ExactContext, Matrix, _chain, _dense, _matrix

UNIT = 2.0**ACTIVATION_BITS
LOGIT_BITS = 8
EXP_BITS = 20
LN2 = 0.6931471805599453


class Dense(nn.Module):
    """A linear layer on the last dimension, kept as a 1x1 convolution (which is what optimiser and files know)."""

    def __init__(self, c_in: int, c_out: int, *, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 1, 1) * (0.0 if zero else c_in**-0.5))
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[:, :, 0, 0], self.bias)

    def matrix(self) -> Matrix:
        return _matrix(self.weight.flatten(1), self.bias)


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a normalisation and beside the identity."""

    def __init__(self, width: int, heads: int, keys: int) -> None:
        super().__init__()
        self.qkv, self.out = Dense(width, 3 * width), Dense(width, width)
        self.up, self.down = Dense(width, 4 * width), Dense(4 * width, width)
        self.bias = nn.Parameter(torch.zeros(heads, keys))  # for each place that a token may see


class SpatioChannelContext(ExactContext):
    """Parameters of each segment from the tokens before it and from side information.

    Args:
        channels: C of the latent, cut into `segments` equal parts.
        side: channels of the side information.
        width, heads, layers: of the transformer.
        hidden: widths of the network that joins its output with the side information.
        outputs: parameters of one segment.
        radius: of the causal window of positions.
        residual: parameters correct (scale, mean) of the segment in the side information, and start at it.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        segments: int,
        width: int,
        heads: int,
        layers: int,
        hidden: tuple[int, ...],
        outputs: int,
        radius: int,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.segments, self.part, self.width = segments, channels // segments, width
        self.heads, self.radius, self.residual = heads, radius, residual
        self.taps = mask(radius).taps
        self.embed = Dense(self.part, width)
        self.segment = nn.Parameter(torch.randn(segments, width) * 0.1)
        self.blocks = nn.ModuleList(Block(width, heads, (self.taps + 1) * segments) for _ in range(layers))
        widths = (width + side, *hidden, outputs)
        self.join = nn.ModuleList(Dense(a, b) for a, b in pairwise(widths))
        if residual:
            nn.init.zeros_(self.join[-1].weight)  # type: ignore[arg-type]

    def forward(
        self,
        code: Code,
        name: str,
        side: Tensor,
        bind: Callable[[Tensor], BoundPrior],
        latent: Callable[[], Tensor],
    ) -> Tensor:
        """Code the latent (B, C, h, w); `bind` makes a prior of (B, C / segments, n, 1) of parameters (B, P, n, 1)."""
        b, _, h, w = side.shape
        if not self.training:
            with torch.no_grad(), torch.autocast(side.device.type, enabled=False):
                return self._walk(code, name, side, bind, latent)
        y = latent()
        parameters = self.predict(code.preview(y), side)  # (B, h w S, P)
        tokens = self._tokens(y).flatten(1, 2)
        decoded = code(name, bind(_columns(parameters)), lambda: _columns(tokens))[..., 0].transpose(1, 2)
        return decoded.unflatten(1, (h, w, -1)).permute(0, 3, 4, 1, 2).reshape(b, -1, h, w)

    def predict(self, y: Tensor, side: Tensor) -> Tensor:
        """All at once, in floats: y (B, C, h, w), of which no token sees itself -> parameters (B, h w S, P)."""
        _, _, h, w = y.shape
        before = F.pad(self._tokens(y), (0, 0, 1, -1))  # within a row; zeros start it
        x = (self.embed(before).unflatten(2, (w, -1)) + self.segment).flatten(1, 3)
        places, seen = self._visible(h, w, y.device)
        for block in self.blocks:
            bias = block.bias[:, places].masked_fill(~seen, -1e4)  # type: ignore[index]
            x = x + block.out(_attention(block.qkv(_normal(x)), self.heads, bias))  # type: ignore[operator]
            x = x + block.down(F.hardswish(block.up(_normal(x))))  # type: ignore[operator]
        given = side.flatten(2).transpose(1, 2).repeat_interleave(self.segments, 1)
        a = torch.cat((_normal(x), given), 2)
        for i, layer in enumerate(self.join):
            a = layer(F.leaky_relu(a) if i else a)
        return a + self._start(given) if self.residual else a

    def _tokens(self, y: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w S, C / S), in coding order."""
        return y.unflatten(1, (self.segments, -1)).permute(0, 3, 4, 1, 2).flatten(2, 3)

    def _start(self, given: Tensor) -> Tensor:
        """Scale and mean of each token's segment, of side information (B, n S, 2 C) for tokens in turn."""
        b, n, _ = given.shape
        parts = given.view(b, n // self.segments, self.segments, 2, self.segments, self.part)
        return parts.diagonal(0, 2, 4).permute(0, 1, 4, 2, 3).reshape(b, n, -1)

    def _visible(self, h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of each pair of tokens: which entry of the bias is theirs, and whether the first sees the second."""
        s, r = self.segments, self.radius
        y, x, segment = (i.flatten() for i in torch.meshgrid(*map(torch.arange, (h, w, s)), indexing="ij"))
        dy, dx = y[None] - y[:, None], x[None] - x[:, None]
        tap = (dy + r) * (2 * r + 1) + dx + r  # in raster order; `taps` is the position itself
        near = (dy >= -r) & (dx.abs() <= r) & (tap < self.taps)
        seen = near | ((tap == self.taps) & (dx.abs() <= r) & (segment[None] <= segment[:, None]))
        return (tap.clamp(0, self.taps) * s + segment[None]).to(device), seen.to(device)

    # From here on: token by token, in integers.

    def _walk(
        self,
        code: Code,
        name: str,
        side: Tensor,
        bind: Callable[[Tensor], BoundPrior],
        latent: Callable[[], Tensor],
    ) -> Tensor:
        b, _, h, w = side.shape
        known = to_grid(side).flatten(2).transpose(1, 2).contiguous()
        walk = _Walk(self, known, (h, w))
        decoded = side.new_zeros(b, h * w, self.segments, self.part)
        with code.serial(latent) as whole:
            values = cache(lambda: self._tokens(whole()).reshape(b, h * w, self.segments, -1))
            for front in fronts(h, w, self.radius):
                front = front.to(side.device)
                for s in range(self.segments):
                    prior = bind(_columns(walk.parameters(front, s) / UNIT).to(side.dtype))
                    code.part = front, (h, w)
                    part = code(name, prior, lambda front=front, s=s: _columns(values()[:, front, s]))  # type: ignore[misc]
                    part = part[..., 0].transpose(1, 2)
                    decoded[:, front, s] = part.to(decoded.dtype)
                    walk.last[:, walk.place[front]] = to_grid(part)
        return decoded.view(b, h, w, -1).permute(0, 3, 1, 2).contiguous()

    def _matrices(self) -> list[Matrix]:
        layers = [layer for block in self.blocks for layer in (block.qkv, block.out, block.up, block.down)]
        return [layer.matrix() for layer in (self.embed, *layers, *self.join)]


class _Walk:
    """Keys and values of the tokens so far, on a grid with a border."""

    def __init__(self, net: SpatioChannelContext, known: Tensor, size: tuple[int, int]) -> None:
        h, w = size
        self.net, self.known, self.w = net, known, w
        self.matrices = net._integers()
        self.place, self.offsets, cells = _canvas_indices(h, w, mask(net.radius).near, known.device)
        shape = (len(known), cells, net.segments, 2 * net.width)
        self.caches = [known.new_zeros(shape) for _ in net.blocks]
        self.last = known.new_zeros(len(known), cells, net.part)  # values decoded last at each position
        self.inside = torch.zeros(cells, dtype=torch.bool, device=known.device)
        self.inside[self.place] = True
        biases = [block.bias for block in net.blocks if isinstance(block, Block)]
        self.biases = [_round(bias.detach().double() * 2**LOGIT_BITS) for bias in biases]
        self.segment = to_grid(net.segment.detach())

    def parameters(self, front: Tensor, s: int) -> Tensor:
        """(B, n, P) of segment s at the positions of a front."""
        net, at = self.net, self.place[front]
        embed, *layers = self.matrices
        before = self.last[:, at if s else at - 1]
        x = _dense(before, embed) + self.segment[s]
        for i, cached in enumerate(self.caches):
            qkv, out, up, down = layers[4 * i : 4 * i + 4]
            q, kv = _dense(_exact_normal(x), qkv).split((net.width, 2 * net.width), 2)
            cached[:, at, s] = kv
            x = _add(x, _dense(self._attend(q, cached, self.biases[i], at, s), out))
            x = _add(x, _dense(_exact_swish(_dense(_exact_normal(x), up)), down))
        given = self.known[:, front]
        a = _chain(torch.cat((_exact_normal(x), given), 2), layers[4 * len(self.caches) :])
        if not net.residual:
            return a
        return a + given.unflatten(2, (2, net.segments, -1))[:, :, :, s].flatten(2)

    def _attend(self, q: Tensor, cached: Tensor, bias: Tensor, at: Tensor, s: int) -> Tensor:
        net = self.net
        b, n, _ = q.shape
        cells = at[:, None] + self.offsets  # (n, taps)
        around = cached[:, cells.flatten()].view(b, n, -1, cached.shape[3])
        keys = torch.cat((around, cached[:, at, : s + 1]), 2)  # (B, n, K, 2 width)
        k, v = (part.unflatten(3, (net.heads, -1)) for part in keys.chunk(2, 3))
        seen = F.pad(self.inside[cells].repeat_interleave(net.segments, 1), (0, s + 1), value=True)
        product = torch.einsum("bnhd,bnkhd->bnhk", q.unflatten(2, (net.heads, -1)), k)
        logits = _round(product * (k.shape[4] ** -0.5 * 2.0 ** (LOGIT_BITS - 2 * ACTIVATION_BITS)))
        logits = logits + bias[:, : seen.shape[1]]
        peak = logits.masked_fill(~seen[:, None], -(2.0**40)).amax(3, keepdim=True)
        below = (logits - peak).clamp(-30 * 2**LOGIT_BITS, 0)
        weights = _round(exact_exp2(below * 2.0**-LOGIT_BITS, False).double() * 2.0**EXP_BITS) * seen[:, None]
        mixed = torch.einsum("bnhk,bnkhd->bnhd", weights, v)
        return _round(mixed / weights.sum(3)[..., None]).flatten(2)


def _columns(x: Tensor) -> Tensor:
    """(B, n, C) -> (B, C, n, 1)."""
    return x.transpose(1, 2).unsqueeze(3).contiguous()


def _attention(qkv: Tensor, heads: int, bias: Tensor) -> Tensor:
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, 2))
    logits = q @ k.transpose(2, 3) * q.shape[3] ** -0.5 + bias
    return (torch.softmax(logits * LN2, 3) @ v).transpose(1, 2).flatten(2)


def _normal(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-4)


def _exact_normal(x: Tensor) -> Tensor:
    n = x.shape[2]
    r = x - _round(x.sum(2, keepdim=True) / n)
    variance = r.square().sum(2, keepdim=True) + round(1e-4 * n * UNIT**2)  # n times, in units of 2^-20; below 2^53
    return _round(r / torch.sqrt(variance) * (n**0.5 * UNIT))


def _exact_swish(x: Tensor) -> Tensor:
    return _round(x * (x + 3 * UNIT).clamp(0, 6 * UNIT) / (6 * UNIT))


def _add(x: Tensor, y: Tensor) -> Tensor:
    return (x + y).clamp(-CLAMP, CLAMP)
