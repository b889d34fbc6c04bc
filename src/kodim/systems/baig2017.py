"""Progressive codec whose stages predict the picture, not the residual, after inpainting it from its neighbours.

M. H. Baig, V. Koltun, L. Torresani, "Learning to Inpaint for Image Compression", NeurIPS 2017, arXiv 1709.08855.

Patches of 32x32 pass through stages with weights of their own, 128 bits each (0.125 bits per pixel)::

    P - p - ... --[conv, conv/2, conv, conv/2, conv, conv/2, 1x1]--> u --sign--> b
    M <-- [conv, conv, deconv x2 = a, conv, deconv x2 = b, conv, deconv x2 = c, conv] <--'

`links` says how stages hang together: "incremental", each stage codes the residual of those before and outputs are
summed; "skip", what is summed is the output before the last tanh; "full", learned shortcuts from each stage's encoder
and decoder to the next; "decoding", from its decoder only, the paper's best.

With inpainting, p is painted from the decoded patches above and to the left as they look after two stages. Those two
form the first pass of the file, patch by patch (in anti-diagonals); every later stage is a pass of all patches, so the
file may be cut behind any of them. While training, the neighbours are a coarsely quantised original.

The paper normalises batches; here the start of the weights preserves the variance instead, and nothing depends on
statistics.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..codec import Codec, Output
from ..coding.sites import Code
from ..coding.wavefront import fronts
from ..contexts.binary import NONE, Bits, CountedBits, Counters
from ..progressive import mean_over_passes
from ..quantizers.binary import binarize, decide
from ..transforms.pyramid import down
from ..transforms.windows import TILE, Canvas, as_decoded, degrade, join, split

CODE = TILE // 8  # positions along a patch's side
REACH = 3.0  # activations beyond +-3 saturate the tanh behind them


class Baig2017(Codec):
    """Multi-stage codec of 1709.08855; (bits, 4, 4) a patch and stage."""

    info = {
        "slug": "baig2017",
        "title": "Learning to inpaint for image compression",
        "authors": "Baig, Koltun, Torresani",
        "year": 2017,
        "arxiv": "1709.08855",
        "aliases": ["inpainting-residual-to-image"],
        "improves": "toderici2016",
        "place": "Eight pairs of networks, each with weights of its own, from nothing in 86 minutes.",
        "taxonomy": {
            "network": "CNN in stages, unrolled like an RNN",
            "unit": "32x32 patch",
            "spatial": "learned inpainting from decoded patches",
            "rate": "number of stages, one model",
            "range": "low to medium",
        },
    }
    presets = {
        "paper": {"widths": (64, 128, 256, 256), "stages": 8, "inpainting": 24, "counted": False},
        "compact": {"widths": (12, 32, 48, 64), "stages": 8, "inpainting": 8},
        "compact-no-inpainting": {"widths": (12, 32, 48, 64), "stages": 8, "inpainting": 0},
        "compact-incremental": {
            "widths": (12, 32, 48, 64),
            "stages": 8,
            "inpainting": 0,
            "links": "incremental",
        },
        "compact-skip": {"widths": (12, 32, 48, 64), "stages": 8, "inpainting": 0, "links": "skip"},
        "compact-full": {"widths": (12, 32, 48, 64), "stages": 8, "inpainting": 0, "links": "full"},
        "test": {"widths": (4, 8, 8, 8), "stages": 4, "inpainting": 4},
    }
    refinable = False
    stride = TILE
    bits = 8

    def __init__(
        self,
        widths: tuple[int, int, int, int],
        stages: int,
        inpainting: int,
        links: str = "decoding",
        counted: bool = True,
    ) -> None:
        super().__init__()
        self.links, self.counted = links, counted
        self.together = 2 if inpainting else 1  # stages of the first pass
        self.passes = self.levels = stages - self.together + 1
        self.inpainter = Inpainter(inpainting) if inpainting else None
        self.encoders = nn.ModuleList(Encoder(widths, self.bits, links == "full" and k > 0) for k in range(stages))
        linked = links in ("full", "decoding")
        self.decoders = nn.ModuleList(Decoder(widths, self.bits, linked and k > 0) for k in range(stages))
        self.coder = CountedBits(stages * self.bits * 3) if counted else None

    @property
    def qualities(self) -> tuple[float, ...] | None:
        return tuple(round(100 * k / (self.passes - 1), 2) for k in range(self.passes))

    def program(self, code: Code) -> Tensor:
        rows, columns = code.grid(TILE)
        b, like = len(code.level), next(self.parameters())
        everything = torch.arange(rows * columns)
        canvas = Canvas(b, rows, columns, like)
        if self.training:
            canvas.place(everything, code.encoder(lambda x: split(degrade(x) - 0.5)))
        serial = self.inpainter is not None and not self.training
        counters = self.coder.counters(b) if self.coder is not None and not self.training else None
        shown = like.new_zeros(b, 3, *code.size)
        walks: list[_Walk] = []
        for k in code.layers(self.passes_at(code.level)):
            if k == 0:
                for front in fronts(rows, columns, 0) if serial else [everything]:
                    walks.append(self._begin(code, front, canvas, counters))
                    canvas.place(front, as_decoded(walks[-1].picture()))
                walks = [_Walk.joined(walks)]
            else:
                self._stage(code, k + self.together - 1, walks[0], counters)
            shown = self._show(code, walks[0], rows)
        return shown

    def _show(self, code: Code, walk: "_Walk", rows: int) -> Tensor:
        return code.show(join(walk.picture(), rows) + 0.5)

    def _begin(self, code: Code, front: Tensor, canvas: Canvas, counters: Counters | None) -> "_Walk":
        """Inpaint patches and code the stages of the first pass."""
        windows = canvas.windows(front).flatten(0, 1)
        p = windows.new_zeros(len(windows), 3, TILE, TILE) if self.inpainter is None else self.inpainter(windows)
        walk = _Walk(len(code.level), front, p, torch.zeros_like(p))
        for stage in range(self.together):
            self._stage(code, stage, walk, counters)
            if self.training and stage + 1 < self.together:
                self._show(code, walk, canvas.rows)
        return walk

    def _stage(self, code: Code, stage: int, walk: "_Walk", counters: Counters | None) -> None:
        """Let one stage see what is left of the patches and add to the walk what it makes of them."""
        links: list[Tensor] = []

        def look(x: Tensor) -> Tensor:
            target = split(x - 0.5)[:, walk.front].flatten(0, 1) - walk.base
            u, links[:] = self.encoders[stage](target - walk.out, walk.encoder_links)
            return u

        u = code.encoder(look)
        walk.encoder_links = links
        half = self._send(code, stage, walk, u, counters)
        walk.before = (half > 0).long()
        b = binarize(u, stochastic=True) if self.training else 2 * half.transpose(1, 2).flatten(0, 1)
        raw, walk.decoder_links = self.decoders[stage](b.reshape(-1, self.bits, CODE, CODE), walk.decoder_links)
        raw = raw.to(walk.base.dtype)
        if self.links == "skip":
            walk.raw = raw if walk.raw is None else walk.raw + raw
            raw = walk.raw
        walk.out = walk.out + torch.tanh(raw) if self.links == "incremental" else torch.tanh(raw)

    def _send(self, code: Code, stage: int, walk: "_Walk", u: Tensor, counters: Counters | None) -> Tensor:
        """The bits of a stage as (B, bits, n, 16) of +-1/2; context: stage, channel, the bit of the stage before."""
        shape = (walk.batch, self.bits, len(walk.front), CODE**2)
        before = walk.before if walk.before is not None else torch.full(shape, NONE, device=walk.base.device)
        channel = torch.arange(self.bits, device=before.device)[:, None, None]
        context = (stage * self.bits + channel) * 3 + before

        def plane() -> Tensor:
            return 0.5 * decide(u).flatten(2).unflatten(0, (walk.batch, -1)).transpose(1, 2)

        code.part = walk.front, code.grid(TILE)
        if self.coder is None:
            return code("y", Bits.fair(shape), plane)
        return self.coder(code, "y", context, plane, counters)

    def objective(self, x: Tensor, out: Output, level: Tensor) -> dict[str, Tensor]:
        return mean_over_passes(x, out, lambda x, picture: 1000 * (x - picture).square().mean())


@dataclass
class _Walk:
    """How far some patches have come. Tensors count patches first: (B n, ...).

    Attributes:
        batch: B.
        front: (n,) indices of the patches.
        base: inpainted, centred pixels.
        out: what the stages have added to it.
        before: (B, bits, n, 16) of the last stage.
        raw: sum of outputs before the tanh ("skip").
        encoder_links, decoder_links: what shortcuts carry to the next stage.
    """

    batch: int
    front: Tensor
    base: Tensor
    out: Tensor
    before: Tensor | None = None
    raw: Tensor | None = None
    encoder_links: list[Tensor] = field(default_factory=list)
    decoder_links: list[Tensor] = field(default_factory=list)

    def picture(self) -> Tensor:
        """(B, n, 3, 32, 32), centred."""
        return (self.base + self.out).unflatten(0, (self.batch, -1))

    @classmethod
    def joined(cls, walks: list["_Walk"]) -> "_Walk":
        """The walks of all fronts as one of all patches, in raster order."""
        if len(walks) == 1:
            return walks[0]
        batch, front = walks[0].batch, torch.cat([walk.front for walk in walks])
        order = torch.argsort(front)

        def sort(parts: Iterable[Tensor | None], dim: int) -> Tensor:
            row = torch.cat([part for part in parts if part is not None], dim)
            return row.index_select(dim, order.to(row.device))

        def patches(parts: Iterable[Tensor | None]) -> Tensor:
            return sort([part.unflatten(0, (batch, -1)) for part in parts if part is not None], 1).flatten(0, 1)

        return cls(
            batch,
            front[order],
            patches([walk.base for walk in walks]),
            patches([walk.out for walk in walks]),
            sort([walk.before for walk in walks], 2),
            patches([walk.raw for walk in walks]) if walks[0].raw is not None else None,
            [patches(parts) for parts in zip(*(walk.encoder_links for walk in walks), strict=True)],
            [patches(parts) for parts in zip(*(walk.decoder_links for walk in walks), strict=True)],
        )


class Encoder(nn.Module):
    """Patches (n, 3, 32, 32) and the last stage's links -> (n, bits, 4, 4) within +-1, and the links of this one."""

    def __init__(self, widths: tuple[int, int, int, int], bits: int, linked: bool) -> None:
        super().__init__()
        first, *others = widths
        self.first = down(3, first, 3, 1)
        self.strided, self.plain = nn.ModuleList(), nn.ModuleList()
        for c_in, c_out in pairwise(widths):
            self.strided.append(down(c_in, c_out, 3, 2))
            self.plain.append(down(c_out, c_out, 3, 1))
        self.plain[-1] = down(widths[-1], bits, 1, 1)
        self.links = nn.ModuleList(down(c, c, 3, 1) for c in others) if linked else None

    def forward(self, x: Tensor, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        y, links = torch.relu(self.first(x)), []
        for i, (strided, plain) in enumerate(zip(self.strided, self.plain, strict=True)):
            y = strided(y)
            if self.links is not None:
                y = y + torch.relu(self.links[i](before[i]))
            links.append(y)
            y = plain(torch.relu(y))
            y = torch.relu(y) if i + 1 < len(self.plain) else torch.tanh(y)
        return y, links


class Decoder(nn.Module):
    """Codes (n, bits, 4, 4) of +-1 and the last stage's links -> (n, 3, 32, 32) before the tanh, and its own links."""

    def __init__(self, widths: tuple[int, int, int, int], bits: int, linked: bool) -> None:
        super().__init__()
        w1, _, w3, w4 = widths
        self.first = nn.Sequential(down(bits, w4, 3, 1), down(w4, w4, 3, 1), nn.ReLU())
        outs, nexts = (w4, w3, w1), (w3, w1)
        ins = (w4, *nexts)
        self.wide = nn.ModuleList(_double(c_in, c_out) for c_in, c_out in zip(ins, outs, strict=True))
        plain = [down(c_in, c_out, 3, 1) for c_in, c_out in zip(outs, (*nexts, 3), strict=True)]
        with torch.no_grad():
            plain[-1].weight *= 0.1
        self.plain = nn.ModuleList(plain)
        self.links = nn.ModuleList(down(c, c, 3, 1) for c in outs) if linked else None
        if linked:
            self._start_as_wires()

    @torch.no_grad()
    def _start_as_wires(self) -> None:
        """Let what the stage before has made pass through, whatever its sign, and what this one adds be little."""
        for link, wide in zip(self.links or (), self.wide, strict=True):
            nn.init.dirac_(link.weight)  # type: ignore[arg-type]
            nn.init.constant_(link.bias, REACH)  # type: ignore[arg-type]
            wide.weight.mul_(0.1)  # type: ignore[operator]
            nn.init.constant_(wide.bias, -REACH)  # type: ignore[arg-type]

    def forward(self, b: Tensor, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        y, links = self.first(b), []
        for i, (wide, plain) in enumerate(zip(self.wide, self.plain, strict=True)):
            y = wide(y)
            if self.links is not None:
                y = y + torch.relu(self.links[i](before[i]))
            links.append(y)
            y = plain(torch.tanh(y))
            if i + 1 < len(self.plain):
                y = torch.relu(y)
        return y, links


class Inpainter(nn.Module):
    """Windows (n, 4, 64, 64), pixels and mask -> the patch in the lower right, (n, 3, 32, 32).

    Eight layers at full resolution, each of 3x3 kernels at dilations 1, 2, 4 and 8.
    """

    def __init__(self, width: int, depth: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for c_in in (4, *[width] * (depth - 1)):
            scales = [nn.Conv2d(c_in, width // 4, 3, padding=d, dilation=d) for d in (1, 2, 4, 8)]
            for conv in scales:
                nn.init.normal_(conv.weight, std=(2 / (9 * c_in)) ** 0.5)
            self.layers.append(_Scales(scales))
        self.last = down(width, 3, 3, 1)
        with torch.no_grad():
            self.last.weight *= 0.1

    def forward(self, window: Tensor) -> Tensor:
        y = self.layers(window)
        return self.last(y[..., TILE - 1 :, TILE - 1 :])[..., 1:, 1:].to(window.dtype)


class _Scales(nn.ModuleList):
    """Several convolutions of one input, side by side, and a rectifier."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([conv(x) for conv in self], 1))


def _double(c_in: int, c_out: int) -> nn.ConvTranspose2d:
    """Transposed 2x2 convolution of stride 2."""
    layer = nn.ConvTranspose2d(c_in, c_out, 2, 2)
    nn.init.normal_(layer.weight, std=c_in**-0.5)
    return layer
