"""What image files hold that Pillow does not read: colours, transparency, depth, texts.

This module finds what of a file will not be kept, and says so. PNG chunks are those of
the PNG specification, third edition; boxes those of ISO/IEC 14496-12, 23008-12 (HEIF)
and 15444-1 (JPEG 2000).
"""

from __future__ import annotations

import dataclasses
import re
import struct
from typing import BinaryIO

from tfcodec import exif, jpegs, profiles, tiff

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_XMP = "XML:com.adobe.xmp"
RAW_PROFILE = "Raw profile type "
# PNG chunks on how to show the picture or on its origin, which are not kept.
NAMED_CHUNKS = {"caBX", "cLLI", "mDCV", "oFFs", "pCAL", "sCAL", "sTER", "tIME"}
BOXES = {b"meta", b"iprp", b"ipco", b"jp2h"}  # containers of boxes that are read
READ_BOXES = {
    b"pixi", b"ihdr", b"bpcc", b"colr", b"xml ", b"uuid", b"brob", b"iinf", b"mpvd"
}  # fmt: skip
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
LARGEST_BOX = 2**26  # bytes; larger ones are not read
MOST_BOXES = 2**16  # boxes that are looked at
IPTC = 0x0404  # number of Photoshop's image resource for IPTC
TIFF_NAMES = {
    301: "TransferFunction", 318: "WhitePoint", 319: "PrimaryChromaticities",
    33723: "IPTC", 34377: "Photoshop's",
}  # fmt: skip
OPENJPEG = b"Created by OpenJPEG"  # start of the comment that OpenJPEG writes itself
ANIMATION = {"acTL", "fcTL", "fdAT"}
GAIN_MAP = "not kept: gain map, which shows the picture brighter on HDR screens"
FEW = 16  # up to so many bytes after a picture are ignored, such as a line feed
# Resolutions that programs write by default; their loss is not reported.
USUAL_DPI = {72, 96}


@dataclasses.dataclass
class Facts:
    """What is known of a file before its pixels are read.

    Args:
        bits: bits per sample, if the file says; None if Pillow's mode tells.
        grey: whether it is greyscale, whatever Pillow's mode.
        transparent: PNG's one transparent colour: its samples, of `bits` bits.
        colours: a colour space other than sRGB that is given by other means than an ICC
            profile, such as PNG's cICP.
        overruled: whether `colours` takes precedence over an ICC profile in the file.
        profile: an ICC profile that Pillow does not read.
        xmp: XMP that Pillow does not read.
        tiff: how to read a TIFF file.
        notes: what will not be kept, in words.
        damage: in words, what is wrong with pixels that can be read nevertheless.
        texts: keywords of PNG texts.
        aspect: (across, down), a resolution of no known unit.
    """

    bits: int | None = None
    grey: bool = False
    transparent: tuple[int, ...] | None = None
    colours: profiles.Colours | None = None
    overruled: bool = False
    profile: bytes | None = None
    xmp: bytes | None = None
    tiff: tiff.Tiff | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    damage: list[str] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)
    aspect: tuple[float, float] | None = None


def facts(file: BinaryIO) -> Facts:
    """Returns what the headers of an image file say.

    Raises:
        tiff.Unfit: which values are black and white is not known.
    """
    file.seek(0)
    start = file.read(16)
    found = Facts()
    if start.startswith(PNG_START):
        _png(file, found)
    elif start.startswith(jpegs.START):
        _jpeg(file, found)
    elif start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        found.tiff = tiff.look(file)
        found.bits = found.tiff.bits
        others = sorted(found.tiff.tags - tiff.STRUCTURE - tiff.KEPT)
        if others:
            names = [TIFF_NAMES.get(tag, tag) for tag in others]
            found.notes.append(f"not kept: TIFF tags {_listed(names)}")
    elif re.match(rb"P[2356]\s", start):
        found.bits = _pnm_bits(file)
    elif start[4:8] in (b"ftyp", b"jP  ", b"JXL "):
        _iso(file, found)
    file.seek(0)
    return found


