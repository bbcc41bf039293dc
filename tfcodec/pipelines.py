"""Files to pixels, and back, inside a `tf.data` pipeline or a `tf.function`."""

from __future__ import annotations

import contextlib
import functools

import numpy as np

from tfcodec import codec, engine, planes, registry
from tfcodec.tensorflow_engine import TensorFlowEngine


class PipelineEngine(TensorFlowEngine):
    """The engine for functions of Python's that TensorFlow calls, as in `tf.data`.

    Such a function holds one of TensorFlow's inter-op threads until it returns. Where
    as many run at a time as there are such threads, a function of TensorFlow that they
    call waits for one for ever: https://github.com/tensorflow/tensorflow/issues/32454.
    So the model runs in a session here, which has threads of its own.
    """

    def _parts(self, path):
        tf, logger = self.tf, self.tf.get_logger()
        config = tf.compat.v1.ConfigProto(use_per_session_threads=True)
        session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        level = logger.level
        logger.setLevel("ERROR")  # That it is the loader of TensorFlow 1 is no news.
        try:
            with session.graph.as_default():
                found = tf.compat.v1.saved_model.load(session, ["serve"], path)
        finally:
            logger.setLevel(level)

        def part(signature):
            names = {k: tensor.name for k, tensor in signature.outputs.items()}

            def call(**inputs):
                fed = {signature.inputs[k].name: v.numpy() for k, v in inputs.items()}
                results = session.run(names, fed)
                return {k: tf.constant(value) for k, value in results.items()}

            return call

        return {name: part(s) for name, s in found.signature_def.items()}


@functools.lru_cache(maxsize=2)
def _loaded(path: str, fingerprint: bytes) -> engine.Codec:
    return engine.Codec(registry.Model.at(path), PipelineEngine)


@contextlib.contextmanager
def _called_by_tensorflow():
    """Has `codec` code, within here, by a `PipelineEngine`."""
    token = codec.loader.set(_loaded)
    try:
        yield
    finally:
        codec.loader.reset(token)


def decode_tensor(
    data,
    channels: int = 3,
    *,
    max_pixels: int | None = None,
    realism: float | None = None,
):
    """Decompresses a file inside a `tf.data` pipeline, as `tf.io.decode_png` would.

        tf.data.Dataset.list_files("*.tfc").map(tf.io.read_file).map(tfcodec.decode_tensor)

    Args:
        data: string tensor [], a `.tfc` file.
        channels: 1, 3 or 4 of what it returns, whatever the file has: colours become
            their mean, alpha is dropped, or is 255.
        max_pixels, realism: as of `decompress`.

    Returns:
        uint8 tensor [height, width, channels].

    Raises:
        ValueError: other channels. A damaged file fails when the pipeline runs.
    """
    import tensorflow as tf

    if channels not in (1, 3, 4):
        raise ValueError(f"channels must be 1, 3 or 4, not {channels}")

    def decode(data):
        with _called_by_tensorflow():
            image = codec.decompress(data, max_pixels=max_pixels, realism=realism)
        image = image[..., None] if image.ndim == 2 else image
        count = image.shape[-1]
        colours = image[..., : 3 if count > 2 else 1]
        if channels == 1:
            return (
                colours
                if colours.shape[-1] == 1
                else planes.grey_of(colours)[..., None]
            )
        if colours.shape[-1] == 1:
            colours = np.repeat(colours, 3, -1)
        if channels == 3:
            return colours
        opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
        alpha = opaque if count % 2 else image[..., -1:]
        return np.concatenate([colours, alpha], -1)

    image = tf.numpy_function(decode, [data], tf.uint8, stateful=False)
    return tf.ensure_shape(image, [None, None, channels])


def encode_tensor(image, quality: float = codec.DEFAULT_QUALITY, **settings):
    """Compresses an image inside a `tf.data` pipeline, as `tf.io.encode_jpeg` would.

    Args:
        image: uint8 tensor [height, width, channels].
        quality, **settings: as of `compress`.

    Returns:
        string tensor [].
    """
    import tensorflow as tf

    def encode(image):
        with _called_by_tensorflow():
            return codec.compress(image, quality, **settings)

    return tf.ensure_shape(
        tf.numpy_function(encode, [image], tf.string, stateful=False), []
    )
