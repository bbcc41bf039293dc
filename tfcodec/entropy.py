"""Coders of latents: what is coded, in which order, under which distribution.

A coder has one walk over its latents in coding order.  The walk is handed an action,
`Estimate`, `Write` or `Read`, that says what coding means; so the rate that training
minimises, the bytes of a file, and what is read back cannot drift apart.

Every number that passes between the coded integers and the next table index is an
integer held exactly in float32: decoded latents count sixteenths (2**-MEAN_BITS).
Row 0..channels-1 of the tables are the channels of the factorised prior, the rows after
those the deviations of the normal distributions.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from tfcodec import rans
from tfcodec.layers import ACTIVATION_BITS, ACTIVATION_MAX, straight_through
from tfcodec.transforms import CONTEXT_BITS, MEAN_BITS

# Deviations of the tables, in geometric progression (Minnen et al. 2018).
SCALES, SCALE_MIN, SCALE_MAX = 64, 0.11, 256.0
# Mass outside a table, coded as an escape: one slot of a table of 12 bits.
TAIL_MASS = 2.0**-12
# A wide density that training mixes in, for outliers: its share, and its scale.
TAIL_SHARE, TAIL_SCALE = 1e-3, 8.0
# Latents are clipped to this before coding; the integers of z to what the exact
# networks take.
LATENT_MAX = 8191
Z_MAX = 127
UNIT = 2.0**MEAN_BITS
# Bits that one unit of squared error in a latent is worth to the encoder, when it
# chooses between two integers; and the largest integer with a threshold of its own.
ERROR_BITS, THRESHOLDS = 24.0, 8
# A latent whose table has an index up to this, a deviation of 0.23, is not coded: it is
# its mean, nearly always, and coders have less to do.
SKIPPED = 6


def scale_fn(index):
    """Deviation of table `index`, a float tensor."""
    step = math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1)
    return tf.exp(math.log(SCALE_MIN) + step * index)


def normal_bits(value, index):
    """Bits of `value`, a latent less its mean plus uniform noise, under table `index`.

    The density is that of `tfc.NoisyNormal`, whose own `log_prob` takes seven times as
    long, with a little of a wide Laplace density mixed in: as an escape does in a file,
    it bounds what an outlier costs, and so the gradient of one; a normal's tail alone
    made trainings diverge.
    """
    scale = scale_fn(index) * math.sqrt(2)
    magnitude = tf.abs(value)
    lower = tf.math.erfc((magnitude - 0.5) / scale)
    normal = 0.5 * (lower - tf.math.erfc((magnitude + 0.5) / scale))
    laplace = tf.exp(-magnitude / TAIL_SCALE) / (2 * TAIL_SCALE)
    mixture = (1 - TAIL_SHARE) * normal + TAIL_SHARE * laplace
    return tf.math.log(tf.maximum(mixture, 1e-30)) / -math.log(2)


def sum_bits(bits):
    """Adds up all but the first axis."""
    return tf.reduce_sum(bits, [1, 2, 3])


def uniform_noise(value, seeds, salt):
    """Noise in +-1/2 of the shape of `value`, [b, ...], from `seeds`, int32 [b, 2].

    A seed for each image, so that a step is the same however a batch is divided, and
    the same again after an interruption.
    """

    def one(seed):
        return tf.random.stateless_uniform(tf.shape(value)[1:], seed, -0.5, 0.5)

    noise = tf.map_fn(one, seeds + [[0, salt]], fn_output_signature=tf.float32)
    return tf.ensure_shape(noise, value.shape)


def rounded(value, limit):
    return tf.clip_by_value(tf.round(value), -limit, limit)


@functools.lru_cache
def thresholds() -> np.ndarray:
    """Distances above k - 1/2 at which k beats k - 1, [SCALES, THRESHOLDS + 1]."""
    k = np.arange(THRESHOLDS + 1, dtype=np.float32)[None]
    index = np.arange(SCALES, dtype=np.float32)[:, None]
    with tf.init_scope():
        bits = normal_bits(k, index).numpy()
    dearer = np.maximum(np.diff(bits, axis=1, prepend=bits[:, :1]), 0)
    return dearer / (2 * ERROR_BITS)


def quantised(residual, index):
    """Rounds, but to the smaller integer where the bits saved outweigh the error.

    Rate-distortion optimised quantisation, as video encoders have it, of one latent at
    a time: it minimises bits + ERROR_BITS * error**2, and a decoder need not know.
    """
    magnitude = tf.abs(residual)
    whole = tf.minimum(tf.round(magnitude), LATENT_MAX)
    row = tf.cast(index, tf.int32) * (THRESHOLDS + 1)
    column = tf.cast(tf.minimum(whole, THRESHOLDS), tf.int32)
    extra = tf.gather(tf.constant(thresholds().ravel()), row + column)
    whole -= tf.cast(magnitude < whole - 0.5 + extra, tf.float32)
    return tf.sign(residual) * tf.maximum(whole, 0.0)


class Estimate:
    """Codes nothing: adds up the bits [b], and returns what a decoder would get.

    In training the rate is that of latents with uniform noise, while what is returned
    is rounded, with straight-through gradients (mixed quantisation: Minnen, Singh 2020,
    arXiv:2007.08739).  Without seeds both are `quantised`.
    """

    def __init__(self, coder, side, slices, seeds=None):
        self.coder, self.side_values, self.slices = coder, side, slices
        self.seeds, self.bits = seeds, 0.0

    def side(self):
        z = self.side_values
        whole = rounded(z, self.coder.limit)
        coded = whole if self.seeds is None else z + uniform_noise(z, self.seeds, 0)
        nats = self.coder.prior.log_prob(coded)
        self.bits += sum_bits(nats / -math.log(2))
        return straight_through(whole, z)

    def slice(self, k, index, mean):
        y = self.slices[k]
        residual = y - mean / UNIT
        coded = tf.cast(index > SKIPPED, tf.float32)
        if self.seeds is None:
            whole = quantised(residual, index) * coded
            self.bits += sum_bits(normal_bits(whole, index) * coded)
        else:
            # Trained with `quantised` too, latents learn to escape it, at a loss.
            whole = rounded(residual, LATENT_MAX) * coded
            noisy = residual + uniform_noise(residual, self.seeds, 1 + k)
            self.bits += sum_bits(normal_bits(noisy, index))
        return straight_through(whole * UNIT + mean, y * UNIT)


class Write:
    """Codes one image's latents, shapes [1, h, w, c], with a `rans.Writer`."""

    def __init__(self, coder, writer, side, slices):
        self.coder, self.writer = coder, writer
        self.side_values, self.slices = side, slices

    def side(self):
        z = rounded(finite(self.side_values), self.coder.limit)
        self.writer.write(self.coder.side_rows(tf.shape(z)), flat_int(z))
        return z

    def slice(self, k, index, mean):
        residual = quantised(finite(self.slices[k]) - mean / UNIT, index)
        coded = index > SKIPPED
        rows = self.coder.scale_rows(tf.boolean_mask(index, coded))
        self.writer.write(rows, flat_int(tf.boolean_mask(residual, coded)))
        return tf.where(coded, residual, 0.0) * UNIT + mean


