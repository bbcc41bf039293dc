"""Decodes and encodes files inside a `tf.data` pipeline or a `tf.function`."""

from __future__ import annotations

import contextlib
import functools

import numpy as np

from tfcodec import codec, engine, planes, registry
from tfcodec.tensorflow_engine import TensorFlowEngine, rewrite_nothing


class PipelineEngine(TensorFlowEngine):
    """The engine for Python functions that TensorFlow calls, as in `tf.data`.

    Such a function occupies one of TensorFlow's inter-op threads until it returns. If
    as many run at a time as there are such threads, TensorFlow functions that they call
    wait for a thread forever:
    https://github.com/tensorflow/tensorflow/issues/32454. So here the model runs in a
    session, which has threads of its own.
    """

    def _parts(self, path):
        tf, logger = self.tf, self.tf.get_logger()
        config = tf.compat.v1.ConfigProto(use_per_session_threads=True)
        rewrite_nothing(tf, config)
        session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        level = logger.level
        logger.setLevel("ERROR")  # Else it warns that this loader is TensorFlow 1's.
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
def _loaded(model: registry.Model) -> engine.Codec:
    return engine.Codec(model, PipelineEngine)


def _tensorflow():
    """Returns the module; raises ImportError, which says what to install."""
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise ModuleNotFoundError(engine.NO_TENSORFLOW, name=error.name) from None
    return tensorflow


@contextlib.contextmanager
def _called_by_tensorflow():
    """Makes the functions of `codec` use a `PipelineEngine`, within this context."""
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
        channels: of the result, 1, 3 or 4, whatever the file has. With 1, colours are
            averaged. With 1 or 3, alpha is dropped; with 4 it is 255 if the file has
            none.
        max_pixels, realism: as for `decompress`.

    Returns:
        uint8 tensor [height, width, channels].

    Raises:
        ValueError: `channels` is another number. (A damaged file raises an error of
            TensorFlow when the pipeline runs.)
    """
    tf = _tensorflow()
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


def encode_tensor(image, quality: float | None = None, **settings):
    """Compresses an image inside a `tf.data` pipeline, as `tf.io.encode_jpeg` would.

    Args:
        image: uint8 tensor [height, width, channels].
        quality, **settings: as for `compress`.

    Returns:
        string tensor [].
    """
    tf = _tensorflow()

    def encode(image):
        with _called_by_tensorflow():
            return codec.compress(image, quality, **settings)

    return tf.ensure_shape(
        tf.numpy_function(encode, [image], tf.string, stateful=False), []
    )
