"""EXIF and TIFF directories as bytes: reads them, and changes them, losing no tags.

A directory is a list of entries (tag, type, count, value or its position), in EXIF as
in a TIFF file: TIFF 6.0, section 2; BigTIFF has wider fields. Only the values that are
needed are parsed, so that an invalid value of one tag affects no other.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
from typing import BinaryIO

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
THUMBNAIL = (513, 514)  # its position, and its size in bytes
RESOLUTION = (282, 283, 296)  # across, down, unit
# Types of unsigned integers -> (bytes of a value, its letter in `struct`).
INTEGERS = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 16: (8, "Q")}
NUMBERS = {1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 16, 17}  # types of numbers
# Of a directory, and values of a tag: one that has more counts as damaged.
MOST_ENTRIES = 4096


@dataclasses.dataclass
class Directory:
    """A directory of a TIFF file or of EXIF.

    Args:
        order: byte order, as in `struct`: "<" or ">".
        big: whether it is BigTIFF.
        entries: the bytes of each tag's entry, by tag.
    """

    order: str
    big: bool
    entries: dict[int, bytes]
    file: BinaryIO = dataclasses.field(repr=False)
    at: int = 0  # position in the file, in bytes
    after: bytes = b""  # position of the next directory, as stored

    def kind(self, tag: int) -> int | None:
        """Returns the type of a tag's values, None if there is no such tag."""
        entry = self.entries.get(tag)
        return entry and struct.unpack_from(self.order + "H", entry, 2)[0]

    def count(self, tag: int) -> int:
        """Returns the number of values of a tag that there is."""
        return struct.unpack_from(self.order + ("Q" if self.big else "I"),
                                  self.entries[tag], 4)[0]  # fmt: skip

    def numbers(self, tag: int, default: tuple = ()) -> tuple[int, ...]:
        """Returns the values of a tag of unsigned integers, or `default`."""
        if self.kind(tag) not in INTEGERS:
            return default
        size, letter = INTEGERS[self.kind(tag)]
        count, entry = self.count(tag), self.entries[tag]
        start, room = (12, 8) if self.big else (8, 4)
        if not 0 < count <= MOST_ENTRIES:
            return default
        data = entry[start : start + count * size]
        if count * size > room:
            (where,) = struct.unpack_from(
                self.order + ("Q" if self.big else "I"), entry, start
            )
            data = _read_at(self.file, where, count * size)
        if len(data) < count * size:
            return default
        return struct.unpack(f"{self.order}{count}{letter}", data)

    def number(self, tag: int, default: int) -> int:
        """Returns the first value of a tag of unsigned integers, or `default`."""
        return self.numbers(tag, (default,))[0]

    def changed(self, numbers: dict[int, int | None]) -> bytes:
        """Returns the bytes of the file with some tags changed, added or removed.

        Args:
            numbers: the new value of each tag; None removes the tag.
        """
        entries = dict(self.entries)
        wide = "Q" if self.big else "I"
        for tag, value in numbers.items():
            entries.pop(tag, None)
            if value is not None:
                # A single LONG, stored in the entry itself.
                entry = struct.pack(f"{self.order}HH{wide}I", tag, 4, 1, value)
                entries[tag] = entry + bytes(4 if self.big else 0)
        self.file.seek(0)
        data = self.file.read()
        data += bytes(len(data) % 2)
        count = struct.pack(self.order + ("Q" if self.big else "H"), len(entries))
        where = struct.pack(self.order + wide, len(data))
        start = 8 if self.big else 4
        listed = b"".join(entries[tag] for tag in sorted(entries))
        new = count + listed + self.after
        return data[:start] + where + data[start + len(where) :] + new


def directory(file: BinaryIO) -> Directory | None:
    """Returns the first directory of a TIFF file; None if it is damaged or no TIFF."""
    file.seek(0)
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        return None
    (version,) = struct.unpack_from(order + "H", start, 2)
    big = version == 43
    if version not in (42, 43) or (big and len(start) < 16):
        return None
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), start, 8 if big else 4)
    return _directory_at(file, at, order, big)


