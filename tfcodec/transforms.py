"""Transforms: one function per network, each a short list to read beside its paper.

Analysis takes scaled images [b, h, w, 3] to latents y, synthesis takes y_hat back.
Hyper analysis takes y to z.  Hyper synthesis and the slice networks are made of exact
convolutions, since encoder and decoder must find the same probability tables by them.
Where a paper has transposed convolutions in floating point, these are exact
convolutions followed by "depth to space" (a pixel shuffle).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfcodec.constants import MEAN_BITS, NOISE_PERIOD
from tfcodec.layers import (
    GDN,
    Block,
    ExactConv,
    Joined,
    Noise,
    SecondPass,
    Sum,
    conv,
    cosines,
    down,
    gdn,
    igdn,
    leaky_relu,
    up,
)
from tfcodec.shuffles import DepthToSpace, Repeat, SpaceToDepth

# Means are up to +-MEAN_MAX units of 1 / 2**MEAN_BITS.
MEAN_MAX = 2**11 - 1
# ReLU halves the power of a signal; this initialiser makes up for it, so that all
# layers have signals of equal power (He, Zhang, Ren, Sun 2015, arXiv:1502.01852).
HE = "he_normal"


def stack(*layers, name: str) -> tf.keras.Sequential:
    """Returns a network that applies the layers one after the other."""
    return tf.keras.Sequential(layers, name=name)


def analysis_bls2017(n):
    """Three convolutions, 1/16. Balle, Laparra, Simoncelli 2017, arXiv:1611.01704."""
    return stack(down(n, 9, 4), gdn(), down(n, 5), gdn(), down(n, 5), name="analysis")


def synthesis_bls2017(n):
    """`analysis_bls2017` mirrored."""
    return stack(
        igdn(), up(n, 5), igdn(), up(n, 5), igdn(), up(3, 9, 4), name="synthesis"
    )


def analysis_bmshj2018(n, m):
    """Four convolutions, 1/16. Balle et al. 2018, arXiv:1802.01436."""
    return stack(
        down(n, 5), gdn(), down(n, 5), gdn(), down(n, 5), gdn(), down(m, 5),
        name="analysis",
    )  # fmt: skip


def synthesis_bmshj2018(n):
    """`analysis_bmshj2018` mirrored."""
    return stack(
        up(n, 5), igdn(), up(n, 5), igdn(), up(n, 5), igdn(), up(3, 5),
        name="synthesis",
    )  # fmt: skip


def analysis_cnn(n, m, layers, kernel, pooled):
    """Convolutions and ReLU; each of `layers` layers halves height and width.

    It does so by its stride, or with `pooled` by max pooling of 2x2 after it, as in the
    first convolutional autoencoders (Masci, Meier, Ciresan, Schmidhuber 2011,
    doi:10.1007/978-3-642-21735-7_7). One more convolution, to the m latents, has
    neither.
    """
    relu, pool = tf.keras.layers.ReLU, tf.keras.layers.MaxPool2D
    halved = (
        (lambda: [conv(n, kernel, kernel_initializer=HE), relu(), pool(2)])
        if pooled
        else (lambda: [conv(n, kernel, 2, kernel_initializer=HE), relu()])
    )
    steps = [layer for _ in range(layers) for layer in halved()]
    return stack(*steps, conv(m, kernel), name="analysis")


def synthesis_cnn(n, layers, kernel, pooled):
    """`analysis_cnn` mirrored.

    Strided convolutions become transposed ones; pooling becomes repetition of each
    value 2x2, before a convolution.
    """
    scaled, relu = tf.keras.initializers.VarianceScaling, tf.keras.layers.ReLU

    def doubled(channels, power=2.0):
        """Layers that double height and width.

        Weights start so that outputs have `power` times the power of the inputs.
        """
        if pooled:
            start = scaled(power)
            widened = conv(channels, kernel, kernel_initializer=start)
            return [Repeat(2), widened]
        # Each output of a transposed convolution is a sum over a quarter of its kernel.
        # "fan_out" is what Keras calls the input side of a transposed kernel.
        start = scaled(4 * power, "fan_out")
        return [up(channels, kernel, kernel_initializer=start)]

    steps = [x for _ in range(layers - 1) for x in [*doubled(n), relu()]]
    first = conv(n, kernel, kernel_initializer=HE)
    # Outputs start near mid-grey. When they started with random colours, the first
    # steps changed the weights so much that after 50 steps half of the units of the
    # first layer were zero everywhere; started like this, a fifth.
    last = doubled(3, power=0.02)
    return stack(first, relu(), *steps, *last, name="synthesis")


def analysis_mlp(m, block, activation, means):
    """A dense layer from the pixels of a block to m hidden units, each then scaled.

    Args:
        m: hidden units per block.
        block: side of a block in pixels.
        activation: of the hidden units, `tanh` or `sigmoid`.
        means: 3 to put the block's mean luma and chroma before the hidden units, or 0.
    """
    small = tf.keras.initializers.VarianceScaling(0.01)  # units start unsaturated
    units = stack(
        SpaceToDepth(block),
        conv(m, 1, activation=activation, kernel_initializer=small),
        # A learned scale per unit: how many quantisation steps its range of 1 has.
        tf.keras.layers.DepthwiseConv2D(
            1, use_bias=False, depthwise_initializer=tf.constant_initializer(16.0)
        ),
        name="units",
    )
    if not means:
        return stack(units, name="analysis")
    linear = conv(
        means, block, block, use_bias=False, kernel_initializer=cosines,
        dtype=tf.float32,
    )  # fmt: skip
    return stack(Joined(linear, units), name="analysis")


def synthesis_mlp(block, means):
    """A dense layer without an activation, from a block's latents to its pixels."""

    def means_first(shape, dtype=None):
        rest = tf.keras.initializers.GlorotUniform()((*shape[:3], shape[3] - means))
        return tf.concat([cosines((*shape[:3], means)), rest], -1)

    start = means_first if means else "glorot_uniform"
    return stack(up(3, block, block, kernel_initializer=start), name="synthesis")


