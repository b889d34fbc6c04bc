"""Gaussian mixtures and attention.

Z. Cheng, H. Sun, M. Takeuchi, J. Katto, "Learned Image Compression with Discretized Gaussian Mixture
Likelihoods and Attention Modules", CVPR 2020, arXiv 2001.01568.

Residual blocks of small kernels take the place of the strided 5x5 layers, attention spends bits where a picture is
hard, and every latent has a mixture of K Gaussians, read off the hyper-prior and a causal 5x5 context::

    x --residual blocks, attention--> y --gain--> h_a --> z --round--> | coder | --> h_s ----.
                                      |                                                      v
                                      '-- round --> | coder, sum_k w_k N(mu_k, sigma_k^2) | --> y_hat --> x_hat
                                                             w, mu, sigma ^                  |
                                                                '-- 1x1 layers <-- masked 5x5

With K = 1 the mean moves into the rounding, round(y - mu) + mu: that is the widely used library version, in the
presets `anchor` (without attention) and `attention`. The context is walked in wavefronts, as in `minnen2018-ar`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec import Codec
from ..coding.exact import ExactSequential
from ..coding.mixtures import MixturePrior
from ..coding.priors import FactorizedPrior, ScalePrior
from ..coding.sites import BoundPrior, Code
from ..contexts.raster import RasterContext
from ..quantizers.gains import Gain
from ..transforms.gdn import GDN
from .balle2018 import SCALE_START, SCALE_UNIT


class Cheng2020(Codec):
    """Codec of 2001.01568; y (B, N, H/16, W/16) and z (B, N, H/64, W/64)."""

    info = {
        "slug": "cheng2020",
        "title": "Discretized Gaussian mixture likelihoods and attention modules",
        "authors": "Cheng, Sun, Takeuchi, Katto",
        "year": 2020,
        "arxiv": "2001.01568",
        "aliases": ["cheng2020-anchor", "cheng2020-attn"],
        "improves": "minnen2018-ar",
        "taxonomy": {
            "network": "VAE (residual CNN with GDN, attention)",
            "unit": "full image",
            "spatial": "hierarchical side information, causal 5x5 context",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"width": 192, "attention": True, "mixtures": 3, "levels": 1, "soft": True},
        "anchor": {"width": 192, "attention": False, "mixtures": 1, "levels": 1, "soft": True},
        "attention": {"width": 192, "attention": True, "mixtures": 1, "levels": 1, "soft": True},
        "compact": {"width": 96, "attention": True, "mixtures": 1, "levels": 8},
    }

    def __init__(self, width: int, attention: bool, mixtures: int, levels: int, soft: bool = False) -> None:
        super().__init__()
        self.levels, self.soft, self.mixtures = levels, soft, mixtures
        n = width
        self.analysis = residual_analysis(n, attention)
        self.synthesis = residual_synthesis(n, attention)
        self.gain = Gain(n, levels)
        self.hyper_analysis = hyper_analysis(n)
        self.hyper_synthesis = hyper_synthesis(n)
        outputs = n * (2 if mixtures == 1 else 3 * mixtures)
        self.context = RasterContext(n, 2 * n, 2 * n, joint_widths(n), outputs)
        self.z_prior = FactorizedPrior(n, levels)
        self.y_prior = ScalePrior("gaussian")
        if mixtures > 1:
            self.y_mixture = MixturePrior(("gaussian",) * mixtures)

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.analysis(x) * self.gain(code.level))
        z_hat = code("z", self.z_prior(code.level, code.grid(64)), lambda: self.hyper_analysis(y))
        y_hat = self.context(code, "y", self.hyper_synthesis(z_hat), self._bind, lambda: y)
        return code.synthesis(self.synthesis, y_hat * self.gain.inverse(code.level))

    def _bind(self, parameters: Tensor) -> BoundPrior:
        if self.mixtures == 1:
            scale, mean = parameters.chunk(2, 1)
            return self.y_prior(SCALE_START + SCALE_UNIT * scale, mean)
        scale, mean, logits = parameters.unflatten(1, (3, self.mixtures, -1)).unbind(1)
        return self.y_mixture(logits, mean, SCALE_START + SCALE_UNIT * scale)


def residual_analysis(n: int, attention: bool) -> nn.Sequential:
    """(B, 3, H, W) in [0, 1] -> (B, n, H/16, W/16)."""
    layers = [ResidualDown(3, n), Residual(n), ResidualDown(n, n), *_attention(n, attention), Residual(n)]
    layers += [ResidualDown(n, n), Residual(n), _conv(n, n, stride=2), *_attention(n, attention)]
    return nn.Sequential(*layers)


def residual_synthesis(n: int, attention: bool) -> nn.Sequential:
    """(B, n, H/16, W/16) -> (B, 3, H, W), not clamped."""
    layers = [*_attention(n, attention), Residual(n), ResidualUp(n), Residual(n), ResidualUp(n)]
    layers += [*_attention(n, attention), Residual(n), ResidualUp(n), Residual(n), _subpixel(n, 3)]
    return nn.Sequential(*layers)


def _attention(n: int, wanted: bool) -> list[nn.Module]:
    return [Attention(n)] if wanted else []


def hyper_analysis(n: int) -> nn.Sequential:
    """(B, n, h, w) -> (B, n, h/4, w/4)."""
    return _rectified(_conv(n, n), _conv(n, n), _conv(n, n, stride=2), _conv(n, n), _conv(n, n, stride=2))


def hyper_synthesis(n: int) -> ExactSequential:
    """(B, n, h/4, w/4) -> (B, 2 n, h, w)."""
    wide = n * 3 // 2
    layers = (_conv(n, n), _subpixel(n, n), _conv(n, wide), _subpixel(wide, wide), _conv(wide, 2 * n))
    return ExactSequential(*_rectified(*layers))


def joint_widths(n: int) -> tuple[int, int]:
    """Widths of the network that joins context and hyper-prior."""
    return n * 10 // 3, n * 8 // 3


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(n, n), _conv(n, n)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x))))


class ResidualDown(nn.Module):
    """Halves height and width: a strided convolution and one with GDN, beside a strided 1x1."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.gdn = _conv(c_in, c_out, stride=2), _conv(c_out, c_out), GDN(c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        # The stride of the 1x1 is a slice: PyTorch 2.13 corrupts memory in the backward pass of one with stride 2,
        # three channels and channels-last weights on a CPU.
        return self.gdn(self.conv2(F.leaky_relu(self.conv1(x)))) + self.skip(x[:, :, ::2, ::2])