def _read_at(file, at: int, size: int) -> bytes:
    """Returns up to `size` bytes from a position on; none if it is beyond the end."""
    try:
        file.seek(at)
    except (OverflowError, OSError):  # A BigTIFF has positions of up to 2**64 - 1.
        return b""
    return file.read(size)


def _directory_at(file, at, order, big):
    size, width = (20, 8) if big else (12, 2)
    head = _read_at(file, at, width)
    if len(head) < width:
        return None
    (count,) = struct.unpack(order + ("Q" if big else "H"), head)
    if count > MOST_ENTRIES:
        return None
    data = file.read(count * size)
    if len(data) < count * size:
        return None
    listed = (data[k : k + size] for k in range(0, len(data), size))
    entries = {struct.unpack_from(order + "H", entry)[0]: entry for entry in listed}
    after = file.read(8 if big else 4).ljust(8 if big else 4, b"\0")
    return Directory(order, big, entries, file, at, after)


def bare(exif: bytes) -> bytes:
    """Returns EXIF from its TIFF header on, without the prefix that JPEG needs."""
    return re.sub(b"^(Exif\0\0)+", b"", exif)


def of_bytes(exif: bytes) -> Directory | None:
    """Returns the first directory of EXIF; None if it is damaged."""
    return directory(io.BytesIO(bare(exif)))


def orientation(exif: bytes) -> int:
    """Returns the orientation, 1 (upright) to 8; 1 if EXIF has none."""
    found = of_bytes(exif)
    value = found.number(ORIENTATION, 1) if found else 1
    return value if value in range(1, 9) else 1


def oriented(exif: bytes) -> bool:
    """Whether EXIF has an orientation other than 1 (upright), valid or not."""
    found = of_bytes(exif)
    tags = found.entries if found else {}
    return ORIENTATION in tags and found.number(ORIENTATION, 0) != 1


def without_thumbnail(exif: bytes) -> tuple[bytes, bool]:
    """Returns (EXIF without its thumbnail, whether it had one).

    Everything else keeps its position. The thumbnail is a JPEG that the second
    directory describes: EXIF 2.32, 4.5.4.
    """
    found = of_bytes(exif)
    exif = bare(exif)
    if not found or found.big or not any(found.after):
        return exif, False
    (at,) = struct.unpack(found.order + "I", found.after)
    second = _directory_at(found.file, at, found.order, False)
    begin, size = (second.number(tag, 0) if second else 0 for tag in THUMBNAIL)
    if not begin or not size or begin + size > len(exif):
        return exif, False
    (count,) = struct.unpack_from(found.order + "H", exif, found.at)
    link = found.at + 2 + 12 * count
    exif = exif[:link] + bytes(4) + exif[link + 4 :]
    rest = exif[begin + size :]
    return exif[:begin] + (bytes(size) + rest if rest else b""), True


def upright(exif: bytes) -> bytes:
    """Returns EXIF without its orientation.

    Later entries of the directory move up, but everything else keeps its position, so
    that positions stored in EXIF, such as in a maker's notes, stay right.
    """
    found = of_bytes(exif)
    exif = bare(exif)
    if not found or found.big or ORIENTATION not in found.entries:
        return exif
    (count,) = struct.unpack_from(found.order + "H", exif, found.at)
    begin = found.at + 2
    end = begin + 12 * count
    entries = [exif[k : k + 12] for k in range(begin, end, 12)]
    mark = struct.pack(found.order + "H", ORIENTATION)
    left = [entry for entry in entries if entry[:2] != mark]
    if not left:
        return b""
    after = exif[end : end + 4]  # position of the next directory
    listed = b"".join(left) + after
    listed += bytes(12 * count + len(after) - len(listed))
    head = struct.pack(found.order + "H", len(left))
    return exif[: found.at] + head + listed + exif[end + len(after) :]


def upright_xmp(xmp: bytes) -> bytes:
    """Returns XMP without its orientation."""
    for pattern in (
        rb"""\s+tiff:Orientation\s*=\s*(["'])\s*[0-9]\s*\1""",
        rb"<tiff:Orientation(\s[^<>]*)?>\s*[0-9]\s*</tiff:Orientation\s*>",
    ):
        xmp = re.sub(pattern, b"", xmp)
    return xmp
