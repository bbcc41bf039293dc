"""Makes image files byte by byte, of kinds that Pillow does not write."""

import io
import struct
import zlib

import numpy as np

from tfcodec import formats, images

SMALL = np.arange(12 * 8 * 3).reshape(12, 8, 3).astype(np.uint8)


def read(data, **options):
    return images.read(io.BytesIO(data), "it", **options)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def written(form, picture, **options):
    """Writes a picture; returns (notes on what was lost, the file read again)."""
    file = io.BytesIO()
    notes = formats.write(file, form, picture, **options)
    return notes, read(file.getvalue())


def eight(samples, bits):
    most = 2**bits - 1
    return (np.asarray(samples) * 255 + most // 2) // most


def chunk(kind, data):
    """Returns a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def packed(samples, bits, order=">"):
    """Packs integers [height, ...] of `bits` bits: a list of the bytes of each row."""
    rows = np.asarray(samples).reshape(len(samples), -1)
    if bits in (8, 16):
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    ones = (rows[..., None] >> np.arange(bits)[::-1]) & 1
    return [
        row.tobytes() for row in np.packbits(ones.reshape(len(rows), -1), axis=1)
    ]  # fmt: skip


def png(samples, bits, colour, *chunks):
    """Returns a PNG.

    Args:
        samples: integers [height, width] or [height, width, channels].
        bits: per sample.
        colour: colour type of PNG.
        *chunks: (kind, data) of chunks before the pixels.
    """
    height, width = np.shape(samples)[:2]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row for row in packed(samples, bits))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head),
            *(chunk(*each) for each in chunks),
            chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""),
        ]
    )  # fmt: skip


SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


def directory(tags, order="<", more=b""):
    """Returns a TIFF file of one directory, {tag: (type, bytes)}, followed by `more`.

    In place of bytes, None stands for the position of `more`, as a LONG.
    """
    at = 8 + 2 + 12 * len(tags) + 4
    after = sum(len(data) for _, data in tags.values() if data and len(data) > 4)
    entries, values = b"", b""
    for tag, (kind, data) in sorted(tags.items()):
        data = struct.pack(order + "I", at + after) if data is None else data
        count = len(data) // SIZES[kind]
        entries += struct.pack(order + "HHI", tag, kind, count)
        if len(data) > 4:
            entries += struct.pack(order + "I", at + len(values))
            values += data
        else:
            entries += data.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(order + "IH", 8, len(tags))
    return head + entries + bytes(4) + values + more


def exif(*tags, order="<", orientation=6):
    """Returns EXIF with an orientation and further tags (tag, type, bytes)."""
    found = {tag: (kind, data) for tag, kind, data in tags}
    if orientation:
        found.setdefault(274, (3, struct.pack(order + "H", orientation)))
    return directory(found, order)


def tiff(samples, bits, photometric=1, order="<", compression=1, tags=()):
    """Returns a TIFF of one strip.

    `samples` are integers [height, width] or [height, width, samples].
    """
    height, width = np.shape(samples)[:2]
    count = 1 if np.ndim(samples) == 2 else np.shape(samples)[2]
    data = b"".join(packed(samples, bits, order))
    data = zlib.compress(data) if compression == 8 else data

    def longs(*values):
        return 4, struct.pack(f"{order}{len(values)}I", *values)

    def shorts(*values):
        return 3, struct.pack(f"{order}{len(values)}H", *values)

    found = {
        256: longs(width), 257: longs(height), 258: shorts(*[bits] * count),
        259: shorts(compression), 262: shorts(photometric), 273: (4, None),
        277: shorts(count), 278: longs(height), 279: longs(len(data)),
    }  # fmt: skip
    if count in (2, 4):
        found[338] = shorts(2)
    found.update({tag: (kind, value) for tag, kind, value in tags})
    return directory(found, order, data)
