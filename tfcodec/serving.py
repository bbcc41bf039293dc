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
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfcodec import (
    bitstream,
    files,
    planes,
    predict,
    registry,
    tiling,
)
from tfcodec.bitstream import Limits

# Of a server, smaller than those of a command line: each item of a batch may be as
# large, and waits for the others.
LIMITS = Limits(
    pixels=2**24, side=2**16, decoded_bytes=2**26, tiles=2**8, chunks=2**10,
    file_bytes=2**26, escapes=2**20,
)  # fmt: skip
ADLER = 65521
# Sides of the squares that the dense functions take, and how many at a time.
BUCKETS, BUCKET_BATCH = (256, 512, 1024), 4
WARM_UP = "assets.extra/tf_serving_warmup_requests"


class File(NamedTuple):
    """A parsed file, tensors. Where `error` is not empty, the rest means nothing."""

    error: tf.Tensor  # string []
    height: tf.Tensor  # int32 [], as all that follow but quality
    width: tf.Tensor
    layout: tf.Tensor
    side: tf.Tensor  # of the tiles, 0 for one
    quality: tf.Tensor  # float32 [], 0 to 100
    chunks: tf.Tensor  # [n, 3]: type, where its data begins, bytes


class Check:
    """The first thing that is wrong, while a graph is traced."""

    def __init__(self, error=""):
        self.error = tf.convert_to_tensor(error)

    def __call__(self, good, message):
        first = tf.equal(self.error, "") & ~good
        self.error = tf.where(first, message, self.error)


def byte_values(string):
    """int32 [n] of a string []."""
    return tf.cast(tf.io.decode_raw(string, tf.uint8), tf.int32)


def piece(data, at, size):
    """Bytes of strings, as many as there are: `substr` fails beyond the end."""
    length = tf.strings.length(data)
    at = tf.clip_by_value(at + tf.zeros_like(length), 0, length)
    return tf.strings.substr(data, at, tf.maximum(size + tf.zeros_like(length), 0))


def window(data, at, size: int):
    """int32 [size] of the bytes at `at`, zero beyond the end."""
    found = byte_values(piece(data, at, size))
    return tf.ensure_shape(tf.pad(found, [[0, size - tf.size(found)]]), [size])


def little_endian(values):
    """int64 [] of bytes, int32 [n]."""
    shifts = 8 * tf.range(tf.size(values, tf.int64))
    return tf.reduce_sum(tf.bitwise.left_shift(tf.cast(values, tf.int64), shifts))


def varint(values, at, check):
    """Reads int32 [n] at `at`; returns (number int64 [], where it ends)."""
    found = tf.pad(values, [[0, 5]])[at : at + 5]
    last = tf.argmax(tf.cast(found < 0x80, tf.int32), output_type=tf.int32)
    digits = tf.cast(tf.bitwise.bitwise_and(found, 0x7F)[: last + 1], tf.int64)
    number = tf.reduce_sum(
        tf.bitwise.left_shift(digits, 7 * tf.range(tf.size(digits, tf.int64)))
    )
    good = (found[last] < 0x80) & ((last == 0) | (found[last] > 0))
    check(good & (number <= bitstream.UINT32_MAX), "damaged: a number")
    return number, at + last + 1


def adler32(string):
    """The checksum of a string [], int64 []."""
    values = tf.io.decode_raw(string, tf.uint8)
    size = tf.size(values)
    # Bytes count by how far they are from the end, so zeros before them change nothing.
    values = tf.pad(values, [[tf.math.floormod(-size, 256), 0]])
    rows = tf.cast(tf.reshape(values, [-1, 256]), tf.int32)
    sums = tf.cast(tf.reduce_sum(rows, 1), tf.int64)
    inner = tf.cast(tf.reduce_sum(rows * tf.range(256, 0, -1), 1), tf.int64)
    after = 256 * tf.range(tf.size(sums, tf.int64))[::-1]
    low = (1 + tf.reduce_sum(sums)) % ADLER
    high = (tf.cast(size, tf.int64) + tf.reduce_sum(inner + after * sums)) % ADLER
    return high * 2**16 + low


