"""Layers: convolutions, GDN, quality gains, and convolutions in exact integers."""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from tfcodec.constants import ACTIVATION_MAX, BESIDE, EXACT_LIMIT, WEIGHT_MAX
from tfcodec.transposed import Transposed

# An exact activation A stands for the real number A / 2**ACTIVATION_BITS.
ACTIVATION_BITS = 5

conv = functools.partial(tf.keras.layers.Conv2D, padding="same")
leaky_relu = functools.partial(tf.keras.layers.LeakyReLU, 0.2)


def down(filters: int, kernel: int, stride: int = 2) -> tf.keras.layers.Layer:
    """Convolution that reduces height and width by `stride`."""
    return conv(filters, kernel, stride)


def up(filters: int, kernel: int, stride: int = 2, **kwargs) -> tf.keras.layers.Layer:
    """Transposed convolution that enlarges height and width by `stride`."""
    return Transposed(filters, kernel, stride, **kwargs)


def gdn() -> tf.keras.layers.Layer:
    """Generalised divisive normalisation, x / (beta + gamma |x|).

    Balle, Laparra, Simoncelli 2016, arXiv:1511.06281, with the exponents of one of
    Johnston et al. 2019, arXiv:1912.08771, which need no power or square root.
    """
    return GDN(alpha_parameter=1, epsilon_parameter=1)


def igdn() -> tf.keras.layers.Layer:
    """Approximate inverse of `gdn`, x * (beta + gamma |x|)."""
    return GDN(inverse=True, alpha_parameter=1, epsilon_parameter=1)


class GDN(tfc.GDN):
    """TFC's layer for exponents of one, without branches for others in its graph."""

    def call(self, x):
        gamma = self.gamma[None, None]
        norm = tf.nn.bias_add(tf.nn.conv2d(tf.abs(x), gamma, 1, "VALID"), self.beta)
        return x * norm if self.inverse else x / norm


