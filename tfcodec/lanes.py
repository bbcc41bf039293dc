"""The entropy coder of `rans` in NumPy: the same bytes, without TensorFlow.

docs/format.md, "A string", says what the bytes are. A string is coded by many rANS
states side by side, its lanes. One step codes one symbol in each lane, in a few NumPy
calls on arrays of one element per lane. The number of lanes grows with the number of
symbols, so that a string of up to four million symbols has at most 8192 steps.
"""

from __future__ import annotations

import numpy as np

from tfcodec.bitstream import CorruptStream
from tfcodec.constants import (
    HEADER,
    LARGE,
    LOWEST,
    MAX_EXCESS,
    MAX_LANES,
    PRECISION,
    SYMBOLS_PER_LANE,
    TOTAL,
)


class Tables:
    """Distributions over runs of consecutive integers, one for each row.

    The last symbol of a row is its escape, which stands for all integers outside the
    row. A row is added to those given, with one symbol of probability 1. Coding that
    symbol changes no state, so it fills lanes that have nothing to code in the last
    step of a segment.

    Args:
        frequency: integers [symbols], row after row; those of a row sum to 4096.
        size: [rows], the number of symbols of each row, its escape included.
        offset: [rows], the value that the first symbol of each row stands for.
    """

    def __init__(self, frequency, size, offset):
        frequency = np.append(frequency, TOTAL).astype(np.int64)
        self.size = np.append(size, 1).astype(np.int64)
        self.offset = np.append(offset, 0).astype(np.int64)
        self.first = np.cumsum(self.size) - self.size
        # A row sums to exactly 4096, so one cumulative sum serves all rows.
        begin = np.cumsum(frequency) - frequency
        self.frequency, self.start = frequency, begin % TOTAL
        # For each of a row's 4096 slots, row after row: its symbol, the frequency of
        # that symbol, and how many slots of the same symbol come before it. In the
        # smallest types that hold them.
        self.slot_symbol = np.arange(len(frequency), dtype=np.int32).repeat(frequency)
        self.slot_frequency = frequency.astype(np.int16).repeat(frequency)
        slots = np.arange(len(self.slot_symbol), dtype=np.int32)
        begin = begin.astype(np.int32).repeat(frequency)
        self.slot_rank = (slots - begin).astype(np.int16)


