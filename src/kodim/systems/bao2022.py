"""Hybrid-domain attention and post-processing.

Y. Bao, Y. Tao, P. Qian, "Image Compression Based on Hybrid Domain Attention and Postprocessing Enhancement",
Computational Intelligence and Neuroscience 2022, article 4926124.

Attention over channels and places (A) in the main and in the hyper transforms, and two repairs in the decoder that
cost no bits: one moves each latent within its quantiser's step, one works on the picture::

    x --g_a, A--> y --gain--> h_a, A --> z --round--> | coder | --> h_s, A --> (mu,) sigma
                   '--- round(y - mu) -------------> | coder, N(0, sigma^2) | --> y_hat
    y_hat + 1/2 tanh r(y_hat, mu, sigma) --A, g_s--> p_hat + p(p_hat) --> x_hat

The layer sizes of the paper could not be established: `paper` is the skeleton of `balle2018` with the modules placed
as its abstract has them, a reconstruction. Its scales have no mean; `compact` has one and shares the trunk of
`minnen2018`, whose picture it starts with: attention and repairs begin at zero. The attention in h_s pools in
integers and has piecewise linear gates, so tables are the same everywhere.
"""

import torch
from torch import Tensor, nn

from ..coding.sites import Code
from ..transforms.attention import HybridAttention
from ..transforms.blocks import ResidualBlock
from .balle2018 import SCALE_START, SCALE_UNIT
from .minnen2018 import Minnen2018


class Bao2022(Minnen2018):
    """Attention codec with repairs; y (B, M, H/16, W/16) and z (B, N, H/64, W/64).

    Attributes:
        inverse, enhance: whether the decoder moves the latents, and works on the picture. Neither changes the file.
    """

    info = {
        "slug": "bao2022",
        "title": "Hybrid domain attention and postprocessing enhancement",
        "authors": "Bao, Tao, Qian",
        "year": 2022,
        "arxiv": None,
        "aliases": ["hybrid-attention"],
        "improves": "balle2018",
        "place": "Attention and repairs began at zero on the trunk of `minnen2018` and had 5 minutes, which "
        "did not make up for moving the trunk.",
        "taxonomy": {
            "network": "VAE (CNN with GDN, attention, post-processing)",
            "unit": "full image",
            "spatial": "hierarchical side information",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {
            "widths": (128, 128, 128, 192),
            "hyper": (128, 128, 128),
            "attention": (128, 192, 128),
            "repair": (192, 64, 4, 1),
            "levels": 1,
        },
        "compact": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "attention": (0, 0, 4),
            "repair": (0, 24, 2, 2),
            "levels": 8,
            "magnitudes": True,
        },
    }

    def __init__(
        self,
        widths: tuple[int, ...],
        hyper: tuple[int, int, int],
        attention: tuple[int, int, int],
        repair: tuple[int, int, int, int],
        levels: int,
        magnitudes: bool = False,
    ) -> None:
        """`attention`: widths inside it (0: depthwise) at the second and fourth stage and in the hyper nets.
        `repair`: widths of r (0: four values a channel, without mixing) and p, blocks of p, and by how much p's
        sides are smaller than the picture's."""
        super().__init__(widths, hyper, levels, magnitudes=magnitudes)
        m, start = widths[-1], 0.0 if levels > 1 else 1.0
        early, late, side = attention
        self.attend_early = HybridAttention(widths[1], early, start=start)
        self.attend_late = HybridAttention(m, late, start=start)
        self.attend_hyper = HybridAttention(hyper[0], side, start=start)
        self.recall_hyper = HybridAttention(hyper[1], side, start=start, exact=True)
        self.recall_late = HybridAttention(m, late, start=start)
        self.recall_early = HybridAttention(widths[1], early, start=start)
        self.inverse = self.enhance = True
        self.dequantise = _dequantiser(m, repair[0])
        self.enhancer = _enhancer(*repair[1:])
        if levels == 1:  # no mean: half the outputs, and none of the magnitudes' help
            wide = self.hyper_synthesis[-1]
            self.hyper_synthesis[-1] = nn.Conv2d(wide.in_channels, m, 3, padding=1)  # type: ignore[arg-type]

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self._analyse(x) * self.gain(code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self._hyper_analyse(self._evidence(y)))
        parameters = self.hyper_synthesis[2:](self.recall_hyper(self.hyper_synthesis[:2](z_hat)))
        scale, mean = (parameters, None) if self.levels == 1 else parameters.chunk(2, 1)
        y_hat = code("y", self.y_prior(SCALE_START + SCALE_UNIT * scale, mean), lambda: y)
        return self._synthesise(y_hat, scale, mean, code.level)

    def _evidence(self, y: Tensor) -> Tensor:
        return y.abs() if self.levels == 1 else super()._evidence(y)

    def _analyse(self, x: Tensor) -> Tensor:
        x = self.attend_early(self.analysis[:4](x))
        return self.attend_late(self.analysis[4:](x))

    def _hyper_analyse(self, evidence: Tensor) -> Tensor:
        return self.hyper_analysis[2:](self.attend_hyper(self.hyper_analysis[:2](evidence)))

    def _synthesise(self, y_hat: Tensor, scale: Tensor, mean: Tensor | None, level: Tensor) -> Tensor:
        """Decoded latents and what was expected of them -> the picture, repaired."""
        if self.inverse:
            y_hat = y_hat + self.shift(y_hat, scale, mean)
        x = self.synthesis[:3](self.recall_late(y_hat * self.gain.inverse(level)))
        x_hat = self.synthesis[3:](self.recall_early(x))
        return x_hat + self.enhancer(x_hat) if self.enhance else x_hat

    def shift(self, y_hat: Tensor, scale: Tensor, mean: Tensor | None) -> Tensor:
        """What r adds to decoded latents, within half a step: all (B, M, h, w)."""
        surprise = torch.asinh(y_hat if mean is None else y_hat - mean)  # few steps matter, hundreds may occur
        seen = torch.stack((surprise, scale), 2).flatten(1, 2).to(y_hat.dtype)  # channel by channel
        return 0.5 * torch.tanh(self.dequantise(seen))


def _dequantiser(m: int, hidden: int) -> nn.Sequential:
    """r: (B, 2 M, h, w) -> (B, M, h, w), starting at zero; without `hidden` each channel has a network of its own."""
    wide, groups = (hidden, 1) if hidden else (4 * m, m)
    layers = (
        nn.Conv2d(2 * m, wide, 3, padding=1, groups=groups),
        nn.LeakyReLU(0.2),
        nn.Conv2d(wide, wide, 3 if hidden else 1, padding=1 if hidden else 0, groups=groups),
        nn.LeakyReLU(0.2),
        nn.Conv2d(wide, m, 3 if hidden else 1, padding=1 if hidden else 0, groups=groups),
    )
    return nn.Sequential(*layers[:-1], _zero(layers[-1]))


def _enhancer(width: int, blocks: int, shrink: int) -> nn.Sequential:
    """p: (B, 3, H, W) -> same, starting at zero; at 1/shrink of the resolution."""
    colours = 3 * shrink**2
    return nn.Sequential(
        nn.PixelUnshuffle(shrink),
        nn.Conv2d(colours, width, 3, padding=1),
        *(ResidualBlock(width) for _ in range(blocks)),
        _zero(nn.Conv2d(width, colours, 3, padding=1)),
        nn.PixelShuffle(shrink),
    )


def _zero(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer
