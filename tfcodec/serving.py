"""A model for servers: whole `.tfc` files in and out, in stock TensorFlow operations.

What `bitstream` and `codec` do in Python is done here inside the graph, over the same
exported functions, so that a file moves freely between a server, Python and the
command line.  Nothing that a request holds makes the graph fail, as that would fail
the requests of others in its batch: each item has an `error`, empty if all is well.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from tfcodec import (
    bitstream,
    files,
    graph_files,
    graph_images,
    planes,
    predict,
    registry,
    tiling,
)
from tfcodec.bitstream import Limits
from tfcodec.tracing import traced

# Sides of the squares that the dense functions take, and how many at a time.
BUCKETS, BUCKET_BATCH = (256, 512, 1024), 4
WARM_UP = "assets.extra/tf_serving_warmup_requests"


class Served(tf.Module):
    """The functions of a served model. Make it once, save it with `export`.

    Args:
        model: a `registry.Model`.
        limits: what an item may ask for; constants of the graph.
    """

    def __init__(self, model: registry.Model, limits: Limits = graph_files.LIMITS):
        super().__init__()
        self.card, self.limits = model, limits
        self.codec = tf.saved_model.load(str(model.path))
        self.parts = dict(self.codec.signatures)

    def decoded(self, data):
        """string [] to (image uint8 [h, w, c], error string [])."""
        file = graph_files.parse(
            data, self.card.fingerprint, self.card.stride, self.limits
        )
        blank = tf.zeros([1, 1, 1], tf.uint8)
        return tf.cond(
            tf.equal(file.error, ""),
            lambda: self.image(data, file),
            lambda: (blank, file.error),
        )

    def image(self, data, file: graph_files.File):
        check = graph_files.Check()
        strings = self.strings(data, file, bitstream.TILE)
        colours = self.pixels(file, strings, file.quality, check)
        grey = tf.bitwise.bitwise_and(file.layout, bitstream.GREY) > 0
        colours = tf.cond(grey, lambda: graph_images.grey_of(colours), lambda: colours)

        def with_alpha():
            alpha, error = self.alpha(data, file)
            return tf.concat([colours, alpha], -1), error

        has_alpha = tf.bitwise.bitwise_and(file.layout, bitstream.ALPHA_BIT) > 0
        image, error = tf.cond(has_alpha, with_alpha, lambda: (colours, ""))
        check(error == "", error)
        return image, check.error

    def alpha(self, data, file):
        """Returns (alpha uint8 [h, w, 1], error)."""

        def lossless():
            string = self.strings(data, file, bitstream.ALPHA)[0]
            return graph_images.read_alpha(string, file.height, file.width)

        def lossy():
            check = graph_files.Check()
            strings = self.strings(data, file, bitstream.ALPHA_TILE)
            levels = graph_files.piece(strings, 0, 2)
            check(tf.reduce_all(levels == levels[0]), "damaged: alpha's quality")
            level = graph_files.little_endian(graph_files.window(levels[0], 0, 2))
            check(level <= 10000, "damaged: alpha's quality")
            lengths = tf.strings.length(strings)
            check(tf.reduce_all(lengths >= 2), "damaged: alpha's quality")
            strings = graph_files.piece(strings, 2, lengths)
            quality = tf.cast(tf.minimum(level, 10000), tf.float32) / 100
            alpha = graph_images.grey_of(self.pixels(file, strings, quality, check))
            snap = planes.ALPHA_SNAP
            alpha = tf.where(alpha <= snap, tf.zeros_like(alpha), alpha)
            full = tf.fill(tf.shape(alpha), tf.constant(255, tf.uint8))
            return tf.where(alpha >= 255 - snap, full, alpha), check.error

        tiled = tf.reduce_any(file.chunks[:, 0] == bitstream.ALPHA_TILE)
        return tf.cond(tiled, lossy, lossless)

    def strings(self, data, file, kind):
        """string [n]: the data of the chunks of a kind."""
        chunks = tf.boolean_mask(file.chunks, file.chunks[:, 0] == kind)
        copies = tf.fill([tf.shape(chunks)[0]], data)
        return tf.strings.substr(copies, chunks[:, 1], chunks[:, 2])

    def pixels(self, file, strings, quality, check):
        """Decodes tiles, string [n], to uint8 [h, w, 3], as `Codec.pixels` does."""
        stride, latent = self.card.stride, self.card.latent_stride
        halo = self.card.reach["synthesis"] * latent
        grid = graph_images.Grid(file.height, file.width, file.side)
        whole = graph_images.padded(tf.stack([file.height, file.width]), stride)
        largest = tf.minimum(graph_images.padded(grid.side, stride), whole)
        count = tf.size(strings)

        def decode(k, sound, tiles):
            top, bottom = grid.box(k)
            size = graph_images.padded(bottom - top, stride)
            string = tf.gather(strings, k)
            # A bad one is not decoded on: what comes of it has no bound in a graph.
            escapes = graph_files.little_endian(graph_files.window(string, 2, 4))
            few = escapes <= (self.limits.escapes or bitstream.UINT32_MAX)
            string = tf.where(few, string, "")
            result = self.parts["decode"](string=string, size=size)
            more = (largest - size) // latent
            y_hat = tf.pad(result["y_hat"][0], [[0, more[0]], [0, more[1]], [0, 0]])
            return k + 1, sound & result["sound"], tiles.write(k, y_hat)

        tiles = tf.TensorArray(
            tf.float32, count, element_shape=[None, None, self.card.channels]
        )
        _, sound, tiles = tf.while_loop(
            lambda k, *_: k < count, decode, (0, tf.constant(True), tiles),
            parallel_iterations=1,
        )  # fmt: skip
        check(sound, "the coded pixels are damaged")
        y_hat = grid.joined(tiles)

        def synthesise(k, tiles):
            top, bottom = grid.box(k)
            begin = tf.maximum(top // latent * latent - halo, 0)
            end = tf.minimum(graph_images.padded(bottom, latent) + halo, whole)
            a, b = begin // latent, end // latent
            image = self.parts["synthesis"](
                y_hat=y_hat[None, a[0] : b[0], a[1] : b[1]], quality=quality / 100
            )["image"]
            a, b = top - begin, bottom - begin
            image = image[a[0] : b[0], a[1] : b[1]]
            more = grid.side - tf.shape(image)[:2]
            image = tf.pad(image, [[0, more[0]], [0, more[1]], [0, 0]])
            return k + 1, tiles.write(k, image)

        tiles = tf.TensorArray(tf.uint8, count, element_shape=[None, None, 3])
        _, tiles = tf.while_loop(
            lambda k, *_: k < count, synthesise, (0, tiles), parallel_iterations=1
        )
        return grid.joined(tiles)[: file.height, : file.width]

    def encoded(self, image, quality):
        """uint8 [h, w, c] and quality [] to (a file, error), string [] both."""
        check = graph_files.Check()
        hundredths = tf.round(quality * 100)
        check((hundredths >= 0) & (hundredths <= 10000), "quality is not 0 to 100")
        size = tf.shape(image)[:2]
        pixels = tf.reduce_prod(tf.cast(size, tf.int64))
        check(pixels > 0, "no pixels")
        channels = tf.shape(image)[2]
        check((channels >= 1) & (channels <= 4), "not 1 to 4 channels")
        for value, limit, name in (
            (pixels, self.limits.pixels, "pixels"),
            (tf.cast(tf.reduce_max(size), tf.int64), self.limits.side, "a side"),
        ):
            if limit:
                check(value <= limit, f"over the limit of {limit} {name}")
        return tf.cond(
            tf.equal(check.error, ""),
            lambda: (self.file(image, tf.cast(hundredths, tf.int32)), ""),
            lambda: ("", check.error),
        )

    def file(self, image, hundredths):
        """`Codec.compress`, but that colours which alpha hides stay as they are."""
        height, width, channels = tf.unstack(tf.shape(image))
        area = tf.reduce_prod(
            graph_images.padded(tf.stack([height, width]), bitstream.PADDED)
        )
        tiled = area > tiling.UNTILED_PIXELS
        side = tf.where(tiled, tiling.TILE_SIDE, 0)
        alpha = channels % 2 == 0
        colours = tf.where(channels > 2, 3, 1)
        layout = tf.gather(
            [planes.LAYOUTS[c] for c in (1, 2, 3, 4)], tf.maximum(channels - 1, 0)
        )
        layout += tf.where(tiled, tiling.tile_layout(1, 1, tiling.TILE_SIDE) << 4, 0)
        start = [bitstream.MAGIC + bytes([bitstream.VERSION])]
        fields = [
            self.card.fingerprint,
            graph_files.varint_bytes(width),
            graph_files.varint_bytes(height),
            graph_files.byte_string(layout),
            graph_files.byte_string(hundredths % 256),
            graph_files.byte_string(hundredths // 256),
        ]
        fields = tf.strings.join(fields)
        start = tf.strings.join(
            [*start, graph_files.byte_string(tf.strings.length(fields)), fields]
        )
        pixels = image[..., :colours]
        pixels = tf.cond(
            colours == 1, lambda: tf.tile(pixels, [1, 1, 3]), lambda: pixels
        )
        strings = self.coded(tf.ensure_shape(pixels, [None, None, 3]), side, hundredths)
        tiles = tf.map_fn(
            lambda string: graph_files.chunk(start, bitstream.TILE, string), strings
        )

        def lossless():
            plane = tf.ensure_shape(image[..., channels - 1 :], [None, None, 1])
            return graph_files.chunk(start, bitstream.ALPHA, tf.io.encode_png(plane, 9))

        alpha = tf.cond(alpha, lossless, lambda: "")
        return tf.strings.join([start, alpha, tf.strings.reduce_join(tiles)])

    def coded(self, image, side, hundredths):
        """uint8 [h, w, 3] to the strings of its tiles, [n]; see `_Work._seen`."""
        stride, latent = self.card.stride, self.card.latent_stride
        halo = self.card.reach["analysis"] * latent
        size = tf.shape(image)[:2]
        grid = graph_images.Grid(size[0], size[1], side)
        whole = graph_images.padded(size, stride)
        count = tf.reduce_prod(grid.shape)
        rows, columns = (tf.minimum(tf.range(whole[k]), size[k] - 1) for k in range(2))
        image = tf.gather(tf.gather(image, rows), columns, axis=1)

        def code(k, strings):
            top, bottom = grid.box(k)
            inner = graph_images.padded(bottom, stride)
            begin = tf.maximum(top - halo, 0)
            end = tf.minimum(inner + halo, whole)
            y = self.parts["analysis"](
                image=image[begin[0] : end[0], begin[1] : end[1]]
            )["y"]
            a, b = (top - begin) // latent, (inner - begin) // latent
            result = self.parts["encode"](
                y=y[:, a[0] : b[0], a[1] : b[1]],
                quality=tf.cast(hundredths, tf.float32) / 10000,
            )
            return k + 1, strings.write(k, result["string"])

        strings = tf.TensorArray(tf.string, count, element_shape=[])
        _, strings = tf.while_loop(
            lambda k, _: k < count, code, (0, strings), parallel_iterations=1
        )
        return strings.stack()

    @traced(input_signature=[tf.TensorSpec([None], tf.string, "compressed_bytes")])
    def decompress(self, compressed_bytes):
        """`.tfc` files to PNGs."""

        def one(data):
            image, error = self.decoded(data)
            png = tf.where(tf.equal(error, ""), tf.io.encode_png(image), "")
            return png, error

        png, error = tf.map_fn(
            one,
            compressed_bytes,
            parallel_iterations=1,
            fn_output_signature=(tf.string, tf.string),
        )
        return {"image_bytes": png, "error": error}

    def dense(self, side: int, batch: int = BUCKET_BATCH) -> dict:
        """Analysis and synthesis of static shapes, for compilers: XLA, a TPU's.

        Nothing of the coder, which is loops and strings, and must stay on the CPU.

        Args:
            side: of the squares, a multiple of the model's stride.
            batch: how many.

        Returns:
            dict of tf.functions: `analysis` images uint8 [batch, side, side, 3] -> y
            float32 [batch, side / 16, side / 16, channels], before the gain; and
            `synthesis` y_hat likewise, quality float32 [batch] from 0 to 1 -> images.
        """
        latents = [batch, *2 * [side // self.card.latent_stride], self.card.channels]

        @traced(
            input_signature=[tf.TensorSpec([batch, side, side, 3], tf.uint8, "images")]
        )
        def analysis(images):
            # One by one, as the exported functions take one: a compiler sees no loop.
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
        """PNGs and JPEGs to `.tfc` files; one quality serves for all."""

        def one(inputs):
            data, level = inputs
            image, error = graph_images.read_image(data, self.limits)
            file, error = tf.cond(
                tf.equal(error, ""),
                lambda: self.encoded(image, level),
                lambda: ("", error),
            )
            return file, graph_images.bits_per_pixel(file, image), error

        count = tf.shape(image_bytes)[0]
        # As many as there are images, or one; of any other number, none is right.
        several = tf.shape(quality)[0]
        short = tf.fill([tf.maximum(count - several, 0)], float("nan"))
        quality = tf.cond(
            tf.equal(several, 1),
            lambda: tf.fill([count], quality[0]),
            lambda: tf.concat([quality, short], 0)[:count],
        )
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
            tf.TensorSpec([None, None, None], tf.uint8, "image"),
            tf.TensorSpec([], tf.float32, "quality"),
        ]
    )
    def compress_pixels(self, image, quality):
        """One image, uint8 [h, w, 1 to 4 channels], to a `.tfc` file."""
        file, error = self.encoded(image, quality)
        bpp = graph_images.bits_per_pixel(file, image)
        return {"compressed_bytes": file, "bpp": bpp, "error": error}


def export(
    model: registry.Model,
    directory: str | os.PathLike,
    limits: Limits = graph_files.LIMITS,
) -> pathlib.Path:
    """Writes a model as TensorFlow Serving loads it: `directory/VERSION`.

    Args:
        model: what to serve.
        directory: holds the versions of one model; the new one has the next number.
            Its own name is the model's name in the warm-up requests.
        limits: what a request may ask for.

    Returns:
        The directory of the version.

    Raises:
        OSError: it could not be written, and is not there.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    numbers = [int(x.name) for x in directory.iterdir() if x.name.isdigit()]
    version = directory / str(1 + max(numbers, default=0))
    served = Served(model, limits)
    names = "decompress", "compress", "decompress_pixels", "compress_pixels"
    signatures = {name: getattr(served, name) for name in names}
    # Found again by these names: attributes of what is loaded, and aliases for a TPU's
    # converter.
    served.buckets = {
        f"{name}_{side}": function
        for side in BUCKETS
        for name, function in served.dense(side).items()
    }
    options = tf.saved_model.SaveOptions(function_aliases=dict(served.buckets))
    # A server looks at names of digits alone, and so sees the whole or nothing.
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
    """Returns a PredictionLog for each signature, so that no client waits for it."""
    image = np.zeros([64, 64, 3], np.uint8)
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
    logs = []
    for signature, arrays in inputs.items():
        log = predict.messages()["PredictionLog"]()
        request = predict.request(name, signature, **arrays)
        log.predict_log.request.CopyFrom(request)
        logs.append(log)
    return logs
