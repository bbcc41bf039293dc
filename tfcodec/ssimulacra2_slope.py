"""The slope of the SSIMULACRA2 distance with respect to a decoded picture, in NumPy.

`ssimulacra2` has the formulas; here are their derivatives, for `--effort` on machines
without TensorFlow, which elsewhere derives them by itself. Names are those of
`ssimulacra2`: p is the XYB of the original, q that of the decoded picture, and `d_x`
is the slope of the distance with respect to x.
"""

from __future__ import annotations

import functools

import numpy as np

from tfcodec import blas, helpers, ssimulacra2
from tfcodec.array_functions import NUMPY
from tfcodec.ssimulacra2 import CONES, LEAST, RADIUS, STRIP, XYB, f32

LEVELS = np.arange(256, dtype=np.float32)
LINEAR = ssimulacra2.linear_light(NUMPY, LEVELS)
# The slope of linear light at each level of sRGB (IEC 61966-2-1).
_POWER = 2.4 / 1.055 * ((LEVELS / 255 + 0.055) / 1.055) ** 1.4
LINEAR_SLOPE = f32(np.where(LEVELS <= 0.04045 * 255, 1 / 12.92, _POWER) / 255)


class Original:
    """An original, with what does not depend on the picture it is compared with.

    Args:
        image: uint8 [h, w, 3], each side at least 8 pixels.
    """

    def __init__(self, image: np.ndarray):
        linear = LINEAR[image.transpose(2, 0, 1)]
        self.scales = []
        with blas.one_thread:
            for number in range(ssimulacra2.scales_of(image.shape)):
                linear = halved(linear) if number else linear
                self.scales.append(_Scale(linear, f32(ssimulacra2.WEIGHTS[:, number])))

    @blas.one_thread
    def compare(self, decoded: np.ndarray):
        """Compares a decoded picture.

        Args:
            decoded: uint8, of the shape of the original.

        Returns:
            (its distance, as `ssimulacra2.distance`; a function that returns, once, the
            derivative with respect to its levels, float32 [h, w, 3]).
        """
        linear, found = LINEAR[decoded.transpose(2, 0, 1)], []
        for number, scale in enumerate(self.scales):
            linear = halved(linear) if number else linear
            found.append(_Comparison(scale, linear))

        @blas.one_thread
        def slope():
            whole = through_scales(each.slope() for each in reversed(found))
            return LINEAR_SLOPE[decoded] * whole.transpose(1, 2, 0)

        return sum(each.distance for each in found), slope


def halved(planes):
    """Means of 2x2 pixels of [3, h, w]: see `ssimulacra2.halve`."""
    return ssimulacra2.halve(NUMPY, planes[None])[0]


def through_scales(slopes):
    """Sums slopes with respect to each scale, as the slope with respect to the first.

    Args:
        slopes: iterable of arrays [3, h, w], of the smallest scale first.
    """
    whole = None
    for own in slopes:
        whole = own if whole is None else own + halved_back(whole, own.shape)
    return whole


def halved_back(slope, shape):
    """The slope with respect to what `halved` made as that to what it took, `shape`."""
    slope = np.repeat(np.repeat(slope * f32(0.25), 2, 1), 2, 2)
    _, height, width = shape
    if height % 2:  # the last row was there twice
        slope[:, -2] += slope[:, -1]
    if width % 2:
        slope[:, :, -2] += slope[:, :, -1]
    return slope[:, :height, :width]


