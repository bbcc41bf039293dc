"""Exact convolutions in NumPy: sums of integers that float32 represents exactly.

So the order of additions does not matter, and all machines compute the same.
"""

from __future__ import annotations

import functools

import numpy as np

from tfcodec import helpers
from tfcodec.constants import ACTIVATION_MAX, WEIGHT_MAX

# Convolutions of at least so many multiply-adds are computed by several threads or by
# LiteRT. So many take about 0.2 ms on one thread.
DIVIDED_FROM = 2**23


@functools.lru_cache(maxsize=1)
def exact_dtype() -> type:
    """Returns the type in which this machine's matrix products of integers are exact.

    That is float32, unless the linear algebra library rounds factors to fewer bits, as
    some do for speed. One product with sums near 2**24 shows such a library; then it is
    float64.
    """
    x = varied([64, 480], 0, ACTIVATION_MAX)
    w = varied([480, 64], -WEIGHT_MAX, WEIGHT_MAX)
    x[0], w[:, 0] = ACTIVATION_MAX, WEIGHT_MAX
    found = x.astype(np.float32) @ w.astype(np.float32)
    return np.float32 if np.array_equal(found, x @ w) else np.float64


def varied(shape, low: int, high: int):
    """Returns many different integers in low..high, always the same."""
    return np.arange(np.prod(shape)).reshape(shape) ** 2 % (high - low + 1) + low


class Layer:
    """An exact convolution: clip(floor((sum W X + B) / 2^r), low, high).

    Args:
        kernel: the integers W [k, k, in, out].
        numbers: [4, out]: B, r, low and high of each output channel.

    Attributes:
        product: a faster way to compute the sums of a large X: takes X, and returns
            them or None; or None if there is no such way. See `exact_products`.
    """

    def __init__(self, kernel, numbers):
        self.integers, self.product = kernel, None
        bias, shift, low, high = numbers.astype(exact_dtype())
        self.bias, self.scale, self.low, self.high = bias, 2.0**-shift, low, high

    @functools.cached_property
    def kernel(self):
        """W in the type that its products are computed in."""
        return self.integers.astype(exact_dtype())

    def __call__(self, x):
        """Returns the outputs [h, w, out] for X [h, w, in]."""
        sums = self._product(x)
        if sums is None:
            return self._by_rows(x, lambda *rows: self.activate(self._sums(x, *rows)))
        return self._by_rows(x, lambda *rows: self.activate(sums[slice(*rows)]))

    def sums(self, x):
        """Returns the sums W X [h, w, out] of X [h, w, in], zero beyond its edges."""
        sums = self._product(x)
        if sums is None:
            return self._by_rows(x, lambda *rows: self._sums(x, *rows))
        return sums

    def _large(self, x) -> bool:
        """Whether the sums of X take long enough to be computed in a faster way."""
        return x.shape[0] * x.shape[1] * self.integers.size >= DIVIDED_FROM

    def _product(self, x):
        """Returns the sums by `product`, or None if they are to be computed here."""
        return self.product(x) if self.product and self._large(x) else None

    def _by_rows(self, x, function):
        """Returns function(0, h), computed on several threads if X is large.

        `function(begin, end)` returns rows `begin` to `end`, the last excluded.
        """
        height, width, _ = x.shape
        if not self._large(x):
            return function(0, height)
        found = np.empty((height, width, self.integers.shape[3]), x.dtype)

        def part(begin, end):
            found[begin:end] = function(begin, end)

        helpers.divided(part, height)
        return found

    def _sums(self, x, begin, end):
        """Returns rows `begin` to `end` of the sums.

        X is padded and laid out as one sequence of positions, row after row. Each tap
        of the kernel then sees a contiguous part of it, so that one matrix product does
        a whole tap. (The columns of padding are computed too, and dropped.)
        """
        height, width, channels = x.shape
        side, edge, rows = len(self.kernel), len(self.kernel) // 2, end - begin
        if side == 1:
            flat = x[begin:end].reshape(rows * width, channels)
            return (flat @ self.kernel[0, 0]).reshape(rows, width, -1)
        wide = width + 2 * edge
        line = rows * wide
        padded = np.zeros((line + (side - 1) * (wide + 1), channels), x.dtype)
        inside = padded[: (rows + 2 * edge) * wide].reshape(-1, wide, channels)
        first, last = max(begin - edge, 0), min(end + edge, height)
        at = first - begin + edge
        inside[at : at + last - first, edge : edge + width] = x[first:last]
        total = np.zeros((line, self.kernel.shape[3]), x.dtype)
        for i, j in np.ndindex(side, side):
            begin = i * wide + j
            total += padded[begin : begin + line] @ self.kernel[i, j]
        return total.reshape(rows, wide, -1)[:, :width]

    def activate(self, sums):
        """Adds the bias, shifts and clips: the outputs of sums [h, w, out]."""
        real = sums + self.bias
        real *= self.scale
        np.floor(real, out=real)
        # `np.clip` takes three times as long when its limits are arrays.
        np.maximum(real, self.low, out=real)
        return np.minimum(real, self.high, out=real)
