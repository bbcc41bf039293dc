"""Cuts image files into tiles for training, on all cores, also while files arrive.

A tile is uint8 [side, side, 3] and the extent of the picture in it, int32 [2] (rows,
columns): pictures smaller than a tile fill its upper left corner. Patches are cropped
from tiles, at random, on the device that trains.
"""

from __future__ import annotations

import collections
import logging
import os
import pathlib
import queue
import threading

import numpy as np
from PIL import Image

from tfcodec import console, held_out, images, inputs, workers

# Tiles are handed over in blocks of this many.
BLOCK = 64
# An image is reduced by each of these factors: reduction removes artifacts of JPEG.
SCALES = (1.0, 0.75, 0.5)


def starts(extent: int, side: int, stride: int) -> list[int]:
    """Returns where tiles begin that together cover 0 to `extent`, all in pixels."""
    last = max(0, extent - side)
    return sorted({*range(0, last, stride), last})


def cut(pixels: np.ndarray, side: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts uint8 [h, w, 3] to tiles: (uint8 [n, side, side, 3], extents int32 [n, 2]).

    Tiles begin every `stride` pixels.
    """
    height, width, _ = pixels.shape
    corners = [(r, c) for r in starts(height, side, stride)
               for c in starts(width, side, stride)]  # fmt: skip
    tiles = np.zeros([len(corners), side, side, 3], np.uint8)
    for tile, (row, column) in zip(tiles, corners):
        part = pixels[row : row + side, column : column + side]
        tile[: part.shape[0], : part.shape[1]] = part
    extent = [min(side, height), min(side, width)]
    return tiles, np.tile(np.int32(extent), (len(corners), 1))


def stride_of(side: int, patch: int) -> int:
    """Returns how far apart tiles begin, in pixels.

    Neighbouring tiles overlap by two thirds of (side - patch) pixels.
    """
    return side - (side - patch) * 2 // 3


def tiles_of(path, side: int, patch: int, scales=SCALES):
    """Reads an image file and cuts it to tiles, at several scales.

    Args:
        path: of the file.
        side: of a tile, in pixels.
        patch: side of a patch, in pixels; scales at which the image is smaller than a
            patch are left out.
        scales: factors of reduction.

    Returns:
        (what `cut` returns, what went wrong as a line of text, or "").
    """
    parts = [(np.zeros([0, side, side, 3], np.uint8), np.zeros([0, 2], np.int32))]
    failure = ""
    try:
        pixels = images.read_rgb(path)
        whole = Image.fromarray(pixels)
        for scale in scales:
            size = [round(extent * scale) for extent in whole.size]
            if min(size) < patch:
                continue
            if scale != 1:
                pixels = np.asarray(whole.resize(size, Image.Resampling.LANCZOS))
            parts.append(cut(pixels, side, stride_of(side, patch)))
    except Exception as error:  # Pillow may raise anything on a damaged file.
        failure = console.named(path, error)
    return tuple(np.concatenate(x) for x in zip(*parts)), failure


class Finder:
    """Finds files that are new or have changed since it last looked.

    A file that is still being written will change, and is then found again.

    Args:
        patterns: folders, files and globs.
        side: in pixels, which an image must have at least for `train.py` to validate
            on it; the images that it holds out are left out here. None: no image is
            held out.
    """

    def __init__(self, patterns, side: int | None):
        self.patterns, self.side, self.seen = patterns, side, {}
        self.held = None

    def _present(self) -> list[pathlib.Path]:
        found = set()
        for pattern in self.patterns:  # A folder may be created later.
            try:
                found.update(inputs.find_images([pattern]))
            except (ValueError, OSError) as error:
                logging.debug("%s", error)
        paths = sorted(found)
        if self.side is None or not paths:
            return paths
        if self.held is None:  # What is held out at first stays held out.
            try:
                self.held = set(held_out.split(paths, self.side)[1])
            except ValueError:  # Only one can be read: more may come later.
                return paths
        return [p for p in paths if p not in self.held and not held_out.by_name(p)]

    def new(self) -> list[pathlib.Path]:
        """Returns the files that are new or changed since the last call, sorted."""
        result = []
        for path in self._present():
            try:
                status = os.stat(path)
            except OSError:  # Gone since.
                continue
            stamp = status.st_size, status.st_mtime_ns
            if self.seen.get(path) != stamp:
                self.seen[path] = stamp
                result.append(path)
        return result


class Reader:
    """Reads images to blocks of tiles in the background, also files that come later.

    Use it as a context manager. `blocks` is a queue of (tiles, extents), `BLOCK` of
    each; the last block of a search is filled up with copies.

    Args:
        finder: a `Finder`.
        side, patch, scales: as for `tiles_of`.
        jobs: number of processes.
        seconds: between searches for new files.
        pool: an executor, by default one of `jobs` processes.

    Attributes:
        files, tiles, failed: counts so far, `failed` of files that could not be read.
        searched: event, set once all files of the first search were read.
    """

    def __init__(
        self, finder, side, patch, scales=SCALES, jobs=1, seconds=20.0, pool=None
    ):
        self.finder, self.shape = finder, (side, patch, scales)
        self.jobs, self.seconds, self.pool = jobs, seconds, pool
        self.blocks, self.error = queue.Queue(8), None
        self.files = self.tiles = self.failed = 0
        self.searched, self.stopped = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name="tiles")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join(timeout=10)

    def _run(self):
        try:
            if self.pool:
                return self._search(self.pool)
            with workers.processes(["tiles"], self.jobs) as pools:
                self._search(pools["tiles"])
        except Exception as error:  # `take` raises it.
            self.error = error
        finally:
            self.searched.set()

    def _search(self, pool):
        while not self.stopped.is_set():
            self._read(pool, self.finder.new())
            self.searched.set()
            self.stopped.wait(self.seconds)

    def _read(self, pool, paths):
        """Reads files, a few in advance, and hands over full blocks."""
        running, kept, paths = collections.deque(), None, collections.deque(paths)
        while (running or paths) and not self.stopped.is_set():
            while paths and len(running) < 2 * self.jobs:
                running.append(pool.submit(tiles_of, paths.popleft(), *self.shape))
            parts, failure = running.popleft().result()
            if failure:
                self.failed += 1
                logging.warning("left out: %s", failure)
            self.files += not failure
            self.tiles += len(parts[0])
            if kept:
                parts = tuple(np.concatenate(x) for x in zip(kept, parts))
            whole = len(parts[0]) // BLOCK * BLOCK
            for at in range(0, whole, BLOCK):
                self._hand_over(tuple(x[at : at + BLOCK] for x in parts))
            kept = tuple(x[whole:] for x in parts)
        if kept and len(kept[0]):
            again = np.arange(BLOCK) % len(kept[0])
            self._hand_over(tuple(x[again] for x in kept))

    def _hand_over(self, block):
        while not self.stopped.is_set():
            try:
                return self.blocks.put(block, timeout=0.5)
            except queue.Full:
                pass

    def take(self, wait: bool):
        """Returns a block, or None if none is ready.

        Args:
            wait: whether to wait for a block as long as the first search goes on.

        Raises:
            ValueError: the first search found not a single tile.
        """
        while True:
            if self.error:
                raise self.error
            over = self.searched.is_set()
            try:
                return self.blocks.get(wait, 0.2)
            except queue.Empty:
                if not wait:
                    return None
                if over:
                    patterns = ", ".join(map(str, self.finder.patterns))
                    raise ValueError(
                        f"{patterns}: no readable image of at least {self.shape[1]} "
                        "pixels a side"
                    ) from None
