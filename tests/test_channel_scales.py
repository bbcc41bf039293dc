"""Scales of channels leave a layer as it is, but for a smaller error of rounding."""

import numpy as np
import pytest

from tfcodec import channel_scales


def layer(spread, inputs=64, outputs=48):
    """(examples of inputs, kernel); some channels are `spread` times as large."""
    rng = np.random.default_rng(0)
    size = np.where(np.arange(inputs) < 3, spread, 1)
    x = rng.normal(0, 1, (500, inputs)) * size
    kernel = rng.normal(0, 1, (outputs, inputs)) / size
    return x.astype(np.float32), kernel.astype(np.float32)


def error(x, kernel):
    return np.std(channel_scales.rounded_product(x, kernel) - x @ kernel.T)


def test_channels_of_one_size_stay_as_they_are():
    assert channel_scales.found(*layer(1)) is None


@pytest.mark.parametrize("spread", [20, 300])
def test_scales_reduce_the_error_and_nothing_else(spread):
    x, kernel = layer(spread)
    scales = channel_scales.found(x, kernel)
    assert np.all(np.frexp(scales)[0] == 0.5)  # powers of two
    assert scales[:3].min() > scales[3:].max()
    assert error(x / scales, kernel * scales) < error(x, kernel) / 2
    assert np.array_equal(x / scales * scales, x)


def test_rounding_is_off_by_half_a_step_of_each_row():
    x, _ = layer(20)
    x[0], x[1] = 0, np.abs(x[1])
    whole = np.eye(x.shape[1], dtype=np.float32)  # which 8 bits represent exactly
    found = channel_scales.rounded_product(x, whole)
    step = (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)) / 255
    assert np.all(np.abs(found - x).max(1) <= 0.51 * step + 1e-6)
    assert np.all(found[0] == 0)
    # Only so many levels, of which one is zero.
    assert all(
        len(np.unique(np.rint(row / s))) <= 256 for row, s in zip(found, step) if s
    )


def test_litert_rounds_as_the_module_says():
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from tfcodec import litert_engine, litert_export, litert_int8

    x, kernel = layer(100, 128, 128)
    weights = tf.constant(kernel.T)

    def run(x):
        return {"y": x @ weights}

    spec = tf.TensorSpec([1, None, None, 128], tf.float32, "x")
    half = litert_export.from_graph(tf.function(run).get_concrete_function(spec))
    example = {"x": x.reshape(1, 20, 25, 128)}
    files = [half, *(litert_int8.with_dense_int8(half, e) for e in (None, example))]
    assert [len(litert_int8.channel_scales_in(each)) for each in files] == [0, 0, 1]
    exact, plain, scaled = (
        litert_engine.Network(each, 1)(**example)["y"].reshape(500, -1)
        for each in files
    )
    expected = channel_scales.rounded_product(x, kernel)
    # Kernels are rounded to half precision before.
    assert np.std(plain - expected) < 0.2 * np.std(plain - exact)
    assert np.std(scaled - exact) < 0.5 * np.std(plain - exact)


def test_the_picture_is_always_the_same_and_has_all_levels():
    first, second = (channel_scales.picture(64) for _ in range(2))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, second)
    assert first.min() < 30 < 220 < first.max()
