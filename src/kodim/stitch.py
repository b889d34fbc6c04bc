"""Tiles that share latents: each is coded alone, without a halo, and looks over its borders when pictures are made.

A tile's stream holds the latents of its core. The analysis saw some pixels more; the synthesis gets some latents
more, those of the neighbours, which have been decoded by then. So nothing is coded twice, seams do not show, and a
tile still needs no more than the tiles around it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from .threads import Workers
from .tiles import HALO, Span

if TYPE_CHECKING:
    import torch

    from .codec import Codec, Stream

    Synthesis = Callable[[torch.Tensor], torch.Tensor]
    Drafted = Future[tuple["Latents", Synthesis]]
    Task = tuple[int, Mapping[tuple[int, int], Drafted]]  # a tile, and the drafts around it by place

Tile = tuple[Span, Span]


class Latents:
    """The grid of latents of a tile (1, C, h, w): all of it until it is shown, then what neighbours need."""

    def __init__(self, values: "torch.Tensor", stride: int) -> None:
        self.values: torch.Tensor | None = values
        self.size, self.margin = (values.shape[2], values.shape[3]), HALO // stride
        self.edges = {
            (dy, dx): values[:, :, self._part(dy, 0), self._part(dx, 1)].clone()
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if dy or dx
        }

    def _part(self, side: int, axis: int) -> slice:
        return {-1: slice(0, self.margin), 0: slice(None), 1: slice(max(self.size[axis] - self.margin, 0), None)}[side]


def stitched(
    codec: "Codec",
    tiles: Sequence[Tile],
    streams: Mapping[int, "Stream"],
    quality: float,
    wanted: Collection[int] | None = None,
) -> "Iterator[tuple[int, torch.Tensor]]":
    """Number and picture (1, 3, height, width of its core) in [0, 1] of every wanted tile that has arrived, in order.

    Args:
        tiles: of the whole picture (:func:`.tiles.layout`).
        streams: those that arrived, by number of tile.
        wanted: numbers of tiles; None: all.
    """
    across = sum(rows == tiles[0][0] for rows, _ in tiles)
    drafts: dict[int, Drafted] = {}

    def draft(j: int) -> "tuple[Latents, Synthesis]":
        size = _size(tiles[j])
        found = codec.draft(streams[j], size, quality)
        stride = (size[0] + -size[0] % codec.stride) // found.latents.shape[2]
        return Latents(found.latents, stride), found.function

    def show(task: "Task") -> "tuple[int, torch.Tensor]":
        i, around = task
        ready = {place: future.result() for place, future in around.items()}  # submitted before, so begun
        own, function = ready[0, 0]
        picture = _shown(function, {place: latents for place, (latents, _) in ready.items()}, _size(tiles[i]))
        own.values = None
        return i, picture

    def tasks(workers: Workers) -> "Iterator[Task]":
        for i in sorted(streams if wanted is None else set(streams) & set(wanted)):
            around = _around(i, across, len(tiles))
            for j in sorted(set(around.values()) & set(streams) - set(drafts)):
                drafts[j] = workers.submit(draft, j)
            yield i, {place: drafts[j] for place, j in around.items() if j in drafts}
            for j in [j for j in drafts if j < i - across]:
                del drafts[j]

    with Workers() as workers:
        yield from workers.map(show, tasks(workers))


def _size(tile: Tile) -> tuple[int, int]:
    """(height, width) of a core."""
    return tile[0].length, tile[1].length


def _around(i: int, across: int, count: int) -> dict[tuple[int, int], int]:
    """The tile itself, (0, 0), and its neighbours: (down, right) -> number."""
    found = {}
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            j = i + dy * across + dx
            if 0 <= i % across + dx < across and 0 <= j < count:
                found[dy, dx] = j
    return found


def _shown(
    function: "Synthesis",
    around: Mapping[tuple[int, int], Latents],
    size: tuple[int, int],
) -> "torch.Tensor":
    """The picture of a tile's core; where a neighbour is missing, as at the border of the picture."""
    import torch

    own = around[0, 0]
    assert own.values is not None
    # A side grows by a margin where there is a neighbour; a missing corner between two of them stays zero.
    margins = {side: own.margin * (side in around) for side in ((-1, 0), (1, 0), (0, -1), (0, 1))}
    top, left = margins[-1, 0], margins[0, -1]
    h, w = own.size
    canvas = own.values.new_zeros(1, own.values.shape[1], top + h + margins[1, 0], left + w + margins[0, 1])
    rows = {-1: slice(0, top), 0: slice(top, top + h), 1: slice(top + h, None)}
    columns = {-1: slice(0, left), 0: slice(left, left + w), 1: slice(left + w, None)}
    for (dy, dx), latents in around.items():
        goal = canvas[:, :, rows[dy], columns[dx]]
        piece = own.values if dy == dx == 0 else latents.edges[-dy, -dx]
        goal[:, :, : piece.shape[2], : piece.shape[3]] = piece[:, :, : goal.shape[2], : goal.shape[3]]
    with torch.no_grad():
        picture = function(canvas)
    stride = picture.shape[2] // canvas.shape[2]
    return picture[:, :, top * stride :, left * stride :][:, :, : size[0], : size[1]].clamp(0, 1)
