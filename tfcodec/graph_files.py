"""Reading and writing of `.tfc` files in stock TensorFlow operations: see `serving`."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfcodec import bitstream
from tfcodec.bitstream import Limits
from tfcodec.quality import STEPS

# Limits for a server, lower than those of the command line: every item of a batch may
# be this large, and the fast ones wait for the slow ones.
LIMITS = Limits(
    pixels=2**24, side=2**16, decoded_bytes=2**26, tiles=2**8, chunks=2**10,
    file_bytes=2**26, escapes=2**20,
)  # fmt: skip

ADLER = 65521  # modulus of Adler-32


class File(NamedTuple):
    """A parsed file, as tensors. If `error` is not empty, the rest is meaningless."""

    error: tf.Tensor  # string []
    height: tf.Tensor  # int32 [], in pixels
    width: tf.Tensor  # int32 [], in pixels
    layout: tf.Tensor  # int32 [], of the colours
    side: tf.Tensor  # int32 [], of the tiles in pixels, 0 for a single tile
    quality: tf.Tensor  # float32 [], 0 to 100
    chunks: tf.Tensor  # int32 [n, 3]: type, position of its data, bytes of data


class Check:
    """Keeps the message of the first check that fails, in a graph that is traced.

    A call adds a check: `good`, bool [], and the message if it is false.
    """

    def __init__(self, error=""):
        self.error = tf.convert_to_tensor(error)

    def __call__(self, good, message):
        first = tf.equal(self.error, "") & ~good
        self.error = tf.where(first, message, self.error)


def byte_values(string):
    """The bytes of a string [], as int32 [n]."""
    return tf.cast(tf.io.decode_raw(string, tf.uint8), tf.int32)


def piece(data, at, size):
    """As `tf.strings.substr`, but shorter where a string ends instead of failing."""
    length = tf.strings.length(data)
    at = tf.clip_by_value(at + tf.zeros_like(length), 0, length)
    return tf.strings.substr(data, at, tf.maximum(size + tf.zeros_like(length), 0))


def window(data, at, size: int):
    """The `size` bytes from position `at` on, as int32 [size]; zero beyond the end."""
    found = byte_values(piece(data, at, size))
    return tf.ensure_shape(tf.pad(found, [[0, size - tf.size(found)]]), [size])


def little_endian(values):
    """The number, int64 [], that bytes, int32 [n], are in little-endian order."""
    shifts = 8 * tf.range(tf.size(values, tf.int64))
    return tf.reduce_sum(tf.bitwise.left_shift(tf.cast(values, tf.int64), shifts))


def varint(values, at, check):
    """Reads a varint at position `at` of bytes, int32 [n]: (int64 [], its end)."""
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
    # A byte's weight depends on its distance from the end, so zeros may be put before.
    values = tf.pad(values, [[tf.math.floormod(-size, 256), 0]])
    rows = tf.cast(tf.reshape(values, [-1, 256]), tf.int32)
    sums = tf.cast(tf.reduce_sum(rows, 1), tf.int64)
    inner = tf.cast(tf.reduce_sum(rows * tf.range(256, 0, -1), 1), tf.int64)
    after = 256 * tf.range(tf.size(sums, tf.int64))[::-1]
    low = (1 + tf.reduce_sum(sums)) % ADLER
    high = (tf.cast(size, tf.int64) + tf.reduce_sum(inner + after * sums)) % ADLER
    return high * 2**16 + low


class Fields(NamedTuple):
    """The fields of a header, as tensors: each in its range, but maybe over a limit."""

    end: tf.Tensor  # int32 [], where the chunks begin
    height: tf.Tensor  # int64 [], in pixels
    width: tf.Tensor  # int64 [], in pixels
    layout: tf.Tensor  # int32 [], of the colours alone
    side: tf.Tensor  # int32 [], of the tiles in pixels, 0 for a single tile
    quality: tf.Tensor  # int64 [], 0 to 10000, in hundredths


class Extent(NamedTuple):
    """How much there is to decode, tensors int64 []."""

    pixels: tf.Tensor  # of the image
    tiles: tf.Tensor  # number of tiles
    area: tf.Tensor  # pixels of the largest tile, padded


def parse(data, fingerprint: bytes, stride: int, limits: Limits = LIMITS) -> File:
    """Reads the header and finds the chunks of a file; see `bitstream.unpack`.

    Args:
        data: string [], the file.
        fingerprint: of the model; files of other models are refused.
        stride: of the model, in pixels.
        limits: how much a file may make us decode.
    """
    check = Check()
    check_size(data, limits, check)
    header = read_header(data, fingerprint, stride, check)
    extent = checked_extent(header, limits, check)
    chunks, check.error = chunk_table(data, header.end, extent, limits, check.error)
    check_chunks(chunks, extent.tiles, header.layout, check)
    good = check.error == ""

    def known(value):  # as int32; 1 if there is an error, so that nothing large is made
        return tf.cast(tf.where(good, tf.cast(value, tf.int64), 1), tf.int32)

    return File(
        check.error, known(header.height), known(header.width), known(header.layout),
        known(header.side), tf.cast(header.quality, tf.float32) / 100, chunks,
    )  # fmt: skip


def check_size(data, limits: Limits, check: Check):
    """Checks that a file, string [], is neither empty nor too long."""
    length = tf.strings.length(data)
    check(length > 0, "empty file")
    if limits.file_bytes:
        most = min(limits.file_bytes, 2**31 - 1)
        check(length <= most, f"over the limit of {most} bytes")


def read_header(data, fingerprint: bytes, stride: int, check: Check) -> Fields:
    """Reads the header of a file, and checks each field by itself.

    Args:
        data: string [], the file.
        fingerprint, stride: of the model, as for `parse`.
        check: keeps the first error.
    """
    start = window(data, 0, 64)
    magic = list(bitstream.MAGIC)
    check(tf.reduce_all(start[: len(magic)] == magic), "not a .tfc file")
    version = len(magic)
    check(start[version] == bitstream.VERSION, "another version of the format")
    at = version + 2
    end = at + start[version + 1]
    check(end <= tf.strings.length(data), "truncated header")
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
    check(quality <= STEPS, "damaged: quality")
    side = tf.where(tile > 0, tf.bitwise.left_shift(32, tile), 0)
    check(side % stride == 0, "damaged: tiles of another model")
    return Fields(end, height, width, layout, side, quality)


def checked_extent(header: Fields, limits: Limits, check: Check) -> Extent:
    """Returns how much there is to decode, and checks it against the limits."""
    height, width, side = header.height, header.width, header.side
    # Each is below 2^32, so the product is negative if it exceeds int64.
    pixels = width * height
    channels = tf.gather([3, 1, 4, 2], tf.minimum(header.layout, 3))
    decoded = pixels * tf.cast(channels, tf.int64)
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
    return Extent(pixels, tiles, area)


def check_chunks(chunks, tiles, layout, check: Check):
    """Checks that a file has as many chunks of each type as its header asks for.

    Args:
        chunks: int32 [n, 3], as in `File`.
        tiles: number of tiles, int64 [].
        layout: of the colours, int32 [].
        check: keeps the first error.
    """
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


def tile_area(height, width, side):
    """As `bitstream.Header.tile_area`, int64."""
    padded = bitstream.PADDED
    longest = tf.where(side > 0, tf.cast(side, tf.int64), bitstream.UINT32_MAX)
    rows, columns = (
        (tf.minimum(x, longest) + padded - 1) // padded for x in (height, width)
    )
    return rows * columns * padded**2


def chunk_table(data, at, extent: Extent, limits: Limits, error):
    """Returns (chunks as in `File`, error), with every length and checksum checked.

    Args:
        data: string [], the file.
        at: int32 [], where the chunks begin.
        extent: how much there is to decode.
        limits: how much a file may make us decode.
        error: string [], of what was read before; if not empty, nothing is read.
    """
    pixels, tiles, area = extent
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
    # One more row, removed again, as an empty TensorArray cannot be stacked.
    table = table.write(table.size(), tf.zeros([3], tf.int32))
    return table.stack()[:-1], error


BYTES = [bytes([value]) for value in range(256)]


def byte_string(value):
    """int32 [], 0 to 255, to a string of one byte."""
    return tf.gather(tf.constant(BYTES), value)


def varint_bytes(value):
    """As `bitstream.varint`, for int32 []: a string []."""
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
    """Returns a chunk, string [], for a file whose bytes before all chunks are `start`.

    Args:
        start: string [].
        kind: type of the chunk, a number.
        data: string [].
    """
    kind = bytes([kind])
    checksum = tf.bitcast(adler32(tf.strings.join([start, kind, data])), tf.uint8)
    checksum = tf.gather(tf.constant(BYTES), tf.cast(checksum[:4], tf.int32))
    size = varint_bytes(tf.strings.length(data))
    return tf.strings.join([kind, size, tf.strings.reduce_join(checksum), data])
