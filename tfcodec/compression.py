"""The compression of one image: computes latents once, codes them at any quality."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfcodec import bitstream, metrics, quality, ssimulacra2, tiling
from tfcodec.bitstream import Chunk
from tfcodec.tiling import Box

# Called as progress(done, total) while an image is coded.
Progress = Callable[[int, int], None]

# Optimisation steps of the latents, by effort 0 to 9.
EFFORTS = (0, 1, 3, 6, 9, 13, 18, 25, 35, 50)

# How many times a search codes all tiles, roughly; for progress.
ROUNDS = 4

# Tiles that are processed at a time; each needs some 150 MB.
WORKERS = 2


class Counted:
    """Each call counts one more of a total and reports (done, total) as progress."""

    def __init__(self, progress, total):
        self.progress, self.total, self.done = progress, total, 0
        self.lock = threading.Lock()

    def __call__(self):
        with self.lock:
            self.done += 1
            if self.done <= self.total:
                self.progress(self.done, self.total)


class Compression:
    """The compression of one image, whose latents are coded at one quality or many.

    Args:
        codec: a `Codec`.
        header: of the file; its quality is not used.
        image: uint8 [h, w] or [h, w, 3].
        chunks: all chunks of the file except the tiles.
        effort, progress, verify: as for `Codec.compress`.

    Raises:
        ValueError: there is an effort, and the engine has none for the model.
    """

    def __init__(self, codec, header, image, chunks, effort, progress, verify):
        self.codec, self.header, self.image = codec, header, image
        self.chunks, self.steps, self.verify = chunks, steps_of(effort), verify
        self.boxes = codec.boxes(header)
        if self.steps and codec.engine.without_effort:
            raise ValueError(codec.engine.without_effort)
        self.progress, self.tick = progress, lambda: None
        self.latents: list = []  # of each tile, in a search; else empty
        self.ended = threading.Event()  # set if no result is wanted any longer
        self.files: dict[float, bytes] = {}  # by quality, in a search
        self.figures: dict[float, float] = {}  # the target's, by quality

    def _expect(self, rounds, optimisations=1):
        """Returns a progress counter.

        Its total is `rounds` calls for each tile, plus those of optimisations.
        """
        steps = optimisations * (self.steps + 1) if self.steps else 0
        total = len(self.boxes) * (rounds + steps)
        return Counted(self.progress, total) if self.progress else lambda: None

    def file(self, level: float) -> bytes:
        """Returns the file at a quality, 0 to 100."""
        return self._packed(level, self.strings(level))

    def strings(self, level: float) -> list[bytes]:
        """Returns the string of each tile at a quality, 0 to 100."""
        self.tick = self._expect(1)

        def string(box):
            y = self._analysed(box, level)
            return self._encode(box, y, level)[0]

        return list(side_by_side(string, self.boxes, self.ended))

    def search(self, target: quality.Target) -> bytes:
        """Returns the file that meets a target.

        Raises:
            OutOfReach: no quality meets the target.
        """
        try:
            return self._search(target)
        except quality.OutOfReach as error:
            if target.figure != "bytes":
                raise
            raise quality.OutOfReach(f"{error}{self._shares()}") from None

    def _shares(self):
        """Returns words on the bytes that no quality changes: alpha and metadata."""
        sizes, words = collections.Counter(), ""
        for chunk in self.chunks:
            sizes[chunk.type] += len(chunk.data)
        if lossless := sizes[bitstream.ALPHA]:
            words += f"; alpha alone takes {lossless} bytes, fewer with alpha_quality"
        if lossy := sizes[bitstream.ALPHA_TILE]:
            words += (
                f"; alpha alone takes {lossy} bytes, fewer at a lower alpha_quality"
            )
        if metadata := sum(sizes[kind] for kind in bitstream.METADATA.values()):
            words += f"; metadata alone takes {metadata} bytes"
        return words

    def _search(self, target):
        single = self.codec.model.single_rate
        self.tick = self._expect(1 + ROUNDS, 1 if single else 2)
        # Latents are optimised for one quality, so not before it is nearly known.
        steps, self.steps = self.steps, 0
        self._analyse(None)
        found = self._searched(target, None)
        plain = self.files[found]
        if not steps:
            return plain
        self.steps, curve = steps, self.figures
        self._analyse(found)
        if not single:
            # Optimised latents have more bytes and a better picture, so another quality
            # meets the target; there they lose half of what they gained.
            value = self._measured(target, found)
            found = quality.nearer(target, found, value, curve)
            self._analyse(found)
        try:
            optimised = self.files[self._searched(target, found)]
        except quality.OutOfReach:  # as bytes can be when there are more of them
            return plain
        # Of files that are as good as asked for, the smaller one.
        same = target.figure != "bytes" and len(plain) < len(optimised)
        return plain if same else optimised

    def _measured(self, target, level):
        """Returns the target's figure at a quality, whose file is then in `files`."""
        strings = [b""] * len(self.boxes)

        def y_hat(k):
            strings[k], _, y_hat = self._encode(self.boxes[k], self.latents[k], level)
            return y_hat

        if target.figure == "bytes":
            for _ in side_by_side(y_hat, range(len(self.boxes))):
                pass
        else:  # It asks for the y_hat of one tile after the other, to save memory.
            figure = self._figure(target.figure, level, y_hat)
        self.files[level] = self._packed(level, strings)
        figure = len(self.files[level]) if target.figure == "bytes" else figure
        self.figures[level] = figure
        return figure

    def _searched(self, target, start):
        """Returns the quality that meets a target, whose file is then in `files`."""

        def measure(level):
            return self._measured(target, level)

        if not self.codec.model.single_rate:
            return quality.search(target, measure, start)
        value = measure(0.0)
        if not target.met(value):
            raise quality.OutOfReach(
                f"model {self.codec.model.name} has one rate, and gives "
                f"{target.says(value)}, not {target.says(target.value)}"
            )
        return 0.0

    def _packed(self, level, strings):
        tiles = [Chunk(bitstream.TILE, string) for string in strings]
        header = dataclasses.replace(self.header, quality=level)
        return bitstream.pack(header, self.chunks + tiles)

    def _figure(self, figure, level, y_hat):
        """Decodes `y_hat` of each tile; returns the target's figure (PSNR, ...).

        It is that of the picture as it is opened where no realism is named.
        """
        header = dataclasses.replace(self.header, quality=level)
        realism = self.codec.realism(header, None)
        parts = self.codec.pixels(header, y_hat, realism=realism)
        if figure == "psnr":
            error = sum(
                metrics.mse(tiling.cut(self.image, box), pixels) * pixels.size
                for box, pixels in parts
            )
            return metrics.psnr_of(error / self.image.size)
        decoded = np.empty_like(self.image)
        whole = Box(0, 0, *self.image.shape[:2])
        for box, pixels in parts:
            decoded[box.inside(whole)] = pixels
        function = {"ms_ssim": metrics.ms_ssim_db, "ssimulacra2": ssimulacra2.score}
        return function[figure](self.image, decoded)

    def _analyse(self, level):
        """Finds the latents of all tiles; with an effort, optimised for a quality.

        The latter takes larger surroundings of a tile: see `_seen`.
        """
        self.files, self.figures = {}, {}
        self.latents = list(
            side_by_side(lambda box: self._analysed(box, level), self.boxes, self.ended)
        )

    def _analysed(self, box, level):
        """Returns y of a tile, optimised if there is an effort."""
        codec = self.codec
        outer, pixels = self._seen(box)
        y = codec.engine.analysis(pixels)
        self.tick()
        if self.steps:
            y = self._improved(pixels, y, level)
        # Latents of the tile, without those of its surroundings.
        latent = codec.model.latent_stride
        inner = box.aligned(codec.model.stride).shrunk(latent)
        rows, columns = inner.inside(outer.shrunk(latent))
        return y[:, rows, columns]

    def _seen(self, box):
        """Returns (box of all pixels that affect a tile's latents, those pixels)."""
        codec, stride = self.codec, self.codec.model.stride
        height, width = self.header.height, self.header.width
        whole = Box(0, 0, *tiling.padded_size(height, width, stride))
        halo = codec.model.reach["analysis"] * codec.model.latent_stride
        outer = box.aligned(stride).grown(halo) & whole
        # An improver runs the coder, which needs multiples of the stride.
        outer = outer.aligned(stride) if self.steps else outer
        pixels = tiling.cut(self.image, outer)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, -1)
        return outer, pixels

    def _improved(self, pixels, y, level):
        """Optimises y step by step; returns the best of all, y itself included."""
        best, least = y, np.inf
        improver = self.codec.engine.improver(pixels, quality.fraction(level))
        for step in range(self.steps + 1):
            # After the last step only its cost is wanted.
            improved, cost = improver(y, damping(step) if step < self.steps else 0.0)
            if cost < least:
                best, least = y, cost
            y = improved
            self.tick()
            if self.ended.is_set():
                break
        return best

    def _encode(self, box, y, level):
        """Encodes y of a tile; returns as `Engine.encode`.

        Raises:
            RuntimeError: `verify` found that the string does not decode to that.
        """
        string, whole, y_hat = self.codec.engine.encode(y, quality.fraction(level))
        if self.latents:
            self.tick()
        if self.verify:
            back, _ = self.codec.decode(box.height, box.width, string)
            if not np.array_equal(back, whole):
                raise RuntimeError("a coded tile does not decode to the same latents")
        return string, whole, y_hat


def side_by_side(
    function: Callable, items: Sequence, ended: threading.Event | None = None
) -> Iterator:
    """Yields `function` of each item, in order, computed by `WORKERS` threads.

    At most a few results are ahead of the caller, to save memory. Two threads help, as
    much of the work on a tile runs on one core only.

    Args:
        function: what to compute.
        items: its arguments.
        ended: is set if a call fails or is interrupted. The others are still waited
            for, but may then return early.
    """
    if len(items) < 2:
        yield from map(function, items)
        return
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > WORKERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            if ended:
                ended.set()
            raise
        finally:
            for each in waiting:
                each.cancel()


def damping(step: int) -> float:
    """Returns which part of a whole Newton step to take, from step 0 on.

    Fitted to held-out photographs: docs/training.md has the figures, under "Effort".
    """
    return 0.2 / (1 + 0.3 * step)


def steps_of(effort: int) -> int:
    """Returns the number of optimisation steps of an effort.

    Raises:
        ValueError: the effort is not a whole number from 0 to 9.
    """
    if effort not in range(len(EFFORTS)):
        raise ValueError(f"effort must be a whole number from 0 to 9, not {effort!r}")
    return EFFORTS[int(effort)]
