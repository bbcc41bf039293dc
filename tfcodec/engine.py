"""A model, loaded: what it does to images and files of any size, tile by tile."""

from __future__ import annotations

import collections
import dataclasses
import functools
import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfcodec import (
    bitstream,
    compression,
    forks,
    memory,
    planes,
    quality,
    registry,
    tiling,
)
from tfcodec.bitstream import Chunk, CorruptStream, Header, Limits, UnsupportedStream
from tfcodec.compression import Progress
from tfcodec.tiling import Box

# Of what no stranger made.
UNLIMITED = Limits(*[0] * len(dataclasses.fields(Limits)))


def check_size(image: np.ndarray, max_pixels: int | None = None) -> None:
    """Raises UnsupportedStream if the file of an image would be over the limits."""
    height, width = image.shape[:2]
    layout = planes.LAYOUTS[planes.channels_of(image)]
    tile = tiling.tile_layout(height, width)
    header = Header(b"", width, height, 0, layout, tile)
    bitstream.check_limits(header, Limits().for_pixels(max_pixels))


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
        quality_: float = quality.DEFAULT,
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
        image = planes.checked_image(image)
        layout = planes.LAYOUTS[planes.channels_of(image)]
        compression.steps_of(effort)
        height, width = image.shape[:2]
        header = Header(
            self.model.fingerprint, width, height, quality.check(quality_), layout,
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
        counted = progress and compression.Counted(
            progress, len(self.boxes(header, region))
        )
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
        decoded = compression.side_by_side(lambda k: (k, y_hat(k)[0]), list(order))
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
            yield inner, planes.grey_of(image) if header.mode in ("L", "LA") else image

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
