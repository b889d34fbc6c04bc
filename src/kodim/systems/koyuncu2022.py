"""Contextformer.

A. B. Koyuncu, H. Gao, A. Boev, G. Gaikov, E. Alshina, E. Steinbach, "Contextformer: A Transformer with
Spatio-Channel Attention for Context Modeling in Learned Image Compression", ECCV 2022, arXiv 2203.02452.

Serial context in three dimensions. The latent is cut into segments of channels, every (row, column, segment) is a
token, and a causal transformer says what to expect of the next one, all segments of a position in turn::

    x --g_a--> y --gain--> h_a --> z --round--> | coder | --> h_s ------------------------.
                 '--> token --> | coder, mu, sigma | --> y_hat --g_s--> x_hat              v
                                          ^                |                          1x1 layers --> mu, sigma
    [segments before, here]  [all segments | above, left]  '--> embedding --> attention ---^

The paper lets a window of 16x16 positions slide over the latent, inside of which every token sees all tokens before
it. Nothing could be decoded at once there. Here a token sees the positions of a causal window around it (radius 7
in `paper`), which leaves positions with equal w + (radius + 1) h independent, for any size of picture and without
borders. Positions are known by a bias per place in that window, h-swish stands for GELU, and residual blocks stand
for non-local ones in the transform; the rest has the sizes that an independent implementation gives.

The `compact` preset shares the trunk of `minnen2018`, mean-shifted rounding and one Gaussian included; the
transformer starts as a correction of zero to what h_s says.
"""

from torch import Tensor, nn

from ..coding.exact import ExactSequential
from ..coding.mixtures import MixturePrior
from ..coding.sites import BoundPrior, Code
from ..contexts.spatiochannel import SpatioChannelContext
from ..transforms.gdn import GDN
from ..transforms.pyramid import down, up
from .balle2018 import SCALE_START, SCALE_UNIT
from .cheng2020 import Attention, Residual
from .minnen2018 import Minnen2018


class Koyuncu2022(Minnen2018):
    """Contextformer of 2203.02452; y (B, M, H/16, W/16) and z (B, N, H/64, W/64)."""

    refinable = False  # its training pass sees another latent than its coding pass

    info = {
        "slug": "koyuncu2022",
        "title": "Contextformer",
        "authors": "Koyuncu, Gao, Boev, Gaikov, Alshina, Steinbach",
        "year": 2022,
        "arxiv": "2203.02452",
        "aliases": ["contextformer"],
        "improves": "minnen2018-ar",
        "place": "Attention over earlier segments and places is dear to train: 0.08 Gpx in 9 minutes, a third of what "
        "the convolutional contexts saw.",
        "taxonomy": {
            "network": "VAE (CNN with GDN, causal transformer)",
            "unit": "full image",
            "spatial": "hierarchical side information, spatio-channel attention",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {
            "widths": (192, 192, 192, 192),
            "hyper": (192, 192, 288),
            "transformer": (384, 12, 8),
            "joint": (656, 544),
            "radius": 7,
            "mixtures": 3,
            "levels": 1,
        },
        "compact": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "transformer": (96, 4, 3),
            "joint": (128,),
            "radius": 2,
            "mixtures": 1,
            "levels": 8,
        },
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)

    def __init__(
        self,
        widths: tuple[int, ...],
        hyper: tuple[int, int, int],
        transformer: tuple[int, int, int],
        joint: tuple[int, ...],
        radius: int,
        mixtures: int,
        levels: int,
    ) -> None:
        """`transformer`: width, heads and layers."""
        super().__init__(widths, hyper, levels, magnitudes=levels > 1)
        m, segments, self.mixtures = widths[-1], 4, mixtures
        if levels == 1:
            self._paper_transforms(m)
        outputs = m // segments * (2 if mixtures == 1 else 3 * mixtures)
        self.context = SpatioChannelContext(
            m, 2 * m, segments, *transformer, joint, outputs, radius, residual=levels > 1
        )
        if mixtures > 1:
            self.y_prior = MixturePrior(("gaussian",) * mixtures)  # type: ignore[assignment]

    def _paper_transforms(self, n: int) -> None:
        self.analysis = nn.Sequential(
            down(3, n, 3), GDN(n), Attention(n), down(n, n, 3), GDN(n), down(n, n, 3), GDN(n), down(n, n, 3),
            nn.Conv2d(n, n, 1),
        )  # fmt: skip
        self.synthesis = nn.Sequential(
            Residual(n), Residual(n), up(n, n, 3), GDN(n, True), up(n, n, 3), GDN(n, True), up(n, n, 3),
            Attention(n), GDN(n, True), up(n, 3, 3),
        )  # fmt: skip
        act = nn.LeakyReLU
        self.hyper_analysis = nn.Sequential(
            down(n, n, 3, 1), act(), down(n, n, 3, 1), act(), down(n, n, 3), act(), down(n, n, 3, 1), act(),
            down(n, n, 3),
        )  # fmt: skip
        self.hyper_synthesis = ExactSequential(
            down(n, n, 3, 1), act(), up(n, n, 3), act(), down(n, n, 3, 1), act(), up(n, n * 3 // 2, 3), act(),
            down(n * 3 // 2, 2 * n, 3, 1),
        )  # fmt: skip

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self.hyper_analysis(self._evidence(y)))
        y_hat = self.context(code, "y", self.hyper_synthesis(z_hat), self._bind, lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def _bind(self, parameters: Tensor) -> BoundPrior:
        if self.mixtures == 1:
            scale, mean = parameters.chunk(2, 1)
            return self.y_prior(SCALE_START + SCALE_UNIT * scale, mean)
        scale, mean, logits = parameters.unflatten(1, (3, self.mixtures, -1)).unbind(1)
        return self.y_prior(logits, mean, SCALE_START + SCALE_UNIT * scale)
