"""Distributions of latents: densities in training, tables and a quantiser in files.

Normal distributions are those of Minnen et al. 2018 (arXiv:1809.02736), numbered by
standard deviation; the factorised one is that of Balle et al. 2018 (arXiv:1802.01436).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from tfcodec.constants import LATENT_MAX, LEVELS, PRECISION

# Standard deviations of the tables, in geometric progression (Minnen et al. 2018).
SCALES, SCALE_MIN, SCALE_MAX = 64, 0.11, 256.0
# Probability of a value outside a table, coded as an escape: 1 of a row's 4096 slots.
TAIL_MASS = 2.0**-12
# A wide density that training mixes in, for outliers: its share, and its scale.
TAIL_SHARE, TAIL_SCALE = 1e-3, 8.0
# Bits that one unit of squared error in a latent is worth. This is the exchange rate at
# high rates, where the error has a variance of 1/12, and each bit more divides it by
# four.
ERROR_BITS = 6 / math.log(2)
# The same for an encoder that chooses between two integers. Fitted to held-out
# photographs, it is 27 % more (docs/training.md has the figures): a latent that becomes
# zero tells less about the latents after it, which this choice does not count.
CHOICE_BITS = 11.0
# A quantiser's histograms have bins of width 1 / BINS for magnitudes up to
# LEVELS + 1/2; larger ones are simply rounded.
BINS = 32
# The least probability of a magnitude: one of the 4096 slots for each sign.
LEAST_SHARE = 2.0 / 2**PRECISION
# Bits of a value outside its table, in addition to those of the escape symbol.
ESCAPE_BITS = 8


def scale_fn(index):
    """Standard deviation of table `index`, a float tensor of any shape."""
    step = math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1)
    return tf.exp(math.log(SCALE_MIN) + step * index)


def normal_bits(value, index):
    """Bits of `value`, a latent minus its mean plus uniform noise, under table `index`.

    The density is that of `tfc.NoisyNormal` (whose own `log_prob` takes seven times as
    long) mixed with a little of a wide Laplace density. The latter bounds the bits of
    an outlier, as the escape does in a file, and so its gradient; with the tail of a
    normal distribution alone, trainings diverged.
    """
    scale = scale_fn(index) * math.sqrt(2)
    magnitude = tf.abs(value)
    lower = tf.math.erfc((magnitude - 0.5) / scale)
    normal = 0.5 * (lower - tf.math.erfc((magnitude + 0.5) / scale))
    laplace = tf.exp(-magnitude / TAIL_SCALE) / (2 * TAIL_SCALE)
    mixture = (1 - TAIL_SHARE) * normal + TAIL_SHARE * laplace
    return tf.math.log(tf.maximum(mixture, 1e-30)) / -math.log(2)


def sum_bits(bits):
    """Sums bits [b, h, w, c] over all but the first axis."""
    return tf.reduce_sum(bits, [1, 2, 3])


def uniform_noise(value, seeds, salt):
    """Uniform noise in [-1/2, 1/2) of the shape of `value`, [b, ...].

    Args:
        value: a tensor.
        seeds: int32 [b, 2], one for each image: a step then is the same however a batch
            is divided over devices, and the same again after an interruption. Or one
            seed [2] for the whole batch, whose noise one operation makes: on an
            accelerator, one operation per image takes longer than the networks.
        salt: integer that makes the noise of each call of a step its own.
    """
    if seeds.shape.rank == 1:
        # Drawn as integers, as XLA and TensorFlow draw different floats from a seed.
        whole = tf.random.stateless_uniform(
            tf.shape(value), seeds + [0, salt], None, None, tf.int32, alg="philox"
        )
        return tf.cast(whole, tf.float32) * 2.0**-32

    def one(seed):
        return tf.random.stateless_uniform(tf.shape(value)[1:], seed, -0.5, 0.5)

    noise = tf.map_fn(one, seeds + [[0, salt]], fn_output_signature=tf.float32)
    return tf.ensure_shape(noise, value.shape)


def rounded(value, limit):
    """Rounds to integers within +-limit."""
    return tf.clip_by_value(tf.round(value), -limit, limit)


def finite(value):
    """Replaces infinities and NaN by 0."""
    return tf.where(tf.math.is_finite(value), value, 0.0)


def flat_int(value):
    """Returns whole numbers as int32 [n]."""
    return tf.cast(tf.reshape(value, [-1]), tf.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Quantiser:
    """How a residual, a latent minus its mean, becomes an integer and a value again.

    For each table and each magnitude k of an integer it holds the bits that k costs,
    the point to which k is dequantised, and where the interval of k begins: see
    `fitted_quantiser`.

    Args:
        cost: float32 [SCALES, LEVELS + 1], bits of each magnitude, its sign included.
        shift: likewise, the point minus k.
        extra: likewise, how far above k - 1/2, or above 0, the interval begins.
        share: float64, likewise, probability of each magnitude, of which the coder's
            tables are made; None if these are there already.
    """

    cost: np.ndarray
    shift: np.ndarray
    extra: np.ndarray
    share: np.ndarray | None = None

    def with_error_bits(self, error_bits) -> Quantiser:
        """Returns a quantiser of the same costs and points with other intervals."""
        k = np.arange(LEVELS + 1)
        cost, point = self.cost.astype(np.float64), k + self.shift.astype(np.float64)
        low = interval_starts(cost, point, error_bits)
        return Quantiser(self.cost, self.shift, above_half(low))

    def entry(self, table, magnitude, index):
        """Looks up magnitudes and indexes in `table` [SCALES, LEVELS + 1]."""
        column = tf.cast(tf.minimum(magnitude, LEVELS), tf.int32)
        row = tf.cast(index, tf.int32) * (LEVELS + 1)
        return tf.gather(tf.constant(table.ravel()), row + column)

    def quantise(self, residual, index):
        """Returns the integers, float32, that residuals are coded as."""
        magnitude = tf.abs(residual)
        whole = tf.minimum(tf.round(magnitude), LATENT_MAX)
        begin = whole - 0.5 + self.entry(self.extra, whole, index)
        whole -= tf.cast(magnitude < begin, tf.float32)
        return tf.sign(residual) * tf.maximum(whole, 0.0)

    def bits(self, whole, index):
        """Bits of integers; from LEVELS on, those of the normal distribution."""
        magnitude = tf.abs(whole)
        near = self.entry(self.cost, magnitude, index)
        return tf.where(magnitude < LEVELS, near, normal_bits(whole, index))

    def dequantise(self, whole, index):
        """Returns the values that integers stand for."""
        return whole + tf.sign(whole) * self.entry(self.shift, tf.abs(whole), index)


def fitted_quantiser(fine, error_bits=None) -> Quantiser:
    """Returns the quantiser whose points and intervals are fitted to residuals.

    An encoder takes the integer of least bits + error_bits * error**2 (rate-distortion
    optimised quantisation, as in video encoders); the point is the mean of the
    interval. They are fitted in turns: entropy-constrained scalar quantisation (Chou,
    Lookabaugh, Gray 1989).

    Args:
        fine: histogram of the magnitudes of residuals, float64
            [SCALES, (LEVELS + 1/2) * BINS + 1]: bins of width 1 / BINS, and a last one
            for all beyond.
        error_bits: bits that one unit of squared error is worth; None to only round.
    """
    total, fine = fine.sum(1, keepdims=True), fine[:, :-1]
    middle = (np.arange(fine.shape[1]) + 0.5) / BINS
    k = np.arange(LEVELS + 1)
    escapes = k > np.array([-offset for _, offset in normal_rows()])[:, None]
    low = np.tile(np.maximum(k - 0.5, 0), (SCALES, 1))
    for _ in range(30 if error_bits else 1):
        above = middle >= low[:, :, None]
        inside = fine[:, None] * (above & ~np.roll(above, -1, 1))
        inside[:, -1] = fine * above[:, -1]
        mass = inside.sum(-1)
        mean = (inside * middle).sum(-1) / np.maximum(mass, 1e-30)
        # Zero is dequantised to 0, as its sign is not known.
        point = np.where((mass > 0) & (k > 0), mean, k)
        share = np.maximum(mass / total, LEAST_SHARE)
        cost = -np.log2(share) + (k > 0)
        far = 1 - np.where(escapes, 0, mass / total).sum(1, keepdims=True)
        dear = ESCAPE_BITS - np.log2(np.maximum(far, LEAST_SHARE / 2))
        cost = np.where(escapes, dear, cost)
        if error_bits:
            low = interval_starts(cost, point, error_bits)
    shift = (point - k).astype(np.float32)
    return Quantiser(cost.astype(np.float32), shift, above_half(low), share)


def above_half(low):
    """Returns how far above k - 1/2, or above 0, intervals begin: `Quantiser.extra`."""
    half = np.maximum(np.arange(LEVELS + 1) - 0.5, 0)
    return (low - half).astype(np.float32)


def interval_starts(cost, point, error_bits):
    """Returns the least magnitude of residuals that become k, for each table and k.

    Each becomes the integer of least bits + error_bits * error**2, but none is rounded
    up by more than half.

    Args:
        cost, point: float64 [SCALES, LEVELS + 1], of each integer k from 0 on.
        error_bits: as for `fitted_quantiser`.
    """
    k = np.arange(LEVELS + 1)
    low = np.tile(np.maximum(k - 0.5, 0), (len(cost), 1))
    dearer, gap = np.maximum(np.diff(cost), 0), np.diff(point)
    begin = point[:, :-1] + gap / 2 + dearer / (2 * error_bits * gap)
    low[:, 1:] = np.maximum(begin, k[1:] - 0.5)
    return low


@functools.lru_cache
def normal_histogram() -> np.ndarray:
    """Returns what `fitted_quantiser` takes, for residuals of normal distributions."""
    edges = np.arange(round((LEVELS + 0.5) * BINS) + 1, dtype=np.float32) / BINS
    with tf.init_scope():
        scale = scale_fn(np.arange(SCALES, dtype=np.float32))[:, None] * math.sqrt(2)
        mass = np.diff(tf.math.erf(edges / scale).numpy().astype(np.float64), append=1)
        return np.maximum(mass, 0)


@functools.lru_cache
def normal_quantiser(error_bits=None) -> Quantiser:
    """Returns the quantiser for residuals with exactly the normal distributions."""
    return fitted_quantiser(normal_histogram(), error_bits)


class Density(tfc.NoisyDeepFactorized):
    """TFC's density, whose tails are found by bisection.

    TFC's own search takes a thousand gradient steps for each tail, half a second.
    """

    def _lower_tail(self, tail_mass):
        return self._place_of(math.log(tail_mass / 2 / (1 - tail_mass / 2)))

    def _upper_tail(self, tail_mass):
        return self._place_of(-math.log(tail_mass / 2 / (1 - tail_mass / 2)))

    def _place_of(self, logit):
        """Returns where the logit of the cumulative density reaches `logit`."""
        low = tf.fill(self.batch_shape, -2.0 * LATENT_MAX)
        high = -low
        for _ in range(32):  # The interval is then 1e-5 wide.
            middle = (low + high) / 2
            below = self.base._logits_cumulative(middle) < logit
            low, high = tf.where(below, middle, low), tf.where(below, high, middle)
        return high


def scale_model():
    """TFC's entropy model of the normal distributions, with its tables built."""
    return tfc.ContinuousIndexedEntropyModel(
        tfc.NoisyNormal, (SCALES,), {"loc": lambda _: 0.0, "scale": scale_fn},
        coding_rank=3, channel_axis=None, compression=True, tail_mass=TAIL_MASS,
    )  # fmt: skip


