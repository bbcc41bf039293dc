"""Compares codecs on images: rows, means of each setting, BD-rates.

All codecs have the same two methods, `compress(image, quality)` and
`decompress(data)`; nothing here knows which of them learned. Every figure is that of a
file as it was written, decoded by reading it back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import secrets
import tempfile
import time

import numpy as np

from tfcodec import __version__, classical, metrics, registry

SCHEMA = 1  # of a row; part of a cache entry's key
SWEEP = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".avif"}
PUBLISHED = pathlib.Path(__file__).parent / "published.json"
FIGURES = ("bpp", "ratio", "psnr", "psnr_ycbcr", "ssim", "ms_ssim", "ms_ssim_db")
TIMES = ("encode_seconds", "decode_seconds")


class Ours:
    """A shipped model or a model directory, behind the two methods.

    Raises:
        ValueError: there is no such model.
    """

    def __init__(self, model: str):
        found = registry.resolve(model)
        self.model = model
        # Two directories may hold models of one name: those are called by their paths.
        self.name = model
        self.sweep = (50,) if found.single_rate else SWEEP
        self.single_rate = found.single_rate
        self.settings = {"fingerprint": found.fingerprint.hex()}

    @property
    def version(self) -> str:
        for package in ("tensorflow", "tensorflow-cpu", "tf-nightly"):
            try:
                tensorflow = f"TensorFlow {importlib.metadata.version(package)}"
                break
            except importlib.metadata.PackageNotFoundError:
                tensorflow = "TensorFlow of unknown version"
        return f"tfcodec {__version__}, {tensorflow}"

    def check(self, quality: float) -> float:
        """Returns a quality as `compress` takes it.

        Raises:
            ValueError: it is not from 0 to 100.
        """
        from tfcodec import quality as scale

        level = scale.check(quality)
        if self.single_rate and level != self.sweep[0]:
            raise ValueError(f"{self.name} has a single rate and takes no quality")
        return int(level) if level == int(level) else level

    def compress(self, image: np.ndarray, quality: float) -> bytes:
        from tfcodec import codec

        return codec.compress(image, quality, model=self.model)

    def decompress(self, data: bytes) -> np.ndarray:
        from tfcodec import codec

        return codec.decompress(data, model=self.model)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A codec and the qualities to try."""

    codec: object
    qualities: tuple

    @property
    def name(self) -> str:
        return self.codec.name


def contestant(text: str) -> Contestant:
    """Reads `NAME_OR_DIR` or `NAME_OR_DIR:q=10:30:50`.

    Raises:
        classical.Missing: a codec that is not installed.
        ValueError: no such codec, or no such quality.
    """
    name, colon, listed = text.partition(":q=")
    if name in classical.CODECS:
        codec = classical.find(name)
    else:
        try:
            codec = Ours(name)
        except ValueError as error:
            raise ValueError(
                f"{error}; other codecs are: {', '.join(classical.CODECS)}"
            ) from None
    if not colon:
        return Contestant(codec, codec.sweep)
    try:
        qualities = [float(word) for word in listed.split(":")]
    except ValueError:
        raise ValueError(
            f"{text!r}: qualities are numbers with colons between, as {name}:q=10:30:50"
        ) from None
    return Contestant(codec, tuple(dict.fromkeys(map(codec.check, qualities))))


def contestants(texts: list[str]) -> tuple[list[Contestant], list[str]]:
    """Returns the contestants, and why each missing one is missing.

    Raises:
        ValueError: as `contestant`; one named twice; or none left.
    """
    found, missing = [], []
    for text in texts:
        try:
            found.append(contestant(text))
        except classical.Missing as error:
            missing.append(str(error))
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is named twice; list its qualities: {name}:q=1:2")
    if not found:
        raise ValueError("; ".join(missing) or "no codecs are named")
    return found, missing


def find_images(patterns: list[str]) -> list[pathlib.Path]:
    """Returns the files of paths, folders (to any depth) and globs, each once, sorted.

    Raises:
        ValueError: a pattern finds nothing.
    """
    import glob

    found = set()
    for pattern in patterns:
        path = pathlib.Path(pattern)
        if path.is_file():
            here = [path]
        elif path.is_dir():
            here = [
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES and file.is_file()
            ]
        else:
            names = glob.glob(str(pattern), recursive=True)
            here = [file for file in map(pathlib.Path, names) if file.is_file()]
        if not here:
            raise ValueError(f"{pattern}: no images there")
        found.update(here)
    return sorted(found)


def digest(image: np.ndarray) -> str:
    """SHA-256 of an image's size and pixels, in hexadecimal."""
    start = f"{image.shape[1]}x{image.shape[0]}\n".encode()
    return hashlib.sha256(start + image.tobytes()).hexdigest()


