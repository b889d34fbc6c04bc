"""Variational image compression with a scale hyper-prior.

J. Balle, D. Minnen, S. Singh, S. J. Hwang, N. Johnston, ICLR 2018, arXiv 1802.01436.

A second, small latent z tells the decoder the standard deviation of every element of y, so the
entropy model follows the picture while everything stays parallel::

    x --g_a--> y --gain--> |.| --h_a--> z --round--> | coder | --> h_s --> sigma
                 '-----------round--------------------> | coder, N(0, sigma^2) | --> y_hat --g_s--> x_hat

h_s emits the position in the table of scales (the log domain of the authors' later reference code),
and runs in exact integers outside training: the same file decodes on every machine.
"""

from torch import Tensor, nn

from ..codec import Codec
from ..coding.exact import ExactSequential
from ..coding.priors import FactorizedPrior, ScalePrior
from ..coding.sites import Code
from ..quantizers.gains import Gain
from ..transforms.pyramid import analysis, down, synthesis, up
from ..transforms.start import dct_start, gains

# The network's output 0 means sigma = 1 (position 18 of 64); one unit of output is eight positions.
SCALE_START, SCALE_UNIT = 18.0, 8.0


class Balle2018(Codec):
    """Scale hyper-prior codec of 1802.01436; y (B, M, H/16, W/16) and z (B, N, H/64, W/64)."""

    info = {
        "slug": "balle2018",
        "title": "Variational image compression with a scale hyperprior",
        "authors": "Balle, Minnen, Singh, Hwang, Johnston",
        "year": 2018,
        "arxiv": "1802.01436",
        "aliases": ["bmshj2018-hyperprior", "scale-hyperprior"],
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "hierarchical side information",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"widths": (128, 128, 128, 192), "hyper": 128, "levels": 1, "soft": True},
        "paper-high": {"widths": (192, 192, 192, 320), "hyper": 192, "levels": 1, "soft": True},
        "compact": {"widths": (48, 96, 128, 192), "hyper": 64, "levels": 8},
    }

    def __init__(self, widths: tuple[int, ...], hyper: int, levels: int, soft: bool = False) -> None:
        super().__init__()
        self.levels, self.soft = levels, soft
        m, n = widths[-1], hyper
        shape = (widths, (5,) * 4, (2,) * 4)
        self.analysis = analysis(*shape, gdn_last=False)
        self.synthesis = synthesis(*shape, gdn_first=False)
        if levels > 1:
            dct_start(self.analysis, self.synthesis)
        self.gain = Gain(m, levels, *gains(self.lambdas))
        self.hyper_analysis = nn.Sequential(nn.Conv2d(m, n, 3, padding=1), nn.ReLU(), down(n, n), nn.ReLU(), down(n, n))
        self.hyper_synthesis = ExactSequential(up(n, n), nn.ReLU(), up(n, n), nn.ReLU(), nn.Conv2d(n, m, 3, padding=1))
        self.z_prior = FactorizedPrior(n, levels)
        self.y_prior = ScalePrior("gaussian")

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self.hyper_analysis(y.abs()))
        scale = SCALE_START + SCALE_UNIT * self.hyper_synthesis(z_hat)
        y_hat = code("y", self.y_prior(scale), lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))
