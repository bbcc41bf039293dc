import pathlib

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

from PIL import Image

from tfcodec import losses, metrics, ssimulacra2
from tfcodec.losses import Distortion

MIXTURE = "mse:0.3,ssimulacra2:0.7,masked-mse"
PHOTOGRAPH = pathlib.Path(__file__).parent / "photograph.png"


@pytest.fixture(scope="module")
def photograph():
    return np.float32(Image.open(PHOTOGRAPH).convert("RGB"))


def pair(photograph, height=192, width=208, noise=6.0):
    """A photograph and a noisy one, float32 [1, height, width, 3]."""
    x = photograph[None, :height, :width]
    grain = np.random.default_rng(0).normal(size=x.shape)
    return x, np.clip(x + noise * grain, 0, 255).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("mse", "mse"),
        ("ms-ssim:1.0", "ms-ssim"),
        (" ssimulacra2:.7, mse:0.3,", "mse:0.3,ssimulacra2:0.7"),
        ("masked-mse,ssimulacra2:1e-3", "ssimulacra2:0.001,masked-mse"),
        (MIXTURE, MIXTURE),
    ],
)
def test_a_distortion_has_one_text(text, canonical):
    assert str(Distortion.parse(text)) == canonical
    assert Distortion.parse(canonical) == Distortion.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no distortion is named"),
        ("psnr", "no distortion 'psnr'; there are mse, ssim,"),
        ("mse:0", "weight of mse must be above 0, not 0"),
        ("mse:-1,ssim", "weight of mse must be above 0"),
        ("ssim:nan", "weight of ssim must be above 0"),
        ("mse:inf", "weight of mse must be above 0"),
        ("mse:0.5,ssim,mse", "mse is there twice"),
        ("mse:much", "not a weight: 'mse:much'"),
        ("mse:", "not a weight: 'mse:'"),
    ],
)
def test_a_text_that_names_no_distortion_is_explained(text, words):
    with pytest.raises(ValueError, match=words):
        Distortion.parse(text)


@pytest.mark.parametrize("name", losses.TERMS)
def test_a_distortion_is_0_of_equal_images_and_grows_with_noise(photograph, name):
    distortion = Distortion.parse(name)
    x, _ = pair(photograph)
    with tf.GradientTape() as tape:
        x_hat = tf.Variable(x)
        equal = distortion(x, x_hat)
    assert equal.numpy() == pytest.approx([0], abs=1e-3)
    assert np.all(np.isfinite(tape.gradient(equal, x_hat)))
    values = [
        float(distortion(*pair(photograph, noise=noise))[0]) for noise in (2, 6, 18)
    ]
    assert 0.01 < values[0] < values[1] < values[2]


@pytest.mark.parametrize("name", losses.TERMS)
def test_a_distortion_falls_against_its_gradient_and_knows_no_image_size(
    photograph, name
):
    distortion = Distortion.parse(name)
    x, x_hat = pair(photograph, 96, 131)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])] * 2)
    def of_any_size(x, x_hat):
        value = distortion(x, x_hat)
        return value, tf.gradients(value, x_hat)[0]

    value, slope = of_any_size(x, x_hat)
    assert value.numpy() == pytest.approx(distortion(x, x_hat).numpy(), rel=1e-4)
    step = 0.01 * value / tf.reduce_sum(slope**2)
    nearer = distortion(x, x_hat - step * slope)
    assert nearer.numpy() == pytest.approx(0.99 * value.numpy(), rel=2e-3)


@pytest.mark.parametrize("size", [(161, 161), (163, 250)])
@pytest.mark.parametrize("noise", [3, 40])
def test_similarities_are_those_of_metrics(photograph, size, noise):
    x, x_hat = pair(photograph, *size, noise)
    ssim, ms_ssim = metrics.similarities(x[0], x_hat[0])
    assert float(losses.ssim(x, x_hat)[0]) == pytest.approx(ssim, abs=1e-5)
    assert float(losses.ms_ssim(x, x_hat)[0]) == pytest.approx(ms_ssim, abs=1e-5)


def test_small_images_are_compared_at_the_scales_that_fit(photograph):
    assert float(losses.ms_ssim(*pair(photograph, 64, 64))[0]) < 1
    # One scale is left, which is SSIM.
    pairs = pair(photograph, 20, 11)
    one = losses.ssim(*pairs).numpy()
    assert losses.ms_ssim(*pairs).numpy() == pytest.approx(one, abs=1e-4)
    # Of three scales that differ alike, the weights add up to what those of five do.
    x = np.full([1, 200, 200, 3], 100, np.float32)
    dark = 0.5 * x
    small = losses.ms_ssim(x[:, :64, :64], dark[:, :64, :64]).numpy()
    last = metrics.SCALE_WEIGHTS[2] / sum(metrics.SCALE_WEIGHTS[:3])
    assert small == pytest.approx(losses.ssim(x, dark).numpy() ** last, rel=1e-4)


def test_ms_ssim_of_an_inverted_image_has_a_gradient(photograph):
    x, _ = pair(photograph)
    x_hat = tf.Variable(255 - x)
    with tf.GradientTape() as tape:
        value = losses.ms_ssim(x, x_hat)
    slope = tape.gradient(value, x_hat).numpy()
    assert np.all(np.isfinite(slope))
    assert np.any(slope)
    assert metrics.ms_ssim(x[0], 255 - x[0]) <= float(value[0]) < 0.5


def test_texture_hides_errors_by_its_variance():
    x = np.full([1, 40, 40, 3], 100, np.float32)
    rng = np.random.default_rng(0)
    x[:, :, 20:] += rng.normal(0, 30, [1, 40, 20, 3])
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(window, window)[..., None] / window.sum() ** 2

    def cost(row, column):
        x_hat = x.copy()
        x_hat[:, row, column] += 5
        return float(losses.masked_mse(x, x_hat)[0])

    assert cost(20, 5) == pytest.approx(25 / 40**2, rel=1e-3)
    around = x[0, 15:26, 25:36]
    mean = (window * around).sum((0, 1))
    variance = np.mean((window * around**2).sum((0, 1)) - mean**2)
    expected = 25 / 40**2 / (1 + variance / 16)
    assert cost(20, 30) == pytest.approx(expected, rel=1e-3)
    # At the border the image goes on mirrored.
    assert cost(0, 0) == pytest.approx(25 / 40**2, rel=1e-3)


def test_a_mixture_is_the_sum_of_its_terms_in_units_of_squared_error(photograph):
    x, x_hat = pair(photograph)
    expected = (
        0.3 * losses.mse(x, x_hat)
        + 0.7 * 8 * ssimulacra2.distance(x, x_hat)
        + losses.masked_mse(x, x_hat)
    )
    value = Distortion.parse(MIXTURE)(x, x_hat)
    assert value.numpy() == pytest.approx(expected.numpy(), rel=1e-6)
