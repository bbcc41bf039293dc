"""Work that is divided among idle threads has the same result, and none is lost."""

import os
import threading
import time

import numpy as np
import pytest

from benchmarks.exactness import GOLDEN
from tests import tiny
from tfcodec import exact_layers, helpers, registry
from tfcodec.litert_engine import LiteRTEngine


@pytest.fixture
def three(monkeypatch):
    """Three helping threads, whatever this machine has."""
    threads = helpers._Threads(3)
    monkeypatch.setattr(helpers, "_threads", lambda process: threads)
    yield threads
    threads.pool.shutdown()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 31])
def test_every_item_is_in_one_part(three, count):
    seen = np.zeros(count, int)

    def part(begin, end):
        seen[begin:end] += 1

    helpers.divided(part, count)
    assert np.all(seen == 1)


def test_parts_run_at_the_same_time(three):
    together = threading.Barrier(4, timeout=10)
    helpers.divided(lambda begin, end: together.wait(), 4)


def test_a_caller_that_finds_no_idle_thread_does_all_itself(three):
    parts = []
    assert three.taken(9) == 3
    helpers.divided(lambda begin, end: parts.append((begin, end)), 10)
    assert parts == [(0, 10)]


@pytest.mark.parametrize(("limit", "parts"), [(1, 1), (2, 2), (9, 4), (None, 4)])
def test_a_limit_of_threads_is_kept(three, limit, parts):
    seen = []
    with helpers.limited(limit):
        helpers.divided(lambda begin, end: seen.append(begin), 20)
    assert len(seen) == parts
    helpers.divided(lambda begin, end: seen.append(begin), 20)
    assert len(seen) == parts + 4


def test_an_engine_of_one_thread_divides_nothing(three, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(exact_layers, "DIVIDED_FROM", 0)
    taken = []
    monkeypatch.setattr(three, "taken", lambda most: taken.append(most) or 0)
    image = tiny.photograph(64, 64)
    for threads in (1, 2):
        engine = LiteRTEngine(registry.Model.at(GOLDEN / "model"), threads=threads)
        size, string = (64, 64), engine.encode(engine.analysis(image), 0.5)[0]
        engine.decode(string, size)
        assert set(taken) <= {0, threads - 1}
        assert max(taken) == threads - 1
        taken.clear()


def test_without_more_threads_the_caller_does_all(three):
    three.pool.shutdown()  # As when the interpreter shuts down.
    parts = []
    helpers.divided(lambda begin, end: parts.append((begin, end)), 8)
    assert sorted(parts) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert three.taken(9) == 3


@pytest.mark.parametrize("fails", [0, 1, 3])
def test_an_error_in_any_part_is_raised_when_all_are_done(three, fails):
    done = []

    def part(begin, end):
        if begin == fails:
            raise MemoryError("no room")
        time.sleep(0.05)
        done.append(begin)

    with pytest.raises(MemoryError, match="no room"):
        helpers.divided(part, 4)
    assert sorted(done) == [k for k in range(4) if k != fails]
    assert three.taken(9) == 3


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own():
    helpers.divided(lambda begin, end: None, 8)
    child = os.fork()
    if not child:
        seen = []
        helpers.divided(lambda begin, end: seen.append(end - begin), 8)
        os._exit(0 if sum(seen) == 8 else 1)
    deadline = time.monotonic() + 20
    while True:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            break
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the forked process waits for threads of its parent")
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 7), (5, 3), (16, 24)])
def test_a_layer_computes_the_same_in_parts(three, monkeypatch, side, height, width):
    rng = np.random.default_rng(0)
    kernel = rng.integers(-127, 128, [side, side, 6, 10])
    numbers = np.array([rng.integers(-99, 99, 10), *np.full([3, 10], 0)])
    numbers[1:] = [[4] * 10, [-200] * 10, [200] * 10]
    layer = exact_layers.Layer(kernel, numbers)
    x = rng.integers(0, 256, [height, width, 6]).astype(exact_layers.exact_dtype())
    padded = np.pad(x, ((side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (0, 1))
    sums = np.einsum("hwcij,ijco->hwo", windows, kernel)
    outputs = np.clip(np.floor((sums + numbers[0]) / 16), -200, 200)
    for least in (0, 2**60):  # always divided, never divided
        monkeypatch.setattr(exact_layers, "DIVIDED_FROM", least)
        np.testing.assert_array_equal(layer.sums(x), sums)
        np.testing.assert_array_equal(layer(x), outputs)
