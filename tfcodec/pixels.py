"""Pillow images of any type to arrays of 8 bits."""

from __future__ import annotations

import contextlib
import dataclasses
import io

import numpy as np

from tfcodec.tiff import Unfit

ROWS = 512  # rows that are copied out of Pillow's memory at a time


@dataclasses.dataclass
class Picture:
    """An image as a codec takes it.

    Args:
        pixels: uint8 [height, width], greyscale, or [height, width, channels]: 2 for
            greyscale and alpha, 3 for RGB, 4 for RGB and alpha.
        metadata: those there are of icc_profile, exif (from its TIFF header on), xmp.
        notes: what was changed or not kept when the file was read, in words.
    """

    pixels: np.ndarray
    metadata: dict[str, bytes] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def array_of(image) -> np.ndarray:
    """Returns a Pillow image as a uint8 array, without a second copy in memory."""
    bands = len(image.getbands())
    shape = (image.height, image.width) + ((bands,) if bands > 1 else ())
    pixels = np.empty(shape, np.uint8)
    for rows, part in strips(image):
        pixels[rows] = part
    return pixels


def strips(image):
    """Yields (slice of rows, their pixels as an array) of a Pillow image."""
    for top in range(0, image.height, ROWS):
        bottom = min(top + ROWS, image.height)
        part = np.asarray(image.crop((0, top, image.width, bottom)))
        yield slice(top, bottom), part


def reduced(values: np.ndarray) -> np.ndarray:
    """Returns integers of 16 bits, an array, rounded to 8 bits.

    Raises:
        Unfit: there are values below 0 or above 65535.
    """
    if values.size and values.min() < 0:
        raise Unfit("signed pixels; convert them to 8 bits first")
    if values.size and values.max() > 65535:
        raise Unfit("more than 16 bits a pixel")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def eight_bit_grey(image, inverted: bool = False):
    """Returns a 16-bit greyscale Pillow image as an 8-bit one.

    Args:
        image: of mode I or I;16, of any byte order.
        inverted: whether 0 is white.

    Raises:
        Unfit: as `reduced`.
    """
    from PIL import Image

    grey = np.empty((image.height, image.width), np.uint8)
    for rows, part in strips(image):
        grey[rows] = reduced(part)
    return Image.fromarray(255 - grey if inverted else grey)


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Returns an array of pixels as uint8, from 0 (black) to 255 (white).

    Args:
        values: uint8, uint16 or bool.

    Raises:
        Unfit: it is of another type, whose values for black and white are not known.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return reduced(values)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    kind = "floating-point" if values.dtype.kind == "f" else str(values.dtype)
    raise Unfit(f"{kind} pixels; convert them to 8 bits first")


def rgb_of(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 [height, width, 3], without its alpha.

    Args:
        pixels: uint8, uint16 or bool [height, width] or [height, width, 1 to 4].

    Raises:
        Unfit: as `eight_bit`, or the shape is another.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise Unfit(f"an array of shape {list(pixels.shape)} is no image")
    pixels = eight_bit(pixels)
    if pixels.shape[2] < 3:
        return np.repeat(pixels[..., :1], 3, -1)
    return pixels[..., :3]


def to_srgb(image, picture):
    """Converts a Pillow image of any mode to sRGB, by its ICC profile if possible.

    Removes the profile from `picture`, and adds a note on that.
    """
    from PIL import ImageCms

    profile = picture.metadata.pop("icc_profile", None)
    srgb = ImageCms.createProfile("sRGB")
    with contextlib.suppress(ImageCms.PyCMSError, OSError):
        if image.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        done = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        if profile:
            picture.notes.append("not kept: ICC profile, as colours are sRGB now")
        return done
    if profile:
        picture.notes.append("not kept: ICC profile, which is damaged")
    return image.convert("RGB")


def transparency(image, bits: int, colour: tuple, low=None) -> np.ndarray:
    """Returns alpha, uint8 [height, width]: 0 where a pixel has the transparent colour.

    Args:
        image: a Pillow image, greyscale or RGB.
        bits: per sample in the file.
        colour: PNG's one transparent colour, samples of `bits` bits.
        low: for RGB of 16 bits, of which `image` has the higher bytes, a Pillow image
            of the lower ones.
    """
    if bits < 8:  # Pillow scales such samples to 0..255
        colour = tuple(value * 255 // (2**bits - 1) for value in colour)
    alpha = np.empty((image.height, image.width), np.uint8)
    lower = strips(low) if low else None
    for rows, part in strips(image):
        values = part.astype(np.uint16)
        if image.mode == "1":
            values *= 255
        if lower:
            values = values * 256 + next(lower)[1]
        same = values == np.asarray(colour, np.uint16)
        alpha[rows] = np.where(same.all(-1) if values.ndim == 3 else same, 0, 255)
    return alpha


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array of pixels upright, given its EXIF orientation, 1 to 8."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def over_white(image, mode):
    """Converts a Pillow image to a mode; alpha that is lost is composed over white."""
    from PIL import Image

    if mode == image.mode:
        return image
    if "A" in mode or "A" not in image.mode:
        return image.convert(mode)
    ground = Image.new(mode, image.size, "white")
    ground.paste(image.convert(mode), mask=image.getchannel("A"))
    return ground
