"""PSNR, SSIM, MS-SSIM, bits per pixel, BD-rate and BD-PSNR, by NumPy.

Images are [height, width, channels] or [height, width], with values of 0 to 255 in any
type.
"""

from __future__ import annotations

import numpy as np

from tfcodec import blas

PEAK = 255.0

# Wang, Simoncelli, Bovik 2003, "Multiscale structural similarity for image quality
# assessment", and the window of Wang, Bovik, Sheikh, Simoncelli 2004.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
WINDOW /= WINDOW.sum()
STRIP = 32  # rows of an image that are compared at a time
# A matrix that computes `STRIP` neighbouring weighted sums: row i has the window from
# column i on.
BAND = np.stack([np.pad(WINDOW, (i, STRIP - 1 - i)) for i in range(STRIP)])
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
# The smallest side, in pixels, for which one window fits into the last scale.
SMALLEST_SIDE = (len(WINDOW) - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1

# RGB to Y, Cb, Cr of JFIF (BT.601), without its offsets.
YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.886 / 1.772],
        [0.701 / 1.402, -0.587 / 1.402, -0.114 / 1.402],
    ]
)


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared error over all pixels and channels.

    Raises:
        ValueError: the shapes differ, or there are no pixels.
    """
    a, b = _pair(a, b)
    return float(sum(np.sum(np.square(x - y)) for x, y in _strips(a, b)) / a.size)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all channels; inf for equal images.

    Raises:
        ValueError: as `mse`.
    """
    return psnr_of(mse(a, b))


def psnr_of(error: float) -> float:
    """Returns a mean squared error as PSNR in dB; inf for 0."""
    return float(10 * np.log10(PEAK**2 / error)) if error else float("inf")


def psnr_ycbcr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of Y, Cb and Cr (BT.601, full range) in dB, weighted 6:1:1.

    It is inf if all three planes are equal. If only some planes are equal, as chroma in
    grey images, these are left out of the mean.

    Args:
        a, b: RGB [height, width, 3].

    Raises:
        ValueError: as `mse`.
    """
    a, b = _pair(a, b)
    sums = (np.square((x - y) @ YCBCR.T).sum((0, 1)) for x, y in _strips(a, b))
    errors = sum(sums) / (a.shape[0] * a.shape[1])
    rest = errors > 1e-9  # equal planes have less, by rounding
    if not rest.any():
        return float("inf")
    values = 10 * np.log10(PEAK**2 / errors[rest])
    return float(np.average(values, weights=np.array([6, 1, 1])[rest]))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity, -1 to 1, the mean over channels, as `tf.image.ssim`.

    One scale of `ms_ssim`: the same window and constants.

    Raises:
        ValueError: as `mse`, or a side is under 11 pixels, too small for one window.
    """
    return float(next(_scales(a, b, 1))[0].mean())


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Multiscale structural similarity, 0 to 1, the mean over channels.

    As `tf.image.ssim_multiscale`: five scales, an 11x11 Gaussian window at all
    positions where it fits, 2x2 means between scales (the last row or column of an odd
    side is repeated), and negative terms count as 0.

    Raises:
        ValueError: as `mse`, or a side is under 161 pixels, too small for five scales.
    """
    return _ms_ssim(list(_scales(a, b, len(SCALE_WEIGHTS))))


def similarities(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Returns (`ssim`, `ms_ssim`) in the time of the second.

    Raises:
        ValueError: as `ms_ssim`.
    """
    means = list(_scales(a, b, len(SCALE_WEIGHTS)))
    return float(means[0][0].mean()), _ms_ssim(means)


def ssim_terms(a, b, blur):
    """The two factors of SSIM, which is the mean of their product.

    It uses only operators, so that training uses the same formulas with TensorFlow.

    Args:
        a, b: floats of 0 to 255, in any layout that `blur` takes.
        blur: function that returns the means, weighted by `WINDOW`, at all positions
            where the window fits, so that h and w are 10 less.

    Returns:
        (luminance, contrast-structure), each of the shape that `blur` returns.
    """
    return ssim_parts(a, b, blur)[:2]


def ssim_parts(a, b, blur):
    """Returns what `ssim_terms` does, and what their slopes need.

    The latter are the means of a and of b, and the denominators of both terms.
    """
    mean_a, mean_b = blur(a), blur(b)
    product = mean_a * mean_b
    squares = mean_a**2 + mean_b**2
    covariance = blur(a * b) - product
    variances = blur(a**2 + b**2) - squares
    luminance = (2 * product + C1) / (squares + C1)
    contrast = (2 * covariance + C2) / (variances + C2)
    return luminance, contrast, mean_a, mean_b, squares + C1, variances + C2