def _listed(values, most=8):
    """Lists at most `most` values in brackets, and how many more there are."""
    values = [_plain(str(value)) for value in values]
    more = [f"{len(values) - most} more"] if len(values) > most else []
    return f"({', '.join(values[:most] + more)})"


def _plain(text):
    """Makes text from a file fit to print: short, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)[:40]


# PNG -----------------------------------------------------------------------------


def _png_chunks(file):
    """Yields (name, size of its data in bytes) of each chunk of a PNG.

    At each, the file is positioned at the data; in the end, after the picture.
    """
    at = len(PNG_START)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        size, name = struct.unpack(">I4s", head)
        yield name.decode("latin-1"), size
        at += 12 + size
        if name == b"IEND":
            file.seek(at)
            return


def _png(file, found):
    kept: dict[str, bytes] = {}
    others, name = {}, ""
    for name, size in _png_chunks(file):
        if name in ("IHDR", "tRNS", "gAMA", "cHRM", "sRGB", "cICP", "iCCP", "pHYs"):
            kept.setdefault(name, file.read(min(size, 64)))
        elif name in ("tEXt", "zTXt", "iTXt"):
            word = file.read(min(size, 80)).partition(b"\0")[0].decode("latin-1")
            if word != PNG_XMP and not word.startswith(RAW_PROFILE):
                found.texts.append(word)
        elif name in NAMED_CHUNKS or (name[:2].islower() and name not in ANIMATION):
            # Two small letters first: ancillary and private. A dict keeps the order.
            others[name] = None
    if name != "IEND":
        found.damage.append("no end chunk in the PNG file, which may have been cut")
    _after(file, found)
    head = kept.get("IHDR", b"")
    if len(head) < 13:
        return
    found.bits, colour = head[8], head[9]
    found.grey = colour in (0, 4)
    if colour == 3:
        found.bits = 8
    transparent = kept.get("tRNS", b"")
    if len(transparent) == {0: 2, 2: 6}.get(colour):
        # Stored with 16 bits each, of which the lower `bits` count, as in libpng.
        values = struct.unpack(f">{len(transparent) // 2}H", transparent)
        found.transparent = tuple(value & (2**found.bits - 1) for value in values)
    _png_colours(kept, found)
    across = kept.get("pHYs", b"")
    if len(across) == 9 and across[8] == 0:
        found.aspect = struct.unpack(">II", across[:8])
    if others:
        found.notes.append(f"not kept: PNG chunks {_listed(others)}")


def _png_colours(kept, found):
    """Finds the colour space, by the first there is of cICP, iCCP, sRGB, gAMA/cHRM."""
    points = kept.get("cICP", b"")
    if len(points) == 4:
        _code_points(points[0], points[1], "cICP", found)
        found.overruled = bool(found.colours) and "iCCP" in kept
        return
    if "iCCP" in kept or "sRGB" in kept:
        return
    gamma, white = kept.get("gAMA", b""), kept.get("cHRM", b"")
    gamma = struct.unpack(">I", gamma)[0] / 100000 if len(gamma) == 4 else None
    white = (
        tuple(value / 100000 for value in struct.unpack(">8I", white))
        if len(white) == 32
        else None
    )
    if gamma is None and white is None:
        return
    colours = profiles.of_gamma(gamma, white)
    if colours is None:
        found.notes.append("not kept: impossible gamma or chromaticities")
    elif not colours.srgb:
        found.colours = colours


def _code_points(primaries, transfer, name, found):
    colours = profiles.of_code_points(primaries, transfer)
    if colours is None:
        what = profiles.NAMES.get(transfer, f"primaries {primaries}, curve {transfer}")
        found.notes.append(f"not kept: {name} of {what}, which ICC cannot describe")
    elif not colours.srgb:
        found.colours = colours


# Others --------------------------------------------------------------------------


def _after(file, found):
    """Notes what follows the end of a picture, at the file's position: a video, say."""
    rest = file.read()
    # A motion photo has a video there, in a container of ISO/IEC 14496-12.
    if b"ftyp" in rest:
        found.notes.append(f"not kept: video after the picture, {len(rest)} bytes")
    elif len(rest.strip(b"\0\xff")) > FEW:
        found.notes.append(f"not kept: {len(rest)} bytes after the picture")


