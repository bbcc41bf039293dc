"""A loaded model: codes images and decodes files of any size, tile by tile.

One of two engines runs its networks, LiteRT or TensorFlow: see `Engine`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tfcodec import bitstream, compression, planes, quality, registry, tiling
from tfcodec.bitstream import Chunk, CorruptStream, Header, Limits, UnsupportedStream
from tfcodec.compression import Progress
from tfcodec.litert_engine import LiteRTEngine, without_effort
from tfcodec.litert_engine import installed as litert_installed
from tfcodec.tensorflow_engine import TensorFlowEngine
from tfcodec.tiling import Box

NO_TENSORFLOW = "TensorFlow is not installed: pip install 'tfcodec[tensorflow]'"
# For data that this program wrote itself.
UNLIMITED = Limits(*[0] * len(dataclasses.fields(Limits)))


def check_size(image: np.ndarray, max_pixels: int | None = None) -> None:
    """Raises UnsupportedStream if the file of an image would be over the limits."""
    height, width = image.shape[:2]
    layout = planes.layout_of(image)
    tile = tiling.tile_layout(height, width)
    header = Header(b"", width, height, 0, layout, tile)
    bitstream.check_limits(header, Limits().for_pixels(max_pixels))


class Engine(Protocol):
    """Runs the parts of a model on one tile at a time, with NumPy arrays.

    y are latents before the gain of the quality, y_hat decoded latents after it, both
    float32 [1, rows, columns, channels]; quality is 0 to 1. An image is uint8
    [height, width, 3], height and width being multiples of the model's stride.
    """

    name: str  # one of `ENGINES`
    without_effort: str  # why it has no `improver` for the model, or ""

    def check(self) -> None:
        """Raises RuntimeError in a process in which the engine would hang."""

    def analysis(self, image: np.ndarray) -> np.ndarray:
        """Returns y."""

    def improver(self, image: np.ndarray, quality: float):
        """Returns a function that takes a step to lower cost for the latents of image.

        It takes (y, damping) and returns (y after the step, the cost of the y given, in
        bits): see `model.CompressionModel.improve`. With a damping of 0, y stays, which
        may take less time.
        """

    def encode(self, y: np.ndarray, quality: float):
        """Returns (string, decoded y in sixteenths as int32, y_hat)."""

    def decode(self, string: bytes, size: tuple[int, int]):
        """Returns (y in sixteenths as int32, y_hat); size is (height, width) in pixels.

        Raises:
            CorruptStream: no encoder wrote the string.
        """

    def synthesis(self, y_hat: np.ndarray, quality: float) -> np.ndarray:
        """Returns the image that is nearest to the original."""

    def realistic(self, y_hat, quality: float, origin: tuple[int, int]) -> np.ndarray:
        """Returns the image with synthesised texture.

        `origin` is (row, column) of the first latent among those of the whole image.
        """


ENGINES = {"litert": LiteRTEngine, "tensorflow": TensorFlowEngine}


def chosen(model: registry.Model, wanted: str = "auto", effort: int = 0) -> str:
    """Returns the name of the engine that runs a model.

    Args:
        model: the model to run.
        wanted: a name in `ENGINES`; or `auto`, which takes LiteRT if it is installed
            and the model has files for it, with the slopes that an effort needs.
        effort: as for `compress`.

    Raises:
        ValueError: there is no such engine, or it cannot run the model.
    """
    if wanted not in ("auto", *ENGINES):
        raise ValueError(f"engine must be auto, {' or '.join(ENGINES)}, not {wanted!r}")
    names = ["litert", "tensorflow"] if wanted == "auto" else [wanted]
    reasons = []
    for name in names:
        if not (reason := _lacking(name, model, effort)):
            return name
        reasons.append(reason)
    raise ValueError("; ".join(reasons))


def _lacking(name: str, model: registry.Model, effort: int) -> str:
    """Returns why an engine cannot run a model at an effort, or ""."""
    if name == "litert":
        if not model.litert:
            return f"model {model.name} has no LiteRT files: {model.path}"
        if not litert_installed():
            return "LiteRT is not installed: pip install ai-edge-litert"
        return without_effort(model) if effort else ""
    if not model.tensorflow:
        return f"model {model.name} has no SavedModel for TensorFlow: {model.path}"
    return "" if importlib.util.find_spec("tensorflow") else NO_TENSORFLOW


class _Part(NamedTuple):
    """What is synthesised at once: a tile, or what of it lies in the wanted region."""

    inner: Box  # the pixels that are wanted
    outer: Box  # those that are synthesised: with all latents that affect the inner
    tiles: list[int]  # numbers of the tiles that overlap the outer box
    oldest: int  # neither this part nor a later one needs a tile of a lower number


class Codec:
    """A loaded model, with `compress` and `decompress`.

    Args:
        model: a `registry.Model`.
        engine: class of the `Engine` that runs it.

    Attributes:
        engine: the `Engine`.
    """

    def __init__(
        self,
        model: registry.Model,
        engine: Callable[[registry.Model], Engine] = TensorFlowEngine,
    ):
        self.model, self.engine = model, engine(model)

    def realism(self, header: Header, wanted: float | None) -> float:
        """Returns the realism at which to decode a file, 0 to 1.

        Args:
            header: of the file.
            wanted: None for the model's default at the file's quality.

        Raises:
            ValueError: `wanted` is out of range, or above 0 and the model has no second
                synthesis.
        """
        if wanted is None:
            return self.model.default_realism(header.quality)
        wanted = quality.check_realism(wanted)
        if wanted and not self.model.realistic:
            raise ValueError(f"model {self.model.name} has no realism above 0")
        return wanted

    def compress(
        self,
        image: np.ndarray,
        quality_: float | None = None,
        effort: int = 0,
        progress: Progress | None = None,
        *,
        target: quality.Target | None = None,
        alpha_quality: float | None = None,
        metadata: dict[str, bytes | None] | None = None,
        verify: bool = False,
        tile: int | None = None,
    ) -> bytes:
        """See `tfcodec.compress`; but here the size of the image is not limited.

        Args:
            target: in place of a quality.
            metadata: `icc_profile`, `exif` and `xmp`, as bytes.
            tile: side of tiles in pixels, a power of two; 0 for a single tile; by
                default chosen by the size of the image.
        """
        self.engine.check()
        image = planes.checked_image(image)
        layout = planes.layout_of(image)
        if alpha_quality is not None:
            quality.check(alpha_quality, "alpha_quality")
        height, width = image.shape[:2]
        header = Header(
            self.model.fingerprint, width, height, quality.chosen(quality_), layout,
            tiling.tile_layout(height, width, tile),
        )  # fmt: skip
        chunks = bitstream.metadata_chunks(metadata or {})
        colours, alpha = planes.separated(image)
        if alpha is not None:
            chunks += self._alpha_chunks(header, alpha, alpha_quality, verify)
        work = compression.Compression(
            self, header, colours, chunks, effort, progress, verify
        )
        return work.search(target) if target else work.file(header.quality)

    def _alpha_chunks(self, header, alpha, alpha_quality, verify):
        if alpha_quality is None:
            return [Chunk(bitstream.ALPHA, planes.png(alpha))]
        header = dataclasses.replace(header, quality=quality.check(alpha_quality))
        work = compression.Compression(self, header, alpha, [], 0, None, verify)
        level = struct.pack("<H", round(header.quality * 100))
        return [
            Chunk(bitstream.ALPHA_TILE, level + string)
            for string in work.strings(header.quality)
        ]

    def decode(
        self, height: int, width: int, payload: bytes, limits: Limits = UNLIMITED
    ) -> tuple[np.ndarray, np.ndarray]:
        """Entropy decodes a tile.

        Args:
            height, width: of the tile in pixels.
            payload: its string.
            limits: only its limit on escapes counts here.

        Returns:
            (y int32 [1, h, w, c], in sixteenths; y_hat float32 of the same shape).

        Raises:
            CorruptStream: no encoder wrote the string.
            UnsupportedStream: it has more escapes than the limit.
        """
        escapes = int.from_bytes(payload[2:6], "little")  # see docs/format.md
        if limits.escapes and escapes > limits.escapes:
            raise UnsupportedStream(
                f"{escapes} escapes: over the limit of {limits.escapes}"
            )
        size = tiling.padded_size(height, width, self.model.stride)
        return self.engine.decode(payload, size)

    def decompress(
        self,
        header: Header,
        chunks: Sequence[Chunk],
        region: Box | None = None,
        progress: Progress | None = None,
        limits: Limits = UNLIMITED,
        realism: float | None = None,
    ) -> np.ndarray:
        """Returns the image of a file, or a region: see `tfcodec.decompress`."""
        self.engine.check()
        realism = self.realism(header, realism)
        if header.tile_side % self.model.stride:
            raise CorruptStream(f"tiles of {header.tile_side} pixels")
        whole = Box(0, 0, header.height, header.width)
        region = region or whole
        counted = progress and compression.Counted(
            progress, len(self.boxes(header, region))
        )
        image = np.empty((region.height, region.width, len(header.mode)), np.uint8)
        strings = [c.data for c in chunks if c.type == bitstream.TILE]
        for box, pixels in self.pixels(
            header, self._decoder(header, strings, limits), region, realism
        ):
            colours = pixels[..., None] if pixels.ndim == 2 else pixels
            image[box.inside(region)][..., : colours.shape[2]] = colours
            if counted:
                counted()
        if header.alpha:
            self._read_alpha(header, chunks, region, image, limits)
        return image[..., 0] if header.mode == "L" else image

    def _read_alpha(self, header, chunks, region, image, limits):
        lossless = [c.data for c in chunks if c.type == bitstream.ALPHA]
        if lossless:
            alpha = planes.read_png(lossless[0], header.height, header.width)
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
            pixels[pixels <= planes.ALPHA_SNAP] = 0
            pixels[pixels >= 255 - planes.ALPHA_SNAP] = 255
            image[..., -1][box.inside(region)] = pixels

    def _decoder(self, header, strings, limits):
        """Returns a function from the number of a tile to its y_hat."""
        boxes = self.boxes(header)

        def y_hat(k):
            box = boxes[k]
            return self.decode(box.height, box.width, strings[k], limits)[1]

        return y_hat

    def boxes(self, header: Header, region: Box | None = None) -> list[Box]:
        """Returns the tiles of an image, or only those that overlap a region of it."""
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
            y_hat: function from the number of a tile to its y_hat, as `decode` returns.
            region: the pixels that are wanted; None for all.
            realism: 0 for the faithful synthesis, 1 for the realistic one, between
                these the weighted mean of their images.

        Yields:
            (box within the image, its pixels uint8 [h, w, 3], or [h, w] in greyscale).
        """
        boxes, parts = self.boxes(header), self._parts(header, region, realism)
        order = dict.fromkeys(k for part in parts for k in part.tiles)
        decoded = compression.side_by_side(lambda k: (k, y_hat(k)[0]), list(order))
        known: dict[int, np.ndarray] = {}
        fraction = quality.fraction(header.quality)
        grey = header.mode in ("L", "LA")
        for part in parts:
            for old in [k for k in known if k < part.oldest]:
                del known[old]
            while not known.keys() >= set(part.tiles):
                known.update([next(decoded)])
            frame = part.outer.shrunk(self.model.latent_stride)
            values = self._joined(known, boxes, part.tiles, frame)
            image = self._drawn(values, fraction, frame, realism)
            image = image[part.inner.inside(part.outer)]
            yield part.inner, planes.grey_of(image) if grey else image

    def _parts(self, header, region, realism):
        """Returns a `_Part` for each tile that overlaps a region, in order."""
        latent = self.model.latent_stride
        size = tiling.padded_size(header.height, header.width, self.model.stride)
        whole = Box(0, 0, *size)
        side = header.tile_side or max(whole)
        columns = -(-header.width // side)
        halo = self.model.synthesis_reach(realism) * latent
        # No part needs a tile whose number is lower than its own by more than this.
        before = (1 + halo // side) * (columns + 1)
        parts = []
        for number, box in enumerate(self.boxes(header)):
            inner = box & (region or whole)
            if inner:
                outer = inner.aligned(latent).grown(halo) & whole
                tiles = tiling.numbers(outer, side, columns)
                parts.append(_Part(inner, outer, tiles, number - before))
        return parts

    def _joined(self, known, boxes, tiles, frame):
        """Joins the y_hat of tiles to that of a box, [h, w, c].

        Args:
            known: y_hat [h, w, c] of tiles, by their number.
            boxes: all tiles of the image, in pixels.
            tiles: numbers of those that overlap the frame.
            frame: the box, in latents of the image.
        """
        stride, latent = self.model.stride, self.model.latent_stride
        values = np.empty((frame.height, frame.width, self.model.channels), "f4")
        for k in tiles:
            tile = boxes[k].aligned(stride).shrunk(latent)
            common = tile & frame
            values[common.inside(frame)] = known[k][common.inside(tile)]
        return values

    def _drawn(self, values, fraction, frame, realism):
        """Synthesises `values`, the y_hat [h, w, c] at `frame`, a box in latents."""
        if realism < 1:
            faithful = self.engine.synthesis(values[None], fraction)
            if realism == 0:
                return faithful
        origin = (frame.top, frame.left)
        grain = self.engine.realistic(values[None], fraction, origin)
        if realism == 1:
            return grain
        # The best trade of error against realism (Yan et al. 2022, arXiv:2202.01379).
        mean = faithful + np.float32(realism) * (grain.astype(np.float32) - faithful)
        return np.rint(mean).astype(np.uint8)
