"""Slopes for `--effort` without TensorFlow: of distortions, and of syntheses."""

import io

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tfcodec import distortion_slopes, distortions, metrics, ssimulacra2
from tfcodec.distortion_slopes import Distortion


def decoded(image, quality=40):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def direction(shape):
    """A smooth change that raises some samples and lowers others, by whole levels."""
    rows, columns = np.indices(shape[:2])
    waves = np.stack([np.sin(rows / 5 + k) * np.cos(columns / 7 - k) for k in range(3)])
    return np.rint(2 * waves.transpose(1, 2, 0))


TEXTS = [*distortions.FACTORS, "mse:0.2,ssimulacra2:0.8", "ssim:2,ms-ssim"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [(192, 256), (101, 77), (12, 16), (8, 9)])
def test_a_slope_foretells_what_a_change_does(text, size):
    if min(size) < 11 and "ssim" in text.replace("ssimulacra2", ""):
        pytest.skip("SSIM needs 11 pixels a side")
    image = tiny.photograph(*size)
    # Far from black and white, so that all levels can change both ways.
    image = (image * 0.8 + 25).astype(np.uint8)
    found, way = decoded(image), direction(image.shape)
    found = np.clip(found, 4, 251)
    distortion = Distortion(text, image)
    value, slope = distortion.compare(found)
    up, down = (
        distortion.compare((found + sign * way).astype(np.uint8))[0] for sign in (1, -1)
    )
    slope = slope()
    assert (slope.shape, slope.dtype) == (image.shape, np.float32)
    expected = np.sum(slope * way, dtype=np.float64)
    assert expected == pytest.approx((up - down) / 2, rel=0.05, abs=0.005 * value)


def test_distortions_are_those_of_the_metrics():
    image = tiny.photograph(150, 130)
    found = decoded(image)
    error, _ = Distortion("mse", image).compare(found)
    assert error == pytest.approx(metrics.mse(image, found))
    distance, _ = Distortion("ssimulacra2", image).compare(found)
    distance /= distortions.FACTORS["ssimulacra2"]
    score = ssimulacra2.score(image, found)
    assert ssimulacra2.score_of(distance) == pytest.approx(score, abs=1e-3)
    image = tiny.photograph(170, 165)
    found = decoded(image)
    for name, function in {"ssim": metrics.ssim, "ms-ssim": metrics.ms_ssim}.items():
        distance, _ = Distortion(name, image).compare(found)
        expected = distortions.FACTORS[name] * (1 - function(image, found))
        assert distance == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("text", TEXTS)
def test_an_equal_picture_has_no_distortion_and_slopes_are_finite(text):
    image = tiny.photograph(64, 96)
    value, slope = Distortion(text, image).compare(image.copy())
    assert value == 0
    assert np.all(np.isfinite(slope()))
    for other in (np.zeros_like(image), 255 - image):
        value, slope = Distortion(text, image).compare(other)
        assert value > 0
        assert np.all(np.isfinite(slope()))


def test_one_original_serves_many_pictures():
    image = tiny.photograph(96, 80)
    distortion = Distortion("ssimulacra2", image)
    first = distortion.compare(decoded(image, 10))
    before = first[1]().copy()
    distortion.compare(decoded(image, 90))[1]()
    again = distortion.compare(decoded(image, 10))
    assert again[0] == first[0]
    np.testing.assert_array_equal(again[1](), before)


def test_every_distortion_has_a_slope():
    assert distortion_slopes.TERMS.keys() == distortions.FACTORS.keys()


@pytest.mark.parametrize("size", [(128, 192), (176, 192), (101, 77)])
@pytest.mark.parametrize("text", TEXTS)
def test_slopes_are_those_that_tensorflow_derives(text, size):
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    from tfcodec import losses

    image = tiny.photograph(*size)
    found = decoded(image)
    x_hat = tf.constant(found[None], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x_hat)
        expected = losses.Distortion.parse(text)(tf.cast(image[None], "float32"), x_hat)
    derived = tape.gradient(expected, x_hat)[0].numpy()
    value, slope = Distortion(text, image).compare(found)
    # A power of MS-SSIM's terms in float32 is less exact in TensorFlow.
    rel = 1e-4 if "ms-ssim" in text else 1e-5
    assert value == pytest.approx(float(expected[0]), rel=rel)
    assert np.linalg.norm(slope() - derived) < 1e-3 * np.linalg.norm(derived)


