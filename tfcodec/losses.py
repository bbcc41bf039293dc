"""What training minimises: distortions, and the sum of rate and distortion.

Images are [b, h, w, 3] on the 0..255 scale, originals `x` and decoded ones `x_hat`, as
float32; static or dynamic sizes will do. Every distortion is 0 where they are equal,
and its gradient by `x_hat` is finite everywhere.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from tfcodec import metrics, ssimulacra2
from tfcodec.ssimulacra2 import blur

# In masked_mse a local variance of this (a deviation of 4 of 255) halves an error.
VISIBLE_VARIANCE = 16.0
# Similarities of contrast are raised to powers below 1, whose slope at 0 is infinite:
# below this they count as this, and their gradient goes on as if they did not.
LEAST_SIMILARITY = 0.01


def mse(x, x_hat):
    """Mean squared error of each image, [b], on the 0..255 scale."""
    return tf.reduce_mean(tf.math.squared_difference(x, x_hat), [1, 2, 3])


def psnr(error):
    """Peak signal-to-noise ratio in decibels of a mean squared error."""
    return 10 * tf.math.log(255.0**2 / tf.maximum(error, 1e-9)) / tf.math.log(10.0)


def ssim(x, x_hat):
    """Structural similarity, [b], -1 to 1: that of `metrics.ssim`.

    Sides must be at least 11 pixels.
    """
    luminance, contrast = metrics.ssim_terms(x, x_hat, blur)
    return tf.reduce_mean(luminance * contrast, [1, 2, 3])


def ms_ssim(x, x_hat):
    """Multiscale structural similarity, [b], 0 to 1: that of `metrics.ms_ssim`.

    An image with a side under 161 pixels has not all five scales: it is compared at
    those of which a window fits, with weights that keep their proportions and have the
    same sum. A side must be at least 11 pixels. Where the two images are so different
    that the mean of a term is below `LEAST_SIMILARITY`, the value is a little above
    that of `metrics.ms_ssim`.
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
    """Means of 2x2 pixels, the last row and column of an odd side repeated."""
    return tf.nn.avg_pool2d(x, 2, 2, "SAME")


def _filled(x):
    """Zeros below and to the right of what is too small for one window."""
    missing = tf.maximum(len(metrics.WINDOW) - tf.shape(x)[1:3], 0)
    return tf.pad(x, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])


def masked_mse(x, x_hat):
    """Mean of squared errors, each divided by 1 + variance / 16, [b].

    The variance is that of the original in a Gaussian window of a deviation of 1.5
    pixels (that of SSIM, the image mirrored at its borders), the mean over the three
    colours. Texture hides errors (visual masking), so that ripples on flat ground cost
    more than errors as large within leaves or hair.
    """
    margin = len(metrics.WINDOW) // 2
    around = [[0, 0], [margin, margin], [margin, margin], [0, 0]]
    padded = tf.pad(x, around, "SYMMETRIC")
    variance = tf.maximum(blur(padded**2) - blur(padded) ** 2, 0)
    variance = tf.reduce_mean(variance, -1, keepdims=True)
    error = tf.math.squared_difference(x, x_hat) / (1 + variance / VISIBLE_VARIANCE)
    return tf.reduce_mean(error, [1, 2, 3])


# Distortions by name: a function, and how many units of squared error one of its units
# counts as, so that one lambda suits all. docs/training.md says where these are from.
TERMS = {
    "mse": (mse, 1.0),
    "ssim": (lambda x, x_hat: 1 - ssim(x, x_hat), 600.0),
    "ms-ssim": (lambda x, x_hat: 1 - ms_ssim(x, x_hat), 2500.0),
    "ssimulacra2": (ssimulacra2.distance, 8.0),
    "masked-mse": (masked_mse, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Distortion:
    """A weighted sum of distortions, in units of squared error.

    Its text, which `parse` reads and `str` gives, is that of `--distortion`: names with
    weights, as `mse:0.3,ssimulacra2:0.7`; a weight left out is 1.

    Args:
        weights: pairs of a name in `TERMS` and its weight, above 0.

    Raises:
        ValueError: no name, an unknown one, one twice, or a weight not above 0.
    """

    weights: tuple[tuple[str, float], ...] = (("mse", 1.0),)

    def __post_init__(self):
        names = [name for name, _ in self.weights]
        for name, weight in self.weights:
            if name not in TERMS:
                known = ", ".join(TERMS)
                raise ValueError(f"no distortion {name!r}; there are {known}")
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} must be above 0, not {weight}")
            if names.count(name) > 1:
                raise ValueError(f"{name} is there twice")
        if not names:
            raise ValueError("no distortion is named")
        # One order, in which floats are added, whatever order they were named in.
        ordered = sorted(self.weights, key=lambda pair: list(TERMS).index(pair[0]))
        object.__setattr__(self, "weights", tuple(ordered))

    @classmethod
    def parse(cls, text: str) -> Distortion:
        """Reads a text such as `mse` or `mse:0.3,ssimulacra2:0.7`.

        Raises:
            ValueError: as the class; or a weight is not a number.
        """
        weights = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, colon, weight = part.partition(":")
            try:
                weights.append((name.strip(), float(weight) if colon else 1.0))
            except ValueError:
                raise ValueError(f"not a weight: {part!r}") from None
        return cls(tuple(weights))

    def __str__(self):
        return ",".join(
            name if weight == 1 else f"{name}:{float(weight)!r}"
            for name, weight in self.weights
        )

    def __call__(self, x, x_hat):
        """The distortion of each image, [b], of `x` and `x_hat` [b, h, w, 3]."""
        total = 0.0
        for name, weight in self.weights:
            function, factor = TERMS[name]
            total += weight * factor * function(x, x_hat)
        return total


def rate_distortion(bpp, distortion, lmbda, normalised):
    """R + lambda D of each image, [b].

    Over a range of lambda the sum grows about as sqrt(lambda), and the best qualities
    would take the whole gradient; `normalised` divides by it.
    """
    cost = bpp + lmbda * distortion
    return cost / tf.sqrt(lmbda) if normalised else cost
