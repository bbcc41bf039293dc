"""What training minimises."""

from __future__ import annotations

import tensorflow as tf


def mse(x, x_hat):
    """Mean squared error of each image, [b], on the 0..255 scale."""
    return tf.reduce_mean(tf.math.squared_difference(x, x_hat), [1, 2, 3])


def psnr(error):
    """Peak signal-to-noise ratio in decibels of a mean squared error."""
    return 10 * tf.math.log(255.0**2 / tf.maximum(error, 1e-9)) / tf.math.log(10.0)


def rate_distortion(bpp, distortion, lmbda, normalised):
    """R + lambda D of each image, [b].

    Over a range of lambda the sum grows about as sqrt(lambda), and the best qualities
    would take the whole gradient; `normalised` divides by it.
    """
    cost = bpp + lmbda * distortion
    return cost / tf.sqrt(lmbda) if normalised else cost
