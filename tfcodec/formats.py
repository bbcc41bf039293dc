"""Formats to write, and what of a picture each of them can store."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import BinaryIO

import numpy as np

from tfcodec import exif, headers, picture_metadata, pixels, plugins, tiff
from tfcodec.pixels import Picture

LARGEST_SEGMENT = 65_000  # bytes of EXIF or XMP in a JPEG


@dataclasses.dataclass(frozen=True)
class Form:
    """A format to write, and what of a picture it can store.

    Args:
        modes: Pillow's modes that it stores without conversion.
        keeps: kinds of metadata that it stores.
        options: arguments of Pillow's `save`: the least loss, in a fair time.
        side: the longest side that can be written and read, in pixels; 0 for any.
        turns: whether readers turn the picture as EXIF says, so that the orientation
            can stay in EXIF.
        loses: in words, what is lost in addition.
    """

    modes: tuple[str, ...] = ("L", "LA", "RGB", "RGBA")
    keeps: frozenset[str] = frozenset()
    options: dict = dataclasses.field(default_factory=dict)
    side: int = 0
    turns: bool = True
    loses: str = ""


_PLAIN = ("L", "RGB")
_ALL = picture_metadata.KINDS
_CODED = 65_500  # the longest side in pixels that libjpeg and libheif write
# Pillow's formats that can store a photograph; others are refused.
FORMS = {
    # Above that side libavif writes files that it does not read.
    "AVIF": Form(keeps=_ALL, options={"quality": 95}, side=32_768, turns=False),
    "BMP": Form(_PLAIN),
    "DDS": Form(),
    "DIB": Form(_PLAIN),
    "EPS": Form(_PLAIN),
    "GIF": Form(("L", "RGB", "RGBA"), side=65_535),
    "HEIF": Form(
        keeps=_ALL,
        options={"quality": 95, "chroma": 444},
        side=_CODED,
        turns=False,
    ),
    "ICO": Form(side=256),
    "IM": Form(),
    "JPEG": Form(_PLAIN, _ALL, {"quality": 95, "subsampling": 0}, side=_CODED),
    "JPEG2000": Form(),
    "JXL": Form(
        keeps=frozenset({"exif", "xmp"}),
        options={"lossless": True, "use_container": True},
        turns=False,
    ),
    "PCX": Form(_PLAIN, side=65_534),
    "PDF": Form(
        _PLAIN,
        options={"quality": 95},
        side=_CODED,
        loses="exact pixels: a PDF holds a JPEG",
    ),
    # Pillow's own level is 6, which takes twice as long for 1 to 2 % fewer bytes.
    "PNG": Form(keeps=_ALL, options={"compress_level": 4}),
    "PPM": Form(_PLAIN),
    "QOI": Form(("RGB", "RGBA")),
    "SGI": Form(("L", "RGB", "RGBA"), side=65_535),
    "TGA": Form(side=65_535),
    "TIFF": Form(keeps=_ALL),
    "WEBP": Form(keeps=_ALL, options={"lossless": True}, side=16_383),
}


def form_of(path: pathlib.Path) -> str:
    """Returns Pillow's name of the format to write by a path's suffix.

    Raises:
        ValueError: Pillow writes no such format, or it cannot store a photograph.
    """
    from PIL import Image

    suffix = path.suffix.lower()
    need = plugins.SUFFIXES.get(suffix)
    if reason := need and plugins.missing(need):
        raise ValueError(f"{path}: {reason}, or try .png")
    # Pillow's few common formats; all its plug-ins take 50 ms more to import.
    Image.preinit()
    form = Image.EXTENSION.get(suffix) or Image.registered_extensions().get(suffix)
    if form not in Image.SAVE or form not in FORMS:
        raise ValueError(f"{path}: no image format of that suffix to write; try .png")
    return form


def check_side(form: str, height: int, width: int) -> None:
    """Raises ValueError if a format has no images of so many pixels.

    Args:
        form: Pillow's name of the format, a key of `FORMS`.
        height, width: of the image in pixels.
    """
    most = FORMS[form].side
    if most and max(height, width) > most:
        raise ValueError(
            f"{width}x{height}: {form} has at most {most} pixels a side; try .png"
        )


def write(
    file: BinaryIO, form: str, picture: Picture, strip: bool = False
) -> list[str]:
    """Writes an image to an open file; returns notes on what could not be kept.

    Args:
        file: an empty file, open for writing and reading.
        form: Pillow's name of the format, a key of `FORMS`.
        picture: what to write. If its EXIF, and so its orientation, is not kept, the
            pixels are turned.
        strip: whether to leave out metadata, without notes on it.

    Raises:
        OSError, ValueError: the format cannot store it, or the disk is full.
    """
    about, notes = FORMS[form], []
    check_side(form, *picture.pixels.shape[:2])
    kept = {} if strip else dict(picture.metadata)
    for name, value in list(kept.items()):
        # In a JPEG, EXIF and XMP must each fit in one segment.
        if name not in about.keeps or (
            form == "JPEG" and name != "icc_profile" and len(value) > LARGEST_SEGMENT
        ):
            notes.append(f"not kept: {name}")
            del kept[name]
    with plugins.QUIET.up_to(0):
        notes += _save(file, form, picture, kept)
    mode = _mode_of(picture)
    if mode.endswith("A") and not _stored(mode, about).endswith("A"):
        notes.append("not kept: alpha; blended with white")
    if form == "GIF":
        notes += _of_palette(file, picture)
    if about.loses:
        notes.append(f"not kept: {about.loses}")
    return notes


def _mode_of(picture):
    channels = 1 if picture.pixels.ndim == 2 else picture.pixels.shape[2]
    return {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]


def _stored(mode, about):
    """Returns the mode in which a format stores pictures of a mode."""
    for each in (mode, *{"L": ["RGB"], "LA": ["RGBA", "L"]}.get(mode, ["RGB"])):
        if each in about.modes:
            return each
    return "RGB"


def _save(file, form, picture, kept):
    """Writes an image with metadata, but without EXIF if Pillow cannot write that."""
    from PIL import Image

    about = FORMS[form]
    tries = list(_tries(about, picture, kept))
    for orientation, metadata in tries:
        image = Image.fromarray(pixels.turned(picture.pixels, orientation))
        image = pixels.over_white(image, _stored(image.mode, about))
        try:
            options, notes = _options(form, metadata, image.size)
            image.save(file, form, **about.options, **options)
        except MemoryError:
            raise
        except Exception as error:  # Pillow may raise anything on unusual EXIF.
            if metadata is tries[-1][1] or getattr(error, "errno", None):
                raise
            file.seek(0)
            file.truncate()
        else:
            break
    if len(tries) > 1 and metadata is tries[-1][1]:
        notes.append("not kept: exif")
    return notes


def _tries(about, picture, kept):
    """Yields (orientation to turn the pixels by, metadata) to try one after another."""
    orientation = exif.orientation(picture.metadata.get("exif", b""))
    if "exif" in kept and about.turns:
        yield 1, kept
    turned = dict(kept)
    if "xmp" in kept and orientation != 1:
        turned["xmp"] = exif.upright_xmp(kept["xmp"])
    if data := exif.upright(turned.pop("exif", b"")):
        if orientation != 1 or not about.turns:
            yield orientation, {**turned, "exif": data}
    yield orientation, turned


def _options(form, kept, size):
    """Returns (arguments of Pillow's `save` for metadata, notes on what they lack)."""
    from PIL import Image

    options, notes = dict(kept), []
    data, xmp = kept.get("exif"), kept.get("xmp")
    if data:
        options["exif"] = exif.PREFIX + data
    if form == "PNG" and xmp:
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = PngInfo()
        try:
            text = options.pop("xmp").decode("utf-8")
            options["pnginfo"].add_itxt(headers.PNG_XMP, text)
        except UnicodeDecodeError:
            notes.append("not kept: xmp that is not UTF-8, which a PNG cannot hold")
    if form == "TIFF" and (data or xmp):
        # EXIF and XMP share a directory with the tags on how pixels are stored, which
        # Pillow adds itself.
        tags = Image.Exif()
        if data:
            tags.load(options["exif"])
            wanted = [tag for tag in tags if tag not in tiff.STRUCTURE]
            if exif.ORIENTATION in tags:
                wanted.append(exif.ORIENTATION)
            empty = not len(tags)
            tags, odd = picture_metadata.sound(tags, wanted)
            if empty:
                notes.append("not kept: exif")
            elif odd:
                named = ", ".join(map(str, sorted(odd)))
                notes.append(f"not kept: exif tags that cannot be written ({named})")
        if xmp:
            tags[tiff.XMP] = options.pop("xmp")
        options["exif"] = tags
    if form == "ICO":
        options["sizes"] = [size]
    return options, notes


def _of_palette(file, picture):
    """Returns notes on what a GIF, just written to `file`, has lost."""
    from PIL import Image

    file.seek(0)
    with Image.open(file) as image:
        mode = _mode_of(picture)
        back = np.asarray(image.convert("RGBA"))
    turn = exif.orientation(picture.metadata.get("exif", b""))
    whole = Image.fromarray(pixels.turned(picture.pixels, turn))
    whole = np.asarray(whole.convert("RGBA"))
    notes = []
    if mode.endswith("A") and not np.array_equal(back[..., 3], whole[..., 3]):
        notes.append("not kept: shades of alpha")
    seen = np.minimum(back[..., 3:], whole[..., 3:]) > 0
    if np.any((back != whole)[..., :3] & seen):
        notes.append("not kept: colours beyond the 256 of a GIF")
    return notes