def fitted(frequency, offset, share):
    """Returns the frequencies of a row, refitted to measured probabilities.

    Args:
        frequency: [size] of the row, the escape's last.
        offset: the value of the first symbol.
        share: [LEVELS + 1], the probability of each magnitude; larger magnitudes and
            the escape share the rest in their present proportions.
    """
    magnitude = np.abs(np.arange(len(frequency)) + offset)
    magnitude[-1] = LEVELS + 1
    near = magnitude <= LEVELS
    wanted = frequency / frequency.sum()
    wanted[near] = (share / np.where(np.arange(LEVELS + 1) > 0, 2, 1))[magnitude[near]]
    wanted[~near] *= max(1 - wanted[near].sum(), 0) / wanted[~near].sum()
    cdf = tfc.pmf_to_quantized_cdf(wanted.astype(np.float32), PRECISION)
    return np.diff(cdf.numpy())


@functools.lru_cache
def normal_rows():
    """Returns the rows of TFC's tables for the normal distributions: see `rows_of`."""
    with tf.init_scope():
        return rows_of(scale_model())


def rows_of(model):
    """Takes TFC's tables apart: a list of (frequencies with the escape last, offset).

    TFC stores one row after the other, each as -precision, 0, ..., 2**precision.
    """
    flat, precision = model.cdf.numpy(), PRECISION
    rows = np.split(flat, np.flatnonzero(flat == -precision)[1:])
    return [(np.diff(r[1:]), int(o)) for r, o in zip(rows, model.cdf_offset.numpy())]
