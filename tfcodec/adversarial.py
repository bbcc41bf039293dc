"""Adversarial training of a realistic synthesis and its critics, as a Keras model.

The rest of the codec is fixed: a step takes latents as they are decoded from a file,
and runs only the synthesis and the critics.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfcodec import losses
from tfcodec.critics import Critics, Features, high_pass
from tfcodec.model import CENTRE, SCALE
from tfcodec.tracing import as_written

# Patches are shifted by up to this many pixels before features are computed. Without
# that, a synthesis learns artifacts on a grid that the strides of the features miss.
SHIFT = 8
# Period in pixels of artifacts that a synthesis with a stride of 16 may have.
GRID = 16
# Sides in pixels of the windows for local standard deviations.
WINDOW = 8
# Offsets (rows, columns) in pixels at which a texture is compared with itself.
OFFSETS = (
    (0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (1, 2), (2, 1), (1, -2), (2, -1),
    (2, 2), (2, -2), (0, 3), (3, 0), (0, 4), (4, 0), (4, 4), (4, -4), (0, 8), (8, 0),
)  # fmt: skip
# RGB to luma and two chroma planes.
COLOURS = [[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of the losses whose sum the synthesis minimises.

    Args:
        mse: of squared error.
        relative: of squared error divided by that of the faithful picture. It keeps the
            synthesis from inventing texture at high rates, where that is small.
        features: of the distance of unit feature vectors, as in LPIPS (Zhang et al.
            2018, arXiv:1801.03924).
        deviations: of differences in local standard deviations: see `deviations`.
        correlations: of differences in local autocorrelations: see `correlations`.
        grid: of artifacts that repeat every 16 pixels: see `repeated`.
        critics: of the hinge loss.
    """

    mse: float = 0.002
    relative: float = 0.06
    features: float = 1.0
    deviations: float = 2.0
    correlations: float = 1.0
    grid: float = 0.05
    critics: float = 0.25


