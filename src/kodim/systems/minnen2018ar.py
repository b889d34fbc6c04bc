"""Joint autoregressive and hierarchical priors.

D. Minnen, J. Balle, G. Toderici, "Joint Autoregressive and Hierarchical Priors for Learned Image
Compression", NeurIPS 2018, arXiv 1809.02736: the full system. Its parallel half is :mod:`kodim.systems.minnen2018`.

Mean and scale of a latent follow from the hyper-prior and from the latents already decoded around it::

    x --g_a--> y --gain--> h_a --> z --round--> | coder | --> h_s ----------.
                 |                                                          v
                 '--- round(y - mu) --> | coder, N(0, sigma^2) | --> + mu --> y_hat --g_s--> x_hat
                                              mu, sigma ^                     |
                                                        '-- 1x1 layers <-- masked 5x5

The context is serial. It is walked in wavefronts (:mod:`kodim.coding.wavefront`), w + 3 h steps instead of w h,
by encoder, decoder and estimate alike, in exact integers. The `compact` preset shares the trunk of
`minnen2018`: its context starts as a correction of zero to what h_s says.
"""

from torch import Tensor

from ..coding.priors import LocationScale
from ..coding.sites import Code
from ..contexts.raster import RasterContext
from .balle2018 import SCALE_START, SCALE_UNIT
from .minnen2018 import Minnen2018


class Minnen2018Autoregressive(Minnen2018):
    """Context and hyper-prior codec of 1809.02736; y (B, M, H/16, W/16) and z (B, N, H/64, W/64)."""

    info = {
        "slug": "minnen2018-ar",
        "title": "Joint autoregressive and hierarchical priors",
        "authors": "Minnen, Balle, Toderici",
        "year": 2018,
        "arxiv": "1809.02736",
        "aliases": ["mbt2018", "joint-autoregressive"],
        "improves": "minnen2018",
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "hierarchical side information, causal 5x5 context",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {
            "widths": (192, 192, 192, 192),
            "hyper": (192, 192, 288),
            "context": 384,
            "joint": (640, 512),
            "levels": 1,
            "soft": True,
        },
        "paper-high": {
            "widths": (192, 192, 192, 320),
            "hyper": (192, 320, 480),
            "context": 640,
            "joint": (1066, 853),
            "levels": 1,
            "soft": True,
        },
        "compact": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "context": 192,
            "joint": (256, 256),
            "levels": 8,
            "magnitudes": True,
            "residual": True,
        },
    }

    def __init__(
        self,
        widths: tuple[int, ...],
        hyper: tuple[int, int, int],
        context: int,
        joint: tuple[int, ...],
        levels: int,
        soft: bool = False,
        magnitudes: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__(widths, hyper, levels, soft, magnitudes)
        m = widths[-1]
        self.context = RasterContext(m, 2 * m, context, joint, 2 * m, residual=residual)

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self.hyper_analysis(self._evidence(y)))
        y_hat = self.context(code, "y", self.hyper_synthesis(z_hat), self._bind, lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def _bind(self, parameters: Tensor) -> LocationScale:
        scale, mean = parameters.chunk(2, 1)
        return self.y_prior(SCALE_START + SCALE_UNIT * scale, mean)
