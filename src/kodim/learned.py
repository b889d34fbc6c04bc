"""Learned codecs at the level of files: a :class:`Picture` in, the bytes of a .kdm file out, and back."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import container, weights
from .errors import BadRequest, CorruptFile, KodimError, MissingWeights
from .picture import MAX_PIXELS, Box, Picture, check_box, pack_alpha, unpack_alpha
from .progress import part, report
from .registry import Entry, create, find, weights_file
from .stitch import stitched
from .threads import Workers
from .tiles import Span, layout

if TYPE_CHECKING:
    from torch import Tensor

    from .codec import Codec, Stream
    from .goal import Goal


class LearnedCodec:
    """A learned system with trained weights, behind the interface that classical codecs share.

    Args:
        entry: its line in the registry.
        preset: which sizes.
        path: weights file or checkpoint; the shipped weights by default.

    Quality 0..100 runs linearly over the trained rate levels; any real number works, in steps of 0.01. A
    progressive codec has as many qualities as passes.
    """

    kind = "learned"
    extension = ".kdm"

    def __init__(self, entry: Entry, preset: str = "compact", path: Path | None = None) -> None:
        self.entry, self.slug, self.preset, self.path = entry, entry.slug, preset, path

    @property
    def codec(self) -> "Codec":
        """The network in eval mode, loaded on first use and kept."""
        return _load(self.slug, self.preset, self.path)

    @property
    def continuous(self) -> bool:
        return self.codec.qualities is None

    @property
    def qualities(self) -> tuple[float, ...]:
        return self.codec.qualities or self.codec.grid

    def arguments(self, quality: float) -> dict[str, Any]:
        return {"quality": quality, "preset": self.preset, "weights": self.codec.fingerprint().hex()}

    @property
    def fits(self) -> bool:
        """Whether effort above 1 fits the codec to the picture, and so can meet a goal on the way."""
        return self.codec.fits

    def encode(
        self, picture: Picture, quality: float, *, effort: int | None = None, goal: "Goal | None" = None
    ) -> bytes:
        """The .kdm file of a picture.

        Args:
            effort: 1, the default, is one pass; more searches for better symbols
                (:mod:`kodim.refine`). Effort 2 rounds with an eye on the rate instead
                (:mod:`kodim.quantizers.rounding`) where that pays.
            goal: of a codec that `fits`: what it is to reach, and where to start.

        Raises:
            BadRequest: quality outside 0..100, or effort outside 1..9 (of a codec that `fits`, 1..10).
            MissingWeights: no trained weights.
        """
        if not 0 <= quality <= 100:
            raise BadRequest(f"quality must lie in 0..100, not {quality:g}")
        codec = self.codec
        if effort is not None and not 1 <= effort <= len(codec.efforts):
            raise BadRequest(f"effort must lie in 1..{len(codec.efforts)}, not {effort}")
        quality = round(quality * 100) / 100
        steps = codec.efforts[(effort or 1) - 1]
        thrift = codec.thrift if effort == 2 else 0.0
        steps = 0 if thrift else steps
        streams = self._streams(picture, quality, steps, thrift, goal)
        header = container.Header(
            codec=self.slug,
            weights=codec.fingerprint(),
            width=picture.width,
            height=picture.height,
            color=picture.mode,
            quality=quality,
            preset=self.preset,
            axes=streams[0].axes,
        )
        return container.pack(
            container.KdmFile(
                header,
                # Pass by pass, so that what arrives first shows all of the picture.
                tuple(
                    container.Payload(part.data, part.symbols_crc)
                    for layer in zip(*(stream.parts for stream in streams), strict=True)
                    for part in layer
                ),
                alpha=None if picture.alpha is None else pack_alpha(picture.alpha),
                icc=picture.icc,
                exif=picture.exif,
                xmp=picture.xmp,
            )
        )

    def _streams(
        self, picture: Picture, quality: float, steps: int, thrift: float, goal: "Goal | None"
    ) -> "list[Stream]":
        """One for each tile; side by side where each is quick."""
        codec, tiles = self.codec, layout(picture.height, picture.width)
        axes = codec.axes(_planes(picture.pixels))[0]

        def encoded(i: int) -> "Stream":
            rows, columns = tiles[i]
            x = to_tensor(picture.pixels[rows.outer, columns.outer])
            core = (rows.inner, columns.inner) if codec.stitched else None
            aim = None if goal is None else goal.tile(i)
            with part(i, len(tiles)):
                return codec.compress(
                    x, quality, steps=steps, thrift=thrift, goal=aim, core=core, axes=axes, shown=False
                )[0]

        if not codec.stitched or len(tiles) == 1 or steps:
            return [encoded(i) for i in range(len(tiles))]
        streams = []
        with Workers() as workers:
            for stream in workers.map(encoded, range(len(tiles))):
                streams.append(stream)
                report(len(streams) / len(tiles))
        return streams

    def sent(self, data: bytes, picture: Picture) -> "tuple[float, tuple[Stream, ...]]":
        """Quality and streams, tile by tile, of an earlier file of the same picture: what a fit can go on from.

        Raises:
            BadRequest: it is another picture's, or of another codec or other weights.
        """
        from .codec import Stream

        file = container.parse(data)
        header = file.header
        if (header.codec, header.preset, header.weights) != (self.slug, self.preset, self.codec.fingerprint()):
            raise BadRequest(
                f"was written by {header.codec} {header.preset} {header.weights.hex()}: cannot go on from it"
            )
        tiles = layout(picture.height, picture.width)
        if (header.width, header.height) != (picture.width, picture.height) or len(file.payloads) != len(tiles):
            raise BadRequest(f"holds another picture, of {header.width}x{header.height}: cannot go on from it")
        return header.quality, tuple(Stream(p.data, p.symbols_crc, axes=header.axes) for p in file.payloads)

    def decode(self, data: bytes) -> Picture:
        """The picture in a .kdm file written by this system; see :func:`decode_kdm` for any system's."""
        file = container.parse(data)
        if file.header.codec == self.slug and self.codec.fingerprint() == file.header.weights:
            return _decode(file, self.codec)
        return decode_kdm(data)


