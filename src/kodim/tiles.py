"""Tiles: large pictures in bounded memory.

A picture of at most `WHOLE` pixels is one tile. A larger one is cut into cores of about equal size, at most
`CORE` x `CORE`, and networks see a halo of `HALO` pixels around each, so that their borders never show. What
happens to the halo is the codec's choice: it is coded with the tile, which costs up to 7% of the bytes, and any tile
decodes alone; or it is not (:mod:`kodim.stitch`), and a tile decodes with those around it. The
layout follows from the size of the picture, so a file needs to hold nothing but the tiles, in row order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

WHOLE = 1 << 23
CORE = 1152
HALO = 32
GRID = 64  # cores start at multiples of it, and so do latents


@dataclass(frozen=True)
class Span:
    """Rows (or columns) of one tile: the core `[start, stop)` inside the coded `[outer_start, outer_stop)`."""

    start: int
    stop: int
    outer_start: int
    outer_stop: int

    @property
    def outer(self) -> slice:
        return slice(self.outer_start, self.outer_stop)

    @property
    def core(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def length(self) -> int:
        """Of the core."""
        return self.stop - self.start

    @property
    def inner(self) -> slice:
        """The core, counted from the start of what was coded."""
        return slice(self.start - self.outer_start, self.stop - self.outer_start)

    def __len__(self) -> int:
        """Of all that networks see."""
        return self.outer_stop - self.outer_start


def layout(height: int, width: int) -> list[tuple[Span, Span]]:
    """(rows, columns) of every tile, in row order."""
    if height * width <= WHOLE:
        return [(Span(0, height, 0, height), Span(0, width, 0, width))]
    return [(rows, columns) for rows in _spans(height) for columns in _spans(width)]


def _spans(length: int) -> Iterator[Span]:
    core = -(-length // -(-length // CORE) // GRID) * GRID
    for start in range(0, length, core):
        stop = min(start + core, length)
        yield Span(start, stop, max(start - HALO, 0), min(stop + HALO, length))
