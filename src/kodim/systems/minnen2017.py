"""Tiles predicted from their neighbours, with a recurrent coder for the rest and as many passes as each needs.

D. Minnen, G. Toderici, M. Covell, T. Chinen, N. Johnston, J. Shor, S. J. Hwang, D. Vincent, S. Singh, "Spatially
Adaptive Image Compression using a Tiled Deep Network", ICIP 2017, arXiv 1802.02629.

A network paints each 32x32 tile from the decoded tiles above and to the left; the loop of `toderici2017`, kept inside
the tile, codes what it got wrong for as many passes as the tile is worth::

    window 64x64, target unknown --[conv/2 x4, mixing per channel, deconv x2 x3]--> p
    x - p - ... --[conv/2, LSTM/2, LSTM/2, LSTM/2, 1x1]--> u --sign--> b | go on?, bits |
    x_hat = p + sum of [1x1, (LSTM, depth-to-space x2) x 4, 1x1] <-- b <------'

Tiles of one anti-diagonal are independent and are coded together. Windows hold 8-bit pixels, so encoder and decoder
see the same; bits do not depend on them, so a difference could never derail the decoder. The stream grows from the
upper left and is not progressive in quality: a tile's final picture is what others are predicted from.

While training, all tiles are done at once in windows of a coarsely quantised original.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..codec import Codec, Output
from ..coding.sites import Code
from ..coding.wavefront import fronts
from ..contexts.binary import NONE, CountedBits
from ..progressive import GREY, ZOOM, Adaptive, between, mean_over_passes
from ..quantizers.binary import binarize, decide
from ..transforms.recurrent import HalfTanh, Memory, decoder, encoder
from ..transforms.start import recurrent_start
from ..transforms.windows import TILE, Canvas, as_decoded, degrade, join, split

CODE = TILE // 16  # positions along a tile's side


class Minnen2017(Codec):
    """Tiled codec of 1802.02629; at most `passes` times (bits, 2, 2) for each tile."""

    info = {
        "slug": "minnen2017",
        "title": "Spatially adaptive compression with a tiled deep network",
        "authors": "Minnen, Toderici, Covell, Chinen, Johnston, Shor, Hwang, Vincent, Singh",
        "year": 2017,
        "arxiv": "1802.02629",
        "aliases": ["tiled-rnn"],
        "improves": "toderici2017",
        "place": "7 minutes from the weights of `toderici2017`, on tiles that see only what is above and to the left.",
        "taxonomy": {
            "network": "CNN predictor, RNN (convolutional LSTM) residual coder",
            "unit": "32x32 tile",
            "spatial": "learned intra prediction",
            "rate": "target quality; passes per tile",
            "range": "low to medium",
        },
    }
    presets = {
        "paper": {
            "sizes": ((64, 256, 512, 512), (512, 512, 512, 256, 128)),
            "predictor": (64, 128, 256, 512),
            "bits": 32,
            "passes": 16,
        },
        "compact": {
            "sizes": ((16, 48, 96, 128), (96, 128, 96, 48, 24)),
            "predictor": (24, 48, 96, 128),
            "bits": 32,
            "passes": 8,
            "dct": True,
        },
        "test": {"sizes": ((8, 8, 8, 8), (8, 16, 16, 16, 16)), "predictor": (8, 8, 8, 8), "bits": 8, "passes": 3},
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)
    refinable = False
    stride = TILE
    slopes = Adaptive.slopes  # squared error that a bit has to save, at quality 0 and 100
    even = False  # stop by the PSNR reached, as in the paper, instead
    lowest, highest = 22.0, 38.0  # that PSNR at quality 0 and 100, in dB; training stops tiles by it

    def __init__(
        self,
        sizes: tuple[tuple[int, ...], tuple[int, ...]],
        predictor: tuple[int, int, int, int],
        bits: int,
        passes: int,
        dct: bool = False,
    ) -> None:
        """`dct`: begin as a coder of DCT signs, with a learned zoom of each pass (not in the paper)."""
        super().__init__()
        self.levels, self.steps, self.bits = 2, passes, bits
        self.predictor = Predictor(predictor)
        self.encoder = encoder(sizes[0], "lstm", (1, 1, 1), bits)
        self.decoder = decoder(sizes[1], "lstm", (1, 1, 3, 3), bits)
        self.zoom = nn.Parameter(ZOOM * torch.arange(passes)) if dct else None
        if dct:
            recurrent_start(self.encoder, self.decoder)
        self.flags = CountedBits(passes * 3 * 3)
        self.planes = CountedBits(passes * bits * 3)

    def program(self, code: Code) -> Tensor:
        rows, columns = code.grid(TILE)
        b, like = len(code.level), next(self.parameters())
        canvas = Canvas(b, rows, columns, like)
        book = _Book(self, b, rows, columns, like.device)
        if self.training:
            everything = torch.arange(rows * columns)
            canvas.place(everything, code.encoder(lambda x: split(degrade(x) - 0.5)))
            return join(self._code(code, everything, canvas, book), rows) + 0.5
        tiles = like.new_zeros(b, rows * columns, 3, TILE, TILE)
        for front in fronts(rows, columns, 0):
            done = self._code(code, front, canvas, book)
            tiles.index_copy_(1, front.to(like.device), done)
            canvas.place(front, as_decoded(done))
        return join(tiles, rows) + 0.5

    def _code(self, code: Code, front: Tensor, canvas: Canvas, book: "_Book") -> Tensor:
        """Code the tiles of a front; gives them as (B, n, 3, 32, 32)."""
        b, n = len(code.level), len(front)
        picture = self.predictor(canvas.windows(front).flatten(0, 1))
        target = code.encoder(lambda x: split(x - 0.5)[:, front].flatten(0, 1))
        active = torch.ones(b, 1, n, 1, dtype=torch.bool, device=picture.device)
        before = torch.full((b, self.bits, n, CODE**2), NONE, device=picture.device)
        step = _Step(self, picture)
        by_error = self.training or self.even
        plan = cache(lambda: self._plan(target, picture, code.level))
        self._show(code, picture, canvas)

        def go_on(_: Tensor) -> Tensor:
            return active & (self._unfinished(target, step.picture, code.level) if by_error else plan()[0] > k)

        def look(_: Tensor) -> Tensor:
            return step.look(k, target) if by_error else plan()[1][k]

        for k in range(self.steps):
            wanted = code.encoder(go_on)
            code.part = front, (canvas.rows, canvas.columns)
            active = book.flags(code, k, front, lambda: wanted, active)  # noqa: B023
            if not self.training and not bool(active.any()):
                break
            sending = torch.ones_like(active) if self.training else active
            u = code.encoder(look)
            code.part = front, (canvas.rows, canvas.columns)
            half = book.bits(code, k, before, lambda: _to_site(decide(u), b), sending)  # noqa: B023
            before = torch.where(sending, (half > 0).long(), NONE)
            step.paint(k, binarize(u, stochastic=True) if self.training else _from_site(half), sending)
            self._show(code, step.picture, canvas)
        return step.picture.unflatten(0, (b, n))

    @torch.no_grad()
    def _plan(self, target: Tensor, picture: Tensor, level: Tensor) -> tuple[Tensor, list[Tensor]]:
        """How many passes each tile is worth (B, 1, n, 1), as :meth:`.Adaptive.heights`, and what they have to say."""
        slope = between(self.slopes, level)[:, None]
        step, everywhere = _Step(self, picture), torch.ones(len(picture), dtype=torch.bool, device=picture.device)
        costs, said = [], []
        for k in range(self.steps + 1):
            error = (GREY * (target - step.picture.clamp(-0.5, 0.5))).square().sum((1, 2, 3))
            costs.append(error.view(len(level), -1) + slope * (k * self.bits * CODE**2))
            if k < self.steps:
                said.append(step.look(k, target))
                step.paint(k, decide(said[-1]), everywhere)
        return torch.stack(costs).argmin(0)[:, None, :, None], said

    def _show(self, code: Code, picture: Tensor, canvas: Canvas) -> None:
        """While training, the picture after each pass, of all tiles at once; in a file there is no such thing."""
        if self.training:
            code.show(join(picture.unflatten(0, (len(code.level), -1)), canvas.rows) + 0.5)

    def _unfinished(self, target: Tensor, picture: Tensor, level: Tensor) -> Tensor:
        """(B, 1, n, 1): which tiles are not good enough yet."""
        error = (target - picture.clamp(-0.5, 0.5)).square().mean((1, 2, 3)).view(len(level), 1, -1, 1)
        wanted = self.lowest + (self.highest - self.lowest) * level
        return error > 10 ** (-wanted[:, None, None, None] / 10)

    def objective(self, x: Tensor, out: Output, level: Tensor) -> dict[str, Tensor]:
        return mean_over_passes(x, out)


class _Step:
    """One pass after another of the networks of some tiles, which remember; `picture` is (B n, 3, 32, 32)."""

    def __init__(self, codec: Minnen2017, picture: Tensor) -> None:
        self.codec, self.picture = codec, picture
        self.looking: Memory | None = None
        self.painting: Memory | None = None

    def look(self, k: int, target: Tensor) -> Tensor:
        """What the encoder's network has to say at pass k."""
        u, self.looking = self.codec.encoder((target - self.picture) * self._scale(k), self.looking)
        return u

    def paint(self, k: int, b: Tensor, sending: Tensor) -> None:
        """Add what the codes of pass k mean, where there are any."""
        out, self.painting = self.codec.decoder(b, self.painting)
        on = sending.flatten()[:, None, None, None]
        self.picture = torch.where(on, self.picture + out.to(self.picture.dtype) / self._scale(k), self.picture)

    def _scale(self, k: int) -> Tensor | float:
        return 1.0 if self.codec.zoom is None else torch.exp2(self.codec.zoom[k])