def hyper_analysis(n, z_channels=None):
    """y [1/16] to z [1/64]. Minnen, Balle, Toderici 2018, arXiv:1809.02736."""
    return stack(
        conv(n, 3), leaky_relu(), down(n, 5), leaky_relu(), down(z_channels or n, 5),
        name="hyper_analysis",
    )  # fmt: skip


def hyper_synthesis(widths):
    """z_hat [1/64] to features [1/16], integers in 0..255."""
    a, b, c = widths
    return stack(
        ExactConv(4 * a, 3, input_bits=0, input_max=127),
        DepthToSpace(2),
        ExactConv(4 * b, 3),
        DepthToSpace(2),
        ExactConv(c, 3),
        name="hyper_synthesis",
    )


def parameters(channels, *, scales, kernel=1, means=True):
    """Features to (table index, mean) of `channels` latents: one exact convolution.

    The kernel starts at zero, so that means start at 0 and standard deviations at about
    1: random means would inflate the rate for thousands of steps.
    """
    heads = 2 if means else 1
    low = np.repeat([0, -MEAN_MAX][:heads], channels)
    high = np.repeat([scales - 1, MEAN_MAX][:heads], channels)
    return ExactConv(
        heads * channels,
        kernel,
        weight_bits=9,
        output_bits=np.repeat([0, MEAN_BITS][:heads], channels),
        output_range=(low, high),
        rectify=False,
        kernel_initializer="zeros",
        bias=np.repeat([scales * 0.28, 0.0][:heads], channels),
        name="parameters",
    )


def slice_net(widths, kernels, channels, *, scales, index):
    """Features and earlier slices to (table index, mean) of slice `index`."""
    hidden = [ExactConv(n, k) for n, k in zip(widths, kernels)]
    head = parameters(channels, scales=scales, kernel=kernels[-1])
    return stack(*hidden, head, name=f"slice_{index}")


class TwoPassNet(tf.keras.layers.Layer):
    """Networks of a slice that is coded in two passes, each half of a checkerboard.

    The second pass sees the latents of the first (He et al. 2021, arXiv:2103.15306; per
    slice, as He et al. 2022, arXiv:2203.10886). Both passes see the features and the
    earlier slices; the first layer's sums over these are computed once for both. Then
    each pass has a hidden layer and a head of its own.

    Args:
        hidden: channels of the hidden layers.
        channels: channels of the slice.
        scales: number of tables.
        index: number of the slice, for the name.
    """

    def __init__(self, hidden, channels, *, scales, index):
        super().__init__(dtype=tf.float32, name=f"slice_{index}")
        self.conv = SecondPass(ExactConv(hidden, 3), channels)
        self.rest = [
            stack(ExactConv(hidden, 1), parameters(channels, scales=scales), name=name)
            for name in ("first", "second")
        ]

    def call(self, seen, own=None, sums=None):
        """Computes the parameters of one pass, [b, h, w / 2, n].

        Args:
            seen: features and earlier slices, integers [b, h, w, c].
            own: for the second pass, the contexts of the latents of the first,
                [b, h, w / 2, channels].
            sums: for the second pass, the sums that the first returned.

        Returns:
            (parameters, sums) of the first pass, at the even positions of the
            checkerboard; or the parameters of the second, at the odd ones.
        """
        if own is None:
            hidden, sums = self.conv(seen)
            return self.rest[0](hidden), sums
        return self.rest[1](self.conv(seen, own, sums))

    def passes(self):
        """Returns the exact layers of the first pass, and those of the second."""
        firsts = (self.conv.first, self.conv)
        return [[conv, *rest.layers] for conv, rest in zip(firsts, self.rest)]


