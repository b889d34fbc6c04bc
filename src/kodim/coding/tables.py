"""Integer probability tables: the only thing the range coder ever sees.

A table is a row of 16-bit counts over the symbols `low .. low + n - 2`, closed by one count for the
escape. Tables are computed once, when weights are saved, and stored with them: nothing that decodes
evaluates an exp or an erf. Estimates read the same rows, so an estimated size is the file's size.

Tables may ask for runs. Symbols that are all but certain are most of what a light codec sends: nothing in bits and much
in time. So 64 symbols in turn are a run, and those of them that are *quiet* (of a row that leaves at most 16 of 2^16
counts to all but its usual symbol) share one flag: unset, they are the usual ones and that is all; set, they are coded
like the others. The flags of all runs that have a quiet symbol come first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

PRECISION = 16
TOTAL = 1 << PRECISION
RUN = 64  # symbols under one flag
QUIET = 16  # counts that a row may give to all but its usual symbol to be coded in runs; RUN * QUIET < TOTAL


class IntegerTables(nn.Module):
    """A set of count tables of unequal length, addressed by row.

    Buffers: `counts` (sum of lengths,) int32, `starts` (rows + 1,) int32, `low` (rows,) int32: the
    symbol of each row's first count. Each row sums to 2^16 and its last count belongs to the escape.
    """

    counts: Tensor
    starts: Tensor
    low: Tensor

    runs = False  # whether the symbols of rows that are all but certain are coded in runs, see above

    def __init__(self) -> None:
        super().__init__()
        for name in ("counts", "starts", "low"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int32))

    @property
    def ready(self) -> bool:
        return self.counts.numel() > 0

    def clear(self) -> None:
        for name in ("counts", "starts", "low"):
            setattr(self, name, getattr(self, name).new_zeros(0))
        self.__dict__.pop("rows", None)

    def fill(self, masses: list[np.ndarray], low: list[int]) -> None:
        """Freeze float probability masses (each row: symbols in order, then the escape's) as integers."""
        counts = [quantise(m) for m in masses]  # at most 2^16 - 1 each, since every row has two or more
        self.clear()
        device = self.counts.device
        starts = np.cumsum([0] + [len(c) for c in counts])
        self.counts = torch.as_tensor(np.concatenate(counts), dtype=torch.int32, device=device)
        self.starts = torch.as_tensor(starts, dtype=torch.int32, device=device)
        self.low = torch.as_tensor(low, dtype=torch.int32, device=device)

    def _load_from_state_dict(self, state, prefix, *args) -> None:  # type: ignore[no-untyped-def]
        for name in ("counts", "starts", "low"):  # their length is data, not architecture
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name]))
        self.__dict__.pop("rows", None)
        super()._load_from_state_dict(state, prefix, *args)

    def check(self) -> bool:
        """Whether the buffers are a well-formed set of tables (weights files come from anywhere)."""
        counts, starts, low = (getattr(self, n).cpu().numpy().astype(np.int64) for n in ("counts", "starts", "low"))
        if len(starts) != len(low) + 1 or starts[0] != 0 or starts[-1] != len(counts) or (np.diff(starts) < 2).any():
            return False
        return bool((counts >= 1).all() and (np.add.reduceat(counts, starts[:-1]) == TOTAL).all())

    @cached_property
    def rows(self) -> "Rows":
        counts, starts, low = (
            getattr(self, name).cpu().numpy().astype(np.int64) for name in ("counts", "starts", "low")
        )
        return Rows(counts, starts, low, QUIET if self.runs else 0)


