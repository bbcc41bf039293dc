"""Image files to arrays and metadata, with Pillow; `formats` has the way back.

This is the only reader: for images to compress, to compare, to show and to train on.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from typing import BinaryIO

import numpy as np

from tfcodec import (
    bitstream,
    headers,
    jpegs,
    picture_metadata,
    pixels,
    plugins,
    tiff,
)
from tfcodec.pixels import Picture
from tfcodec.tiff import Unfit


def read(
    source: str | os.PathLike | BinaryIO,
    name: str | None = None,
    max_pixels: int | None = None,
    strip: bool = False,
) -> Picture:
    """Reads an image, and turns it upright as its EXIF says.

    Args:
        source: a path, or a file open for reading.
        name: its name in errors, by default the path.
        max_pixels: the largest width times height, 0 for any; by default that of
            `tfcodec.Limits`.
        strip: leave out all metadata, without notes on what of it is not kept.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, or a damaged one; (`Unfit`) it is too large, or
            which values are black and white is not known, as of signed or float pixels.
    """
    with _opened(source, name, max_pixels) as (image, found, lower_bytes):
        return picture_of(image, found=found, low=lower_bytes(), strip=strip)


def read_rgb(path: str | os.PathLike, max_pixels: int | None = None) -> np.ndarray:
    """Returns an image as uint8 [height, width, 3], without its alpha.

    Args:
        path, max_pixels: as for `read`.

    Raises:
        OSError, ValueError: as `read`.
    """
    return pixels.rgb_of(read(path, max_pixels=max_pixels, strip=True).pixels)


def size_of(path: str | os.PathLike, max_pixels: int | None = None) -> tuple[int, int]:
    """Returns width and height as stored, without reading the pixels.

    Args:
        path: of the file.
        max_pixels: as for `read`.

    Raises:
        OSError, ValueError: as `read`, except for errors that only the pixels show.
    """
    with _opened(path, None, max_pixels) as (image, found, _):
        _check_mode(image)
        return image.size if not (found.tiff and found.tiff.packed) else (
            found.tiff.width, image.height
        )  # fmt: skip


@contextlib.contextmanager
def _opened(source, name, max_pixels):
    """Opens an image file: (Pillow image, `headers.Facts`, reader of `_lower_bytes`).

    Raises:
        OSError, ValueError: as `read`, also for any error within the context.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or os.fspath(source)
    most = bitstream.Limits().for_pixels(max_pixels).pixels
    hint = ": not an image that Pillow reads"
    try:
        with plugins.QUIET.up_to(most), _seekable(source) as file:
            file, notes = jpegs.whole(file)
            start = file.read(64)
            if start.startswith(headers.PNG_START):
                hint = ": a damaged or unsupported PNG"
            if need := plugins.wanted(start):
                damaged = f"a damaged or unsupported {plugins.NAMES[need]}"
                hint = f": {plugins.missing(need) or damaged}"
            found = headers.facts(file)
            found.damage += notes
            with _image(file, found) as image:
                if image.format in plugins.PROGRAMS:
                    raise Unfit(
                        f"{image.format} is drawn by a program, which is not run"
                    )
                width, height = image.size
                if most and width * height > most:
                    raise Unfit(bitstream.over_pixels(f"{width}x{height}", most))
                yield image, found, functools.partial(_lower_bytes, file, found)
    except Image.DecompressionBombError as error:
        (count, *_) = re.findall(r"\d+", str(error)) or ["an image of too many"]
        words = bitstream.over_pixels(f"{count} pixels", most)
        raise Unfit(f"{name}: {words}") from None
    except Unfit as error:
        raise Unfit(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name}{hint}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{name}: damaged or unsupported image: {error}") from error


@contextlib.contextmanager
def _seekable(source):
    if hasattr(source, "read"):
        yield source if source.seekable() else io.BytesIO(source.read())
    else:
        with open(source, "rb") as file:  # a named pipe, perhaps
            yield file if file.seekable() else io.BytesIO(file.read())