def _jpeg(file, found):
    """Notes further pictures in a JPEG (gain maps), and what follows its end."""
    file.seek(0)
    data = file.read()
    several, end = False, 0
    for marker, begin, stop in jpegs.segments(data):
        body = data[begin:stop]
        several |= marker == jpegs.APP2 and body.startswith(b"MPF\0")
        is_map = marker == jpegs.APP1 and b"hdr-gain-map" in body
        if is_map and GAIN_MAP not in found.notes:  # as in Ultra HDR
            found.notes.append(GAIN_MAP)
        end = stop if marker == jpegs.END[1] else 0
    if end and (not several or b"ftyp" in data[end:]):
        file.seek(end)
        _after(file, found)


def _pnm_bits(file):
    """Returns the bits per sample of a PGM or PPM; None if its header is unusual."""
    file.seek(0)
    head = re.sub(rb"#[^\r\n]*", b" ", file.read(4096)).split(None, 4)
    with_size = len(head) > 3 and head[3].isdigit() and len(head[3]) < 6
    return max(int(head[3]).bit_length(), 1) if with_size else None


def _boxes(file, at, end, left):
    """Yields (name, start of its data, end of its data) of boxes, inner ones too.

    `left` is a list of one number, that of boxes that may still be looked at.
    """
    while at + 8 <= end and left[0] > 0:
        left[0] -= 1
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        size, name = struct.unpack(">I4s", head[:8])
        begin = at + 8
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">Q", head[8:])
            begin = at + 16
        stop = end if size == 0 else at + size
        if stop < begin or stop > end:
            return
        if name in BOXES:
            inner = begin + 4 * (name == b"meta")  # its version and flags
            yield from _boxes(file, inner, stop, left)
        else:
            yield name, begin, stop
        at = stop


def _iso(file, found):
    """AVIF, HEIC, JPEG 2000, JPEG XL: depth, colours and XMP."""
    end = file.seek(0, 2)
    bits, points = 0, None
    for name, begin, stop in _boxes(file, 0, end, [MOST_BOXES]):
        if name not in READ_BOXES or stop - begin > LARGEST_BOX:
            continue
        file.seek(begin)
        data = file.read(stop - begin)
        if name == b"pixi" and len(data) > 5:
            bits = max([bits, *data[5 : 5 + data[4]]])
        elif name == b"ihdr" and len(data) > 10 and data[10] < 128:
            bits = max(bits, data[10] + 1)
        elif name == b"bpcc" and data:
            bits = max(1 + depth % 128 for depth in data)
        elif name == b"colr" and data[:4] == b"nclx" and len(data) >= 10:
            points = points or struct.unpack(">HH", data[4:8])
        elif name == b"colr" and data[:1] == b"\2" and len(data) > 131:
            found.profile = data[3:]  # of JPEG 2000
        elif name == b"xml ":  # of JPEG XL, where it holds XMP
            found.xmp = data
        elif name == b"uuid" and data.startswith(XMP_UUID):
            found.xmp = data[16:]
        elif name == b"iinf" and b"tmap" in data:  # ISO 21496-1 and HEIF
            found.notes.append(GAIN_MAP)
        elif name == b"mpvd":
            found.notes.append(f"not kept: video of the picture, {len(data)} bytes")
        elif name == b"brob":
            found.notes.append("not kept: compressed metadata")
    found.bits = bits or None
    if points:
        _code_points(*points, "nclx", found)


