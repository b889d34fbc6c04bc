"""Coarse-to-fine hyper-prior.

Y. Hu, W. Yang, Z. Ma, J. Liu, "Learning End-to-End Lossy Image Compression: A Benchmark", TPAMI 2021, arXiv
2002.03711; first in Y. Hu, W. Yang, J. Liu, "Coarse-to-Fine Hyper-Prior Modeling for Learned Image Compression",
AAAI 2020.

Three layers of latents, each predicted from the coarser one, in three parallel passes; what predicts the latents
then helps to paint the picture ("information aggregation")::

    x --g_a--> y --h_a2--> z2 --h_a1--> z1 --round--> | coder, N(0, sigma) | --> h_s1 --> h1 --> mu2, sigma2
               |           '-- round(z2 - mu2) -----> | coder, N(0, sigma2) | -> h_s2 --> h2 --> mu, sigma
               '-------------- round(y - mu) -------> | coder, N(0, sigma)  | -> y_hat
    y_hat --first three layers of g_s--> (+) with h1, h2 brought to the same size --> last layers --> x_hat

`paper` reads mu and sigma off a network that sees the 5x5 patch around each position, and rounds latents to plain
integers; `compact` uses convolutions of the same field of view, and round(z - mu) + mu. Its transforms are those
of `minnen2018`, and aggregation starts as a correction of zero to their picture.

Training has four stages: z2 alone, coded as N(0, 1); then z1; then aggregation; up to here h1 and h2 also learn to
resemble z2 and y; at last without that help. Each is a preset, started from the one before with `--init`.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from ..codec import Codec, Output
from ..coding.exact_blocks import ExactLevels
from ..coding.offsets import OffsetPrior
from ..coding.priors import ScalePrior
from ..coding.sites import BoundPrior, Code
from ..quantizers.gains import Gain
from ..quantizers.rounding import straight_through
from ..transforms.aggregation import Aggregation
from ..transforms.pyramid import analysis, synthesis
from ..transforms.shuffle import PatchPredictor, convolutional_predictor, shuffle_down, shuffle_up
from ..transforms.start import dct_start, gains
from .balle2018 import SCALE_START, SCALE_UNIT


class Hu2021(Codec):
    """Three-layer codec of 2002.03711; y (B, M, H/16, W/16), z2 (B, N2, H/32, W/32) and z1 (B, N1, H/64, W/64).

    Attributes:
        aggregate: whether the decoder paints with h1 and h2 too. It does not change the file.
    """

    info = {
        "slug": "hu2021",
        "title": "Coarse-to-fine hyper-prior modeling",
        "authors": "Hu, Yang, Ma, Liu",
        "year": 2021,
        "arxiv": "2002.03711",
        "aliases": ["coarse-to-fine"],
        "improves": "minnen2018",
        "place": "Only the transforms came from the trunk: three layers of latents and what predicts them had 32 "
        "minutes in four stages, where the hyper-prior of `minnen2018` had an hour.",
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "two layers of side information, reused by the decoder",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {
            "widths": (192, 192, 192, 192),
            "fine": (192, 768, 256, 192),
            "coarse": (256, 128, 128, 256),
            "aggregation": (192, 64, 16),
            "levels": 1,
            "stage": 4,
        },
        "paper-high": {
            "widths": (384, 384, 384, 384),
            "fine": (768, 1536, 256, 384),
            "coarse": (512, 256, 128, 256),
            "aggregation": (384, 128, 32),
            "levels": 1,
            "stage": 4,
        },
        "compact": {"levels": 8, "stage": 4},
        "stage1": {"levels": 8, "stage": 1},
        "stage2": {"levels": 8, "stage": 2},
        "stage3": {"levels": 8, "stage": 3},
    }

    def __init__(
        self,
        levels: int,
        stage: int,
        widths: tuple[int, ...] = (48, 96, 128, 192),
        fine: tuple[int, int, int, int] = (64, 128, 64, 96),
        coarse: tuple[int, int, int, int] = (32, 64, 32, 64),
        aggregation: tuple[int, int, int] = (24, 16, 16),
    ) -> None:
        """`fine` and `coarse`: of the networks between y and z2, and z2 and z1: width of the 3x3 layer, width of the
        1x1 layers, channels of the latent, channels of h2 or h1. `aggregation`: width of its side branch, and of its
        last layers."""
        super().__init__()
        self.levels, self.stage, self.aggregate = levels, stage, stage > 2
        m, compact = widths[-1], levels > 1
        n2, h2 = fine[2:]
        self.channels2 = n2
        n1, h1 = coarse[2:]
        shape = (widths, (5,) * 4, (2,) * 4)
        self.analysis = analysis(*shape, gdn_last=False)
        self.synthesis = synthesis(*shape, gdn_first=False)
        if compact:
            dct_start(self.analysis, self.synthesis)
        self.gain = Gain(m, levels, *gains(self.lambdas))
        self.hyper_analysis2 = shuffle_down(2 * m if compact else m, *fine[:3])
        self.hyper_synthesis2 = shuffle_up(n2, fine[1], fine[0], h2)
        self.predict_y = convolutional_predictor(h2, (h2, h2), 2 * m) if compact else PatchPredictor(h2, 2 * m)
        if stage > 1:
            self.hyper_analysis1 = shuffle_down(n2, *coarse[:3])
            self.hyper_synthesis1 = shuffle_up(n1, coarse[1], coarse[0], h1)
            self.predict_z2 = convolutional_predictor(h1, (h1, h1), 2 * n2) if compact else PatchPredictor(h1, 2 * n2)
            self.z1_scale = ExactLevels(torch.zeros(levels, n1))
        if stage > 2:
            self.aggregation = Aggregation(widths[0], h1 // 4 + h2, aggregation[0], aggregation[1:], correction=compact)
        if stage < 4:
            self.resemble = nn.ModuleList([nn.Conv2d(h2, m, 3, padding=1)])
            if stage > 1:
                self.resemble.append(nn.Conv2d(h1, n2, 3, padding=1))
        self.likeness: list[Tensor] = []  # while training in stages 1 to 3: how far h2 is from y, and h1 from z2
        self.prior = ScalePrior("gaussian") if compact else OffsetPrior("gaussian")

    def program(self, code: Code) -> Tensor:
        self.likeness = []
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        z2_hat, h1 = self._coarse(code, cache(lambda: self.hyper_analysis2(self._evidence(y))))
        h2 = self.hyper_synthesis2(z2_hat)
        self._compare(0, h2, lambda: y)
        y_hat = code("y", self._bind(self.predict_y(h2)), lambda: y)
        return self._paint(y_hat * self.gain.inverse(code.level), h1, h2)

    def objective(self, x: Tensor, out: Output, level: Tensor) -> dict[str, Tensor]:
        terms = super().objective(x, out, level)
        if self.likeness:
            terms["likeness"] = torch.stack(self.likeness).sum()
            terms["loss"] = terms["loss"] + terms["likeness"]
        return terms

    def _coarse(self, code: Code, z2: Callable[[], Tensor]) -> tuple[Tensor, Tensor | None]:
        """Code z1 and z2; gives z2_hat and, from stage 2 on, h1."""
        h, w = code.grid(32)
        if self.stage == 1:
            unit = code.level.new_full((len(code.level), self.channels2, h, w), SCALE_START)
            return code("z2", self.prior(unit), z2), None
        scale = SCALE_START + SCALE_UNIT * self.z1_scale(code.level)
        z1_prior = self.prior(scale.expand(-1, -1, *code.grid(64)))
        h1 = self.hyper_synthesis1(code("z1", z1_prior, lambda: self.hyper_analysis1(self._rounded(z2()))))
        self._compare(1, h1, z2)
        return code("z2", self._bind(self.predict_z2(h1)), z2), h1

    def _bind(self, parameters: Tensor) -> BoundPrior:
        mean, scale = parameters.chunk(2, 1)
        return self.prior(SCALE_START + SCALE_UNIT * scale, mean)

    def _paint(self, y: Tensor, h1: Tensor | None, h2: Tensor) -> Tensor:
        if h1 is None or not self.aggregate:
            return self.synthesis(y)
        features = self.synthesis[:6](y)
        x_hat = self.aggregation(features, torch.cat((nn.functional.pixel_shuffle(h1, 2), h2), 1).to(y.dtype))
        return self.synthesis[6:](features) + x_hat if self.levels > 1 else x_hat

    def _compare(self, which: int, h: Tensor, latent: Callable[[], Tensor]) -> None:
        """Add the squared error of a latent as h has it, relative to the latent's size: alike at every rate."""
        if self.training and self.stage < 4:
            with torch.autocast(h.device.type, enabled=False):
                target = latent().detach().float()
                error = (self.resemble[which](h.float()) - target).square().mean((1, 2, 3))
                self.likeness.append((error / (target.square().mean((1, 2, 3)) + 1)).mean())

    def _evidence(self, y: Tensor) -> Tensor:
        """What h_a2 sees; the compact preset is shown |y| too, as in `minnen2018`."""
        y = self._rounded(y)
        return torch.cat((y, y.abs()), 1) if self.levels > 1 else y

    def _rounded(self, latent: Tensor) -> Tensor:
        """What hyper-analyses see: integers in the paper, which round(z - mu) + mu can only tell afterwards."""
        return latent if self.levels > 1 else straight_through(latent)
