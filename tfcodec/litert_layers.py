"""Layers as operations that LiteRT runs fast on images of any size."""

from __future__ import annotations

import tensorflow as tf

from tfcodec import kernels
from tfcodec.layers import Block, Joined, Sum
from tfcodec.transposed import by_phases


def lite(layer, x):
    """Applies a layer to x, by operations that LiteRT runs fast at any size of x."""
    if isinstance(layer, tf.keras.Sequential):
        for each in layer.layers:
            x = lite(each, x)
        return x
    if isinstance(layer, Block):
        x += dense(layer.space, x)
        return x + dense(layer.channels, x)
    if isinstance(layer, Joined):
        return tf.concat([lite(branch, x) for branch in layer.branches], -1)
    if isinstance(layer, Sum):
        return tf.add_n([lite(branch, x) for branch in layer.branches])
    if isinstance(layer, tf.keras.layers.Conv2DTranspose):
        return transposed(layer, x)
    if isinstance(layer, tf.keras.layers.Conv2D) and blockwise(
        layer.strides[0], layer.kernel.shape
    ):
        x = by_blocks(x, layer.kernel, layer.strides[0])
        return tf.nn.bias_add(x, layer.bias) if layer.use_bias else x
    return layer(x)


def dense(network, x):
    """Applies part of a `Block`, its pointwise convolutions as dense layers.

    Dense layers compute the same at the same speed, and LiteRT rounds their inputs more
    finely if they have weights of 8 bits: see `litert_int8`.
    """
    for layer in network.layers:
        if isinstance(layer, tf.keras.layers.Conv2D) and layer.kernel_size == (1, 1):
            x = pointwise(layer, x)
        else:
            x = lite(layer, x)
    return x


def pointwise(layer, x):
    """Applies a pointwise convolution as a dense layer."""
    return tf.linalg.matmul(x, layer.kernel[0, 0]) + layer.bias


def by_blocks(x, kernel, stride: int):
    """Computes a strided convolution of padding "same" over blocks of its stride.

    Args:
        x: [b, h, w, in], h and w multiples of the stride.
        kernel: a variable [side, side, in, out], its side a multiple of the stride.
        stride: of the convolution.
    """
    beyond = (kernel.shape[0] - stride) // 2
    with tf.init_scope():
        blocks = kernels.blocks(kernel.numpy(), stride)
    x = tf.pad(x, [[0, 0], *[[beyond, beyond]] * 2, [0, 0]]) if beyond else x
    x = tf.nn.space_to_depth(x, stride)
    return tf.nn.conv2d(x, tf.constant(blocks), 1, "VALID")


def blockwise(stride: int, kernel) -> bool:
    """Whether to compute a convolution by `by_blocks`.

    Always if the kernel is as large as its stride. If it is twice as large, only with
    few input channels, where LiteRT's own strided convolution is slow, as its inner
    products are over the channels of one pixel.

    Args:
        stride: of the convolution.
        kernel: shape of its kernel, [side, side, in, out].
    """
    side, _, inputs, _ = kernel
    return stride > 1 and (side == stride or (side == 2 * stride and inputs < 16))


def transposed(layer, x):
    """Computes a transposed convolution of padding "same" by an ordinary one."""
    stride, side = layer.strides[0], layer.kernel_size[0]
    with tf.init_scope():
        kernel = kernels.phases(layer.kernel.numpy(), stride)
    x = by_phases(x, tf.constant(kernel), side, stride)
    if layer.use_bias:
        x = tf.nn.bias_add(x, layer.bias)
    return x if layer.activation is None else layer.activation(x)