def ms_ssim_db(a: np.ndarray, b: np.ndarray) -> float:
    """`ms_ssim` in dB; inf for equal images."""
    return decibels(ms_ssim(a, b))


def decibels(similarity: float) -> float:
    """Returns a value of `ms_ssim` as -10 log10(1 - value); inf for 1."""
    rest = 1 - similarity
    return float(-10 * np.log10(rest)) if rest > 0 else float("inf")


def finite(value: float | None) -> float | None:
    """Returns a figure, but None for infinity and NaN, which JSON does not have."""
    return value if value is not None and np.isfinite(value) else None


def bits_per_pixel(size: int, height: int, width: int) -> float:
    """Returns bits per pixel of a file of `size` bytes.

    Raises:
        ValueError: there are no pixels.
    """
    if height < 1 or width < 1:
        raise ValueError(f"no pixels: {width}x{height}")
    return 8 * size / (height * width)


def bd_rate(rates_a, psnr_a, rates_b, psnr_b) -> float:
    """Average rate of curve b against curve a at equal quality, in percent.

    Bjontegaard delta rate (VCEG-M33, 2001) with piecewise cubic (PCHIP) interpolation
    of the logarithm of rate over the range of quality that both curves cover.

    Args:
        rates_a, rates_b: sequences of rates above 0, in any one unit.
        psnr_a, psnr_b: quality at those rates, in any order: PSNR in dB, or any other
            figure that is higher for better images, also negative.

    Returns:
        Percent; -10 says that b needs 10 % fewer bits.

    Raises:
        ValueError: lengths differ, under two points, a rate not above 0, a quality
            twice in one curve, a value not finite, or no quality in common.
    """
    curves = [_curve(rates_a, psnr_a), _curve(rates_b, psnr_b)]
    return float(100 * np.expm1(_mean_gap(curves, "quality")))


def bd_psnr(rates_a, psnr_a, rates_b, psnr_b) -> float:
    """Average quality of curve b above curve a at equal rate, in dB of PSNR.

    As `bd_rate`, with the axes changed: quality is interpolated over the logarithm of
    rate, on the range of rates that both curves cover.

    Returns:
        dB; 0.5 says that b is better by half a decibel.

    Raises:
        ValueError: as `bd_rate`; or a rate twice in one curve, or no rate in common.
    """
    curves = []
    for rates, quality in ((rates_a, psnr_a), (rates_b, psnr_b)):
        quality, rates = _curve(rates, quality)
        order = np.argsort(rates)
        curves.append((rates[order], quality[order]))
        if np.any(np.diff(rates[order]) <= 0):
            raise ValueError("a curve has one rate twice")
    return float(_mean_gap(curves, "rate"))


def _pair(a, b):
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {list(a.shape)} and {list(b.shape)}")
    if not a.size:
        raise ValueError("no pixels")
    return a, b


def _strips(a, b, margin: int = 0):
    """Yields rows of two images as float64, `STRIP` of them and `margin` more.

    The margin is the beginning of the next strip. Strips fit into the processor's
    cache, and a whole image in float64 may not fit into memory.
    """
    for top in range(0, len(a) - margin, STRIP):
        rows = slice(top, top + STRIP + margin)
        yield np.asarray(a[rows], np.float64), np.asarray(b[rows], np.float64)


def _blur(planes):
    """Weighted mean under each whole window: [c, h, w] to [c, h - 10, w - 10].

    There are at most `STRIP` + 10 rows.
    """
    margin = len(WINDOW) - 1
    _, height, width = planes.shape
    lines = BAND[: height - margin, :height] @ planes
    blocks = []
    for left in range(0, width - margin, STRIP):  # matrix products are the fastest way
        right = min(left + STRIP + margin, width)
        across = BAND[: right - left - margin, : right - left]
        blocks.append(lines[..., left:right] @ across.T)
    return np.concatenate(blocks, -1)