def layers_with_weights():
    """Stacks of layers, of which syntheses are made, by name; with their channels."""
    import tensorflow as tf

    from tfcodec import layers, transforms
    from tfcodec.shuffles import DepthToSpace, Repeat

    random = {
        "kernel_initializer": tf.keras.initializers.HeNormal(seed=1),
        "bias_initializer": tf.keras.initializers.RandomNormal(seed=2),
    }
    block = layers.Block(8)
    for part in (block.space, block.channels):
        part.layers[-1].kernel_initializer = random["kernel_initializer"]
    stacks = {
        "convolution": [layers.conv(6, 3, **random), tf.keras.layers.ReLU()],
        "pointwise": [layers.conv(6, 1, **random), layers.leaky_relu()],
        "transposed": [layers.up(3, 5, **random)],
        "twice the stride": [layers.up(3, 4, 2, **random)],
        "twice a large stride": [layers.up(3, 32, 16, **random)],
        "as large as the stride": [layers.up(3, 8, 8, **random)],
        "block": [block],
        "gdn": [layers.conv(8, 1, **random), layers.gdn()],
        "inverse gdn": [layers.igdn(), layers.conv(4, 1, **random)],
        "shuffles": [DepthToSpace(2), Repeat(2), layers.conv(5, 3, **random)],
    }
    sums = layers.Sum(
        layers.up(3, 4, 4, **random),
        transforms.stack(layers.up(4, 4, **random), layers.up(3, 4), name="detail"),
    )
    return {name: transforms.stack(*x, name="n") for name, x in stacks.items()} | {
        "sum": transforms.stack(sums, name="n")
    }


KINDS = [
    "convolution",
    "pointwise",
    "transposed",
    "twice the stride",
    "twice a large stride",
    "as large as the stride",
    "block",
    "gdn",
    "inverse gdn",
    "shuffles",
    "sum",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_of_a_layer_is_its_gradient(kind):
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    from tfcodec import litert_slope

    network = layers_with_weights()[kind]
    x = tf.random.stateless_normal([1, 12, 16, 8], (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = network(x)
        slope = tf.random.stateless_normal(expected.shape, (3, 4))
        total = tf.reduce_sum(expected * slope)
    y, back = litert_slope.both_ways(network, x)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    np.testing.assert_allclose(back(slope), tape.gradient(total, x), atol=1e-3)


@pytest.mark.parametrize("kind", ["gdn", "igdn", "leaky_relu"])
def test_a_file_in_half_precision_has_finite_slopes_at_zero(kind):
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    from tfcodec import layers, litert_export, litert_slope

    network = {"gdn": layers.gdn, "igdn": layers.igdn, "leaky_relu": layers.leaky_relu}
    layer = network[kind]()
    x = np.random.default_rng(0).normal(size=[1, 4, 4, 8]).astype(np.float32)
    x[:, ::2] = 0
    slope = np.ones_like(x)
    with tf.GradientTape() as tape:
        known = tf.constant(x)
        tape.watch(known)
        total = tf.reduce_sum(layer(known))
    expected = tape.gradient(total, known).numpy()

    def both(x, slope):
        y, back = litert_slope.both_ways(layer, x)
        return {"y": y, "found": back(slope)}

    spec = tf.TensorSpec(x.shape, tf.float32)
    concrete = tf.function(both).get_concrete_function(x=spec, slope=spec)
    content = litert_export.from_graph(concrete)
    run = interpreters.Interpreter(model_content=content).get_signature_runner()
    found = run(x=x, slope=slope)["found"]
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found[:, 1::2], expected[:, 1::2], atol=2e-3)


def test_a_layer_without_a_way_back_is_told():
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    from tfcodec import layers, litert_slope

    x = tf.zeros([1, 8, 8, 3])
    for layer in (
        tf.keras.layers.Softmax(),
        layers.conv(4, 3, activation="tanh"),
        layers.down(4, 3),
    ):
        with pytest.raises(litert_slope.Unknown, match="no slope"):
            litert_slope.both_ways(layer, x)
