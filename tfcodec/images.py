"""Image files to arrays and metadata, and back, with Pillow."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import warnings
from typing import BinaryIO

import numpy as np

from tfcodec import bitstream, jpegs

# How to write formats that lose something by default.
SAVE_OPTIONS = {
    "AVIF": {"quality": 95},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}
# What formats can keep of metadata, by the names of Pillow's `save`.
KEEPS = {
    "AVIF": {"icc_profile", "exif", "xmp"},
    "JPEG": {"icc_profile", "exif", "xmp"},
    "PNG": {"icc_profile", "exif", "xmp"},
    "TIFF": {"icc_profile", "exif", "xmp"},
    "WEBP": {"icc_profile", "exif", "xmp"},
}
LARGEST_METADATA = bitstream.Limits().metadata  # bytes of each kind
EXIF_PREFIX = b"Exif\0\0"
# Tags of a TIFF file that describe the picture, not the file's structure.
TIFF_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
TIFF_DIRECTORIES = (0x8769, 0x8825)  # EXIF and GPS
TIFF_XMP = 700
PNG_XMP = "XML:com.adobe.xmp"
ROWS = 512  # taken out of Pillow's memory at a time


class Unfit(ValueError):
    """An image that is whole, and not for us."""


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


def read(
    source: str | os.PathLike | BinaryIO,
    name: str | None = None,
    max_pixels: int | None = None,
) -> Picture:
    """Reads an image, upright.

    Args:
        source: a path, or a file open for reading.
        name: what to call it in errors, by default the path.
        max_pixels: width times height that is read, 0 for any; by default what
            `tfcodec.Limits` allow a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, or a damaged one, or of unknown range.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or os.fspath(source)
    most = bitstream.Limits().for_pixels(max_pixels).pixels
    try:
        with warnings.catch_warnings(), _room_for_profiles(), _pixels_up_to(most):
            # Of odd metadata, or of an image half as large as Pillow refuses.
            warnings.simplefilter("ignore")
            source, notes = jpegs.whole(source)
            with Image.open(source) as image:
                width, height = image.size
                if most and width * height > most:
                    raise Unfit(bitstream.over_pixels(f"{width}x{height}", most))
                picture = picture_of(image)
                picture.notes += notes
                return picture
    except Image.DecompressionBombError as error:
        (count, *_) = re.findall(r"\d+", str(error)) or ["an image of too many"]
        words = bitstream.over_pixels(f"{count} pixels", most)
        raise Unfit(f"{name}: {words}") from None
    except Unfit as error:
        raise Unfit(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name}: not an image that Pillow reads") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{name}: damaged or unsupported image: {error}") from error


@contextlib.contextmanager
def _pixels_up_to(limit: int):
    """Lets Pillow open images of so many pixels, 0 for any, and of no more.

    It refuses twice what it is told to, when a file is opened and again for what some
    formats, such as icons, hold within.
    """
    from PIL import Image

    old = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = limit and (limit + 1) // 2 or None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = old


@contextlib.contextmanager
def _room_for_profiles():
    """Lets PNG files have ICC profiles of the size that we keep; Pillow's is 1 MiB."""
    from PIL import PngImagePlugin

    old = PngImagePlugin.MAX_TEXT_CHUNK
    PngImagePlugin.MAX_TEXT_CHUNK = max(old, LARGEST_METADATA)
    try:
        yield
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK = old


def read_rgb(path: str | os.PathLike, max_pixels: int | None = None) -> np.ndarray:
    """Returns an image as uint8 [height, width, 3], without its alpha.

    Args:
        path, max_pixels: as of `read`.

    Raises:
        OSError, ValueError: as `read`.
    """
    pixels = read(path, max_pixels=max_pixels).pixels
    if pixels.ndim == 2 or pixels.shape[2] == 2:
        grey = pixels if pixels.ndim == 2 else pixels[..., 0]
        return np.repeat(grey[..., None], 3, -1)
    return pixels[..., :3]


def picture_of(image, upright: bool = True) -> Picture:
    """Returns a Pillow image as a `Picture`; changes the image.

    Args:
        image: a Pillow image.
        upright: turn it as its EXIF orientation says, which it then loses.

    Raises:
        Unfit: (a ValueError) its values have no range that could be made 0 to 255.
    """
    from PIL import ImageOps

    picture = Picture(np.empty(0))
    # 16 bits for each colour Pillow reads as 8, which `tile` tells before it does.
    deep = image.mode.startswith("RGB") and any(
        "16" in str(tile[3]) for tile in getattr(image, "tile", ())
    )
    image.load()
    if getattr(image, "is_animated", False):
        picture.notes.append("not kept: all but the first frame")
    if upright:
        ImageOps.exif_transpose(image, in_place=True)
    picture.metadata = metadata_of(image)
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):
        image, deep = reduced(image), True
    elif mode == "F":
        raise Unfit("floating-point pixels; convert them to 8 bits first")
    elif mode in ("CMYK", "LAB"):
        image = to_srgb(image, picture)
    if deep:
        picture.notes.append("not kept: the lower 8 of 16 bits")
    grey = image.mode in ("1", "L", "LA", "La")
    wanted = "L" if grey else "RGB"
    if image.has_transparency_data:
        alpha = image.convert("LA" if grey else "RGBA")
        if alpha.getextrema()[-1][0] < 255:
            wanted, image = alpha.mode, alpha
    if mode not in ("RGB", "RGBA", "L", "LA") and not deep:
        picture.notes.append(f"mode {mode} converted to {wanted}")
    picture.pixels = array_of(image if image.mode == wanted else image.convert(wanted))
    _drop_what_does_not_fit(picture, wanted)
    return picture


