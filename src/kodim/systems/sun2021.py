"""Quantised weights and activations: the whole codec in integers.

H. Sun, L. Yu, J. Katto, "End-to-End Learned Image Compression with Quantized Weights and Activations", arXiv
2111.09348 (2021); J. Balle, N. Johnston, D. Minnen, "Integer Networks for Data Compression with Latent-Variable
Models", ICLR 2019.

All four networks of a mean-scale hyper-prior codec, the transforms too, multiply eight-bit weights with eight-bit
activations. Weights are codes into a codebook that is dense near 0, scaled by the largest weight of their output
channel; activations have a step per channel, a power of two; the latents' means are removed before they are rounded::

    x, 0..255 --g_a--> y --gain--> h_a --> z --round--> | coder | --> h_s --> mu, sigma
                        '-- round(y - mu) ------------> | coder, N(0, sigma^2) | --> + mu --> y_hat --g_s--> 0..255
        a layer:  8-bit codes --(x) 8-bit codes, exact sums--> * factor + bias --> GDN or rectifier --> 8-bit codes

Not only the tables but the pixels, and the bytes that an encoder writes, are the same on every machine. The base
network of the paper is not known to us: it is `minnen2018`, from whose checkpoint the fine-tuning starts. The roots
in GDN are taken of exact sums, and gains come from an integer table.
"""

import math

from torch import Tensor

from ..coding.exact_blocks import exact_exp2, exact_interpolation
from ..coding.sites import Code
from ..transforms.integer import IntegerSequential
from .balle2018 import SCALE_START, SCALE_UNIT
from .minnen2018 import Minnen2018


class Sun2021(Minnen2018):
    """Mean-scale codec in integers; y (B, M, H/16, W/16) and z (B, N, H/64, W/64)."""

    info = {
        "slug": "sun2021",
        "title": "End-to-end learned image compression with quantized weights and activations",
        "authors": "Sun, Yu, Katto",
        "year": 2021,
        "arxiv": "2111.09348",
        "aliases": ["quantized", "integer"],
        "place": "minnen2018 with eight-bit weights and activations: what it loses is the price of pixels that are the "
        "same everywhere.",
        "taxonomy": {
            "network": "VAE (CNN with GDN, 8-bit integers)",
            "unit": "full image",
            "spatial": "hierarchical side information",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"widths": (192, 192, 192, 192), "hyper": (192, 192, 288), "levels": 1},
        "compact": {"widths": (48, 96, 128, 192), "hyper": (64, 64, 96), "levels": 8, "magnitudes": True},
    }

    def __init__(
        self, widths: tuple[int, ...], hyper: tuple[int, int, int], levels: int, magnitudes: bool = False
    ) -> None:
        super().__init__(widths, hyper, levels, magnitudes=magnitudes)
        self.analysis = IntegerSequential(self.analysis, pixels=True)
        self.synthesis = IntegerSequential(self.synthesis, shifted=True)
        self.hyper_analysis = IntegerSequential(self.hyper_analysis, shifted=True)
        self.hyper_synthesis = IntegerSequential(self.hyper_synthesis)  # type: ignore[assignment]

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self._power(self.gain.log_gain, code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self.hyper_analysis(self._evidence(y)))
        scale, mean = self.hyper_synthesis(z_hat).chunk(2, 1)
        y_hat = code("y", self.y_prior(SCALE_START + SCALE_UNIT * scale, mean), lambda: y)
        inverse = self._power(self.gain.log_inverse, code.level)
        if self.training:
            return self.synthesis(y_hat * inverse)
        x_hat = self.synthesis(y_hat.double() * inverse)  # the product takes more than a float32 holds
        return ((x_hat * 255 + 0.5).floor() / 255).to(y_hat.dtype)

    def _power(self, log_gain: Tensor, level: Tensor) -> Tensor:
        """Gains (B, M, 1, 1) at a level (B,), from natural logarithms (levels, M)."""
        if self.training:
            return (self.gain if log_gain is self.gain.log_gain else self.gain.inverse)(level)
        return exact_exp2(exact_interpolation(log_gain.double() / math.log(2), level), False)