def _strips(function, height):
    """Calls function(top, bottom) for all strips of a scale, on several threads."""
    count = -(-height // STRIP)

    def part(begin, end):
        for number in range(begin, end):
            function(number * STRIP, min((number + 1) * STRIP, height))

    helpers.divided(part, count)


class _Scale:
    """One scale of an original.

    Args:
        linear: its linear light, [3, h, w].
        weights: of this scale, [channel, norm, map], as in `ssimulacra2.WEIGHTS`.
    """

    def __init__(self, linear, weights):
        self.weights = weights
        self.p = ssimulacra2.xyb(NUMPY, ssimulacra2.cube_roots(NUMPY, linear[None]))[0]
        self.mean = np.empty_like(self.p)

        def part(top, bottom):
            first, last, matrix = ssimulacra2.band(top, bottom, len(linear[0]), True)
            lines = matrix @ self.p[:, first:last]
            self.mean[:, top:bottom] = ssimulacra2.across(NUMPY, lines)

        _strips(part, linear.shape[1])


class _Comparison:
    """One scale of an original and of a decoded picture.

    Args:
        scale: of the original.
        linear: of the decoded picture at this scale, [3, h, w].
    """

    def __init__(self, scale: _Scale, linear):
        self.scale = scale
        self.roots = ssimulacra2.cube_roots(NUMPY, linear[None])
        self.q = ssimulacra2.xyb(NUMPY, self.roots)[0]
        # Blurred: q - p, its square, p q.
        self.blurred = np.empty((3, *self.q.shape), np.float32)
        height, width = linear.shape[1:]
        # Of maps and of their fourth powers, [channel, norm, map, strip].
        self.sums = np.zeros((3, 2, 3, -(-height // STRIP)))
        _strips(self._blur, height)
        means = self.sums.sum(-1) / (height * width)
        some = means[:, 1] > LEAST
        cubes = np.where(some, means[:, 1], np.inf) ** 0.75
        means[:, 1] = np.where(some, means[:, 1], 0) ** 0.25
        self.distance = float(np.sum(means * scale.weights))
        # The slope of the distance with respect to a map m is a + b m^3.
        a, b = scale.weights[:, 0], scale.weights[:, 1] / cubes
        self.a, self.b = (f32(x / (height * width))[..., None, None] for x in (a, b))

    def _blur(self, top, bottom):
        """Computes `blurred` and `sums` of a strip."""
        rows = slice(top, bottom)
        first, last, matrix = ssimulacra2.band(top, bottom, self.q.shape[1], True)
        p, q = self.scale.p[:, first:last], self.q[:, first:last]
        change = q - p
        lines = matrix @ np.stack([change, change * change, p * q])
        self.blurred[:, :, rows] = ssimulacra2.across(NUMPY, lines)
        unlike, edges = self._maps(rows)[0]
        for number, each in enumerate((unlike, edges, -edges)):
            np.maximum(each, 0, out=each)
            square = each * each
            sums = self.sums[:, :, number, top // STRIP]
            sums[:, 0] = each.sum((1, 2))
            sums[:, 1] = np.einsum("cij,cij->c", square, square)

    def _maps(self, rows):
        """Returns what `ssimulacra2.maps` does, of some rows: each [3, rows, w]."""
        p, q, mean = (x[:, rows] for x in (self.scale.p, self.q, self.scale.mean))
        return ssimulacra2.maps(NUMPY, p, q, mean, *self.blurred[:, :, rows])

    def _map_slope(self, number, values):
        """The slope of the distance with respect to a map; 0 where that is below 0."""
        slope = values * values
        slope *= values
        slope *= self.b[:, number]
        slope += self.a[:, number]
        slope *= values > 0
        return slope

    def slope(self):
        """Returns the slope of the distance with respect to linear light, [3, h, w].

        It may be called once, as it uses the memory of what was blurred.
        """
        d_q = np.empty_like(self.q)
        height, width = d_q.shape[1:]
        _strips(functools.partial(self._from_maps, d_q), height)
        _strips(functools.partial(self._from_blurred, d_q), height)
        d_roots = f32(XYB.T) @ d_q.reshape(3, -1)
        # The slope of a cube root r is 1 / (3 r^2).
        d_roots /= 3 * np.square(self.roots.reshape(3, -1))
        return (f32(CONES.T) @ d_roots).reshape(3, height, width)

    def _from_maps(self, d_q, top, bottom):
        """Puts the slope of a strip, with what is blurred held fixed, into d_q.

        The slope with respect to what is blurred takes its place in `blurred`.
        """
        rows = slice(top, bottom)
        (unlike, edges), (covariance, divisor, edge_hat) = self._maps(rows)
        shift, mean = self.blurred[0, :, rows], self.scale.mean[:, rows]
        d_edges = self._map_slope(1, edges) - self._map_slope(2, -edges)
        d_edges /= 1 + np.abs(self.scale.p[:, rows] - mean)
        d_q[:, rows] = d_edges * np.sign(edge_hat)
        # unlike = top / divisor, top = rest + shift^2 covariance,
        # divisor = covariance + rest
        d_top = self._map_slope(0, unlike) / divisor
        d_rest = d_top * (1 - unlike)
        d_covariance = d_top * (shift * shift - unlike)
        # rest = squares - shift^2; covariance = 2 (product - mean (mean + shift)) + C2
        d_shift = d_top * covariance
        d_shift -= d_rest
        d_shift *= shift
        d_shift -= mean * d_covariance
        d_shift *= 2
        d_shift -= d_q[:, rows]  # edge_hat = q - (mean + shift)
        self.blurred[0, :, rows] = d_shift
        self.blurred[1, :, rows] = d_rest
        self.blurred[2, :, rows] = 2 * d_covariance

    def _from_blurred(self, d_q, top, bottom):
        """Adds the slope of a strip by way of what is blurred to d_q."""
        rows, height = slice(top, bottom), d_q.shape[1]
        # The way back through a blur is the product with its transposed matrix.
        first, last = max(top - RADIUS, 0), min(bottom + RADIUS, height)
        at, _, matrix = ssimulacra2.band(first, last, height, True)
        matrix = matrix[:, top - at : bottom - at].T
        d_change, d_square, d_product = ssimulacra2.across(
            NUMPY, matrix @ self.blurred[:, :, first:last]
        )
        p, q = self.scale.p[:, rows], self.q[:, rows]
        d_square *= 2 * (q - p)
        d_product *= p
        d_product += d_square
        d_product += d_change
        d_q[:, rows] += d_product
