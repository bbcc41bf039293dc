"""Photographs of the demo, and the files that codecs make of them (no server).

Nothing is written to disk: the latest files are kept in memory, for the page to fetch.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import math
import secrets
import time

import numpy as np

from tfcodec import (
    bitstream,
    classical,
    codec,
    images,
    metrics,
    pixels,
    quality,
    registry,
    report,
    ssimulacra2,
)

OURS = "tfcodec"
OTHERS = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}  # codec -> its label
SUFFIXES = {OURS: bitstream.SUFFIX, "jpeg": ".jpg", "webp": ".webp", "avif": ".avif"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on what is uploaded to the server, and on what it keeps in memory.

    Args:
        upload: largest image file, in bytes.
        megapixels: of the image that is shown; a larger one is reduced.
        max_pixels: of an image file, as for `images.read`.
        photographs: number that is kept; the oldest is dropped.
        results: number that is kept of each photograph, likewise.
    """

    upload: int = 64_000_000
    megapixels: float = 4.0
    max_pixels: int | None = None
    photographs: int = 3
    results: int = 8


class Photograph:
    """An image, and the files that codecs made of it.

    Args:
        data: an image file.
        name: of the file, for the page and errors.
        limits: see `Limits`.

    Raises:
        ValueError: the file is not an image that can be read.
    """

    def __init__(self, data: bytes, name: str, limits: Limits):
        self.id = secrets.token_urlsafe(12)
        self.name, self.size, self.limits = name, len(data), limits
        self.pixels, self.notes = for_page(
            images.read(io.BytesIO(data), name, limits.max_pixels), limits
        )
        # Name of a result's PNG -> its files by name, for the page to fetch.
        self.results: collections.OrderedDict[str, dict[str, bytes]]
        self.results = collections.OrderedDict()
        self.original = report.png(self.pixels, compress_level=1)
        self.levels: dict[str, float] = {}  # by codec, the quality found last

    def description(self) -> dict:
        """Returns a description of the photograph, for the page."""
        height, width = self.pixels.shape[:2]
        return {
            "id": self.id, "name": self.name, "bytes": self.size, "width": width,
            "height": height, "notes": self.notes, "png": "original.png",
        }  # fmt: skip

    def file(self, name: str) -> bytes | None:
        """Returns a file by its name; None if it does not, or no longer, exist."""
        if name == "original.png":
            return self.original
        found = [files[name] for files in self.results.values() if name in files]
        return found[0] if found else None

    def ours(
        self,
        level: float | None = None,
        max_bytes: float | None = None,
        realism: float | None = None,
    ) -> dict:
        """Compresses by our codec, at a quality or to at most so many bytes.

        It then decompresses at a realism, by default the model's at that quality.

        Returns:
            dict of figures, for the page.

        Raises:
            ValueError: the quality or realism is out of range, or no quality gives so
                few bytes.
        """
        start = time.perf_counter()
        if max_bytes is not None:
            data = codec.compress(self.pixels, max_bytes=max_bytes)
        else:
            data = codec.compress(self.pixels, quality.check(level))
        middle = time.perf_counter()
        decoded = codec.decompress(data, realism=realism)
        seconds = {
            "compress": middle - start, "decompress": time.perf_counter() - middle,
        }  # fmt: skip
        found = bitstream.read_header(data).quality
        if realism is None:
            realism = registry.resolve(registry.DEFAULT).default_realism(found)
        figures = self._figures(OURS, found, data, decoded, realism)
        return {**figures, "seconds": seconds, "realism": realism}

    def theirs(self, name: str, max_bytes: int) -> dict:
        """Compresses by another codec, to its best file of at most so many bytes.

        If it has no file as small, its smallest is taken.

        Returns:
            dict of figures, for the page.

        Raises:
            ValueError: there is no such codec, or it is not installed.
        """
        found, lowest = classical.find(name), classical.find(name).limits[0]
        files = {}

        def size(level):
            whole = max(int(level), lowest)
            if whole not in files:
                files[whole] = found.compress(self.pixels, whole)
            return len(files[whole])

        try:
            level = quality.search(
                quality.Target("bytes", max_bytes), size, self.levels.get(name)
            )
        except quality.OutOfReach:
            level = lowest
        self.levels[name] = level
        level = max(int(level), lowest)
        size(level)
        data = files[level]
        return self._figures(name, level, data, found.decompress(data))

    def _figures(self, name, level, data, decoded, realism=0.0):
        """Keeps a file and the PNG of its decoded image; returns their figures."""
        stem = f"{name}-{level:g}"
        opened = f"-realism-{realism:g}" if realism else ""
        file, png = stem + SUFFIXES[name], f"{stem}{opened}.png"
        self.results[png] = {
            file: data, png: report.png(decoded, compress_level=1)
        }  # fmt: skip
        self.results.move_to_end(png)
        while len(self.results) > self.limits.results:
            self.results.popitem(last=False)
        try:
            score = ssimulacra2.score(self.pixels, decoded)
        except ValueError:  # The picture is too small.
            score = None
        return {
            "codec": name, "quality": level, "bytes": len(data),
            "bpp": metrics.bits_per_pixel(len(data), *self.pixels.shape[:2]),
            "psnr": metrics.finite(metrics.psnr(self.pixels, decoded)),
            "ssimulacra2": score, "file": file, "png": png,
        }  # fmt: skip


def for_page(picture: pixels.Picture, limits: Limits) -> tuple[np.ndarray, list[str]]:
    """Converts an image to what the page shows: sRGB, of at most so many megapixels.

    Returns:
        (uint8 [height, width, 3], notes on what was changed).
    """
    from PIL import Image

    image, notes = Image.fromarray(picture.pixels), picture.notes
    if image.mode.endswith("A"):
        image = pixels.over_white(image, image.mode.removesuffix("A"))
        notes.append("not kept here: alpha; blended with white")
    if "icc_profile" in picture.metadata:
        image = pixels.to_srgb(image, picture)
    largest = limits.megapixels * 1e6
    if image.width * image.height > largest:
        before = f"{image.width}x{image.height}"
        scale = math.sqrt(largest / (image.width * image.height))
        size = [max(1, int(side * scale)) for side in image.size]
        image = image.resize(size, Image.Resampling.LANCZOS)
        notes.append(
            f"reduced from {before} to {size[0]}x{size[1]}: the demo shows "
            f"{limits.megapixels:g} megapixels (--megapixels), the codec takes any size"
        )
    return np.asarray(image.convert("RGB")), notes
