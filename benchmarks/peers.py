"""Other learned codecs, to measure their speed: CompressAI's, and one of TFC's layers.

Each has the two methods of every codec here. Weights are random, so that none need be
downloaded: the networks take as long as trained ones, but the files mean nothing.
"""

from __future__ import annotations

import importlib.metadata
import struct

import numpy as np

from tfcodec import helpers, tiling
from tfcodec.classical import Missing

STRIDE = 64


class Peer:
    """A network with `compress` and `decompress`; files are a size and two strings.

    A subclass has `encode(image)`, from uint8 [1, h, w, 3] to two strings, and
    `decode(strings, (h, w))`, to uint8 [h, w, 3].
    """

    settings = {"weights": "random"}

    def compress(self, image: np.ndarray, quality: None = None) -> bytes:
        padded = np.ascontiguousarray(tiling.pad(image, STRIDE))
        first, second = self.encode(padded[None])
        size = struct.pack("<III", *image.shape[:2], len(first))
        return size + first + second

    def decompress(self, data: bytes) -> np.ndarray:
        height, width, first = struct.unpack_from("<III", data)
        strings = data[12 : 12 + first], data[12 + first :]
        size = tiling.padded_size(height, width, STRIDE)
        return tiling.crop(self.decode(strings, size), height, width)


class CompressAI(Peer):
    """A model of CompressAI, by its name there, at quality 3 (N=128, M=192)."""

    def __init__(self, model: str):
        try:
            import torch
            from compressai import zoo
        except ImportError as error:
            raise Missing(
                f"compressai-{model}: {error}; pip install compressai"
            ) from None
        self.name, self.torch = f"compressai-{model}", torch
        versions = (importlib.metadata.version(p) for p in ("compressai", "torch"))
        self.version = "CompressAI {}, PyTorch {}".format(*versions)
        torch.set_num_threads(helpers.cores())
        torch.manual_seed(0)
        build = getattr(zoo, model.replace("-", "_"))
        self.model = build(quality=3, pretrained=False).eval()
        self.model.update()

    def encode(self, image):
        with self.torch.inference_mode():
            x = self.torch.from_numpy(image).permute(0, 3, 1, 2) / 255
            strings = self.model.compress(x)["strings"]
        return [string for (string,) in strings]

    def decode(self, strings, size):
        with self.torch.inference_mode():
            side = [extent // STRIDE for extent in size]
            x_hat = self.model.decompress([[s] for s in strings], side)["x_hat"]
            x_hat = (x_hat[0].permute(1, 2, 0) * 255).round().clamp(0, 255)
            return x_hat.to(self.torch.uint8).numpy()


class TensorFlowCompression(Peer):
    """The scale hyperprior in TensorFlow Compression's own layers and range coder.

    Balle et al. 2018, arXiv:1802.01436, 192 channels, as in TFC's `bmshj2018.py`.
    """

    name = "tfc-bmshj2018"

    def __init__(self, channels: int = 192):
        try:
            import tensorflow as tf
            import tensorflow_compression as tfc

            from tfcodec.densities import Density
        except ImportError as error:
            raise Missing(
                f"{self.name}: {error}; pip install -r requirements.txt"
            ) from None
        versions = importlib.metadata.version("tensorflow-compression"), tf.__version__
        self.version = "TensorFlow Compression {}, TensorFlow {}".format(*versions)
        tf.keras.utils.set_random_seed(0)
        n = channels

        def conv(filters, kernel, down=1, up=1, activation=None):
            return tfc.SignalConv2D(
                filters, (kernel, kernel), corr=up == 1, strides_down=down,
                strides_up=up, padding="same_zeros", use_bias=True,
                activation=activation,
            )  # fmt: skip

        def gdn():
            return tfc.GDN(alpha_parameter=1, epsilon_parameter=1)

        def igdn():
            return tfc.GDN(inverse=True, alpha_parameter=1, epsilon_parameter=1)

        relu, stack = tf.nn.relu, tf.keras.Sequential
        analysis = stack(
            [*[conv(n, 5, down=2, activation=gdn()) for _ in range(3)], conv(n, 5, 2)]
        )
        synthesis = stack(
            [
                *[conv(n, 5, up=2, activation=igdn()) for _ in range(3)],
                conv(3, 5, up=2),
            ]
        )
        hyper_analysis = stack(
            [conv(n, 3, activation=relu), conv(n, 5, 2, activation=relu), conv(n, 5, 2)]
        )
        hyper_synthesis = stack(
            [
                conv(n, 5, up=2, activation=relu),
                conv(n, 5, up=2, activation=relu),
                conv(n, 3),
            ]
        )
        y_model = tfc.LocationScaleIndexedEntropyModel(
            tfc.NoisyNormal, 64, lambda i: tf.exp(-2.2 + i * 7.75 / 63),
            coding_rank=3, compression=True,
        )  # fmt: skip
        z_model = tfc.ContinuousBatchedEntropyModel(
            Density(batch_shape=[n]), coding_rank=3, compression=True
        )

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        def encode(image):
            y = analysis(tf.cast(image, tf.float32) / 255)
            z = hyper_analysis(tf.abs(y))
            indexes = hyper_synthesis(z_model.quantize(z))
            return y_model.compress(y, indexes), z_model.compress(z)

        @tf.function(
            input_signature=[
                tf.TensorSpec([1], tf.string),
                tf.TensorSpec([1], tf.string),
                tf.TensorSpec([2], tf.int32),
            ]
        )
        def decode(y_string, z_string, size):
            z_hat = z_model.decompress(z_string, size // STRIDE)
            y_hat = y_model.decompress(y_string, hyper_synthesis(z_hat))
            x_hat = tf.round(synthesis(y_hat) * 255)
            return tf.saturate_cast(x_hat, tf.uint8)

        # Keeps the layers alive, whose variables the functions use.
        self._kept = analysis, synthesis, hyper_analysis, hyper_synthesis
        self._encode, self._decode = encode, decode

    def encode(self, image):
        return [string.numpy()[0] for string in self._encode(image)]

    def decode(self, strings, size):
        return self._decode(*[[s] for s in strings], list(size))[0].numpy()


PEERS = {
    "compressai-bmshj2018-hyperprior": lambda: CompressAI("bmshj2018-hyperprior"),
    "compressai-mbt2018-mean": lambda: CompressAI("mbt2018-mean"),
    TensorFlowCompression.name: TensorFlowCompression,
}