def _drop_what_does_not_fit(picture, mode):
    profile = picture.metadata.get("icc_profile", b"")
    space = {b"GRAY": "L", b"RGB ": "RGB"}.get(profile[16:20])
    if profile and space != mode.removesuffix("A"):
        del picture.metadata["icc_profile"]
        picture.notes.append("not kept: an ICC profile that is not of such colours")
    for name, value in list(picture.metadata.items()):
        if len(value) > LARGEST_METADATA:
            del picture.metadata[name]
            picture.notes.append(f"not kept: {name} of {len(value)} bytes")


def metadata_of(image) -> dict[str, bytes]:
    """Returns the metadata of a Pillow image, those of `Picture` that there are."""
    from PIL import Image

    found = {"icc_profile": image.info.get("icc_profile")}
    exif = image.info.get("exif")
    xmp = image.info.get("xmp") or image.info.get(PNG_XMP)
    if image.format == "TIFF":
        tags = image.getexif()
        kept = Image.Exif()
        for tag in TIFF_TAGS:
            if tag in tags:
                kept[tag] = tags[tag]
        for tag in TIFF_DIRECTORIES:
            if tags.get_ifd(tag):
                kept[tag] = tags.get_ifd(tag)
        exif = kept.tobytes() if len(kept) else None
        xmp = xmp or tags.get(TIFF_XMP)
    found["exif"] = exif and exif.removeprefix(EXIF_PREFIX)
    found["xmp"] = xmp.encode() if isinstance(xmp, str) else xmp
    return {name: bytes(value) for name, value in found.items() if value}


def reduced(image):
    """Returns 16-bit greyscale as 8-bit, rounded.

    Raises:
        Unfit: there are values beyond 16 bits.
    """
    from PIL import Image

    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise Unfit("more than 16 bits a pixel")
    return Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8))


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


def array_of(image) -> np.ndarray:
    """Returns a Pillow image as an array, without a second copy on the way."""
    bands = len(image.getbands())
    shape = (image.height, image.width) + ((bands,) if bands > 1 else ())
    pixels = np.empty(shape, np.uint8)
    for top in range(0, image.height, ROWS):
        bottom = min(top + ROWS, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def form_of(path: pathlib.Path) -> str:
    """Returns Pillow's name of the format to write by a path's suffix.

    Raises:
        ValueError: Pillow writes no such format.
    """
    from PIL import Image

    form = Image.registered_extensions().get(path.suffix.lower())
    if form not in Image.SAVE or form == "TFC":
        raise ValueError(f"{path}: no image format of that suffix to write; try .png")
    return form


def write(file: BinaryIO, form: str, picture: Picture) -> list[str]:
    """Writes an image to an open file; returns what could not be kept, in words.

    Raises:
        OSError, ValueError: the format cannot hold it, or the disk is full.
    """
    from PIL import Image

    image = Image.fromarray(picture.pixels)
    options = dict(SAVE_OPTIONS.get(form, {}))
    notes = []
    for name, value in picture.metadata.items():
        # A JPEG's segment is of 64 KiB, and EXIF has but one.
        if name not in KEEPS.get(form, ()) or (
            form == "JPEG" and name != "icc_profile" and len(value) > 65_000
        ):
            notes.append(f"not kept: {name}")
        else:
            options.update(_saved(name, value, form))
    modes = [image.mode, *{"LA": ["RGBA", "L"], "RGBA": ["RGB"]}.get(image.mode, ())]
    for mode in modes:
        try:
            converted(image, mode).save(file, form, **options)
        except OSError as error:
            if error.errno or mode == modes[-1] or "mode" not in str(error):
                raise
            file.seek(0)
            file.truncate()
        else:
            break
    if "A" in image.mode and "A" not in mode:
        notes.append("not kept: alpha; what was seen is over white")
    return notes


def _saved(name, value, form):
    """Returns the options of Pillow's `save` for a piece of metadata."""
    if name == "exif":
        return {"exif": EXIF_PREFIX + value}
    if name == "xmp" and form == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(PNG_XMP, value.decode("utf-8", "replace"))
        return {"pnginfo": info}
    if name == "xmp" and form == "TIFF":
        return {"tiffinfo": {TIFF_XMP: value}}
    return {name: value}


def converted(image, mode):
    """Returns a Pillow image in a mode; what it loses of alpha is over white."""
    from PIL import Image

    if mode == image.mode:
        return image
    if "A" in mode:
        return image.convert(mode)
    ground = Image.new(mode, image.size, "white")
    ground.paste(image.convert(mode), mask=image.getchannel("A"))
    return ground