def residual_prediction(widths, channels, index):
    """Latent residual prediction of ms2020, in floating point: only y_hat needs it."""
    hidden = [x for n, k in zip(widths, (5, 5)) for x in (conv(n, k), leaky_relu())]
    last = conv(channels, 3, kernel_initializer="zeros", activation="tanh")
    return stack(*hidden, last, name=f"residual_prediction_{index}")


def analysis_tfcodec(widths, blocks, window):
    """The sum of a linear transform of blocks, and convolutions with GDN.

    The linear transform starts as a cosine transform, and the convolutions near zero,
    so that training starts with a codec much like JPEG, not with noise, and needs a
    tenth of the steps. The convolutions start at quarter resolution, which saves four
    fifths of the multiplications of `analysis_bmshj2018`. Residual blocks follow at 1/8
    and 1/16, where multiplications reduce the cost most.

    Args:
        widths: channels at 1/4, at 1/8, and of the latents at 1/16.
        blocks: number of residual blocks at 1/8 and at 1/16.
        window: side in pixels of the blocks of the linear transform, which begin every
            16 pixels. Those of 16 do not overlap, and are visible in images of few
            bits; those of 32 reach 8 pixels into their neighbours, as in a lapped
            transform (Malvar and Staelin 1989, doi:10.1109/29.17536).
    """
    a, b, m = widths
    detail = stack(
        SpaceToDepth(4),
        conv(a, 3),
        gdn(),
        down(b, 4),
        *[Block(b) for _ in range(blocks[0])],
        gdn(),
        conv(m, 4, 2, kernel_initializer=tf.keras.initializers.VarianceScaling(0.01)),
        *[Block(m) for _ in range(blocks[1])],
        name="detail",
    )
    # In float32 even if the rest trains in half precision, as its sums are large.
    linear = conv(
        m, window, 16, use_bias=False, kernel_initializer=cosines, dtype=tf.float32
    )
    return stack(Sum(linear, detail), name="analysis")


def synthesis_tfcodec(widths, blocks, window):
    """`analysis_tfcodec` mirrored, with its own number of residual blocks.

    It has GDN, not inverse GDN: latents are as large as the coefficients of a cosine
    transform, and inverse GDN, which multiplies them by each other, diverges on these.
    """
    a, b, m = widths
    detail = stack(
        *[Block(m) for _ in range(blocks[1])],
        up(b, 4),
        gdn(),
        *[Block(b) for _ in range(blocks[0])],
        up(a, 4),
        gdn(),
        conv(3 * 4**2, 3, kernel_initializer="zeros"),
        DepthToSpace(4),
        name="detail",
    )
    linear = up(
        3, window, 16, use_bias=False, kernel_initializer=cosines, dtype=tf.float32
    )
    return stack(Sum(linear, detail), name="synthesis")


class RealisticSynthesis(tf.keras.layers.Layer):
    """A synthesis that adds fine texture: the layers of the faithful one, and noise.

    Noise enters before the first layer, and after each GDN that follows a transposed
    convolution. It repeats every `NOISE_PERIOD` pixels of the image.

    Args:
        synthesis: the synthesis of any architecture with a latent for 16x16 pixels; its
            variables become the first variables of this layer, in the same order.
        counts: number of noise channels at each of these places, from the latents on;
            the last also for any further place.
    """

    STRIDE = 16  # pixels per latent, in each dimension

    def __init__(self, synthesis, counts=(8, 8, 16)):
        super().__init__(name="realistic", autocast=False)
        first = synthesis.layers[0]
        beside = isinstance(first, Sum)
        linear, detail = first.branches if beside else (None, synthesis)
        # In this order the variables are those of the synthesis, then those of noise.
        self.linear, self.layers, self.noise = linear, list(detail.layers), []
        self.path = []
        scale, enlarged = 1, True
        for layer in (None, *self.layers):
            self.path += [layer] if layer else []
            if isinstance(layer, tf.keras.layers.Conv2DTranspose):
                scale, enlarged = scale * layer.strides[0], True
            elif enlarged and (layer is None or isinstance(layer, GDN)):
                number = len(self.noise)
                self.noise.append(
                    Noise(
                        NOISE_PERIOD // self.STRIDE * scale,
                        counts[min(number, len(counts) - 1)],
                        seed=number + 1,
                        dtype=tf.float32,
                    )
                )
                self.path.append(self.noise[-1])
                enlarged = False

    def call(self, y_hat, origin):
        """Returns images [b, 16 h, 16 w, 3], float32, scaled as those of `synthesis`.

        Args:
            y_hat: latents [b, h, w, c] after the inverse gain.
            origin: int32 [2], row and column of the first latent in the image.
        """
        x = y_hat
        for layer in self.path:
            if isinstance(layer, Noise):
                at = origin * (layer.period * self.STRIDE // NOISE_PERIOD)
                x = tf.cast(layer(tf.cast(x, tf.float32), at), x.dtype)
            else:
                x = layer(x)
        x = tf.cast(x, tf.float32)
        return x + tf.cast(self.linear(y_hat), tf.float32) if self.linear else x
