"""Metadata of pictures: taken from Pillow images, made to fit, written again."""

from __future__ import annotations

from tfcodec import bitstream, exif, headers, profiles, tiff

KINDS = frozenset({"icc_profile", "exif", "xmp"})
# What profiles that libjxl makes say of sRGB: tag `cicp`, primaries 1, transfer 13; of
# greyscale, its name.
JXL_SRGB = b"cicp\0\0\0\0\x01\x0d", "Gra_D65_Rel_SRG".encode("utf-16-be")
LARGEST = bitstream.Limits().metadata  # bytes of each kind


def collect(image, found, picture):
    """Collects metadata; returns what of it is not kept, in words."""
    info = {**headers.raw_profiles(image.info), **image.info}
    notes = headers.lost(image, found)
    data, xmp = info.get("exif"), info.get("xmp") or info.get(headers.PNG_XMP)
    xmp = xmp or found.xmp
    if image.format == "TIFF":
        data, odd = _tiff_exif(image, found)
        xmp = xmp or image.getexif().get(tiff.XMP)
        if odd:
            notes.append(f"not kept: TIFF tags of an odd type ({odd})")
    profile = info.get("icc_profile") or found.profile
    if image.format == "JXL" and any(mark in (profile or b"") for mark in JXL_SRGB):
        profile = None  # made by the reader, of what is sRGB anyway
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
    """Returns as EXIF what tags of a TIFF say of the picture, and those that do not.

    Returns:
        (bytes or None, numbers of tags that cannot be kept, with commas between).
    """
    kept, odd = sound(image.getexif(), (*tiff.DESCRIPTIVE, *tiff.DIRECTORIES))
    odd += found.tiff.odd if found.tiff else ()
    data = kept.tobytes() if len(kept) else None
    return data, ", ".join(map(str, sorted(odd)))


def sound(tags, wanted):
    """Returns those of Pillow's EXIF that it can write again.

    Args:
        tags: an `Image.Exif`.
        wanted: numbers of tags, of which some may not be there.

    Returns:
        (an `Image.Exif`, a list of the others' numbers).
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
        except Exception:  # of values of another type than it writes, of any kind
            odd.append(tag)
            continue
        if value in ({}, None):  # a directory that is not where it should be
            odd.append(tag)
        elif value not in ("", b""):
            kept[tag] = value
    return kept, odd


def take_orientation(image, found, picture):
    """Takes out of metadata how the pixels are still to be turned.

    Returns:
        (EXIF's number of it, what of the metadata is not kept, in words).
    """
    data = picture.metadata.get("exif", b"")
    orientation = exif.orientation(data)
    if image.format == "TIFF":  # turned by Pillow, if it was not taken apart
        orientation = found.tiff.orientation if found.tiff and found.tiff.packed else 1
    elif image.format == "JXL" and not getattr(image, "jpeg", False):
        orientation = 1  # its own was applied, and EXIF's does not count
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
    """Makes an ICC profile of what a file says of its colours otherwise; says so."""
    colours, notes = found.colours, []
    if not colours or ("icc_profile" in picture.metadata and not found.overruled):
        return notes
    if grey and colours.curve == profiles.SRGB_CURVE:
        return notes  # only the curve counts
    if picture.metadata.pop("icc_profile", None):
        notes.append("not kept: ICC profile, over which cICP has precedence")
    picture.metadata["icc_profile"] = profiles.profile(colours, grey)
    return [*notes, f"colours ({colours.name}) as an ICC profile"]


def drop_unfit(picture, mode):
    """Drops metadata that cannot be kept; says so."""
    notes = []
    profile = picture.metadata.get("icc_profile", b"")
    space = {b"GRAY": "L", b"RGB ": "RGB"}.get(profile[16:20])
    if profile and space != mode.removesuffix("A"):
        del picture.metadata["icc_profile"]
        notes.append("not kept: an ICC profile that is not of such colours")
    for name, value in list(picture.metadata.items()):
        if len(value) > LARGEST:
            del picture.metadata[name]
            notes.append(f"not kept: {name} of {len(value)} bytes")
    return notes
