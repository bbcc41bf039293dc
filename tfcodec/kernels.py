"""Kernels of convolutions in other layouts, for other ways to compute the same."""

from __future__ import annotations

import numpy as np


def outputs_first(array):
    """[h, w, in, out], or [in, out], in LiteRT's order: [out, h, w, in], [out, in]."""
    return np.moveaxis(array, -1, 0)


def int8_scales(array):
    """The scale of each output channel's weights in `int8`: float32 [out].

    `array` is a kernel with outputs first, [out, ...]. The largest magnitude of each
    channel becomes 127.
    """
    array = array.reshape(len(array), -1).astype(np.float32, copy=False)
    largest = np.maximum(array.max(1), -array.min(1))
    return np.where(largest > 0, largest / np.float32(127), np.float32(1))


def int8(array):
    """A kernel with outputs first, rounded to whole multiples of its `int8_scales`."""
    array = np.ascontiguousarray(array, np.float32)
    scales = int8_scales(array).reshape(-1, *[1] * (array.ndim - 1))
    return np.rint(array / scales).astype(np.int8)


def without_signs(array, unsigned: int):
    """The kernel of an exact layer for inputs from `exact_products.without_signs`.

    [k, k, in, out], integers in -127..127, to int8 [out, k, k, 2 in - unsigned + 1]:
    the weights of what is positive, of what was negative, and zeros.
    """
    array = array.astype(np.int8)
    parts = [array, -array[:, :, unsigned:], np.zeros_like(array[:, :, :1])]
    return outputs_first(np.concatenate(parts, 2))


def blocks(array, stride: int):
    """The kernel of a strided convolution as that of one over blocks of its stride.

    After "space to depth" a block of s x s pixels is one position with s^2 times as
    many channels. A kernel with sides of k s pixels then has sides of k positions, and
    a stride of 1.

    [side, side, in, out] to [taps, taps, stride^2 in, out].
    """
    side, _, n_in, n_out = array.shape
    taps = side // stride
    array = array.reshape(taps, stride, taps, stride, n_in, n_out)
    return array.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, -1, n_out)


def phases(array, stride: int, numpy=np):
    """The kernel of a transposed convolution as that of an ordinary one.

    In one dimension, with stride s: input i contributes to output r (counted before
    padding is cut off) by tap r - s i of the kernel. So the s outputs from s i on
    depend on the same inputs, i and those before it. They are computed as s groups of
    channels at one position of an ordinary convolution, and "depth to space" puts them
    side by side.

    Args:
        array: [side, side, out, in].
        stride: s.
        numpy: what computes it, NumPy or `tensorflow.experimental.numpy`.

    Returns:
        [taps, taps, in, stride^2 out].
    """
    side, _, n_out, n_in = array.shape
    taps = -(-side // stride)
    beyond = [0, taps * stride - side]
    whole = numpy.pad(array, [beyond, beyond, [0, 0], [0, 0]], "constant")
    whole = numpy.reshape(whole, [taps, stride, taps, stride, n_out, n_in])
    # The first input that a position sees is the furthest back: it has the last tap.
    whole = numpy.transpose(whole[::-1, :, ::-1], [0, 2, 5, 1, 3, 4])
    return numpy.reshape(whole, [taps, taps, n_in, stride * stride * n_out])
