"""Properties of the entropy coder, against a scalar reference and hostile payloads."""

import time

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from tfcodec import rans
from tfcodec.tracing import traced

SEED = 20240229


def random_rows(rng, count):
    """Rows of all shapes: lone values, flat, peaked, and an escape of any weight."""
    rows = []
    for _ in range(count):
        size = int(rng.choice([2, 3, 9, 60, 400]))
        weight = rng.dirichlet(np.full(size, rng.choice([0.05, 1.0, 20.0])))
        frequency = np.floor(weight * (4096 - size)).astype(np.int64) + 1
        frequency[rng.integers(size)] += 4096 - frequency.sum()
        rows.append((frequency, int(rng.integers(-250, 250))))
    return rows


def draw(rng, rows, count):
    """Row indexes, and values drawn from those rows; no escapes."""
    values_of_slots = []
    for frequency, offset in rows:
        values = np.repeat(np.arange(len(frequency)) + offset, frequency)
        values_of_slots.append(rng.choice(values[: -frequency[-1]], 4096))
    indexes = rng.integers(len(rows), size=count)
    values = np.array(values_of_slots)[indexes, rng.integers(4096, size=count)]
    return indexes.astype(np.int32), values.astype(np.int32)


def draw_wide(rng, rows, count):
    """Row indexes, and values of which a part lies outside the rows."""
    indexes, values = draw(rng, rows, count)
    wide = rng.integers(-8192, 8192, size=count)
    edge = rng.choice([-8192, 8191], size=count)
    kind = rng.random(count)
    values = np.where(kind < 0.1, wide, np.where(kind < 0.15, edge, values))
    return indexes, values.astype(np.int32)


def saturate(rows, indexes, values):
    """The value that decoding gives back."""
    bottom = np.array([offset for _, offset in rows], int)[indexes]
    top = np.array([len(f) - 2 + offset for f, offset in rows], int)[indexes]
    return np.clip(values, bottom - 32768, top + 32768)


