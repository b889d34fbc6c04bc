"""iWave++: a wavelet-like transform of learned lifting, lossy and lossless.

H. Ma, D. Liu, N. Yan, H. Li, F. Wu, "End-to-End Optimized Versatile Image Compression With Wavelet-Like Transform",
TPAMI 2020.

The transform is a lifting scheme whose steps contain small networks: invertible by construction, and at the start
the 9/7 wavelet. Loss comes from rounding alone. Each plane's subbands are coded from coarse to fine::

    x --YUV--> lifting, 4 levels --> LL4 | HL LH HH 4 | .. | HL LH HH 1 --*s, round--> | coder | --> q
                                                                        mu, sigma ^              |
                 masked convolutions inside a subband, and a memory of coarser ones <-----------'
    q --/s--> lifting backwards --> network that repairs rounding --> RGB --> x_hat

Lossless (`lossless`): a reversible colour transform, every step of the lifting rounded, no scaling, no s, no repair.
The networks inside the steps then run in exact integers.

Differences from the paper's code. The three subbands of a level are coded side by side, in w + 2 h steps, each from
coarser levels and itself (the paper goes through them one by one, thrice as many steps). One stack of masked layers
serves a level, with a vector for each plane and subband. Gates and tanh are piecewise linear, so that they are exact.
In the place of the density of 58 numbers there is a logistic one (`compact`) or a mixture of three (`paper`). Borders
repeat, as the 9/7 wavelet's do. s is a gain unit: one for each plane and subband and rate.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec import Codec
from ..coding.exact import _exact_layer
from ..coding.exact_blocks import ExactLevels
from ..coding.mixtures import MixturePrior
from ..coding.offsets import OffsetPrior
from ..coding.sites import BoundPrior, Code
from ..coding.wavefront import to_grid
from ..contexts.masked import MaskedStack
from ..contexts.subbands import UNIT, BandMemory
from ..quantizers.gains import Gain
from ..transforms.lifting import Lifting, to_pixels, to_planes
from ..transforms.pyramid import down
from ..transforms.start import SCALE, gains
from .balle2018 import SCALE_START, SCALE_UNIT

DEPTH = 4
STEP = 16.0  # of coefficients, where contexts see 1


class Ma2020(Codec):
    """iWave++; subbands of three planes, in Mallat's layout."""

    info = {
        "slug": "ma2020",
        "title": "iWave++: versatile compression with a wavelet-like transform",
        "authors": "Ma, Liu, Yan, Li, Wu",
        "year": 2020,
        "aliases": ["iwave++"],
        "improves": "minnen2018",
        "place": "A 9/7 wavelet and its contexts from nothing in 33 minutes and 0.05 Gpx: a step costs a second on one "
        "core.",
        "taxonomy": {
            "network": "CNN inside an invertible lifting scheme",
            "unit": "full image, plane by plane",
            "spatial": "subbands, ConvLSTM over subbands, causal context inside a subband",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high, and lossless",
        },
    }
    presets = {
        "paper": {
            "lift": 16,
            "width": 128,
            "blocks": 2,
            "memory": (32, 32, 1),
            "repair": (64, 6),
            "mixtures": 3,
            "levels": 1,
        },
        "compact": {
            "lift": 16,
            "width": 24,
            "blocks": 1,
            "memory": (16,),
            "repair": (16, 2),
            "mixtures": 1,
            "levels": 8,
        },
        "lossless": {
            "lift": 16,
            "width": 24,
            "blocks": 1,
            "memory": (16,),
            "repair": None,
            "mixtures": 1,
            "levels": 1,
        },
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)
    stride = 16
    refinable = False

    def __init__(
        self,
        lift: int,
        width: int,
        blocks: int,
        memory: tuple[int, ...],
        repair: tuple[int, int] | None,
        mixtures: int,
        levels: int,
    ) -> None:
        """`repair`: channels and blocks of the network behind the transform; None for the lossless system."""
        super().__init__()
        self.levels, self.mixtures, self.lossless = levels, mixtures, repair is None
        self.lifting = Lifting(DEPTH, lift, whole=self.lossless)
        outputs = 2 if mixtures == 1 else 3 * mixtures
        tail = (width,) if levels > 1 or self.lossless else (width, width)
        self.stacks = nn.ModuleList(MaskedStack(width, blocks, outputs, tail, deep=False) for _ in range(1 + DEPTH))
        for stack in self.stacks:
            stack.tail[-1].weight.data.mul_(0.1)  # type: ignore[union-attr, index]
        self.kinds = nn.Parameter(torch.zeros(1 + DEPTH, 3, 3, width))  # a vector for each plane and subband
        self.context_level = ExactLevels(torch.zeros(levels, width))
        self.memory = BandMemory(3, memory)
        self.recall = nn.ModuleList(nn.Conv2d(memory[-1], 3 * width, 3, padding=1) for _ in range(DEPTH))
        self.y_prior = OffsetPrior("logistic") if mixtures == 1 else MixturePrior(("logistic",) * mixtures, window=128)
        if repair is not None:
            low, high = (g * SCALE / 255 for g in gains(self.lambdas)) if levels > 1 else (1 / 16, 1 / 16)
            self.gain = Gain(3 * (1 + 3 * DEPTH), max(levels, 2), low, high)
            self.repair = Repair(*repair)

    def program(self, code: Code) -> Tensor:
        bands = code.encoder(lambda x: self._analyse(x, code.level))
        h, w = code.grid(2**DEPTH)
        low = self._code(code, 0, None, (h, w), lambda: bands[:, :, None, :h, :w])
        out, states = low[:, :, 0], None
        shown = F.pad(low, (0, 0, 0, 0, 0, 2))
        for k in range(1, 1 + DEPTH):
            seen = (shown.flatten(0, 1) / STEP).clamp(-64, 64)
            states = self.memory.see(seen, self.memory.start(seen) if states is None else states)
            states = states if k == 1 else self.memory.climb(states)
            shown = self._code(code, k, states[-1][0], (h, w), lambda h=h, w=w: _details(bands, h, w))
            top = torch.cat((out, shown[:, :, 0]), 3)
            out = torch.cat((top, torch.cat((shown[:, :, 1], shown[:, :, 2]), 3)), 2)
            h, w = 2 * h, 2 * w
        return self._synthesise(out, code.level)

    def _code(self, code: Code, k: int, memory: Tensor | None, size: tuple[int, int], latent) -> Tensor:  # type: ignore[no-untyped-def]
        """The subbands of one resolution, (B, 3 planes, 1 or 3 bands, h, w)."""
        count = 1 if memory is None else 3
        side = self.kinds[k, :, :count] if self.training else to_grid(self.kinds[k, :, :count]) * UNIT
        side = side.flatten(0, 1).repeat(len(code.level), 1)  # (B 3 count, width)
        side = side + self.context_level(code.level)[:, :, 0, 0].repeat_interleave(3 * count, 0)
        side = side[:, None, :, None, None]
        if memory is not None:
            conv = self.recall[k - 1]
            told = conv(memory) if self.training else _exact_layer(conv, to_grid(memory)) * UNIT
            side = side + told.unflatten(1, (3, -1)).flatten(0, 1).unsqueeze(1)
        values = self.stacks[k].code(  # type: ignore[operator]
            code,
            "y",
            (1, *size),
            side.to(self.kinds.dtype),  # 21 bits: exact in float32 too
            lambda q: (q / STEP).clamp(-64, 64),
            self._bind,
            lambda: latent().flatten(1, 2).unsqueeze(2),
        )
        return values[:, :, 0].unflatten(1, (3, count))

    def _bind(self, parameters: Tensor) -> BoundPrior:
        """Parameters (B, V, n, P) -> prior (B, V, n, 1)."""
        if self.mixtures == 1:
            scale, mean = parameters.split(1, 3)
            return self.y_prior(SCALE_START + SCALE_UNIT * scale, STEP * mean)
        scale, mean, logits = parameters.unsqueeze(4).permute(0, 3, 1, 2, 4).chunk(3, 1)
        return self.y_prior(logits, STEP * mean, SCALE_START + SCALE_UNIT * scale)

    def _analyse(self, x: Tensor, level: Tensor) -> Tensor:
        """Pixels -> subbands (B, 3, H, W), in steps."""
        planes = to_planes(x, self.lossless)
        bands = _by_plane(self.lifting, planes.to(x.dtype) if self.training else planes)
        return bands if self.lossless else bands * self._steps(self.gain(level), bands)

    def _synthesise(self, bands: Tensor, level: Tensor) -> Tensor:
        if self.lossless:
            planes = _by_plane(self.lifting.inverse, bands if self.training else bands.double())
            return to_pixels(planes, True).to(bands.dtype)
        planes = _by_plane(self.lifting.inverse, bands * self._steps(self.gain.inverse(level), bands))
        return to_pixels(planes + _by_plane(self.repair, planes), False)

    def _steps(self, gain: Tensor, bands: Tensor) -> Tensor:
        """A factor for each plane and subband, (B, 39, 1, 1) -> (B, 3, H, W)."""
        h, w = bands.shape[2:]
        kind = torch.zeros(h, w, dtype=torch.long, device=gain.device)
        for k in range(DEPTH):
            kind[: h >> k, w >> k + 1 : w >> k] = 3 * k + 1
            kind[h >> k + 1 : h >> k, : w >> k + 1] = 3 * k + 2
            kind[h >> k + 1 : h >> k, w >> k + 1 : w >> k] = 3 * k + 3
        return gain[:, :, 0, 0].unflatten(1, (3, -1))[:, :, kind]


class Repair(nn.Module):
    """Adds to planes (N, 1, H, W) what rounding took: residual blocks, and a last layer that starts at zero."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.enter, self.end = _conv(1, width), _conv(width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width)) for _ in range(blocks)
        )
        self.leave = _conv(width, 1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        first = a = self.enter(x / 255 - 0.5)
        for block in self.blocks:
            a = a + block(a)
        return 255 * self.leave(self.end(a) + first)


def _conv(c_in: int, c_out: int) -> nn.Conv2d:
    return down(c_in, c_out, 3, 1)


def _by_plane(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of (N, 1, H, W) on every plane of (B, C, H, W)."""
    return function(x.flatten(0, 1).unsqueeze(1))[:, 0].unflatten(0, x.shape[:2])


def _details(bands: Tensor, h: int, w: int) -> Tensor:
    """The three subbands around the low one of (h, w) in Mallat's layout: (B, 3 planes, 3, h, w)."""
    return torch.stack((bands[:, :, :h, w : 2 * w], bands[:, :, h : 2 * h, :w], bands[:, :, h : 2 * h, w : 2 * w]), 2)
