"""SSIMULACRA2, how similar two images look to people, for NumPy and for TensorFlow.

Jon Sneyers's metric of 2022 as revised in April 2023: the tool `ssimulacra2` of libjxl
(https://github.com/cloudinary/ssimulacra2). Images are compared at six scales, each
half the size of the one before, halved in linear light. At each scale, in the colour
space XYB, three maps of error are computed for each channel: 1 minus a structural
similarity; edges that only the decoded image has, from ringing and blocking; and edges
that it has lost, from blur. Each map has two norms, the mean, and the fourth root of
the mean of fourth powers. A weighted sum of all 108 norms is the distance. A cubic
polynomial and a power turn it into a score: 100 is equal, 90 visually lossless, 70 high
quality, 50 medium, 30 low; it may be negative.

Scores are those of the package `ssimulacra2` on PyPI (0.3.0), to about a thousandth. As
there, blurs take pixels beyond the left and right sides as 0, and mirror the image at
the top and bottom. (libjxl takes 0 on all sides, and blurs by a recursive filter that
approximates the Gaussian.)

An image with a side under 225 pixels has fewer than six scales. Here each scale keeps
its weights, and those of missing scales are not used. Package and tool read their list
of weights without gaps instead, so that scales and channels get weights of others: for
such small images their scores differ from these, and mean little.

The formulas are written once, with functions that both NumPy and TensorFlow have. Only
`distance` imports TensorFlow.
"""

from __future__ import annotations

import functools

import numpy as np

from tfcodec import blas
from tfcodec.array_functions import NUMPY, of_tensorflow
from tfcodec.metrics import WINDOW

SCALES = 6
SMALLEST_SIDE = 8  # a scale with a shorter side is left out
RADIUS = len(WINDOW) // 2  # of the blur, in pixels
C2 = 0.0009  # keeps the structural similarity of flat areas finite
# Height of the strips and width of the blocks, in pixels, in which an image is blurred.
# A blur is a product with a matrix of 11 diagonals, of which only the blocks along the
# diagonals are multiplied. The planes of a strip fit into the processor's cache.
STRIP, BLOCK = 64, 64
# Means of fourth powers below this (whose root is 1e-6) count as 0, as the slope of the
# root at 0 is infinite.
LEAST = 1e-24

# Linear RGB to mixed responses of the eye's three cones, and the bias that is added to
# each before the cube root (lib/jxl/cms/opsin_params.h of libjxl).
CONES = np.array(
    [
        [0.3, 0.622, 0.078],
        [0.23, 0.692, 0.078],
        [0.24342268924547819, 0.20476744424496821, 0.5518098665095536],
    ]
)
BIAS = 0.0037930732552754493
# The cube roots to X, Y and B - Y, and the offset of each; results are about 0 to 1.
XYB = np.array([[7.0, -7.0, 0.0], [0.5, 0.5, 0.0], [-0.5, -0.5, 1.0]])
OFFSET = np.array([0.42, 0.01, 0.55])

