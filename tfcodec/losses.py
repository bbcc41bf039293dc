"""What training minimises: distortions, and the sum of rate and distortion.

Images are float32 [b, h, w, 3] on the 0..255 scale, originals `x` and decoded ones
`x_hat`; sizes may be static or dynamic. Every distortion is 0 for equal images, and its
gradient with respect to `x_hat` is finite everywhere.
"""

from __future__ import annotations

import tensorflow as tf

from tfcodec import metrics, ssimulacra2
from tfcodec.distortions import LEAST_SIMILARITY, VISIBLE_VARIANCE, Mixture
from tfcodec.ssimulacra2 import blur


def mse(x, x_hat):
    """Mean squared error of each image, [b], on the 0..255 scale."""
    return tf.reduce_mean(tf.math.squared_difference(x, x_hat), [1, 2, 3])


def psnr(error):
    """Peak signal-to-noise ratio in decibels of a mean squared error."""
    return 10 * tf.math.log(255.0**2 / tf.maximum(error, 1e-9)) / tf.math.log(10.0)


def ssim(x, x_hat):
    """Structural similarity, [b], -1 to 1, as `metrics.ssim`.

    Sides must be at least 11 pixels.
    """
    luminance, contrast = metrics.ssim_terms(x, x_hat, blur)
    return tf.reduce_mean(luminance * contrast, [1, 2, 3])


def ms_ssim(x, x_hat):
    """Multiscale structural similarity, [b], 0 to 1, as `metrics.ms_ssim`.

    An image with a side under 161 pixels is too small for all five scales: it is
    compared at those into which a window fits, with weights in the same proportions and
    of the same sum. Sides must be at least 11 pixels. If two images differ so much that
    the mean of a term is below `LEAST_SIMILARITY`, the value is slightly above that of
    `metrics.ms_ssim`.
    """
    weights = tf.constant(metrics.SCALE_WEIGHTS)
    side, window = tf.reduce_min(tf.shape(x)[1:3]), len(metrics.WINDOW)
    # -(-a // b) is a / b rounded up, as halving does.
    fits = [
        -(-side // 2**scale) >= window for scale in range(len(metrics.SCALE_WEIGHTS))
    ]
    scales = tf.reduce_sum(tf.cast(fits, tf.int32))
    weights *= tf.cast(fits, tf.float32)
    weights *= sum(metrics.SCALE_WEIGHTS) / tf.reduce_sum(weights)
    result = 1.0
    for scale in range(len(fits)):
        if scale:
            x, x_hat = _halve(x), _halve(x_hat)
        luminance, contrast = metrics.ssim_terms(_filled(x), _filled(x_hat), blur)
        luminance = tf.where(scale == scales - 1, luminance, 1.0)
        term = tf.reduce_mean(luminance * contrast, [1, 2])
        term += tf.stop_gradient(tf.maximum(LEAST_SIMILARITY - term, 0))
        # The weight of a scale that does not fit is 0, and so is its gradient.
        result *= term ** weights[scale]
    return tf.reduce_mean(result, -1)


def _halve(x):
    """Means of 2x2 pixels; the last row or column of an odd side is repeated."""
    return tf.nn.avg_pool2d(x, 2, 2, "SAME")


def _filled(x):
    """Pads images too small for one window with zeros, at the bottom and right."""
    missing = tf.maximum(len(metrics.WINDOW) - tf.shape(x)[1:3], 0)
    return tf.pad(x, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])


def masked_mse(x, x_hat):
    """Mean of squared errors, each divided by 1 + variance / 16, [b].

    The variance is that of the original in the window of SSIM (a Gaussian with a
    standard deviation of 1.5 pixels, the image mirrored at its borders), averaged over
    the three colours. Texture hides errors (visual masking): here ripples in flat areas
    cost more than errors of the same size in leaves or hair.
    """
    margin = len(metrics.WINDOW) // 2
    around = [[0, 0], [margin, margin], [margin, margin], [0, 0]]
    padded = tf.pad(x, around, "SYMMETRIC")
    variance = tf.maximum(blur(padded**2) - blur(padded) ** 2, 0)
    variance = tf.reduce_mean(variance, -1, keepdims=True)
    error = tf.math.squared_difference(x, x_hat) / (1 + variance / VISIBLE_VARIANCE)
    return tf.reduce_mean(error, [1, 2, 3])


# The functions behind the names in `distortions.FACTORS`.
TERMS = {
    "mse": mse,
    "ssim": lambda x, x_hat: 1 - ssim(x, x_hat),
    "ms-ssim": lambda x, x_hat: 1 - ms_ssim(x, x_hat),
    "ssimulacra2": ssimulacra2.distance,
    "masked-mse": masked_mse,
}


class Distortion(Mixture):
    """A weighted sum of distortions, in units of squared error."""

    def __call__(self, x, x_hat):
        """Returns the distortion of each image, [b], from `x`, `x_hat` [b, h, w, 3]."""
        total = 0.0
        for name, factor in self.factors():
            total += factor * TERMS[name](x, x_hat)
        return total