class _Book:
    """What the coding of a picture has seen so far: how long each tile went on, and counts of bits and flags."""

    def __init__(self, codec: Minnen2017, batch: int, rows: int, columns: int, device: torch.device) -> None:
        self.codec, self.columns = codec, columns
        self.lengths = torch.full((batch, rows + 1, columns + 1), -1, device=device)  # bordered above and to the left
        training = codec.training
        self.flag_counters = None if training else codec.flags.counters(batch)
        self.bit_counters = None if training else codec.planes.counters(batch)

    def flags(self, code: Code, k: int, front: Tensor, go_on: Callable[[], Tensor], active: Tensor) -> Tensor:
        """Which of the active tiles (B, 1, n, 1) go on to pass k; context: whether the tiles left and above did."""
        y, x = front // self.columns + 1, front % self.columns + 1
        left, above = (_longer(self.lengths[:, v, w], k) for v, w in ((y, x - 1), (y - 1, x)))
        context = ((k * 3 + left) * 3 + above)[:, None, :, None]
        flags = self.codec.flags(code, "flags", context, lambda: go_on().float() - 0.5, self.flag_counters, active)
        active = flags > 0
        self.lengths[:, y, x] = torch.where(active[:, 0, :, 0], k + 1, self.lengths[:, y, x].clamp_min(0))
        return active

    def bits(self, code: Code, k: int, before: Tensor, signs: Callable[[], Tensor], active: Tensor) -> Tensor:
        """The plane of pass k, (B, bits, n, 4) of +-1/2; context: channel, and the bit of the pass before."""
        channel = torch.arange(before.shape[1], device=before.device)[:, None, None]
        context = (k * before.shape[1] + channel) * 3 + before
        plane = self.codec.planes
        return plane(code, "y", context, lambda: torch.where(active, 0.5 * signs(), -0.5), self.bit_counters, active)


