"""Critics (discriminators): networks that tell photographs from synthesised pictures.

Projected discriminators (Sauer et al. 2021, arXiv:2111.01007) judge features of a
network that was trained to classify ImageNet, and one more judges pixels. All of them
also see the latents, so that a picture must be plausible for its file. The features are
those of EfficientNet-Lite0 (Tan, Le 2019, arXiv:1905.11946) up to a stride of 16.
"""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

WEIGHTS = pathlib.Path(__file__).parent / "features" / "efficientnet_lite0.npz"
BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32) / 256


class Features:
    """EfficientNet-Lite0's first eleven blocks, frozen.

    The file has the kernels, with batch normalisation folded in, as `stem.k`, and for
    block N `N.expand.k`, `N.dw.k` and `N.project.k`; and the biases as `.b` likewise.
    """

    STRIDES = {1: 2, 3: 2, 5: 2}  # by block; those of the others are 1
    TAKEN = {0: 16, 2: 24, 4: 40, 10: 112}  # block whose output is taken -> channels
    # Blocks after whose first convolution `both` takes activations, at strides of 2, 4
    # and 8; they have 96, 144 and 240 channels.
    INNER = (1, 3, 5)
    BLOCKS = 11

    def __init__(self):
        with np.load(WEIGHTS) as file:
            self.weights = {key: tf.constant(file[key], tf.float32) for key in file}

    def both(self, x) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Returns the maps of pictures, and activations between them: those of `INNER`.

        Pixels are [b, h, w, 3], 0 to 255; maps are at strides of 2, 4, 8 and 16.
        Activations are not negative and have many channels, so that their local means
        and standard deviations tell more of a texture than those of the maps.
        """
        x = self._conv((x - 127.0) / 128.0, "stem", 2)
        maps, inner = [], []
        for k in range(self.BLOCKS):
            stride, before = self.STRIDES.get(k, 1), x
            if f"{k}.expand.k" in self.weights:
                x = self._conv(x, f"{k}.expand")
            if k in self.INNER:
                inner.append(x)
            x = self._conv(x, f"{k}.dw", stride, depthwise=True)
            x = self._conv(x, f"{k}.project", clipped=False)
            if stride == 1 and x.shape[-1] == before.shape[-1]:
                x += before
            if k in self.TAKEN:
                maps.append(x)
        return maps, inner

    def _conv(self, x, name, stride=1, depthwise=False, clipped=True):
        kernel = self.weights[f"{name}.k"]
        pad = (kernel.shape[0] - 1) // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        strides = [1, stride, stride, 1]
        function = tf.nn.depthwise_conv2d if depthwise else tf.nn.conv2d
        x = function(x, kernel, strides, "VALID") + self.weights[f"{name}.b"]
        return tf.clip_by_value(x, 0.0, 6.0) if clipped else x


class SpectralConv(tf.keras.layers.Layer):
    """A convolution whose kernel, as a matrix, is scaled to a spectral norm of 1.

    The norm is estimated by one power iteration per call (Miyato et al. 2018,
    arXiv:1802.05957).
    """

    def __init__(self, filters: int, size: int, stride: int = 1):
        super().__init__(dtype=tf.float32)
        self.filters, self.size, self.stride = filters, size, stride

    def build(self, shape):
        size = [self.size, self.size, shape[-1], self.filters]
        self.kernel = self.add_weight("kernel", size, initializer="he_normal")
        self.bias = self.add_weight("bias", [self.filters], initializer="zeros")
        self.vector = self.add_weight(
            "vector", [1, self.filters], initializer="random_normal", trainable=False
        )

    def call(self, x):
        matrix = tf.reshape(self.kernel, [-1, self.filters])
        left = tf.matmul(self.vector, matrix, transpose_b=True)
        left = tf.stop_gradient(tf.math.l2_normalize(left))
        right = tf.stop_gradient(tf.math.l2_normalize(tf.matmul(left, matrix)))
        self.vector.assign(right)
        norm = tf.reduce_sum(tf.matmul(left, matrix) * right)
        return tf.nn.conv2d(x, self.kernel / norm, self.stride, "SAME") + self.bias


def leaky_relu(x):
    return tf.nn.leaky_relu(x, 0.2)


class Critic(tf.keras.layers.Layer):
    """Layers `before` on a picture or features, then `after`, which see latents too."""

    def __init__(self, before, after):
        super().__init__(dtype=tf.float32)
        self.before, self.after = list(before), list(after)
        self.condition, self.last = SpectralConv(16, 1), SpectralConv(1, 1)

    def call(self, x, y):
        """x [b, h, w, c] and latents y to logits [b, h', w', 1], high for real."""
        for layer in self.before:
            x = leaky_relu(layer(x))
        y = self.condition(y)
        times = -(-x.shape[1] // y.shape[1])
        if times > 1:
            y = tf.repeat(tf.repeat(y, times, 1), times, 2)
        x = tf.concat([x, y[:, : x.shape[1], : x.shape[2]]], -1)
        for layer in self.after:
            x = leaky_relu(layer(x))
        return self.last(x)


class Critics(tf.keras.layers.Layer):
    """All critics: one for each map of features, and one for pixels."""

    WIDTHS = (32, 64, 96, 128)

    def __init__(self):
        super().__init__(dtype=tf.float32)
        self.heads = [
            Critic([], [SpectralConv(n, 1), SpectralConv(n, 3)]) for n in self.WIDTHS
        ]
        self.pixels = Critic(
            [SpectralConv(32, 4, 2), SpectralConv(64, 4, 2)], [SpectralConv(64, 3)]
        )
        # Standard deviation of each feature channel, which the caller sets.
        self.scales = [
            self.add_weight(f"scale_{k}", [n], initializer="ones", trainable=False)
            for k, n in enumerate(Features.TAKEN.values())
        ]

    def call(self, x, maps, y):
        """Returns a list of the logits of all critics, each [b, h', w', 1].

        The critic of pixels also sees an amplified high-pass picture: with spectral
        normalisation it would hardly notice a texture of two levels otherwise.

        Args:
            x: pixels [b, h, w, 3], 0 to 255.
            maps: their features.
            y: latents.
        """
        logits = [
            head(2.0 * features / scale, y)
            for head, features, scale in zip(self.heads, maps, self.scales)
        ]
        seen = tf.concat([(x - 127.0) / 128.0, high_pass(x) / 8.0], -1)
        return [*logits, self.pixels(seen, y)]


def high_pass(x):
    """Returns x [b, h, w, 3] minus its binomial blur over 5x5 pixels."""
    kernel = tf.constant(BINOMIAL)[:, :, None, None] * tf.ones([1, 1, 3, 1])
    return x - tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