# Weights of tools/ssimulacra2.cc of libjxl, [channel (X, Y, B - Y), scale (1:1 to
# 1:32), norm (mean, fourth powers), map (dissimilarity, new edges, lost edges)].
WEIGHTS = np.array(
    [
        [
            [[0, 0.0007376606707406586, 0], [0, 0.0007793481682867309, 0]],
            [
                [0, 0.0004371155730107379, 0],
                [1.1041726426657346, 0.00066284834129271, 0.00015231632783718752],
            ],
            [
                [0, 0.0016406437456599754, 0],
                [1.8422455520539298, 11.441172603757666, 0],
            ],
            [
                [0.0007989109436015163, 0.000176816438078653, 0],
                [1.8787594979546387, 10.94906990605142, 0],
            ],
            [
                [0.0007289346991508072, 0.9677937080626833, 0],
                [0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053],
            ],
            [[0.0004550992113792063, 0, 0], [0.0013648766163243398, 0, 0]],
        ],
        [
            [[0, 0, 0], [7.466890328078848, 0, 17.445833984131262]],
            [
                [0.0006235601634041466, 0, 0],
                [6.683678146179332, 0.00037724407979611296, 1.027889937768264],
            ],
            [
                [225.20515300849274, 0, 0],
                [19.213238186143016, 0.0011401524586618361, 0.001237755635509985],
            ],
            [
                [176.39317598450694, 0, 0],
                [24.43300999870476, 0.28520802612117757, 0.0004485436923833408],
            ],
            [[0, 0, 0], [34.77906344483772, 44.835625328877896, 0]],
            [[0, 0, 0], [0, 0, 0]],
        ],
        [
            [[0, 0.0008680556573291698, 0], [0, 0, 0]],
            [[0, 0.0005313191874358747, 0], [0.00016533814161379112, 0, 0]],
            [[0, 0, 0], [0.0004179171803251336, 0.0017290828234722833, 0]],
            [[0.0020827005846636437, 0, 0], [8.826982764996862, 23.19243343998926, 0]],
            [
                [95.1080498811086, 0.9863978034400682, 0.9834382792465353],
                [0.0012286405048278493, 171.2667255897307, 0.9807858872435379],
            ],
            [[0, 0, 0], [0.0005130064588990679, 0, 0.00010854057858411537]],
        ],
    ]
)
# Score of a distance d: 100 - 10 p(d)^POWER; p has these coefficients of d, d^2, d^3.
POLYNOMIAL = (
    2.326765642916932 * 0.9562382616834844,
    -0.020884521182843837 * 0.9562382616834844**2,
    6.248496625763138e-05 * 0.9562382616834844**3,
)
POWER = 0.6276336467831387


@blas.one_thread
def score(image: np.ndarray, decoded: np.ndarray) -> float:
    """SSIMULACRA2 of two images: 100 is equal, and it may be negative.

    Args:
        image, decoded: uint8 [height, width, 3], or [height, width] of grey levels.

    Raises:
        ValueError: the shapes differ, or a side is under 8 pixels.
    """
    image, decoded = np.asarray(image), np.asarray(decoded)
    size = image.shape[:2]
    if image.shape != decoded.shape:
        raise ValueError(
            f"shapes differ: {list(image.shape)} and {list(decoded.shape)}"
        )
    levels = linear_light(NUMPY, np.arange(256, dtype=np.float32))
    planes = []
    for each in (image, decoded):
        each = np.broadcast_to(each if each.ndim == 3 else each[..., None], (*size, 3))
        planes.append(levels[each.transpose(2, 0, 1)[None]])
    return float(score_of(_distance(NUMPY, *planes)[0]))


def distance(x, x_hat):
    """The distance that `score_of` turns into a score, in TensorFlow, [batch].

    0 is equal. Its gradient with respect to `x_hat` is finite everywhere.

    Args:
        x, x_hat: float32 [batch, height, width, 3] on the 0..255 scale; values of
            `x_hat` may exceed it. Height and width may be unknown when a graph is
            traced; with known ones another way of blurring saves time and memory.

    Raises:
        ValueError: a side is known to be under 8 pixels. (If that is known only when a
            graph runs, the distance is 0.)
    """
    xp = of_tensorflow()
    planes = (xp.transpose(xp.cast(each), (0, 3, 1, 2)) for each in (x, x_hat))
    return _distance(xp, *(linear_light(xp, each) for each in planes))


def score_of(distance):
    """Returns the score of a distance (a number or an array)."""
    d = np.asarray(distance, np.float64)
    a, b, c = POLYNOMIAL
    return 100 - 10 * np.maximum(d * (a + d * (b + d * c)), 0) ** POWER


def blur(x):
    """Gaussian weighted means in windows of 11x11 pixels, in TensorFlow.

    Args:
        x: float32 [b, h, w, c], h and w at least 11 and perhaps unknown.

    Returns:
        [b, h - 10, w - 10, c]: at all positions where the window fits.
    """
    import tensorflow as tf

    for shape in ([-1, 1, 1, 1], [1, -1, 1, 1]):
        window = tf.reshape(tf.constant(f32(WINDOW)), shape)
        kernel = tf.tile(window, [1, 1, x.shape[-1], 1])
        x = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID")
    return x


def scales_of(shape) -> int:
    """Number of scales of an image of shape [height, width, ...].

    If height or width is unknown, it is that of a large image.

    Raises:
        ValueError: the image is too small for a single scale.
    """
    if None in shape[:2]:
        return SCALES
    height, width = shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"SSIMULACRA2 needs {SMALLEST_SIDE} pixels a side, not {width}x{height}"
        )
    side, count = min(height, width), 0
    while side >= SMALLEST_SIDE and count < SCALES:
        side, count = (side + 1) // 2, count + 1
    return count


