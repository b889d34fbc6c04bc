"""Block-based learned compression in a closed loop.

F. Kamisli, "End-to-End Learned Block-Based Image Compression with Block-Level Masked Convolutions and Asymptotic
Closed Loop Training", arXiv 2203.11686 (Multimedia Tools and Applications 2024).

The layout of a video codec, learned: each block of 8x8 pixels is transformed, predicted and coded by networks that
see the reconstructed blocks left, up left, up and up right of it; no side information is sent::

    block --> g_a --gain--> y -- round(y - mu) --> | coder, N(mu, sigma^2) | --> + mu --> g_s --> block^
               ^                     mu, sigma ^                                           ^       |
               |                               h                                           |       |
               '----------- neighbours --------'-------------------------------------------'<------'

Blocks with equal w + 2 h do not see one another: 222 steps for 768x512 pixels. All the decoder computes decides what
comes next, so h, g_s with its divisive normalisation, and the gains run in exact integers; the picture, too, is the
same on every machine. Closed-loop values are clipped to the range of pixels, not rounded to 8 bits.

Training is open loop: all blocks at once, neighbours taken from a picture that stands for the reconstruction. The
paper keeps the reconstructions of the last round for each picture. Here every step makes them anew: the picture is
passed through the codec once to three times first, which comes to the same when repeated (`chain`).

The `compact` preset starts as a block DCT whose neighbours say nothing; it has gain units.
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec import Codec
from ..coding.exact import ACTIVATION_BITS
from ..coding.exact_blocks import ExactLevels, exact_exp2
from ..coding.priors import LocationScale, ScalePrior
from ..coding.sites import Code
from ..coding.wavefront import fronts, to_grid
from ..contexts.blockwise import BlockNet
from ..contexts.masked import Canvas
from ..quantizers.gains import Gain
from ..transforms.start import SCALE, block_basis, gains
from .balle2018 import SCALE_START, SCALE_UNIT

UNIT = 2.0**-ACTIVATION_BITS


class Kamisli2022(Codec):
    """Closed-loop block codec of 2203.11686; y (B, M, H/8, W/8)."""

    info = {
        "slug": "kamisli2022",
        "title": "Block-based compression with block-level masked convolutions",
        "authors": "Kamisli",
        "year": 2022,
        "arxiv": "2203.11686",
        "aliases": ["block-based-closed-loop"],
        "improves": "balle2018",
        "place": "Blocks see nothing but decoded blocks, so nothing of the common trunk fits: 33 minutes from a DCT, "
        "where `balle2018` had 45.",
        "taxonomy": {
            "network": "autoencoder (1x1 layers with GDN on blocks)",
            "unit": "block, with a prediction loop",
            "spatial": "masked convolutions over reconstructed blocks",
            "rate": "one model per lambda; compact: gain units",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"block": 8, "width": 768, "latents": 96, "wide": False, "levels": 1},
        "paper-high": {"block": 8, "width": 1152, "latents": 128, "wide": True, "levels": 1},
        "paper-16": {"block": 16, "width": 1280, "latents": 192, "wide": False, "levels": 1},
        "paper-4": {"block": 4, "width": 512, "latents": 96, "wide": True, "levels": 1},
        "compact": {"block": 8, "width": 256, "latents": 96, "wide": False, "levels": 8},
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)
    stride = 16
    refinable = False  # every latent has a say in all blocks behind it
    chain = (1, 3)

    def __init__(self, block: int, width: int, latents: int, wide: bool, levels: int) -> None:
        super().__init__()
        self.block, self.levels, pixels = block, levels, 3 * block**2
        narrowing = (width, width * 7 // 8, width * 6 // 8)
        self.analysis = BlockNet(pixels, pixels, narrowing, latents, "gdn")
        self.synthesis = BlockNet(latents, pixels, narrowing, pixels, "igdn")
        self.hyper = BlockNet(0, pixels, (width * 12 // 8, width * 10 // 8, width), 2 * latents, wide=wide)
        low, high = gains(self.lambdas) if levels > 1 else (1.0, 1.0)
        self.gain = Gain(latents, levels, low, high)
        self.gain.log_inverse.requires_grad_(False)  # the exact steps stand in for it
        self.log_step = ExactLevels(-self.gain.log_gain.detach() / torch.tensor(2.0).log())
        self.y_prior = ScalePrior("gaussian")
        self._start(latents)

    @torch.no_grad()
    def _start(self, latents: int) -> None:
        """A block DCT straight through; neighbours, and what is expected of a latent, start at nothing."""
        for net in (self.analysis, self.synthesis):
            net.around.weight.zero_()
            for layer in (net.inside, *net.layers):
                nn.init.zeros_(layer.bias)
                nn.init.dirac_(layer.weight)
        basis, enter, leave = block_basis(self.block), self.analysis.inside, self.synthesis.layers[-1]
        assert isinstance(enter, nn.Conv2d)
        assert isinstance(leave, nn.Conv2d)
        kept = basis[: leave.in_channels]
        enter.weight.zero_()[: len(kept), :, 0, 0] = SCALE * kept
        leave.weight.zero_()[:, : len(kept), 0, 0] = kept.T / SCALE
        self.hyper.layers[-1].weight.mul_(0.1)  # type: ignore[operator]

    def program(self, code: Code) -> Tensor:
        if not self.training:
            with torch.no_grad(), torch.autocast(code.level.device.type, enabled=False):
                return self._closed(code)
        x = code.encoder(lambda x: F.pixel_unshuffle(x - 0.5, self.block))
        reference = self._passed(x, code.level, random.randint(*self.chain))
        y = self.analysis(x, reference) * self.gain(code.level)
        y_hat = code("y", self._bind(self.hyper(None, reference)), lambda: y)
        return F.pixel_shuffle(self._picture(y_hat, reference, code.level), self.block) + 0.5

    @torch.no_grad()
    def _passed(self, x: Tensor, level: Tensor, times: int) -> Tensor:
        """Blocks (B, 3 b^2, h, w), coded `times` times with the result of the last time as neighbours."""
        reference = x
        for _ in range(times):
            y = self.analysis(x, reference) * self.gain(level)
            mean = self._bind(self.hyper(None, reference)).centre
            reference = self._picture(torch.round(y - mean) + mean, reference, level).clamp(-0.5, 0.5)
        return reference

    def _picture(self, y_hat: Tensor, reference: Tensor, level: Tensor) -> Tensor:
        return self.synthesis(y_hat * exact_exp2(self.log_step(level), True), reference)

    def _closed(self, code: Code) -> Tensor:
        """Block by block, front by front, in integers: (B, 3, H, W)."""
        h, w = code.grid(self.block)
        x = code.encoder(lambda x: F.pixel_unshuffle(x - 0.5, self.block).flatten(2).transpose(1, 2))
        dtype = next(self.parameters()).dtype
        like = torch.zeros(len(code.level), 1, 1, dtype=torch.float64, device=code.level.device)
        done = Canvas((1, h, w), like, 3 * self.block**2, deep=False)
        features = Canvas((1, h, w), like, self.hyper.around.weight.shape[0], deep=False)
        steps = exact_exp2(self.log_step(code.level), False).double()  # (B, M, 1, 1)
        for front in fronts(h, w, 1):
            front = front.to(like.device)
            at = done.place(torch.zeros_like(front), front // w, front % w)
            near = done.near(at, self.hyper.around)
            prior = self._bind(_columns(self.hyper.exact(None, near, features, at) * UNIT).to(dtype))

            def latent(front: Tensor = front, near: Tensor = near) -> Tensor:
                return self.analysis.some(_columns(x[:, front]), (near * UNIT).to(dtype)) * self.gain(code.level)

            code.part = front, (h, w)
            y_hat = to_grid(code("y", prior, latent).double() * steps)[..., 0].transpose(1, 2)
            block = self.synthesis.exact(y_hat, near, None, at)
            done.values.index_copy_(1, at, block.clamp(-0.5 / UNIT, 0.5 / UNIT))
        place = done.place(torch.zeros(h, 1).long(), torch.arange(h)[:, None], torch.arange(w)).flatten()
        blocks = done.values[:, place.to(like.device)].transpose(1, 2).unflatten(2, (h, w))
        return F.pixel_shuffle(blocks * UNIT, self.block).to(dtype) + 0.5

    def _bind(self, parameters: Tensor) -> LocationScale:
        scale, mean = parameters.chunk(2, 1)
        return self.y_prior(SCALE_START + SCALE_UNIT * scale, mean)


def _columns(x: Tensor) -> Tensor:
    """(B, n, C) -> (B, C, n, 1)."""
    return x.transpose(1, 2).unsqueeze(3).contiguous()
