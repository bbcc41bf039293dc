"""Scales that let 8 bits represent all channels of a layer's input well.

LiteRT rounds the input of a dense layer with 8-bit weights to 8 bits, too, with one
scale for all channels of a position. Where a few channels are far larger than the
others, as the means of blocks are among the latents, the others lose most of their
bits. So each channel is divided by a power of two before the layer, and the weights
that it meets are multiplied by the same (Xiao et al. 2023, "SmoothQuant",
arXiv:2211.10438). What the layer computes stays the same but for the rounding.
"""

from __future__ import annotations

import numpy as np

from tfcodec import kernels

# How much the scales follow the sizes of the inputs; 1 - SHARE is how much they follow
# those of the weights. It is "alpha" in the paper. With 1, the channels of all scaled
# inputs would be of one size; with 0, those of all scaled weights. 0.4 had the least
# error in `tfcodec` on photographs; 0.5 is as good.
SHARE = 0.4
# Scales are used only if they bring a layer's error below this part of what it was.
WORTH = 0.5


def found(x, kernel):
    """Returns the scales of a dense layer's input channels.

    Args:
        x: examples of its input, float32 [n, in].
        kernel: float [out, in].

    Returns:
        float32 [in], powers of two by which to divide the channels, or None if that
        does not reduce the error of rounding enough: see `WORTH`.
    """
    size = np.sqrt(np.mean(np.square(x), 0)) + 1e-6
    weight = np.sqrt(np.mean(np.square(kernel, dtype=np.float32), 0)) + 1e-9
    exponents = np.rint(np.log2(size**SHARE / weight ** (1 - SHARE)))
    scales = np.ldexp(np.float32(1), exponents.astype(np.int32))
    exact = x @ kernel.T
    before = np.std(rounded_product(x, kernel) - exact)
    after = np.std(rounded_product(x / scales, kernel * scales) - exact)
    return scales if after < WORTH * before else None


def rounded_product(x, kernel):
    """Returns x [n, in] times kernel [out, in], each rounded to 8 bits as LiteRT does.

    Inputs have a scale for each row, which maps the least and the largest value (or
    zero) to the least and the largest integer; weights one for each output.
    """
    low = np.minimum(x.min(1, keepdims=True), 0)
    step = (np.maximum(x.max(1, keepdims=True), 0) - low) / 255
    step = np.where(step > 0, step, 1)
    zero = np.rint(low / step)
    levels = np.clip(np.rint(x / step) - zero, 0, 255) + zero
    whole, scales = kernels.int8(kernel)
    return (levels * step) @ (whole * scales[:, None]).T


def picture(side: int):
    """Returns a picture with flat areas, edges and grain, as photographs have them.

    It consists of discs of many sizes that cover each other ("dead leaves": Lee,
    Mumford, Huang 2001, https://doi.org/10.1023/A:1011109015675), and is always the
    same. uint8 [side, side, 3].
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    pixels = np.zeros((side, side, 3))
    for _ in range(600):
        radius = min(4 * (1 - rng.random()) ** -0.9, side / 2)
        row, column = rng.random(2) * side
        disc = np.hypot(rows - row, columns - column) < radius
        pixels[disc] = 28 + 200 * rng.random() + rng.normal(0, 20, 3)
    return np.clip(np.rint(pixels + rng.normal(0, 3, pixels.shape)), 0, 255).astype(
        np.uint8
    )
