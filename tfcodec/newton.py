"""Newton steps of latents towards the least cost, for `--effort`.

The cost is one of bits: rate + lambda * distortion * pixels. Steps follow the slope of
its second part; what a latent changes in the bits of others is left out, as it hardly
helps. docs/training.md derives the mean curvature, and has the figures behind this and
the constants, under "Effort".

`xp` are the functions of `array_functions`, those of NumPy or of TensorFlow.
"""

from __future__ import annotations

import math

# Curvature of the cost in a latent, in bits, on average.
MEAN = 12 / math.log(2)
# The least curvature, as a share of the mean: smaller ones would make steps too large.
LEAST = 0.75
# How many times the curvature of its channel that of a position may be.
POSITION_RANGE = 0.5, 4.0
# An estimate counts the expected value as if it had this sum of squared errors, which
# about 50 latents have: rounding errors have a variance of 1/12.
PRIOR = 4.0
# How far a whole step may lead from the rounded latent.
FARTHEST = 1.2


def target(xp, y, y_hat, slope):
    """Returns where a whole Newton step leads, [b, h, w, c].

    Args:
        xp: see above.
        y: latents after the gain, [b, h, w, c].
        y_hat: what the decoder sees in their place, of the same shape.
        slope: derivative of lambda * distortion * pixels with respect to y_hat, of the
            same shape.
    """
    step = slope / curvature(xp, y_hat - y, slope)
    return y_hat - _within(xp, step, -FARTHEST, FARTHEST)


def curvature(xp, error, slope):
    """Estimates the curvature of the cost in each latent of each image.

    If the cost were quadratic, and each latent alone, the slope would be the curvature
    times the error. Curvatures differ between channels, above all by SSIMULACRA2, where
    those of the means of blocks are several times the others', and between places in an
    image, as some hide errors. So the estimate is the product of one for each channel
    and one for each position, each the slope of the line through zero that fits best.

    Args:
        xp: see above.
        error: y_hat - y, [b, h, w, c].
        slope: as for `target`.

    Returns:
        The curvatures, of the same shape, all positive.
    """

    def fitted(axes, expected):
        """Returns the curvature as a share of `expected`, over some axes."""
        product = xp.sum(error * slope / expected, axes, keepdims=True)
        square = xp.sum(error**2, axes, keepdims=True)
        return (product + PRIOR) / (square + PRIOR)

    channel = MEAN * xp.maximum(fitted((1, 2), MEAN), LEAST)
    position = _within(xp, fitted((3,), channel), *POSITION_RANGE)
    return xp.maximum(channel * position, MEAN * LEAST)


def _within(xp, values, low, high):
    """Returns values, limited to low..high."""
    return xp.minimum(xp.maximum(values, low), high)
