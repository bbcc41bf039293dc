"""Rewrites TIFF files that Pillow does not read, or reads wrongly, so that it can.

Pillow takes 12 bits for 16, does not invert 16 bits of white-is-zero, has no modes for
10 and 14 bits or for 16 bits of grey and alpha, and does not open a file whose
resolution has an unusual type. Here the directory is rewritten in memory. Packed
samples become the bytes of a wider greyscale image, which libtiff or Pillow
decompresses, and whose samples `unpacked` then extracts. Tags are those of TIFF 6.0.
"""

from __future__ import annotations

import dataclasses
import io
from typing import BinaryIO

import numpy as np

from tfcodec import exif

WIDTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 258, 259, 262
SAMPLES, PLANAR, PREDICTOR, TILE_WIDTH = 277, 284, 317, 322
EXTRA, SAMPLE_FORMAT = 338, 339
SUBFILE, SUBDIRECTORIES = 254, 330
# Compressions that work on bytes, whatever samples these hold.
OF_BYTES = {1, 5, 8, 32946, 32773, 34925, 50000}
LARGEST_SIDE = 2**31 - 1
ROWS = 256  # rows that are unpacked at a time
# Tags on the file's structure or on how pixels are stored, or that are kept elsewhere.
STRUCTURE = {
    254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280,
    281, 284, 288, 289, 290, 291, 292, 293, 297, 317, 320, 321, 322, 323, 324, 325, 330,
    332, 334, 336, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521,
    529, 530, 531, 532, 559, 700, 34675,
}  # fmt: skip


# Tags that describe the picture, and go into EXIF.
DESCRIPTIVE = (269, 270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432)
DIRECTORIES = (0x8769, 0x8825)  # EXIF and GPS
XMP, ICC = 700, 34675
KEPT = {*DESCRIPTIVE, *DIRECTORIES}
# (tags, types that Pillow takes); with other types it does not open the file.
USUAL = (
    (exif.RESOLUTION, exif.NUMBERS),
    (DIRECTORIES, {3, 4, 13, 16, 18}),
    ((XMP, ICC), {1, 2, 7}),
)


class Unfit(ValueError):
    """An image that is not damaged, but that we cannot use."""


@dataclasses.dataclass
class Tiff:
    """A TIFF file as Pillow can open it, and what Pillow then does not know of it.

    Args:
        file: the file for Pillow to open.
        bits: per sample.
        samples: per pixel.
        inverted: whether 0 is white, and Pillow does not know that.
        packed: samples per pixel if Pillow gives packed samples, whose bytes `unpacked`
            takes apart; else 0.
        colours: of these, how many are colours.
        alpha: of packed samples: "A", "a" (premultiplied) or "" (none).
        order: byte order, as in `struct`.
        width: of packed samples, in pixels.
        orientation: of packed samples; that of others is left to Pillow.
        tags: all tags of the file.
        odd: tags of a type that Pillow does not take, which were removed from `file`.
    """

    file: BinaryIO
    bits: int = 8
    samples: int = 0
    inverted: bool = False
    packed: int = 0
    colours: int = 0
    alpha: str = ""
    order: str = "<"
    width: int = 0
    orientation: int = 1
    tags: frozenset = frozenset()
    odd: tuple[int, ...] = ()

    def beside(self, image) -> int:
        """Returns how many samples per pixel are neither colour nor alpha.

        `image` is the Pillow image of the file.
        """
        if self.packed:
            return self.packed - self.colours - bool(self.alpha)
        return self.samples - len(image.getbands())


def look(file: BinaryIO) -> Tiff:
    """Returns how to read a TIFF file.

    Raises:
        Unfit: it is a camera's raw file, its values for black and white are not known,
            or it has an arrangement of samples that is not supported.
    """
    found = exif.directory(file)
    if not found:
        return Tiff(file)
    if _is_raw(found):
        raise Unfit(
            "a camera's raw file, of which only a small preview would be read; "
            "develop it first"
        )
    bits = found.numbers(BITS, (1,))
    samples = found.number(SAMPLES, len(bits))
    kinds = set(found.numbers(SAMPLE_FORMAT, (1,)))
    if 3 in kinds:
        raise Unfit("floating-point pixels; convert them to 8 bits first")
    if 2 in kinds or max(bits) > 16:
        signed = "signed " * (2 in kinds)
        raise Unfit(
            f"{signed}pixels of {max(bits)} bits, of which black and white are not "
            "known; convert them to 8 bits first"
        )
    photometric = found.number(PHOTOMETRIC, 0)
    result = Tiff(
        file, max(bits), samples, order=found.order, tags=frozenset(found.entries),
        orientation=found.number(exif.ORIENTATION, 1),
    )  # fmt: skip
    result.odd = tuple(
        tag
        for tags, kinds in USUAL
        for tag in tags
        if found.kind(tag) not in (*kinds, None)
    )
    change: dict[int, int | None] = dict.fromkeys(result.odd)
    planes = found.number(PLANAR, 1) == 2 and samples > 1
    if planes and max(bits) == 16 and found.number(COMPRESSION, 1) == 1:
        raise Unfit(
            "an uncompressed TIFF of 16 bits in separate planes is not supported; save "
            "it with interleaved channels"
        )
    if 8 < max(bits) < 16 or (max(bits) == 16 and samples == 2):
        change.update(_as_bytes(found, result, samples, photometric))
    elif photometric == 0 and not (samples == 1 and max(bits) in (1, 2, 4, 8)):
        change[PHOTOMETRIC] = 1
        result.inverted = True
    if change:
        result.file = io.BytesIO(found.changed(change))
    return result


