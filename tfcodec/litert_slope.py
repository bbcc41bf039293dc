"""The slope of a synthesis as a network for LiteRT: what `--effort` needs.

LiteRT has no gradients. So the network that is exported runs the layers of a synthesis
forwards, and then back from the slope with respect to the image to that with respect
to the latents. Each layer's way back consists of operations that LiteRT has: that of a
convolution, for example, is a convolution with the kernel turned round.
"""

from __future__ import annotations

import tensorflow as tf

from tfcodec import kernels
from tfcodec.layers import GDN, Block, Sum
from tfcodec.litert_layers import blockwise, by_blocks, lite, pointwise
from tfcodec.shuffles import DepthToSpace, Repeat

# A number times this is beyond 1 unless it is tiny. Constants are stored in half
# precision, whose largest number is 65504.
STEEP = 3e4


class Unknown(ValueError):
    """There is no way back for a layer of this kind."""


def both_ways(layer, x):
    """Applies a layer, and prepares its way back.

    Args:
        layer: a layer of a synthesis.
        x: its input.

    Returns:
        (its output; a function from the slope of a number with respect to the output to
        that with respect to x).

    Raises:
        Unknown: the layer, or one of its parts, is of a kind that is not in `WAYS`, or
            has a stride or an activation that it does not have in a synthesis here.
    """
    for kind, function in WAYS.items():
        if isinstance(layer, kind):
            return function(layer, x)
    raise Unknown(f"no slope of a layer {type(layer).__name__}")


def _stack(layers, x):
    ways = []
    for layer in layers:
        x, back = both_ways(layer, x)
        ways.append(back)

    def whole(slope):
        for back in reversed(ways):
            slope = back(slope)
        return slope

    return x, whole


def _block(block, x):
    middle, over_space = _stack(block.space.layers, x)
    middle += x
    y, over_channels = _stack(block.channels.layers, middle)

    def back(slope):
        slope += over_channels(slope)
        return slope + over_space(slope)

    return y + middle, back


def _sum(layer, x):
    outputs, ways = zip(*(both_ways(branch, x) for branch in layer.branches))
    return tf.add_n(outputs), lambda slope: tf.add_n([back(slope) for back in ways])


def _transposed(layer, x):
    _only_linear(layer)
    stride, side = layer.strides[0], layer.kernel_size[0]

    def back(slope):
        # Of a transposed convolution, that is the convolution it was transposed from.
        if blockwise(stride, layer.kernel.shape):
            return by_blocks(slope, layer.kernel, stride)
        return tf.nn.conv2d(slope, layer.kernel, stride, "SAME")

    if side < stride:
        raise Unknown("no slope of a transposed convolution with gaps")
    return lite(layer, x), back


def _convolution(layer, x):
    _only_linear(layer)
    if layer.strides != (1, 1):
        raise Unknown("no slope of a convolution with a stride")
    if layer.kernel_size == (1, 1):
        y = pointwise(layer, x)
        return y, lambda slope: tf.linalg.matmul(
            slope, layer.kernel[0, 0], transpose_b=True
        )
    with tf.init_scope():
        kernel = kernels.turned(layer.kernel.numpy()).swapaxes(2, 3)
    return layer(x), lambda slope: tf.nn.conv2d(slope, kernel, 1, "SAME")


def _depthwise(layer, x):
    _only_linear(layer)
    with tf.init_scope():
        kernel = kernels.turned(layer.depthwise_kernel.numpy())
    return layer(x), lambda slope: tf.nn.depthwise_conv2d(
        slope, kernel, [1, 1, 1, 1], "SAME"
    )


def _rectifier(layer, x):
    below = layer.alpha if isinstance(layer, tf.keras.layers.LeakyReLU) else 0.0
    y = layer(x)
    # 1 where y is positive, else `below`. LiteRT's fast kernels cannot choose between
    # two arrays, but they have limits. With x in place of y, the converter would move
    # the factor into the weights of the layer before.
    return y, lambda slope: slope * tf.clip_by_value(y * STEEP, float(below), 1.0)


def _gdn(layer, x):
    gamma = layer.gamma[None, None]
    norm = tf.nn.bias_add(tf.nn.conv2d(tf.abs(x), gamma, 1, "VALID"), layer.beta)
    y = x * norm if layer.inverse else x / norm
    turned = tf.transpose(gamma, [0, 1, 3, 2])

    def back(slope):
        own = slope * norm if layer.inverse else slope / norm
        by_norm = slope * x if layer.inverse else -own * y
        by_norm = tf.nn.conv2d(by_norm, turned, 1, "VALID")
        return own + by_norm * tf.clip_by_value(x * STEEP, -1.0, 1.0)

    return y, back


def _depth_to_space(layer, x):
    return layer(x), lambda slope: tf.nn.space_to_depth(slope, layer.size)


def _repeat(layer, x):
    size = layer.size

    def back(slope):
        return tf.nn.avg_pool2d(slope, size, size, "VALID") * float(size**2)

    return layer(x), back


def _only_linear(layer):
    if layer.activation not in (None, tf.keras.activations.linear):
        raise Unknown("no slope of a convolution with an activation")


# The first that a layer is an instance of counts.
WAYS = {
    tf.keras.Sequential: lambda network, x: _stack(network.layers, x),
    Block: _block,
    Sum: _sum,
    tf.keras.layers.Conv2DTranspose: _transposed,
    tf.keras.layers.DepthwiseConv2D: _depthwise,
    tf.keras.layers.Conv2D: _convolution,
    (tf.keras.layers.LeakyReLU, tf.keras.layers.ReLU): _rectifier,
    GDN: _gdn,
    DepthToSpace: _depth_to_space,
    Repeat: _repeat,
}
