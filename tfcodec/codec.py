"""The public face: an array and a quality to bytes, and back.

Needs TensorFlow only, and loads it only when there are pixels to code.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextvars
import dataclasses
import functools
import io
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tfcodec import (
    bitstream,
    forks,
    memory,
    metrics,
    quality,
    registry,
    ssimulacra2,
    tiling,
)
from tfcodec.bitstream import (
    GREY,
    GREY_ALPHA,
    RGB,
    RGBA,
    Chunk,
    CorruptStream,
    Header,
    Limits,
    UnsupportedStream,
)
from tfcodec.tiling import Box

# What loads the codec of a path and a fingerprint, in place of `_loaded`: `pipelines`.
loader = contextvars.ContextVar("loader", default=None)

# Called as progress(done, total) while an image is coded.
Progress = Callable[[int, int], None]

DEFAULT_MODEL = "tfcodec"
DEFAULT_QUALITY = quality.DEFAULT
# Steps that improve the latents, by effort.
EFFORTS = (0, 1, 2, 4, 6, 9, 14, 20, 30, 50)


# Layout of an array by its channels; none is a greyscale image without that axis.
LAYOUTS = {None: GREY, 1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}
# Images of more pixels, padded, are coded in tiles of this side.
UNTILED_PIXELS = 2**21
TILE_SIDE = 1024
# Rounds over the tiles that a search takes, more or less, for progress.
ROUNDS = 4
# Tiles in work at a time, each with some 150 MB of its own.
WORKERS = 2
# Of what no stranger made.
UNLIMITED = Limits(*[0] * len(dataclasses.fields(Limits)))
# Alpha as near as this to transparent or opaque is that, where it is coded with loss.
ALPHA_SNAP = 8


def checked_image(image) -> np.ndarray:
    """Returns `image` as an array, if it is uint8 with pixels, of a known layout.

    Raises:
        TypeError, ValueError: it is not; the message says what it is.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise TypeError(f"an image must be uint8, not {image.dtype}")
    shape = image.shape
    if len(shape) not in (2, 3) or 0 in shape or _channels(image) not in LAYOUTS:
        raise ValueError(
            f"an image must be [height, width] or [height, width, 1 to 4 channels] "
            f"with pixels in it, not {list(shape)}"
        )
    return image


def check_size(image: np.ndarray, max_pixels: int | None = None) -> None:
    """Raises UnsupportedStream if the file of an image would be over the limits."""
    height, width = image.shape[:2]
    layout = LAYOUTS[_channels(image)]
    tile = tile_layout(height, width)
    header = Header(b"", width, height, 0, layout, tile)
    bitstream.check_limits(header, Limits().for_pixels(max_pixels))


def _channels(image):
    return image.shape[2] if image.ndim == 3 else None