def _longer(lengths: Tensor, k: int) -> Tensor:
    """Whether tiles went on to pass k: 0 or 1, NONE for a tile outside the picture."""
    return torch.where(lengths < 0, NONE, (lengths > k).long())


def _to_site(b: Tensor, batch: int) -> Tensor:
    """Codes of tiles (B n, C, 2, 2) as a latent (B, C, n, 4)."""
    return b.flatten(2).unflatten(0, (batch, -1)).transpose(1, 2)


def _from_site(half: Tensor) -> Tensor:
    """A latent (B, C, n, 4) of +-1/2 as codes of tiles (B n, C, 2, 2) of +-1."""
    return 2 * half.transpose(1, 2).flatten(0, 1).unflatten(2, (CODE, CODE)).contiguous()


class Predictor(nn.Module):
    """Context encoder: windows (n, 4, 64, 64) of centred pixels and mask -> tiles (n, 3, 32, 32) within +-1/2."""

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.down = nn.Sequential()
        for c_in, c_out in pairwise((4, *widths)):
            self.down.extend([nn.Conv2d(c_in, c_out, 4, 2, 1), nn.ReLU()])
        self.mix = nn.Parameter(torch.eye(16).repeat(widths[-1], 1, 1))  # of the 16 places, for each channel
        self.up = nn.Sequential(nn.Conv2d(widths[-1], widths[-1], 1), nn.ReLU())
        for c_in, c_out in pairwise(widths[::-1]):
            self.up.extend([nn.ConvTranspose2d(c_in, c_out, 4, 2, 1), nn.ReLU()])
        self.up.extend([nn.Conv2d(widths[0], 3, 3, padding=1), HalfTanh()])

    def forward(self, window: Tensor) -> Tensor:
        y = self.down(window)
        y = torch.einsum("bci,cij->bcj", y.flatten(2), self.mix).view_as(y)
        return self.up(y).to(window.dtype)
