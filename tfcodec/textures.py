"""Statistics of textures, by which a realistic synthesis is compared with photographs.

A texture is its statistics, not the place of each hair: local means and standard
deviations of features, and how a texture resembles itself some pixels away. All
functions are differentiable.
"""

from __future__ import annotations

import tensorflow as tf

from tfcodec import metrics, wasserstein
from tfcodec.critics import high_pass

# Period in pixels of artifacts that a synthesis with a stride of 16 may have.
GRID = 16
# Side in pixels of the windows in which local standard deviations are measured.
WINDOW = 8
# Added to variances before their square root is taken.
FLOOR = 1e-4
# Sides of the windows on each map of `texture_maps`: 16 pixels of the picture.
WINDOWS = (16, 8, 4, 2)
# Offsets (rows, columns) in pixels at which a texture is compared with itself.
OFFSETS = (
    (0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (1, 2), (2, 1), (1, -2), (2, -1),
    (2, 2), (2, -2), (0, 3), (3, 0), (0, 4), (4, 0), (4, 4), (4, -4), (0, 8), (8, 0),
)  # fmt: skip


def luma_and_colours(x):
    """Pixels [b, h, w, 3] as luma and two chroma planes, in units of 16 levels."""
    matrix = tf.constant(metrics.YCBCR.T, tf.float32)
    return tf.einsum("bhwc,cd->bhwd", x, matrix) / 16


def deviations(x):
    """Local standard deviations of two high-pass bands, a list of [b, h, w, 3].

    They are those of luma and chroma of pixels x [b, h, w, 3], in units of 16 levels,
    in windows of 8x8 pixels; the second band is that of the picture at half its size.
    Wasserstein distortion compares local means and standard deviations of features (Qiu
    et al. 2024, arXiv:2310.03629); here it is standard deviations of pixels.
    """
    x = luma_and_colours(x)
    high = high_pass(x)
    half = tf.nn.avg_pool2d(x - high, 2, 2, "VALID")
    bands = (high, high_pass(half))
    return [wasserstein.moments(band, WINDOW, FLOOR)[1] for band in bands]


def texture_maps(x, inner):
    """Returns what `moment_distances` compares: a list of maps [b, h, w, c].

    Args:
        x: pixels [b, h, w, 3].
        inner: their activations, from `Features.both`.
    """
    return [luma_and_colours(x), *inner]


def moment_distances(a, b):
    """How much local means and standard deviations of two pictures' maps differ.

    This is Wasserstein distortion (Qiu et al. 2024, arXiv:2310.03629) on features other
    than those of VGG16, by which `wasserstein` judges the result.

    Args:
        a, b: of each picture, what `texture_maps` returns.

    Returns:
        float32 [b, number of maps]: squared differences of the local means and standard
        deviations, in units of each map, averaged over places and channels.
    """
    found = []
    for x, y, window in zip(a, b, WINDOWS):
        pairs = zip(*(wasserstein.moments(z, window, FLOOR) for z in (x, y)))
        squares = [tf.math.squared_difference(p, q) for p, q in pairs]
        found.append(tf.reduce_mean(tf.add_n(squares), [1, 2, 3]))
    return tf.stack(found, 1)


def correlations(x):
    """Local autocorrelations, at `OFFSETS`, of the fine texture of x [b, h, w, 3].

    With `deviations` alone, a synthesis may draw a regular lattice in place of grain,
    which has the same energy. Here the high-pass band of luma is multiplied by itself
    shifted by each offset; the mean over windows of 16x16 pixels is divided by the
    variance there. (The texture model of Portilla and Simoncelli 2000,
    doi:10.1023/A:1026553619983, compares autocorrelations of bands, too.) By the
    division faint grain counts as much as strong texture; below half a level both fade
    to zero. The offsets of 4 and 8 pixels are those at which a synthesis that enlarges
    by 4 and by 16 may repeat itself.

    Returns:
        float32 [b, rows, columns, offsets], from -1 to 1.
    """
    band = high_pass(luma_and_colours(x))[..., :1]
    edge = max(max(map(abs, each)) for each in OFFSETS)
    moved = [tf.roll(band, [-dy, -dx], [1, 2]) for dy, dx in ((0, 0), *OFFSETS)]
    products = band * tf.concat(moved, -1)
    # Without the border, where the shifted band wraps around.
    products = products[:, edge:-edge, edge:-edge]
    means = tf.nn.avg_pool2d(products, 2 * WINDOW, WINDOW, "VALID")
    return means[..., 1:] / (means[..., :1] + 1e-3)


def repeated(residual):
    """Energy of artifacts that repeat every `GRID` pixels, after a high pass.

    `residual` is [b, h, w, 3], with sides that are multiples of `GRID`.
    """
    rows, columns = residual.shape[1] // GRID, residual.shape[2] // GRID
    cells = tf.reshape(high_pass(residual), [-1, rows, GRID, columns, GRID, 3])
    return tf.reduce_mean(tf.reduce_mean(cells, [1, 3]) ** 2)
