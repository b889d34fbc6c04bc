"""Where a learned codec's arithmetic and its bits go: multiply-accumulates per side, bits per place.

Both listen at the codec's sites while it codes a picture in earnest, so they hold for any system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from kodim.codec import Codec
    from kodim.coding.sites import Code

Listener = Callable[[str, tuple[int, ...], np.ndarray], None]


@dataclass(frozen=True)
class Complexity:
    """What one picture costs.

    Attributes:
        encode_kmac: thousands of multiply-accumulates per pixel up to the last site: what an encoder must compute.
            (kodim's goes on and reconstructs the picture, which its seconds include.)
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
    height, width = x.shape[2:]
    found: list[tuple[tuple[int, ...], np.ndarray]] = []
    with _watched(codec, listen=lambda _, shape, bits: found.append((shape, bits))):
        codec(x, quality)
    padded = (height + -height % codec.stride, width + -width % codec.stride)
    total = np.zeros(padded)
    for shape, bits in found:
        total += _spread(shape, bits, padded)
    return total[:height, :width]


def _spread(shape: tuple[int, ...], bits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bits of a site, shape (1, C, h, w), as bits per pixel (H, W)."""
    if len(shape) != 4 or shape[0] != 1 or size[0] % shape[2] or size[1] % shape[3]:
        return np.full(size, bits.sum() / (size[0] * size[1]))
    tall, wide = size[0] // shape[2], size[1] // shape[3]
    grid = bits.reshape(shape).sum((0, 1)) / (tall * wide)
    return grid.repeat(tall, axis=0).repeat(wide, axis=1)


def _macs(counter: FlopCounterMode) -> int:
    return int(counter.get_total_flops()) // 2  # it counts a multiply-accumulate as two


@contextmanager
def _watched(
    codec: Codec, *, after: Callable[[], None] | None = None, listen: Listener | None = None
) -> Iterator[None]:
    """Within the block, call `after` behind every site and `listen(name, shape, bits)` for every cost asked for."""
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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._code, name)

    def __call__(self, name: str, prior: Any, *rest: Any, **options: Any) -> Tensor:
        if self._listen is not None:
            prior = _Heard(prior, partial(self._listen, name, tuple(prior.shape)))
        value = self._code(name, prior, *rest, **options)
        if self._after is not None:
            self._after()
        return value


class _Heard:
    """A prior, or its distributions, whose costs are overheard."""

    def __init__(self, inner: Any, tell: Callable[[np.ndarray], None]) -> None:
        self._inner, self._tell = inner, tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def distributions(self) -> Any:
        return _Heard(self._inner.distributions(), self._tell)

    def bits(self, symbols: Any) -> Any:
        cost = self._inner.bits(symbols)
        if isinstance(cost, np.ndarray):
            self._tell(cost)
        return cost
