"""Where a learned codec's arithmetic and its bits go: multiply-accumulates per side, bits per place.

Both listen at the codec's sites while it codes a picture in earnest, so they hold for any system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kodim import container
from kodim.coding.sites import Part
from kodim.learned import codec_of, tile_streams
from kodim.picture import MAX_PIXELS
from kodim.tiles import layout

if TYPE_CHECKING:
    from kodim.codec import Codec, Stream
    from kodim.coding.sites import Code

Listener = Callable[[tuple[int, ...], Part | None, np.ndarray], None]


@dataclass(frozen=True)
class Complexity:
    """What one picture costs.

    Attributes:
        encode_kmac: thousands of multiply-accumulates per pixel up to the last site: what an encoder must compute.
        decode_kmac: the same, of all that the decoder computes.
        parameters: weights and biases of the whole codec.
    """

    encode_kmac: float
    decode_kmac: float
    parameters: int


def complexity(codec: Codec, x: Tensor, quality: float = 50.0) -> Complexity:
    """Count the arithmetic of coding x (1, 3, H, W) in [0, 1], per pixel of x.

    Counted are convolutions and matrix products wherever they stand (in layers, in GDN, in exact networks), as
    PyTorch dispatches them; padding to the codec's stride counts, element-wise operations and the range coder do not.
    """
    marks = [0]
    size = (x.shape[2], x.shape[3])
    with FlopCounterMode(display=False) as counter, _watched(codec, after=lambda: marks.append(_macs(counter))):
        stream, _ = codec.compress(x, quality)
    with FlopCounterMode(display=False) as counter:
        codec.decompress(stream, size, quality)
    thousand_pixels = 1000 * size[0] * size[1]
    return Complexity(
        encode_kmac=marks[-1] / thousand_pixels,
        decode_kmac=_macs(counter) / thousand_pixels,
        parameters=sum(p.numel() for p in codec.parameters()),
    )


def bit_map(codec: Codec, x: Tensor, quality: float) -> np.ndarray:
    """Bits per pixel at each place of x (1, 3, H, W): float64 (H, W), from the exact estimate.

    The bits of a latent's position, summed over its channels, are spread evenly over the block of pixels it stands
    for, and those of a site that is no grid over the whole picture. The borders that pad x to the codec's stride
    are cut off, with their bits.
    """
    with _mapped(codec, (x.shape[2], x.shape[3])) as total:
        codec(x, quality)
    return total[: x.shape[2], : x.shape[3]]


def stream_map(codec: Codec, stream: Stream, size: tuple[int, int], quality: float) -> np.ndarray:
    """The same of a compressed picture of `size` (H, W), from its symbols: no original is needed.

    Raises:
        CorruptFile, DriftError: as :meth:`.Codec.decompress`.
    """
    with _mapped(codec, size) as total:
        codec.decompress(stream, size, quality)
    return total[: size[0], : size[1]]


def file_map(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The same of a .kdm file, complete or begun: float64 (H, W); 0 where nothing has arrived.

    Raises:
        CorruptFile, DriftError, MissingWeights, UnsupportedImage: as :func:`kodim.learned.decode_kdm`.
    """
    file = container.parse(data, partial=True, max_pixels=max_pixels)
    codec = codec_of(file.header)
    found = np.zeros((file.header.height, file.header.width))
    tiles = layout(file.header.height, file.header.width)
    for i, stream in tile_streams(file, codec).items():
        rows, columns = tiles[i]
        size, core = (len(rows), len(columns)), (rows.inner, columns.inner)
        if codec.stitched:
            size, core = (rows.length, columns.length), (slice(None), slice(None))
        found[rows.core, columns.core] = stream_map(codec, stream, size, file.header.quality)[core]
    return found


@contextmanager
def _mapped(codec: Codec, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Within the block, what the codec codes is added up to bits per pixel of the padded picture."""
    total = np.zeros((size[0] + -size[0] % codec.stride, size[1] + -size[1] % codec.stride))

    def add(shape: tuple[int, ...], part: Part | None, bits: np.ndarray) -> None:
        total[:] += _spread(shape, part, bits, total.shape)

    with _watched(codec, listen=add):
        yield total


def _spread(shape: tuple[int, ...], part: Part | None, bits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bits of a site, shape (1, C, h, w), as bits per pixel (H, W)."""
    grid = np.zeros((1, 1))
    if part is not None:
        places, grid = part[0].cpu().numpy(), np.zeros(part[1])
        if bits.size % (shape[1] * len(places)) == 0:  # (1, C, n, 1), a row (1, C, 1, n), n tiles (1, C, n, P)
            np.add.at(grid.reshape(-1), places, bits.reshape(shape[1], len(places), -1).sum((0, 2)))
    elif len(shape) == 4:
        grid = bits.reshape(shape).sum((0, 1))
    rows, columns = (_cells(n, parts) for n, parts in zip(size, grid.shape, strict=True))
    if not grid.any() or rows is None or columns is None:  # no grid of this picture
        return np.full(size, bits.sum() / (size[0] * size[1]))
    areas = np.outer(np.bincount(rows), np.bincount(columns))
    spread: np.ndarray = (grid / areas)[rows][:, columns]
    return spread


def _cells(length: int, parts: int) -> np.ndarray | None:
    """Which of `parts` equal cells each of `length` pixels lies in, the last one cut off at the border; None: none."""
    side = -(-length // parts)
    if length % parts:
        side = 1 << (side - 1).bit_length()  # strides are powers of two
    return np.arange(length) // side if -(-length // side) == parts else None


def _macs(counter: FlopCounterMode) -> int:
    return int(counter.get_total_flops()) // 2  # it counts a multiply-accumulate as two


@contextmanager
def _watched(
    codec: Codec, *, after: Callable[[], None] | None = None, listen: Listener | None = None
) -> Iterator[None]:
    """Within the block, call `after` behind every site and `listen(shape, part, bits)` with what it cost."""
    program = codec.program
    watched: Any = lambda code: program(cast("Code", _Watch(code, after, listen)))  # noqa: E731
    codec.program = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        del codec.program  # the class's own shows again


class _Watch:
    """A handler that passes everything on to another one, and tells."""

    def __init__(self, code: Code, after: Callable[[], None] | None, listen: Listener | None) -> None:
        self._code, self._after, self._listen = code, after, listen
        self.part: Part | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._code, name)

    def __call__(self, name: str, prior: Any, *rest: Any, **options: Any) -> Tensor:
        value = self._code(name, prior, *rest, **options)
        if self._listen is not None:
            symbols = (value - prior.centre).round().reshape(-1).cpu().numpy().astype(np.int64)
            self._listen(tuple(prior.shape), self.part, prior.distributions().bits(symbols))
        if self._after is not None:
            self._after()
        self.part = None
        return value