class Block(tf.keras.layers.Layer):
    """Two residual steps of `filters` channels: over space, then over channels.

    The first adds pointwise(depthwise 3x3(leaky relu(pointwise(x)))), the second
    pointwise(leaky relu(pointwise(x))) with twice the channels inside. The space step
    costs a third of a dense 3x3 convolution's multiplications with its channels
    separated (Chollet 2017, arXiv:1610.02357).

    The last kernel of each starts at zero, so that the block is the identity at first
    and a deeper network begins as the shallower one (Zhang, Dauphin, Ma 2019,
    arXiv:1901.09321).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.space = tf.keras.Sequential(
            [
                conv(filters, 1),
                leaky_relu(),
                tf.keras.layers.DepthwiseConv2D(3, padding="same"),
                conv(filters, 1, kernel_initializer="zeros"),
            ]
        )
        self.channels = tf.keras.Sequential(
            [
                conv(2 * filters, 1),
                leaky_relu(),
                conv(filters, 1, kernel_initializer="zeros"),
            ]
        )

    def call(self, x):
        x = x + self.space(x)
        return x + self.channels(x)


class Noise(tf.keras.layers.Layer):
    """Adds fixed noise, as much as features say: x + project(noise * gate(x)).

    Where latents are zero, a synthesis that sees them alone can only repeat a pattern.
    The noise is a constant drawn once, not at random each time, so that a file gives
    the same picture on every machine. It repeats every `period` places; a tile that
    says where in the image it begins sees the noise that the whole image does.

    Each feature vector picks by a softplus gate how much of each noise channel there
    is. The projection starts at zero, so that the layer is the identity at first.

    Args:
        period: rows and columns after which the noise repeats, in places of x.
        count: noise channels.
        seed: of the noise.
    """

    def __init__(self, period: int, count: int, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.period, self.count = period, count
        noise = np.random.default_rng(seed).normal(size=[1, period, period, count])
        # Half precision's values, so that an exported model holds it in half the bytes.
        self.noise = noise.astype(np.float16).astype(np.float32)

    def build(self, shape):
        channels = shape[-1]
        self.gate = self.add_weight("gate", [channels, self.count], initializer="zeros")
        self.gate_bias = self.add_weight(
            "gate_bias",
            [self.count],
            initializer=tf.constant_initializer(math.log(math.e - 1)),  # a gate of 1
        )
        self.project = self.add_weight(
            "project", [self.count, channels], initializer="zeros"
        )

    def call(self, x, origin):
        """x [b, h, w, c]; origin int32 [2], where in the image its first place is."""
        height, width = tf.shape(x)[1], tf.shape(x)[2]
        noise = tf.roll(tf.constant(self.noise), -origin, [1, 2])
        whole = [1, -(-height // self.period), -(-width // self.period), 1]
        noise = tf.cast(tf.tile(noise, whole)[:, :height, :width], x.dtype)
        gate = tf.nn.softplus(tf.matmul(x, self.gate) + self.gate_bias)
        return x + tf.matmul(noise * gate, self.project)


class Branches(tf.keras.layers.Layer):
    """Several networks of one input; `results` are what they make of it, in float32."""

    def __init__(self, *branches, **kwargs):
        super().__init__(dtype=tf.float32, **kwargs)
        self.branches = list(branches)

    def results(self, x):
        return [tf.cast(branch(x), tf.float32) for branch in self.branches]


class Sum(Branches):
    """Adds what several networks make of one input."""

    def call(self, x):
        return tf.add_n(self.results(x))


class Joined(Branches):
    """Joins the channels of what several networks make of one input."""

    def call(self, x):
        return tf.concat(self.results(x), -1)


def cosines(shape, dtype=None):
    """Initial kernel [side, side, 3, n]: an orthonormal cosine transform of blocks.

    Of luma and two differences of colour: first the three means, then the n - 3 lowest
    frequencies in order, those of colour counted as three times as high. Kernels larger
    than a block of 16 x 16 pixels reach beyond it, with zeros at first.
    """
    whole, _, _, n = shape
    side = min(whole, 16)
    beyond = [((whole - side) // 2,) * 2] * 2 + [(0, 0)] * 2
    k, x = np.arange(side)[:, None], np.arange(side) + 0.5
    basis = np.cos(np.pi * k * x / side) * np.sqrt(np.where(k > 0, 2, 1) / side)
    colours = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
    colours = colours / np.linalg.norm(colours, axis=1, keepdims=True)
    order = sorted(
        ((u + v > 0) * (1 + u + v) * (3 if c else 1), c, u, v)
        for c in range(3) for u in range(side) for v in range(side)
    )[:n]  # fmt: skip
    kernels = [
        np.einsum("a,b,c->abc", basis[u], basis[v], colours[c]) for _, c, u, v in order
    ]
    return tf.constant(np.pad(np.stack(kernels, -1), beyond), dtype or tf.float32)


class QualityGain(tf.keras.layers.Layer):
    """Multiplies each channel by a gain that depends on quality, continuously.

    The logarithm of the gain is interpolated linearly between `anchors` learned
    vectors, spaced evenly over quality (Cui et al. 2021, arXiv:2003.02012, whose gain
    vectors these are).  At the start gains are proportional to sqrt(lambda), the
    inverse of the step size that lambda asks of a uniform quantiser.

    Args:
        channels: channels of the tensor.
        log_range: log(highest lambda / lowest lambda).
        log_lowest: log of the gain at quality 0 before training.
        inverse: start from the inverse gains, for the decoder.
    """

    def __init__(self, channels, log_range, log_lowest, inverse=False, anchors=8, **kw):
        super().__init__(dtype=tf.float32, **kw)
        sign = -1.0 if inverse else 1.0
        start = sign * (log_lowest + np.linspace(0, 0.5 * log_range, anchors))
        self.anchors = anchors
        self.log_gain = self.add_weight(
            "log_gain",
            [anchors, channels],
            initializer=tf.constant_initializer(np.tile(start[:, None], channels)),
        )

    def extrapolate(self, anchors: float):
        """Moves the gains of quality 0 away from those of the next anchor.

        They become what they would be `anchors` anchors below. So rates reach below
        those that were trained; from the next anchor on, nothing changes.
        """
        lowest, following = self.log_gain[0], self.log_gain[1]
        moved = lowest + anchors * (lowest - following)
        self.log_gain.assign(tf.concat([moved[None], self.log_gain[1:]], 0))

    def call(self, y, quality):
        """y [b, h, w, c] float32, quality [b] from 0 to 1."""
        position = quality[:, None] * (self.anchors - 1)
        nodes = tf.range(self.anchors, dtype=tf.float32)
        hats = tf.nn.relu(1 - tf.abs(position - nodes))
        return y * tf.exp(tf.matmul(hats, self.log_gain))[:, None, None, :]


@tf.custom_gradient
def straight_through(value, surrogate):
    """Returns `value`, to the bit; its gradient goes to `surrogate`."""
    return tf.identity(value), lambda upstream: (None, upstream)


class ExactConv(tf.keras.layers.Layer):
    """Convolution in integers that float32 holds exactly, whatever the machine.

    Takes integers X and returns integers, all as float32:

        A = clip(floor(2**-shift * (sum W X + B)), low, high)

    with W = round(2**s kernel) in -127..127 and B an integer.  Every partial sum stays
    below 2**24 for every input, whatever the weights: `integer_weights` shrinks an
    output channel's kernel where it must, and `freeze` proves the bound per channel.
    The forward pass of training is the same arithmetic; gradients pass rounding
    straight through (integer networks: Balle, Johnston, Minnen 2019).

    Args:
        filters: output channels.
        kernel: side of the kernel.
        input_bits: an input X stands for the real number X / 2**input_bits.
        input_max: largest |X|.
        weight_bits: s above; by default from the fan-in, to fit the initial kernel.
        output_bits: the same of the output, one number or one per output channel.
        output_range: (low, high) of the output.
        rectify: whether gradients stop below zero, as a ReLU's do.
        kernel_initializer, bias: start of the kernel and of the (real) bias.
    """

    def __init__(
        self,
        filters: int,
        kernel: int,
        *,
        input_bits: int = ACTIVATION_BITS,
        input_max: int = ACTIVATION_MAX,
        weight_bits: int | None = None,
        output_bits=ACTIVATION_BITS,
        output_range=(0, ACTIVATION_MAX),
        rectify: bool = True,
        kernel_initializer="he_normal",
        bias=0.0,
        **kwargs,
    ):
        super().__init__(dtype=tf.float32, **kwargs)
        self.filters, self.kernel_size = filters, kernel
        self.input_bits, self.input_max = input_bits, input_max
        self.weight_bits = weight_bits
        self.output_bits = np.broadcast_to(output_bits, [filters])
        self.low, self.high = (
            np.broadcast_to(limit, [filters]).astype(np.float32)
            for limit in output_range
        )
        self.rectify = rectify
        self.kernel_initializer = kernel_initializer
        self.bias_start = np.broadcast_to(bias, [filters])
        # Input channels of the kernel that `call` convolves with.
        self.part = slice(None)
        self.frozen = None

    def build(self, input_shape):
        channels = input_shape[-1]
        fan_in = self.kernel_size**2 * channels
        if self.weight_bits is None:
            # Integers of a deviation of 8 to 16, less where so many inputs are summed
            # that the exact range would overflow.
            deviation = min(16, 2**23 / (0.8 * 2 * self.input_max * fan_in))
            bits = math.floor(math.log2(deviation / math.sqrt(2 / fan_in)))
            self.weight_bits = max(bits, *(self.output_bits - self.input_bits + 1))
        self.shift = self.weight_bits + self.input_bits - self.output_bits
        if self.shift.min() < 1:
            raise ValueError(f"{self.name}: too many output_bits")
        # What is left for the sum of |W| after the bias, and after rounding W.
        self.budget = (EXACT_LIMIT - 2**20) / self.input_max - fan_in / 2
        self.kernel = self.add_weight(
            "kernel",
            [self.kernel_size, self.kernel_size, channels, self.filters],
            initializer=self.kernel_initializer,
        )
        self.bias = self.add_weight(
            "bias", [self.filters], initializer=tf.constant_initializer(self.bias_start)
        )
        super().build(input_shape)

    def integer_weights(self):
        """Returns (W [k, k, c, filters], B [filters]): integers, as float32."""
        scaled = tf.clip_by_value(
            self.kernel * 2.0**self.weight_bits, -WEIGHT_MAX, WEIGHT_MAX
        )
        total = tf.reduce_sum(tf.abs(scaled), [0, 1, 2])
        scaled *= tf.minimum(1.0, self.budget / tf.maximum(total, 1.0))
        kernel = straight_through(tf.round(scaled), self.kernel * 2.0**self.weight_bits)
        return kernel, self.integer_bias()

    def integer_bias(self):
        """Returns B [filters] alone."""
        # The half makes the floor a rounding.
        bias = self.bias * 2.0 ** (self.weight_bits + self.input_bits)
        half = (2.0 ** (self.shift - 1)).astype(np.float32)
        limit = 2.0**20 - 1
        rounded = tf.clip_by_value(tf.round(bias + half), -limit, limit)
        return straight_through(rounded, bias + half)

    def freeze(self) -> np.ndarray:
        """Fixes the integers for good, as constants of every graph traced from now on.

        Returns:
            The largest |partial sum| that any input can cause, int64 [filters].

        Raises:
            ValueError: it is not below 2**24, so that float32 would not be exact.
        """
        # Minus zero becomes zero: a fingerprint is of bytes.
        self.frozen = tuple(w.numpy() + 0.0 for w in self.integer_weights())
        kernel, bias = (w.astype(np.int64) for w in self.frozen)
        largest = np.abs(kernel).sum((0, 1, 2)) * self.input_max + np.abs(bias)
        if largest.max() >= EXACT_LIMIT or np.abs(kernel).max() > WEIGHT_MAX:
            raise ValueError(f"{self.name}: sums reach {largest.max()}, over 2**24")
        return largest

    def call(self, x):
        kernel, bias = self.frozen or self.integer_weights()
        return self.activate(convolve(x, kernel[:, :, self.part]) + bias)

    def activate(self, sums):
        """Shifts and clips: from sums, the bias included, to the layer's output."""
        real = sums * (2.0**-self.shift).astype(np.float32)
        # A bound of TFC passes the gradients that lead back inside.
        above = tf.nn.relu(real) if self.rectify else tfc.lower_bound(real, self.low)
        exact = tf.minimum(tf.maximum(tf.floor(real), self.low), self.high)
        return straight_through(exact, tfc.upper_bound(above, self.high))


