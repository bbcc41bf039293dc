"""SSIM, MS-SSIM and masked squared error with their slopes, in NumPy.

For `--effort` on machines without TensorFlow; `losses` has the same in TensorFlow, and
tells what they are. Arrays are float32 [3, h, w].
"""

from __future__ import annotations

import numpy as np

from tfcodec import blas, metrics
from tfcodec.array_functions import NUMPY
from tfcodec.distortions import LEAST_SIMILARITY, VISIBLE_VARIANCE
from tfcodec.ssimulacra2 import RADIUS, across
from tfcodec.ssimulacra2_slope import halved, through_scales


def blur(x):
    """Means under each whole window: [..., h, w] to [..., h - 10, w - 10]."""
    for _ in range(2):
        x = across(NUMPY, x)[..., RADIUS:-RADIUS].swapaxes(-1, -2)
    return x


def blur_back(slope):
    """The slope with respect to what `blur` made, as that to what it took."""
    x = np.pad(slope, [(0, 0)] * (slope.ndim - 2) + [(RADIUS, RADIUS)] * 2)
    for _ in range(2):
        x = across(NUMPY, x).swapaxes(-1, -2)
    return x


def planes(image):
    """uint8 [h, w, 3] as float32 [3, h, w]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)


class MaskedError:
    """`losses.masked_mse` from an original, uint8 [h, w, 3]."""

    @blas.one_thread
    def __init__(self, image: np.ndarray):
        self.image = image.astype(np.float32)
        around = ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS))
        padded = np.pad(planes(image), around, mode="symmetric")
        variance = np.maximum(blur(padded**2) - blur(padded) ** 2, 0).mean(0)
        self.weight = 1 / (1 + variance[..., None] / np.float32(VISIBLE_VARIANCE))

    def compare(self, decoded: np.ndarray):
        """Returns (the error, function of its slope): see `Distortion.compare`."""
        error = decoded - self.image
        weighted = error * self.weight
        mean = np.mean(error * weighted, dtype=np.float64)
        return float(mean), lambda: weighted * np.float32(2 / error.size)


class Similarity:
    """1 - SSIM of decoded pictures of one original.

    Args:
        image: the original, uint8 [h, w, 3], each side at least 11 pixels.
    """

    def __init__(self, image: np.ndarray):
        self.originals = [planes(image)]
        self.weights = np.ones(1)

    @blas.one_thread
    def compare(self, decoded: np.ndarray):
        """Returns (1 - similarity, function of its slope): see `Distortion.compare`."""
        found, scales = planes(decoded), []
        for number, original in enumerate(self.originals):
            found = halved(found) if number else found
            last = number == len(self.originals) - 1
            scales.append(_Scale(original, found, last))
        terms = np.stack([scale.term for scale in scales])
        kept, weights = self.limited(terms), self.weights[:, None]
        similarity = np.prod(kept**weights, 0)  # of each colour

        @blas.one_thread
        def slope():
            shares = -similarity * weights / kept / len(similarity)
            each = (scale.slope(x) for scale, x in zip(scales[::-1], shares[::-1]))
            return through_scales(each).transpose(1, 2, 0)

        return float(1 - similarity.mean()), slope

    def limited(self, terms):
        """Returns the terms of each scale and colour as they are multiplied."""
        # The slope is computed as the product divided by a term, so none may be 0.
        return np.where(terms == 0, np.finfo(float).tiny, terms)


class MultiscaleSimilarity(Similarity):
    """1 - MS-SSIM of decoded pictures of one original, as in `losses.ms_ssim`.

    Args:
        image: as for `Similarity`.
    """

    def __init__(self, image: np.ndarray):
        super().__init__(image)
        weights = metrics.SCALE_WEIGHTS
        while len(self.originals) < len(weights):
            smaller = halved(self.originals[-1])
            if min(smaller.shape[1:]) < len(metrics.WINDOW):
                break
            self.originals.append(smaller)
        self.weights = np.array(weights[: len(self.originals)])
        self.weights *= sum(weights) / self.weights.sum()

    def limited(self, terms):
        return np.maximum(terms, LEAST_SIMILARITY)


class _Scale:
    """One scale of an original and of a decoded picture.

    Args:
        a, b: original and decoded picture at this scale, [3, h, w].
        last: whether luminance counts.
    """

    def __init__(self, a, b, last):
        self.a, self.b, self.last = a, b, last
        self.parts = metrics.ssim_parts(a, b, blur)
        luminance, contrast = self.parts[:2]
        self.map = luminance * contrast if last else contrast
        # Its mean for each colour, [3].
        self.term = self.map.mean((1, 2), dtype=np.float64)

    def slope(self, share):
        """Returns the slope with respect to the decoded picture, [3, h, w].

        Args:
            share: the slope with respect to `term`, [3].
        """
        luminance, contrast, mean_a, mean_b, squares, variances = self.parts
        share = np.float32(share / self.map[0].size)[:, None, None]
        d_luminance = share * contrast if self.last else np.float32(0)
        d_contrast = share * luminance if self.last else share
        # luminance = (2 mean_a mean_b + C1) / squares, squares = mean_a^2 + ... + C1;
        # contrast = (2 covariance + C2) / variances; both subtract products of means.
        d_covariance = 2 * d_contrast / variances
        d_variances = -d_contrast * contrast / variances
        d_mean = 2 * d_luminance * (mean_a - luminance * mean_b) / squares
        d_mean -= mean_a * d_covariance + 2 * mean_b * d_variances
        d_covariance, d_variances, d_mean = blur_back(
            np.stack([d_covariance, d_variances, d_mean])
        )
        return self.a * d_covariance + 2 * self.b * d_variances + d_mean
