"""Checkpoints of CompressAI as kodim codecs: six architectures of its model zoo, in its own parametrisation.

Trained weights of CompressAI (arXiv 2011.03029) differ from those of kodim's systems in what their networks emit:
standard deviations instead of positions in a table, factorised densities of five layers around learned medians. This
codec takes them as they are. `likelihoods` evaluates as that library does, in floats; everything else, files
included, follows from the program as in any codec of kodim: integer tables, exact networks, wavefronts.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..codec import Codec
from ..coding.exact import ACTIVATION_BITS, ExactSequential
from ..coding.priors import Factorized, FactorizedPrior, LocationScale, ScalePrior
from ..coding.sites import BoundPrior, Code, Train
from ..coding.tables import Indexed
from ..contexts.raster import RasterContext
from ..systems import cheng2020
from ..transforms.gdn import lower_bound
from ..transforms.pyramid import analysis, down, synthesis, up

FACTORIZED, SCALE, MEAN = "bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean"
JOINT, ANCHOR, ATTENTION = "mbt2018", "cheng2020-anchor", "cheng2020-attn"


class CompressAI(Codec):
    """One of CompressAI's architectures; y (B, M, H/16, W/16) and, but for the factorised one, z (B, N, H/64, W/64).

    Args:
        architecture: its name in CompressAI's zoo.
        n, m: channels, as there; the architectures of 2020 have n = m.

    Every quality gives the same file: a checkpoint is trained for one rate.
    """

    info = {  # noqa: RUF012
        "slug": "compressai",
        "title": "An imported CompressAI checkpoint",
        "authors": "Begaint, Racape, Feltman, Pushparaja",
        "year": 2020,
        "arxiv": "2011.03029",
        "aliases": [],
        "taxonomy": {
            "network": "VAE (CNN with GDN)",
            "unit": "full image",
            "spatial": "that of the checkpoint",
            "rate": "one model per lambda",
            "range": "low to high",
        },
    }
    presets = {  # noqa: RUF012
        "bmshj2018-factorized": {"architecture": "bmshj2018-factorized", "n": 128, "m": 192},
        "bmshj2018-hyperprior": {"architecture": "bmshj2018-hyperprior", "n": 128, "m": 192},
        "mbt2018-mean": {"architecture": "mbt2018-mean", "n": 128, "m": 192},
        "mbt2018": {"architecture": "mbt2018", "n": 192, "m": 192},
        "cheng2020-anchor": {"architecture": "cheng2020-anchor", "n": 128, "m": 128},
        "cheng2020-attn": {"architecture": "cheng2020-attn", "n": 128, "m": 128},
    }
    soft = True

    def __init__(self, architecture: str, n: int, m: int) -> None:
        super().__init__()
        self.architecture = architecture
        residual, attention = architecture in (ANCHOR, ATTENTION), architecture == ATTENTION
        shape = ((n, n, n, m), (5,) * 4, (2,) * 4)
        self.analysis = cheng2020.residual_analysis(n, attention) if residual else analysis(*shape, gdn_last=False)
        self.synthesis = cheng2020.residual_synthesis(n, attention) if residual else synthesis(*shape, gdn_first=False)
        self.bottleneck = Bottleneck(m if architecture == FACTORIZED else n)
        if architecture == FACTORIZED:
            return
        self.y_prior = DeviationPrior("gaussian")
        self.hyper_analysis, self.hyper_synthesis = _hyper_networks(architecture, n, m)
        if architecture in (JOINT, ANCHOR, ATTENTION):
            self.context = RasterContext(m, 2 * m, 2 * m, cheng2020.joint_widths(m), 2 * m)

    def program(self, code: Code) -> Tensor:
        y = code.encoder(self.analysis)
        if self.architecture == FACTORIZED:
            return self.synthesis(code("y", self.bottleneck(code.level, code.grid(16)), lambda: y))
        z_hat = code("z", self.bottleneck(code.level, code.grid(64)), lambda: self.hyper_analysis(self._evidence(y)))
        side = self.hyper_synthesis(z_hat)
        if hasattr(self, "context"):
            return self.synthesis(self.context(code, "y", side, self._bind, lambda: y))
        return self.synthesis(code("y", self._bind(side), lambda: y))

    def _evidence(self, y: Tensor) -> Tensor:
        return y.abs() if self.architecture == SCALE else y

    def _bind(self, parameters: Tensor) -> LocationScale:
        if self.architecture == SCALE:
            return self.y_prior(parameters)
        scale, mean = parameters.chunk(2, 1)
        return self.y_prior(scale, mean)

    @torch.no_grad()
    def likelihoods(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate as CompressAI's models do in eval mode: all in floats, contexts on round(y).

        Args:
            x: (B, 3, H, W) in [0, 1]; H and W multiples of 64, for that library does not pad here.

        Returns:
            x_hat (B, 3, H, W), not clamped, and name of a latent -> (B, C, h, w) probabilities of its elements.

        The bits of a file differ a little: its scales are 64, and with a context y - mean is what is rounded.
        """
        with _floats(self):
            code = _Evaluate(x, torch.zeros(len(x), device=x.device))
            return self.program(code), code.likelihoods


