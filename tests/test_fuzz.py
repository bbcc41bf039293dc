"""Hostile files, a bounded number of them; `python -m tests.fuzz` tries for longer."""

import pytest

from tests import fuzz, tiny
from tfcodec import bitstream
from tfcodec.bitstream import StreamError

# Of every chunk that there is, the last of few bytes.
FLIPPED = ("metadata", "alpha_tiles", "pixel_30")


def test_damage_survives_split_and_join():
    for data in fuzz.corpus():
        if data.startswith(bitstream.MAGIC):
            assert fuzz.joined(*fuzz.split(data)) == data


def test_header():
    run = fuzz.fuzz("header", 30, most=4000)
    assert min(run.outcomes.values()) > 50
    assert set(run.outcomes) == {"CorruptStream", "UnsupportedStream", "decoded"}


def test_decode():
    pytest.importorskip("tensorflow")
    run = fuzz.fuzz("decode", 60, seed=1, most=200)
    assert run.outcomes["decoded"] > 20
    assert run.outcomes["CorruptStream"] > 50


def test_litert():
    pytest.importorskip("tensorflow")
    pytest.importorskip("ai_edge_litert")
    run = fuzz.fuzz("litert", 60, seed=3, most=200)
    assert run.outcomes["decoded"] > 20
    assert run.outcomes["CorruptStream"] > 50


def test_served():
    pytest.importorskip("tensorflow")
    with tiny.unoptimised():
        run = fuzz.fuzz("served", 60, seed=2, most=120)
    assert run.outcomes["decoded"] > 15
    assert run.outcomes["StreamError"] > 20


@pytest.mark.parametrize("name", FLIPPED)
def test_every_flipped_bit_is_refused(name):
    data = (fuzz.GOLDEN / f"{name}.tfc").read_bytes()
    for position in range(8 * len(data)):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        assert isinstance(fuzz.try_header(bytes(changed)), StreamError), position


def test_every_flipped_bit_is_refused_by_the_graph():
    tf = pytest.importorskip("tensorflow")
    data = (fuzz.GOLDEN / "pixel_30.tfc").read_bytes()
    changed = []
    for position in range(8 * len(data)):
        copy = bytearray(data)
        copy[position // 8] ^= 1 << position % 8
        changed.append(bytes(copy))
    with tiny.unoptimised():
        result = fuzz.served().decompress(tf.constant([*changed, data]))
    errors = result["error"].numpy()
    assert all(errors[:-1])
    assert not errors[-1]
    assert not any(result["image_bytes"].numpy()[:-1])