class SecondPass(ExactConv):
    """An exact convolution once more, when further input channels have become known.

    Both passes share one kernel of 3x3. The first pass, for the places of a
    checkerboard that are even, takes the last `own` input channels to be zero. The
    second, for those that are odd, adds to sums that are computed for both what these
    channels contribute from the even places: of the nine around an odd place, the four
    beside it. It has a bias of its own. `freeze` proves the exactness of the whole sum,
    as for any exact convolution.

    Args:
        first: the `ExactConv` of the first pass.
        own: number of the channels that only the second pass knows.
    """

    def __init__(self, first: ExactConv, own: int, **kwargs):
        super().__init__(
            first.filters, first.kernel_size, input_bits=first.input_bits,
            input_max=first.input_max, output_bits=first.output_bits,
            output_range=(first.low, first.high), rectify=first.rectify, **kwargs,
        )  # fmt: skip
        self.first, self.own = first, own
        first.part, self.part = slice(None, -own), slice(-own, None)

    def build(self, input_shape):
        """Makes the variables; `input_shape` is of what both passes see."""
        self.bias = self.add_weight("bias", [self.filters], initializer="zeros")
        whole = tf.TensorShape([*input_shape[:-1], input_shape[-1] + self.own])
        self.first.build(whole)
        self.weight_bits, self.shift = self.first.weight_bits, self.first.shift
        tf.keras.layers.Layer.build(self, input_shape)

    @property
    def kernel(self):
        return self.first.kernel

    def integer_weights(self):
        return self.first.integer_weights()[0], self.integer_bias()

    def call(self, x, own=None, sums=None):
        """Returns the first pass's (output, sums for the second), or the second's.

        Outputs and sums are of half of the places, [b, h, w / 2, filters].

        Args:
            x: integers [b, h, w, c] that both passes see.
            own: integers [b, h, w / 2, own] at the even places, for the second pass.
            sums: those that the first pass returned, for the second.
        """
        if own is None:
            kernel, bias = self.first.frozen or self.first.integer_weights()
            sums = convolve(x, kernel[:, :, self.first.part])
            even = half_of_board(sums, odd=False)
            return self.first.activate(even + bias), half_of_board(sums, odd=True)
        kernel, bias = self.frozen or self.integer_weights()
        kernel = kernel[:, :, self.part]
        kernel = tf.concat([kernel[place] for place in BESIDE], 0)[None, None]
        return self.activate(sums + convolve(beside(own), kernel) + bias)