def _is_raw(found):
    """Whether the first picture is a preview, and Pillow would not find the others.

    It is in DNG, NEF and ARW files; CR2 has "CR" after the TIFF header.
    """
    found.file.seek(8)
    reduced = found.number(SUBFILE, 0) & 1 and SUBDIRECTORIES in found.entries
    return reduced or found.file.read(2) == b"CR"


def _as_bytes(found, result, samples, photometric):
    """Returns changes of tags that make of packed samples an 8-bit greyscale image."""
    bits = result.bits
    colours = 3 if photometric == 2 else 1
    if len({*found.numbers(BITS)}) > 1 or photometric > 2 or samples < colours:
        raise Unfit(
            f"a TIFF of {bits} bits with an arrangement of channels that is not "
            "supported; save it as 8 or 16 bits RGB or greyscale"
        )
    compression = found.number(COMPRESSION, 1)
    if (
        compression not in OF_BYTES
        or found.number(PREDICTOR, 1) != 1
        or (samples > 1 and found.number(PLANAR, 1) == 2)
    ):
        raise Unfit(
            f"a TIFF of {bits} bits with a compression, predictor or planes that are "
            "not supported; save it uncompressed"
        )
    width = found.number(WIDTH, 0)
    wide = -(-width * samples * bits // 8)
    tile = found.number(TILE_WIDTH, 0) * samples * bits
    if max(wide, tile // 8) > LARGEST_SIDE:
        raise Unfit(f"a TIFF of {bits} bits, too wide to be read")
    if samples > colours:
        kind = found.numbers(EXTRA, (0,))[0]
        result.alpha = {1: "a", 2: "A"}.get(kind, "")
    result.packed, result.colours, result.width = samples, colours, width
    result.inverted = photometric == 0
    change = {
        WIDTH: wide, BITS: 8, SAMPLES: 1, PHOTOMETRIC: 1, EXTRA: None,
        SAMPLE_FORMAT: None, exif.ORIENTATION: None,
    }  # fmt: skip
    return change | ({TILE_WIDTH: tile // 8} if tile else {})


def unpacked(image, tiff: Tiff):
    """Returns an 8-bit Pillow image, given one whose bytes are packed samples."""
    from PIL import Image

    bits, height = tiff.bits, image.height
    colours, kept = tiff.colours, tiff.colours + bool(tiff.alpha)
    pixels = np.empty([height, tiff.width, kept], np.uint8)
    for top in range(0, height, ROWS):
        rows = np.asarray(image.crop((0, top, image.width, min(top + ROWS, height))))
        values = _samples(rows, tiff).astype(np.uint32)
        most = 2**bits - 1
        eight = ((values * 255 + most // 2) // most).astype(np.uint8)
        if tiff.inverted:
            eight[..., :colours] = 255 - eight[..., :colours]
        pixels[top : top + len(rows)] = eight[..., :kept]
    mode = {1: "L", 3: "RGB"}[colours] + tiff.alpha
    return Image.frombytes(mode, (tiff.width, height), pixels.tobytes())


def _samples(rows, tiff):
    """Unpacks rows, uint8 [height, bytes], to uint16 [height, width, samples]."""
    shape = len(rows), tiff.width, tiff.packed
    if tiff.bits == 16:
        return np.ascontiguousarray(rows).view(tiff.order + "u2").reshape(shape)
    count = tiff.width * tiff.packed * tiff.bits
    ones = np.unpackbits(rows, axis=1)[:, :count].reshape(*shape, tiff.bits)
    values = np.zeros(shape, np.uint16)
    for k in range(tiff.bits):  # the first bit is the highest
        values = values * 2 + ones[..., k]
    return values