def parse(data, fingerprint: bytes, stride: int, limits: Limits = LIMITS) -> File:
    """Reads a file up to the data of its chunks; see `bitstream.unpack`.

    Args:
        data: string [].
        fingerprint: of the model; files of others are refused.
        stride: of the model.
        limits: what a file may ask for.
    """
    check = Check()
    length = tf.strings.length(data)
    check(length > 0, "empty file")
    if limits.file_bytes:
        most = min(limits.file_bytes, 2**31 - 1)
        check(length <= most, f"over the limit of {most} bytes")
    start = window(data, 0, 64)
    magic = list(bitstream.MAGIC)
    check(tf.reduce_all(start[: len(magic)] == magic), "not a .tfc file")
    version = len(magic)
    check(start[version] == bitstream.VERSION, "another version of the format")
    at = version + 2
    end = at + start[version + 1]
    check(end <= length, "truncated header")
    own = list(fingerprint)
    check(tf.reduce_all(start[at : at + len(own)] == own), "a file of another model")
    width, at = varint(start, at + len(own), check)
    height, at = varint(start, at, check)
    layout = start[at]
    quality = little_endian(start[at + 1 : at + 3])
    check(at + 3 <= end, "truncated header")
    check((width > 0) & (height > 0), "damaged: no pixels")
    tile, layout = layout // 16, layout % 16
    check(layout < bitstream.LAYOUTS, "needs a newer tfcodec: colour layout")
    check(quality <= 10000, "damaged: quality")

    pixels = width * height  # each below 2^32: a product that wraps is negative
    channels = tf.gather([3, 1, 4, 2], tf.minimum(layout, 3))
    decoded = pixels * tf.cast(channels, tf.int64)
    side = tf.where(tile > 0, tf.bitwise.left_shift(32, tile), 0)
    check(side % stride == 0, "damaged: tiles of another model")
    long_side = tf.cast(side, tf.int64)
    each = tf.where(side > 0, long_side, tf.maximum(tf.maximum(width, height), 1))
    tiles = ((height + each - 1) // each) * ((width + each - 1) // each)
    area = tile_area(height, width, side)
    within = (width < 2**31) & (height < 2**31) & (pixels >= 0)
    check(within, "over the limit of pixels")
    for value, limit, name in (
        (pixels, limits.pixels, "pixels"),
        (tf.maximum(width, height), limits.side, "a side"),
        (decoded, limits.decoded_bytes, "bytes"),
        (tiles, limits.tiles, "tiles"),
        (area, limits.tile_pixels, "pixels a tile"),
    ):
        if limit:
            check(value <= limit, f"over the limit of {limit} {name}")

    chunks, error = chunk_table(data, end, tiles, area, pixels, limits, check.error)
    check.error = error
    count = {
        kind: tf.math.count_nonzero(chunks[:, 0] == kind) for kind in bitstream.KNOWN
    }
    check(count[bitstream.TILE] == tiles, "truncated: too few tiles")
    for kind in bitstream.METADATA.values():
        check(count[kind] <= 1, "damaged: metadata twice")
    alpha = tf.bitwise.bitwise_and(layout, bitstream.ALPHA_BIT) > 0
    one, many = count[bitstream.ALPHA], count[bitstream.ALPHA_TILE]
    fits = ((one == 1) & (many == 0)) | ((one == 0) & (many == tiles))
    check(tf.where(alpha, fits, one + many == 0), "damaged: alpha")
    good = check.error == ""

    def known(value):  # int32, and small where there is an error
        return tf.cast(tf.where(good, tf.cast(value, tf.int64), 1), tf.int32)

    return File(
        check.error, known(height), known(width), known(layout), known(side),
        tf.cast(quality, tf.float32) / 100, chunks,
    )  # fmt: skip


def tile_area(height, width, side):
    """As `bitstream.Header.tile_area`, int64."""
    padded = bitstream.PADDED
    longest = tf.where(side > 0, tf.cast(side, tf.int64), bitstream.UINT32_MAX)
    rows, columns = (
        (tf.minimum(x, longest) + padded - 1) // padded for x in (height, width)
    )
    return rows * columns * padded**2


def chunk_table(data, at, tiles, area, pixels, limits, error):
    """Returns (chunks as of `File`, error): every length and checksum is right."""
    length = tf.strings.length(data)
    header = piece(data, 0, at)

    def more(at, count, tiles_left, error, table):
        return tf.equal(error, "") & (at < length)

    def body(at, count, tiles_left, error, table):
        check = Check(error)
        check(tiles_left > 0, "bytes after the last tile")
        if limits.chunks:
            check(count < limits.chunks, f"over the limit of {limits.chunks} chunks")
        start = window(data, at, 10)
        kind = start[0]
        size, used = varint(start, tf.constant(1), check)
        begin = at + used + 4
        left = tf.cast(length - begin, tf.int64)
        check((left >= 0) & (size <= left), "truncated")
        if limits.bytes_per_pixel:
            coded = (kind == bitstream.TILE) | (kind == bitstream.ALPHA_TILE)
            bound = tf.where(coded, area, pixels) * limits.bytes_per_pixel
            few = size <= bound + bitstream.OVERHEAD
            check(
                few | ~(coded | (kind == bitstream.ALPHA)),
                f"over the limit of {limits.bytes_per_pixel} bytes per pixel",
            )
        optional = kind >= bitstream.OPTIONAL
        known = tf.reduce_any(kind == list(bitstream.KNOWN))
        check(optional | known, "needs a newer tfcodec: chunk type")
        size = tf.cast(tf.where(check.error == "", size, 0), tf.int32)
        covered = [header, piece(data, at, 1), piece(data, begin, size)]
        right = adler32(tf.strings.join(covered)) == little_endian(
            start[used : used + 4]
        )
        check(right, "checksum: the file was damaged on its way")
        tiles_left -= tf.cast(kind == bitstream.TILE, tf.int64)
        table = table.write(count, tf.stack([kind, begin, size]))
        return begin + size, count + 1, tiles_left, check.error, table

    table = tf.TensorArray(tf.int32, 0, dynamic_size=True, element_shape=[3])
    _, _, _, error, table = tf.while_loop(
        more, body, (at, tf.constant(0), tiles, error, table), parallel_iterations=1
    )
    # One that stands for none, as an empty array does not stack.
    table = table.write(table.size(), tf.zeros([3], tf.int32))
    return table.stack()[:-1], error


class Served(tf.Module):
    """The functions of a served model. Make it once, save it with `export`.

    Args:
        model: a `registry.Model`.
        limits: what an item may ask for; constants of the graph.
    """

    def __init__(self, model: registry.Model, limits: Limits = LIMITS):
        super().__init__()
        self.card, self.limits = model, limits
        self.codec = tf.saved_model.load(str(model.path))
        self.parts = dict(self.codec.signatures)

    def decoded(self, data):
        """string [] to (image uint8 [h, w, c], error string [])."""
        file = parse(data, self.card.fingerprint, self.card.stride, self.limits)
        blank = tf.zeros([1, 1, 1], tf.uint8)
        return tf.cond(
            tf.equal(file.error, ""),
            lambda: self.image(data, file),
            lambda: (blank, file.error),
        )

    def image(self, data, file: File):
        check = Check()
        strings = self.strings(data, file, bitstream.TILE)
        colours = self.pixels(file, strings, file.quality, check)
        grey = tf.bitwise.bitwise_and(file.layout, bitstream.GREY) > 0
        colours = tf.cond(grey, lambda: grey_of(colours), lambda: colours)

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
            return read_alpha(string, file.height, file.width)

        def lossy():
            check = Check()
            strings = self.strings(data, file, bitstream.ALPHA_TILE)
            levels = piece(strings, 0, 2)
            check(tf.reduce_all(levels == levels[0]), "damaged: alpha's quality")
            level = little_endian(window(levels[0], 0, 2))
            check(level <= 10000, "damaged: alpha's quality")
            lengths = tf.strings.length(strings)
            check(tf.reduce_all(lengths >= 2), "damaged: alpha's quality")
            strings = piece(strings, 2, lengths)
            quality = tf.cast(tf.minimum(level, 10000), tf.float32) / 100
            alpha = grey_of(self.pixels(file, strings, quality, check))
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
        grid = Grid(file.height, file.width, file.side)
        whole = padded(tf.stack([file.height, file.width]), stride)
        largest = tf.minimum(padded(grid.side, stride), whole)
        count = tf.size(strings)

        def decode(k, sound, tiles):
            top, bottom = grid.box(k)
            size = padded(bottom - top, stride)
            string = tf.gather(strings, k)
            # A bad one is not decoded on: what comes of it has no bound in a graph.
            escapes = little_endian(window(string, 2, 4))
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
            end = tf.minimum(padded(bottom, latent) + halo, whole)
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
        check = Check()
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
        area = tf.reduce_prod(padded(tf.stack([height, width]), bitstream.PADDED))
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
            varint_bytes(width),
            varint_bytes(height),
            byte_string(layout),
            byte_string(hundredths % 256),
            byte_string(hundredths // 256),
        ]
        fields = tf.strings.join(fields)
        start = tf.strings.join(
            [*start, byte_string(tf.strings.length(fields)), fields]
        )
        pixels = image[..., :colours]
        pixels = tf.cond(
            colours == 1, lambda: tf.tile(pixels, [1, 1, 3]), lambda: pixels
        )
        strings = self.coded(tf.ensure_shape(pixels, [None, None, 3]), side, hundredths)
        tiles = tf.map_fn(lambda string: chunk(start, bitstream.TILE, string), strings)

        def lossless():
            plane = tf.ensure_shape(image[..., channels - 1 :], [None, None, 1])
            return chunk(start, bitstream.ALPHA, tf.io.encode_png(plane, 9))

        alpha = tf.cond(alpha, lossless, lambda: "")
        return tf.strings.join([start, alpha, tf.strings.reduce_join(tiles)])

    def coded(self, image, side, hundredths):
        """uint8 [h, w, 3] to the strings of its tiles, [n]; see `_Work._seen`."""
        stride, latent = self.card.stride, self.card.latent_stride
        halo = self.card.reach["analysis"] * latent
        size = tf.shape(image)[:2]
        grid = Grid(size[0], size[1], side)
        whole = padded(size, stride)
        count = tf.reduce_prod(grid.shape)
        rows, columns = (tf.minimum(tf.range(whole[k]), size[k] - 1) for k in range(2))
        image = tf.gather(tf.gather(image, rows), columns, axis=1)

        def code(k, strings):
            top, bottom = grid.box(k)
            inner = padded(bottom, stride)
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

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "compressed_bytes")])
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

        @tf.function(
            input_signature=[tf.TensorSpec([batch, side, side, 3], tf.uint8, "images")]
        )
        def analysis(images):
            # One by one, as the exported functions take one: a compiler sees no loop.
            y = [self.parts["analysis"](image=x)["y"][0] for x in tf.unstack(images)]
            return tf.ensure_shape(tf.stack(y), latents)

        @tf.function(
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

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "image_bytes"),
            tf.TensorSpec([None], tf.float32, "quality"),
        ]
    )
    def compress(self, image_bytes, quality):
        """PNGs and JPEGs to `.tfc` files; one quality serves for all."""

        def one(inputs):
            data, level = inputs
            image, error = read_image(data, self.limits)
            file, error = tf.cond(
                tf.equal(error, ""),
                lambda: self.encoded(image, level),
                lambda: ("", error),
            )
            return file, bits_per_pixel(file, image), error

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

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, "compressed_bytes")])
    def decompress_pixels(self, compressed_bytes):
        """One `.tfc` file to uint8 [h, w, c]."""
        image, error = self.decoded(compressed_bytes)
        return {"image": image, "error": error}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None], tf.uint8, "image"),
            tf.TensorSpec([], tf.float32, "quality"),
        ]
    )
    def compress_pixels(self, image, quality):
        """One image, uint8 [h, w, 1 to 4 channels], to a `.tfc` file."""
        file, error = self.encoded(image, quality)
        bpp = bits_per_pixel(file, image)
        return {"compressed_bytes": file, "bpp": bpp, "error": error}


