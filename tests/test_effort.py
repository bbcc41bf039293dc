"""`--effort` of the shipped models by LiteRT, and that it does what TensorFlow does."""

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from tests import tiny
from tfcodec import (
    bitstream,
    compression,
    engine,
    litert_engine,
    metrics,
    quality,
    registry,
    ssimulacra2,
)

NAMES = [model.name for model in registry.models()]
QUALITY = 0.6


@pytest.fixture(scope="module", params=NAMES)
def codec(request):
    return engine.Codec(registry.resolve(request.param), engine.LiteRTEngine)


@pytest.fixture(scope="module")
def image():
    return tiny.photograph(128, 192)


def test_steps_lower_the_cost(codec, image):
    y, costs = codec.engine.analysis(image), []
    step = codec.engine.improver(image, QUALITY)
    for number in range(5):
        y, cost = step(y, compression.damping(number))
        costs.append(cost)
    assert min(costs) < 0.99 * costs[0]
    same, _ = step(y, 0.0)
    np.testing.assert_array_equal(same, y)


def test_the_cost_is_that_of_the_file(codec, image):
    found = codec.engine
    y = found.analysis(image)
    _, cost = found.improver(image, QUALITY)(y, 0.0)
    string, _, y_hat = found.encode(y, QUALITY)
    lost = cost - 8 * len(string)
    # The model for squared error has no other part.
    if codec.model.distortion == "mse":
        low, high = (codec.model.card["quality"][f"lmbda_{x}"] for x in ("min", "max"))
        error = metrics.mse(image, found.synthesis(y_hat, QUALITY)) * image[..., 0].size
        assert lost == pytest.approx(low * (high / low) ** QUALITY * error, rel=1e-3)
    assert 0 < lost < cost


def test_steps_are_those_that_tensorflow_takes(codec, image):
    pytest.importorskip("tensorflow")
    tensorflow = engine.TensorFlowEngine(codec.model)
    y = codec.engine.analysis(image)
    expected, bits = tensorflow.improver(image, QUALITY)(y, 0.25)
    found, cost = codec.engine.improver(image, QUALITY)(y, 0.25)
    # One counts the bytes of a string, the other estimates them; and one synthesises
    # with weights of 8 bits and whole levels, the other with floats.
    assert cost == pytest.approx(bits, rel=0.03)
    assert np.linalg.norm(found - expected) < 0.15 * np.linalg.norm(expected - y)


def test_progress_counts_every_step(codec):
    told = []
    codec.compress(tiny.photograph(100, 90), 50, 3, lambda *done: told.append(done))
    # The analysis, and the cost at first and after each step.
    total = 1 + 1 + compression.EFFORTS[3]
    assert told == [(done, total) for done in range(1, total + 1)]


def test_effort_saves_bytes_at_the_same_figure(codec):
    seen = "ssimulacra2" in codec.model.distortion
    target = quality.Target(*(("ssimulacra2", 80.0) if seen else ("psnr", 33.0)))
    image = tiny.photograph(200, 240)
    found = [codec.compress(image, effort=n, target=target) for n in (0, 3)]
    assert len(found[1]) < 0.98 * len(found[0])
    # A better picture of more bytes: so the same figure is that of a lower quality.
    plain, optimised = (bitstream.read_header(data).quality for data in found)
    assert optimised < plain
    figure = metrics.psnr if target.figure == "psnr" else ssimulacra2.score
    decoded = codec.decompress(*bitstream.unpack(found[1]))
    assert target.value <= figure(image, decoded) < target.value + 0.5


def test_effort_never_misses_what_is_reached_without(codec):
    image = tiny.photograph(200, 240)
    least = len(codec.compress(image, 0))
    assert len(codec.compress(image, 0, 1)) != least
    target = quality.Target("bytes", least)
    assert len(codec.compress(image, effort=1, target=target)) <= least
    # With effort, this target was met by a larger file.
    target = quality.Target("ssimulacra2", 70.0)
    sizes = [len(codec.compress(image, effort=n, target=target)) for n in (0, 3)]
    assert sizes[1] <= sizes[0]


def test_large_pictures_are_optimised_tile_by_tile(codec):
    image = tiny.photograph(150, 300)
    data = codec.compress(image, 50, 1, tile=128)
    assert codec.decompress(*bitstream.unpack(data)).shape == image.shape
    assert data == codec.compress(image, 50, 1, tile=128)


def test_effort_needs_slopes(codec, image, monkeypatch):
    model = codec.model
    assert engine.chosen(model, effort=1) == "litert"
    monkeypatch.setattr(litert_engine, "SLOPE", "none")
    with pytest.raises(ValueError, match="engine for model .* have no slopes"):
        codec.compress(image, effort=1)
