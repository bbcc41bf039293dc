"""Pillow images to arrays of 8 bits, whatever they were."""

from __future__ import annotations

import contextlib
import dataclasses
import io

import numpy as np

from tfcodec.tiff import Unfit

ROWS = 512  # taken out of Pillow's memory at a time


@dataclasses.dataclass
class Picture:
    """An image as a codec takes it.

    Args:
        pixels: uint8 [height, width], greyscale, or [height, width, channels]: 2 for
            greyscale and alpha, 3 for RGB, 4 for RGB and alpha.
        metadata: icc_profile, exif (from its TIFF header on), xmp, of what there is.
        notes: what was changed on the way, in words.
    """

    pixels: np.ndarray
    metadata: dict[str, bytes] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def array_of(image) -> np.ndarray:
    """Returns a Pillow image as an array, without a second copy on the way."""
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
    """Returns 16 bits as 8, rounded, of an array of integers.

    Raises:
        Unfit: there are values beyond 16 bits, or below zero.
    """
    if values.size and values.min() < 0:
        raise Unfit("signed pixels; convert them to 8 bits first")
    if values.size and values.max() > 65535:
        raise Unfit("more than 16 bits a pixel")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def grey_of(image, inverted: bool = False):
    """Returns 16-bit greyscale, a Pillow image, as 8-bit.

    Args:
        image: of mode I or I;16, in any order of bytes.
        inverted: white is zero.

    Raises:
        Unfit: as `reduced`.
    """
    from PIL import Image

    grey = np.empty((image.height, image.width), np.uint8)
    for rows, part in strips(image):
        grey[rows] = reduced(part)
    return Image.fromarray(255 - grey if inverted else grey)


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Returns an array of pixels as uint8 of the same range from black to white.

    Args:
        values: uint8, uint16 or bool.

    Raises:
        Unfit: of another type, whose black and white are not known.
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
        Unfit: as `eight_bit`, or of more channels.
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
    """Returns CMYK or LAB as sRGB, by the image's profile if it has one that works."""
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
    """Returns alpha, uint8 [height, width]: 0 where a pixel is of PNG's one colour.

    Args:
        image: greyscale or RGB, a Pillow image.
        bits: of a sample in the file.
        colour: the samples, of so many bits.
        low: the lower bytes of an image of 16 bits of RGB, of which Pillow gives the
            higher; a Pillow image.
    """
    if bits < 8:  # which Pillow spreads from 0 to 255
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
    """Returns an image upright that is stored as EXIF's orientation says, 1 to 8."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def converted(image, mode):
    """Returns a Pillow image in a mode; what it loses of alpha is over white."""
    from PIL import Image

    if mode == image.mode:
        return image
    if "A" in mode or "A" not in image.mode:
        return image.convert(mode)
    ground = Image.new(mode, image.size, "white")
    ground.paste(image.convert(mode), mask=image.getchannel("A"))
    return ground