def lost(image, found: Facts) -> list[str]:
    """Returns, in words, what will not be kept of an image's file.

    Args:
        image: a loaded Pillow image, with nothing yet removed from its `info`.
        found: what the headers of the file say.
    """
    info, notes = image.info, list(found.notes)
    if found.texts:
        notes.append(f"not kept: text {_listed(dict.fromkeys(found.texts))}")
    profile = RAW_PROFILE + "iptc"
    photoshop = info.get("photoshop") or {}
    if isinstance(photoshop, dict) and photoshop:
        name = "IPTC" if IPTC in photoshop else "Photoshop's resources"
        notes.append(f"not kept: {name}")
    elif profile in info:
        notes.append("not kept: IPTC")
    comment = info.get("comment") or b""
    comment = comment.encode() if isinstance(comment, str) else bytes(comment)
    if comment and not comment.startswith(OPENJPEG):
        notes.append("not kept: comment")
    segments = {
        name: None
        for name, data in getattr(image, "applist", ())
        if not re.match(rb"JFIF|JFXX|Exif\0|http://ns.adobe.com/xap/1.0/\0|"
                        rb"ICC_PROFILE\0|Photoshop 3.0\0|Adobe|MPF\0", data)
        and name != "COM"
    }  # fmt: skip
    if segments:
        notes.append(f"not kept: JPEG segments {_listed(segments)}")
    beside = found.tiff.beside(image) if found.tiff else 0
    if beside > 0:
        notes.append(f"not kept: {beside} more of {found.tiff.samples} samples a pixel")
    if info.get("depth_images") or info.get("aux"):
        notes.append("not kept: depth or other images beside the picture")
    notes += _resolution(image, found)
    return notes


def _resolution(image, found):
    """Notes a resolution that is not kept, unless it is usual, or EXIF has it too."""
    info, dpi, aspect = image.info, image.info.get("dpi"), found.aspect
    if image.format == "TIFF":
        return []  # kept among the tags
    if image.format in ("JPEG", "MPO"):  # whose `dpi` may be EXIF's, or made up
        unit, across = info.get("jfif_unit"), info.get("jfif_density")
        dpi = dpi if unit in (1, 2) else None
        aspect = across if unit == 0 and 0 not in across else None
    data = info.get("exif")
    kept = data and exif.of_bytes(data)
    if kept and {282, 283} <= set(kept.entries):
        return []
    try:
        if dpi and min(dpi) > 0:
            x, y = (round(float(value), 1) for value in dpi)
            if x != y:
                return [f"not kept: resolution of {x:g}x{y:g} dpi: not square pixels"]
            if not any(abs(x - usual) < 0.1 for usual in USUAL_DPI):
                return [f"not kept: resolution of {x:g} dpi"]
        elif aspect and aspect[0] != aspect[1] and min(aspect) > 0:
            ratio = f"{aspect[0]:g}:{aspect[1]:g}"
            return [f"not kept: resolution of {ratio}: not square pixels"]
    except (TypeError, ValueError):
        return ["not kept: resolution"]
    return []


def raw_profiles(info: dict) -> dict[str, bytes]:
    """Returns the metadata in "Raw profile" texts, which ImageMagick writes into PNGs.

    Names are those of `bitstream.METADATA`.

    The text is a newline, a name, the number of bytes, and the bytes in hexadecimal.
    """
    result: dict[str, bytes] = {}
    for word, value in info.items():
        if not (isinstance(word, str) and word.startswith(RAW_PROFILE)):
            continue
        try:
            _, _, digits = str(value).lstrip("\n").split("\n", 2)
            data = bytes.fromhex("".join(digits.split()))
        except ValueError:
            continue
        kind = word[len(RAW_PROFILE) :].lower()
        xap = b"http://ns.adobe.com/xap/1.0/\0"
        if kind == "xmp" or data.startswith(xap):
            result["xmp"] = data.removeprefix(xap)
        elif kind == "exif" or data.startswith(exif.PREFIX):
            result["exif"] = data
        elif kind in ("icc", "icm"):
            result["icc_profile"] = data
    return result
