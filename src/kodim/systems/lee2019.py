"""Context-adaptive entropy model.

J. Lee, S. Cho, S.-K. Beack, "Context-adaptive Entropy Model for End-to-end Optimized Image Compression",
ICLR 2019, arXiv 1809.10452.

Two contexts tell mean and scale of a latent: features of the hyper-prior all around it, which cost bits, and the
latents decoded before it, which are free. A small network f reads a 4x4 window of each::

    x --g_a--> y --gain--> h_a --> z --round--> | coder | --> h_s --> c' --4x4 window--.
                 |                                                                     v
                 '--- round(y) --> | coder, N(mu, sigma^2) | --> y_hat --4x4 window--> f --> mu, sigma
                                                                   '--g_s--> x_hat

Latents are rounded to plain integers; the mean moves the density, not the grid. At high rate (`paper-high`) only
the first 192 channels get this treatment, and h_s gives the scales of the rest, which are coded at once.

The window ends one column to the right of its position, so positions with equal w + 2 h are independent: 110 steps
for 48x32 latents. Choices made here: the layers of f are as its authors are remembered to have had them; z has a
learned density per channel, pictures are padded to 64 pixels, and the stream has no end symbol (the container
knows). The `compact` preset shares the trunk of `minnen2018`, whose h_s speaks for itself until f has learned to
correct it.
"""

import torch
from torch import Tensor, nn

from ..coding.exact import ExactSequential
from ..coding.offsets import Offset, OffsetPrior
from ..coding.priors import ScalePrior
from ..coding.sites import Code
from ..contexts.window import WindowContext
from ..transforms.pyramid import up
from .balle2018 import SCALE_START, SCALE_UNIT
from .minnen2018 import Minnen2018


class Lee2019(Minnen2018):
    """Two-context codec of 1809.10452; y (B, M, H/16, W/16) and z (B, N, H/64, W/64)."""

    info = {
        "slug": "lee2019",
        "title": "Context-adaptive entropy model",
        "authors": "Lee, Cho, Beack",
        "year": 2019,
        "arxiv": "1809.10452",
        "aliases": ["ca-entropy-model"],
        "improves": "balle2018",
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "hierarchical side information, causal 4x4 context",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {
            "widths": (128, 128, 128, 192),
            "hyper": (128, 128, 128),
            "context": 192,
            "rest": 0,
            "levels": 1,
            "soft": True,
        },
        "paper-high": {
            "widths": (192, 192, 192, 192),
            "hyper": (192, 192, 192),
            "context": 192,
            "rest": 408,
            "levels": 1,
            "soft": True,
        },
        "compact": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "context": 56,
            "rest": 0,
            "levels": 8,
            "magnitudes": True,
            "residual": True,
        },
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)

    def __init__(
        self,
        widths: tuple[int, ...],
        hyper: tuple[int, int, int],
        context: int,
        rest: int,
        levels: int,
        soft: bool = False,
        magnitudes: bool = False,
        residual: bool = False,
    ) -> None:
        """`rest`: channels behind those of `widths[-1]` that have no context (the hybrid model)."""
        m = widths[-1]
        super().__init__((*widths[:-1], m + rest), hyper, levels, soft, magnitudes)
        n, s1, s2 = hyper
        self.rest = rest
        if not residual:  # h_s gives M channels of features, and the scales of the rest
            last = nn.Conv2d(s2, m + rest, 3, padding=1)
            self.hyper_synthesis = ExactSequential(up(n, s1), nn.LeakyReLU(), up(s1, s2), nn.LeakyReLU(), last)
        self.context = WindowContext(m, 2 * m if residual else m, context, 2 * m, residual=residual)
        self.y_prior = OffsetPrior("gaussian")
        if rest:
            self.rest_prior = ScalePrior("gaussian")

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self.hyper_analysis(self._evidence(y)))
        side = self.hyper_synthesis(z_hat)
        m = side.shape[1] - self.rest
        y_hat = self.context(code, "y", side[:, :m], self._bind, lambda: y[:, :m])
        if self.rest:
            scale = SCALE_START + SCALE_UNIT * side[:, m:]
            y_hat = torch.cat((y_hat, code("y2", self.rest_prior(scale), lambda: y[:, m:])), 1)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def _bind(self, parameters: Tensor) -> Offset:
        scale, mean = parameters.chunk(2, 1)
        return self.y_prior(SCALE_START + SCALE_UNIT * scale, mean)
