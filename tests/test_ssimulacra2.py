import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from tfcodec import ssimulacra2

PHOTOGRAPH = pathlib.Path(__file__).parent / "photograph.png"


@pytest.fixture(scope="module")
def photograph():
    return np.array(Image.open(PHOTOGRAPH).convert("RGB"))


def decoded(image, quality, form="JPEG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, quality=quality)
    return np.array(Image.open(file).convert("RGB"))


def batch(*images):
    return np.stack(images).astype(np.float32)


@pytest.mark.parametrize("size", [(400, 600), (225, 257), (64, 101), (8, 8)])
def test_equal_images_score_100(photograph, size):
    image = photograph[: size[0], : size[1]]
    assert ssimulacra2.score(image, image.copy()) == 100


def test_a_better_file_scores_higher_and_a_bad_one_below_0(photograph):
    scores = [
        ssimulacra2.score(photograph, decoded(photograph, quality))
        for quality in (3, 20, 50, 80, 95)
    ]
    assert scores == sorted(scores)
    assert scores[0] < 0 < 90 > scores[-1] > 80


# Of the package `ssimulacra2` 0.3.0, so that these hold where it is not installed. The
# noise is the same on every machine; a JPEG may differ by its decoder.
@pytest.mark.parametrize(
    ("height", "width", "reference"),
    [(400, 600, 85.51649), (301, 333, 85.00065)],
)
def test_scores_are_those_of_the_reference(photograph, height, width, reference):
    image = photograph[:height, :width]
    assert ssimulacra2.score(image, noisy(image)) == pytest.approx(reference, abs=0.02)


@pytest.mark.parametrize("size", [(400, 600), (225, 257)])
@pytest.mark.parametrize("quality", [5, 90])
def test_scores_are_those_of_the_package(photograph, size, quality):
    package = pytest.importorskip("ssimulacra2", reason="pip install ssimulacra2")
    image = photograph[: size[0], : size[1]]
    other = decoded(image, quality)
    files = io.BytesIO(), io.BytesIO()
    for file, pixels in zip(files, (image, other)):
        Image.fromarray(pixels).save(file, "PNG")
    expected = package.compute_ssimulacra2(*files)
    assert ssimulacra2.score(image, other) == pytest.approx(expected, abs=0.02)


def noisy(image):
    """The image with a pattern added, the same everywhere."""
    y, x, c = np.indices(image.shape)
    return np.clip(image + ((7 * x + 13 * y + 5 * c) % 17 - 8.0), 0, 255).astype("u1")


def test_grey_images_score_as_the_same_in_colour(photograph):
    grey = photograph[..., 1]
    other = noisy(photograph)[..., 1]
    colour = [np.repeat(each[..., None], 3, -1) for each in (grey, other)]
    assert ssimulacra2.score(grey, other) == ssimulacra2.score(*colour)


@pytest.mark.parametrize("shape", [(7, 8, 3), (8, 7, 3), (1, 1, 3), (5, 9)])
def test_images_too_small_are_refused(shape):
    image = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=f"8 pixels a side, not {shape[1]}x{shape[0]}"):
        ssimulacra2.score(image, image)


def test_images_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        ssimulacra2.score(np.zeros((9, 9, 3), "u1"), np.zeros((9, 8, 3), "u1"))


def test_small_images_score_as_large_ones_do(photograph):
    """Each scale keeps its weights where others are missing."""
    whole = ssimulacra2.score(photograph, noisy(photograph))
    for side in (224, 128, 64):
        piece = photograph[100 : 100 + side, 200 : 200 + side]
        assert ssimulacra2.score(piece, noisy(piece)) == pytest.approx(whole, abs=10)


def test_scores_fall_with_distance():
    scores = ssimulacra2.score_of([0, 0.01, 1, 10, 100, 1000])
    assert scores[0] == 100
    assert np.all(np.diff(scores) < 0)


@pytest.mark.parametrize("size", [(225, 240), (64, 101)])
def test_tensorflow_and_numpy_agree(photograph, size):
    tf = pytest.importorskip("tensorflow")
    images = [photograph[i : i + size[0], i : i + size[1]] for i in (0, 140)]
    others = [decoded(images[0], 30), noisy(images[1])]
    distances = ssimulacra2.distance(batch(*images), tf.constant(batch(*others)))
    expected = [ssimulacra2.score(*pair) for pair in zip(images, others)]
    scores = ssimulacra2.score_of(distances.numpy())
    np.testing.assert_allclose(scores, expected, atol=0.01)


def slope(x, x_hat):
    import tensorflow as tf

    x_hat = tf.constant(x_hat)
    with tf.GradientTape() as tape:
        tape.watch(x_hat)
        distance = tf.reduce_sum(ssimulacra2.distance(x, x_hat))
    return float(distance), tape.gradient(distance, x_hat).numpy()


def test_the_gradient_is_that_of_finite_differences(photograph):
    pytest.importorskip("tensorflow")
    x = batch(photograph[100:164, 200:264])
    x_hat = batch(decoded(photograph[100:164, 200:264], 40))
    _, gradient = slope(x, x_hat)
    rng = np.random.default_rng(0)
    for _ in range(3):
        step = rng.normal(size=x.shape).astype(np.float32)
        ahead, _ = slope(x, x_hat + 0.02 * step)
        behind, _ = slope(x, x_hat - 0.02 * step)
        expected = (ahead - behind) / 0.04
        assert np.sum(gradient * step) == pytest.approx(expected, rel=0.05, abs=0.02)


@pytest.mark.parametrize("level", [0, 128, 255, "photograph"])
def test_gradients_are_finite_at_equal_images(photograph, level):
    pytest.importorskip("tensorflow")
    x = batch(photograph[:64, :80])
    if level != "photograph":
        x = np.full_like(x, level)
    distance, gradient = slope(x, x)
    assert distance == pytest.approx(0, abs=1e-3)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("level", [-400, 0, 255, 700])
def test_gradients_are_finite_at_flat_images_also_beyond_the_scale(photograph, level):
    pytest.importorskip("tensorflow")
    x = batch(photograph[:64, :80])
    distance, gradient = slope(x, np.full_like(x, level))
    assert np.isfinite(distance)
    assert distance > 10
    assert np.all(np.isfinite(gradient))


def test_each_image_of_a_batch_has_its_own_distance(photograph):
    pytest.importorskip("tensorflow")
    x = batch(photograph[:64, :64], photograph[64:128, :64])
    x_hat = batch(x[0], noisy(photograph[64:128, :64]))
    both = ssimulacra2.distance(x, x_hat).numpy()
    assert both[0] == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(
        both[1:], ssimulacra2.distance(x[1:], x_hat[1:]), rtol=1e-4
    )