def decode_kdm(
    data: bytes,
    *,
    partial: bool = False,
    max_pixels: int = MAX_PIXELS,
    given: str | Path | None = None,
    box: Box | None = None,
) -> Picture:
    """Decode a .kdm file with whatever system and weights its header names.

    `given` is a weights file to look at, besides those that ship and those that KODIM_WEIGHTS names. Of a picture in
    tiles, only those are decoded that `box` (left, upper, right, lower) needs; the result is that part.

    Raises:
        CorruptFile: damaged, cut short, or no .kdm file.
        DriftError: decoded symbols differ from the encoded ones.
        MissingWeights: written by a system or with weights that are not here.
        UnsupportedImage: more than `max_pixels`.
        BadRequest: a box that does not lie within the picture.
    """
    file = container.parse(data, partial=partial, max_pixels=max_pixels)
    if box is not None:
        check_box(box, file.header.width, file.header.height)
    return _decode(file, codec_of(file.header, given), box)


def codec_of(header: container.Header, given: str | Path | None = None) -> "Codec":
    """The network that a file's header names, with the very weights that wrote it; `given` as in `decode_kdm`.

    Raises:
        MissingWeights: it is not here.
    """
    try:
        entry = find(header.codec)
    except KodimError:
        raise MissingWeights(f"written by the codec {header.codec!r}, which this version does not know") from None
    if header.preset not in entry.presets:
        raise MissingWeights(f"written by {header.codec} {header.preset!r}, a preset this version does not know")
    path = weights.find(entry.slug, header.preset, header.weights, None if given is None else Path(given))
    shipped = path == weights_file(entry.slug, header.preset)
    return _load(entry.slug, header.preset, None if shipped else path)


