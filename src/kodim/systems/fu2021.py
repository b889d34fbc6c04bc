"""Extended context and hybrid entropy model.

H. Fu, F. Liang, B. Lei et al., "An Extended Context-Based Entropy Hybrid Modeling for Image Compression", Signal
Processing: Image Communication 95, 2021.

The joint autoregressive and hierarchical model with a wider causal context and a mixture of unlike densities::

    x --g_a--> y --gain--> h_a --> z --round--> | coder | --> h_s -----.
                 |                                                     v
                 '--- round --> | coder, sum_k w_k F_k | --> y_hat --> 1x1 layers
                    F: 2 Gaussians, 1 Laplacian   ^             |        ^  |
                                                  |   masked 3x3, 5x5, 7x7  |
                                                  '---- w, mu, sigma <------'

The paper could not be read: this system is in its spirit. Title and later work of the group (a mixture of nine
Gaussians, Laplacians and logistics) say what is extended; the sizes are `minnen2018-ar`'s. A 7x7 mask takes
w + 4 h steps. With one kernel of 5 and one Gaussian it is that system, number for number (`plain`).

The `compact` preset shares the trunk of `minnen2018`: the components start at what h_s says, their scales spread
by factors of 2, their weights equal.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.mixtures import MixturePrior
from ..coding.priors import ScalePrior
from ..coding.sites import BoundPrior, Code
from ..coding.wavefront import causal_taps
from ..contexts.raster import RasterContext
from .balle2018 import SCALE_START, SCALE_UNIT
from .minnen2018 import Minnen2018

OCTAVE = 0.7  # a factor of 2 of the scale, in units of h_s


class Fu2021(Minnen2018):
    """In the spirit of the paper; y (B, M, H/16, W/16) and z (B, N, H/64, W/64)."""

    info = {
        "slug": "fu2021",
        "title": "Extended context-based entropy hybrid modelling",
        "authors": "Fu, Liang, Lei et al.",
        "year": 2021,
        "aliases": ["extended-context-hybrid"],
        "improves": "minnen2018-ar",
        "place": "Its mixture of families and wider context started from nothing behind a trained trunk; with 9 "
        "minutes it is level with the single Gaussian of `minnen2018-ar`.",
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "hierarchical side information, causal 3x3, 5x5 and 7x7 context",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {
            "widths": (128, 128, 128, 192),
            "hyper": (128, 192, 288),
            "kernels": (3, 5, 7),
            "families": ("gaussian", "gaussian", "laplace"),
            "context": 384,
            "joint": (640, 512),
            "levels": 1,
            "soft": True,
        },
        "paper-high": {
            "widths": (192, 192, 192, 320),
            "hyper": (192, 320, 480),
            "kernels": (3, 5, 7),
            "families": ("gaussian", "gaussian", "laplace"),
            "context": 640,
            "joint": (640, 512),
            "levels": 1,
            "soft": True,
        },
        "compact": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "kernels": (3, 5, 7),
            "families": ("gaussian", "gaussian", "laplace"),
            "context": 96,
            "joint": (192, 192),
            "levels": 8,
        },
        "plain": {
            "widths": (48, 96, 128, 192),
            "hyper": (64, 64, 96),
            "kernels": (5,),
            "families": ("gaussian",),
            "context": 192,
            "joint": (256, 256),
            "levels": 8,
        },
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)

    def __init__(
        self,
        widths: tuple[int, ...],
        hyper: tuple[int, int, int],
        kernels: tuple[int, ...],
        families: tuple[str, ...],
        context: int,
        joint: tuple[int, ...],
        levels: int,
        soft: bool = False,
    ) -> None:
        """`context`: outputs of all the masked convolutions together."""
        super().__init__(widths, hyper, levels, soft, magnitudes=levels > 1)
        m = widths[-1]
        self.components = len(families)
        self.context = Context(m, kernels, context, joint, self.components, residual=levels > 1)
        if self.components > 1:
            self.y_prior = MixturePrior(families, window=128)  # type: ignore[assignment]
        else:
            self.y_prior = ScalePrior(families[0])

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self.hyper_analysis(self._evidence(y)))
        y_hat = self.context(code, "y", self.hyper_synthesis(z_hat), self._bind, lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def _bind(self, parameters: Tensor) -> BoundPrior:
        if self.components == 1:
            scale, mean = parameters.chunk(2, 1)
            return self.y_prior(SCALE_START + SCALE_UNIT * scale, mean)
        scale, mean, logits = parameters.unflatten(1, (3, self.components, -1)).unbind(1)
        return self.y_prior(logits, mean, SCALE_START + SCALE_UNIT * scale)


class Context(RasterContext):
    """Causal convolutions of several kernels side by side; the corrected side information becomes K components.

    Parameters (B, 2 M, h, w) for one component, as in `minnen2018-ar`; (B, 3 K M, h, w), scales, means and logits
    of the weights, for more.
    """

    def __init__(
        self, m: int, kernels: tuple[int, ...], context: int, joint: tuple[int, ...], components: int, residual: bool
    ) -> None:
        outputs = 2 * m if components == 1 else 3 * components * m
        super().__init__(m, 2 * m, context, joint, outputs, radius=max(kernels) // 2, residual=residual)
        self.components = components
        share, self.radii = context // len(kernels), [kernel // 2 for kernel in sorted(kernels)[:-1]]
        self.smaller = nn.ParameterList()
        for taps in map(causal_taps, self.radii):
            self.smaller.append(torch.randn(share, m, 1, taps) * (m * taps) ** -0.5)
        # `weight` is that of the largest kernel: it has the outputs that the others leave.
        self.weight = nn.Parameter(self.weight[: context - share * len(self.radii)].detach().clone())

    def taps(self) -> Tensor:
        """All kernels as one, (context, M, 1, taps) of the largest: zero where a smaller one does not reach."""
        parts = []
        for weight, radius in zip(self.smaller, self.radii, strict=True):
            size = 2 * radius + 1
            kernel = F.pad(weight.flatten(2), (0, size**2 - weight.shape[3])).unflatten(2, (size, size))
            kernel = F.pad(kernel, (self.radius - radius,) * 4)
            parts.append(kernel.flatten(2)[:, :, None, : self.weight.shape[3]])
        return torch.cat((*parts, self.weight))

    def correct(self, side: Tensor, change: Tensor, dim: int, unit: float = 1.0) -> Tensor:
        if self.components == 1:
            return side + change
        scale, mean = side.chunk(2, dim)
        offsets = [OCTAVE * (k - (self.components - 1) / 2) for k in range(self.components)]
        scales = [scale + round(1024 * offset) / 1024 * unit for offset in offsets]
        logits = [torch.zeros_like(mean)] * self.components
        return torch.cat((*scales, *[mean] * self.components, *logits), dim) + change