class Read:
    """Reads what `Write` wrote; `shape` is that of the side latents, [1, h, w, c]."""

    def __init__(self, coder, reader, shape):
        self.coder, self.reader, self.shape = coder, reader, shape

    def side(self):
        z = self.reader.read(self.coder.side_rows(self.shape))
        z = tf.reshape(tf.cast(z, tf.float32), self.shape)
        return tf.clip_by_value(z, -self.coder.limit, self.coder.limit)

    def slice(self, k, index, mean):
        where = tf.where(index > SKIPPED)
        values = self.reader.read(self.coder.scale_rows(tf.gather_nd(index, where)))
        values = tf.clip_by_value(values, -LATENT_MAX, LATENT_MAX)
        residual = tf.scatter_nd(where, values, tf.shape(index, tf.int64))
        return tf.cast(residual, tf.float32) * UNIT + mean


def finite(value):
    return tf.where(tf.math.is_finite(value), value, 0.0)


def flat_int(value):
    return tf.cast(tf.reshape(value, [-1]), tf.int32)


class Coder(tf.keras.layers.Layer):
    """What every coder has: rate, write and read, each an action on its one walk.

    A subclass gives `encoder_inputs`, `walk`, `side_coder` and `table_rows`.
    """

    stride = 1  # of the side latents against y

    def refine(self, y, features):
        """Returns y_hat [b, h, w, c], what the synthesis takes; y in sixteenths."""
        return y / UNIT

    def call(self, y, seeds=None):
        """Returns (y_hat, bits [b]) of y; with `seeds`, as in training."""
        action = Estimate(self.side_coder, *self.encoder_inputs(y), seeds)
        y_hat = self.refine(*self.walk(action))
        return y_hat, action.bits

    def compress(self, y, tables):
        """Codes y [1, h, w, c]; returns a string. `tables` is a `rans.Tables`."""
        writer = rans.Writer(tables)
        self.walk(Write(self.side_coder, writer, *self.encoder_inputs(y)))
        return writer.finish()

    def decompress(self, string, height, width, tables):
        """Returns (y in sixteenths, features, whether the string was sound).

        Height and width are those of y.
        """
        reader = rans.Reader(tables, string)
        side = self.side_coder
        shape = [1, height // self.stride, width // self.stride, side.channels]
        y, features = self.walk(Read(side, reader, tf.stack(shape)))
        return y, features, reader.finish()


class Factorized(Coder):
    """A learned distribution per channel: the whole coder, or the side part of one.

    Balle, Laparra, Simoncelli 2017, arXiv:1611.01704, with the densities of Balle et
    al. 2018, arXiv:1802.01436, section 6.1.
    """

    def __init__(self, channels: int, limit: int = LATENT_MAX, **kwargs):
        super().__init__(dtype=tf.float32, **kwargs)
        self.channels, self.limit = channels, limit
        self.prior = tfc.NoisyDeepFactorized(batch_shape=[channels])

    @property
    def side_coder(self):
        return self

    def encoder_inputs(self, y):
        """Returns the side latents and the slices, which the encoder alone knows."""
        return y, []

    def walk(self, code):
        """Visits the latents; returns y in sixteenths, and features (here none)."""
        return code.side() * UNIT, None

    def side_rows(self, shape):
        """Rows of the tables, one per channel, for latents of `shape`, flat."""
        return tf.reshape(tf.broadcast_to(tf.range(self.channels), shape), [-1])

    def scale_rows(self, index):
        """Rows of the tables for the normal distributions of `index`."""
        return tf.cast(index, tf.int32) + self.channels

    def table_rows(self):
        """Returns the quantised tables, as `rans.Tables.from_rows` takes them."""
        model = tfc.ContinuousBatchedEntropyModel(
            self.prior, coding_rank=3, compression=True, tail_mass=TAIL_MASS,
            offset_heuristic=False,
        )  # fmt: skip
        return rows_of(model)


class Conditional(Coder):
    """Codes y slice by slice; z and the slices before give each slice's distribution.

    One slice and no means: the scale hyperprior of Balle et al. 2018, arXiv:1802.01436.
    With means: Minnen, Balle, Toderici 2018, arXiv:1809.02736. Several slices: Minnen,
    Singh 2020, arXiv:2007.08739.

    Args:
        hyper_analysis, hyper_synthesis: networks; the second an exact one.
        z_channels: channels of z.
        slices: channels of each slice of y.
        slice_nets: exact networks, features and slices before to (index, mean).
        residual_nets: float networks of the latent residual prediction, or none.
        support: the largest number of slices that a network sees.
        magnitudes: the hyper analysis sees |y| (scale hyperprior).
    """

    stride = 4

    def __init__(
        self, hyper_analysis, hyper_synthesis, z_channels, slices, slice_nets,
        residual_nets=(), support=None, magnitudes=False, **kwargs,
    ):  # fmt: skip
        super().__init__(dtype=tf.float32, **kwargs)
        self.z_coder = Factorized(z_channels, Z_MAX, name="z")
        self.hyper_analysis = hyper_analysis
        self.hyper_synthesis = hyper_synthesis
        self.slices = tuple(slices)
        self.slice_nets = list(slice_nets)
        self.residual_nets = list(residual_nets)
        self.support = len(self.slices) if support is None else support
        self.magnitudes = magnitudes

    @property
    def side_coder(self):
        return self.z_coder

    def encoder_inputs(self, y):
        z = self.hyper_analysis(tf.abs(y) if self.magnitudes else y)
        return tf.cast(z, tf.float32), tf.split(y, self.slices, -1)

    def walk(self, code):
        features = self.hyper_synthesis(code.side())
        done = []
        for k, net in enumerate(self.slice_nets):
            context = [exact_context(y) for y in done[: self.support]]
            parameters = net(tf.concat([features, *context], -1))
            if parameters.shape[-1] == self.slices[k]:
                index, mean = parameters, tf.zeros_like(parameters)
            else:
                index, mean = tf.split(parameters, 2, -1)
            done.append(code.slice(k, index, mean))
        return tf.concat(done, -1), features

    def refine(self, y, features):
        y_hat = y / UNIT
        if not self.residual_nets:
            return y_hat
        features /= 2.0**ACTIVATION_BITS
        slices = tf.split(y_hat, self.slices, -1)
        refined = []
        for k, (net, own) in enumerate(zip(self.residual_nets, slices)):
            support = [features, *slices[: min(k, self.support)], own]
            refined.append(own + 0.5 * tf.cast(net(tf.concat(support, -1)), tf.float32))
        return tf.concat(refined, -1)

    def table_rows(self):
        return self.z_coder.table_rows() + rows_of(scale_model())


def exact_context(y):
    """Latents in sixteenths as an exact network sees them: coarser, and clipped."""
    coarse = y * 2.0 ** (CONTEXT_BITS - MEAN_BITS)
    whole = tf.clip_by_value(tf.floor(coarse), -ACTIVATION_MAX, ACTIVATION_MAX)
    inside = tfc.lower_bound(coarse, -float(ACTIVATION_MAX))
    return straight_through(whole, tfc.upper_bound(inside, float(ACTIVATION_MAX)))


def scale_model():
    """TFC's entropy model of the normal distributions, with its tables built."""
    return tfc.ContinuousIndexedEntropyModel(
        tfc.NoisyNormal, (SCALES,), {"loc": lambda _: 0.0, "scale": scale_fn},
        coding_rank=3, channel_axis=None, compression=True, tail_mass=TAIL_MASS,
    )  # fmt: skip


def rows_of(model):
    """Takes TFC's tables apart: a list of (frequencies with the escape last, offset).

    TFC stores one row after the other, each as -precision, 0, ..., 2**precision.
    """
    flat, precision = model.cdf.numpy(), rans.PRECISION
    rows = np.split(flat, np.flatnonzero(flat == -precision)[1:])
    return [(np.diff(r[1:]), int(o)) for r, o in zip(rows, model.cdf_offset.numpy())]
