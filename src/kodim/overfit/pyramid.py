"""The pyramid of latents: which grids there are, and in which order they are coded.

One grid at each level 0 .. 6, level l having a value for each 2^l x 2^l pixels, and at levels 4 to 6 a second,
"hyper", grid that only helps to predict finer ones. Fine before coarse; coded from the last to the first.
"""

from dataclasses import dataclass

LEVELS = 7
HYPER = (4, 5, 6)
FEATURES = (0, 1, 2)  # levels whose entropy model sees the grids coded before


@dataclass(frozen=True)
class Grid:
    """A grid of the pyramid.

    Attributes:
        level: a value for each 2^level x 2^level pixels.
        hyper: seen by the entropy model only.
    """

    level: int
    hyper: bool = False


GRIDS = tuple(g for i in range(LEVELS) for g in ((Grid(i), Grid(i, True)) if i in HYPER else (Grid(i),)))
STRIDE = 1 << (LEVELS - 1)

# Causal neighbours (dy, dx), the most telling first; x + 2 y grows from each to the position itself.
TAPS = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-3, 0), (0, -3), (-1, -2), (-2, 1), (-2, -1), (-2, 2),
        (-2, -2), (-1, -3))  # fmt: skip
SLANT = 2


def coarser(index: int) -> list[int]:
    """Indices of the grids that are known when grid `index` is coded."""
    return list(range(index + 1, len(GRIDS)))
