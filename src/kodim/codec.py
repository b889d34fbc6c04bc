"""The base class of every learned codec: one program, from which everything else follows.

A system subclasses :class:`Codec`, builds its networks in `__init__` and writes `program(code)`, the
decoder's view of how a picture is put together (see :mod:`kodim.coding.sites`). Training, estimate,
compression and decompression are derived from it here and are final, so they cannot disagree.
"""

import hashlib
import math
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coding.priors import PriorModule
from .coding.sites import Code, Decode, Draft, Encode, Estimate, Train
from .errors import BadRequest, DriftError
from .refine import refine
from .transforms import colours

if TYPE_CHECKING:
    from .goal import Goal

PLAIN = 0.2  # share of training crops that are not turned
RUINED = 20.0  # a loss ten times the usual one


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        x_hat: (B, 3, H, W) reconstruction; clamped to [0, 1] in eval mode.
        bits: name of each coding site -> (B,) bits spent there.
        pixels: H * W of the input.
        pictures: of a progressive codec, the reconstruction after each pass.
        pass_bits: of a progressive codec, (B,) bits of each pass.
    """

    x_hat: Tensor
    bits: dict[str, Tensor]
    pixels: int
    pictures: tuple[Tensor, ...] = ()
    pass_bits: tuple[Tensor, ...] = ()

    @property
    def bpp(self) -> Tensor:
        """(B,) bits per pixel of the input, headers not counted."""
        return torch.stack(list(self.bits.values())).sum(0) / self.pixels


@dataclass(frozen=True)
class Stream:
    """One compressed picture: the range coder's bytes and the CRC-32 of the symbols in them.

    A progressive codec's consists of one stream for each pass, `passes`; `data` is all of them in a row. The first
    few are a compressed picture too: `Stream.of(stream.passes[:3])`. `axes` are the packed colour axes that it was
    coded along (:mod:`kodim.transforms.colours`); b"": RGB.
    """

    data: bytes
    symbols_crc: int
    passes: tuple["Stream", ...] = ()
    axes: bytes = b""

    @classmethod
    def of(cls, passes: Sequence["Stream"]) -> "Stream":
        """The stream of a progressive codec, of its passes in order."""
        data = b"".join(part.data for part in passes)
        return cls(data, zlib.crc32(struct.pack(f">{len(passes)}I", *(p.symbols_crc for p in passes))), tuple(passes))

    @property
    def parts(self) -> tuple["Stream", ...]:
        """What a file keeps in a chunk each."""
        return self.passes or (self,)


class Codec(nn.Module, ABC):
    """A learned image codec.

    Class attributes:
        info: registry card of the system (slug, title, authors, taxonomy, ...); a literal dictionary.
        presets: name -> keyword arguments of `__init__`.
        stride: height and width are padded to multiples of it (edge replication) and cropped again.
        grid: qualities that studies measure unless told otherwise; fewer of a codec that takes its time.
        refinable: whether an encoder may alter latents in search of cheaper ones (effort 2 and above).
        efforts: steps of that search at effort 1, 2, ..
        fits: the search adapts the codec itself to the picture, and can meet a goal on the way.
        stitched: tiles of a large picture code their cores alone; analysis and synthesis look over the borders. For
            programs with one grid of latents between `code.encoder` and `code.synthesis` (:mod:`kodim.stitch`).

    Attributes:
        levels: number of trained rates; quality 0..100 spans them, with everything in between.
        passes: of a progressive codec, how many there are at most; 0: it knows none, its stream is one whole.
        lambdas: weight of 255^2 MSE against bpp at the first and the last level.
        arguments: what of `__init__` differs from the preset; weights files keep it.
        thrift: of encoder effort 2 (see :class:`.coding.sites.WithPicture`); 0 where rate-aware rounding does not pay.
        turned: pictures are coded along their own colour axes where that pays (:mod:`kodim.transforms.colours`).
        soft: train the synthesis on noisy instead of rounded latents (the first papers' way).
    """

    info: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    stride: ClassVar[int] = 64
    grid: ClassVar[tuple[float, ...]] = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0, 100.0)
    refinable: ClassVar[bool] = True
    efforts: ClassVar[Sequence[int]] = (0, 2, 4, 6, 8, 11, 15, 20, 30)  # each of about three decodes
    fits: ClassVar[bool] = False
    stitched: ClassVar[bool] = False

    levels: int = 1
    passes: int = 0
    lambdas: tuple[float, float] = (0.0018, 0.18)
    soft: bool = False
    turned: bool = False
    thrift: float = 14.0
    preset: str = ""
    arguments: Mapping[str, int] = MappingProxyType({})
    weights_hash: bytes | None = None

    @abstractmethod
    def program(self, code: Code) -> Tensor:
        """The decoder's program: sites in coding order, then the picture (B, 3, H, W) of padded size."""

    def forward(self, x: Tensor, quality: float | Tensor | None = None) -> Output:
        """Code x (B, 3, H, W) in [0, 1] without writing it.

        In train mode values are noisy or straight-through and bits are differentiable; in eval mode
        they are rounded and bits are exactly those of the file. `quality` (0..100, a number or one per
        picture) defaults to a random one per picture while training and to 60 otherwise.
        """
        height, width = x.shape[2:]
        level = self._levels(quality, len(x), x.device)
        turned, axes = self._turned(x)
        padded = self._pad(turned)
        if self.training:
            code: Train | Estimate = Train(padded, level, soft=self.soft)
            x_hat = _back(self.program(code), axes)[:, :, :height, :width]
        else:
            code = Estimate(padded, level)
            with torch.no_grad():
                x_hat = _back(self.program(code), axes)[:, :, :height, :width].clamp(0, 1)
                code.pictures = [picture.clamp(0, 1) for picture in code.pictures]
        pictures = tuple(picture[:, :, :height, :width] for picture in code.pictures)
        return Output(x_hat, code.bits, height * width, pictures, tuple(code.pass_bits))

    @torch.no_grad()
    def axes(self, x: Tensor) -> list[bytes]:
        """Colour axes of pictures (B, 3, H, W), float in [0, 1] or uint8, packed; b"" for those coded as they are.

        While training some crops keep theirs: many pictures will.
        """
        if not self.turned:
            return [b""] * len(x)
        found = colours.find(x)
        if self.training:
            found = [b"" if plain else axes for plain, axes in zip(torch.rand(len(x)) < PLAIN, found, strict=True)]
        return found

    @final
    @torch.no_grad()
    def compress(
        self,
        x: Tensor,
        quality: float = 60.0,
        *,
        steps: int = 0,
        thrift: float = 0.0,
        goal: "Goal | None" = None,
        core: tuple[slice, slice] | None = None,
        axes: bytes | None = None,
        shown: bool = True,
    ) -> tuple[Stream, Tensor]:
        """Code one picture x (1, 3, H, W) in [0, 1]; returns the stream and the decoder's picture.

        `thrift` above 0 rounds with an eye on the rate; `steps` of gradient descent look for
        cheaper or better symbols instead (:mod:`kodim.refine`). A codec that fits itself to the picture meets a `goal`.

        Args:
            core: of a codec that is `stitched`, the rows and columns that are coded, from multiples of 16 on; what
                lies around them is only looked at.
            axes: packed colour axes to code along, as of the whole picture that x is a tile of; None: those of x.
            shown: whether the picture is wanted; an empty tensor takes its place otherwise.
        """
        self._need_eval()
        level = self._levels(quality, 1, x.device)
        axes = self.axes(x)[0] if axes is None else axes
        turned = colours.unpack([axes], x.device)
        x = x if turned is None else turned.there(x)
        rows, columns = core if core is not None else (slice(0, x.shape[2]), slice(0, x.shape[3]))
        coded, size = x[:, :, rows, columns], (rows.stop - rows.start, columns.stop - columns.start)
        nudges: list[Tensor] = []
        if steps and self.refinable:
            nudges, thrift = self.search(self._pad(coded), level, size, steps, goal), 0.0
        whole = None if core is None else (self._whole(rows), self._whole(columns))
        code = Encode(self._pad(x), level, nudges, thrift if self.refinable else 0.0, whole, shown=shown)
        x_hat = self.program(code)
        x_hat = _back(x_hat[:, :, : size[0], : size[1]], turned).clamp(0, 1) if shown else x_hat.new_empty(0)
        if self.passes:
            return Stream.of([Stream(*part) for part in code.passes]), x_hat
        return Stream(code.writer.bytes(), code.crc, axes=axes), x_hat

    @final
    @torch.no_grad()
    def decompress(self, stream: Stream, size: tuple[int, int], quality: float = 60.0) -> Tensor:
        """The picture (1, 3, H, W) in [0, 1] of a stream, given its size (H, W) and quality.

        Of a progressive codec's stream, the first passes are enough.

        Raises:
            CorruptFile: the bytes are no encoder's.
            DriftError: they decode, but not to the symbols that were encoded.
        """
        x_hat = self._decoded(stream, size, quality, None)[:, :, : size[0], : size[1]]
        return _back(x_hat, colours.unpack([stream.axes], x_hat.device)).clamp(0, 1)

    @final
    @torch.no_grad()
    def draft(self, stream: Stream, size: tuple[int, int], quality: float = 60.0) -> Draft:
        """What `decompress` finds, short of the synthesis; of a codec that is `stitched`."""
        drafts: list[Draft] = []
        self._decoded(stream, size, quality, drafts)
        found = drafts[0]
        axes = colours.unpack([stream.axes], found.latents.device)
        return Draft(lambda latents: _back(found.function(latents), axes), found.latents)

    def _decoded(self, stream: Stream, size: tuple[int, int], quality: float, drafts: list[Draft] | None) -> Tensor:
        self._need_eval()
        height, width = size
        padded = (height + -height % self.stride, width + -width % self.stride)
        p = next(self.parameters())
        first, *later = stream.parts
        level = self._levels(quality, 1, p.device)
        code = Decode(first.data, padded, level, p.dtype, [part.data for part in later])
        code.drafts = drafts
        x_hat = self.program(code)
        if (code.crcs or [code.crc]) != [part.symbols_crc for part in stream.parts]:
            raise DriftError("decoded symbols differ from the encoded ones: damaged data, or arithmetic that drifted")
        return x_hat

    @final
    def freeze(self) -> None:
        """Compute all integer tables from the present parameters; done once, before weights are saved."""
        for module in self.modules():
            if isinstance(module, PriorModule):
                module.freeze()

    def train(self, mode: bool = True) -> "Codec":
        """As in PyTorch; training makes the integer tables stale, so they are dropped."""
        if mode:
            self.weights_hash = None
            for module in self.modules():
                if isinstance(module, PriorModule):
                    module.forget()
        return super().train(mode)

    @final
    def fingerprint(self) -> bytes:
        """First 8 bytes of the SHA-256 of the weights (of the weights file, where they came from one)."""
        if self.weights_hash is None:
            self.freeze()
            digest = hashlib.sha256()
            for name, value in sorted(self.state_dict().items()):
                digest.update(name.encode() + value.cpu().numpy().tobytes())
            self.weights_hash = digest.digest()[:8]
        return self.weights_hash

    def passes_at(self, level: Tensor) -> Tensor:
        """How many passes a picture of this level (B,) is coded in; all of them while training."""
        every = torch.full_like(level, self.passes).long()
        return every if self.training else torch.minimum(level.round().long() + 1, every)

    @final
    def passes_of(self, quality: float) -> int:
        """How many streams a picture of this quality consists of; 1 where there are no passes."""
        return int(self.passes_at(self._levels(quality, 1, torch.device("cpu")))) if self.passes else 1

    def search(self, x: Tensor, level: Tensor, size: Sequence[int], steps: int, goal: "Goal | None") -> list[Tensor]:
        """Nudges for the sites of the program that make a better file: see :func:`kodim.refine.refine`."""
        return refine(self, x, level, size, steps)

    @property
    def qualities(self) -> tuple[float, ...] | None:
        """The qualities that there are, of a codec that has no others in between."""
        return None

    def objective(self, x: Tensor, out: Output, level: Tensor) -> dict[str, Tensor]:
        """What training minimises, `loss`, and further terms for its log (scalars)."""
        mse = (out.x_hat.float() - x).square().mean((1, 2, 3)) * 255**2
        weight = self.distortion_weight(level)
        loss = self.balance(level) * (out.bpp + weight * mse)
        return {"loss": _bounded(loss).mean(), "mse": mse.mean()}

    def balance(self, level: Tensor) -> Tensor:
        """Weight of each picture (B,) in the loss: cheap ones count as much as dear ones, percent for percent."""
        return (self.distortion_weight(level) * math.prod(self.lambdas) ** -0.5) ** -0.5

    def distortion_weight(self, level: Tensor) -> Tensor:
        """lambda of each picture, log-linear in its level (B,)."""
        low, high = self.lambdas
        return low * (high / low) ** (level / max(self.levels - 1, 1))

    def _levels(self, quality: float | Tensor | None, batch: int, device: torch.device) -> Tensor:
        if quality is None and self.training:
            return torch.rand(batch, device=device) * (self.levels - 1)
        q = torch.as_tensor(60.0 if quality is None else quality, dtype=torch.float32, device=device)
        if not bool(((q >= 0) & (q <= 100)).all()):
            raise BadRequest(f"quality must lie in 0..100, not {quality}")
        return (q * ((self.levels - 1) / 100)).expand(batch)

    def _turned(self, x: Tensor) -> "tuple[Tensor, colours.Axes | None]":
        """x (B, 3, H, W) along the axes of its colours, and these."""
        axes = colours.unpack(self.axes(x), x.device)
        return (x if axes is None else axes.there(x)), axes

    def _pad(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        return F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")

    def _whole(self, part: slice) -> slice:
        """The rows or columns that a core is padded to."""
        return slice(part.start, part.stop + -(part.stop - part.start) % self.stride)

    def _need_eval(self) -> None:
        if self.training:
            raise RuntimeError("call codec.eval() first: tables follow the weights only then")


def _back(x_hat: Tensor, axes: "colours.Axes | None") -> Tensor:
    return x_hat if axes is None else axes.back(x_hat)


def _bounded(loss: Tensor) -> Tensor:
    """Of each picture (B,); beyond `RUINED` only its logarithm, so that one picture gone wrong is not all of a step."""
    return torch.where(loss < RUINED, loss, RUINED * (1 + (loss.clamp_min(RUINED) / RUINED).log()))
