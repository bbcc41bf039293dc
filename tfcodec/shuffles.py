"""Layers that move values between space and channels."""

from __future__ import annotations

import tensorflow as tf


class OfSquares(tf.keras.layers.Layer):
    """A layer that takes or makes squares of `size` pixels a side."""

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        self.size = size


class SpaceToDepth(OfSquares):
    """[b, h, w, c] to [b, h / size, w / size, c * size**2]."""

    def call(self, x):
        return tf.nn.space_to_depth(x, self.size)


class DepthToSpace(OfSquares):
    """[b, h, w, c * size**2] to [b, h * size, w * size, c]."""

    def call(self, x):
        return tf.nn.depth_to_space(x, self.size)


class Repeat(OfSquares):
    """[b, h, w, c] to [b, h * size, w * size, c], each value a square of equal ones.

    What Keras' UpSampling2D returns, by an operation whose gradient XLA has.
    """

    def call(self, x):
        return tf.nn.depth_to_space(tf.tile(x, [1, 1, 1, self.size**2]), self.size)
