"""The byte stream: constriction's range coder, fed in groups of equal table row.

Grouping makes one library call per table instead of one model per symbol, five times faster. Both
sides know the rows before the symbols, so the order (rows ascending, positions ascending within a
row, then the escaped values of the site) needs no side information.
"""

from typing import Any

import constriction
import numpy as np

from ..errors import CorruptFile
from .tables import TOTAL, Distributions, Indexed, Individual, escape_excess, escape_symbols, escape_width

_queue = constriction.stream.queue
_model = constriction.stream.model
_WIDTHS = 32  # escape widths 0..31: excesses below 2^32


class Writer:
    """Collects the symbols of all sites of one stream."""

    def __init__(self) -> None:
        self._coder = _queue.RangeEncoder()

    def write(self, symbols: np.ndarray, distributions: Distributions) -> None:
        """Append int64 symbols (n,), each coded with its own distribution."""
        if isinstance(distributions, Individual):
            position, outside = distributions.split(symbols)
            self._coder.encode(position.astype(np.int32), _family(), distributions.counts / TOTAL)
            escaped = np.flatnonzero(outside)
        else:
            escaped = self._write_groups(symbols, distributions)
        if len(escaped):
            self._write_excess(escape_excess(symbols[escaped], *distributions.low_and_length(escaped)))

    def _write_groups(self, symbols: np.ndarray, distributions: Indexed) -> np.ndarray:
        """All but the escaped values; returns where those are, ascending."""
        tables, quiet = distributions.tables, distributions.quiet
        if quiet.any():
            runs, flags = distributions.flags(symbols, quiet)
            self._coder.encode(flags.astype(np.int32), _categorical(tables.flag / TOTAL))
            quiet &= ~distributions.broken(runs[flags])
        groups = distributions.groups(quiet)
        position = symbols[groups.order] - groups.spread(tables.low)
        length = groups.spread(tables.lengths)
        outside = (position < 0) | (position >= length)
        position = np.where(outside, length, position).astype(np.int32)
        for row, part in groups:
            self._coder.encode(position[part], _categorical(tables.probabilities(row)))
        return np.sort(groups.order[outside])

    def _write_excess(self, excess: np.ndarray) -> None:
        width = escape_width(excess)
        self._coder.encode(width.astype(np.int32), _model.Uniform(_WIDTHS))
        for shift, size, live in _pieces(width):
            piece = (excess[live] >> shift) & (size - 1)
            self._coder.encode(piece.astype(np.int32), _model.Uniform(), size.astype(np.int32))

    def bytes(self, *, short: bool = False) -> bytes:
        """Everything written so far; trailing zero bytes are implied and left out.

        `short` ends with the number that has the fewest bytes of those that mean the same: two bytes saved on
        average, worth it where a file holds many streams. No more than those are left out, so that the length says
        what the symbols cost. (Whole files keep the ending they always had.)
        """
        words = self._coder.get_compressed()
        if not short or not len(words):
            return words.astype(">u4").tobytes().rstrip(b"\0")
        last = np.array([self._roundest(int(words[-1]))])
        return words[:-1].astype(">u4").tobytes() + last.astype(">u4").tobytes().rstrip(b"\0")

    def _roundest(self, word: int) -> int:
        """The last word, raised to the multiple of the highest power of 256 that the coder's interval holds."""
        _, (lower, size) = self._coder.pos()
        room = int(size) - (((word << 32) - int(lower)) & (1 << 64) - 1)  # of the interval, from this word on
        for bits in (24, 16, 8):
            raised = -(-word >> bits) << bits
            if raised < 1 << 32 and raised - word << 32 < room:
                return raised
        return word


class Reader:
    """The inverse of :class:`Writer`. Damaged bytes give other symbols or CorruptFile, never a crash."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), dtype=">u4").astype(np.uint32)
        self._coder = _queue.RangeDecoder(words)

    def read(self, distributions: Distributions) -> np.ndarray:
        """The next symbols (n,) int64, given their distributions."""
        try:
            if isinstance(distributions, Individual):
                symbols, escaped = self._read_individual(distributions)
            else:
                symbols, escaped = self._read_groups(distributions)
            if len(escaped):
                excess = self._read_excess(len(escaped))
                symbols[escaped] = escape_symbols(excess, *distributions.low_and_length(escaped))
        except AssertionError:
            raise CorruptFile("the coded data is not what any encoder writes") from None
        return symbols

    def _read_individual(self, distributions: Individual) -> tuple[np.ndarray, np.ndarray]:
        """Symbols, and where those are of which only the escape was read."""
        position = self._coder.decode(_family(), distributions.counts / TOTAL).astype(np.int64)
        escaped = np.flatnonzero(position == distributions.counts.shape[1] - 1)
        if not distributions.counts[escaped, -1].all():
            raise CorruptFile("the coded data names a category that does not exist")
        return position + distributions.low, escaped

    def _read_groups(self, distributions: Indexed) -> tuple[np.ndarray, np.ndarray]:
        tables, quiet = distributions.tables, distributions.quiet
        if quiet.any():
            runs = distributions.flagged(quiet)
            flags = self._coder.decode(_categorical(tables.flag / TOTAL), len(runs)).astype(bool)
            quiet &= ~distributions.broken(runs[flags])
        groups = distributions.groups(quiet)
        position = np.empty(len(groups.order), dtype=np.int64)
        for row, part in groups:
            position[part] = self._coder.decode(_categorical(tables.probabilities(row)), part.stop - part.start)
        symbols = distributions.usual
        symbols[groups.order] = position + groups.spread(tables.low)
        return symbols, np.sort(groups.order[position == groups.spread(tables.lengths)])

    def _read_excess(self, count: int) -> np.ndarray:
        width = np.asarray(self._coder.decode(_model.Uniform(_WIDTHS), count), dtype=np.int64)
        excess = np.ones(count, dtype=np.int64) << width
        for shift, size, live in _pieces(width):
            piece = self._coder.decode(_model.Uniform(), size.astype(np.int32))
            excess[live] |= np.asarray(piece, dtype=np.int64) << shift
        return excess


def _categorical(probabilities: np.ndarray) -> Any:
    """One model for many symbols."""
    return _model.Categorical(probabilities, perfect=False)


def _family() -> Any:
    """A categorical model whose probabilities come with each symbol."""
    return _model.Categorical(perfect=False)


def _pieces(width: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cut `width` bits per value into pieces of at most 15: (shift, 2^bits, indices of the values concerned)."""
    pieces = []
    for base in range(0, _WIDTHS, 15):
        live = np.flatnonzero(width > base)
        if len(live):
            pieces.append((np.full(len(live), base), np.int64(1) << np.minimum(width[live] - base, 15), live))
    return pieces
