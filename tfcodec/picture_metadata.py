"""Metadata of pictures: taken from Pillow images, and adapted to what is kept."""

from __future__ import annotations

from tfcodec import bitstream, exif, headers, profiles, tiff

KINDS = frozenset({"icc_profile", "exif", "xmp"})
# Bytes in the ICC profiles that libjxl makes for sRGB: a tag `cicp` of primaries 1 and
# transfer 13; and, for greyscale, the name of the profile.
JXL_SRGB = b"cicp\0\0\0\0\x01\x0d", "Gra_D65_Rel_SRG".encode("utf-16-be")
LARGEST = bitstream.Limits().metadata  # bytes of each kind


def collect(image, found, picture):
    """Puts metadata into `picture`; returns notes on what is not kept.

    Args:
        image: a loaded Pillow image.
        found: `headers.Facts` of its file.
        picture: a `pixels.Picture`.
    """
    info = {**headers.raw_profiles(image.info), **image.info}
    notes = headers.lost(image, found)
    data, xmp = info.get("exif"), info.get("xmp") or info.get(headers.PNG_XMP)
    xmp = xmp or found.xmp
    if image.format == "TIFF":
        data, odd = _tiff_exif(image, found)
        xmp = xmp or image.getexif().get(tiff.XMP)
        if odd:
            notes.append(f"not kept: TIFF tags that cannot be written ({odd})")
    profile = info.get("icc_profile") or found.profile
    if image.format == "JXL" and any(mark in (profile or b"") for mark in JXL_SRGB):
        profile = None  # made by libjxl, and only says that colours are sRGB
    kinds = {
        "icc_profile": profile,
        "exif": data and exif.bare(data),
        "xmp": xmp.encode() if isinstance(xmp, str) else xmp,
    }
    picture.metadata = {
        name: bytes(value)
        for name, value in kinds.items()
        if value and isinstance(value, (bytes, bytearray))
    }
    return notes


def _tiff_exif(image, found):
    """Makes EXIF of the tags of a TIFF that describe the picture.

    Returns:
        (bytes or None, the numbers of tags that cannot be kept, separated by commas).
    """
    kept, odd = sound(image.getexif(), (*tiff.DESCRIPTIVE, *tiff.DIRECTORIES))
    odd += found.tiff.odd if found.tiff else ()
    data = kept.tobytes() if len(kept) else None
    return data, ", ".join(map(str, sorted(odd)))


def sound(tags, wanted):
    """Selects tags that Pillow is able to write.

    Args:
        tags: an `Image.Exif`.
        wanted: numbers of tags; those that are missing are ignored.

    Returns:
        (an `Image.Exif` of the tags that it can write, numbers of those it cannot).
    """
    from PIL import Image

    kept, odd = Image.Exif(), []
    for tag in wanted:
        if tag not in tags:
            continue
        alone = Image.Exif()
        try:
            value = tags.get_ifd(tag) if tag in tiff.DIRECTORIES else tags[tag]
            alone[tag] = value
            alone.tobytes()
        except Exception:  # Pillow may raise anything on a value of unusual type.
            odd.append(tag)
            continue
        if value in ({}, None):  # a directory that is not at its position
            odd.append(tag)
        elif value not in ("", b""):
            kept[tag] = value
    return kept, odd


def take_orientation(image, found, picture):
    """Removes the orientation from metadata, as the pixels will be turned by it.

    Returns:
        (orientation by which the pixels must still be turned, 1 to 8; notes on metadata
        that are not kept).
    """
    data = picture.metadata.get("exif", b"")
    orientation = exif.orientation(data)
    if image.format == "TIFF":  # Pillow turns a TIFF, unless its samples were packed.
        orientation = found.tiff.orientation if found.tiff and found.tiff.packed else 1
    elif image.format == "JXL" and not getattr(image, "jpeg", False):
        orientation = 1  # libjxl applies JPEG XL's own, and EXIF's does not count
    notes = []
    if orientation in range(2, 9):
        data, small = exif.without_thumbnail(data)
        if small:
            notes.append("not kept: thumbnail in EXIF, which is not turned")
    if exif.oriented(data):
        picture.metadata["exif"] = exif.upright(data)
        if not picture.metadata["exif"]:
            del picture.metadata["exif"]
    if orientation != 1 and "xmp" in picture.metadata:
        picture.metadata["xmp"] = exif.upright_xmp(picture.metadata["xmp"])
    return orientation if orientation in range(2, 9) else 1, notes


def colours_to_profile(picture, found, grey):
    """Adds an ICC profile for a colour space given by other means; returns notes."""
    colours, notes = found.colours, []
    if not colours or ("icc_profile" in picture.metadata and not found.overruled):
        return notes
    if grey and colours.curve == profiles.SRGB_CURVE:
        return notes  # for greyscale only the curve counts, and this is sRGB's
    if picture.metadata.pop("icc_profile", None):
        notes.append("not kept: ICC profile, over which cICP has precedence")
    picture.metadata["icc_profile"] = profiles.profile(colours, grey)
    return [*notes, f"colours ({colours.name}) as an ICC profile"]


def drop_unfit(picture, mode):
    """Removes metadata that cannot be kept; returns notes on these."""
    notes = []
    profile = picture.metadata.get("icc_profile", b"")
    space = {b"GRAY": "L", b"RGB ": "RGB"}.get(profile[16:20])
    if profile and space != mode.removesuffix("A"):
        del picture.metadata["icc_profile"]
        notes.append("not kept: an ICC profile for other colours than the picture's")
    for name, value in list(picture.metadata.items()):
        if len(value) > LARGEST:
            del picture.metadata[name]
            notes.append(f"not kept: {name} of {len(value)} bytes")
    return notes
