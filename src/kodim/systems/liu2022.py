"""A perception metric in the loss.

S. Liu, Y. Huang, H. Yang, Y. Liang, W. Liu, "End-to-end image compression method based on perception metric",
Signal, Image and Video Processing 2022, doi 10.1007/s11760-022-02137-y.

The codec is that of `minnen2018`; what it is trained for is not the squared error alone::

    loss = bits + lambda * (255^2 MSE + beta * P)        P: distance of x and x_hat in a space of perception

At beta = 0 it is `minnen2018`. With beta > 0 errors move to where P minds them least, at nearly the same PSNR.

Which P the paper takes is not known to us. `paper` uses features of VGG-16 at five depths, whose weights the user
has to bring (see :func:`kodim.transforms.perception.vgg_distance`). `compact` needs none: its P is the normalised
Laplacian pyramid, a model of early vision fitted to ratings (Laparra et al. 2016), which knows no semantics. Train it
from a checkpoint of `minnen2018`, and compare at equal bits: at equal lambda its rate differs.
"""

from collections.abc import Mapping

from torch import Tensor

from ..codec import Output
from ..transforms.perception import DISTANCES
from .minnen2018 import Minnen2018


class Liu2022(Minnen2018):
    """Mean-scale codec with a perceptual loss; y (B, M, H/16, W/16) and z (B, N, H/64, W/64)."""

    info = {
        "slug": "liu2022",
        "title": "End-to-end image compression based on perception metric",
        "authors": "Liu, Huang, Yang, Liang, Liu",
        "year": 2022,
        "arxiv": None,
        "aliases": ["perception-metric"],
        "improves": "minnen2018",
        "place": "minnen2018, trained for a perceptual distance too: PSNR does not show what it gains.",
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "hierarchical side information",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to medium",
        },
    }
    presets = {
        "paper": {
            "widths": (192, 192, 192, 192),
            "hyper": (192, 192, 288),
            "levels": 1,
            "perception": {"distance": "vgg", "beta": 30.0},
        },
        "compact": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "levels": 8,
            "magnitudes": True,
            "perception": {"distance": "pyramid", "beta": 600.0},
        },
    }

    def __init__(
        self,
        widths: tuple[int, ...],
        hyper: tuple[int, int, int],
        levels: int,
        perception: Mapping[str, str | float],
        magnitudes: bool = False,
    ) -> None:
        """`perception`: name of the distance and its beta, which makes it about two thirds of the squared error."""
        super().__init__(widths, hyper, levels, magnitudes=magnitudes)
        self.distance, self.beta = DISTANCES[str(perception["distance"])], float(perception["beta"])

    def objective(self, x: Tensor, out: Output, level: Tensor) -> dict[str, Tensor]:
        terms = super().objective(x, out, level)
        if self.beta:
            weight = self.distortion_weight(level)
            distance = self.distance(x, out.x_hat)
            terms["loss"] = terms["loss"] + (self.balance(level) * weight * self.beta * distance).mean()
            terms["perception"] = distance.mean()
        return terms
