"""Integer probability tables: the only thing the range coder ever sees.

A table is a row of 16-bit counts over the symbols `low .. low + n - 2`, closed by one count for the
escape. Tables are computed once, when weights are saved, and stored with them: nothing that decodes
evaluates an exp or an erf. Estimates read the same rows, so an estimated size is the file's size.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

PRECISION = 16
TOTAL = 1 << PRECISION


class IntegerTables(nn.Module):
    """A set of count tables of unequal length, addressed by row.

    Buffers: `counts` (sum of lengths,) int32, `starts` (rows + 1,) int32, `low` (rows,) int32: the
    symbol of each row's first count. Each row sums to 2^16 and its last count belongs to the escape.
    """

    counts: Tensor
    starts: Tensor
    low: Tensor

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
        counts = self.counts.cpu().numpy().astype(np.int64)
        return Rows(counts, self.starts.cpu().numpy().astype(np.int64), self.low.cpu().numpy().astype(np.int64))


@dataclass(frozen=True)
class Rows:
    """The tables as NumPy arrays, with what coder and estimate need of them."""

    counts: np.ndarray
    starts: np.ndarray
    low: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """Symbols per row, without the escape."""
        return np.diff(self.starts) - 1

    @cached_property
    def costs(self) -> np.ndarray:
        """Bits of each count, -log2(count / 2^16)."""
        return PRECISION - np.log2(self.counts)

    def probabilities(self, row: int) -> np.ndarray:
        return self.counts[self.starts[row] : self.starts[row + 1]] / TOTAL

    def split(self, symbols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbols -> positions in their rows (the last one for an escape), and the mask of the escapes."""
        position = symbols - self.low[rows]
        escaped = (position < 0) | (position >= self.lengths[rows])
        return np.where(escaped, self.lengths[rows], position), escaped


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
        """Exact cost in bits of each symbol, escapes included."""
        position, escaped = self.split(symbols)
        cost = self.tables.costs[self.tables.starts[self.rows] + position]
        if escaped.any():
            cost[escaped] += escape_bits(symbols[escaped], *self.low_and_length(escaped))
        return cost

    def groups(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(probabilities, positions in ascending order) for every row that occurs, rows ascending."""
        narrow = np.uint16 if len(self.tables.low) <= 1 << 16 else np.int64  # 16 bits sort by radix, 20 times faster
        order = np.argsort(self.rows.astype(narrow), kind="stable")
        values, first = np.unique(self.rows[order], return_index=True)
        parts = np.split(order, first[1:]) if len(order) else []
        return [(self.tables.probabilities(row), part) for row, part in zip(values.tolist(), parts, strict=True)]


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