def _decode(file: container.KdmFile, codec: "Codec", box: Box | None = None) -> Picture:
    header = file.header
    left, upper, right, lower = box or (0, 0, header.width, header.height)
    pixels = np.full((lower - upper, right - left, 3), 128, dtype=np.uint8)  # grey where nothing arrived
    tiles, streams = layout(header.height, header.width), tile_streams(file, codec)
    wanted = [
        i
        for i, (rows, columns) in enumerate(tiles)
        if rows.start < lower and rows.stop > upper and columns.start < right and columns.stop > left
    ]
    for i, tile in _tiles(codec, tiles, streams, header.quality, wanted):
        rows, columns = tiles[i]
        top, first = max(rows.start, upper), max(columns.start, left)
        part = tile[top - rows.start : lower - rows.start, first - columns.start : right - columns.start]
        pixels[top - upper :, first - left :][: part.shape[0], : part.shape[1]] = part
    alpha = None if file.alpha is None else unpack_alpha(file.alpha, header.width, header.height)
    alpha = None if alpha is None else alpha[upper:lower, left:right]
    blank = Picture(pixels, header.color, alpha, file.icc, file.exif, file.xmp)
    return blank.with_pixels(blank.pixels)


def _tiles(
    codec: "Codec",
    tiles: "Sequence[tuple[Span, Span]]",
    streams: "Mapping[int, Stream]",
    quality: float,
    wanted: list[int],
) -> Iterator[tuple[int, np.ndarray]]:
    """Number and pixels (height, width, 3) of the core of every wanted tile that has arrived."""
    if codec.stitched and len(tiles) > 1:
        for i, tile in stitched(codec, tiles, streams, quality, wanted):
            yield i, to_pixels(tile)
        return
    for i in wanted:
        if i in streams:
            rows, columns = tiles[i]
            decoded = to_pixels(codec.decompress(streams[i], (len(rows), len(columns)), quality))
            yield i, decoded[rows.inner, columns.inner]


def tile_streams(file: container.KdmFile, codec: "Codec") -> "dict[int, Stream]":
    """The streams of all tiles that have arrived, by number of tile.

    Raises:
        CorruptFile: not as many streams as the picture's size and quality want, or none at all; or colour axes that
            are none.
    """
    from .codec import Stream
    from .transforms import colours

    header = file.header
    try:
        colours.unpack([header.axes])
    except ValueError as error:
        raise CorruptFile(f"damaged: colour axes: {error}") from None
    tiles = layout(header.height, header.width)
    count = len(tiles) * codec.passes_of(header.quality)
    if len(file.payloads) > count or (len(file.payloads) < count and not file.missing):
        raise CorruptFile(f"damaged: {len(file.payloads)} streams where {count} belong")
    if not file.payloads:
        raise CorruptFile("cut short: nothing to show has arrived yet")
    found = {}
    for i in range(min(len(tiles), len(file.payloads))):
        parts = [Stream(p.data, p.symbols_crc, axes=header.axes) for p in file.payloads[i :: len(tiles)]]
        found[i] = Stream.of(parts) if codec.passes else parts[0]
    return found


@lru_cache(maxsize=4)
def _load(slug: str, preset: str, path: Path | None) -> "Codec":
    if path is None:
        return create(slug, preset=preset)
    codec = create(slug, preset=preset, pretrained=False, **weights.arguments(weights.describe(path)))
    weights.load(codec, path)
    return codec


def from_weights(path: str | Path) -> LearnedCodec:
    """The codec of a weights file or training checkpoint: what `--codec mine.safetensors` means."""
    metadata = weights.describe(path)
    return LearnedCodec(find(metadata["codec"]), metadata["preset"], Path(path))


def to_tensor(pixels: np.ndarray) -> "Tensor":
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [0, 1]."""
    return _planes(np.array(pixels)).float() / 255


def _planes(pixels: np.ndarray) -> "Tensor":
    """uint8 (H, W, 3) -> a view of it, uint8 (1, 3, H, W)."""
    import torch

    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def to_pixels(x: "Tensor") -> np.ndarray:
    """float (1, 3, H, W) in [0, 1] -> uint8 (H, W, 3), rounded."""
    return (x[0].permute(1, 2, 0) * 255).round().byte().contiguous().cpu().numpy()
