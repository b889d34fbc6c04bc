"""Conditional probability models.

F. Mentzer, E. Agustsson, M. Tschannen, R. Timofte, L. Van Gool, "Conditional Probability Models for Deep Image
Compression", CVPR 2018, arXiv 1801.04260.

Latents are symbols of six learned centres. An importance map, which is not sent, says how many channels each place
may use; the symbols of the others become the centre nearest 0, which the context model learns to expect. That model
reads the volume of symbols channel by channel, with masked 3-D convolutions::

    x --encoder--> C + 1 channels --> h = C sigmoid(.)  m_c = clip(h - c, 0, 1)
                        '--- z_c * m_c --> nearest of 6 centres --> | coder, softmax | --> decoder --> x_hat
                                                                            ^
                                       channels before, and above and left in this one

Each model has a rate to keep below, not a lambda: above it bits are dear, below it they are free. Symbols with
equal w + 2 h + 4 c are independent: 346 steps for 32 channels of 96x64.

Choices made here: layers without the batch normalisation that folds into them; zeros beyond the border of the
hidden layers of the context model (centre 0 beyond that of the symbols); MSE. The `compact` preset has three
stages of the pyramid of `minnen2018`, whose weights it may start from, and a gain, an offset of the importance map
and a vector in the context model for each of its rates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..codec import Codec, Output
from ..coding.exact_blocks import ExactLevels
from ..coding.mixtures import CategoricalPrior, Categories
from ..coding.sites import BoundPrior, Code
from ..coding.tables import Distributions
from ..contexts.masked import MaskedStack
from ..quantizers.centres import Centres
from ..quantizers.gains import Gain, interpolate
from ..transforms.pyramid import analysis, down, synthesis, up
from ..transforms.start import dct_start, typical_picture

DEAR = 4.0  # price of a bit above the target, against a bit's worth at the target's lambda


class Mentzer2018(Codec):
    """Codec of 1801.04260; symbols (B, 1, C, H/8, W/8)."""

    info = {
        "slug": "mentzer2018",
        "title": "Conditional probability models for deep image compression",
        "authors": "Mentzer, Agustsson, Tschannen, Timofte, Van Gool",
        "year": 2018,
        "arxiv": "1801.04260",
        "aliases": ["imgcomp-cvpr"],
        "place": "Six centres a symbol and an importance map, 10 minutes: made for low rates, its picture ends below "
        "28 dB.",
        "taxonomy": {
            "network": "autoencoder (CNN)",
            "unit": "full image",
            "spatial": "importance map, causal 3-D context",
            "rate": "target entropy per model; compact: eight targets, gain units",
            "range": "low to medium",
        },
    }
    presets = {
        "paper": {"channels": 32, "width": 24, "levels": 1, "targets": (0.2, 0.2)},
        "paper-medium": {"channels": 32, "width": 24, "levels": 1, "targets": (0.6, 0.6)},
        "paper-high": {"channels": 64, "width": 24, "levels": 1, "targets": (1.0, 1.0)},
        "compact": {"channels": 32, "width": 24, "levels": 8, "targets": (0.1, 1.0)},
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)
    stride = 8
    refinable = False
    lambdas = (0.0018, 0.03)

    def __init__(self, channels: int, width: int, levels: int, targets: tuple[float, float]) -> None:
        """`targets`: bits per pixel of the first and the last level."""
        super().__init__()
        self.levels, self.channels, self.targets = levels, channels, targets
        self.gain = Gain(channels, levels, 1.0, 1.0)
        if levels > 1:
            self._start()
        else:
            self.analysis, self.synthesis = residual_encoder(channels + 1), residual_decoder(channels)
        self.importance = nn.Parameter(torch.linspace(-2.0, 2.0, levels)[:, None] if levels > 1 else torch.zeros(1, 1))
        # The paper spreads them over -2 .. 2; a transform code, most of whose values are small, wants one at 0.
        self.centres = Centres((-2.0, -1.0, 0.0, 1.0, 2.0, 3.0) if levels > 1 else (-2.0, -1.2, -0.4, 0.4, 1.2, 2.0))
        self.context = MaskedStack(width, 1, 6, deep=True)
        self.context_level = ExactLevels(torch.zeros(levels, width))
        self.y_prior = CategoricalPrior()

    def _start(self) -> None:
        """Pyramids that begin as a block DCT, its coefficients of a typical picture scaled to unit variance."""
        shape = ((48, 96, 128, 192), (5,) * 4, (2,) * 4)
        self.analysis = analysis(*shape, gdn_last=False)
        self.synthesis = synthesis(*shape, gdn_first=False)
        dct_start(self.analysis, self.synthesis)
        c = self.channels
        head, tail = nn.Conv2d(128, c + 1, 3, padding=1), nn.Conv2d(c, 128, 3, padding=1)
        self.analysis[6], self.synthesis[0] = head, tail
        with torch.no_grad():
            for p in (*head.parameters(), *tail.parameters()):
                p.zero_()
            head.weight[1:, :c, 1, 1] = tail.weight[:c, :, 1, 1] = torch.eye(c)
            y = self.analysis(typical_picture(128))[:, 1:]
            head.bias[1:], tail.bias[:c] = -y.mean((0, 2, 3)), y.mean((0, 2, 3))  # type: ignore[index]
            log_std = y.std((0, 2, 3)).log()
            self.gain.log_gain.copy_(-log_std.expand_as(self.gain.log_gain))
            self.gain.log_inverse.copy_(log_std.expand_as(self.gain.log_inverse))

    def program(self, code: Code) -> Tensor:
        both = code.encoder(lambda x: self._encode(x, code.level))  # (B, 2, C, h, w): masked values, masks
        shape = (self.channels, *code.grid(8))
        side = self.context_level(code.level).unsqueeze(1)
        symbols = self.context.code(
            code,
            "y",
            shape,
            side.to(self.centres.values.dtype),
            self.centres.at,
            lambda logits: self._bind(logits, both),
            lambda: self.centres.nearest(both[:, :1]),
            outside=self.centres.values[0].detach(),
        )
        z_hat = self.centres.soft(both[:, :1], symbols) if self.training else self.centres.at(symbols)
        return code.synthesis(self.synthesis, z_hat[:, 0] * self.gain.inverse(code.level))

    def _encode(self, x: Tensor, level: Tensor) -> Tensor:
        y = self.analysis(x)
        h = self.channels * torch.sigmoid(y[:, :1] + interpolate(self.importance, level)[:, :, None, None])
        m = (h - torch.arange(self.channels, device=h.device)[:, None, None]).clamp(0, 1)
        return torch.stack((y[:, 1:] * self.gain(level) * m, m), 1)

    def _bind(self, logits: Tensor, both: Tensor) -> BoundPrior:
        """Logits (B, 1, n, 6) -> prior (B, 1, n, 1); while training its bits pull at the importance map."""
        bound = self.y_prior(logits.permute(0, 3, 1, 2).unsqueeze(4))
        return Weighed(bound, both[:, 1:].reshape(bound.shape)) if self.training else bound

    def objective(self, x: Tensor, out: Output, level: Tensor) -> dict[str, Tensor]:
        """Distortion, and bits as far as they exceed the target."""
        low, high = self.targets
        target = low * (high / low) ** (level / max(self.levels - 1, 1))
        mse = (out.x_hat.float() - x).square().mean((1, 2, 3)) * 255**2
        weight = self.distortion_weight(level)
        excess = (out.bpp - target).clamp_min(0)
        loss = (self.balance(level) * (DEAR * excess + weight * mse)).mean()
        return {"loss": loss, "mse": mse.mean(), "excess": excess.mean()}


@dataclass(frozen=True)
class Weighed:
    """A prior whose bits pull at the masks (B, 1, n, 1), not at the symbols: half of a symbol's cost is its mask's."""

    prior: Categories
    mask: Tensor

    centre = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.prior.shape

    def bits(self, r: Tensor) -> Tensor:
        bits = self.prior.bits(r.detach())
        return bits + (self.mask - self.mask.detach()) * bits.detach() / 2

    def distributions(self) -> Distributions:
        return self.prior.distributions()


class Group(nn.Module):
    """Residual blocks of two 3x3 layers (rectifier between them; the second starts at zero), and a skip around."""

    def __init__(self, n: int, blocks: int) -> None:
        super().__init__()
        pairs = [nn.Sequential(down(n, n, 3, 1), nn.ReLU(), down(n, n, 3, 1)) for _ in range(blocks)]
        for pair in pairs:
            nn.init.zeros_(pair[2].weight)  # type: ignore[arg-type]
        self.blocks = nn.ModuleList(pairs)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = y + block(y)
        return y + x if len(self.blocks) > 1 else y


class Skip(nn.Sequential):
    """Layers beside the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def residual_encoder(outputs: int, n: int = 128) -> nn.Sequential:
    """(B, 3, H, W) in [0, 1] -> (B, outputs, H/8, W/8)."""
    body = Skip(*(Group(n, 3) for _ in range(5)), Group(n, 1))
    return nn.Sequential(down(3, n // 2), nn.ReLU(), down(n // 2, n), nn.ReLU(), body, down(n, outputs))


def residual_decoder(inputs: int, n: int = 128) -> nn.Sequential:
    """(B, inputs, h, w) -> (B, 3, 8 h, 8 w), not clamped."""
    body = Skip(*(Group(n, 3) for _ in range(5)), Group(n, 1))
    last = up(n // 2, 3)
    nn.init.constant_(last.bias, 0.5)  # type: ignore[arg-type]  # mid-grey
    return nn.Sequential(up(inputs, n, 3), nn.ReLU(), body, up(n, n // 2), nn.ReLU(), last)