def _image(file, found):
    """Opens a file with Pillow; an AVIF that it refuses for its EXIF, without that."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(found.tiff.file if found.tiff else file)
    except (UnidentifiedImageError, ValueError):
        file.seek(0)
        start = file.read(12)
        data = start + file.read() if start[4:8] == b"ftyp" else b""
        # In the list of items (ISO/IEC 14496-12, `infe`) EXIF gets an unknown type.
        hidden = re.sub(rb"(infe(?:.{8}|.{10}))Exif", rb"\1none", data, flags=re.DOTALL)
        if hidden == data:
            raise
        image = Image.open(io.BytesIO(hidden))
        found.notes.append("not kept: EXIF, which is damaged")
        return image


def _lower_bytes(file, found):
    """Returns the lower bytes of a 16-bit RGB PNG with a transparent colour, or None.

    Pillow reads only the higher byte of each sample. Told that the byte order is the
    opposite, it reads the lower one.
    """
    from PIL import Image

    if found.bits != 16 or len(found.transparent or ()) != 3:
        return None
    at = file.tell()  # where the image that is open in this file goes on
    file.seek(0)
    low = Image.open(file)
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
    low.load()
    file.seek(at)
    return low


def _check_mode(image):
    if image.mode == "F":
        raise Unfit("floating-point pixels; convert them to 8 bits first")


def picture_of(
    image,
    upright: bool = True,
    found: headers.Facts | None = None,
    low=None,
    strip: bool = False,
    origin=None,
) -> Picture:
    """Returns a Pillow image as a `Picture`; the image itself may be changed.

    Args:
        image: a Pillow image.
        upright: whether to turn it as its EXIF orientation says, and to remove that.
        found: what the headers of its file say, if it is from a file.
        low: see `_lower_bytes`.
        strip: as for `read`.
        origin: the image of which `image` is a copy that has lost some metadata.

    Raises:
        Unfit: (a ValueError) its values for black and white are not known.
    """
    _check_mode(image)
    found = found or _facts_of(image)
    bits = _bits(image, found)  # before the pixels are read, which clears `image.tile`
    image.load()
    picture = Picture(np.empty(0), notes=list(found.damage))
    if getattr(image, "is_animated", False):
        picture.notes.append("not kept: all but the first frame")
    said = picture_metadata.collect(origin or image, found, picture)
    orientation = 1
    if upright:
        orientation, notes = picture_metadata.take_orientation(image, found, picture)
        said += notes
    alpha = None
    if found.transparent:
        alpha = pixels.transparency(image, found.bits, found.transparent, low)
        image.info.pop("transparency", None)
    image, mode = _of_eight_bits(image, found, picture)
    if bits > 8:
        picture.notes.append(f"not kept: the lower {bits - 8} of {bits} bits")
    grey = image.mode in ("1", "L", "LA") or found.grey or _has_greys_alone(image)
    image, wanted = _seen_through(image, grey)
    picture.pixels = pixels.array_of(_converted(image, wanted))
    if alpha is not None and not alpha.all():
        picture.pixels = np.dstack([picture.pixels, alpha])
        wanted += "A"
    if mode not in ("RGB", "RGBA", "L", "LA") and bits <= 8:
        picture.notes.append(f"mode {mode} converted to {wanted}")
    picture.pixels = pixels.turned(picture.pixels, orientation)
    said += picture_metadata.colours_to_profile(picture, found, grey)
    said += picture_metadata.drop_unfit(picture, wanted)
    if strip:
        picture.metadata.clear()
    else:
        picture.notes = said + picture.notes
    return picture


def _seen_through(image, grey):
    """Returns (image, mode to convert it to), with alpha unless all is opaque."""
    if _may_be_transparent(image):
        seen = image.convert("RGBA") if image.mode != "LA" else image
        seen = _converted(seen, "LA" if grey else "RGBA")
        if seen.getextrema()[-1][0] < 255:
            return seen, seen.mode
    return image, "L" if grey else "RGB"


def _has_greys_alone(image):
    """Whether an image has a palette, and all colours of it that are used are grey."""
    if image.mode not in ("P", "PA"):
        return False
    palette = image.getpalette("RGB")
    used = (index for _, index in image.getchannel(0).getcolors(256))
    return all(len(set(palette[3 * k : 3 * k + 3])) <= 1 for k in used)


def _facts_of(image):
    """Returns the `Facts` of a Pillow image that is not from a file."""
    value = image.info.get("transparency")
    if image.mode.startswith("I") and isinstance(value, int):
        return headers.Facts(bits=16, transparent=(value,))
    return headers.Facts()


def _may_be_transparent(image):
    value = image.info.get("transparency")
    # A transparent colour of 16 bits would match a wrong colour in pixels of 8 bits.
    if image.mode == "RGB" and isinstance(value, tuple) and max(value) > 255:
        return False
    return image.has_transparency_data


def _converted(image, mode):
    if image.mode == mode:
        return image
    if mode in ("L", "LA") and image.mode in ("RGB", "RGBA"):  # equal colours
        from PIL import Image

        bands = [image.getchannel(0), image.getchannel(image.mode[-1])]
        return Image.merge("LA", bands) if mode == "LA" else bands[0]
    return image.convert(mode)


def _bits(image, found):
    """Returns the bits per sample in the file, at most 16."""
    if found.bits:
        return min(found.bits, 16)
    if image.mode.startswith("I"):
        return 16
    for tile in getattr(image, "tile", ()):
        raw = tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3]
        # Such as RGB;16B. But BGR;16 has 16 bits per pixel.
        if isinstance(raw, str) and re.search(r";16[BLN]$", raw):
            return 16
    return 8


def _of_eight_bits(image, found, picture):
    """Returns (the image with 8 bits per sample, the mode that it had)."""
    mode = image.mode
    told = found.tiff
    if told and told.packed:
        image = tiff.unpacked(image, told)
    elif mode == "I" or mode.startswith("I;16"):
        image = pixels.eight_bit_grey(image, bool(told and told.inverted))
    elif told and told.inverted:
        from PIL import Image, ImageOps

        first, *alpha = image.split()
        image = Image.merge(mode, [ImageOps.invert(first), *alpha])
    elif mode in ("CMYK", "LAB"):
        image = pixels.to_srgb(image, picture)
    if image.mode == "La":  # premultiplied alpha; Pillow converts it only to LA
        image = image.convert("LA")
    return image, mode
