"""Transforms for two CPU cores: a DCT to start from, and cheap blocks at one low resolution.

Everything happens at 1/8 of the resolution, where a block of 192 channels costs 3.5 kMAC a pixel, and between
1x1 convolutions, which are plain matrix products. Before any training the analysis is the 16x16 DCT in an
orthonormal colour basis, each coefficient divided by its usual spread, and the synthesis is its inverse: so
training starts from a working transform codec, and every residual branch (starting at zero) only improves it.
Background: DCVC-RT (arXiv 2502.20762) for the blocks and for unshuffling by 8.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..quantizers.gains import interpolate
from .colours import colour_matrix
from .patches import in_patches
from .pointwise import one_by_one

FEATURES = 192  # 8 x 8 x 3: every coefficient has a channel

# Spread of a DCT coefficient of photographs (values in [0, 1]) at frequency r, 1 being the sampling rate of the
# basis: a * r^-p for luma, orange-blue and green-magenta. The same law fits 8x8 and 16x16 blocks.
SPREADS = ((0.057, 1.235), (0.0068, 1.57), (0.0042, 1.48))


# An optimiser that moves all weights alike (Muon, Adam) would wear the DCT away before the rest has learned
# anything. Layers that start as a DCT see inputs scaled down by SLOW and hold weights scaled up by it, and
# residual branches are scaled down, so that a step of the optimiser is a small step in the picture.
SLOW = 1 / 32
BRANCH = 1 / 16

PATCH = 768  # pixels a side

# Blocks have learned from photographs and a little of everything else. What they know least (noise, single pixels black
# beside white) they can drive to values that no latent can carry. Photographs stay below 28 at all rates (Kodak,
# `photos`). Beyond WILD the plain DCT is taken, and AROUND it for as many positions of 8x8 pixels. The decoder takes
# either.
WILD, AROUND = 48.0, 2


class DepthBlock(nn.Module):
    """(B, C, h, w) -> same: depthwise 3x3 between 1x1 layers, then a 1x1 network of width 2 C; 6 C^2 + 9 C MAC.

    The stream stays in natural units; what the branches see is stretched by `gain` (B, C, 1, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = _pointwise(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project = _zero(_pointwise(channels, channels))
        self.widen = _pointwise(channels, 2 * channels)
        self.narrow = _zero(_pointwise(2 * channels, channels))

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        x = _add(x, _linear(self.project, self.depthwise(_silu(_linear(self.mix, x * gain)))))
        return _add(x, _linear(self.narrow, _silu(_linear(self.widen, x * gain))))


class FeatureGain(nn.Module):
    """Stretches 8x8 coefficients for each rate level; starts by giving them unit variance."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(-spread(8).log().repeat(levels, 1))

    def forward(self, level: Tensor) -> Tensor:
        """level (B,) -> (B, 192, 1, 1)."""
        return interpolate(self.log_gain, level).exp()[:, :, None, None]


class LightAnalysis(nn.Module):
    """(B, 3, H, W) in [0, 1] -> latents (B, M, H/16, W/16) in their natural units (of an orthonormal transform).

    Args:
        latents: M, the coefficients of a 16x16 block that are kept (768 are all), by descending spread.
        blocks: depth at 1/8 resolution.
        levels: number of trained rates; the features of each are stretched by gains of their own.
    """

    def __init__(self, latents: int, blocks: int, levels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(FEATURES, FEATURES, 1, bias=False)
        self.gain = FeatureGain(levels)
        self.blocks = nn.ModuleList(DepthBlock(FEATURES) for _ in range(blocks))
        self.head = nn.Conv2d(4 * FEATURES, latents, 1)
        with torch.no_grad():
            self.stem.weight.copy_(stem_matrix()[:, :, None, None] / SLOW)
            self.head.weight.copy_(merge_matrix()[kept(latents)][:, :, None, None] / SLOW)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        halo = 16 * -(-(len(self.blocks) + AROUND) // 2)  # a block sees one position more on each side
        gain = self.gain(level)
        return in_patches(lambda x: self._analyse(x, gain), x, side=PATCH, halo=halo, unit=16, stride=16)

    def _analyse(self, x: Tensor, gain: Tensor) -> Tensor:
        plain = _full(self.stem, _channels_last(F.pixel_unshuffle(x - 0.5, 8)))  # (B, 192, H/8, W/8)
        x = _run(self.blocks, plain, gain)
        if not torch.is_grad_enabled():
            x = _tamed(x, plain, gain)
        return _full(self.head, _channels_last(F.pixel_unshuffle(x, 2)))


class LightSynthesis(nn.Module):
    """The mirror of :class:`LightAnalysis`: latents (B, M, H/16, W/16) -> (B, 3, H, W), not clamped."""

    def __init__(self, latents: int, blocks: int, levels: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(latents, 4 * FEATURES, 1)
        self.gain = FeatureGain(levels)
        self.blocks = nn.ModuleList(DepthBlock(FEATURES) for _ in range(blocks))
        self.stem = nn.Conv2d(FEATURES, FEATURES, 1)
        with torch.no_grad():
            self.head.weight.copy_(merge_matrix()[kept(latents)].T[:, :, None, None] / SLOW)
            self.stem.weight.copy_(stem_matrix().T[:, :, None, None] / SLOW)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
            nn.init.constant_(self.stem.bias, 0.5)  # type: ignore[arg-type]

    def forward(self, y: Tensor, level: Tensor) -> Tensor:
        halo, gain = -(-len(self.blocks) // 2), self.gain(level)
        return in_patches(lambda y: self._synthesise(y, gain), y, side=PATCH // 16, halo=halo, stride=1 / 16)

    def _synthesise(self, y: Tensor, gain: Tensor) -> Tensor:
        x = _channels_last(F.pixel_shuffle(_full(self.head, _channels_last(y)), 2))  # (B, 192, H/8, W/8)
        x = _run(self.blocks, x, gain)
        return F.pixel_shuffle(_full(self.stem, x), 8)


def dct_matrix(n: int) -> Tensor:
    """(n, n) orthonormal DCT-II, one basis vector a row."""
    k, i = torch.arange(n)[:, None], torch.arange(n)[None]
    rows = torch.cos(math.pi / n * (i + 0.5) * k) * (2 / n) ** 0.5
    rows[0] *= 0.5**0.5
    return rows


def stem_matrix() -> Tensor:
    """(192, 192): an unshuffled 8x8 block (colour, row, column) -> its DCT (plane, frequency down, across)."""
    d = dct_matrix(8)
    return torch.einsum("jc,uy,vx->juvcyx", colour_matrix(), d, d).reshape(FEATURES, FEATURES)


def merge_matrix() -> Tensor:
    """(768, 768): four 8x8 DCTs, unshuffled (plane, u, v, row, column) -> their 16x16 DCT (plane, U, V)."""
    d = torch.einsum("Uyn,un->Uuy", dct_matrix(16).view(16, 2, 8), dct_matrix(8))  # (16, 8, 2)
    return torch.einsum("jk,Uuy,Vvx->jUVkuvyx", torch.eye(3), d, d).reshape(4 * FEATURES, 4 * FEATURES)


def spread(n: int) -> Tensor:
    """(3 n^2,) usual standard deviation of the coefficients of an n x n DCT (plane, frequency down, across)."""
    f = torch.arange(n) / n
    r = torch.hypot(f[:, None], f[None]).clamp_min(0.36 / n)
    return torch.cat([(a * r**-p).flatten() for a, p in SPREADS])


def kept(latents: int) -> Tensor:
    """Which 16x16 coefficients are kept, dealt out so that each quarter of the latents spans all frequencies."""
    order = spread(16).argsort(descending=True, stable=True)[:latents]
    return order.view(-1, 4).T.reshape(-1)


def _pointwise(c_in: int, c_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(c_in, c_out, 1)
    nn.init.normal_(layer.weight, std=c_in**-0.5)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Last layer of a residual branch: the branch starts at zero."""
    nn.init.zeros_(layer.weight)
    return layer


def _run(blocks: nn.ModuleList, x: Tensor, gain: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, gain)
    return x


def _tamed(x: Tensor, plain: Tensor, gain: Tensor) -> Tensor:
    """x, but `plain` (both (B, C, h, w)) around places where blocks ran wild."""
    wild = ((x * gain).abs_().amax(1, keepdim=True) > WILD).to(x.dtype)
    if not bool(wild.any()):
        return x
    return torch.where(F.max_pool2d(wild, 2 * AROUND + 1, 1, AROUND) > 0, plain, x)


def _full(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A DCT layer, in full precision inside a bfloat16 region too: eight bits would round away fine quantiser steps."""
    with torch.autocast(x.device.type, enabled=False):
        return _linear(layer, x * SLOW)


def _linear(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return one_by_one(x, layer.weight, layer.bias)


def _silu(x: Tensor) -> Tensor:
    """In place where no gradient needs x: fresh memory costs more than the function."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _add(x: Tensor, branch: Tensor) -> Tensor:
    """x + BRANCH * branch, in the memory of the branch where no gradient needs it."""
    keep = torch.is_grad_enabled() or x.dtype != branch.dtype
    return torch.add(x, branch, alpha=BRANCH, out=None if keep else branch)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
