"""Competition of prior distributions (Manypriors).

B. Brummer, C. De Vleeschouwer, "End-to-end Optimized Image Compression with Competition of Prior Distributions",
CVPR Workshops (CLIC) 2021, arXiv 2111.09172.

A dictionary of K priors takes the place of the hyper-prior. For every position of the latent the encoder picks the
prior that codes all channels there in the fewest bits, and sends its number; the decoder only looks up::

    x --g_a--> y --gain--> argmin_k bits of y under prior k --> | coder | --> k
                 '------------ round(y - mu_k) ---------------> | coder, prior k | --> + mu_k --> y_hat --g_s--> x_hat

`paper` has 64 x 256 learned densities and sends raw numbers of 6 bits. In `compact` a prior is a row of means and
scales that move with the rate level, so tables stay small; its numbers are coded behind their neighbours on the left
and above, and chosen such that no other number anywhere makes the file smaller. Its transforms are those of
`minnen2018`. A prior that wins no place for 50 steps of training is given the dearest ones for a step.
"""

import math
from functools import cache

import torch
from torch import Tensor

from ..codec import Codec
from ..coding.competition import Bind, CurveDictionary, NumberCoder, Revival, ScaleDictionary, place_costs, settle
from ..coding.sites import Code
from ..quantizers.gains import Gain
from ..transforms.pyramid import analysis, synthesis
from ..transforms.start import dct_start, gains
from .balle2018 import SCALE_START, SCALE_UNIT

USUAL = 0.05  # deviation of a coefficient before its gain, in the middle of the dictionary


class Brummer2021(Codec):
    """Competing-priors codec of 2111.09172; y (B, M, H/16, W/16) and k (B, 1, H/16, W/16)."""

    info = {
        "slug": "brummer2021",
        "title": "Competition of prior distributions",
        "authors": "Brummer, De Vleeschouwer",
        "year": 2021,
        "arxiv": "2111.09172",
        "aliases": ["manypriors"],
        "improves": "balle2017",
        "place": "No hyper network and no context between its sites: the decoder's probabilities are looked up.",
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "transmitted choice of a prior for each position",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"widths": (192, 192, 192, 256), "priors": 64, "levels": 1, "soft": True},
        "compact": {"widths": (48, 96, 128, 192), "priors": 64, "levels": 8},
    }
    stride = 16
    refinable = False  # a number is no quantity: there is nothing between two of them

    def __init__(self, widths: tuple[int, ...], priors: int, levels: int, soft: bool = False) -> None:
        super().__init__()
        self.levels, self.soft, self.priors = levels, soft, priors
        m, compact = widths[-1], levels > 1
        shape = (widths, (5,) * 4, (2,) * 4)
        self.analysis = analysis(*shape, gdn_last=False)
        self.synthesis = synthesis(*shape, gdn_first=False)
        low, high = gains(self.lambdas)
        self.gain = Gain(m, levels, low, high)
        if compact:
            dct_start(self.analysis, self.synthesis)
            start = torch.linspace(math.log(USUAL * low), math.log(USUAL * high), levels).tolist()
            self.dictionary: ScaleDictionary | CurveDictionary = ScaleDictionary(
                priors, m, start, (SCALE_UNIT, SCALE_START)
            )
        else:
            self.dictionary = CurveDictionary(priors, m)
        self.numbers = NumberCoder(priors, context=compact)
        self.revival = Revival(priors)

    def program(self, code: Code) -> Tensor:
        gain = self.gain(code.level)
        y = code.encoder(lambda x: self.analysis(x) * gain)
        bind = self.dictionary.bind(code.level, gain)
        number = self.numbers(code, "k", code.grid(16), cache(lambda: self.choose(bind, y)))
        y_hat = code("y", bind(number), lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def choose(self, bind: Bind, y: Tensor) -> Tensor:
        """The best numbers (B, 1, h, w) for latents (B, M, h, w)."""
        costs = place_costs(bind, self.priors, y, exact=not self.training)
        if self.training:
            return self.revival(costs)
        pairs = self.numbers.costs().to(costs)
        return torch.stack([settle(c, pairs) for c in costs])[:, None]
