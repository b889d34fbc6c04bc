"""Mean-scale hyper-prior.

D. Minnen, J. Balle, G. Toderici, "Joint Autoregressive and Hierarchical Priors for Learned Image
Compression", NeurIPS 2018, arXiv 1809.02736: the parallel system of that paper, without its serial
context model.

The hyper-prior predicts the mean of every latent besides its scale; what is coded is the residual::

    x --g_a--> y --gain--> h_a --> z --round--> | coder | --> h_s --> mu, sigma
                 '--- round(y - mu) ----------> | coder, N(0, sigma^2) | --> + mu --> y_hat --g_s--> x_hat

One centre in all modes: the value handed on is always round(y - mu) + mu. h_s runs in exact integers
outside training, so mu and the table rows are the same on every machine.
"""

import torch
from torch import Tensor, nn

from ..codec import Codec
from ..coding.exact import ExactSequential
from ..coding.priors import FactorizedPrior, ScalePrior
from ..coding.sites import Code
from ..quantizers.gains import Gain
from ..transforms.pyramid import analysis, down, synthesis, up
from ..transforms.start import dct_start, gains
from .balle2018 import SCALE_START, SCALE_UNIT


class Minnen2018(Codec):
    """Mean-scale hyper-prior codec of 1809.02736; y (B, M, H/16, W/16) and z (B, N, H/64, W/64)."""

    info = {
        "slug": "minnen2018",
        "title": "Joint autoregressive and hierarchical priors (mean-scale hyper-prior)",
        "authors": "Minnen, Balle, Toderici",
        "year": 2018,
        "arxiv": "1809.02736",
        "aliases": ["mbt2018-mean", "mean-scale-hyperprior"],
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "hierarchical side information",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"widths": (192, 192, 192, 192), "hyper": (192, 192, 288), "levels": 1, "soft": True},
        "paper-high": {"widths": (192, 192, 192, 320), "hyper": (192, 320, 480), "levels": 1, "soft": True},
        "compact": {"widths": (48, 96, 128, 192), "hyper": (64, 64, 96), "levels": 8, "magnitudes": True},
    }

    def __init__(
        self,
        widths: tuple[int, ...],
        hyper: tuple[int, int, int],
        levels: int,
        soft: bool = False,
        magnitudes: bool = False,
    ) -> None:
        super().__init__()
        self.levels, self.soft, self.magnitudes = levels, soft, magnitudes
        m, (n, s1, s2) = widths[-1], hyper
        shape = (widths, (5,) * 4, (2,) * 4)
        self.analysis = analysis(*shape, gdn_last=False)
        self.synthesis = synthesis(*shape, gdn_first=False)
        if levels > 1:
            dct_start(self.analysis, self.synthesis)
        act = nn.ReLU if magnitudes else nn.LeakyReLU  # compact starts as balle2018 with a mean of zero
        self.gain = Gain(m, levels, *gains(self.lambdas))
        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(2 * m if magnitudes else m, n, 3, padding=1),
            act(),
            down(n, n),
            act(),
            down(n, n),
        )
        self.hyper_synthesis = ExactSequential(up(n, s1), act(), up(s1, s2), act(), nn.Conv2d(s2, 2 * m, 3, padding=1))
        self.z_prior = FactorizedPrior(n, levels)
        self.y_prior = ScalePrior("gaussian")

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self.hyper_analysis(self._evidence(y)))
        scale, mean = self.hyper_synthesis(z_hat).chunk(2, 1)
        y_hat = code("y", self.y_prior(SCALE_START + SCALE_UNIT * scale, mean), lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def _evidence(self, y: Tensor) -> Tensor:
        """What h_a sees. 64 channels are too few to fold 192 signs away: the compact preset is shown |y| too."""
        return torch.cat((y, y.abs()), 1) if self.magnitudes else y