class Adversarial(tf.keras.Model):
    """Trains a realistic synthesis against critics, and these against it.

    `fit` takes dicts of `image` uint8 [b, s, s, 3], `latents` [b, s / 16, s / 16, c]
    after the inverse gain, `error` float32 [b] (mean squared error of the faithful
    picture), `weight` uint8 [b, s, s] (of each pixel's squared error, in sixteenths)
    and `seed` int32 [2].

    Args:
        synthesis: a `transforms.RealisticSynthesis`.
        weights: of the losses.
        warmup: steps over which the critics' weight rises from zero.
    """

    def __init__(self, synthesis, weights: Weights = Weights(), warmup: int = 300):  # noqa: B008
        super().__init__(name="adversarial")
        self.synthesis, self.critics, self.features = synthesis, Critics(), Features()
        self.weighting, self.warmup = weights, warmup

    @property
    def played(self):
        """The variables that `optimizer` trains and averages: the synthesis's."""
        return self.synthesis.trainable_variables

    def compile(self, optimizer, critics_optimizer):
        """Sets the optimizers of the synthesis and of the critics."""
        super().compile(optimizer)
        self.critics_optimizer = critics_optimizer

    def initialise(self, images, channels):
        """Makes all variables; fits the critics' scales to images, uint8 [b, s, s, 3].

        `channels` is the number of channels of the latents.
        """
        x = tf.cast(images, tf.float32)
        maps = self.features(x)
        y = tf.zeros([len(images), x.shape[1] // GRID, x.shape[2] // GRID, channels])
        self.synthesis(y[:1], tf.zeros([2], tf.int32))
        self.critics(x, maps, y)
        for scale, features in zip(self.critics.scales, maps):
            scale.assign(tf.math.reduce_std(features, [0, 1, 2]) + 0.05)
        self.optimizer.build(self.played)
        self.critics_optimizer.build(self.critics.trainable_variables)
        return self

    def pictures(self, latents, origin):
        """Synthesises pixels [b, 16 h, 16 w, 3], float32, not clipped."""
        return self.synthesis(tf.cast(latents, tf.float32), origin) * SCALE + CENTRE

    @as_written
    def train_step(self, inputs):
        """Trains the synthesis, then the critics, one step; returns losses by name."""
        x, y = (
            tf.cast(inputs["image"], tf.float32),
            tf.cast(inputs["latents"], tf.float32),
        )
        random = tf.random.stateless_uniform([4], inputs["seed"])
        origin = tf.cast(random[:2] * GRID, tf.int32)
        cut = self._cut(tf.cast(random[2:] * SHIFT, tf.int32), x.shape[1])
        real = cut(x)
        real_maps = self.features(real)
        with tf.GradientTape() as tape:
            x_hat = self.pictures(y, origin)
            # Clipped as in an image file; the gradient ignores the clipping.
            clipped = tf.stop_gradient(tf.clip_by_value(x_hat, 0.0, 255.0) - x_hat)
            fake = cut(x_hat + clipped)
            maps = self.features(fake)
            verdicts = self.critics(fake, maps, y)
            parts = self._parts(inputs, x, x_hat, real, fake, real_maps, maps)
            parts["critics"] = -mean([tf.reduce_mean(v) for v in verdicts])
            loss = tf.add_n([self._weight(k) * v for k, v in parts.items()])
        self.optimizer.minimize(loss, self.played, tape=tape)
        fake, maps = tf.stop_gradient(fake), [tf.stop_gradient(f) for f in maps]
        with tf.GradientTape() as tape:
            of_fake = self.critics(fake, maps, y)
            of_real = self.critics(real, real_maps, y)
            hinges = [
                tf.reduce_mean(tf.nn.relu(1 + a)) + tf.reduce_mean(tf.nn.relu(1 - b))
                for a, b in zip(of_fake, of_real)
            ]
            doubt = mean(hinges)
        self.critics_optimizer.minimize(
            doubt, self.critics.trainable_variables, tape=tape
        )
        psnr = losses.psnr(losses.mse(x, x_hat))
        hinge = {f"hinge_{k}": value for k, value in enumerate(hinges)}
        return {"loss": loss, "psnr": tf.reduce_mean(psnr), **parts, **hinge}

    def _weight(self, name):
        value = getattr(self.weighting, name)
        if name != "critics":
            return value
        step = tf.cast(self.optimizer.iterations, tf.float32)
        return value * tf.minimum(1.0, (step + 1) / max(1, self.warmup))

    def _parts(self, inputs, x, x_hat, real, fake, real_maps, maps):
        weight = 1.0 + tf.cast(inputs["weight"], tf.float32) / 16
        error = tf.math.squared_difference(x, x_hat) * weight[..., None]
        error = tf.reduce_mean(error, [1, 2, 3])
        return {
            "mse": tf.reduce_mean(error),
            "relative": tf.reduce_mean(error / (inputs["error"] + 1.0)),
            "features": mean([unit_distance(a, b) for a, b in zip(real_maps, maps)]),
            "deviations": mean(
                [
                    4 * tf.reduce_mean(tf.math.squared_difference(a, b))
                    for a, b in zip(deviations(real), deviations(fake))
                ]
            ),
            "correlations": 4
            * tf.reduce_mean(
                tf.math.squared_difference(correlations(real), correlations(fake))
            ),
            "grid": repeated(x_hat - x),
        }

    @staticmethod
    def _cut(shift, side):
        side -= SHIFT

        def cut(x):
            x = x[:, shift[0] : shift[0] + side, shift[1] : shift[1] + side]
            return tf.ensure_shape(x, [None, side, side, None])

        return cut


def mean(values):
    """Returns the mean of a list of tensors."""
    return tf.add_n(values) / len(values)


def unit_distance(a, b):
    """Mean squared distance of feature vectors [b, h, w, c] scaled to length 1."""

    def unit(x):
        return x * tf.math.rsqrt(tf.reduce_sum(x * x, -1, keepdims=True) + 1e-6)

    return tf.reduce_mean(
        tf.reduce_sum(tf.math.squared_difference(unit(a), unit(b)), -1)
    )


def luma_and_colours(x):
    """Pixels [b, h, w, 3] as luma and two chroma planes, in units of 16 levels."""
    return tf.einsum("bhwc,cd->bhwd", x, tf.constant(COLOURS)) / 16


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

    def pool(x):
        return tf.nn.avg_pool2d(x, WINDOW, WINDOW // 2, "VALID")

    return [
        tf.sqrt(tf.maximum(pool(band * band) - pool(band) ** 2, 0.0) + 1e-4)
        for band in (high, high_pass(half))
    ]


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