def _scales(a, b, count):
    """Yields the means of `_means` of each scale."""
    a, b = _pair(a, b)
    if a.ndim == 2:
        a, b = a[..., None], b[..., None]
    name, side = ("SSIM", len(WINDOW)) if count == 1 else ("MS-SSIM", SMALLEST_SIDE)
    if min(a.shape[:2]) < side:
        raise ValueError(
            f"{name} needs {side} pixels a side, not {a.shape[1]}x{a.shape[0]}"
        )
    for scale in range(count):
        if scale:
            a, b = _halve(a), _halve(b)
        yield _means(a, b)


@blas.one_thread
def _means(a, b):
    """Means of SSIM and of its contrast-structure term by channel, [2, channels]."""
    margin = len(WINDOW) - 1
    sums = np.zeros([2, a.shape[2]])
    for x, y in _strips(a, b, margin):
        planes = (np.ascontiguousarray(each.transpose(2, 0, 1)) for each in (x, y))
        luminance, contrast = ssim_terms(*planes, _blur)
        sums += (luminance * contrast).sum((1, 2)), contrast.sum((1, 2))
    return sums / ((a.shape[0] - margin) * (a.shape[1] - margin))


def _ms_ssim(scales):
    """Returns MS-SSIM of what `_means` returns for each scale."""
    terms = np.stack([contrast for _, contrast in scales[:-1]] + [scales[-1][0]])
    weights = np.array(SCALE_WEIGHTS)[:, None]
    return float(np.mean(np.prod(np.maximum(terms, 0) ** weights, 0)))


def _halve(image):
    """Means of 2x2 pixels, as float64; an odd last row or column is repeated."""
    height, width = image.shape[:2]
    image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rows = np.add(image[::2], image[1::2], dtype=np.float64)
    return (rows[:, ::2] + rows[:, 1::2]) / 4


def _curve(rates, qualities):
    """Returns quality, ascending, and the logarithm of rate, both float64 [n]."""
    rates, qualities = np.asarray(rates, float), np.asarray(qualities, float)
    if rates.shape != qualities.shape or rates.ndim != 1 or len(rates) < 2:
        raise ValueError("a curve needs two or more rates and as many qualities")
    if not np.all(np.isfinite([rates, qualities])) or np.any(rates <= 0):
        raise ValueError("rates must be above 0, and all values finite")
    order = np.argsort(qualities)
    qualities = qualities[order]
    if np.any(np.diff(qualities) <= 0):
        raise ValueError("a curve has one quality twice")
    return qualities, np.log(rates[order])


def _mean_gap(curves, what):
    """Mean difference of y, second curve minus first, over the x that both cover."""
    low = max(x[0] for x, _ in curves)
    high = min(x[-1] for x, _ in curves)
    if low >= high:
        raise ValueError(f"the curves have no {what} in common")
    area_a, area_b = (_pchip_integral(*curve, low, high) for curve in curves)
    return (area_b - area_a) / (high - low)


def _pchip_slopes(h, secants):
    """Slopes at the n knots of n - 1 intervals of width `h`.

    Fritsch, Butland 1984: the weighted harmonic mean of the two secants, or 0 if they
    differ in sign; at the ends the three-point formula, limited to stay monotone.
    """
    if len(h) == 1:
        return np.repeat(secants, 2)
    left, right = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    inside = np.zeros(len(h) - 1)
    same = secants[:-1] * secants[1:] > 0
    inside[same] = (left + right)[same] / (
        left[same] / secants[:-1][same] + right[same] / secants[1:][same]
    )

    def end(h0, h1, s0, s1):
        slope = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
        if slope * s0 <= 0:
            return 0.0
        return 3 * s0 if s0 * s1 < 0 and abs(slope) > 3 * abs(s0) else slope

    first = end(h[0], h[1], secants[0], secants[1])
    last = end(h[-1], h[-2], secants[-1], secants[-2])
    return np.array([first, *inside, last])


def _pchip_integral(x, y, low, high):
    """Integral of the PCHIP interpolant through (x, y) from `low` to `high`."""
    h = np.diff(x)
    secants = np.diff(y) / h
    d = _pchip_slopes(h, secants)
    # On an interval, with t = x - x[i]: y + d t + c t^2 + b t^3.
    c = (3 * secants - 2 * d[:-1] - d[1:]) / h
    b = (d[:-1] + d[1:] - 2 * secants) / h**2

    def primitive(t):
        return t * (y[:-1] + t * (d[:-1] / 2 + t * (c / 3 + t * b / 4)))

    knots = np.clip(x, low, high)
    return np.sum(primitive(knots[1:] - x[:-1]) - primitive(knots[:-1] - x[:-1]))
