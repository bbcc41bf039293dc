"""Kernels of convolutions and dense layers, rounded to 8 bits or in other layouts.

There are two ways of rounding. `rounded` is for models: its scales have so few bits
that half precision holds the rounded weights exactly, and `split` finds the integers
again. `int8` is LiteRT's own, with the finest scales.
"""

from __future__ import annotations

import numpy as np


def outputs_first(array):
    """[h, w, in, out], or [in, out], in LiteRT's order: [out, h, w, in], [out, in]."""
    return np.moveaxis(array, -1, 0)


def turned(array):
    """A kernel [h, w, ...] turned round by 180 degrees."""
    return array[::-1, ::-1]


def whole_scales(array):
    """Returns a scale for each output channel, of which its weights become multiples.

    The multiples fit 8 bits, and the scales have four significant bits. So a multiple
    of up to 127 (seven bits) of a scale has at most eleven significant bits, and half
    precision, which has as many, represents it exactly.

    Args:
        array: a kernel [..., out].

    Returns:
        float32 [out]. No magnitude of a channel is above 127 times its scale.
    """
    largest = np.abs(array.reshape(-1, array.shape[-1])).max(0).astype(np.float64)
    fraction, exponent = np.frexp(largest / 127)
    scales = np.ldexp(np.ceil(fraction * 16) / 16, exponent)
    return np.where(scales > 0, scales, 1).astype(np.float32)


def rounded(array):
    """A kernel [..., out], rounded to multiples of its `whole_scales`: float32.

    A kernel that is rounded already, so that `split` can split it, stays as it is.
    """
    if split(array):
        return array.astype(np.float32)
    scales = whole_scales(array)
    return (np.rint(array / scales) * scales).astype(np.float32)


def split(array):
    """Splits a kernel that consists of integers of 8 bits, times a scale per channel.

    Args:
        array: [..., out], such as `rounded` makes it.

    Returns:
        (int8 [..., out], float32 [out]), whose product is `array` exactly, or None.
    """
    array = array.astype(np.float32, copy=False)
    scales = whole_scales(array)
    for _ in range(2):
        whole = array / scales
        # `rounded` may have rounded the largest magnitude of a channel down so far that
        # `whole_scales` of the result gives the next finer scale. So if the weights are
        # not multiples of that, the second try is with the next coarser one.
        fits = np.all(whole == np.rint(whole), tuple(range(array.ndim - 1)))
        if np.all(fits):
            whole = whole.astype(np.int8)
            return (whole, scales) if np.array_equal(whole * scales, array) else None
        scales = np.where(
            fits, scales, whole_scales(127 * np.nextafter(scales, np.inf)[None])
        )
    return None


def int8(array):
    """Rounds a kernel with outputs first to 8 bits, with a scale for each output.

    The largest magnitude of each output channel becomes 127.

    Args:
        array: [out, ...].

    Returns:
        (int8 [out, ...], scales float32 [out]).
    """
    array = array.astype(np.float32, copy=False)
    inputs = tuple(range(1, array.ndim))
    largest = np.maximum(array.max(inputs), -array.min(inputs))
    scales = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    whole = array / scales.reshape(-1, *[1] * len(inputs))
    whole = np.rint(whole, out=whole).astype(np.int8)
    # Copied into the order of its axes only now, as a weight is one byte from here on.
    return np.ascontiguousarray(whole), scales


def integers(array):
    """A kernel with outputs first as (int8 [out, ...], scales float32 [out]).

    If the kernel was rounded before, by `rounded`, they are those of `split`, so that
    nothing is rounded twice; if not, those of `int8`.
    """
    parts = split(np.moveaxis(array, 0, -1))
    if parts is None:
        return int8(array)
    whole, scales = parts
    return outputs_first(whole), scales


def without_signs(array, unsigned: int):
    """The kernel of an exact layer for inputs from `exact_products.without_signs`.

    There, each input channel that may have negative values is two: its positive part,
    and the magnitude of its negative part, whose weights here have the other sign. The
    last channel, a constant that does not count, has weights of zero.

    Args:
        array: [k, k, in, out], integers in -127..127.
        unsigned: so many input channels, the first ones, have no negative values.

    Returns:
        int8 [out, k, k, 2 in - unsigned + 1].
    """
    array = array.astype(np.int8)
    parts = [array, -array[:, :, unsigned:], np.zeros_like(array[:, :, :1])]
    return outputs_first(np.concatenate(parts, 2))


def blocks(array, stride: int):
    """The kernel of a strided convolution as that of one over blocks of its stride.

    After "space to depth" a block of s x s pixels is one position with s^2 times as
    many channels. A kernel with sides of k s pixels then has sides of k positions, and
    a stride of 1.

    Args:
        array: [side, side, in, out], whose side is a multiple of the stride.
        stride: s.

    Returns:
        [taps, taps, stride^2 in, out]; taps = side / stride.
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
        [taps, taps, in, stride^2 out]; taps = side / stride, rounded up.
    """
    side, _, n_out, n_in = array.shape
    taps = -(-side // stride)
    beyond = [0, taps * stride - side]
    whole = array
    if any(beyond):
        whole = numpy.pad(array, [beyond, beyond, [0, 0], [0, 0]], "constant")
    whole = numpy.reshape(whole, [taps, stride, taps, stride, n_out, n_in])
    # The ordinary convolution multiplies its first tap by the earliest input, which
    # contributes to these outputs by the last taps of the transposed kernel.
    whole = numpy.transpose(whole[::-1, :, ::-1], [0, 2, 5, 1, 3, 4])
    return numpy.reshape(whole, [taps, taps, n_in, stride * stride * n_out])
