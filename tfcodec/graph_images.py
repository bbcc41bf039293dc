"""Reading PNG and JPEG, and the tiles of an image, in stock TensorFlow operations."""

from __future__ import annotations

import tensorflow as tf

from tfcodec import graph_files
from tfcodec.headers import PNG_START


class Grid:
    """The tiles of an image, row after row, as tensors; see `tiling.boxes`.

    Tiles are no larger than the image, whatever the side in the header of a file.
    """

    def __init__(self, height, width, side):
        self.size = tf.stack([height, width])
        self.side = tf.where(side > 0, tf.minimum(side, self.size), self.size)
        self.shape = -(-self.size // self.side)

    def box(self, k):
        """(top and left, bottom and right) of tile `k`, int32 [2] each."""
        top = tf.stack([k // self.shape[1], k % self.shape[1]]) * self.side
        return top, tf.minimum(top + self.side, self.size)

    def joined(self, tiles):
        """Joins tiles, a TensorArray of equal [h, w, c]: [rows * h, columns * w, c]."""
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
    """Bits of a file, string [], per pixel of an image [h, w, c]: float32 []."""
    bits = 8 * tf.cast(tf.strings.length(file), tf.float32)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    return bits / tf.maximum(tf.reduce_prod(size), 1.0)


def read_image(data, limits):
    """A PNG or JPEG, string [], to (uint8 [h, w, c], error string []).

    The size in its header is checked first, as a file of a few bytes can claim one that
    needs gigabytes.
    """
    check = graph_files.Check()
    start = graph_files.window(data, 0, 24)
    png = tf.reduce_all(start[:8] == list(PNG_START))
    jpeg = tf.reduce_all(start[:3] == [0xFF, 0xD8, 0xFF])
    check(png | jpeg, "neither PNG nor JPEG")
    sides = [
        graph_files.little_endian(start[k : k + 4][::-1]) for k in (16, 20)
    ]  # width first
    blank = tf.strings.substr(data, 0, 0)
    shape, sound = attempt(
        tf.image.extract_jpeg_shape, tf.where(jpeg, data, blank), tf.int32
    )
    shape = tf.pad(tf.reshape(shape, [-1]), [[0, 3]])[:3]
    check(~jpeg | sound, "damaged JPEG")
    width = tf.where(png, sides[0], tf.cast(shape[1], tf.int64))
    height = tf.where(png, sides[1], tf.cast(shape[0], tf.int64))
    check((width > 0) & (height > 0), "no pixels")
    # Each is below 2^32, so the product is negative if it exceeds int64.
    pixels = width * height
    check(pixels > 0, "over the limit of pixels")
    if limits.pixels:
        check(pixels <= limits.pixels, f"over the limit of {limits.pixels} pixels")
    data = tf.where(check.error == "", data, blank)
    image, done = attempt(decode_image, data, tf.uint8)
    check(done, "damaged image")
    return tf.ensure_shape(image, [None, None, None]), check.error


def decode_image(data):
    """A PNG or JPEG, string [], to uint8 [h, w, c]."""

    def jpeg():
        # The inverse DCT is the default of libjpeg and so of Pillow; CMYK becomes RGB.
        channels = tf.minimum(tf.image.extract_jpeg_shape(data)[2], 3)
        return tf.cond(
            channels == 1,
            lambda: tf.io.decode_jpeg(data, 1, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE"),
        )

    return tf.cond(tf.io.is_jpeg(data), jpeg, lambda: decode_png(data))


def decode_png(data):
    """A PNG to uint8 [h, w, c]; a transparent colour becomes an alpha channel.

    `tf.io.decode_png` makes that channel if four are asked for: 0 where a pixel has the
    transparent colour, and else a value that depends on the bits per sample. Alpha that
    is opaque everywhere is dropped, as on the command line.
    """
    colour = graph_files.window(data, 25, 1)[0]  # colour type in the header

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
    """As `planes.grey_of`: uint8 [h, w, 3] to uint8 [h, w, 1]."""
    total = tf.reduce_sum(tf.cast(image, tf.int32), -1, keepdims=True)
    return tf.cast((total + 1) // 3, tf.uint8)


def attempt(function, value, dtype):
    """Runs a function that may fail: (its result, of `dtype`; whether it succeeded).

    Within a graph only a dataset can catch an error. Where it fails, the result is of
    shape [1, 1, 1].
    """

    def run(value):
        return tf.io.serialize_tensor(function(value))

    results = tf.data.Dataset.from_tensors(value).map(run).ignore_errors()
    text, done = results.reduce(("", False), lambda _, result: (result, True))
    blank = tf.io.serialize_tensor(tf.zeros([1, 1, 1], dtype))
    return tf.io.parse_tensor(tf.where(done, text, blank), dtype), done


def read_alpha(string, height, width):
    """As `planes.read_png`: (uint8 [h, w, 1], error)."""
    check = graph_files.Check()
    start = graph_files.window(string, 0, 26)
    header = PNG_START + b"\0\0\0\rIHDR"  # a chunk of 13 bytes
    check(tf.reduce_all(start[:16] == list(header)), "damaged: alpha")
    size = [graph_files.little_endian(start[k : k + 4][::-1]) for k in (16, 20)]
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
