"""Packages that teach Pillow more formats, loaded when a file needs them."""

from __future__ import annotations

import importlib

MODULES = {"pillow-jxl-plugin": "pillow_jxl", "pillow-heif": "pillow_heif"}
HEIC_BRANDS = {
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"
}  # fmt: skip
JXL_STARTS = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
# By suffix, as a file is not there yet when it is to be written.
SUFFIXES = {
    ".jxl": "pillow-jxl-plugin", ".heic": "pillow-heif", ".heif": "pillow-heif",
    ".hif": "pillow-heif",
}  # fmt: skip
NAMES = {"pillow-jxl-plugin": "JPEG XL", "pillow-heif": "HEIC"}


def load(package: str):
    """Returns the module of a package of `MODULES`, which Pillow then knows.

    Raises:
        ImportError: it is not installed.
    """
    plugin = importlib.import_module(MODULES[package])
    if package == "pillow-heif":
        plugin.register_heif_opener()
    return plugin


def wanted(start: bytes) -> str | None:
    """Returns the package that reads a file, by its first 64 bytes; None: Pillow does.

    Of a file of the ISO base format (ISO/IEC 14496-12) all brands count.
    """
    if start.startswith(JXL_STARTS):
        return "pillow-jxl-plugin"
    if start[4:8] == b"ftyp":
        size = min(int.from_bytes(start[:4], "big"), len(start))
        brands = {start[8:12], *(start[k : k + 4] for k in range(16, size - 3, 4))}
        if brands & HEIC_BRANDS and not brands & {b"avif", b"avis"}:
            return "pillow-heif"
    return None
