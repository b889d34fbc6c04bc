"""A tiny decoder for one picture: Cool-chic, from networks and latents that are learned beforehand.

T. Ladune, P. Philippe, F. Henry, G. Clare, T. Leguay, "COOL-CHIC: Coordinate-based Low Complexity Hierarchical Image
Codec", ICCV 2023, arXiv 2212.05458, in the form of version 5.0 (arXiv 2605.02726): latents in a pyramid of grids,
learned upsampling, a small synthesis, and an autoregressive entropy model that also sees the coarser grids::

    changes --| coder |--> networks: shipped ones for this rate, plus what was changed for this picture
    for each grid, coarse before fine, fronts x + 2 y = t:
        neighbours, features of coarser grids --MLP--> mu, b      (exact integers)
        q --| coder, Laplace(mu, b) |--> grid
    grids --up x2, concatenate--> (7, H, W) --1x1, relu, 1x1, 3x3 ..--> picture      (exact integers)

An encoder makes a first guess of all latents with an analysis network that was trained together with the shared
networks, as an autoencoder. With effort (:mod:`kodim.overfit.fit`) gradient descent then fits the latents, and gently
the networks, to the very picture; changed networks travel in the file where that pays. Light decoders learned once:
Blard et al., EUSIPCO 2024, arXiv 2403.11651.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..codec import Codec, Stream
from ..coding.sites import Code, Decode
from ..errors import DriftError
from ..goal import Goal
from ..overfit import exact, network
from ..overfit.analysis import Analysis
from ..overfit.changes import coded_changes
from ..overfit.fit import Task, fit
from ..overfit.fronts import coded_grid
from ..overfit.laplace import Smooth
from ..overfit.pyramid import FEATURES, GRIDS, STRIDE
from ..quantizers.gains import interpolate


class Overfit(Codec):
    """Overfitted codec after 2212.05458; ten latent grids (B, 1, H/2^l, W/2^l), l = 0 .. 6."""

    info = {
        "slug": "overfit",
        "title": "A decoder fitted to one picture (Cool-chic)",
        "authors": "Ladune, Philippe, Henry, Clare, Leguay",
        "year": 2023,
        "arxiv": "2212.05458",
        "aliases": ["cool-chic", "coolchic", "c3"],
        "taxonomy": {
            "network": "overfitted coordinate-free INR (latent pyramid, MLP and small CNN)",
            "unit": "full image",
            "spatial": "causal context of 10, features of coarser grids",
            "rate": "one fit for each lambda; starting networks interpolated in it",
            "range": "very low to high",
        },
    }
    presets = {
        "compact": {"context": 10, "features": 4, "hidden": 16, "residuals": 2, "levels": 5},
        "lop": {"context": 6, "features": 2, "hidden": 8, "residuals": 1, "levels": 5},
        "paper": {"context": 14, "features": 6, "hidden": 48, "residuals": 2, "levels": 5},
    }
    stride = STRIDE
    fits = True
    thrift = 0.0
    efforts = (0, 20, 60, 120, 250, 500, 900, 1800, 3600, 7000)
    lambdas = (0.00077, 0.154)  # of the paper's MSE + lambda R: 2e-2 to 1e-4

    def __init__(self, context: int, features: int, hidden: int, residuals: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.sizes = network.Sizes(context, features, hidden, residuals)
        self.analysis = Analysis(levels)
        start = network.start(self.sizes)
        self.common = nn.ParameterDict(start)  # what all rates share, and what each adds to it
        self.own = nn.ParameterDict({n: torch.zeros(levels, *v.shape) for n, v in start.items()})

    def program(self, code: Code) -> Tensor:
        if self.training:
            return self._noisy(code)
        with torch.no_grad(), torch.autocast(code.level.device.type, enabled=False):
            return exact.picture(*self._coded(code)).to(next(self.parameters()).dtype)

    def _coded(self, code: Code) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Networks and grids, integers, through the channel."""
        net = coded_changes(code, self.integers(code.level), self.sizes)
        latents = self._latents(code)
        grids: list[Tensor] = [torch.empty(0)] * len(GRIDS)
        for i in reversed(range(len(GRIDS))):
            side = exact.features(net, grids, i) if i in FEATURES else None
            grids[i] = coded_grid(code, net, i, side, None if latents is None else latents[i])
        return net, grids

    def search(self, x: Tensor, level: Tensor, size: Sequence[int], steps: int, goal: Goal | None) -> list[Tensor]:
        """Nudges that fit latents and networks to the picture."""
        height, width = size
        weight = float(self.distortion_weight(level))
        task = Task(x[:, :, :height, :width], (x.shape[2], x.shape[3]), self.sizes, self.integers(level), weight, goal)
        with torch.no_grad():
            guess = self.analysis(x, level)
        start = None if goal is None or goal.start is None else self._sent(goal.start, x, level)
        with torch.enable_grad():
            return fit(task, guess, steps, start)

    def _sent(self, stream: Stream, x: Tensor, level: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Networks and grids in a stream for a picture of the size of x."""
        code = Decode(stream.data, (x.shape[2], x.shape[3]), level, x.dtype)
        with torch.no_grad():
            found = self._coded(code)
        if code.crc != stream.symbols_crc:
            raise DriftError("decoded symbols differ from the encoded ones: cannot go on from that file")
        return found

    def integers(self, level: Tensor) -> dict[str, Tensor]:
        """The shared networks for rate levels (B,), in units of 2^-16: float64 (B, ...)."""
        return {name: exact.interpolated(self.common[name], self.own[name], level) for name in self.common}

    def floats(self, level: Tensor) -> dict[str, Tensor]:
        """The same while training, differentiable: (B, ...)."""
        return {
            name: common + interpolate(self.own[name].flatten(1), level).unflatten(1, common.shape)
            for name, common in self.common.items()
        }

    def _latents(self, code: Code) -> Sequence[Tensor] | None:
        """The first guess of all grids; None for the decoder."""
        guess: list[Tensor] = []

        def look(x: Tensor) -> Tensor:
            guess.extend(self.analysis(x, code.level))
            return x

        code.encoder(look)
        return guess or None

    def _noisy(self, code: Code) -> Tensor:
        """Training: all positions at once, on noisy neighbours."""
        latents = self._latents(code)
        assert latents is not None
        with torch.autocast(code.level.device.type, enabled=False):
            net = self.floats(code.level)
            noisy = [code.preview(y) for y in latents]
            grids = []
            for i, y in enumerate(latents):
                seen = network.neighbours(noisy[i], self.sizes.context)
                side = network.features(net, noisy, i).flatten(2) if i in FEATURES else seen.new_zeros(1)
                side = side.expand(len(seen), self.sizes.features, seen.shape[2])
                mean, log_scale = network.entropy(net, torch.cat((seen, side), 1)).unflatten(2, y.shape[2:]).split(1, 1)
                grids.append(code("y", Smooth(mean, log_scale), lambda y=y: y))  # type: ignore[misc]
            return network.synthesis(net, network.upsample(net, grids))
