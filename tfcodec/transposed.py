"""Transposed convolutions, also computed as ordinary ones."""

from __future__ import annotations

import tensorflow as tf

from tfcodec import kernels


def by_phases(x, kernel, side: int, stride: int):
    """A transposed convolution with padding "same", by an ordinary one of stride 1.

    XLA may compute a transposed convolution as an ordinary one over the input with
    zeros between its values: for stride s that multiplies s^2 times as much as needed.
    LiteRT's own operation is fast only if the size of its output is a constant.

    Args:
        x: [b, h, w, in].
        kernel: [taps, taps, in, stride^2 out], as `kernels.phases` makes it.
        side: of the kernel of the transposed convolution.
        stride: of the transposed convolution.

    Returns:
        [b, h * stride, w * stride, out].
    """
    taps = -(-side // stride)
    before = max(side - stride, 0) // 2
    after = stride * (taps - 1) - before
    edge = [taps - 1, taps - 1]
    x = tf.pad(x, [[0, 0], edge, edge, [0, 0]]) if taps > 1 else x
    x = tf.nn.depth_to_space(tf.nn.conv2d(x, kernel, 1, "VALID"), stride)
    cut = slice(before, -after or None)
    return x[:, cut, cut] if before or after else x


class Transposed(tf.keras.layers.Conv2DTranspose):
    """Keras' transposed convolution with padding "same", computed in one of two ways.

    Attributes:
        phased: whether to compute it by `by_phases`. At first only if the kernel is as
            large as the stride, so that outputs of different inputs do not overlap:
            then it is a matrix product and a pixel shuffle, where TensorFlow's own
            operation takes as long with Eigen and three times as long with oneDNN. On
            accelerators it is faster for all: see `by_phases`.
    """

    def __init__(self, filters: int, kernel: int, stride: int, **kwargs):
        super().__init__(filters, kernel, stride, padding="same", **kwargs)
        self.phased = kernel == stride

    def call(self, x):
        if not self.phased:
            return super().call(x)
        side, stride = self.kernel_size[0], self.strides[0]
        kernel = tf.convert_to_tensor(self.kernel)
        kernel = kernels.phases(kernel, stride, tf.experimental.numpy)
        y = by_phases(x, kernel, side, stride)
        y = tf.nn.bias_add(y, self.bias) if self.use_bias else y
        return y if self.activation is None else self.activation(y)
