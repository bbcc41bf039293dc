import math
import tracemalloc

import numpy as np
import pytest

from tfcodec import metrics

RANDOM = np.random.default_rng(1)


def photo(height, width, noise=0.0):
    """Smooth waves with grain: uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width][..., None]
    waves = np.sin(x / (9 + np.arange(3))) + np.cos(y / 13) + np.sin((x + y) / 40)
    grain = np.random.default_rng(0).normal(size=(height, width, 3))
    noise = noise * RANDOM.normal(size=grain.shape)
    return np.clip(128 + 35 * waves + 4 * grain + noise, 0, 255).astype(np.uint8)


def test_equal_images():
    image = photo(180, 170)
    assert metrics.mse(image, image) == 0
    assert metrics.psnr(image, image) == math.inf
    assert metrics.ms_ssim(image, image) == pytest.approx(1, abs=1e-12)
    flat = np.full((161, 161, 3), 7, np.uint8)
    assert metrics.ms_ssim_db(flat, flat) > 100


@pytest.mark.parametrize("difference", [1, 10, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_constant_difference(difference, dtype):
    a = np.zeros((5, 7, 3), dtype)
    b = np.full((5, 7, 3), difference, dtype)
    assert metrics.mse(a, b) == metrics.mse(b, a) == difference**2
    assert metrics.psnr(a, b) == pytest.approx(20 * math.log10(255 / difference))


def test_ms_ssim_falls_with_noise_and_is_symmetric():
    clean = photo(200, 190)
    values = [metrics.ms_ssim(clean, photo(200, 190, noise)) for noise in (2, 8, 32)]
    assert 1 > values[0] > values[1] > values[2] > 0
    noisy = photo(200, 190, 8)
    assert metrics.ms_ssim(clean, noisy) == pytest.approx(metrics.ms_ssim(noisy, clean))
    db = metrics.ms_ssim_db(clean, noisy)
    assert db == metrics.decibels(metrics.ms_ssim(clean, noisy))
    assert metrics.decibels(0.99) == pytest.approx(20)
    assert metrics.decibels(1) == math.inf


def test_ms_ssim_of_one_channel_and_float():
    a, b = photo(170, 180), photo(170, 180, 9)
    each = [metrics.ms_ssim(a[..., i], b[..., i]) for i in range(3)]
    assert metrics.ms_ssim(a, b) == pytest.approx(np.mean(each))
    floats = a.astype(np.float32), b.astype(np.float32)
    assert metrics.ms_ssim(*floats) == pytest.approx(metrics.ms_ssim(a, b))


def test_ms_ssim_of_inverted_image_is_not_negative():
    image = photo(161, 161)
    assert 0 <= metrics.ms_ssim(image, 255 - image) < 0.5


@pytest.mark.parametrize("size", [(161, 161), (161, 300), (243, 187), (256, 192)])
@pytest.mark.parametrize("noise", [3, 40])
def test_ms_ssim_is_tensorflows(size, noise):
    tf = pytest.importorskip("tensorflow")
    a, b = photo(*size), photo(*size, noise)
    expected = float(tf.image.ssim_multiscale(a, b, 255))
    assert metrics.ms_ssim(a, b) == pytest.approx(expected, abs=1e-4)


def test_too_small_for_ms_ssim():
    for size in ((160, 500), (500, 160), (1, 1)):
        with pytest.raises(ValueError, match="161"):
            metrics.ms_ssim(photo(*size), photo(*size))


@pytest.mark.parametrize(
    ("metric", "most"),
    [
        (metrics.mse, 1), (metrics.psnr, 1), (metrics.psnr_ycbcr, 1),
        (metrics.ms_ssim, 12),
    ],
)  # fmt: skip
def test_an_image_is_compared_without_floats_for_all_of_it(metric, most):
    a = RANDOM.integers(0, 256, (2000, 900, 3), np.uint8)
    b = RANDOM.integers(0, 256, (2000, 900, 3), np.uint8)
    tracemalloc.start()
    metric(a, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most * a.size


@pytest.mark.parametrize("height", [1, 32, 33, 64, 170])
def test_strips_of_rows_make_no_difference(height):
    a, b = photo(height, 200), photo(height, 200, 20)
    change = a.astype(float) - b
    assert metrics.mse(a, b) == pytest.approx(np.mean(change**2), rel=1e-12)
    assert type(metrics.mse(a, b)) is float  # whose repr is a number alone
    errors = np.mean((change @ metrics.YCBCR.T) ** 2, (0, 1))
    decibels = 10 * np.log10(255**2 / errors)
    expected = decibels @ [0.75, 0.125, 0.125]
    assert metrics.psnr_ycbcr(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", [metrics.mse, metrics.psnr, metrics.ms_ssim])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match="shapes differ"):
        metric(photo(200, 200), photo(200, 201))
    with pytest.raises(ValueError, match="no pixels"):
        metric(np.zeros((0, 5, 3)), np.zeros((0, 5, 3)))


def test_bits_per_pixel():
    assert metrics.bits_per_pixel(49152, 512, 768) == 1
    with pytest.raises(ValueError, match="no pixels"):
        metrics.bits_per_pixel(1, 0, 5)


RATES = np.array([0.1, 0.22, 0.41, 0.83, 1.4])
PSNR = np.array([27.1, 29.4, 31.2, 34.0, 36.9])


@pytest.mark.parametrize("points", [2, 3, 5])
def test_bd_rate_of_a_scaled_curve(points):
    rates, psnr = RATES[:points], PSNR[:points]
    assert metrics.bd_rate(rates, psnr, rates, psnr) == pytest.approx(0)
    assert metrics.bd_rate(rates, psnr, 0.9 * rates, psnr) == pytest.approx(-10)
    assert metrics.bd_rate(0.9 * rates, psnr, rates, psnr) == pytest.approx(100 / 9)
    reverse = 0.9 * rates[::-1], psnr[::-1]
    assert metrics.bd_rate(rates, psnr, *reverse) == pytest.approx(-10)


def test_bd_rate_of_straight_lines_has_a_closed_form():
    # log2(rate) = psnr / 6 against psnr / 6 - 1 + (psnr - 30) / 30 from 30 to 36.
    a, b = np.array([24.0, 30, 36]), np.array([30.0, 33, 40])
    result = metrics.bd_rate(2 ** (a / 6), a, 2 ** (b / 6 - 1 + (b - 30) / 30), b)
    assert result == pytest.approx(100 * (2 ** (-1 + 3 / 30) - 1))


def test_bd_rate_is_scipys():
    interpolate = pytest.importorskip("scipy.interpolate")
    for _ in range(50):
        curves = []
        for _ in range(2):
            psnr = 28 + np.cumsum(RANDOM.uniform(0.2, 3, 6))
            rates = np.exp(RANDOM.normal(size=6).cumsum() * 0.3 + np.arange(6) * 0.2)
            curves += [rates, psnr]
        low, high = max(curves[1][0], curves[3][0]), min(curves[1][-1], curves[3][-1])
        a, b = (
            interpolate.PchipInterpolator(psnr, np.log(rates)).integrate(low, high)
            for rates, psnr in (curves[:2], curves[2:])
        )
        expected = 100 * (np.exp((b - a) / (high - low)) - 1)
        assert metrics.bd_rate(*curves) == pytest.approx(expected, rel=1e-9)


def test_bd_of_a_published_example():
    # The example of the README of FAU-LMS/bjontegaard (two presets of libx265); the
    # values are what that package, 1.3.0, gives for method="pchip", which it says
    # agrees with the JCT-VC spreadsheet.
    a = [9487.76, 4593.60, 2486.44, 1358.24], [40.037, 38.615, 36.845, 34.851]
    b = [9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987]
    assert metrics.bd_rate(*a, *b) == pytest.approx(-4.417485350589045)
    assert metrics.bd_psnr(*a, *b) == pytest.approx(0.11969278542479495)
    # The example that comes with Anserw/Bjontegaard_metric, by the same package.
    a = [686.76, 309.58, 157.11, 85.95], [40.28, 37.18, 34.24, 31.42]
    b = [893.34, 407.8, 204.93, 112.75], [40.39, 37.21, 34.17, 31.24]
    assert metrics.bd_rate(*a, *b) == pytest.approx(31.379878202397627)
    assert metrics.bd_psnr(*a, *b) == pytest.approx(-1.183472404622454)


def test_bd_psnr_of_a_raised_curve():
    assert metrics.bd_psnr(RATES, PSNR, RATES, PSNR + 0.7) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="no rate in common"):
        metrics.bd_psnr(RATES, PSNR, RATES * 100, PSNR)
    with pytest.raises(ValueError, match="rate twice"):
        metrics.bd_psnr(RATES, PSNR, [0.2, 0.2], [30, 31])


@pytest.mark.parametrize("size", [(11, 11), (64, 81)])
def test_ssim_is_tensorflows(size):
    tf = pytest.importorskip("tensorflow")
    a, b = photo(*size), photo(*size, 20)
    expected = float(tf.image.ssim(a, b, 255))
    assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-4)
    assert metrics.ssim(a, a) == pytest.approx(1)
    with pytest.raises(ValueError, match="11"):
        metrics.ssim(a[:10], b[:10])


def test_psnr_of_luma_and_chroma():
    a = photo(40, 50)
    assert metrics.psnr_ycbcr(a, a) == math.inf
    grey = np.full((9, 9, 3), 100, np.uint8)
    plain = metrics.psnr(grey, grey + 5)  # of luma alone: no chroma differs
    assert metrics.psnr_ycbcr(grey, grey + 5) == pytest.approx(plain)
    b = photo(40, 50, 9)
    ycc = [
        np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5],
                  [0.5, -0.418688, -0.081312]]) @ x.reshape(-1, 3).T.astype(float)
        for x in (a, b)
    ]  # fmt: skip
    y, cb, cr = (metrics.psnr(p, q) for p, q in zip(*ycc))
    assert metrics.psnr_ycbcr(a, b) == pytest.approx((6 * y + cb + cr) / 8, abs=1e-4)


@pytest.mark.parametrize(
    ("rates", "psnr", "message"),
    [
        ([1], [30], "two or more"),
        ([1, 2], [30, 31, 32], "two or more"),
        ([0, 2], [30, 31], "above 0"),
        ([1, math.nan], [30, 31], "finite"),
        ([1, 2], [30, 30], "twice"),
        ([1, 2], [10, 20], "in common"),
    ],
)
def test_bd_rate_refuses(rates, psnr, message):
    with pytest.raises(ValueError, match=message):
        metrics.bd_rate(RATES, PSNR, rates, psnr)