class Grid:
    """The tiles of an image, row after row, as tensors; see `tiling.boxes`."""

    def __init__(self, height, width, side):
        self.size = tf.stack([height, width])
        self.side = tf.where(side > 0, tf.fill([2], side), self.size)
        self.shape = -(-self.size // self.side)

    def box(self, k):
        """(top and left, bottom and right) of tile `k`, int32 [2] each."""
        top = tf.stack([k // self.shape[1], k % self.shape[1]]) * self.side
        return top, tf.minimum(top + self.side, self.size)

    def joined(self, tiles):
        """A TensorArray of [h, w, c], all as large, to [rows * h, columns * w, c]."""
        tiles = tiles.stack()
        _, h, w, _ = tf.unstack(tf.shape(tiles))
        c = tiles.shape[-1]
        rows, columns = tf.unstack(self.shape)
        tiles = tf.reshape(tiles, [rows, columns, h, w, c])
        return tf.reshape(
            tf.transpose(tiles, [0, 2, 1, 3, 4]), [rows * h, columns * w, c]
        )


def padded(size, stride):
    """Sizes rounded up to multiples of a stride."""
    return -(-size // stride) * stride


def bits_per_pixel(file, image):
    bits = 8 * tf.cast(tf.strings.length(file), tf.float32)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    return bits / tf.maximum(tf.reduce_prod(size), 1.0)


BYTES = [bytes([value]) for value in range(256)]


def byte_string(value):
    """int32 [], 0 to 255, to a string of one byte."""
    return tf.gather(tf.constant(BYTES), value)


def varint_bytes(value):
    """As `bitstream.varint`, of int32 []."""
    digits = [
        tf.bitwise.bitwise_and(tf.bitwise.right_shift(value, 7 * k), 0x7F)
        for k in range(5)
    ]
    more = [value >= 1 << 7 * (k + 1) for k in range(4)] + [tf.constant(False)]
    written = [tf.constant(True), *more[:4]]
    return tf.strings.join(
        [
            tf.where(here, byte_string(digit + tf.where(rest, 0x80, 0)), "")
            for digit, rest, here in zip(digits, more, written)
        ]
    )


def chunk(start, kind, data):
    """A chunk, string [], of a file that begins with `start`."""
    kind = bytes([kind])
    checksum = tf.bitcast(adler32(tf.strings.join([start, kind, data])), tf.uint8)
    checksum = tf.gather(tf.constant(BYTES), tf.cast(checksum[:4], tf.int32))
    size = varint_bytes(tf.strings.length(data))
    return tf.strings.join([kind, size, tf.strings.reduce_join(checksum), data])


def read_image(data, limits):
    """A PNG or JPEG, string [], to (uint8 [h, w, c], error).

    Its size is looked at first: a few bytes can ask for gigabytes.
    """
    check = Check()
    start = window(data, 0, 24)
    png = tf.reduce_all(start[:8] == list(planes.PNG_START[:8]))
    jpeg = tf.reduce_all(start[:3] == [0xFF, 0xD8, 0xFF])
    check(png | jpeg, "neither PNG nor JPEG")
    sides = [little_endian(start[k : k + 4][::-1]) for k in (16, 20)]  # width first
    blank = tf.strings.substr(data, 0, 0)
    shape, sound = attempt(
        tf.image.extract_jpeg_shape, tf.where(jpeg, data, blank), tf.int32
    )
    shape = tf.pad(tf.reshape(shape, [-1]), [[0, 3]])[:3]
    check(~jpeg | sound, "damaged JPEG")
    width = tf.where(png, sides[0], tf.cast(shape[1], tf.int64))
    height = tf.where(png, sides[1], tf.cast(shape[0], tf.int64))
    check((width > 0) & (height > 0), "no pixels")
    # Each below 2^32: a product that wraps is negative.
    pixels = width * height
    check(pixels > 0, "over the limit of pixels")
    if limits.pixels:
        check(pixels <= limits.pixels, f"over the limit of {limits.pixels} pixels")
    data = tf.where(check.error == "", data, blank)
    image, done = attempt(decode_image, data, tf.uint8)
    check(done, "damaged image")
    return tf.ensure_shape(image, [None, None, None]), check.error


def decode_image(data):
    def jpeg():
        # As libjpeg does by default, and Pillow; CMYK becomes RGB.
        channels = tf.minimum(tf.image.extract_jpeg_shape(data)[2], 3)
        return tf.cond(
            channels == 1,
            lambda: tf.io.decode_jpeg(data, 1, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE"),
        )

    return tf.cond(tf.io.is_jpeg(data), jpeg, lambda: decode_png(data))


def decode_png(data):
    """A PNG to uint8 [h, w, c], with the alpha that a transparent colour stands for.

    `tf.io.decode_png` gives it where four channels are asked for. Where there is none,
    it fills in another value than 0, which depends on the bits of a sample. Alpha that
    is opaque throughout is left out, as the command line does.
    """
    colour = window(data, 25, 1)[0]  # type, as the header has it

    def without_alpha():
        image = tf.io.decode_png(data, channels=4)
        colours = tf.cond(colour == 0, lambda: image[..., :1], lambda: image[..., :3])
        alpha = tf.where(image[..., 3:] == 0, tf.zeros([], tf.uint8), 255)
        return tf.concat([colours, alpha], -1)

    image = tf.cond(
        (colour == 0) | (colour == 2),
        without_alpha,
        lambda: tf.io.decode_png(data, dtype=tf.uint8),
    )
    channels = tf.shape(image)[2]
    opaque = (channels % 2 == 0) & tf.reduce_all(image[..., -1] == 255)
    return tf.cond(opaque, lambda: image[..., : channels - 1], lambda: image)


def grey_of(image):
    """As `planes.grey_of`, uint8 [h, w, 1]."""
    total = tf.reduce_sum(tf.cast(image, tf.int32), -1, keepdims=True)
    return tf.cast((total + 1) // 3, tf.uint8)


def attempt(function, value, dtype):
    """Runs what may fail on `value`: (tensor of `dtype`, whether it did not).

    Inside a graph an error cannot be caught, except in a dataset.
    """

    def run(value):
        return tf.io.serialize_tensor(function(value))

    results = tf.data.Dataset.from_tensors(value).map(run).ignore_errors()
    text, done = results.reduce(("", False), lambda _, result: (result, True))
    blank = tf.io.serialize_tensor(tf.zeros([1, 1, 1], dtype))
    return tf.io.parse_tensor(tf.where(done, text, blank), dtype), done


def read_alpha(string, height, width):
    """As `planes.read_png`: (uint8 [h, w, 1], error)."""
    check = Check()
    start = window(string, 0, 26)
    check(tf.reduce_all(start[:16] == list(planes.PNG_START)), "damaged: alpha")
    size = [little_endian(start[k : k + 4][::-1]) for k in (16, 20)]
    right = (size[0] == tf.cast(width, tf.int64)) & (
        size[1] == tf.cast(height, tf.int64)
    )
    check(right & (start[24] == 8) & (start[25] == 0), "damaged: alpha")
    string = tf.where(check.error == "", string, "")
    alpha, done = attempt(
        lambda data: tf.io.decode_png(data, channels=1), string, tf.uint8
    )
    check(done, "damaged: alpha")
    check(tf.reduce_all(tf.shape(alpha)[:2] == [height, width]), "damaged: alpha")
    alpha = tf.cond(
        check.error == "", lambda: alpha, lambda: tf.zeros([height, width, 1], tf.uint8)
    )
    return tf.ensure_shape(alpha, [None, None, 1]), check.error


def export(
    model: registry.Model, directory: str | os.PathLike, limits: Limits = LIMITS
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
