import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

from tfcodec import newton

SHAPE = 2, 24, 24, 320


@pytest.fixture
def latents():
    """Latents, and curvatures that differ by channel, image and position."""
    rng = np.random.default_rng(0)
    y = rng.normal(0, 3, SHAPE).astype(np.float32)
    channel = rng.uniform(1, 4, (2, 1, 1, SHAPE[3])) * [[[[1]]], [[[2]]]]
    position = rng.uniform(0.6, 1.8, (*SHAPE[:3], 1))
    return y, (newton.MEAN * channel * position).astype(np.float32)


def test_curvatures_of_channels_and_positions_are_found(latents):
    y, curvature = latents
    error = np.round(y) - y
    found = newton.curvature(tf.constant(error), tf.constant(curvature * error))
    ratio = found.numpy() / curvature
    assert np.abs(np.log(ratio)).mean() < 0.1
    # Known channels or known positions alone would be this far off at best.
    for axes in ((1, 2), (3,)):
        alone = np.exp(np.log(curvature).mean(axes, keepdims=True))
        assert np.abs(np.log(alone / curvature)).mean() > 0.2


def test_latents_at_the_minimum_stay(latents):
    y, curvature = latents
    y_hat = np.round(y)
    target = newton.target(
        tf.constant(y), tf.constant(y_hat), tf.constant(curvature * (y_hat - y))
    )
    assert np.abs(target - y).mean() < 0.1 * np.abs(y_hat - y).mean()


def test_images_do_not_change_each_other(latents):
    y, curvature = latents
    error = np.round(y) - y
    both = newton.curvature(tf.constant(error), tf.constant(curvature * error))
    one = newton.curvature(tf.constant(error[1:]), tf.constant((curvature * error)[1:]))
    np.testing.assert_allclose(both[1:], one, rtol=1e-5)


@pytest.mark.parametrize("error", ["none", "large", "opposed"])
def test_steps_are_bounded_whatever_the_slopes(latents, error):
    y, _ = latents
    y_hat = {"none": y, "large": np.zeros_like(y), "opposed": np.round(y)}[error]
    slope = 1e4 * np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    if error == "opposed":
        slope = 100 * (y - y_hat)
    curvature = newton.curvature(tf.constant(y_hat - y), tf.constant(slope)).numpy()
    assert np.all(curvature >= newton.LEAST * newton.MEAN * 0.999)
    assert np.all(np.isfinite(curvature))
    step = newton.target(tf.constant(y), tf.constant(y_hat), tf.constant(slope)) - y_hat
    assert np.abs(step).max() <= newton.FARTHEST * 1.001


def test_of_no_errors_the_curvature_is_the_mean():
    zero = tf.zeros([1, 4, 4, 8])
    found = newton.curvature(zero, tf.random.normal([1, 4, 4, 8], seed=1))
    np.testing.assert_allclose(found, newton.MEAN, rtol=1e-6)