def convolve(x, kernel):
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def half_of_board(x, odd: bool):
    """[b, h, w, c] to the places whose row plus column is even, or odd, as on a board.

    Returns:
        [b, h, w / 2, c]: in each row its places from left to right; w is even.
    """
    height, width, channels = *tf.unstack(tf.shape(x)[1:3]), x.shape[-1]
    pairs = tf.reshape(x, [-1, height, width // 2, 2, channels])
    return tf.where(_right(height, odd), pairs[:, :, :, 1], pairs[:, :, :, 0])


def beside(x):
    """Values at the even places of a board to the four that are beside each odd one.

    Args:
        x: [b, h, w / 2, c], as of `half_of_board`.

    Returns:
        [b, h, w / 2, 4c], in order of `BESIDE`; zero beyond the edges.
    """
    padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    above, below = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    before, after = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    right = _right(tf.shape(x)[1], odd=True)
    left_of, right_of = tf.where(right, x, before), tf.where(right, after, x)
    return tf.concat([above, left_of, right_of, below], -1)


def both_halves(even, odd):
    """The inverse of `half_of_board`: values at the even and the odd places to all."""
    height, width, channels = *tf.unstack(tf.shape(even)[1:3]), even.shape[-1]
    right = _right(height, odd=True)
    pairs = tf.stack([tf.where(right, even, odd), tf.where(right, odd, even)], 3)
    return tf.reshape(pairs, [-1, height, 2 * width, channels])


def _right(height, odd):
    """Whether a row's places are the right ones of its pairs, bool [h, 1, 1]."""
    return (tf.range(height) % 2 == (0 if odd else 1))[:, None, None]
