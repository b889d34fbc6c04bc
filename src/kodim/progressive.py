"""The progressive residual loop: what the recurrent codecs have in common.

At every pass the encoder looks at what is still missing, sends a plane of bits, and both sides update the picture::

    x - x_hat --encoder--> u --binarise--> b | bit coder | --decoder--> x_hat
        ^  state kept                                      state kept    |
        '----------------------------------------------------------------'

A system is its two networks and a word on how their outputs add up; G. Toderici et al., "Variable Rate Image
Compression with Recurrent Neural Networks" (ICLR 2016, arXiv 1511.06085) and its successors. Pixels are centred:
the loop works on x - 1/2. Quality 0..100 chooses the number of passes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec import Codec, Output
from .coding.sites import Code
from .contexts.binary import CODERS, AdaptiveBits, BinaryRNN, BitCoder
from .quantizers.binary import binarize, decide
from .transforms.recurrent import Memory, Recurrent
from .transforms.start import recurrent_start

ZOOM = 0.35  # log2 of how much smaller what is left gets with a pass, to begin with
GREY = 255.0  # errors of the training loss are in grey levels


class Progressive(Codec):
    """A recurrent codec: `encoder` and `decoder` networks run once a pass.

    Attributes:
        encoder: residual (B, 3, H, W) within about +-1 -> (B, bits, H/code_stride, W/code_stride) within +-1.
        decoder: the same of +-1 -> (B, 3, H, W).
        coder: how bit planes are entropy-coded, see :mod:`kodim.contexts.binary`.
        frame: "one-shot": the decoder's output is the picture; "additive": what is to be added to it.
        stochastic: while training, bits are drawn instead of decided.
        zoom: (passes,) log2 of what the residual of each pass is enlarged by, and the decoder's answer reduced; None:
            as it is. What is left shrinks from pass to pass, and one network has to look at all of it.
    """

    refinable: ClassVar[bool] = False  # bits are answers to the picture so far: none can be altered alone
    stride = 32

    encoder: Recurrent
    decoder: Recurrent

    def __init__(
        self, passes: int, bits: int, coder: str, frame: str, *, code_stride: int = 16, stochastic: bool = True
    ) -> None:
        super().__init__()
        self.passes = self.levels = passes
        self.code_stride, self.frame, self.stochastic = code_stride, frame, stochastic
        self.coder: BitCoder = make_coder(coder, passes, bits, code_stride)
        self.zoom: nn.Parameter | None = None

    def start(self, *, pairs: bool = False) -> None:
        """Begin as a coder of DCT signs (:func:`.start.recurrent_start`), instead of at random."""
        recurrent_start(self.encoder, self.decoder, pairs=pairs)
        self.add_up()

    def add_up(self) -> None:
        """Let passes add up, each with a zoom of its own."""
        self.frame, self.zoom = "additive", nn.Parameter(ZOOM * torch.arange(self.passes))

    @property
    def qualities(self) -> tuple[float, ...] | None:
        return tuple(round(100 * k / max(self.passes - 1, 1), 2) for k in range(self.passes))

    def program(self, code: Code) -> Tensor:
        picture = shown = self.blank(code)
        looking: Memory | None = None
        painting: Memory | None = None
        memory: Any = None

        def look(x: Tensor) -> Tensor:
            nonlocal looking
            u, looking = self.analyse(k, ((x - 0.5) - picture) * scale, looking)
            return u

        for k in code.layers(self.passes_at(code.level)):
            scale = self.scale(k, picture)
            u = code.encoder(look)
            b, memory = self.send(code, k, u, memory)
            out, painting = self.synthesise(k, b, painting)
            out = out.to(picture.dtype)  # sums in full precision, under autocast too
            picture = picture + out / scale if self.frame == "additive" else out
            shown = code.show(picture + 0.5)
        return shown

    def analyse(self, k: int, residual: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """The encoder's network at pass k."""
        return self.encoder(residual, memory)

    def synthesise(self, k: int, b: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """The decoder's network at pass k."""
        return self.decoder(b, memory)

    def scale(self, k: int, picture: Tensor) -> Any:
        """What the residual of pass k is multiplied with; the decoder's answer is divided by it."""
        return 1.0 if self.zoom is None else torch.exp2(self.zoom[k])

    def send(self, code: Code, k: int, u: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Bits +-1 of u, across the channel. While training, the coder learns from the bits that a file will have."""
        half, memory = self.coder(code, k, lambda: 0.5 * decide(u), memory)
        return (binarize(u, stochastic=self.stochastic) if self.training else 2 * half), memory

    def blank(self, code: Code) -> Tensor:
        """The picture before the first pass: grey, (B, 3, H, W), centred."""
        p = next(self.parameters())
        return p.new_zeros(len(code.level), 3, *code.size)

    def objective(self, x: Tensor, out: Output, level: Tensor) -> dict[str, Tensor]:
        return mean_over_passes(x, out, self.error)

    def error(self, x: Tensor, picture: Tensor) -> Tensor:
        """What a pass has left undone, as the training sees it: a scalar, in grey levels."""
        return absolute_error(x, picture)


class Adaptive(Progressive):
    """A recurrent codec that spends bits where the picture needs them.

    Every position of the code (16x16 pixels) sends for as many passes as it is worth: from the second pass on, a flag
    says whether it goes on. A position that has stopped sends nothing any more, and its code is 0. Quality is
    continuous; all passes are written, the last ones may be empty.

    Which positions go on is the encoder's business. It codes the picture in full first, without writing, and picks the
    height of every position that minimises squared error + slope * bits. With `even` it does as the papers have it:
    a position stops as soon as its pixels are good enough, so that no part is worse than another.

    Attributes:
        slopes: squared error (of grey levels, all channels) that a bit has to save, at quality 0 and 100.
        even: stop by the error reached.
        worst, best: that error at quality 0 and 100: the largest of the mean absolute errors of a position's four 8x8
            blocks, in grey levels. Training stops positions by these.
        masked: share of a training batch whose codes stop as they will in a file; the rest sends all bits.
    """

    slopes: tuple[float, float] = (3e4, 10.0)
    even: bool = False
    worst: float = 24.0
    best: float = 2.0
    masked: float = 0.0

    def __init__(self, passes: int, bits: int, coder: str, frame: str, *, stochastic: bool = True) -> None:
        super().__init__(passes, bits, coder, frame, stochastic=stochastic)
        self.levels = 2
        self.flags = AdaptiveBits(passes, 1, self.code_stride, "flags")

    @property
    def qualities(self) -> tuple[float, ...] | None:
        return None

    def passes_at(self, level: Tensor) -> Tensor:
        return torch.full_like(level, self.passes).long()

    def threshold(self, level: Tensor) -> Tensor:
        """(B,) error in grey levels at which a position stops."""
        return between((self.worst, self.best), level)

    def program(self, code: Code) -> Tensor:
        shown = self.blank(code)
        active = torch.ones(len(code.level), 1, *code.grid(self.code_stride), dtype=torch.bool, device=shown.device)
        step = _Step(self, shown)
        heights = cache(lambda x: self.heights(x, code.level))
        memory: Any = None
        flags: Any = None

        def go_on(x: Tensor) -> Tensor:
            by_error = self.training or self.even
            return active & (self.unfinished(x, shown, code.level) if by_error else heights(x) > k)

        for k in code.layers(self.passes_at(code.level)):
            if k:
                wanted = code.encoder(go_on)
                sent, flags = self.flags(code, k, lambda: wanted.to(shown.dtype) - 0.5, flags, active)  # noqa: B023
                active = sent > 0
            if not self.training and not bool(active.any()):
                shown = code.show(shown)
                continue
            u = code.encoder(lambda x: step.look(k, x))  # noqa: B023
            sending = self._sending(active)
            b, memory = self.send(code, k, u, memory, sending)
            shown = code.show(step.paint(k, self.codes(b), sending) + 0.5)
        return shown

    @torch.no_grad()
    def heights(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, 1, h, w): how many passes each position of the picture is worth, 1 .. `passes`."""
        slope = between(self.slopes, level)[:, None, None, None]
        everywhere = torch.ones(len(x), 1, *(n // self.code_stride for n in x.shape[2:]), dtype=torch.bool)
        everywhere = everywhere.to(x.device)
        step = _Step(self, torch.zeros_like(x))
        costs = []
        for k in range(self.passes):
            picture = step.paint(k, self.codes(decide(step.look(k, x))), everywhere) + 0.5
            error = (GREY * (x - picture.clamp(0, 1))).square().sum(1, keepdim=True)
            error = F.avg_pool2d(error, self.code_stride, divisor_override=1)
            costs.append(error + slope * ((k + 1) * self.coder.channels))
        return torch.stack(costs).argmin(0) + 1

    def send(self, code: Code, k: int, u: Tensor, memory: Any, active: Tensor | None = None) -> tuple[Tensor, Any]:
        """Codes +-1, and 0 where there is none."""
        assert active is not None
        half, memory = self.coder(code, k, lambda: torch.where(active, 0.5 * decide(u), -0.5), memory, active)
        b = binarize(u, stochastic=self.stochastic) if self.training else 2 * half
        return b * active, memory

    def codes(self, b: Tensor) -> Tensor:
        """What the decoder's network sees of the codes +-1, and 0 where there is none."""
        return b

    def unfinished(self, x: Tensor, shown: Tensor, level: Tensor) -> Tensor:
        """(B, 1, h, w): where the picture is not good enough yet."""
        error = F.avg_pool2d(GREY * (x - shown).abs().mean(1, keepdim=True), 8)
        return F.max_pool2d(error, self.code_stride // 8) > self.threshold(level)[:, None, None, None]

    def _sending(self, active: Tensor) -> Tensor:
        """Which positions send; while training, all of some pictures, so that full depth is learned too."""
        if not self.training:
            return active
        share = torch.arange(len(active), device=active.device) >= self.masked * len(active)
        return active | share[:, None, None, None]


class _Step:
    """One pass after another of an adaptive codec's networks, which remember; `picture` is centred."""

    def __init__(self, codec: Adaptive, blank: Tensor) -> None:
        self.codec, self.picture = codec, blank
        self.looking: Memory | None = None
        self.painting: Memory | None = None

    def look(self, k: int, x: Tensor) -> Tensor:
        """What the encoder's network has to say of x (B, 3, H, W) in [0, 1] at pass k."""
        scale = self.codec.scale(k, self.picture)
        u, self.looking = self.codec.analyse(k, (x - 0.5 - self.picture) * scale, self.looking)
        return u

    def paint(self, k: int, b: Tensor, sending: Tensor) -> Tensor:
        """The picture with the codes of pass k.

        What has sent its last bit stays as it is: its pixels, where passes add up, or else all the picture.
        """
        codec = self.codec
        scale = codec.scale(k, self.picture)
        out, self.painting = codec.synthesise(k, b, self.painting)
        out = out.to(self.picture.dtype)
        if codec.frame == "additive":
            out = self.picture + out / scale
            going = sending.repeat_interleave(codec.code_stride, 2).repeat_interleave(codec.code_stride, 3)
        else:
            going = sending.any(3, keepdim=True).any(2, keepdim=True)
        self.picture = torch.where(going, out, self.picture)
        return self.picture


def between(ends: tuple[float, float], level: Tensor) -> Tensor:
    """(B,) from the first end, at level 0, to the second, at level 1, in even ratios."""
    return ends[0] * (ends[1] / ends[0]) ** level


def absolute_error(x: Tensor, picture: Tensor) -> Tensor:
    """Mean, in grey levels."""
    return GREY * (x - picture).abs().mean()


def mean_over_passes(
    x: Tensor, out: Output, error: Callable[[Tensor, Tensor], Tensor] = absolute_error
) -> dict[str, Tensor]:
    """An objective: the mean of what every pass leaves undone. Bits only train their coder, which shares the loss."""
    loss = torch.stack([error(x, picture) for picture in out.pictures]).mean()
    first, last = ((picture - x).square().mean() * 255**2 for picture in (out.pictures[0], out.pictures[-1]))
    return {"loss": loss + out.bpp.mean(), "mse": last, "mse_first": first}


def make_coder(name: str, passes: int, bits: int, stride: int) -> BitCoder:
    """ "raw", "adaptive", "rnn", or "rnn-3" for the paper's 7x7 mask."""
    kind, _, radius = name.partition("-")
    if radius:
        return BinaryRNN(passes, bits, stride, radius=int(radius))
    return CODERS[kind](passes, bits, stride)
