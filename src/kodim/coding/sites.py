"""Coding sites: the one place where a value crosses the channel.

A codec writes a single method, `program(code)`. Wherever a value has to reach the decoder it calls
`code(name, prior, latent)`; the handler behind `code` decides what that means:

=========  ==================================================  ==============================
handler    at a site                                           gives
=========  ==================================================  ==============================
Train      noise for the rate, straight-through for the rest   differentiable bits
Estimate   rounds, sums the exact lengths of integer tables    the file's size without a file
Encode     rounds, pushes symbols into the range coder         bytes
Decode     pulls symbols out of it                             the same values again
=========  ==================================================  ==============================

`latent` is a callable that the decoder never calls; `code.encoder(f)` likewise runs `f` on the picture
only where there is one.

A progressive codec codes in passes: `for k in code.layers(count)`, and at the end of each `code.show(picture)`. Every
pass is a stream of its own with its own checksum, so a file cut behind one decodes to the picture shown there.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..quantizers.rounding import noisy, rate_aware, straight_through
from .rangecoder import Reader, Writer
from .tables import Distributions

MAX_SYMBOL = 2.0**24  # beyond any sane latent, and exact in float32


Part = tuple[Tensor, tuple[int, int]]  # positions (n,) y * w + x, and the (h, w) of their grid


class BoundPrior(Protocol):
    """What a site needs to know of a distribution; see :mod:`kodim.coding.priors`."""

    @property
    def centre(self) -> Tensor | float: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def bits(self, r: Tensor) -> Tensor: ...
    def distributions(self) -> Distributions: ...


@dataclass(frozen=True)
class Draft:
    """Decoded latents (1, C, h, w) that are no picture yet, and the function that makes one of them."""

    function: Callable[[Tensor], Tensor]
    latents: Tensor


class Code:
    """Base of the handlers.

    Attributes:
        size: (height, width) of the padded picture.
        level: (B,) real rate level of each picture, 0 .. levels - 1.
        part: what the next site codes of a grid, for those who draw maps: positions (n,) y * w + x, and (h, w).
            A serial context says so before each call; None: all of it.
    """

    part: Part | None = None

    def __init__(self, size: tuple[int, int], level: Tensor) -> None:
        self.size, self.level = size, level

    def grid(self, stride: int) -> tuple[int, int]:
        """(h, w) of a latent at 1/stride of the resolution, rounded up."""
        return -(-self.size[0] // stride), -(-self.size[1] // stride)

    def encoder(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`function(picture)` where there is a picture; the decoder gets an empty tensor it must not use."""
        raise NotImplementedError

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        raise NotImplementedError

    def synthesis(self, function: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
        """`function(latents)`, the picture, where anybody wants it now; an empty tensor otherwise."""
        return function(latents)

    def preview(self, value: Tensor) -> Tensor:
        """While training: what stands for decoded values whose centre is not known yet (serial contexts)."""
        raise NotImplementedError

    def layers(self, count: Tensor) -> Iterator[int]:
        """The passes to go through, 0 .. count - 1, given how many each picture is to have (B,).

        The decoder goes through those that arrived.
        """
        raise NotImplementedError

    def show(self, picture: Tensor) -> Tensor:
        """Ends a pass with the picture (B, 3, H, W) so far; gives what is shown, to be what `program` returns."""
        return picture

    @contextmanager
    def serial(self, latent: Callable[[], Tensor]) -> Iterator[Callable[[], Tensor]]:
        """Around the calls that code one latent part by part; gives the latent to take the parts of."""
        yield latent


class WithPicture(Code):
    """What the handlers on the encoder's side share.

    Args:
        x: (B, 3, H, W) padded picture.
        level: (B,) rate level.
        nudges: what to add to the latents of each site, in the order of the calls, before they are rounded:
            an encoder that has searched for better symbols says so here (see :mod:`kodim.refine`).
        thrift: weight of a squared rounding error (in steps) against bits; 0 rounds to the nearest integer. See
            :func:`kodim.quantizers.rounding.rate_aware`.
        core: rows and columns of x that are coded; the analysis sees all of it. Only for a program whose
            `code.encoder` gives a grid that covers x evenly.
    """

    def __init__(
        self,
        x: Tensor,
        level: Tensor,
        nudges: Iterable[Tensor] = (),
        thrift: float = 0.0,
        core: tuple[slice, slice] | None = None,
    ) -> None:
        size = x.shape[2:] if core is None else [part.stop - part.start for part in core]
        super().__init__((size[0], size[1]), level)
        self.x, self.nudges, self.thrift, self.core = x, iter(nudges), thrift, core
        self.bits: dict[str, Tensor] = {}
        self.pictures: list[Tensor] = []  # shown after each pass
        self.pass_bits: list[Tensor] = []  # (B,) of each pass
        self.live: Tensor | None = None  # (B,) pictures that take part in this pass; None: all

    def residual(self, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        """What a site rounds: the latent less the prior's centre, and its nudge."""
        r = latent() - prior.centre
        nudge = next(self.nudges, None)
        return r if nudge is None else r + nudge

    def symbols(self, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        """The integers of a site, as floats."""
        r = self.residual(prior, latent)
        q = rate_aware(r, prior.bits, self.thrift) if self.thrift else torch.round(r)
        return q.clamp(-MAX_SYMBOL, MAX_SYMBOL)

    def encoder(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        seen = function(self.x)
        if self.core is None:
            return seen
        stride = self.x.shape[2] // seen.shape[2]
        rows, columns = (slice(part.start // stride, part.stop // stride) for part in self.core)
        return seen[:, :, rows, columns].contiguous()

    def preview(self, value: Tensor) -> Tensor:
        return straight_through(value)

    @contextmanager
    def serial(self, latent: Callable[[], Tensor]) -> Iterator[Callable[[], Tensor]]:
        nudge, others = next(self.nudges, None), self.nudges
        self.nudges = iter(())  # the parts have theirs already
        yield latent if nudge is None else lambda: latent() + nudge
        self.nudges = others

    def layers(self, count: Tensor) -> Iterator[int]:
        for k in range(int(count.max())):
            live = k < count
            self.live = None if bool(live.all()) else live
            self.pass_bits.append(torch.zeros_like(self.level))
            yield k
        self.live = None

    def show(self, picture: Tensor) -> Tensor:
        if self.live is not None:
            picture = torch.where(self.live[:, None, None, None], picture, self.pictures[-1])
        self.pictures.append(picture)
        return picture

    def add(self, name: str, bits: Tensor) -> None:
        """Count the bits (B,) of a site."""
        if self.live is not None:
            bits = bits * self.live
        if self.pass_bits:
            self.pass_bits[-1] = self.pass_bits[-1] + bits
        self.bits[name] = self.bits[name] + bits if name in self.bits else bits


class Train(WithPicture):
    """Differentiable: `bits[name]` (B,) from noisy values.

    Args:
        soft: hand noisy values to the synthesis too, as in the first papers; otherwise rounded ones with
            a straight-through gradient (Minnen and Singh 2020), which is what the decoder will see.
    """

    def __init__(self, x: Tensor, level: Tensor, *, soft: bool = False) -> None:
        super().__init__(x, level)
        self.soft = soft

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        r = self.residual(prior, latent)
        r_noisy = noisy(r)
        self.add(name, prior.bits(r_noisy).sum((1, 2, 3)))
        return prior.centre + (r_noisy if self.soft else straight_through(r))

    def preview(self, value: Tensor) -> Tensor:
        return noisy(value)


class Estimate(WithPicture):
    """The encoder's values and their exact cost in the integer tables."""

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        q = self.symbols(prior, latent)
        symbols = _to_numpy(q)
        bits = prior.distributions().bits(symbols).reshape(len(q), -1).sum(1)
        self.add(name, torch.as_tensor(bits, dtype=torch.float32, device=q.device))
        return _canonical(q + prior.centre)


class Encode(WithPicture):
    """Writes one stream, or one for each pass; a batch of one picture.

    Args:
        shown: whether the picture is wanted too, where the program can do without (`code.synthesis`).
    """

    def __init__(
        self,
        x: Tensor,
        level: Tensor,
        nudges: Iterable[Tensor] = (),
        thrift: float = 0.0,
        core: tuple[slice, slice] | None = None,
        *,
        shown: bool = True,
    ) -> None:
        super().__init__(x, level, nudges, thrift, core)
        self.writer, self.crc, self.shown = Writer(), 0, shown
        self.passes: list[tuple[bytes, int]] = []  # bytes and checksum of each

    def layers(self, count: Tensor) -> Iterator[int]:
        for k in super().layers(count):
            self.writer, self.crc = Writer(), 0
            yield k
            self.passes.append((self.writer.bytes(short=True), self.crc))

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        q = self.symbols(prior, latent)
        symbols = _to_numpy(q)
        self.writer.write(symbols, prior.distributions())
        self.crc = _crc(symbols, self.crc)
        return _canonical(q + prior.centre)

    def synthesis(self, function: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
        return function(latents) if self.shown else torch.empty(0)


class Decode(Code):
    """Reads one stream, or one for each pass; `crc` is that of the symbols it found, `crcs` those of each pass.

    Args:
        data: the stream, or that of the first pass.
        later: those of the further passes that arrived.

    Attributes:
        drafts: a list to be given what `code.synthesis` was called with, in the place of a picture; None: no.
    """

    drafts: list[Draft] | None = None

    def __init__(
        self,
        data: bytes,
        size: tuple[int, int],
        level: Tensor,
        dtype: torch.dtype,
        later: Sequence[bytes] = (),
    ) -> None:
        super().__init__(size, level)
        self.reader, self.crc, self.dtype = Reader(data), 0, dtype
        self.streams, self.crcs = (data, *later), list[int]()

    def layers(self, count: Tensor) -> Iterator[int]:
        for k, data in enumerate(self.streams[: int(count)]):
            self.reader, self.crc = Reader(data), 0
            yield k
            self.crcs.append(self.crc)

    def encoder(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.empty(0)

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        symbols = self.reader.read(prior.distributions())
        self.crc = _crc(symbols, self.crc)
        q = torch.as_tensor(symbols, device=self.level.device).view(prior.shape).to(self.dtype)
        return _canonical(q + prior.centre)

    def synthesis(self, function: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
        if self.drafts is None:
            return function(latents)
        self.drafts.append(Draft(function, latents))
        return torch.empty(0)


def _canonical(value: Tensor) -> Tensor:
    """The same values in plain contiguous memory: libraries pick kernels, and so roundings, by strides."""
    return torch.empty(value.shape, dtype=value.dtype, device=value.device).copy_(value)


def _to_numpy(x: Tensor) -> np.ndarray:
    return x.reshape(-1).to("cpu", torch.int64).numpy()


def _crc(symbols: np.ndarray, crc: int) -> int:
    return zlib.crc32(symbols.astype("<i4").tobytes(), crc)
