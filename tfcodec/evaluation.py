"""Measures codecs on images: a row of figures for each image, codec and quality.

All codecs have the same two methods, `compress(image, quality)` and
`decompress(data)`, and are treated alike, learned or not. All figures are those of a
whole file, and of what decoding it gives.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import hashlib
import importlib
import json
import os
import pathlib
import platform
import sys
import time

import numpy as np

from tfcodec import (
    __version__,
    files,
    metrics,
    ssimulacra2,
    wasserstein,
    workers,
)
from tfcodec.console import Failure

SCHEMA = 3  # version of the entries of a row; part of the key of a cache entry
FIGURES = "bpp ratio psnr psnr_ycbcr ssim ms_ssim ms_ssim_db ssimulacra2".split()
# Figures that depend on the machine and its load.
COSTS = ("encode_seconds", "decode_seconds", "peak_mebibytes")


def digest(image: np.ndarray) -> str:
    """SHA-256 of an image's size and pixels, in hexadecimal."""
    start = f"{image.shape[1]}x{image.shape[0]}\n".encode()
    return hashlib.sha256(start + image.tobytes()).hexdigest()


def measure(codec, quality, image: np.ndarray, timed: bool = True, extra=()) -> dict:
    """Compresses an image to a file, decompresses it, and returns figures by name.

    A figure is None if it is infinite (equal images), if the image lacks it, or if the
    system does not tell it. `lacking` says why an image lacks a figure, for instance
    that it is too small.

    Args:
        codec: with the two methods, see above.
        quality: as the codec takes it.
        image: uint8 [height, width, 3].
        timed: whether to measure `COSTS`; else they are None.
        extra: names of more metrics, as `metric` takes them.

    Raises:
        Failure: a metric of `extra` raised another error than ValueError.
    """
    height, width = image.shape[:2]
    workers.reset_peak()
    start = time.perf_counter()
    data = codec.compress(image, quality)
    encode_seconds = time.perf_counter() - start
    start = time.perf_counter()
    decoded = codec.decompress(data)
    decode_seconds = time.perf_counter() - start
    costs = (encode_seconds, decode_seconds, workers.peak())
    lossless, scores = bool(np.array_equal(image, decoded)), _Scores(image, decoded)
    both = scores.by("ms_ssim", metrics.similarities)
    ssim, similarity = both or (scores.by("ssim", metrics.ssim), None)
    decibels = None if similarity is None else metrics.decibels(similarity)
    return {
        "bytes": len(data),
        "bpp": metrics.bits_per_pixel(len(data), height, width),
        "ratio": height * width * 3 / len(data),
        "lossless": lossless,
        "psnr": metrics.finite(metrics.psnr(image, decoded)),
        "psnr_ycbcr": metrics.finite(metrics.psnr_ycbcr(image, decoded)),
        "ssim": ssim,
        "ms_ssim": similarity,
        "ms_ssim_db": None if lossless else metrics.finite(decibels),
        "ssimulacra2": scores.by("ssimulacra2", ssimulacra2.score),
        "metrics": {text: scores.by_own(text) for text in extra},
        "lacking": scores.lacking,
        **dict(zip(COSTS, costs if timed else [None] * len(COSTS))),
    }


class _Scores:
    """Scores a decoded image; `lacking` says by metric why it has no score."""

    def __init__(self, image, decoded):
        self.pair, self.lacking = (image, decoded), {}

    def by(self, name, function):
        """Returns what a metric returns; None if it raises a ValueError."""
        try:
            return function(*self.pair)
        except ValueError as error:
            self.lacking[name] = str(error)
            return None

    def by_own(self, text):
        """Returns the number of a metric in `extra`; None also if it is infinite."""
        try:
            value = self.by(text, metric(text))
            return None if value is None else metrics.finite(float(value))
        except Exception as error:
            reason = f"metric {text}: {type(error).__name__}: {error}"
            raise Failure(reason) from error


def metric(text: str):
    """Returns a metric by name: a function of two uint8 [height, width, 3].

    Args:
        text: `wasserstein`, or `module:function` of one's own, which gets the image and
            the decoded image, and returns a number. It raises a ValueError for an image
            that it cannot judge. The module may also lie in the current folder.

    Raises:
        ValueError: there is no such function.
    """
    if text == "wasserstein":
        return wasserstein.distortion
    if text == "ssimulacra2":
        raise ValueError("SSIMULACRA2 is always reported; --metric takes others")
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:  # Last, so that it hides no installed module.
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
        if not callable(found):
            raise TypeError("not a function")
        return found
    except Exception as error:  # The module is the user's.
        reason = f"no metric {text!r} ({type(error).__name__}: {error})"
        raise ValueError(f"{reason}; give module:function") from error


def _version_of(text):
    """Returns the name of a metric, and the hash of the module of one's own metric."""
    module = sys.modules.get(getattr(metric(text), "__module__", None))
    file = getattr(module, "__file__", None)
    code = pathlib.Path(file).read_bytes() if file and ":" in text else b""
    return [text, hashlib.sha256(code).hexdigest()] if code else text


