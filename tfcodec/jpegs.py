"""Repairs JPEG files that lack only the end marker, their last two bytes."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

START, SCAN, END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
APP1, APP2 = 0xE1, 0xE2
# Appended to a file that lacks pixels, these bytes change the decoded image.
OTHER = b"\x5a\xa5\x3c\x96" * 16
NOTE = "no end marker in the JPEG file, which may have been cut"


def segments(data: bytes):
    """Yields (marker, start of its data, end of its data) of a JPEG file.

    These are the segments before the coded pixels, and the end marker. Coded pixels
    cannot contain that marker (T.81, B.1.1.5); those within segments, as of a
    thumbnail, are skipped.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        begin = at + 4
        at += 2 + int.from_bytes(data[at + 2 : begin], "big")
        yield marker, begin, at
        if marker == SCAN[1]:
            end = data.find(END, at)
            if end >= 0:
                yield END[1], end + len(END), end + len(END)
            return


def whole(file: BinaryIO) -> tuple[BinaryIO, list[str]]:
    """Returns (what to read in place of an image file, notes).

    That is the file itself, unless it is a JPEG that has all pixels but no end marker,
    as some cameras write; then it is a copy with one. If pixels are missing, the result
    of a decoder depends on the bytes appended. Then the file is returned unchanged, so
    that reading it fails as truncated.

    Raises:
        OSError: the file cannot be read.
    """
    data = _without_end(file)
    if data is None:
        return file, []
    last, other = (_pixels(data + more + END) for more in (b"", OTHER))
    if last is None or last != other:
        return file, []
    return io.BytesIO(data + END), [NOTE]


def _without_end(file):
    """Returns the bytes of a JPEG that has no end marker; None of all other files."""
    begin = file.tell()
    try:
        if file.read(len(START)) != START:
            return None
        size = file.seek(0, os.SEEK_END)
        # Bytes may follow the marker, such as data of the camera. The end marker of a
        # thumbnail comes before the scan, and coded pixels contain neither marker.
        file.seek(max(begin, size - 2**16))
        last = file.read()
        if last.rfind(END) > last.rfind(SCAN):
            return None
        file.seek(begin)
        data = file.read()
        # What follows the marker may be long, such as the video of a moving photograph.
        if any(marker == END[1] for marker, _, _ in segments(data)):
            return None
        return data.rstrip(END[:1])  # half of a marker
    finally:
        file.seek(begin)


def _pixels(data):
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return image.tobytes()
    except Exception:  # Pillow's readers raise SyntaxError, struct.error, ...
        return None