def measure(codec, quality, image: np.ndarray, folder: str) -> dict:
    """Writes a file, reads it, and returns the figures of both.

    A figure is None where it is infinite (equal images) or the image too small for it.
    """
    height, width = image.shape[:2]
    path = os.path.join(folder, secrets.token_hex(8))
    start = time.perf_counter()
    data = codec.compress(image, quality)
    encode_seconds = time.perf_counter() - start
    try:
        with open(path, "wb") as file:
            file.write(data)
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            data = file.read()
    finally:
        if os.path.exists(path):
            os.unlink(path)
    start = time.perf_counter()
    decoded = codec.decompress(data)
    decode_seconds = time.perf_counter() - start
    similarity = _possible(metrics.ms_ssim, image, decoded)
    decibels = None if similarity is None else metrics.decibels(similarity)
    return {
        "bytes": size,
        "bpp": metrics.bits_per_pixel(size, height, width),
        "ratio": height * width * 3 / size,
        "lossless": bool(np.array_equal(image, decoded)),
        "psnr": _finite(metrics.psnr(image, decoded)),
        "psnr_ycbcr": _finite(metrics.psnr_ycbcr(image, decoded)),
        "ssim": _possible(metrics.ssim, image, decoded),
        "ms_ssim": similarity,
        "ms_ssim_db": None if np.array_equal(image, decoded) else _finite(decibels),
        "encode_seconds": encode_seconds,
        "decode_seconds": decode_seconds,
    }


def evaluate(paths, contestants_, read, cache=None, progress=None) -> list[dict]:
    """Returns one row for each image, codec and quality, in that order.

    One file is coded at a time, so that times are sound. Before a codec is timed on an
    image of a new size, it codes one that is not.

    Args:
        paths: of the images.
        contestants_: list of `Contestant`.
        read: path to uint8 [height, width, 3].
        cache: folder that keeps every row, by pixels, codec, version and settings;
            what it holds is not done again.
        progress: called with rows done, rows in all and seconds left (None: unknown).
    """
    total = len(paths) * sum(len(each.qualities) for each in contestants_)
    rows, warm, spent, worked = [], set(), 0.0, 0
    if cache is not None:
        pathlib.Path(cache).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tfcodec-") as folder:
        for path in paths:
            image = read(path)
            sha256 = digest(image)
            for each in contestants_:
                identity = {
                    "schema": SCHEMA,
                    "sha256": sha256,
                    "codec": each.name,
                    "version": each.codec.version,
                    "settings": each.codec.settings,
                }
                for quality in each.qualities:
                    key = {**identity, "quality": quality}
                    figures = _recall(cache, key)
                    if figures is None:
                        start = time.perf_counter()
                        if (each.name, image.shape) not in warm:
                            each.codec.decompress(each.codec.compress(image, quality))
                            warm.add((each.name, image.shape))
                        figures = measure(each.codec, quality, image, folder)
                        _keep(cache, key, figures)
                        spent += time.perf_counter() - start
                        worked += 1
                    size = {"width": image.shape[1], "height": image.shape[0]}
                    where = {"image": os.fspath(path), **size, **key, **figures}
                    rows.append(where)
                    if progress:
                        left = spent / worked * (total - len(rows)) if worked else None
                        progress(len(rows), total, left)
    return rows