def rows_of(image, sha256, each, cache=None, timed=True, extra=(), warm=None):
    """Returns (a row for each quality of a contestant on one image, seconds spent).

    Args:
        image: uint8 [height, width, 3].
        sha256: its `digest`.
        each: the `Contestant`.
        cache, extra: as for `evaluate`.
        timed: whether to measure times and memory.
        warm: set, extended here, of (codec, version, size) that have been coded before,
            and so need not code once to warm up before they are timed.
    """
    warm = set() if warm is None else warm
    identity = {
        "schema": SCHEMA,
        "sha256": sha256,
        "codec": each.name,
        "version": each.codec.version,
        "settings": each.codec.settings,
    }
    if extra:
        identity["metrics"] = [_version_of(text) for text in extra]
    rows, spent = [], 0.0
    for quality in each.qualities:
        key = {**identity, "quality": quality}
        figures = _recall(cache, key)
        if figures is None or (timed and figures["encode_seconds"] is None):
            start = time.perf_counter()
            size = (each.name, each.codec.version, image.shape)
            if timed and size not in warm:
                each.codec.decompress(each.codec.compress(image, quality))
                warm.add(size)
            figures = measure(each.codec, quality, image, timed, extra)
            _keep(cache, key, figures)
            spent += time.perf_counter() - start
        rows.append({**key, **figures})
    return rows, spent


def _work(*args):
    return rows_of(*args, warm=_WARM)


_WARM: set = set()  # `warm` of a worker process of `evaluate`


def evaluate(
    paths, contestants_, read, cache=None, progress=None, jobs=0, extra=()
) -> list[dict]:
    """Returns one row for each image, codec and quality, in that order.

    Before a codec is timed on an image of a new size, it codes the image once untimed.

    Args:
        paths: of the images.
        contestants_: list of `Contestant`.
        read: function from a path to uint8 [height, width, 3].
        cache: folder that keeps every row, by all that affects it; rows in it are not
            computed again, unless they lack times that are wanted now.
        progress: called with (rows done, rows in all, seconds left or None).
        jobs: 1: one file is coded at a time, so that times are reliable, and each codec
            in a process of its own; 0: the same, but all in this process; more: so
            many processes, and rows without times and memory.
        extra: names of more metrics, as `metric` takes them.

    Raises:
        ChildProcessError: a codec crashed its process.
        Failure: a metric of `extra` failed.
    """
    if cache is not None:
        pathlib.Path(cache).mkdir(parents=True, exist_ok=True)
    total = len(paths) * sum(len(each.qualities) for each in contestants_)
    tasks = _Tasks(total, jobs, progress)
    with contextlib.ExitStack() as stack:
        if jobs:
            pools = stack.enter_context(
                workers.processes([each.name for each in contestants_], jobs)
            )
        else:
            pools = {each.name: workers.Here() for each in contestants_}
        work, warm = (_work, ()) if jobs else (rows_of, (set(),))
        for path in paths:
            image = read(path)
            sha256 = digest(image)
            where = {"image": os.fspath(path)}
            where.update(width=image.shape[1], height=image.shape[0])
            for each in contestants_:
                args = (image, sha256, each, cache, jobs < 2, tuple(extra), *warm)
                tasks.add(where, each, pools[each.name].submit(work, *args))
                tasks.collect(2 * jobs if jobs > 1 else 0)
        tasks.collect(0)
    return tasks.rows


class _Tasks:
    """The tasks that `evaluate` gave to processes, oldest first.

    Args:
        total: number of rows in all.
        jobs, progress: as for `evaluate`.

    Attributes:
        rows: those collected so far, in the order of their tasks.
    """

    def __init__(self, total, jobs, progress):
        self.total, self.jobs, self.progress = total, jobs, progress
        self.rows = []
        self.waiting = collections.deque()
        # Seconds spent on rows that were not in the cache, and the number of these.
        self.spent, self.worked = 0.0, 0

    def add(self, where, each, future):
        """Adds a task.

        Args:
            where: entries of its rows that describe the image.
            each: its `Contestant`.
            future: of what `rows_of` returns.
        """
        self.waiting.append((where, each, future))

    def collect(self, most):
        """Collects rows until at most so many tasks are left.

        Raises:
            ChildProcessError: the process of a task died.
            Failure: a metric failed.
        """
        while len(self.waiting) > most:
            where, each, future = self.waiting.popleft()
            try:
                found, seconds = future.result()
            except concurrent.futures.process.BrokenProcessPool:
                raise ChildProcessError(
                    f"{each.name}: its process died at {where['image']}"
                ) from None
            except Failure as error:
                raise Failure(f"{where['image']}: {error}") from error
            self.spent += seconds
            self.worked += len(found) if seconds else 0
            for row in found:
                self.rows.append({**where, **row})
                if self.progress:
                    self.progress(len(self.rows), self.total, self._seconds_left())

    def _seconds_left(self):
        if not self.worked:
            return None
        each = self.spent / self.worked / max(1, self.jobs)
        return each * (self.total - len(self.rows))


def document(rows, means_, pairs_, missing, published_=(), notes=()) -> dict:
    """Returns all results of a comparison, for JSON.

    Args:
        rows: as `evaluate` returns them.
        means_, pairs_: of these rows: see `averages`.
        missing: sentences on the codecs that are not installed.
        published_: the published curves that are compared.
        notes: sentences on the images that figures leave out.
    """
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
        "notes": list(notes),
        "rows": rows,
        "means": means_,
        "bd": pairs_,
        "published": list(published_),
    }


def _entry(cache, key):
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return pathlib.Path(cache) / f"{name}.json"


def _recall(cache, key):
    """Returns the figures that the cache has for a key; None if none, or damaged."""
    if cache is None:
        return None
    try:
        found = json.loads(_entry(cache, key).read_text("utf-8"))
        return found["figures"] if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(cache, key, figures):
    if cache is not None:
        with files.new_file(_entry(cache, key)) as file:
            file.write(json.dumps({"key": key, "figures": figures}).encode())
