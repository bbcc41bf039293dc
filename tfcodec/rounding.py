"""Weights rounded to few bits, before a model is exported.

Kernels of analyses with residual blocks, of their hyper analyses, and of second
syntheses become integers of 8 bits times a scale for each output channel. That takes
half the space of half precision, and LiteRT multiplies such integers up to four times
as fast as floats, where an analysis needs no more. All other weights, and so all of the
faithful syntheses, have half precision.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfcodec import kernels
from tfcodec.layers import Block

# Correlation of neighbouring pixels, and of the colours of one, that `for_pixels` takes
# for granted. Photographs have about as much.
BESIDE, COLOURS = 0.97, ((1.0, 0.9, 0.85), (0.9, 1.0, 0.9), (0.85, 0.9, 1.0))
STEP = 128  # inputs that `for_pixels` rounds before it corrects all later ones


def by_integers(model) -> bool:
    """Whether the kernels of a `CompressionModel`'s encoder are rounded to integers."""
    return any(isinstance(layer, Block) for layer in model.analysis.submodules)


def round_weights(model) -> None:
    """Rounds the weights of a `CompressionModel` to what an exported model stores."""
    to_half(model)
    if by_integers(model):
        round_kernels(model.analysis)
        if hasattr(model.coder, "hyper_analysis"):
            round_kernels(model.coder.hyper_analysis)


def round_synthesis(second) -> None:
    """Rounds the weights of a `RealisticSynthesis` to what an exported model stores."""
    to_half(second)
    # A linear path of 8 bits would move one sample in three by a level.
    round_kernels(second, but=(second.linear,))


def to_half(network) -> None:
    """Rounds every weight to float16, without a visible difference."""
    for variable in network.trainable_variables:
        variable.assign(tf.cast(tf.cast(variable, tf.float16), variable.dtype))


def round_kernels(network, but: tuple = ()) -> None:
    """Rounds the kernels of a network's convolutions to integers of 8 bits, scaled.

    Depthwise convolutions, biases and GDN stay as they are.

    Args:
        network: with Keras layers.
        but: layers that stay as they are.
    """
    for layer in network.submodules:
        is_convolution = isinstance(layer, tf.keras.layers.Conv2D)
        if is_convolution and not any(layer is each for each in but):
            kernel = layer.kernel.numpy()
            pixels = kernel.shape[2] == 3 and kernel.shape[0] > 8
            layer.kernel.assign((for_pixels if pixels else kernels.rounded)(kernel))


def for_pixels(kernel: np.ndarray) -> np.ndarray:
    """Rounds a kernel whose inputs are pixels, as `kernels.rounded` does, but better.

    Each rounding error is made up for by the weights that are rounded later, as far as
    their inputs can be predicted from the one whose weight was rounded (Frantar et al.
    2022, arXiv:2210.17323). Neighbouring pixels are much alike, so that most of the
    error vanishes: for a lapped transform 32 pixels wide, a seventh of the error of
    plain rounding was left.

    Args:
        kernel: [side, side, 3, out].

    Returns:
        float32, of the same shape.
    """
    if kernels.split(kernel):
        return kernel
    side, _, _, outputs = kernel.shape
    scales = kernels.whole_scales(kernel).astype(np.float64)
    weights = kernel.reshape(-1, outputs) / scales
    distance = np.abs(np.subtract.outer(np.arange(side), np.arange(side)))
    beside = BESIDE**distance
    moments = np.kron(np.kron(beside, beside), COLOURS)
    moments += 1e-4 * np.eye(len(moments))
    # Row k tells how the inputs from k on are predicted from each other, once those
    # before k are known.
    follow = np.linalg.cholesky(np.linalg.inv(moments)).T
    whole = np.empty_like(weights)
    for start in range(0, len(weights), STEP):
        stop = min(start + STEP, len(weights))
        errors = np.empty([stop - start, outputs])
        for k in range(start, stop):
            whole[k] = np.clip(np.rint(weights[k]), -127, 127)
            error = errors[k - start] = (weights[k] - whole[k]) / follow[k, k]
            weights[k + 1 : stop] -= np.outer(follow[k, k + 1 : stop], error)
        weights[stop:] -= follow[start:stop, stop:].T @ errors
    return (whole * scales).astype(np.float32).reshape(kernel.shape)