def lanes_for(count: int) -> int:
    """Returns the number of lanes of a string of `count` symbols."""
    return min(max(count // SYMBOLS_PER_LANE, 1), MAX_LANES)


def _steps(values, lanes, filling):
    """Returns values [n] as [steps, lanes], the last step filled up with `filling`."""
    whole = np.full(-(-len(values) // lanes) * lanes, filling, np.int64)
    whole[: len(values)] = values
    return whole.reshape(-1, lanes)


class Writer:
    """Codes segments, in order, into one string. Used once."""

    def __init__(self, tables: Tables):
        self.tables = tables
        self.symbols, self.escapes = [], []

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Appends a segment.

        Args:
            rows: integers [n], the row of the tables that codes each value.
            values: integers [n], clipped to at most 32768 below the first or above
                the last value of their row.
        """
        tables = self.tables
        values = values.astype(np.int64) - tables.offset[rows]
        escape = tables.size[rows] - 1
        above, below = values - escape, -1 - values
        escaped = (above >= 0) | (below >= 0)
        excess = np.minimum(np.maximum(above, below)[escaped], MAX_EXCESS)
        self.escapes.append(2 * excess + (below[escaped] >= 0))
        self.symbols.append(tables.first[rows] + np.where(escaped, escape, values))

    def finish(self) -> bytes:
        """Returns the string."""
        tables = self.tables
        lanes = lanes_for(sum(map(len, self.symbols)))
        null = len(tables.frequency) - 1
        symbols = [_steps(part, lanes, null) for part in self.symbols]
        symbols = np.concatenate([np.empty((0, lanes), np.int64), *symbols])
        states, words = _encode(tables.frequency[symbols], tables.start[symbols])
        escapes = np.concatenate([np.empty(0, np.int64), *self.escapes])
        count = len(escapes)
        header = np.array([lanes, count & 0xFFFF, count >> 16], "<u2")
        small = np.minimum(escapes, LARGE).astype(np.uint8).tobytes()
        return b"".join(
            [
                header.tobytes(),
                states.astype("<u4").tobytes(),
                words.astype("<u2").tobytes(),
                escapes[escapes >= LARGE].astype("<u2").tobytes(),
                small + b"\0" * (count % 2),
            ]
        )


def _encode(frequency, start):
    """Encodes symbols, from the last step to the first.

    Args:
        frequency: of each symbol, int64 [steps, lanes].
        start: sum of the frequencies before it in its row, likewise.

    Returns:
        (final states [lanes], 16-bit words in the order in which a decoder takes them).
    """
    before = np.empty_like(frequency)
    x = np.full(frequency.shape[1], LOWEST, np.int64)
    limit = frequency << (32 - PRECISION)  # a state from this on gives off a word
    rest = TOTAL - frequency
    for step in range(len(frequency) - 1, -1, -1):
        before[step] = x
        x = x >> ((x >= limit[step]) << 4)
        # x = (x // f) * 4096 + x % f + s, with one division.
        x += x // frequency[step] * rest[step]
        x += start[step]
    return x, before[before >= limit] & 0xFFFF


class Reader:
    """Decodes the segments of a string, in order. Used once.

    Time and memory are bounded by the length of the string and the number of symbols
    that the caller asks for.

    Raises:
        CorruptStream: (also from each method) no encoder wrote the string.
    """

    def __init__(self, tables: Tables, string: bytes):
        self.tables = tables
        _check(len(string) % 2 == 0 and len(string) >= 2 * HEADER)
        units = np.frombuffer(string, "<u2").astype(np.int64)
        lanes, escapes = int(units[0]), int(units[1] + (units[2] << 16))
        begin, end = HEADER + 2 * lanes, len(units) - (escapes + 1) // 2
        _check(1 <= lanes <= MAX_LANES and begin <= end)
        halves = units[HEADER:begin].reshape(-1, 2)
        self.states = halves[:, 0] + (halves[:, 1] << 16)
        _check(self.states.min() >= LOWEST)
        small = np.frombuffer(string, np.uint8)[2 * end :]
        _check(not small[escapes:].any())
        values = small[:escapes].astype(np.int64)
        large = values == LARGE
        middle = end - int(np.count_nonzero(large))
        _check(begin <= middle and (units[middle:end] >= LARGE).all())
        values[large] = units[middle:end]
        self.escapes, self.words = values, units[begin:middle]
        self.count = self.words_read = self.escapes_read = 0

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns the next segment, int64 [n]; `rows` [n] as the writer got them."""
        tables, lanes = self.tables, len(self.states)
        self.count += len(rows)
        # A string with fewer lanes than a writer would choose is forged, and could make
        # the decoder take a thousand times as many steps.
        _check(lanes >= lanes_for(self.count))
        slots = _steps(rows * TOTAL, lanes, (len(tables.size) - 1) * TOTAL)
        self._decode(slots)
        symbols = tables.slot_symbol[slots.reshape(-1)[: len(rows)]].astype(np.int64)
        symbols -= tables.first[rows]
        escaped = np.flatnonzero(symbols >= tables.size[rows] - 1)
        if len(escaped):
            last = self.escapes_read + len(escaped)
            _check(last <= len(self.escapes))
            zigzag = self.escapes[self.escapes_read : last]
            self.escapes_read = last
            symbols[escaped] = np.where(
                zigzag % 2, -1 - zigzag // 2, symbols[escaped] + zigzag // 2
            )
        return symbols + tables.offset[rows]

    def _decode(self, slots):
        """Decodes in place: from the first slot of each symbol's row to its own slot.

        `slots` is int64 [steps, lanes].
        """
        frequency, rank = self.tables.slot_frequency, self.tables.slot_rank
        x, words, taken = self.states, self.words, self.words_read
        for slot in slots:
            slot += x & (TOTAL - 1)
            x = x >> PRECISION
            x *= frequency.take(slot)
            x += rank.take(slot)
            takes = (x < LOWEST).nonzero()[0]
            count = len(takes)
            if count:
                _check(taken + count <= len(words))
                x[takes] = (x[takes] << 16) + words[taken : taken + count]
                taken += count
        self.states, self.words_read = x, taken

    def finish(self) -> None:
        """Checks that all of the string was read, and all states are initial ones."""
        _check(
            len(self.states) == lanes_for(self.count)
            and (self.states == LOWEST).all()
            and self.words_read == len(self.words)
            and self.escapes_read == len(self.escapes)
        )


def _check(condition):
    if not condition:
        raise CorruptStream("the coded pixels are damaged")
