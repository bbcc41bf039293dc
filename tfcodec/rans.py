"""Interleaved rANS entropy coding in stock TensorFlow operations.

Asymmetric numeral systems: Duda, https://arxiv.org/abs/1311.2540. Interleaving over
lanes: Giesen, https://arxiv.org/abs/1402.3392. Each lane is a 32-bit state in
[2^16, 2^32). An encoder moves 16-bit words from the states to one stream that all lanes
share; a decoder moves them back. Everything is integer arithmetic, so bytes agree on
every machine and with every version of TensorFlow.

A message is one or more segments, written and read in the same order; the rows of a
segment may depend on the values of the segments before it:

    writer = Writer(tables)
    writer.write(rows, values)
    payload = writer.finish()

    reader = Reader(tables, payload)
    values = reader.read(rows)
    intact = reader.finish()

The payload is a string of little-endian 16-bit units:

    lanes (1) | escapes (2) | states (2 per lane) | words | large escapes | escapes

where a number of two units has its low half first. An escape is one byte, and a zero
byte follows the last if their number is odd; 255 stands for the next of the large
escapes, one unit each. Symbol i of a segment belongs to lane i % lanes, at step
i // lanes. The decoder visits steps in order, and after each step the lanes whose state
fell below 2^16 take the next words, in ascending order of lanes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

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

# With |offset| up to this, any row codes every value in [-8192, 8191] exactly.
MAX_OFFSET = 16384

_MAX_VALUE = 1 << 17  # beyond any value that a row can represent
# Steps per loop iteration. Running an operation costs more than its arithmetic when
# lanes are few: against one step per iteration, four are 1.6 times as fast at 32 lanes.
_UNROLL = 4
# A message of no symbols: one lane, no escapes, final state 2^16.
_BLANK = np.array([1, 0, 0, 0, 1], "<u2").tobytes()


class Tables(NamedTuple):
    """Distributions ("rows") over runs of consecutive integers, all int32.

    The last symbol of a row is its escape, which stands for all other integers. The
    last row is added to those of the caller: it has one symbol, of probability 1.
    Coding that symbol changes no state, so it pads segments to whole steps. Fields may
    be NumPy arrays, tensors or variables (`tables._replace(...)`).
    """

    frequency: np.ndarray  # [symbols] at least 1, a row sums to 4096; row after row
    start: np.ndarray  # [symbols] sum of the frequencies before it in its row
    first: np.ndarray  # [rows + 1] where in `frequency` a row begins
    size: np.ndarray  # [rows + 1] number of symbols, with the escape
    offset: np.ndarray  # [rows + 1] the value that the first symbol stands for

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[np.ndarray, int]]) -> "Tables":
        """Builds tables from (frequencies, offset) pairs.

        Args:
          rows: Per row, integer frequencies [size], that of the escape last; and the
            value of the first symbol. `write` and `read` refer to a row by its index in
            this sequence. Concatenate sequences to code with several priors.

        Raises:
          ValueError: If a row is no valid distribution; the message says why.
        """
        if not rows:
            raise ValueError("Tables need at least one row.")
        frequencies = []
        for index, (frequency, offset) in enumerate(rows):
            frequency = np.asarray(frequency)
            if frequency.ndim != 1 or not np.issubdtype(frequency.dtype, np.integer):
                raise ValueError(f"Row {index}: frequencies must be integers, [size].")
            if frequency.size < 2:
                raise ValueError(f"Row {index}: needs a value and the escape symbol.")
            if frequency.min() < 1:
                raise ValueError(f"Row {index}: each frequency must be at least 1.")
            if frequency.sum(dtype=np.int64) != TOTAL:
                raise ValueError(f"Row {index}: frequencies must sum to {TOTAL}.")
            if not -MAX_OFFSET <= offset <= MAX_OFFSET or offset != int(offset):
                raise ValueError(
                    f"Row {index}: offset must be an integer within {MAX_OFFSET} of 0."
                )
            frequencies.append(frequency.astype(np.int32))
        frequencies.append(np.array([TOTAL], np.int32))
        size = np.array([len(f) for f in frequencies], np.int32)
        start = np.concatenate([np.cumsum(f) - f for f in frequencies])
        return cls(
            frequency=np.concatenate(frequencies),
            start=start.astype(np.int32),
            first=(np.cumsum(size) - size).astype(np.int32),
            size=size,
            offset=np.array([int(offset) for _, offset in rows] + [0], np.int32),
        )


def lanes_for(count) -> tf.Tensor:
    """Returns the number of lanes, int32 [], of a message of `count` symbols."""
    count = tf.convert_to_tensor(count, tf.int32)
    return tf.clip_by_value(count // SYMBOLS_PER_LANE, 1, MAX_LANES)


class Writer:
    """Codes segments into one payload.

    Use it once, within the trace of one graph, or eagerly. Values outside a row's range
    are exact up to a distance of 32768 beyond its first or last value, which always
    covers [-8192, 8191]; values further away are clipped to that distance.
    """

    def __init__(self, tables: Tables):
        self._tables = tables
        self._segments = []

    def write(self, rows, values) -> None:
        """Appends a segment: `values`, int32 [n], coded by `rows`, int32 [n]."""
        with tf.device("/CPU:0"):
            rows = _clip_rows(self._tables, rows)
            first = tf.gather(self._tables.first, rows)
            bottom = tf.gather(self._tables.offset, rows)
            escape = tf.gather(self._tables.size, rows) - 1
            # Without the clip, the differences below could leave int32.
            values = tf.clip_by_value(values, -_MAX_VALUE, _MAX_VALUE)
            above = values - bottom - escape
            below = bottom - 1 - values
            excess = tf.clip_by_value(tf.maximum(above, below), 0, MAX_EXCESS)
            zigzag = 2 * excess + tf.cast(below >= 0, tf.int32)
            escaped = (above >= 0) | (below >= 0)
            symbols = first + tf.where(escaped, escape, values - bottom)
            self._segments.append((symbols, tf.boolean_mask(zigzag, escaped)))

    def finish(self) -> tf.Tensor:
        """Returns the payload, a string []."""
        with tf.device("/CPU:0"):
            symbols = [s for s, _ in self._segments]
            escapes = tf.concat([[0], *(e for _, e in self._segments)], 0)[1:]
            lanes = lanes_for(sum((tf.size(s) for s in symbols), tf.constant(0)))
            null = tf.size(self._tables.frequency) - 1
            symbols = [_pad(s, lanes, null) for s in symbols]
            symbols = tf.concat([tf.zeros([0], tf.int32), *symbols], 0)
            symbols = _groups(symbols, lanes, null)
            states, words = _encode(
                tf.cast(tf.gather(self._tables.frequency, symbols), tf.int64),
                tf.cast(tf.gather(self._tables.start, symbols), tf.int64),
            )
            header = [lanes, *_halves(tf.size(escapes))]
            states = tf.reshape(tf.stack(_halves(states), axis=1), [-1])
            coded = tf.cast(tf.concat([states, words], 0), tf.int32)
            large = tf.boolean_mask(escapes, escapes >= LARGE)
            small = tf.reshape(_pad(tf.minimum(escapes, LARGE), 2, 0), [-1, 2])
            small = small[:, 0] + tf.bitwise.left_shift(small[:, 1], 8)
            return _to_string(tf.concat([header, coded, large, small], 0))


class Reader:
    """Decodes the segments of a payload.

    Use it once, within the trace of one graph, or eagerly. No payload makes it raise: a
    damaged one yields arbitrary values of magnitude below 2^17, and `finish` returns
    False. Time and memory are bounded by the size of the payload and the number of
    symbols that the caller asks for.
    """

    def __init__(self, tables: Tables, payload):
        """Parses `payload`, a string []."""
        self._tables = tables
        with tf.device("/CPU:0"):
            self._slot_symbols, self._slot_steps = _slots(tables)
            length = tf.strings.length(payload)
            ok = (length >= len(_BLANK)) & (length % 2 == 0)
            units = tf.io.decode_raw(tf.where(ok, payload, _BLANK), tf.uint16)
            units = tf.cast(units, tf.int32)
            left = tf.size(units) - HEADER

            lanes = units[0]
            well = (lanes >= 1) & (lanes <= MAX_LANES) & (2 * lanes <= left)
            lanes = tf.where(well, lanes, 1)
            ok &= well
            left -= 2 * lanes
            states, rest = tf.split(units[HEADER:], [2 * lanes, left])
            states = _join(tf.unstack(tf.reshape(states, [-1, 2]), axis=1))
            ok &= tf.reduce_all(states >= LOWEST)

            escapes = _join(units[1:HEADER])
            well = (escapes + 1) // 2 <= tf.cast(left, tf.int64)
            escapes = tf.cast(tf.where(well, escapes, 0), tf.int32)
            ok &= well
            left -= (escapes + 1) // 2
            small = rest[left:]
            small = tf.stack(
                [tf.bitwise.bitwise_and(small, 0xFF), tf.bitwise.right_shift(small, 8)],
                axis=1,
            )
            small = tf.reshape(small, [-1])
            ok &= tf.reduce_all(small[escapes:] == 0)
            small = small[:escapes]

            large = small == LARGE
            count = tf.math.count_nonzero(large, dtype=tf.int32)
            well = count <= left
            ok &= well
            left -= tf.where(well, count, 0)
            # One value is appended, so that `gather` below never has an empty tensor.
            values = tf.concat([rest[left:][:count], [LARGE]], 0)
            ok &= tf.reduce_all(values >= LARGE)
            order = tf.cumsum(tf.cast(large, tf.int32), exclusive=True)
            order = tf.minimum(order, tf.size(values) - 1)
            self._escapes = tf.where(large, tf.gather(values, order), small)
            self._words = rest[:left]

            self._lanes = lanes
            self._states = tf.maximum(states, LOWEST)
            self._ok = ok
            self._words_read = tf.constant(0)
            self._escapes_read = tf.constant(0)
            self._count = tf.constant(0)

    def read(self, rows) -> tf.Tensor:
        """Returns the next segment: values, int32 [n], coded by `rows`, int32 [n]."""
        with tf.device("/CPU:0"):
            rows = _clip_rows(self._tables, rows)
            slots = self._read_slots(rows * TOTAL)
            symbols = tf.gather(self._slot_symbols, slots)

            bottom = tf.gather(self._tables.offset, rows)
            escape = tf.gather(self._tables.size, rows) - 1
            symbols -= tf.gather(self._tables.first, rows)
            escaped = symbols >= escape
            order = self._escapes_read + tf.cumsum(tf.cast(escaped, tf.int32))
            order = tf.clip_by_value(order, 0, tf.size(self._escapes))
            # Entry 0 is what symbols before the first escape gather, and do not use.
            zigzag = tf.gather(tf.concat([[0], self._escapes], 0), order)
            excess = zigzag // 2
            beyond = tf.where(zigzag % 2 == 0, escape + excess, -1 - excess)
            self._escapes_read += tf.math.count_nonzero(escaped, dtype=tf.int32)
            return bottom + tf.where(escaped, beyond, symbols)

    def finish(self) -> tf.Tensor:
        """Returns whether the payload was intact and is used up, bool []."""
        with tf.device("/CPU:0"):
            return (
                self._ok
                & tf.equal(self._lanes, lanes_for(self._count))
                & tf.reduce_all(self._states == LOWEST)
                & tf.equal(self._words_read, tf.size(self._words))
                & tf.equal(self._escapes_read, tf.size(self._escapes))
            )

    def _read_slots(self, bases):
        """Returns slots, int32 [n], in the rows whose slots begin at `bases`."""
        count = tf.size(bases)
        self._count += count
        # A payload with fewer lanes than the writer would choose is forged, and could
        # make the decoder take a thousand times as many steps. Once a payload is known
        # to be bad, no more of it is decoded.
        self._ok &= self._lanes >= lanes_for(self._count)
        count = tf.where(self._ok, count, 0)
        # A symbol takes at most one word, and padding none, so no lane needs a word
        # beyond these. Entry 0 is what lanes gather that take no word yet.
        begin = tf.minimum(self._words_read, tf.size(self._words))
        words = self._words[begin:][:count]
        missing = count - tf.size(words)
        words = tf.concat([[0], words, tf.zeros([missing], tf.int32)], 0)
        null = (tf.size(self._tables.first) - 1) * TOTAL
        slots, self._states, used = _decode(
            tf.cast(_groups(bases[:count], self._lanes, null), tf.int64),
            self._states,
            tf.cast(words, tf.int64),
            self._slot_steps,
        )
        self._words_read += used
        slots = tf.cast(tf.reshape(slots, [-1])[:count], tf.int32)
        return tf.concat([slots, bases[count:]], 0)


def _encode(frequency, start):
    """Encodes symbols, from the last step to the first.

    Args:
      frequency: int64 [groups, _UNROLL, lanes], of each symbol.
      start: int64 [groups, _UNROLL, lanes], frequencies before it in its row, summed.

    Returns:
      The final states, int64 [lanes], and the words, int64 [words], in the order in
      which a decoder takes them.
    """
    groups = tf.shape(frequency)[0]
    lanes = tf.shape(frequency)[2]

    def body(group, x, history):
        frequencies = tf.unstack(tf.gather(frequency, group), _UNROLL)
        starts = tf.unstack(tf.gather(start, group), _UNROLL)
        before = [None] * _UNROLL
        for step in reversed(range(_UNROLL)):
            f, s = frequencies[step], starts[step]
            before[step] = x
            x = tf.where(_sheds(x, f), tf.bitwise.right_shift(x, 16), x)
            # x = (x // f) * 4096 + x % f + s, with one division.
            x += x // f * (TOTAL - f) + s
        return group - 1, x, history.write(group, tf.stack(before))

    history = tf.TensorArray(tf.int64, groups, element_shape=[_UNROLL, None])
    _, x, history = tf.while_loop(
        lambda group, *_: group >= 0,
        body,
        (groups - 1, tf.fill([lanes], tf.constant(LOWEST, tf.int64)), history),
        parallel_iterations=1,
    )
    # The states before each step tell which lanes gave off a word, and which word.
    before = history.stack()
    words = tf.boolean_mask(before, _sheds(before, frequency))
    return x, tf.bitwise.bitwise_and(words, LOWEST - 1)


def _sheds(x, frequency):
    """Returns whether coding a symbol in state x would take the state beyond 2^32."""
    return tf.bitwise.right_shift(x, 32 - PRECISION) >= frequency


def _decode(bases, x, words, steps):
    """Decodes symbols, from the first step to the last.

    The loop body is short because a decoder spends its time here: what can be done for
    all symbols at once is done outside.

    Args:
      bases: int64 [groups, _UNROLL, lanes], where the slots of a symbol's row begin.
      x: int64 [lanes], states in [2^16, 2^32). They stay there, whatever the words.
      words: int64 [n], used from index 1 on; n exceeds the number of symbols without
        padding.
      steps: int32 [slots], see `_slots`.

    Returns:
      The symbols' slots, int64 [groups, _UNROLL, lanes], the states after them, int64
      [lanes], and the number of words taken, int32 [].
    """
    groups = tf.shape(bases)[0]
    last = tf.size(x) - 1

    def body(group, x, taken, slots):
        found = []
        for base in tf.unstack(tf.gather(bases, group), _UNROLL):
            slot = base + tf.bitwise.bitwise_and(x, TOTAL - 1)
            found.append(slot)
            step = tf.cast(tf.gather(steps, slot), tf.int64)
            x = tf.bitwise.right_shift(step, 16) * tf.bitwise.right_shift(x, PRECISION)
            x += tf.bitwise.bitwise_and(step, 0xFFFF)
            takes = x < LOWEST
            order = taken + tf.cumsum(tf.cast(takes, tf.int32))
            taken = tf.gather(order, last)
            word = tf.gather(words, order)
            x = tf.where(takes, tf.bitwise.left_shift(x, 16) + word, x)
        return group + 1, x, taken, slots.write(group, tf.stack(found))

    slots = tf.TensorArray(tf.int64, groups, element_shape=[_UNROLL, None])
    _, x, taken, slots = tf.while_loop(
        lambda group, *_: group < groups,
        body,
        (tf.constant(0), x, tf.constant(0), slots),
        parallel_iterations=1,
    )
    return slots.stack(), x, taken


def _slots(tables):
    """Returns the symbols of the 4096 slots of each row, row after row.

    Returns:
      The index of the symbol, int32 [rows * 4096], and its decoding step, int32
      [rows * 4096]: the frequency times 2^16, plus the slot's rank among the symbol's.
    """
    # A row sums to exactly 4096, so one cumulative sum serves all rows.
    frequency = tf.convert_to_tensor(tables.frequency)
    begin = tf.cumsum(frequency, exclusive=True)
    shape = [tf.size(tables.first), TOTAL]
    begins = tf.scatter_nd(begin[:, None], tf.ones_like(begin), [shape[0] * TOTAL])
    # One cumulative sum per row, not one over all, so that they run in parallel.
    nth = tf.cumsum(tf.reshape(begins, shape), axis=1) - 1
    symbols = tf.reshape(tf.convert_to_tensor(tables.first)[:, None] + nth, [-1])
    steps = tf.gather(frequency * (1 << 16) - begin, symbols)
    return symbols, steps + tf.range(tf.size(symbols))


def _clip_rows(tables, rows):
    """Returns rows, int32 [n], clipped to those of the caller (without the last)."""
    return tf.clip_by_value(rows, 0, tf.size(tables.first) - 2)


def _pad(symbols, multiple, null):
    """Returns symbols, int32 [n], padded by `null` to a multiple of `multiple`."""
    short = tf.math.floormod(-tf.size(symbols), multiple)
    return tf.concat([symbols, tf.fill([short], null)], 0)


def _groups(symbols, lanes, null):
    """Returns symbols, int32 [n], as [groups, _UNROLL, lanes], padded by `null`.

    There is at least one group: a loop without iterations has no output to stack.
    """
    first = tf.fill([tf.where(tf.size(symbols) > 0, 0, 1)], null)
    symbols = _pad(tf.concat([symbols, first], 0), _UNROLL * lanes, null)
    return tf.reshape(symbols, [-1, _UNROLL, lanes])


def _halves(number):
    """Splits numbers into their low and high 16 bits."""
    return tf.bitwise.bitwise_and(number, 0xFFFF), tf.bitwise.right_shift(number, 16)


def _join(halves):
    """Joins low and high 16 bits into int64, the inverse of `_halves`."""
    low, high = tf.cast(halves[0], tf.int64), tf.cast(halves[1], tf.int64)
    return low + tf.bitwise.left_shift(high, 16)


def _to_string(units):
    """Returns units, int32 [n] of 16 bits, as a little-endian string [].

    TensorFlow has no inverse of `decode_raw`. But a serialized tensor is a protocol
    buffer whose last field is the bytes of the tensor, so the end of it is the string,
    at the speed of a copy.
    """
    low = tf.bitwise.bitwise_and(units, 0xFF)
    high = tf.bitwise.right_shift(units, 8)
    data = tf.cast(tf.reshape(tf.stack([low, high], axis=1), [-1]), tf.uint8)
    size = tf.size(data)
    return tf.strings.substr(tf.io.serialize_tensor(data), -size, size)