@dataclass(frozen=True)
class Rows:
    """The tables as NumPy arrays, with what coder and estimate need of them.

    `spare`: rows that leave at most so many counts to all but their usual symbol are coded in runs; 0: none are.
    """

    counts: np.ndarray
    starts: np.ndarray
    low: np.ndarray
    spare: int = 0

    @cached_property
    def lengths(self) -> np.ndarray:
        """Symbols per row, without the escape."""
        return np.diff(self.starts) - 1

    @cached_property
    def costs(self) -> np.ndarray:
        """Bits of each count, -log2(count / 2^16)."""
        return PRECISION - np.log2(self.counts)

    @cached_property
    def usual(self) -> np.ndarray:
        """The most probable symbol of each row."""
        return self.low + [np.argmax(row[:-1]) for row in np.split(self.counts, self.starts[1:-1])]

    @cached_property
    def unusual(self) -> np.ndarray:
        """The counts that each row gives to all others."""
        return TOTAL - self.counts[self.starts[:-1] + self.usual - self.low]

    @cached_property
    def quiet(self) -> np.ndarray:
        """(rows,) whether the symbols of a row are coded in runs."""
        return self.unusual <= self.spare

    @cached_property
    def flag(self) -> np.ndarray:
        """Counts of an unset and a set flag of a run."""
        unusual = RUN * self.unusual[self.quiet].max()
        return np.array([TOTAL - unusual, unusual])

    def probabilities(self, row: int) -> np.ndarray:
        return self.counts[self.starts[row] : self.starts[row + 1]] / TOTAL

    def split(self, symbols: np.ndarray, rows: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Symbols -> positions in their rows (the last one for an escape), and the mask of the escapes."""
        position = symbols - self.low[rows]
        escaped = (position < 0) | (position >= self.lengths[rows])
        return np.where(escaped, self.lengths[rows], position), escaped


@dataclass(frozen=True)
class Groups:
    """Symbols of equal table row, one after another.

    Attributes:
        order: positions of the symbols, group by group, ascending in each.
        rows: the row of each group, ascending.
        bounds: where in `order` each begins, and the end of the last one.
    """

    order: np.ndarray
    rows: list[int]
    bounds: list[int]

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        """(row, the part of `order`) of each group."""
        return zip(self.rows, map(slice, self.bounds, self.bounds[1:]), strict=True)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Something of every row -> the same of every symbol of `order`."""
        return np.repeat(values[self.rows], np.diff(self.bounds))


@dataclass(frozen=True)
class Indexed:
    """The distributions of n symbols, each a row of shared tables: `rows` (n,)."""

    tables: Rows
    rows: np.ndarray

    def split(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.tables.split(symbols, self.rows)

    def low_and_length(self, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First symbol and number of symbols of the tables of the chosen elements."""
        rows = self.rows[where]
        return self.tables.low[rows], self.tables.lengths[rows]

    def bits(self, symbols: np.ndarray) -> np.ndarray:
        """Exact cost in bits of each symbol, escapes included; the flag of a run counts with its first symbol."""
        position, escaped = self.split(symbols)
        cost = self.tables.costs[self.tables.starts[self.rows] + position]
        if escaped.any():
            cost[escaped] += escape_bits(symbols[escaped], *self.low_and_length(escaped))
        quiet = self.quiet
        if quiet.any():
            runs, flags = self.flags(symbols, quiet)
            cost[quiet & ~self.broken(runs[flags])] = 0
            cost[runs * RUN] += PRECISION - np.log2(self.tables.flag[flags.astype(int)])
        return cost

    @property
    def usual(self) -> np.ndarray:
        """(n,) the most probable symbol of each."""
        return self.tables.usual[self.rows]

    @property
    def quiet(self) -> np.ndarray:
        """(n,) which symbols are all but certain, and left out of runs that the flag says are as usual."""
        return self.tables.quiet[self.rows]

    def flags(self, symbols: np.ndarray, quiet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which runs have a flag, ascending, and whether it is set: for a quiet symbol that is not the usual one."""
        surprise = np.logical_or.reduceat(quiet & (symbols != self.usual), np.arange(0, len(symbols), RUN))
        runs = self.flagged(quiet)
        return runs, surprise[runs]

    def flagged(self, quiet: np.ndarray) -> np.ndarray:
        """Which runs have a flag: those with a quiet symbol."""
        return np.flatnonzero(np.logical_or.reduceat(quiet, np.arange(0, len(quiet), RUN)))

    def broken(self, runs: np.ndarray) -> np.ndarray:
        """(n,) which symbols are in these runs."""
        inside = np.zeros((-(-len(self.rows) // RUN), RUN), dtype=bool)
        inside[runs] = True
        return inside.reshape(-1)[: len(self.rows)]

    def groups(self, without: np.ndarray) -> Groups:
        """The symbols by row, but for those of a mask (n,)."""
        narrow = np.uint16 if len(self.tables.low) <= 1 << 16 else np.int64  # 16 bits sort by radix, 20 times faster
        live = np.flatnonzero(~without) if without.any() else None
        rows = (self.rows if live is None else self.rows[live]).astype(narrow)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        first = np.flatnonzero(np.diff(ordered.astype(np.int64), prepend=-1))  # where a new row begins
        order = order if live is None else live[order]
        return Groups(order, ordered[first].tolist(), [*first.tolist(), len(order)])


@dataclass(frozen=True)
class Individual:
    """The distributions of n symbols, each with counts of its own: (n, k + 1), the last one the escape's.

    Rows sum to 2^16; `low` (n,) is the symbol of the first count. Where a model knows no escape
    (categories), that count is 0 and no symbol lies outside.
    """

    counts: np.ndarray
    low: np.ndarray

    def split(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        length = self.counts.shape[1] - 1
        position = symbols - self.low
        escaped = (position < 0) | (position >= length)
        return np.where(escaped, length, position), escaped

    def low_and_length(self, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = self.low[where]
        return low, np.full(len(low), self.counts.shape[1] - 1)

    def bits(self, symbols: np.ndarray) -> np.ndarray:
        """Exact cost in bits of each symbol, escapes included."""
        position, escaped = self.split(symbols)
        cost = PRECISION - np.log2(np.take_along_axis(self.counts, position[:, None], 1)[:, 0])
        if escaped.any():
            cost[escaped] += escape_bits(symbols[escaped], *self.low_and_length(escaped))
        return cost


Distributions = Indexed | Individual


def escape_excess(symbols: np.ndarray, low: np.ndarray, length: np.ndarray) -> np.ndarray:
    """How far beyond its table a symbol lies, as a positive integer: odd above, even below."""
    above = symbols - (low + length)
    return np.where(above >= 0, 2 * above + 1, 2 * (low - symbols)).astype(np.int64)


def escape_symbols(excess: np.ndarray, low: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Inverse of :func:`escape_excess`."""
    return np.where(excess % 2 == 1, low + length + excess // 2, low - excess // 2)


def escape_width(excess: np.ndarray) -> np.ndarray:
    """Number of bits below the leading one."""
    return np.frexp(excess.astype(np.float64))[1].astype(np.int64) - 1


def escape_bits(symbols: np.ndarray, low: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Cost of an escaped value behind its escape symbol: five bits of width, then that many bits."""
    return 5.0 + escape_width(escape_excess(symbols, low, length))


def quantise(mass: np.ndarray) -> np.ndarray:
    """Probabilities (any positive scale) -> integer counts, all at least 1, that sum to 2^16."""
    mass = np.asarray(mass, dtype=np.float64).clip(0)
    counts = 1 + np.floor(mass / mass.sum() * (TOTAL - len(mass))).astype(np.int64)
    counts[np.argmax(counts)] += TOTAL - counts.sum()
    return counts