def _distance(xp, linear, linear_hat):
    """The weighted sum of the norms of two batches, [b].

    Args:
        xp: functions on arrays, `NUMPY` or those of TensorFlow.
        linear, linear_hat: linear light [b, 3, h, w].
    """
    total = 0.0
    for scale in range(scales_of(linear.shape[2:])):
        if scale:
            linear, linear_hat = halve(xp, linear), halve(xp, linear_hat)
        norms = _norms(xp, linear, linear_hat)
        part = xp.sum(norms * f32(WEIGHTS[:, scale]), (1, 2, 3))
        if None in linear.shape[2:]:
            height, width = xp.shape(linear)[2:]
            large = (height >= SMALLEST_SIDE) & (width >= SMALLEST_SIDE)
            part = xp.where(large, part, 0.0)
        total = total + part
    return total


def f32(values):
    return np.asarray(values, np.float32)


def linear_light(xp, x):
    """sRGB of 0..255 to linear light of 0..1 (IEC 61966-2-1)."""
    x = x / 255
    low = x <= 0.04045
    # The slope of the power must be finite even where its value is not used.
    return xp.where(low, x / 12.92, ((xp.where(low, 1.0, x) + 0.055) / 1.055) ** 2.4)


def cube_roots(xp, linear):
    """Linear light [b, 3, h, w] to cube roots of the cones' responses, as large."""
    h, w = xp.shape(linear)[2:]
    flat = xp.reshape(linear, (-1, 3, h * w))
    mixed = f32(CONES) @ flat + f32(BIAS)
    # Only colours outside of 0..255 are below an eighth of the bias.
    roots = xp.maximum(mixed, f32(BIAS / 8)) ** (1 / 3)
    return xp.reshape(roots, (-1, 3, h, w))


def xyb(xp, roots):
    """What `cube_roots` returned to XYB of about 0..1, [b, 3, h, w]."""
    h, w = xp.shape(roots)[2:]
    flat = xp.reshape(roots, (-1, 3, h * w)) - f32(BIAS ** (1 / 3))
    return xp.reshape(f32(XYB) @ flat + f32(OFFSET[:, None]), (-1, 3, h, w))