class Codec:
    """A model, loaded, with its two verbs.

    Args:
        model: a `registry.Model`.

    Attributes:
        runs: how often each part of the model has run, over pixels or latents of a
            whole image: a Counter of `analysis`, `encode`, `synthesis`.
    """

    def __init__(self, model: registry.Model):
        import tensorflow as tf

        memory.keep_freed()
        self.model = model
        self.tf = tf
        self.parts = self._parts(str(model.path))
        self.runs = collections.Counter()

    @functools.cached_property
    def second(self) -> Callable:
        """The second synthesis, loaded when it is first asked for."""
        return self._parts(str(self.model.realism))["synthesis"]

    def realism(self, header: Header, wanted: float | None) -> float:
        """Returns how realistic the image of a file is drawn, 0 to 1.

        Args:
            header: of the file.
            wanted: None for the model's default at the file's quality.

        Raises:
            ValueError: it is out of range, or the model has no second synthesis.
        """
        if wanted is None:
            return self.model.default_realism(header.quality)
        if not 0 <= wanted <= 1:
            raise ValueError(f"realism must be 0 to 1, not {wanted}")
        if wanted and not self.model.realism:
            raise ValueError(f"model {self.model.name} has no realism above 0")
        return float(wanted)

    def _parts(self, path):
        return self.tf.saved_model.load(path).signatures

    def compress(
        self,
        image: np.ndarray,
        quality_: float = DEFAULT_QUALITY,
        effort: int = 0,
        progress: Progress | None = None,
        *,
        target: quality.Target | None = None,
        alpha_quality: float | None = None,
        metadata: dict[str, bytes | None] | None = None,
        verify: bool = False,
        tile: int | None = None,
    ) -> bytes:
        """See `tfcodec.compress`, but that there is no limit on the size here.

        Args:
            target: in place of a quality.
            metadata: `icc_profile`, `exif` and `xmp`, as bytes.
            tile: side of tiles in pixels, a power of two; 0 for one, by default as
                the size of the image asks for.
        """
        forks.check()
        image = checked_image(image)
        layout = LAYOUTS[_channels(image)]
        steps_of(effort)
        height, width = image.shape[:2]
        header = Header(
            self.model.fingerprint, width, height, quality.check(quality_), layout,
            tile_layout(height, width, tile),
        )  # fmt: skip
        chunks = bitstream.metadata_chunks(metadata or {})
        colours, alpha = separated(image)
        if alpha is not None:
            chunks += self._alpha_chunks(header, alpha, alpha_quality, verify)
        work = _Work(self, header, colours, chunks, effort, progress, verify)
        return work.search(target) if target else work.file(header.quality)

    def _alpha_chunks(self, header, alpha, alpha_quality, verify):
        if alpha_quality is None:
            return [Chunk(bitstream.ALPHA, png(alpha))]
        header = dataclasses.replace(header, quality=quality.check(alpha_quality))
        work = _Work(self, header, alpha, [], 0, None, verify)
        level = struct.pack("<H", round(header.quality * 100))
        return [
            Chunk(bitstream.ALPHA_TILE, level + string)
            for string in work.strings(header.quality)
        ]

    def decode(
        self, height: int, width: int, payload: bytes, limits: Limits = UNLIMITED
    ) -> dict:
        """Entropy decoding of a tile of so many pixels.

        Returns:
            `y` int32 [1, h, w, c], sixteenths, and `y_hat` float32 likewise.

        Raises:
            CorruptStream: the coder did not end as an encoder leaves it.
            UnsupportedStream: over the limit of escapes.
        """
        tf = self.tf
        escapes = int.from_bytes(payload[2:6], "little")  # see `rans`
        if limits.escapes and escapes > limits.escapes:
            raise UnsupportedStream(
                f"{escapes} escapes: over the limit of {limits.escapes}"
            )
        size = tiling.padded_size(height, width, self.model.stride)
        result = self.parts["decode"](
            string=tf.constant(payload), size=tf.constant(size, tf.int32)
        )
        if not result["sound"]:
            raise CorruptStream("the coded pixels are damaged")
        return result

    def decompress(
        self,
        header: Header,
        chunks: Sequence[Chunk],
        region: Box | None = None,
        progress: Progress | None = None,
        limits: Limits = UNLIMITED,
        realism: float | None = None,
    ) -> np.ndarray:
        """Returns the image of a file, uint8, or a region of it: see `decompress`."""
        forks.check()
        realism = self.realism(header, realism)
        if header.tile_side % self.model.stride:
            raise CorruptStream(f"tiles of {header.tile_side} pixels")
        whole = Box(0, 0, header.height, header.width)
        region = region or whole
        counted = progress and _Counted(progress, len(self.boxes(header, region)))
        image = np.empty((region.height, region.width, len(header.mode)), np.uint8)
        strings = [c.data for c in chunks if c.type == bitstream.TILE]
        for box, pixels in self.pixels(
            header, self._decoder(header, strings, limits), region, realism
        ):
            image[box.inside(region)][..., : 1 if pixels.ndim == 2 else 3] = (
                pixels[..., None] if pixels.ndim == 2 else pixels
            )
            if counted:
                counted()
        if header.alpha:
            self._read_alpha(header, chunks, region, image, limits)
        return image[..., 0] if header.mode == "L" else image

    def _read_alpha(self, header, chunks, region, image, limits):
        lossless = [c.data for c in chunks if c.type == bitstream.ALPHA]
        if lossless:
            alpha = read_png(lossless[0], header.height, header.width)
            image[..., -1] = alpha[region.inside(Box(0, 0, *alpha.shape))]
            return
        tiles = [c.data for c in chunks if c.type == bitstream.ALPHA_TILE]
        level = tiles[0][:2]
        if any(tile[:2] != level for tile in tiles) or len(level) != 2:
            raise CorruptStream("alpha of several qualities")
        hundredths = struct.unpack("<H", level)[0]
        if hundredths > quality.STEPS:
            raise CorruptStream(f"alpha of quality {hundredths / 100}")
        plane = dataclasses.replace(
            header, quality=hundredths / 100, layout=bitstream.GREY
        )
        y_hat = self._decoder(plane, [tile[2:] for tile in tiles], limits)
        for box, pixels in self.pixels(plane, y_hat, region):
            pixels[pixels <= ALPHA_SNAP] = 0
            pixels[pixels >= 255 - ALPHA_SNAP] = 255
            image[..., -1][box.inside(region)] = pixels

    def _decoder(self, header, strings, limits):
        """Returns a function from the number of a tile to its y_hat."""
        boxes = self.boxes(header)

        def y_hat(k):
            box = boxes[k]
            result = self.decode(box.height, box.width, strings[k], limits)
            return result["y_hat"].numpy()

        return y_hat

    def boxes(self, header: Header, region: Box | None = None) -> list[Box]:
        """Returns the tiles of an image that meet a region of it."""
        found = tiling.boxes(header.height, header.width, header.tile_side)
        return [box for box in found if region is None or box & region]

    def pixels(
        self,
        header: Header,
        y_hat: Callable[[int], np.ndarray],
        region: Box | None = None,
        realism: float = 0.0,
    ) -> Iterator[tuple[Box, np.ndarray]]:
        """Synthesises an image, or a region of it, tile by tile.

        Args:
            header: of the image.
            y_hat: from the number of a tile to its y_hat, as `decode` has it.
            region: what is wanted.
            realism: 0 for the faithful synthesis, 1 for the realistic one, between for
                the weighted mean of both pictures.

        Yields:
            (part of the image, its pixels uint8 [h, w, 3], or [h, w] in greyscale).
        """
        stride, latent = self.model.stride, self.model.latent_stride
        whole = Box(0, 0, *tiling.padded_size(header.height, header.width, stride))
        region = region or whole
        tiles = self.boxes(header)
        side = header.tile_side or max(whole)
        columns = -(-header.width // side)
        halo = self.model.synthesis_reach(realism) * latent
        before = (1 + halo // side) * (columns + 1)  # as far back as a tile looks

        def surroundings(number):
            """Returns (what is wanted of a tile, what the synthesis sees around it)."""
            inner = tiles[number] & region
            return inner, inner.aligned(latent).grown(halo) & whole

        def neighbours(outer):
            rows = range(outer.top // side, -(-outer.bottom // side))
            return [
                row * columns + column
                for row in rows
                for column in range(outer.left // side, -(-outer.right // side))
            ]

        wanted = [k for k, box in enumerate(tiles) if box & region]
        order = dict.fromkeys(
            k for number in wanted for k in neighbours(surroundings(number)[1])
        )
        decoded = side_by_side(lambda k: (k, y_hat(k)[0]), list(order))
        known: dict[int, np.ndarray] = {}
        fraction = self._fraction(header.quality)
        self.runs["synthesis"] += 1
        for number in wanted:
            for old in [k for k in known if k < number - before]:
                del known[old]
            inner, outer = surroundings(number)
            frame = outer.shrunk(latent)
            values = np.empty((frame.height, frame.width, self.model.channels), "f4")
            for k in neighbours(outer):
                while k not in known:
                    known.update([next(decoded)])
                tile = tiles[k].aligned(stride).shrunk(latent)
                part = tile & frame
                values[part.inside(frame)] = known[k][part.inside(tile)]
            image = self._drawn(values, fraction, frame, realism)[inner.inside(outer)]
            yield inner, grey_of(image) if header.mode in ("L", "LA") else image

    def _drawn(self, values, fraction, frame, realism):
        """Synthesises y_hat [h, w, c] that lies at `frame` of the image's latents."""
        given = {"y_hat": self.tf.constant(values[None]), "quality": fraction}
        if realism < 1:
            faithful = self.parts["synthesis"](**given)["image"].numpy()
            if realism == 0:
                return faithful
        origin = self.tf.constant([frame.top, frame.left])
        grain = self.second(**given, origin=origin)["image"].numpy()
        if realism == 1:
            return grain
        # The best trade of error against realism (Yan et al. 2022, arXiv:2202.01379).
        mean = faithful + np.float32(realism) * (grain.astype(np.float32) - faithful)
        return np.rint(mean).astype(np.uint8)

    def _fraction(self, level):
        return self.tf.constant(quality.fraction(level), self.tf.float32)


class _Counted:
    """Calls a progress function with what is done of a total, one more each time."""

    def __init__(self, progress, total):
        self.progress, self.total, self.done = progress, total, 0
        self.lock = threading.Lock()

    def __call__(self):
        with self.lock:
            self.done += 1
            if self.done <= self.total:
                self.progress(self.done, self.total)


class _Work:
    """The compression of one image: its latents, known once, coded at any quality.

    Args:
        codec: a `Codec`.
        header: of the file, but for the quality.
        image: uint8 [h, w] or [h, w, 3].
        chunks: of the file, but for the tiles.
        effort, progress, verify: as `Codec.compress`.
    """

    def __init__(self, codec, header, image, chunks, effort, progress, verify):
        self.codec, self.header, self.image = codec, header, image
        self.chunks, self.steps, self.verify = chunks, steps_of(effort), verify
        self.boxes = codec.boxes(header)
        if self.steps and "improve" not in codec.parts:
            raise ValueError(f"model {codec.model.name} has no effort above 0")
        self.progress = progress
        self.latents: list = []  # of each tile, where they are kept
        self.files: dict[float, bytes] = {}  # by quality

    def _expect(self, rounds):
        """Makes a progress bar for so many rounds over the tiles, and improvements."""
        total = len(self.boxes) * (rounds + (self.steps and self.steps + 1))
        return _Counted(self.progress, total) if self.progress else lambda: None

    def file(self, level: float) -> bytes:
        return self._packed(level, self.strings(level))

    def strings(self, level: float) -> list[bytes]:
        """Returns what each tile is coded as."""
        self.codec.runs["analysis"] += 1
        self.tick = self._expect(1)
        self.codec.runs["encode"] += 1

        def string(box):
            y = self._analysed(box, level)
            return self._encode(box, y, level)["string"].numpy()

        return list(side_by_side(string, self.boxes))

    def search(self, target: quality.Target) -> bytes:
        """Returns the file that meets a target.

        Raises:
            OutOfReach: there is none.
        """
        self.tick = self._expect(1 + ROUNDS)
        # Effort needs a quality, so it comes when that is nearly known.
        steps, self.steps = self.steps, 0
        self.codec.runs["analysis"] += 1
        self.latents = self._all_analysed(None)
        found = self._searched(target, None)
        if steps:
            self.steps, self.files = steps, {}
            self.codec.runs["analysis"] += 1  # of a little more around each tile
            self.latents = self._all_analysed(found)
            found = self._searched(target, found)
        return self.files[found]

    def _searched(self, target, start):
        def measure(level):
            self.codec.runs["encode"] += 1
            strings = [b""] * len(self.boxes)

            def y_hat(k):
                result = self._encode(self.boxes[k], self.latents[k], level)
                strings[k] = result["string"].numpy()
                return result["y_hat"].numpy()

            if target.figure == "bytes":
                for _ in side_by_side(y_hat, range(len(self.boxes))):
                    pass
            else:  # y_hat of all tiles at once would be large
                figure = self._figure(target.figure, level, y_hat)
            self.files[level] = self._packed(level, strings)
            return len(self.files[level]) if target.figure == "bytes" else figure

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
        """The figure of a target of the image that `y_hat` of each tile gives."""
        header = dataclasses.replace(self.header, quality=level)
        parts = self.codec.pixels(header, y_hat)
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

    def _all_analysed(self, level):
        return list(side_by_side(lambda box: self._analysed(box, level), self.boxes))

    def _analysed(self, box, level):
        """Returns y of a tile, improved if there is effort."""
        codec = self.codec
        outer, pixels = self._seen(box)
        y = codec.parts["analysis"](image=pixels)["y"]
        self.tick()
        if self.steps:
            y = self._improved(pixels, y, level)
        # Those of the tile, without its surroundings.
        latent = codec.model.latent_stride
        inner = box.aligned(codec.model.stride).shrunk(latent)
        rows, columns = inner.inside(outer.shrunk(latent))
        return y[:, rows, columns]

    def _seen(self, box):
        """Returns (a tile and what the analysis sees around it, the pixels there)."""
        codec, stride = self.codec, self.codec.model.stride
        height, width = self.header.height, self.header.width
        whole = Box(0, 0, *tiling.padded_size(height, width, stride))
        halo = codec.model.reach["analysis"] * codec.model.latent_stride
        outer = box.aligned(stride).grown(halo) & whole
        # The coder of `improve` wants whole strides.
        outer = outer.aligned(stride) if self.steps else outer
        pixels = tiling.cut(self.image, outer)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, -1)
        return outer, codec.tf.constant(pixels)

    def _improved(self, pixels, y, level):
        """Returns the best of some improvements of y, and y itself."""
        codec = self.codec
        best, least = y, np.inf
        for step in range(self.steps + 1):
            damping = codec.tf.constant(0.3 / (1 + 0.1 * step), codec.tf.float32)
            result = codec.parts["improve"](
                image=pixels, y=y, quality=codec._fraction(level), damping=damping
            )
            if result["cost"] < least:
                best, least = y, float(result["cost"])
            y = result["y"]
            self.tick()
        return best

    def _encode(self, box, y, level):
        codec = self.codec
        result = codec.parts["encode"](y=y, quality=codec._fraction(level))
        if self.latents:
            self.tick()
        if self.verify:
            string = result["string"].numpy()
            back = codec.decode(box.height, box.width, string)["y"]
            if not np.array_equal(back, result["y"]):
                raise RuntimeError("what was coded does not decode to what it was")
        return result


def side_by_side(function: Callable, items: Sequence) -> Iterator:
    """Yields `function` of each item, in order, some at a time and few ahead.

    Much of a tile's time is spent on one core, whatever TensorFlow has.
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
        finally:
            for each in waiting:
                each.cancel()


def separated(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (colours [h, w] or [h, w, 3], alpha [h, w] or None) of an image.

    Colours that no one can see become what costs least: the mean of the visible ones
    of the cell of 16x16 pixels, or of those around where a cell has none.
    """
    channels = _channels(image)
    if channels in (None, 3):
        return image, None
    if channels == 1:
        return image[..., 0], None
    alpha = np.ascontiguousarray(image[..., -1])
    colours = image[..., :-1]
    hidden = alpha == 0
    if hidden.any():
        colours = np.where(hidden[..., None], cell_means(colours, ~hidden), colours)
    return (colours if channels == 4 else colours[..., 0]), alpha


def cell_means(colours: np.ndarray, visible: np.ndarray, side: int = 16) -> np.ndarray:
    """Returns uint8 [h, w, c]: means over cells of the visible pixels.

    A cell without any takes the mean over cells twice as large, and so on.
    """
    height, width = visible.shape
    size = tiling.padded_size(height, width, side)
    more = ((0, size[0] - height), (0, size[1] - width))

    def sums(values):
        # One row of cells at a time: floats of a whole image would be large.
        padded = np.pad(values, more)
        rows = (
            padded[top : top + side].reshape(side, -1, side).sum((0, 2), np.float64)
            for top in range(0, size[0], side)
        )
        return np.stack(list(rows))

    count = sums(visible)
    total = np.stack(
        [sums(colours[..., c] * visible) for c in range(colours.shape[-1])], -1
    )

    def filled(total, count):
        mean = total / np.maximum(count, 1)[..., None]
        if count.all() or count.size == 1:
            return mean
        height, width = count.shape
        even = ((0, height % 2), (0, width % 2))
        halves = [np.pad(x, even + ((0, 0),) * (x.ndim - 2)) for x in (total, count)]
        halves = [
            x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, *x.shape[2:]).sum((1, 3))
            for x in halves
        ]
        coarse = filled(*halves).repeat(2, 0).repeat(2, 1)[:height, :width]
        return np.where(count[..., None] > 0, mean, coarse)

    means = np.round(filled(total, count)).astype(np.uint8)
    return means.repeat(side, 0).repeat(side, 1)[:height, :width]


def grey_of(image: np.ndarray) -> np.ndarray:
    """Returns the mean of the colours of uint8 [h, w, 3], rounded."""
    return ((image.sum(-1, dtype=np.uint16) + 1) // 3).astype(np.uint8)


def png(alpha: np.ndarray) -> bytes:
    """Returns uint8 [h, w] as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(alpha).save(file, "PNG", optimize=True)
    return file.getvalue()


# The signature, and the chunk that says the size: 8 bits, grey.
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
GREY_8 = b"\x08\0"


def read_png(data: bytes, height: int, width: int) -> np.ndarray:
    """Reads what `png` wrote, if it is of that size.

    Raises:
        CorruptStream: it is not.
    """
    from PIL.PngImagePlugin import PngImageFile

    try:
        # Opened so, Pillow has no limit of its own: the size is that of the header.
        with PngImageFile(io.BytesIO(data)) as image:
            if image.size != (width, height) or data[24:26] != GREY_8:
                raise ValueError(f"{image.size}, {image.mode}")
            return np.asarray(image)
    except Exception as error:  # Pillow's readers raise SyntaxError, struct.error, ...
        raise CorruptStream(f"damaged alpha: {error}") from None


def tile_layout(height: int, width: int, side: int | None = None) -> int:
    """Returns what a header says of tiles, for tiles of a side or those of the size.

    Raises:
        ValueError: the side is no power of two from 64 on.
    """
    if side is None:
        # A thin image is coded as one as wide as the padding.
        rows, columns = tiling.padded_size(height, width, bitstream.PADDED)
        side = TILE_SIDE if rows * columns > UNTILED_PIXELS else 0
    if not side:
        return bitstream.ONE_TILE
    layout = side.bit_length() - 6
    if not (1 <= layout < 16 and 64 << (layout - 1) == side):
        raise ValueError(f"tiles must have a side of 64, 128, 256, ..., not {side}")
    return layout


def steps_of(effort: int) -> int:
    """Returns the steps of an effort.

    Raises:
        ValueError: not a whole number from 0 to 9.
    """
    if effort not in range(len(EFFORTS)):
        raise ValueError(f"effort must be a whole number from 0 to 9, not {effort!r}")
    return EFFORTS[int(effort)]


_loading = threading.Lock()


@functools.lru_cache(maxsize=4)
def _loaded(path: str, fingerprint: bytes) -> Codec:
    # Loaded again where a directory holds another model than it did.
    return Codec(registry.Model.at(path))


def loaded(model: registry.Model) -> Codec:
    """Returns the codec of a model, loaded once.

    Raises:
        RuntimeError: this process was forked from one in which TensorFlow has run.
    """
    forks.check()
    with _loading:
        return (loader.get() or _loaded)(str(model.path), model.fingerprint)


def load(model: str | os.PathLike = DEFAULT_MODEL) -> Codec:
    """Returns the codec of a shipped model or a model directory, loaded once.

    Raises:
        ValueError: there is no such model.
    """
    return loaded(registry.resolve(model))


def compress(
    image: np.ndarray,
    quality: float = DEFAULT_QUALITY,
    model: str | os.PathLike = DEFAULT_MODEL,
    effort: int = 0,
    progress: Progress | None = None,
    *,
    max_bytes: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    target_msssim: float | None = None,
    target_ssimulacra2: float | None = None,
    alpha_quality: float | None = None,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    verify: bool = False,
    max_pixels: int | None = None,
) -> bytes:
    """Compresses an image.

    Not in a process forked from one in which TensorFlow has run: start workers by
    "spawn". That raises a RuntimeError, as TensorFlow would wait for ever.

    Args:
        image: uint8 [height, width, 3], RGB, any size from 1x1; or [height, width] or
            [height, width, 1], greyscale; 2 channels are greyscale and alpha, 4 are RGB
            and alpha. Larger ones than 2 megapixels are coded in tiles, in little more
            memory than one of those.
        quality: 0 (smallest) to 100 (best), in steps of a hundredth. A model trained
            for one rate ignores it.
        model: name of a shipped model, or a directory that `train.py` exported.
        effort: 0 to 9; from 1 on, the latents of this image are improved step by step
            against the decoder's own error, which takes longer and makes files smaller
            for what they show. Decoding is the same.
        progress: called as progress(done, total) as the work goes on.
        max_bytes: in place of a quality, the largest size of the file in bytes.
        target_bpp: likewise, in bits per pixel of the image.
        target_psnr: in place of a quality, the least PSNR in dB over all pixels; where
            there is alpha, over those that can be seen, and what stands for the others.
        target_msssim: likewise the least MS-SSIM, 0 to 1. It holds the whole image
            as floats for a while.
        target_ssimulacra2: likewise the least SSIMULACRA2, up to 100, with as much
            memory: 50 is medium quality, 70 high, 90 visually lossless.
        alpha_quality: 0 to 100 for alpha that loses something; by default none is lost.
        icc_profile, exif, xmp: kept in the file as they are; EXIF from its TIFF
            header on.
        verify: decode what was coded, and compare.
        max_pixels: width times height that is taken, 0 for any; by default what
            `Limits` allow, so that all can read the file.

    Returns:
        A whole `.tfc` file.

    Raises:
        TypeError, ValueError: the image, quality, model or effort is not as above.
        OutOfReach: (a ValueError) no quality meets the target.
        RuntimeError: what was coded did not decode, which only `verify` looks at; or
            the process was forked, see above.
    """
    image = checked_image(image)
    check_size(image, max_pixels)
    target = target_of(
        image.shape, max_bytes, target_bpp, target_psnr, target_msssim,
        target_ssimulacra2,
    )  # fmt: skip
    return load(model).compress(
        image, quality, effort, progress, target=target, alpha_quality=alpha_quality,
        metadata={"icc_profile": icc_profile, "exif": exif, "xmp": xmp}, verify=verify,
    )  # fmt: skip


def target_of(
    shape: Sequence[int],
    max_bytes: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    target_msssim: float | None = None,
    target_ssimulacra2: float | None = None,
) -> quality.Target | None:
    """Returns the target for an image of a shape that `compress` is asked for, if any.

    Raises:
        ValueError: there are several, or it makes no sense.
    """
    given = {
        "max_bytes": max_bytes, "target_bpp": target_bpp, "target_psnr": target_psnr,
        "target_msssim": target_msssim, "target_ssimulacra2": target_ssimulacra2,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"one target at a time, not {' and '.join(given)}")
    for name, value in given.items():
        end = {"target_msssim": 1, "target_ssimulacra2": 100}.get(name, float("inf"))
        if not 0 < value < end:
            raise ValueError(
                f"{name} out of range: it is above 0 and below {end:g}, not {value}"
            )
        if name == "max_bytes":
            return quality.Target("bytes", int(value))
        if name == "target_bpp":
            return quality.Target("bytes", int(value * shape[0] * shape[1] / 8) or 1)
        if name == "target_psnr":
            return quality.Target("psnr", value)
        if name == "target_ssimulacra2":
            return quality.Target("ssimulacra2", value)
        return quality.Target("ms_ssim", metrics.decibels(value))
    return None


def decompress(
    data: bytes,
    model: str | os.PathLike | None = None,
    limits: Limits = Limits(),  # noqa: B008
    *,
    crop: tuple[int, int, int, int] | None = None,
    progress: Progress | None = None,
    realism: float | None = None,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Decompresses a `.tfc` file.

    Not in a process forked from one in which TensorFlow has run: see `compress`.

    The shipped model whose fingerprint the file holds is used; `model` may name one
    more to look at. Limits are checked before any model is loaded.

    Args:
        data: the file's bytes.
        model: a model directory, for files made with a model that is not shipped.
        limits: what a file may ask for.
        crop: (x, y, width, height) in pixels of what is wanted; only the tiles it
            needs are decoded.
        progress: called as progress(done, total), in tiles.
        realism: how much of the grain of hair, skin or grass, which a file has no room
            for, is drawn as it is likely to have been: 0, none, which is nearest to the
            original in every pixel, to 1. By default what the model's card says for the
            file's quality. Use 0 for evidence, medicine and measurement.
        max_pixels: width times height in place of that of `limits`, 0 for any.

    Returns:
        uint8 [height, width, 3], RGB; or as the file has it, [height, width] greyscale,
        [height, width, 2] greyscale and alpha, [height, width, 4] RGB and alpha.

    Raises:
        CorruptStream: the file is damaged.
        UnsupportedStream: it is whole, but of another version or model, or too large.
        ValueError: the crop is not within the image; the realism is out of range, or
            the model has only one synthesis.
        RuntimeError: the process was forked, see above.
    """
    limits = limits.for_pixels(max_pixels)
    header, chunks = bitstream.unpack(bytes(data), limits)
    region = region_of(header, crop)
    extra = None if model is None else registry.resolve(model)
    found = registry.find(header.fingerprint, extra)
    codec = loaded(found)
    return codec.decompress(header, chunks, region, progress, limits, realism)


def region_of(header: Header, crop: Sequence[int] | None) -> Box | None:
    """Returns (x, y, width, height) as a box.

    Raises:
        ValueError: it has no pixels, or is not within the image.
    """
    if crop is None:
        return None
    x, y, width, height = (int(value) for value in crop)
    box = Box(y, x, y + height, x + width)
    if not box or box & Box(0, 0, header.height, header.width) != box:
        raise ValueError(
            f"crop {x},{y},{width},{height} is not within an image of "
            f"{header.width}x{header.height}"
        )
    return box


def metadata(
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008
    *,
    max_pixels: int | None = None,
) -> dict[str, bytes]:
    """Returns what a file holds of `icc_profile`, `exif` and `xmp`.

    Args:
        data: the file's bytes.
        limits: what a file may ask for.
        max_pixels: as of `decompress`.

    Raises:
        StreamError: as `decompress`.
    """
    limits = limits.for_pixels(max_pixels)
    return bitstream.metadata(bitstream.unpack(bytes(data), limits)[1], limits)


def compress_batch(images: Iterable[np.ndarray], *args, **settings) -> list[bytes]:
    """Compresses images, of one size or of many.

    Args:
        images: an array [batch, height, width, channels], or arrays of their own sizes.
        *args, **settings: as of `compress`, the same for all.

    Raises:
        TypeError, ValueError: as `compress`, naming the image by its number.
    """
    files = []
    for number, image in enumerate(images):
        try:
            files.append(compress(image, *args, **settings))
        except (TypeError, ValueError) as error:
            raise type(error)(f"image {number}: {error}") from None
    return files


def decompress_batch(files: Iterable[bytes], *args, **settings) -> list[np.ndarray]:
    """Decompresses files, each to an array of its own size.

    Args:
        files: their bytes.
        *args, **settings: as of `decompress`, the same for all.

    Raises:
        StreamError: as `decompress`, naming the file by its number.
    """
    images = []
    for number, data in enumerate(files):
        try:
            images.append(decompress(data, *args, **settings))
        except ValueError as error:
            raise type(error)(f"file {number}: {error}") from None
    return images


def info(
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008
    *,
    max_pixels: int | None = None,
) -> dict:
    """Says what a `.tfc` file is, without decoding it or loading TensorFlow.

    Args:
        data: the file's bytes.
        limits: what a file may ask for.
        max_pixels: as of `decompress`.

    Returns:
        dict of version, model (name, or None if it is not shipped), fingerprint,
        width, height, mode (Pillow's: RGB, L, RGBA, LA), quality, realism (at which it
        is opened unless one is named; None if the model is not shipped), tiles, bytes,
        bpp, ratio (to 8 bits for each channel) and chunks (type and bytes of each).

    Raises:
        StreamError: as `decompress`.
    """
    data = bytes(data)
    header, chunks = bitstream.unpack(data, limits.for_pixels(max_pixels))
    try:
        model = registry.find(header.fingerprint)
    except bitstream.UnsupportedStream:
        model = None
    return {
        "version": bitstream.VERSION,
        "model": model and model.name,
        "fingerprint": header.fingerprint.hex(),
        "width": header.width,
        "height": header.height,
        "mode": header.mode,
        "quality": header.quality,
        "realism": model and round(model.default_realism(header.quality), 3),
        "tiles": header.tiles,
        "bytes": len(data),
        "bpp": metrics.bits_per_pixel(len(data), header.height, header.width),
        "ratio": header.height * header.width * len(header.mode) / len(data),
        "chunks": [{"type": c.type, "bytes": len(c.data)} for c in chunks],
    }