def means(rows: list[dict]) -> list[dict]:
    """Means over images of per-image values, one for each codec and quality.

    A figure that one image lacks has no mean.
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["codec"], row["quality"]), []).append(row)
    result = []
    for (codec, quality), group in groups.items():
        mean = {"codec": codec, "quality": quality, "images": len(group)}
        mean["lossless"] = all(row["lossless"] for row in group)
        for figure in (*FIGURES, *TIMES):
            values = [row[figure] for row in group]
            whole = all(value is not None for value in values)
            mean[figure] = math.fsum(values) / len(values) if whole else None
        result.append(mean)
    order = list(dict.fromkeys(row["codec"] for row in rows))
    return sorted(result, key=lambda m: (order.index(m["codec"]), m["bpp"]))


def published(digests) -> list[dict]:
    """Returns the published curves, if they are of images with these digests.

    Raises:
        ValueError: the images are not those.
    """
    data = json.loads(PUBLISHED.read_text("utf-8"))
    about = data["images"]
    both = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
    if both != about["sha256"]:
        raise ValueError(
            f"published curves are of all {about['count']} images of {about['name']}, "
            "each once; these are other images"
        )
    return data["curves"]


def curves(means_: list[dict], published_=()) -> dict[str, dict]:
    """Returns bpp, psnr and ms_ssim_db (lists) of every lossy codec by its name."""
    result = {}
    for mean in means_:
        if mean["psnr"] is not None:
            curve = result.setdefault(
                mean["codec"], {"bpp": [], "psnr": [], "ms_ssim_db": []}
            )
            for figure, values in curve.items():
                values.append(mean[figure])
    for curve in published_:
        similarity = curve["ms_ssim"] or [None] * len(curve["bpp"])
        result[curve["name"]] = {
            "bpp": curve["bpp"],
            "psnr": curve["psnr"],
            "ms_ssim_db": [v if v is None else metrics.decibels(v) for v in similarity],
        }
    return result


def pairs(curves_: dict[str, dict], figure: str = "psnr") -> list[dict]:
    """BD-rate (%) and BD-quality (dB) of every codec against every other.

    None where two curves have no range in common, or too few points.
    """
    result = []
    for anchor, a in curves_.items():
        for test, b in curves_.items():
            if anchor != test and None not in a[figure] + b[figure]:
                both = a["bpp"], a[figure], b["bpp"], b[figure]
                result.append(
                    {
                        "codec": test,
                        "against": anchor,
                        "figure": figure,
                        "bd_rate": _possible(metrics.bd_rate, *both),
                        "bd_quality": _possible(metrics.bd_psnr, *both),
                    }
                )
    return result


def table(means_: list[dict]) -> str:
    """The means as text."""
    head = ("codec", "quality", "bpp", "ratio", "PSNR", "6:1:1", "SSIM", "MS-SSIM")
    lines = [(*head, "dB", "enc s", "dec s")]
    for mean in means_:
        quality = mean["quality"]
        decibels = "equal" if mean["lossless"] else "-"
        lines.append(
            (
                mean["codec"],
                "-" if quality is None else f"{quality:g}",
                f"{mean['bpp']:.4f}",
                f"{mean['ratio']:.1f}",
                _number(mean["psnr"], 2, decibels),
                _number(mean["psnr_ycbcr"], 2, decibels),
                _number(mean["ssim"], 4),
                _number(mean["ms_ssim"], 4),
                _number(mean["ms_ssim_db"], 2, decibels),
                f"{mean['encode_seconds']:.3f}",
                f"{mean['decode_seconds']:.3f}",
            )
        )
    return _columns(lines)


def pair_table(pairs_: list[dict], value: str = "bd_rate") -> str:
    """BD-rates or BD-qualities as a matrix: each line's codec against each column's."""
    names = list(dict.fromkeys(pair["codec"] for pair in pairs_))
    names.sort(key=[p["against"] for p in pairs_].index)
    found = {(p["codec"], p["against"]): p[value] for p in pairs_}
    digits = 1 if value == "bd_rate" else 2
    lines = [("", *(f"[{i + 1}]" for i in range(len(names))))]
    for i, name in enumerate(names):
        cells = [
            "." if name == other else _signed(found.get((name, other)), digits)
            for other in names
        ]
        lines.append((f"[{i + 1}] {name}", *cells))
    return _columns(lines)


def document(rows, means_, pairs_, missing, published_=()) -> dict:
    """All that was found, for JSON."""
    return {
        "schema": SCHEMA,
        "made_with": {
            "tfcodec": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        },
        "averaging": "mean over images of per-image values at a fixed setting",
        "missing": missing,
        "rows": rows,
        "means": means_,
        "bd": pairs_,
        "published": list(published_),
    }


def _finite(value):
    return value if value is not None and math.isfinite(value) else None


def _possible(function, *args):
    try:
        return function(*args)
    except ValueError:
        return None


def _number(value, digits, missing="-"):
    return missing if value is None else f"{value:.{digits}f}"


def _signed(value, digits):
    return "-" if value is None else f"{value:+.{digits}f}"


def _columns(lines):
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = []
    for first, *rest in lines:
        cells = (word.rjust(width) for word, width in zip(rest, widths[1:]))
        text.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(text)


def _entry(cache, key):
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return pathlib.Path(cache) / f"{name}.json"


def _recall(cache, key):
    """Returns what the cache holds for a key; None if nothing, or nothing whole."""
    if cache is None:
        return None
    try:
        found = json.loads(_entry(cache, key).read_text("utf-8"))
        return found["figures"] if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(cache, key, figures):
    if cache is not None:
        path = _entry(cache, key)
        part = path.with_suffix(f".{secrets.token_hex(4)}.part")
        part.write_text(json.dumps({"key": key, "figures": figures}), "utf-8")
        os.replace(part, path)