def _hyper_networks(architecture: str, n: int, m: int) -> tuple[nn.Sequential, ExactSequential]:
    if architecture in (ANCHOR, ATTENTION):
        return cheng2020.hyper_analysis(n), cheng2020.hyper_synthesis(n)
    scale_only = architecture == SCALE
    rectifier = nn.ReLU() if scale_only else nn.LeakyReLU()
    wide, wider, outputs = (n, n, m) if scale_only else (m, m * 3 // 2, 2 * m)
    first, last = nn.Conv2d(m, n, 3, padding=1), nn.Conv2d(wider, outputs, 3, padding=1)
    return (
        nn.Sequential(first, rectifier, down(n, n), rectifier, down(n, n)),
        ExactSequential(
            *(up(n, wide), rectifier, up(wide, wider), rectifier, last), *([nn.ReLU()] if scale_only else [])
        ),
    )


@dataclass(frozen=True)
class _Centred(Factorized):
    """Residuals around the medians of a :class:`Bottleneck`."""

    @property
    def centre(self) -> Tensor:  # type: ignore[override]
        medians = cast(Bottleneck, self.module).centres()
        return medians[:, None, None].expand(self.shape)


class Bottleneck(FactorizedPrior):
    """CompressAI's `EntropyBottleneck`: five layers of widths 3, and values rounded relative to a median."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.matrices, self.biases, self.factors = map(_one_more, (self.matrices, self.biases, self.factors))
        self.medians = nn.Parameter(torch.zeros(channels))

    def forward(self, level: Tensor, grid: tuple[int, int]) -> _Centred:
        return _Centred(self, level, grid)

    def centres(self) -> Tensor:
        """(C,) medians; outside training on the grid of exact networks, so that they add up alike everywhere."""
        if self.training:
            return self.medians
        return torch.floor(self.medians * 2.0**ACTIVATION_BITS + 0.5) * 2.0**-ACTIVATION_BITS

    def logits(self, x: Tensor) -> Tensor:
        """Of the cumulative of residuals x (C, 1, n)."""
        return super().logits(x + self.centres()[:, None, None])


def _one_more(values: nn.ParameterList) -> nn.ParameterList:
    """Another of the inner layers, as they all start alike."""
    return nn.ParameterList([values[0], nn.Parameter(values[1].detach().clone()), *values[1:]])


@dataclass(frozen=True)
class _Deviation(LocationScale):
    """As its base, but `scale_index` holds the standard deviation itself."""

    def bits(self, r: Tensor) -> Tensor:
        return self.module.bits(r, lower_bound(self.scale_index, self.module.low))

    def distributions(self) -> Indexed:
        edges = cast(DeviationPrior, self.module).edges.to(self.scale_index.device)
        return self.module.indexed(torch.bucketize(self.scale_index.double(), edges))


class DeviationPrior(ScalePrior):
    """A :class:`ScalePrior` whose network emits standard deviations: the nearest scale, in octaves, is taken."""

    def __init__(self, family: str) -> None:
        super().__init__(family)
        # Between two multiples of 2^-10, where no exact network's output lies: no digit of exp decides a row.
        unit = 2.0**-ACTIVATION_BITS
        middles = (self.low * math.exp((i + 0.5) * self.step) for i in range(self.count - 1))
        self.edges = torch.tensor([(math.floor(middle / unit) + 0.5) * unit for middle in middles], dtype=torch.float64)

    def forward(self, scale_index: Tensor, mean: Tensor | None = None) -> _Deviation:
        return _Deviation(self, scale_index, mean)


class _Evaluate(Train):
    """CompressAI's evaluation: likelihoods of rounded values; a context's stand-in is also what is handed on."""

    def __init__(self, x: Tensor, level: Tensor) -> None:
        super().__init__(x, level)
        self.likelihoods: dict[str, Tensor] = {}
        self._seen: Tensor | None = None

    def preview(self, value: Tensor) -> Tensor:
        self._seen = torch.round(value)
        return self._seen

    def __call__(self, name: str, prior: BoundPrior, latent: object) -> Tensor:
        r = torch.round(latent() - prior.centre)  # type: ignore[operator]
        self.likelihoods[name] = torch.exp2(-prior.bits(r))
        return r + prior.centre if self._seen is None else self._seen


@contextmanager
def _floats(codec: Codec) -> Iterator[None]:
    """Exact networks in floats for a while. (`Codec.train` would drop the integer tables.)"""
    training = codec.training
    nn.Module.train(codec, True)
    try:
        yield
    finally:
        nn.Module.train(codec, training)
