"""Code-space predictor.

J. P. Klopp, Y.-C. F. Wang, S.-Y. Chien, L.-G. Chen, "Learning a Code-Space Predictor by Exploiting
Intra-Image-Dependencies", BMVC 2018.

In the spirit of inpainting: a network predicts each latent from those decoded around it, and is trained together
with the transform, so that the code also carries what helps to predict its neighbours::

    x --g_a--> y --gain----- round(y - mu) --> | coder, Laplace(mu, b) | --> + mu --> y_hat --g_s--> x_hat
                 '-> h_a -> z -> | coder | -> h_s -.              mu, b ^              |
                     (with `hyper` only)           '-----> 1x1 layers --'<-- masked 5x5

With it goes a sparser divisive normalisation: rectify, then divide by a weighted sum instead of a root of squares.

The sheet this is built from knows the paper's abstract and its curve, no layer. So this is a reconstruction:
the pyramid of `balle2018`, a masked 5x5 convolution and three 1x1 layers, Laplacians, mean-shifted rounding. The
paper does not say whether its best curve has a hyper-prior; presets exist with and without.

The `compact` preset has the hyper-prior, and ordinary normalisation so that it may start from the trunk of
`minnen2018`: rectified units cannot take over a transform code, half of whose values are negative. The presets
`predictor` (no hyper-prior) and `sparse` (rectified) are what the paper's claims are tested with.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.priors import LocationScale, ScalePrior
from ..coding.sites import Code
from ..contexts.raster import RasterContext
from ..transforms.gdn import GDN, lower_bound
from .balle2018 import SCALE_START, SCALE_UNIT
from .minnen2018 import Minnen2018

LAPLACE_START = SCALE_START - 2.8  # b = sigma / sqrt(2)


class Klopp2018(Minnen2018):
    """Code-space predictor; y (B, M, H/16, W/16) and, with `side`, z (B, N, H/64, W/64)."""

    info = {
        "slug": "klopp2018",
        "title": "Code-space predictor",
        "authors": "Klopp, Wang, Chien, Chen",
        "year": 2018,
        "aliases": ["code-space-predictor"],
        "improves": "balle2018",
        "place": "It has no mean or scale from a hyper-decoder of its own kind: the code-space predictor learned from "
        "nothing in 8 minutes, beside 60 core-minutes of `balle2018`.",
        "taxonomy": {
            "network": "VAE (CNN with sparse GDN)",
            "unit": "full image",
            "spatial": "causal 5x5 context, optional hierarchical side information",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {
            "widths": (128, 128, 128, 192),
            "hyper": (128, 192, 288),
            "side": False,
            "sparse": True,
            "context": 384,
            "joint": (640, 512),
            "levels": 1,
        },
        "paper-hyper": {
            "widths": (192, 192, 192, 320),
            "hyper": (192, 320, 480),
            "side": True,
            "sparse": True,
            "context": 640,
            "joint": (1066, 853),
            "levels": 1,
        },
        "compact": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "side": True,
            "sparse": False,
            "context": 192,
            "joint": (256, 256),
            "levels": 8,
        },
        "predictor": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "side": False,
            "sparse": False,
            "context": 192,
            "joint": (256, 256),
            "levels": 8,
        },
        "sparse": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "side": True,
            "sparse": True,
            "context": 192,
            "joint": (256, 256),
            "levels": 8,
        },
    }

    def __init__(
        self,
        widths: tuple[int, ...],
        hyper: tuple[int, int, int],
        side: bool,
        sparse: bool,
        context: int,
        joint: tuple[int, ...],
        levels: int,
    ) -> None:
        super().__init__(widths, hyper, levels, magnitudes=levels > 1)
        m = widths[-1]
        self.side = side
        if sparse:
            _rectify(self.analysis)
            _rectify(self.synthesis)
        if not side:
            del self.hyper_analysis, self.hyper_synthesis, self.z_prior
        self.context = RasterContext(m, 2 * m if side else 0, context, joint, 2 * m, residual=side and levels > 1)
        self.y_prior = ScalePrior("laplace")

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        y_hat = self.context(code, "y", self._side(code, lambda: y), self._bind, lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def _side(self, code: Code, latent: Callable[[], Tensor]) -> Tensor:
        """Side information (B, 2 M, h, w), or (B, 0, h, w)."""
        if not self.side:
            return self.gain.log_gain.new_zeros(len(code.level), 0, *code.grid(16))
        prior = self.z_prior(code.level, code.grid(64))
        return self.hyper_synthesis(code("z", prior, lambda: self.hyper_analysis(self._evidence(latent()))))

    def _bind(self, parameters: Tensor) -> LocationScale:
        scale, mean = parameters.chunk(2, 1)
        return self.y_prior(LAPLACE_START + SCALE_UNIT * scale, mean)


class SparseGDN(GDN):
    """`y_i = r_i / (beta_i + sum_j gamma_ij r_j)` with `r = max(x, 0)`; the inverse multiplies."""

    def forward(self, x: Tensor) -> Tensor:
        beta = lower_bound(self.beta, (1e-6 + self.PEDESTAL) ** 0.5).square() - self.PEDESTAL
        gamma = lower_bound(self.gamma, self.PEDESTAL**0.5).square() - self.PEDESTAL
        r = x.clamp_min(0)
        norm = F.conv2d(r, gamma[:, :, None, None], beta)
        return r * norm if self.inverse else r / norm


def _rectify(net: nn.Sequential) -> None:
    """Put a sparse normalisation in the place of every ordinary one."""
    for i, layer in enumerate(net):
        if isinstance(layer, GDN):
            net[i] = SparseGDN(len(layer.beta), layer.inverse)
