"""The codec inside a TensorFlow graph: whole `.tfc` files to pixels and back.

What `bitstream` and `codec` do in Python is done here in stock TensorFlow operations,
with the same exported functions.  No input makes the graph fail, as that would also
fail the requests of other clients in the same batch; instead each item has an `error`,
a string that is empty if all is well.
"""

from __future__ import annotations

import tensorflow as tf

from tfcodec import bitstream, graph_files, graph_images, planes, registry, tiling
from tfcodec.bitstream import Limits
from tfcodec.quality import STEPS


class GraphCodec(tf.Module):
    """Encodes and decodes the files of one model within a graph.

    Args:
        model: a `registry.Model`.
        limits: how much an item may make us decode or encode; constants of the graph.
    """

    def __init__(self, model: registry.Model, limits: Limits = graph_files.LIMITS):
        super().__init__()
        self.model, self.limits = model, limits
        self.codec = tf.saved_model.load(str(model.path))
        self.parts = dict(self.codec.signatures)
        if model.realistic:
            self.second = tf.saved_model.load(str(model.realism))
            self.parts["realistic"] = self.second.signatures["synthesis"]

    def decoded(self, data, realism=None):
        """A file, string [], to (image uint8 [h, w, c], error string []).

        Realism is float32 [], or None for the model's default at the file's quality.
        """
        file = graph_files.parse(
            data, self.model.fingerprint, self.model.stride, self.limits
        )
        if realism is None:
            realism = self.default_realism(file.quality)
        check = graph_files.Check()
        check(file.error == "", file.error)
        check((realism >= 0) & (realism <= 1), "realism is not 0 to 1")
        blank = tf.zeros([1, 1, 1], tf.uint8)
        return tf.cond(
            tf.equal(check.error, ""),
            lambda: self.image(data, file, realism),
            lambda: (blank, check.error),
        )

    def image(self, data, file: graph_files.File, realism):
        """As `decoded`, for a file whose header and chunks are sound."""
        check = graph_files.Check()
        strings = self.strings(data, file, bitstream.TILE)
        colours = self.pixels(file, strings, file.quality, check, realism)
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
            check(level <= STEPS, "damaged: alpha's quality")
            lengths = tf.strings.length(strings)
            check(tf.reduce_all(lengths >= 2), "damaged: alpha's quality")
            strings = graph_files.piece(strings, 2, lengths)
            quality = tf.cast(tf.minimum(level, STEPS), tf.float32) / 100
            alpha = graph_images.grey_of(self.pixels(file, strings, quality, check))
            snap = planes.ALPHA_SNAP
            alpha = tf.where(alpha <= snap, tf.zeros_like(alpha), alpha)
            full = tf.fill(tf.shape(alpha), tf.constant(255, tf.uint8))
            return tf.where(alpha >= 255 - snap, full, alpha), check.error

        tiled = tf.reduce_any(file.chunks[:, 0] == bitstream.ALPHA_TILE)
        return tf.cond(tiled, lossy, lossless)

    def strings(self, data, file, kind):
        """Returns the data of the chunks of one type, string [n]."""
        chunks = tf.boolean_mask(file.chunks, file.chunks[:, 0] == kind)
        copies = tf.fill([tf.shape(chunks)[0]], data)
        return tf.strings.substr(copies, chunks[:, 1], chunks[:, 2])

    def pixels(self, file, strings, quality, check, realism=None):
        """Decodes tiles, string [n], to uint8 [h, w, 3], as `Codec.pixels` does.

        Without a realism, float32 [], the faithful synthesis is used.
        """
        stride, latent = self.model.stride, self.model.latent_stride
        realistic = self.model.realistic and realism is not None
        halo = self.model.synthesis_reach(float(realistic)) * latent
        grid = graph_images.Grid(file.height, file.width, file.side)
        whole = graph_images.padded(tf.stack([file.height, file.width]), stride)
        largest = graph_images.padded(grid.side, stride)
        count = tf.size(strings)

        def decode(k, sound, tiles):
            top, bottom = grid.box(k)
            size = graph_images.padded(bottom - top, stride)
            string = tf.gather(strings, k)
            # Too many escapes, which would all need memory, are not decoded.
            escapes = graph_files.little_endian(graph_files.window(string, 2, 4))
            few = escapes <= (self.limits.escapes or bitstream.UINT32_MAX)
            string = tf.where(few, string, "")
            result = self.parts["decode"](string=string, size=size)
            more = (largest - size) // latent
            y_hat = tf.pad(result["y_hat"][0], [[0, more[0]], [0, more[1]], [0, 0]])
            return k + 1, sound & result["sound"], tiles.write(k, y_hat)

        tiles = tf.TensorArray(
            tf.float32, count, element_shape=[None, None, self.model.channels]
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
            given = {
                "y_hat": y_hat[None, a[0] : b[0], a[1] : b[1]],
                "quality": quality / 100,
            }
            if realistic:
                image = self.drawn(given, a, realism)
            else:
                image = self.parts["synthesis"](**given)["image"]
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

    def default_realism(self, quality):
        """`registry.Model.default_realism` of float32 []."""
        points = self.model.default_realism_points
        value = tf.constant(points[0][1], tf.float32)
        for (low, first), (high, last) in zip(points, points[1:]):
            way = tf.clip_by_value((quality - low) / (high - low), 0.0, 1.0)
            value += way * (last - first)
        return value

    def drawn(self, given, origin, realism):
        """Synthesises at a realism, float32 [], as `Codec` does: uint8 [h, w, 3].

        Args:
            given: `y_hat` and `quality`, as both syntheses take them.
            origin: int32 [2], row and column of the first latent in the image.
            realism: 0 to 1.
        """

        def faithful():
            return self.parts["synthesis"](**given)["image"]

        def grain():
            return self.parts["realistic"](origin=origin, **given)["image"]

        def mean():
            pair = tf.cast(faithful(), tf.float32), tf.cast(grain(), tf.float32)
            return tf.cast(tf.round(pair[0] + realism * (pair[1] - pair[0])), tf.uint8)

        return tf.case([(realism <= 0, faithful), (realism >= 1, grain)], default=mean)

    def encoded(self, image, quality):
        """uint8 [h, w, c] and quality [], 0 to 100, to string [] (file, error)."""
        check = graph_files.Check()
        hundredths = tf.round(quality * 100)
        check((hundredths >= 0) & (hundredths <= STEPS), "quality is not 0 to 100")
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
        """As `Codec.compress`, but does not change colours that alpha hides."""
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
        start = bitstream.MAGIC + bytes([bitstream.VERSION])
        fields = [
            self.model.fingerprint,
            graph_files.varint_bytes(width),
            graph_files.varint_bytes(height),
            graph_files.byte_string(layout),
            graph_files.byte_string(hundredths % 256),
            graph_files.byte_string(hundredths // 256),
        ]
        fields = tf.strings.join(fields)
        start = tf.strings.join(
            [start, graph_files.byte_string(tf.strings.length(fields)), fields]
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
        """As `Compression.strings`: uint8 [h, w, 3] to the strings [n] of its tiles."""
        stride, latent = self.model.stride, self.model.latent_stride
        halo = self.model.reach["analysis"] * latent
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
                quality=tf.cast(hundredths, tf.float32) / STEPS,
            )
            return k + 1, strings.write(k, result["string"])

        strings = tf.TensorArray(tf.string, count, element_shape=[])
        _, strings = tf.while_loop(
            lambda k, _: k < count, code, (0, strings), parallel_iterations=1
        )
        return strings.stack()