def lane_count(symbols):
    return min(max(symbols // rans.SYMBOLS_PER_LANE, 1), 1024)


def steps_of(segments, lanes):
    """(segment, first symbol) of each step, in coding order."""
    return [
        (k, begin)
        for k, (rows, _) in enumerate(segments)
        for begin in range(0, len(rows), lanes)
    ]


def reference_encode(rows, segments):
    """Codes [(row indexes, values)] one symbol at a time, in Python integers."""
    lanes = lane_count(sum(len(indexes) for indexes, _ in segments))
    states, words, escapes = [1 << 16] * lanes, [], []
    for k, begin in reversed(steps_of(segments, lanes)):
        indexes, values = (part[begin : begin + lanes] for part in segments[k])
        for lane in reversed(range(len(indexes))):
            frequency, offset = rows[indexes[lane]]
            escape = len(frequency) - 1
            symbol = int(values[lane]) - offset
            if not 0 <= symbol < escape:
                above = symbol >= escape
                excess = min(symbol - escape if above else -1 - symbol, 32767)
                escapes.append(2 * excess + (0 if above else 1))
                symbol = escape
            f, start = int(frequency[symbol]), int(frequency[:symbol].sum())
            if states[lane] >= f << 20:
                words.append(states[lane] & 0xFFFF)
                states[lane] >>= 16
            states[lane] = (states[lane] // f << 12) + states[lane] % f + start
    return b"".join(
        [
            np.array([lanes], "<u2").tobytes(),
            np.array([len(escapes), *states], "<u4").tobytes(),
            np.array(words[::-1], "<u2").tobytes(),
            np.array([e for e in escapes[::-1] if e >= 255], "<u2").tobytes(),
            bytes(min(e, 255) for e in escapes[::-1]) + b"\0" * (len(escapes) % 2),
        ]
    )


def reference_decode(rows, payload, segments):
    """Reads the values of segments of given row indexes; checks that all is used up."""
    lanes = int(np.frombuffer(payload[:2], "<u2")[0])
    count, *states = np.frombuffer(payload[2 : 6 + 4 * lanes], "<u4").tolist()
    end = len(payload) - count - count % 2
    words = np.frombuffer(payload[6 + 4 * lanes : end], "<u2").tolist()
    escapes = list(payload[end : end + count])
    large = [words.pop() for _ in range(escapes.count(255))]
    escapes = [large.pop() if e == 255 else e for e in escapes]
    decoded = [np.zeros(len(indexes), np.int32) for indexes, _ in segments]
    for k, begin in steps_of(segments, lanes):
        for lane, index in enumerate(segments[k][0][begin : begin + lanes]):
            frequency, offset = rows[index]
            ends = np.cumsum(frequency)
            slot = states[lane] & 4095
            symbol = int(np.searchsorted(ends, slot, side="right"))
            f = int(frequency[symbol])
            states[lane] = f * (states[lane] >> 12) + slot - int(ends[symbol]) + f
            if states[lane] < 1 << 16:
                states[lane] = states[lane] << 16 | words.pop(0)
            if symbol == len(frequency) - 1:
                excess, below = divmod(escapes.pop(0), 2)
                symbol = -1 - excess if below else symbol + excess
            decoded[k][begin + lane] = symbol + offset
    assert not words
    assert not escapes
    assert states == [1 << 16] * lanes
    return decoded


def graph_coder(tables, segments):
    """`write` and `read` as graphs, for this number of segments of any length."""
    flat = [tf.TensorSpec([None], tf.int32)] * segments

    @traced(input_signature=[flat, flat])
    def write(rows, values):
        writer = rans.Writer(tables)
        for r, v in zip(rows, values):  # noqa: B905
            writer.write(r, v)
        return writer.finish()

    @traced(input_signature=[tf.TensorSpec([], tf.string), flat])
    def read(payload, rows):
        reader = rans.Reader(tables, payload)
        values = [reader.read(r) for r in rows]
        return values, reader.finish()

    return write, read


def split(segments):
    return [s[0] for s in segments], [s[1] for s in segments]


@pytest.fixture(params=[1, 7, 3072])
def symbols_per_lane(request, monkeypatch):
    """Many lanes also for short messages, which a scalar reference can code."""
    monkeypatch.setattr(rans, "SYMBOLS_PER_LANE", request.param)


LENGTHS = [(0,), (1,), (0, 1, 0), (5, 0, 300), (64, 64), (1, 2000, 3)]


@tiny.unoptimised()
@pytest.mark.usefixtures("symbols_per_lane")
@pytest.mark.parametrize("lengths", LENGTHS)
def test_round_trip_equals_reference(lengths):
    rng = np.random.default_rng([SEED, *lengths])
    rows = random_rows(rng, 12)
    write, read = graph_coder(rans.Tables.from_rows(rows), len(lengths))
    for coder in (draw, draw_wide):
        segments = [coder(rng, rows, n) for n in lengths]
        indexes, values = split(segments)
        payload = write(indexes, values)
        assert payload.numpy() == reference_encode(rows, segments)
        decoded, intact = read(payload, indexes)
        assert intact.numpy()
        reference = reference_decode(rows, payload.numpy(), segments)
        for a, b, c in zip(decoded, values, reference):  # noqa: B905
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(c, b)


def test_eager_equals_graph():
    rng = np.random.default_rng(SEED)
    rows = random_rows(rng, 5)
    tables = rans.Tables.from_rows(rows)
    segments = [draw_wide(rng, rows, n) for n in (40, 0, 3)]
    indexes, values = split(segments)
    writer = rans.Writer(tables)
    for r, v in segments:
        writer.write(r, v)
    payload = writer.finish()
    reader = rans.Reader(tables, payload)
    for r, v in segments:
        np.testing.assert_array_equal(reader.read(r), v)
    assert reader.finish().numpy()
    assert payload.numpy() == graph_coder(tables, 3)[0](indexes, values).numpy()


def test_rows_may_depend_on_decoded_values():
    rng = np.random.default_rng(SEED)
    rows = random_rows(rng, 8)
    tables = rans.Tables.from_rows(rows)

    @tf.function
    def write(first_rows, first, second):
        writer = rans.Writer(tables)
        writer.write(first_rows, first)
        writer.write(tf.math.floormod(first, 8), second)
        return writer.finish()

    @tf.function
    def read(payload, first_rows):
        reader = rans.Reader(tables, payload)
        first = reader.read(first_rows)
        second = reader.read(tf.math.floormod(first, 8))
        return first, second, reader.finish()

    indexes, first = draw_wide(rng, rows, 100)
    _, second = draw_wide(rng, rows, 100)
    decoded = read(write(indexes, first, second), indexes)
    np.testing.assert_array_equal(decoded[0], first)
    np.testing.assert_array_equal(decoded[1], second)
    assert decoded[2].numpy()


@pytest.mark.parametrize("offset", [-16384, -300, 0, 16384])
def test_far_values_saturate(offset):
    rows = [(np.array([4095, 1]), offset), (np.ones(4096, int), offset)]
    write, read = graph_coder(rans.Tables.from_rows(rows), 1)
    ends = [offset + d for d in (-32769, -32768, -1, 0, 1, 4094, 4095, 32768, 36862)]
    values = np.array([-(2**31), -8192, 8191, 2**31 - 1, *ends] * 2, np.int32)
    indexes = np.repeat([0, 1], len(values) // 2).astype(np.int32)
    (decoded,), intact = read(write([indexes], [values]), [indexes])
    assert intact.numpy()
    np.testing.assert_array_equal(decoded, saturate(rows, indexes, values))
    inside = np.abs(values.astype(int)) <= 8192
    np.testing.assert_array_equal(decoded.numpy()[inside], values[inside])


def test_size_is_near_the_ideal():
    rng = np.random.default_rng(SEED)
    rows = random_rows(rng, 100)
    # What an escape costs beside its code is not the coder's to choose.
    indexes = rng.integers(len(rows), size=200_000).astype(np.int32)
    values = np.zeros_like(indexes)
    bits = 0.0
    for index, (frequency, offset) in enumerate(rows):
        weight = frequency[:-1] / frequency[:-1].sum()
        mine = rng.choice(len(weight), size=np.sum(indexes == index), p=weight)
        values[indexes == index] = mine + offset
        bits -= np.log2(frequency[mine] / 4096).sum()
    write, read = graph_coder(rans.Tables.from_rows(rows), 1)
    payload = write([indexes], [values])
    (decoded,), intact = read(payload, [indexes])
    assert intact.numpy()
    np.testing.assert_array_equal(decoded, values)
    fixed = 6 + 4 * lane_count(200_000)
    assert bits / 8 <= len(payload.numpy()) <= 1.001 * bits / 8 + fixed
    assert len(payload.numpy()) <= 1.01 * bits / 8


def test_certain_symbols_take_no_room():
    tables = rans.Tables.from_rows([(np.array([4095, 1]), 0)])
    write, _ = graph_coder(tables, 1)
    zeros = np.zeros(3000, np.int32)
    assert len(write([zeros], [zeros]).numpy()) <= 12


@pytest.fixture(scope="module")
def hostile():
    """A message in four lanes, to tamper with: (payload, rows, values, write, read)."""
    rng = np.random.default_rng(SEED)
    rows = random_rows(rng, 6)
    write, read = graph_coder(rans.Tables.from_rows(rows), 2)
    indexes, values = split([draw_wide(rng, rows, 60), draw_wide(rng, rows, 23)])
    with pytest.MonkeyPatch.context() as patch:  # the traces keep what they see here
        patch.setattr(rans, "SYMBOLS_PER_LANE", 20)
        payload = write(indexes, values).numpy()
        assert read(payload, indexes)[1].numpy()
    return payload, indexes, values, write, read


def survives(read, payload, indexes):
    """Reads; returns (intact, values) after checking what holds for all payloads."""
    decoded, intact = read(payload, indexes)
    for values, rows in zip(decoded, indexes):  # noqa: B905
        assert values.shape == rows.shape
        assert values.dtype == tf.int32
        assert np.abs(values.numpy()).max(initial=0) <= 2**17
    return bool(intact), np.concatenate(decoded)


def test_truncated_or_longer_payloads_are_refused(hostile):
    payload, indexes, _, _, read = hostile
    for length in range(len(payload)):
        assert not survives(read, payload[:length], indexes)[0]
    for more in (b"\0", b"\0\0", b"\xff" * 999):
        assert not survives(read, payload + more, indexes)[0]
        assert not survives(read, more + payload, indexes)[0]


def test_flipped_bits_are_noticed_or_give_another_message(hostile):
    # No coder near the ideal size can notice all: a flip may lead from one message to
    # another, for instance by exchanging two symbols of equal frequency. Those are the
    # container's checksum's to notice. But what passes is what the writer would write.
    payload, indexes, values, write, read = hostile
    escapes = 3 * int.from_bytes(payload[2:6], "little") + 1  # bytes at most
    unnoticed = 0
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        intact, decoded = survives(read, bytes(flipped), indexes)
        if intact:
            unnoticed += 1
            assert not np.array_equal(decoded, np.concatenate(values))
            assert write(indexes, np.split(decoded, [60])).numpy() == flipped
    assert unnoticed <= 8 * escapes + 0.02 * 8 * len(payload)


def test_noise_is_refused(hostile):
    payload, indexes, _, _, read = hostile
    rng = np.random.default_rng(SEED)
    for length in [*range(64), *rng.integers(64, 3000, size=100)]:
        noise = rng.bytes(length)
        assert not survives(read, noise, indexes)[0]
        # With a header that fits, so that the loops run on it.
        assert not survives(read, payload[:22] + noise, indexes)[0]
        assert not survives(read, b"\4\0\0\0\0\0" + noise, indexes)[0]


@pytest.mark.parametrize("lanes", [0, 1, 3, 5, 1024, 1025, 65535])
@pytest.mark.parametrize("escapes", [0, 1, 1000, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("state", [0, 1, 2**16 - 1, 2**16, 2**32 - 1])
def test_forged_headers_are_refused(hostile, lanes, escapes, state):
    _, indexes, _, _, read = hostile
    header = np.array([lanes], "<u2").tobytes() + np.array([escapes], "<u4").tobytes()
    states = np.full(lanes, state, "<u4").tobytes()
    for tail in (b"", b"\xff" * 200):
        assert not survives(read, header + states + tail, indexes)[0]


def test_forged_lanes_do_not_cost_time():
    # One lane for four million symbols would be four million steps: half a minute.
    tables = rans.Tables.from_rows([(np.array([2000, 2096]), 0)])
    _, read = graph_coder(tables, 1)
    begin = time.monotonic()
    payload = np.array([1, 0, 0, 0, 1], "<u2").tobytes()
    assert not survives(read, payload, [np.zeros(4_000_000, np.int32)])[0]
    assert time.monotonic() - begin < 10


def test_rows_out_of_range_do_no_harm(hostile):
    payload, indexes, _, _, read = hostile
    for row in (-(2**31), -1, 6, 7, 2**31 - 1):
        forged = [np.full_like(r, row) for r in indexes]
        assert not survives(read, payload, forged)[0]


def test_refuses_rows_that_are_no_distribution():
    good = (np.array([4000, 96]), 0)
    bad = [
        (np.array([4000, 95]), 0),
        (np.array([4096]), 0),
        (np.array([4096, 0]), 0),
        (np.array([4100, -4]), 0),
        (np.array([]), 0),
        (np.array([4000.0, 96.0]), 0),
        (np.array([[4000, 96]]), 0),
        (np.array([4000, 96]), 16385),
        (np.array([4000, 96]), -16385),
        (np.array([4000, 96]), 0.5),
    ]
    with pytest.raises(ValueError, match="at least one row"):
        rans.Tables.from_rows([])
    for row in bad:
        with pytest.raises(ValueError, match="Row 1"):
            rans.Tables.from_rows([good, row])


def test_lanes_grow_with_the_message():
    counts = [0, 1, 4096, 8191, 8192, 50_000, 1_500_000, 2**31 - 1]
    lanes = [int(rans.lanes_for(count)) for count in counts]
    assert lanes == [1, 1, 1, 1, 2, 12, 366, 1024]


def test_saved_model_of_stock_ops(tmp_path):
    rng = np.random.default_rng(SEED)
    rows = random_rows(rng, 6)
    tables = rans.Tables.from_rows(rows)
    module = tf.Module()
    module.tables = [tf.Variable(field, trainable=False) for field in tables]
    module.write, module.read = graph_coder(rans.Tables(*module.tables), 2)
    indexes, values = split([draw_wide(rng, rows, 60), draw_wide(rng, rows, 9000)])
    payload = module.write(indexes, values).numpy()
    tf.saved_model.save(module, tmp_path)

    loaded = tf.saved_model.load(tmp_path)
    assert loaded.write(indexes, values).numpy() == payload
    decoded, intact = loaded.read(payload, indexes)
    assert intact.numpy()
    for a, b in zip(decoded, values):  # noqa: B905
        np.testing.assert_array_equal(a, b)

    ops = set()
    for function in (loaded.write, loaded.read):
        graph = function.concrete_functions[0].graph.as_graph_def()
        nodes = list(graph.node)
        for definition in graph.library.function:
            nodes += definition.node_def
            assert not definition.attr["_XlaMustCompile"].b
        ops |= {node.op for node in nodes}
    assert "While" in ops or "StatelessWhile" in ops
    for op in ops:
        assert "PyFunc" not in op
        assert hasattr(tf.raw_ops, op), f"{op} is not a stock operation"