class ResidualUp(nn.Module):
    """Doubles height and width: the mirror of :class:`ResidualDown`, by shuffling channels into pixels."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.subpel_conv, self.conv, self.igdn = _subpixel(n, n), _conv(n, n), GDN(n, inverse=True)
        self.upsample = _subpixel(n, n)

    def forward(self, x: Tensor) -> Tensor:
        return self.igdn(self.conv(F.leaky_relu(self.subpel_conv(x)))) + self.upsample(x)


class Attention(nn.Module):
    """The simplified attention of the paper: a trunk times the sigmoid of a mask, beside the identity."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(Bottleneck(n) for _ in range(3)))
        self.conv_b = nn.Sequential(*(Bottleneck(n) for _ in range(3)), nn.Conv2d(n, n, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_a(x) * torch.sigmoid(self.conv_b(x))


class Bottleneck(nn.Module):
    """Residual unit that works at half the channels."""

    def __init__(self, n: int) -> None:
        super().__init__()
        half = n // 2
        layers = (nn.Conv2d(n, half, 1), nn.ReLU(), _conv(half, half), nn.ReLU(), nn.Conv2d(half, n, 1))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


def _conv(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1)


def _subpixel(c_in: int, c_out: int) -> nn.Sequential:
    """Doubles height and width."""
    return nn.Sequential(_conv(c_in, 4 * c_out), nn.PixelShuffle(2))


def _rectified(*layers: nn.Module) -> nn.Sequential:
    """The layers with a LeakyReLU between each two."""
    parts = [part for layer in layers for part in (layer, nn.LeakyReLU())]
    return nn.Sequential(*parts[:-1])
