"""End-to-end optimised image compression: convolutions, GDN and a factorised prior.

J. Balle, V. Laparra, E. Simoncelli, ICLR 2017, arXiv 1611.01704.

Three stages of convolution and divisive normalisation are trained end to end for rate + lambda * MSE,
with additive uniform noise in the place of rounding and one learned density per channel::

    x --[9x9/4 GDN 5x5/2 GDN 5x5/2 GDN]--> y --gain, round--> | range coder | --> y_hat
    x_hat <--[9x9 x4, IGDN 5x5 x2, IGDN 5x5 x2, IGDN]-- inverse gain <---------------'

This is the variant with a GDN after every analysis layer (the widely used library version drops the
last one). The `paper` preset has the paper's RGB width and one lambda per model; `compact` carries
gain units, so one training gives a whole rate-distortion curve.
"""

from torch import Tensor

from ..codec import Codec
from ..coding.priors import FactorizedPrior
from ..coding.sites import Code
from ..quantizers.gains import Gain
from ..transforms.pyramid import analysis, synthesis
from ..transforms.start import dct_start, gains


class Balle2017(Codec):
    """Factorised-prior codec of 1611.01704; latents (B, widths[-1], H/16, W/16)."""

    info = {
        "slug": "balle2017",
        "title": "End-to-end optimized image compression",
        "authors": "Balle, Laparra, Simoncelli",
        "year": 2017,
        "arxiv": "1611.01704",
        "aliases": ["bls2017"],
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "none",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"widths": (192, 192, 192), "levels": 1, "soft": True},
        "compact": {"widths": (96, 128, 192), "levels": 8},
    }
    stride = 16

    def __init__(self, widths: tuple[int, ...], levels: int, soft: bool = False) -> None:
        super().__init__()
        self.levels, self.soft = levels, soft
        shape = (widths, (9, 5, 5), (4, 2, 2))
        self.analysis = analysis(*shape, gdn_last=True)
        self.synthesis = synthesis(*shape, gdn_first=True)
        if levels > 1:
            dct_start(self.analysis, self.synthesis)
        self.gain = Gain(widths[-1], levels, *gains(self.lambdas))
        self.prior = FactorizedPrior(widths[-1], levels, spread=1.15, substeps=4)

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        y_hat = code("y", self.prior(code.level, code.grid(16)), lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))
