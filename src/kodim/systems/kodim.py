"""The default codec: one model for every quality, made for two CPU cores.

A light transform around the DCT, a hyper-prior, and four coding passes on a 2x2 grid (the quad prior of
DCVC-RT, Jia et al., arXiv 2502.20762; gain units of Cui et al., arXiv 2003.02012)::

    x --unshuffle 8, DCT--> 1/8: gain, blocks --merge 2x2--> y (1/16) --gain--> v
    v --log, h_a--> z (1/64) --round--> | coder | --> h_s --> state    (four passes too, from the z around)
    4 times:  state --block, head--> mu, sigma      (of one quarter of the channels at every position)
              round((v - mu) / step) --> | coder, N(0, sigma^2) | --> q * step + mu = v^
              state += embed(v^)
    v^ --gain'--> y^ --split 2x2--> 1/8: gain, blocks, gain' --DCT', shuffle 8--> x^

In every pass each quarter of the channels is coded at one of the four places of each 2x2 cell, a different one
every time: (B, M, h/2, w/2) values, dense, each predicted from all that went before. v has about unit
variance at every rate, so what the context networks see hardly depends on the level; the level sets `step`
and the usual `sigma` of each channel. All that decides a table or a decoded latent is exact (coding/exact*.py).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..codec import Codec
from ..coding.exact import ExactSequential
from ..coding.exact_blocks import ExactBlock, ExactLevels, ExactPointwise, exact_exp2
from ..coding.offsets import OffsetPrior
from ..coding.priors import LocationScale, ScalePrior
from ..coding.sites import BoundPrior, Code
from ..contexts.quad import QuadContext
from ..quantizers.gains import Gain
from ..transforms.light import LightAnalysis, LightSynthesis, kept, spread
from ..transforms.pyramid import down, up
from .balle2018 import SCALE_START, SCALE_UNIT

PER_OCTAVE = 6  # table positions from one scale to its double
UNIT = 19.125  # position of scale 1
COUNT, LOW = 68, 2 ** (-UNIT / PER_OCTAVE)  # scales 0.11 .. 252
WORTH = 1.5  # steps that a symbol of the smallest scale must save
MAX_RESIDUAL = 4095.0  # times an 11-bit step: exact in float32

# Pass t codes quarter q at place q ^ TURNS[t] of each cell (places 0..3: row by row).
TURNS = (0, 3, 2, 1)


class Kodim(Codec):
    """kodim's own codec; y (B, M, H/16, W/16) and z (B, Z, H/64, W/64)."""

    info = {
        "slug": "kodim",
        "title": "kodim: light transform around the DCT, quad context, exact prior",
        "authors": "kodim",
        "year": 2026,
        "aliases": ["default"],
        "taxonomy": {
            "network": "VAE (CNN, depthwise separable)",
            "unit": "full image",
            "spatial": "hierarchical side information, four-pass context",
            "rate": "gain units",
            "range": "low to high",
        },
    }
    presets = {
        "compact": {"latents": 768, "blocks": (4, 4), "context": 192, "hyper": (128, 64), "levels": 9},
        "test": {"latents": 256, "blocks": (1, 1), "context": 32, "hyper": (32, 16), "levels": 3},
    }
    stride = 32  # cells of 2x2 latents; z covers the picture, and up to 32 pixels more
    stitched = True
    turned = True
    lambdas = (0.0004, 0.5)
    thrift = 0.0  # its latents are priced well enough already (docs/decisions.md)

    def __init__(
        self, latents: int, blocks: tuple[int, int], context: int, hyper: tuple[int, int], levels: int
    ) -> None:
        super().__init__()
        self.levels = levels
        n, side = hyper
        self.analysis = LightAnalysis(latents, blocks[0], levels)
        self.synthesis = LightSynthesis(latents, blocks[1], levels)
        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(latents, n, 1), nn.LeakyReLU(), down(n, n, 3), nn.LeakyReLU(), down(n, side, 3)
        )
        with torch.no_grad():
            self.hyper_analysis[-1].weight.mul_(8)  # type: ignore[operator]  # or z would round to zero everywhere
        self.hyper_synthesis = ExactSequential(up(side, n, 3), nn.LeakyReLU(), up(n, context, 3))
        self.blocks = nn.ModuleList(ExactBlock(context) for _ in TURNS)
        self.head = ExactPointwise(context, latents // 2, groups=4, zero=True)
        self.embed = ExactPointwise(latents // 4, context, groups=4)
        self.z_prior = OffsetPrior("logistic")
        self.z_level = ExactLevels(torch.zeros(levels, 16))
        self.z_context = QuadContext(side, 16, 2 * side, (2 * side,), 2 * side)
        high = LOW * 2 ** ((COUNT - 1) / PER_OCTAVE)
        self.y_prior = ScalePrior("gaussian", low=LOW, high=high, count=COUNT, runs=True)
        self.context_level = ExactLevels(torch.zeros(levels, context))
        self._start_levels(spread(16)[kept(latents)])

    def _start_levels(self, usual: Tensor) -> None:
        """Steps, gains and scales as if `usual` (M,) were the deviations of Gaussian y, at each level's lambda."""
        weight = self.distortion_weight(torch.arange(self.levels))[:, None]
        step = 0.02 * weight**-0.5  # where 3 bpp / 6 dB, the slope at high rate, is lambda's
        unit = torch.maximum(usual, step)  # of v: the usual deviation, or the step where that is larger
        self.gain = Gain(len(usual), self.levels, 1.0, 1.0)
        with torch.no_grad():
            self.gain.log_gain.copy_(-unit.log())
            self.gain.log_inverse.copy_(unit.log())
        self.log_step = ExactLevels((step / unit).log2())
        self.log_scale = ExactLevels((usual / step).log2())

    def program(self, code: Code) -> Tensor:
        level = code.level
        v = code.encoder(lambda x: self.analysis(x, level) * self.gain(level))
        with torch.autocast(level.device.type, enabled=False):
            step = exact_exp2(self.log_step(level), self.training)
            z_hat = self.side(code, lambda: self.hyper_analysis(_log(v / step)))
            v_hat = self._passes(code, z_hat, v, step)
        return code.synthesis(lambda v: self.synthesis(v * self.gain.inverse(level), level), v_hat)

    def side(self, code: Code, z: Callable[[], Tensor]) -> Tensor:
        """The site of z (B, Z, H/64, W/64); returns its decoded values, integers."""

        def bind(parameters: Tensor) -> BoundPrior:
            scale, mean = parameters.chunk(2, 1)
            return self.z_prior(SCALE_START + SCALE_UNIT * scale, mean)

        return self.z_context(code, "z", self.z_level(code.level).expand(-1, -1, *code.grid(64)), bind, z)

    def _passes(self, code: Code, z_hat: Tensor, v: Tensor, step: Tensor) -> Tensor:
        """The four sites of y: (B, Z, h/4, w/4) side information -> decoded v (B, M, h, w)."""
        usual = self.log_scale(code.level)
        h, w = code.grid(16)
        state = self.hyper_synthesis(z_hat)[:, :, :h, :w] + self.context_level(code.level)  # (B, C, h, w)
        if not self.training:  # in float32 sums round alike everywhere
            state = state.to(torch.float32, memory_format=torch.channels_last)
        parts: list[Tensor] = []
        for turn, block in zip(TURNS, self.blocks, strict=True):
            state = block(state)
            mean, scale = _quarters(self.head(_to_cells(state, turn)), 2)
            if not self.training:
                scale = torch.floor(scale * 64 + 0.5) / 64
            prior = self.y_prior(UNIT + PER_OCTAVE * (scale + usual))
            part = self._site(code, prior, v, turn, mean, step)
            parts.append(part)
            if len(parts) < len(TURNS):
                state = state + _from_cells(self.embed(part), turn)
        return _gather(parts)

    def _site(self, code: Code, prior: LocationScale, v: Tensor, turn: int, mean: Tensor, step: Tensor) -> Tensor:
        """Code one pass; returns its decoded values (B, M, h/2, w/2)."""

        def residual() -> Tensor:
            r = ((_pick(v, turn) - mean) / step).clamp(-MAX_RESIDUAL, MAX_RESIDUAL)
            if self.training:
                return r
            # Of the smallest scale anything but a zero costs 16 bits and more, which a step of error is not worth.
            return r.masked_fill((prior.scale_index < 0.5) & (r.abs() < WORTH), 0)

        q = code("y", prior, residual)
        if not self.training:
            q = q.float().clamp(-MAX_RESIDUAL, MAX_RESIDUAL)
        return q * step + mean


def _log(steps: Tensor) -> Tensor:
    """Signed logarithm: the hyper-prior sees magnitudes in octaves, whatever the rate."""
    return torch.copysign(torch.log1p(steps.abs()), steps)


def _places(turn: int) -> list[int]:
    """Place of each quarter in a pass; also the quarter at each place."""
    return [q ^ turn for q in range(4)]


def _to_cells(x: Tensor, turn: int) -> Tensor:
    """(B, C, h, w) -> (B, 4 C, h/2, w/2): for each quarter in turn, the C features at its place."""
    b, c, h, w = x.shape
    cells = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4, c, h // 2, w // 2)
    return cells[:, _places(turn)].flatten(1, 2)


def _from_cells(x: Tensor, turn: int) -> Tensor:
    """Inverse of :func:`_to_cells`."""
    b, c, h, w = x.shape
    cells = x.view(b, 4, c // 4, h, w)[:, _places(turn)].view(b, 2, 2, c // 4, h, w)
    return cells.permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)


def _quarters(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """(B, 4 * parts * m, h, w), quarter by quarter -> `parts` tensors (B, 4 m, h, w)."""
    return tuple(p.flatten(1, 2) for p in x.unflatten(1, (4, -1)).chunk(parts, 2))


def _pick(y: Tensor, turn: int) -> Tensor:
    """(B, M, h, w) -> (B, M, h/2, w/2): what a pass codes, each quarter of the channels at its own place."""
    quarters = y.chunk(4, 1)
    return torch.cat([q[:, :, p // 2 :: 2, p % 2 :: 2] for q, p in zip(quarters, _places(turn), strict=True)], 1)


def _gather(parts: list[Tensor]) -> Tensor:
    """Inverse of four :func:`_pick`: the passes, each (B, M, h/2, w/2) -> (B, M, h, w)."""
    by_pass = [p.chunk(4, 1) for p in parts]
    quarters = []
    for q in range(4):
        places = [by_pass[TURNS.index(q ^ place)][q] for place in range(4)]
        rows = [torch.stack(places[2 * r : 2 * r + 2], -1).flatten(-2) for r in range(2)]  # (B, m, h/2, w)
        quarters.append(torch.stack(rows, -2).flatten(-3, -2))
    return torch.cat(quarters, 1)
