"""The entropy coder of `rans` in NumPy: the same bytes, without TensorFlow.

docs/format.md, "A string", says what the bytes are. A string is coded by many rANS
states side by side, its lanes. One step codes one symbol in each lane, in a few NumPy
calls on arrays of one element per lane. The number of lanes grows with the number of
symbols, so that a string of up to four million symbols has at most 8192 steps.

These arrays are so small that the time of a call hardly depends on their size. So the
loops over steps make few calls, write results into arrays that are there already, and
have constants as arrays: NumPy takes longer to convert a Python number.
"""

from __future__ import annotations

import functools

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

# In place of a value, for the symbol that stands for all values outside a row.
ESCAPE = np.int32(-(2**31))


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
        frequency = np.append(frequency, TOTAL).astype(np.uint32)
        self.size = np.append(size, 1).astype(np.int64)
        self.offset = np.append(offset, 0).astype(np.int64)
        self.first = np.cumsum(self.size) - self.size
        # A row sums to exactly 4096, so one cumulative sum serves all rows.
        self.begin = np.cumsum(frequency, dtype=np.uint32) - frequency
        self.frequency, self.start = frequency, self.begin % np.uint32(TOTAL)

    @functools.cached_property
    def slots(self):
        """What a decoder finds in each of a row's 4096 slots, row after row.

        Three arrays: the value of the slot's symbol, or ESCAPE; the frequency of this
        symbol; and how many slots of the same symbol come before it. The last two have
        the type of states, so that they need not be converted.
        """
        frequency = self.frequency
        places = np.arange(len(frequency)) - self.first.repeat(self.size)
        value = (places + self.offset.repeat(self.size)).astype(np.int32)
        value[self.first[:-1] + self.size[:-1] - 1] = ESCAPE
        rank = np.arange(frequency.sum(), dtype=np.uint32)
        rank -= self.begin.repeat(frequency)
        return value.repeat(frequency), frequency.repeat(frequency), rank


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
        values = values.astype(np.int64) - tables.offset.take(rows)
        escape = tables.size.take(rows) - 1
        escaped = np.flatnonzero((values < 0) | (values >= escape))
        own, escape = values[escaped], escape[escaped]
        excess = np.minimum(np.where(own < 0, -1 - own, own - escape), MAX_EXCESS)
        self.escapes.append(2 * excess + (own < 0))
        values[escaped] = escape
        self.symbols.append(tables.first.take(rows) + values)

    def finish(self) -> bytes:
        """Returns the string."""
        tables = self.tables
        lanes = lanes_for(sum(map(len, self.symbols)))
        null = len(tables.frequency) - 1
        symbols = [_steps(part, lanes, null) for part in self.symbols]
        symbols = np.concatenate([np.empty((0, lanes), np.int64), *symbols])
        states, words = _encode(
            tables.frequency.take(symbols), tables.start.take(symbols)
        )
        escapes = np.concatenate([np.empty(0, np.int64), *self.escapes])
        count = len(escapes)
        header = np.array([lanes, count & 0xFFFF, count >> 16], "<u2")
        small = np.minimum(escapes, LARGE).astype(np.uint8).tobytes()
        return b"".join(
            [
                header.tobytes(),
                states.tobytes(),
                words.astype("<u2").tobytes(),
                escapes[escapes >= LARGE].astype("<u2").tobytes(),
                small + b"\0" * (count % 2),
            ]
        )


def _halves(states):
    """Returns views of the lower and the upper 16 bits of states: uint16 [lanes] each.

    The type that states have, "<u4", has its lower half first on every machine.
    """
    halves = states.view("<u2").reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def _encode(frequency, start):
    """Encodes symbols, from the last step to the first.

    Args:
        frequency: of each symbol, uint32 [steps, lanes].
        start: sum of the frequencies before it in its row, likewise.

    Returns:
        (final states, uint32 [lanes]; 16-bit words in the order in which a decoder
        takes them).
    """
    before = np.empty_like(frequency)
    x = np.full(frequency.shape[1], LOWEST, "<u4")
    lower, upper = _halves(x)
    # A state above this gives off a word. For a frequency of 4096, the shift gives 0
    # in 32 bits, and this is 2**32 - 1, as it should be: no state is above it.
    most = (frequency << np.uint32(32 - PRECISION)) - np.uint32(1)
    rest = np.uint32(TOTAL) - frequency
    above, quotient = np.empty(len(x), bool), np.empty_like(x)
    steps = [part[::-1] for part in (before, most, frequency, rest, start)]
    for state, limit, f, others, begin in zip(*steps):
        state[:] = x
        gives = np.greater(x, limit, above).nonzero()[0]
        lower[gives] = upper[gives]
        upper[gives] = 0
        # x = (x // f) * 4096 + x % f + s, with one division.
        np.floor_divide(x, f, quotient)
        np.multiply(quotient, others, quotient)
        np.add(x, quotient, x)
        np.add(x, begin, x)
    return x, before[before > most] & np.uint32(0xFFFF)


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
        self.states = np.frombuffer(string, "<u4", lanes, 2 * HEADER).copy()
        _check(self.states.min() >= LOWEST)
        small = np.frombuffer(string, np.uint8)[2 * end :]
        _check(not small[escapes:].any())
        values = small[:escapes].astype(np.int64)
        large = values == LARGE
        middle = end - int(np.count_nonzero(large))
        _check(begin <= middle and (units[middle:end] >= LARGE).all())
        values[large] = units[middle:end]
        self.escapes, self.words = values, units[begin:middle].astype("<u2")
        self.count = self.words_read = self.escapes_read = 0

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns the next segment, int32 [n]; `rows` [n] as the writer got them."""
        tables, lanes = self.tables, len(self.states)
        self.count += len(rows)
        # A string with fewer lanes than a writer would choose is forged, and could make
        # the decoder take a thousand times as many steps.
        _check(lanes >= lanes_for(self.count))
        slots = _steps(rows * TOTAL, lanes, (len(tables.size) - 1) * TOTAL)
        self._decode(slots)
        values = tables.slots[0].take(slots.reshape(-1)[: len(rows)])
        escaped = np.flatnonzero(values == ESCAPE)
        if len(escaped):
            last = self.escapes_read + len(escaped)
            _check(last <= len(self.escapes))
            zigzag = self.escapes[self.escapes_read : last]
            self.escapes_read = last
            excess, own = zigzag // 2, rows[escaped]
            above = tables.size[own] - 1 + excess
            values[escaped] = tables.offset[own] + np.where(
                zigzag % 2, -1 - excess, above
            )
        return values

    def _decode(self, slots):
        """Decodes in place: from the first slot of each symbol's row to its own slot.

        `slots` is int64 [steps, lanes].
        """
        _, frequency, rank = self.tables.slots
        x, words, taken = self.states, self.words, self.words_read
        lower, upper = _halves(x)
        low_bits, shift = (np.full_like(x, value) for value in (TOTAL - 1, PRECISION))
        within, small = np.empty_like(x), np.empty(len(x), bool)
        for slot in slots:
            np.add(slot, np.bitwise_and(x, low_bits, within), slot)
            np.right_shift(x, shift, x)
            np.multiply(x, frequency.take(slot), x)
            np.add(x, rank.take(slot), x)
            # Below 2**16: the upper half is zero. The lower half moves there.
            takes = np.logical_not(upper, small).nonzero()[0]
            begin, taken = taken, taken + len(takes)
            _check(taken <= len(words))
            upper[takes] = lower[takes]
            lower[takes] = words[begin:taken]
        self.words_read = taken

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
