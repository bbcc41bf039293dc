"""Pillow as used here: without warnings, and with plugin packages for more formats."""

from __future__ import annotations

import contextlib
import importlib
import threading
import warnings

from tfcodec import bitstream, forks

# Packages that add formats to Pillow -> their modules.
MODULES = {"pillow-jxl-plugin": "pillow_jxl", "pillow-heif": "pillow_heif"}
HEIC_BRANDS = {
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"
}  # fmt: skip
JXL_STARTS = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
JPEG2000_STARTS = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"
# What a format needs, a package of `MODULES` or a feature of Pillow -> the format.
NAMES = {
    "pillow-jxl-plugin": "JPEG XL", "pillow-heif": "HEIC", "avif": "AVIF",
    "jpg_2000": "JPEG 2000", "webp": "WebP",
}  # fmt: skip
# Suffix of a file to write -> what its format needs.
SUFFIXES = {
    ".jxl": "pillow-jxl-plugin", ".avif": "avif", ".webp": "webp",
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "jpg_2000"),
}  # fmt: skip
# Formats that Pillow reads by running another program: Ghostscript, or Windows' own.
PROGRAMS = {"EPS", "WMF"}
LARGEST_TEXT = bitstream.Limits().metadata  # bytes of an ICC profile in a PNG


def load(package: str):
    """Imports a package of `MODULES`, which adds its format to Pillow.

    Raises:
        ImportError: it is not installed.
    """
    plugin = importlib.import_module(MODULES[package])
    if package == "pillow-heif":
        plugin.register_heif_opener()
    return plugin


def missing(need: str) -> str:
    """Returns why a format cannot be used, and what to install; "" if it can.

    Args:
        need: a key of `NAMES`. If it is a package, the package is imported.
    """
    if need in MODULES:
        try:
            load(need)
        except ModuleNotFoundError:
            return f"{NAMES[need]} needs {need}: pip install {need}"
        except ImportError as error:  # It is installed, but not what it needs.
            return f"{NAMES[need]} needs {need}, which fails: {error}"
        return ""
    from PIL import features

    if features.check(need):
        return ""
    return f"{NAMES[need]} needs a Pillow built with it: pip install --upgrade pillow"


def wanted(start: bytes) -> str | None:
    """Returns what a file needs, a key of `NAMES`, by its first 64 bytes, or None.

    In a file of the ISO base format (ISO/IEC 14496-12) all its brands count.
    """
    if start.startswith(JXL_STARTS):
        return "pillow-jxl-plugin"
    if start.startswith(JPEG2000_STARTS):
        return "jpg_2000"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "webp"
    if start[4:8] == b"ftyp":
        size = min(int.from_bytes(start[:4], "big"), len(start))
        brands = {start[8:12], *(start[k : k + 4] for k in range(16, size - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "avif"
        if brands & HEIC_BRANDS:
            return "pillow-heif"
    return None


class _Quiet:
    """Suppresses Pillow's warnings and replaces its limits, while any thread uses it.

    The warnings are about unusual metadata. An ICC profile in a PNG may have as many
    bytes as we keep (Pillow's limit is 1 MiB), and an image as many pixels as the
    highest limit of all threads that use Pillow. Pillow refuses more than twice its
    limit, when it opens a file, and again for images within some files, such as icons.
    """

    def __init__(self):
        self.lock, self.users, self.undo = threading.Lock(), [], None
        forks.renew(self, "lock")

    @contextlib.contextmanager
    def up_to(self, pixels: int):
        """A context for images of at most so many pixels; 0 for any."""
        with self.lock:
            if not self.users:
                self.undo = contextlib.ExitStack()
                self._begin()
            self.users.append(pixels)
            self._limit()
        try:
            yield
        finally:
            with self.lock:
                self.users.remove(pixels)
                if self.users:
                    self._limit()
                else:
                    self.undo.close()

    def _begin(self):
        from PIL import Image, PngImagePlugin

        self.undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for module, name in (
            (PngImagePlugin, "MAX_TEXT_CHUNK"), (Image, "MAX_IMAGE_PIXELS")
        ):  # fmt: skip
            self.undo.callback(setattr, module, name, getattr(module, name))
        PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, LARGEST_TEXT)

    def _limit(self):
        from PIL import Image

        most = 0 if 0 in self.users else max(self.users)
        Image.MAX_IMAGE_PIXELS = (most + 1) // 2 or None


QUIET = _Quiet()
