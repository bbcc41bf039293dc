import numpy as np
import pytest

from tfcodec import newton
from tfcodec.array_functions import NUMPY, of_tensorflow

SHAPE = 2, 24, 24, 320


def curvature(error, slope):
    return newton.curvature(NUMPY, error, slope)


def target(y, y_hat, slope):
    return newton.target(NUMPY, y, y_hat, slope)


@pytest.fixture
def latents():
    """Latents, and curvatures that differ by channel, image and position."""
    rng = np.random.default_rng(0)
    y = rng.normal(0, 3, SHAPE).astype(np.float32)
    channel = rng.uniform(1, 4, (2, 1, 1, SHAPE[3])) * [[[[1]]], [[[2]]]]
    position = rng.uniform(0.6, 1.8, (*SHAPE[:3], 1))
    return y, (newton.MEAN * channel * position).astype(np.float32)


def test_curvatures_of_channels_and_positions_are_found(latents):
    y, expected = latents
    error = np.round(y) - y
    ratio = curvature(error, expected * error) / expected
    assert np.abs(np.log(ratio)).mean() < 0.1
    # Known channels or known positions alone would be this far off at best.
    for axes in ((1, 2), (3,)):
        alone = np.exp(np.log(expected).mean(axes, keepdims=True))
        assert np.abs(np.log(alone / expected)).mean() > 0.2


def test_latents_at_the_minimum_stay(latents):
    y, expected = latents
    y_hat = np.round(y)
    found = target(y, y_hat, expected * (y_hat - y))
    assert np.abs(found - y).mean() < 0.1 * np.abs(y_hat - y).mean()


def test_images_do_not_change_each_other(latents):
    y, expected = latents
    error = np.round(y) - y
    both = curvature(error, expected * error)
    one = curvature(error[1:], (expected * error)[1:])
    np.testing.assert_allclose(both[1:], one, rtol=1e-5)


@pytest.mark.parametrize("error", ["none", "large", "opposed"])
def test_steps_are_bounded_whatever_the_slopes(latents, error):
    y, _ = latents
    y_hat = {"none": y, "large": np.zeros_like(y), "opposed": np.round(y)}[error]
    slope = 1e4 * np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    if error == "opposed":
        slope = 100 * (y - y_hat)
    found = curvature(y_hat - y, slope)
    assert np.all(found >= newton.LEAST * newton.MEAN * 0.999)
    assert np.all(np.isfinite(found))
    step = target(y, y_hat, slope) - y_hat
    assert np.abs(step).max() <= newton.FARTHEST * 1.001


def test_of_no_errors_the_curvature_is_the_mean():
    zero = np.zeros([1, 4, 4, 8], np.float32)
    slope = np.random.default_rng(1).normal(size=zero.shape).astype(np.float32)
    np.testing.assert_allclose(curvature(zero, slope), newton.MEAN, rtol=1e-6)


def test_numpy_and_tensorflow_take_the_same_steps(latents):
    tf = pytest.importorskip("tensorflow")
    y, expected = latents
    y_hat = np.round(y)
    slope = expected * (y_hat - y) + 3
    found = newton.target(of_tensorflow(), *map(tf.constant, (y, y_hat, slope)))
    assert target(y, y_hat, slope).dtype == found.dtype == np.float32
    np.testing.assert_allclose(found, target(y, y_hat, slope), atol=1e-5)
