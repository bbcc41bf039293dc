"""A model for servers: signatures that take and return whole `.tfc` files.

They use `graph_codec`; their files are the same as those of Python and the command
line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from tfcodec import files, graph_files, graph_images, predict, registry
from tfcodec.bitstream import Limits
from tfcodec.graph_codec import GraphCodec
from tfcodec.tensorflow_engine import without_rewriting
from tfcodec.tracing import traced

# Sides in pixels of the images that the dense functions take, and images per batch.
BUCKETS, BUCKET_BATCH = (256, 512, 1024), 4
WARM_UP = "assets.extra/tf_serving_warmup_requests"


class Served(GraphCodec):
    """The signatures of a served model; `export` makes and saves one."""

    @traced(input_signature=[tf.TensorSpec([None], tf.string, "compressed_bytes")])
    def decompress(self, compressed_bytes):
        """`.tfc` files to PNGs, at the model's default realism for their quality."""
        return self.pngs(self.decoded, compressed_bytes)

    @traced(
        input_signature=[
            tf.TensorSpec([None], tf.string, "compressed_bytes"),
            tf.TensorSpec([None], tf.float32, "realism"),
        ]
    )
    def decompress_realism(self, compressed_bytes, realism):
        """`.tfc` files to PNGs, at a realism from 0 to 1 for each, or one for all."""
        realism = one_for_each(realism, tf.shape(compressed_bytes)[0])
        return self.pngs(lambda pair: self.decoded(*pair), (compressed_bytes, realism))

    @staticmethod
    def pngs(decoded, inputs):
        """Applies `decoded` to each item of `inputs`; returns PNGs and errors."""

        def one(item):
            image, error = decoded(item)
            png = tf.where(tf.equal(error, ""), tf.io.encode_png(image), "")
            return png, error

        png, error = tf.map_fn(
            one,
            inputs,
            parallel_iterations=1,
            fn_output_signature=(tf.string, tf.string),
        )
        return {"image_bytes": png, "error": error}

    def dense(self, side: int, batch: int = BUCKET_BATCH) -> dict:
        """Analysis and synthesis with static shapes, for compilers such as XLA.

        The coder is not included: it has loops and strings, and must run on the CPU.

        Args:
            side: of the images in pixels, a multiple of the model's stride.
            batch: number of images.

        Returns:
            dict of tf.functions: `analysis` images uint8 [batch, side, side, 3] -> y
            float32 [batch, h, w, channels], in latents, before the gain; and
            `synthesis` y_hat likewise, quality float32 [batch] from 0 to 1 -> images.
        """
        latents = [batch, *2 * [side // self.model.latent_stride], self.model.channels]

        @traced(
            input_signature=[tf.TensorSpec([batch, side, side, 3], tf.uint8, "images")]
        )
        def analysis(images):
            # Unrolled, as the exported functions take one image each, and compilers
            # should see no loop.
            y = [self.parts["analysis"](image=x)["y"][0] for x in tf.unstack(images)]
            return tf.ensure_shape(tf.stack(y), latents)

        @traced(
            input_signature=[
                tf.TensorSpec(latents, tf.float32, "y_hat"),
                tf.TensorSpec([batch], tf.float32, "quality"),
            ]
        )
        def synthesis(y_hat, quality):
            images = [
                self.parts["synthesis"](y_hat=y[None], quality=level)["image"]
                for y, level in zip(tf.unstack(y_hat), tf.unstack(quality))
            ]
            return tf.ensure_shape(tf.stack(images), [batch, side, side, 3])

        return {"analysis": analysis, "synthesis": synthesis}

    @traced(
        input_signature=[
            tf.TensorSpec([None], tf.string, "image_bytes"),
            tf.TensorSpec([None], tf.float32, "quality"),
        ]
    )
    def compress(self, image_bytes, quality):
        """PNGs and JPEGs to `.tfc` files, at a quality for each, or one for all."""

        def one(inputs):
            data, level = inputs
            image, error = graph_images.read_image(data, self.limits)
            file, error = tf.cond(
                tf.equal(error, ""),
                lambda: self.encoded(image, level),
                lambda: ("", error),
            )
            return file, graph_images.bits_per_pixel(file, image), error

        quality = one_for_each(quality, tf.shape(image_bytes)[0])
        file, bpp, error = tf.map_fn(
            one,
            (image_bytes, quality),
            parallel_iterations=1,
            fn_output_signature=(tf.string, tf.float32, tf.string),
        )
        return {"compressed_bytes": file, "bpp": bpp, "error": error}

    @traced(input_signature=[tf.TensorSpec([], tf.string, "compressed_bytes")])
    def decompress_pixels(self, compressed_bytes):
        """One `.tfc` file to uint8 [h, w, c]."""
        image, error = self.decoded(compressed_bytes)
        return {"image": image, "error": error}

    @traced(
        input_signature=[
            tf.TensorSpec([], tf.string, "compressed_bytes"),
            tf.TensorSpec([], tf.float32, "realism"),
        ]
    )
    def decompress_pixels_realism(self, compressed_bytes, realism):
        """One `.tfc` file to uint8 [h, w, c], at a realism from 0 to 1."""
        image, error = self.decoded(compressed_bytes, realism)
        return {"image": image, "error": error}

    @traced(
        input_signature=[
            tf.TensorSpec([None, None, None], tf.uint8, "image"),
            tf.TensorSpec([], tf.float32, "quality"),
        ]
    )
    def compress_pixels(self, image, quality):
        """One image, uint8 [h, w, 1 to 4 channels], to a `.tfc` file."""
        file, error = self.encoded(image, quality)
        bpp = graph_images.bits_per_pixel(file, image)
        return {"compressed_bytes": file, "bpp": bpp, "error": error}


def one_for_each(values, count):
    """Returns float32 [count]: a value for each item, or the single value for all.

    If there are fewer values than items, NaN, which is out of range, is added; values
    in excess are dropped.
    """
    several = tf.shape(values)[0]
    short = tf.fill([tf.maximum(count - several, 0)], float("nan"))
    return tf.cond(
        tf.equal(several, 1),
        lambda: tf.fill([count], values[0]),
        lambda: tf.concat([values, short], 0)[:count],
    )


def export(
    model: registry.Model,
    directory: str | os.PathLike,
    limits: Limits = graph_files.LIMITS,
) -> pathlib.Path:
    """Writes a model in the form that TensorFlow Serving loads: `directory/VERSION`.

    Args:
        model: the model to serve.
        directory: holds the versions of one model; the new one gets the next number.
            Its name is the name of the model in the warm-up requests.
        limits: how much a request may make the server code.

    Returns:
        The directory of the new version.

    Raises:
        ValueError: the model has no SavedModel.
        OSError: the version could not be written; nothing of it is left.
    """
    if not model.tensorflow:
        raise ValueError(f"{model.path} has files for LiteRT alone, and no SavedModel")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    numbers = [int(x.name) for x in directory.iterdir() if x.name.isdigit()]
    version = directory / str(1 + max(numbers, default=0))
    served = Served(model, limits)
    names = ["decompress", "compress", "decompress_pixels", "compress_pixels"]
    if model.realistic:
        names += ["decompress_realism", "decompress_pixels_realism"]
    signatures = {name: getattr(served, name) for name in names}
    # These names are attributes of the loaded model, and aliases that converters for
    # TPUs look for.
    served.buckets = {
        f"{name}_{side}": function
        for side in BUCKETS
        for name, function in served.dense(side).items()
    }
    options = tf.saved_model.SaveOptions(function_aliases=dict(served.buckets))
    # A server ignores names that are not numbers, so it never loads a partial version.
    with files.new_directory(version) as part:
        signatures = {"serving_default": served.decompress, **signatures}
        tf.saved_model.save(served, str(part), signatures, options)
        card = {**model.card, "limits": dataclasses.asdict(limits)}
        (part / "card.json").write_text(json.dumps(card, indent=1) + "\n")
        (part / WARM_UP).parent.mkdir()
        with tf.io.TFRecordWriter(str(part / WARM_UP)) as file:
            for record in warm_up(served, directory.name):
                file.write(record.SerializeToString())
    return version


def warm_up(served: Served, name: str) -> list:
    """Returns a PredictionLog for each signature, for a server to run as it starts."""
    image = np.zeros([64, 64, 3], np.uint8)
    with without_rewriting(tf):
        file = served.compress_pixels(image, 50.0)["compressed_bytes"].numpy()
    inputs = {
        "compress": {
            "image_bytes": np.array([tf.io.encode_png(image).numpy()], object),
            "quality": np.array([50], np.float32),
        },
        "decompress": {"compressed_bytes": np.array([file], object)},
        "compress_pixels": {"image": image, "quality": np.float32(50)},
        "decompress_pixels": {"compressed_bytes": file},
    }
    if served.model.realistic:
        for signature, realism in ("decompress", [0.5]), ("decompress_pixels", 0.5):
            more = {"realism": np.array(realism, np.float32)}
            inputs[f"{signature}_realism"] = inputs[signature] | more
    logs = []
    for signature, arrays in inputs.items():
        log = predict.messages()["PredictionLog"]()
        request = predict.request(name, signature, **arrays)
        log.predict_log.request.CopyFrom(request)
        logs.append(log)
    return logs