def halve(xp, x):
    """Means of 2x2 pixels of [b, c, h, w]; an odd last row or column is repeated."""
    height, width = xp.shape(x)[2:]
    # If a side is unknown, the row or column that is added may be empty.
    if x.shape[2] is None or height % 2:
        x = xp.concat([x, x[:, :, height - height % 2 :]], 2)
    if x.shape[3] is None or width % 2:
        x = xp.concat([x, x[:, :, :, width - width % 2 :]], 3)
    rows = x[:, :, ::2] + x[:, :, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


@functools.lru_cache(256)
def band(start: int, stop: int, size: int, mirrored: bool) -> tuple:
    """The blur of a line, for its pixels `start` to `stop`, as a matrix.

    Args:
        start, stop: range of the pixels to compute.
        size: number of pixels in the line.
        mirrored: whether the line is mirrored at its ends, or else continued by 0.

    Returns:
        (first, last, matrix [stop - start, last - first]): the product of the matrix
        with pixels `first` to `last` of the line is the blur.
    """
    rows, columns = np.indices((stop - start, len(WINDOW)))
    columns += rows + start - RADIUS
    values = np.broadcast_to(WINDOW, columns.shape)
    if mirrored:
        columns = np.where(columns < 0, -1 - columns, columns)
        columns = np.where(columns >= size, 2 * size - 1 - columns, columns)
    inside = (columns >= 0) & (columns < size)
    first, last = columns[inside].min(), columns[inside].max() + 1
    matrix = np.zeros((stop - start, last - first))
    np.add.at(matrix, (rows[inside], columns[inside] - first), values[inside])
    return int(first), int(last), f32(matrix)


def _norms(xp, linear, linear_hat):
    """The norms of the maps of error of one scale, [b, channel, norm, map].

    Args:
        xp: functions on arrays.
        linear, linear_hat: linear light, [b, 3, h, w].
    """
    height, width = xp.shape(linear)[2:]
    pieces = _whole if None in linear.shape[2:] else _strips
    sums = 0.0
    for p, q, blurred in pieces(xp, linear, linear_hat):
        unlike, edges = maps(xp, p, q, *(blurred[:, i] for i in range(4)))[0]
        errors = xp.maximum(xp.stack([unlike, edges, -edges], 1), 0.0)
        squares = errors * errors
        both = xp.stack([errors, squares * squares], 3)  # [b, map, channel, norm, h, w]
        sums = sums + xp.sum(both, (4, 5))
    sums = xp.transpose(sums, (0, 2, 3, 1)) / xp.cast(height * width)
    fourth = sums[:, :, 1]
    some = fourth > LEAST
    roots = xp.where(some, xp.where(some, fourth, 1.0) ** 0.25, 0.0)
    return xp.stack([sums[:, :, 0], roots], 2)


def _products(xp, p, q):
    """The four images that are blurred for the maps, [b, 4, channel, h, w]."""
    change = q - p
    return xp.stack([p, change, change * change, p * q], 1)


def _strips(xp, linear, linear_hat):
    """Yields (p, q, blurred), as `_maps` takes them, of each strip of a scale."""
    height = linear.shape[2]
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        first, last, matrix = band(top, bottom, height, True)
        parts = (v[:, :, first:last] for v in (linear, linear_hat))
        p, q = (xyb(xp, cube_roots(xp, part)) for part in parts)
        blurred = across(xp, matrix @ _products(xp, p, q))
        inner = slice(top - first, bottom - first)
        yield p[:, :, inner], q[:, :, inner], blurred


def across(xp, lines):
    """Blurs lines [..., w] along themselves; beyond their ends they are 0."""
    width, blocks = lines.shape[-1], []
    for left in range(0, width, BLOCK):
        first, last, matrix = band(left, min(left + BLOCK, width), width, False)
        blocks.append(lines[..., first:last] @ matrix.T)
    return xp.concat(blocks, -1)


def _whole(xp, linear, linear_hat):
    """As `_strips`, for a scale of unknown size as a whole, in TensorFlow."""
    import tensorflow as tf

    # Even a scale that is too small to count must be large enough to be blurred.
    missing = tf.maximum(SMALLEST_SIDE - tf.shape(linear)[2:], 0)
    fill = [[0, 0], [0, 0], [0, missing[0]], [0, missing[1]]]
    padded = (tf.pad(v, fill) for v in (linear, linear_hat))
    p, q = (xyb(xp, cube_roots(xp, each)) for each in padded)
    height, width = xp.shape(p)[2:]
    products = tf.reshape(_products(xp, p, q), (-1, 12, height, width))
    lines = tf.transpose(products, (0, 2, 3, 1))
    around = [[0, 0], [RADIUS, RADIUS], [0, 0], [0, 0]]
    lines = tf.pad(lines, around, "SYMMETRIC")
    lines = tf.pad(lines, [around[0], around[2], around[1], around[3]])
    blurred = tf.transpose(blur(lines), (0, 3, 1, 2))
    yield p, q, tf.reshape(blurred, (-1, 4, 3, height, width))


def maps(xp, p, q, mean, shift, squares, product):
    """Maps of error of a part of one scale.

    These are the formulas of libjxl, rearranged so that each is a multiple of a
    difference: equal images give exactly 0, and nearly equal ones lose no digits.

    Args:
        xp: functions on arrays.
        p, q: XYB of the image and of the decoded one.
        mean, shift, squares, product: p, q - p, (q - p)^2 and p q, each blurred.

    Returns:
        ((dissimilarity, which may be slightly below 0; relative change of edges, above
        0 where edges are new, below 0 where they are lost), (twice the covariance plus
        `C2`, the divisor of the dissimilarity, the edges of q)), all of the shape of p.
    """
    mean_hat = mean + shift
    covariance = 2 * (product - mean * mean_hat) + C2
    # The variance of q - p, which is the sum of variances minus twice the covariance.
    rest = squares - shift * shift
    divisor = covariance + rest
    unlike = (rest + shift * shift * covariance) / divisor
    edge, edge_hat = p - mean, q - mean_hat
    edges = (xp.abs(edge_hat) - xp.abs(edge)) / (1 + xp.abs(edge))
    return (unlike, edges), (covariance, divisor, edge_hat)
