"""Adversarial training of a realistic synthesis and its critics, as a Keras model.

The rest of the codec is fixed: a step takes latents as they are decoded from a file,
and runs only the synthesis and the critics.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfcodec import losses
from tfcodec.critics import Critics, Features
from tfcodec.model import CENTRE, SCALE
from tfcodec.textures import (
    GRID,
    WINDOWS,
    correlations,
    deviations,
    moment_distances,
    repeated,
    texture_maps,
)
from tfcodec.tracing import as_written

# Patches are shifted by up to this many pixels before features are computed. Without
# that, a synthesis learns artifacts on a grid that the strides of the features miss.
SHIFT = 8
# Added to the faithful picture's distances of moments, as a fraction of a photograph's
# variance, so that differences which nobody sees have little weight.
MOMENTS_FLOOR = 1e-3


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
        moments: of differences in local means and standard deviations of features,
            divided by those that the faithful picture has: see `moment_distances`. It
            gives texture the strength that it had in the photograph, at every rate.
        grid: of artifacts that repeat every 16 pixels: see `repeated`.
        critics: of the hinge loss.
    """

    mse: float = 0.001
    relative: float = 0.06
    features: float = 1.0
    deviations: float = 2.0
    correlations: float = 1.0
    moments: float = 2.0
    grid: float = 0.05
    critics: float = 0.25


class Adversarial(tf.keras.Model):
    """Trains a realistic synthesis against critics, and these against it.

    `fit` takes dicts of `image` uint8 [b, s, s, 3], `latents` [b, s / 16, s / 16, c]
    after the inverse gain, `error` float32 [b] and `moments` float32 [b, 4] (mean
    squared error and `moment_distances` of the faithful picture), `weight` uint8
    [b, s, s] and `seed` int32 [2]. A pixel's squared error counts 1 + `weight` / 16.

    Args:
        synthesis: a `transforms.RealisticSynthesis`.
        warmup: steps over which the critics' weight rises from zero.

    Attributes:
        weighting: the `Weights`.
    """

    def __init__(self, synthesis, warmup: int = 300):
        super().__init__(name="adversarial")
        self.synthesis, self.critics, self.features = synthesis, Critics(), Features()
        self.weighting, self.warmup = Weights(), warmup
        # Mean variance within a photograph of each map that `moments` compares.
        self.units = tf.Variable(tf.ones(len(WINDOWS)), trainable=False)

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
        maps, inner = self.features.both(x)
        y = tf.zeros([len(images), x.shape[1] // GRID, x.shape[2] // GRID, channels])
        self.synthesis(y[:1], tf.zeros([2], tf.int32))
        self.critics(x, maps, y)
        for scale, features in zip(self.critics.scales, maps):
            scale.assign(tf.math.reduce_std(features, [0, 1, 2]) + 0.05)
        variances = [tf.math.reduce_variance(m, [1, 2]) for m in texture_maps(x, inner)]
        self.units.assign([tf.reduce_mean(variance) for variance in variances])
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
        real_maps, real_inner = self.features.both(real)
        with tf.GradientTape() as tape:
            x_hat = self.pictures(y, origin)
            # Clipped as in an image file; the gradient ignores the clipping.
            clipped = tf.stop_gradient(tf.clip_by_value(x_hat, 0.0, 255.0) - x_hat)
            fake = cut(x_hat + clipped)
            maps, inner = self.features.both(fake)
            verdicts = self.critics(fake, maps, y)
            parts = self._parts(inputs, x, x_hat, real, fake, real_maps, maps)
            parts["moments"] = self._moments(
                inputs, texture_maps(real, real_inner), texture_maps(fake, inner)
            )
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

    def _moments(self, inputs, real, fake):
        distances = moment_distances(real, fake) / self.units
        faithful = inputs["moments"] / self.units + MOMENTS_FLOOR
        return tf.reduce_mean(distances / faithful)

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
