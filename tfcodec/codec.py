"""The public face: an array and a quality to bytes, and back.

Needs TensorFlow only, and loads it only when there are pixels to code.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import numpy as np

from tfcodec import bitstream, metrics, quality, registry, tiling
from tfcodec.bitstream import Chunk, CorruptStream, Header, Limits

DEFAULT_MODEL = "tfcodec"
DEFAULT_QUALITY = 50.0
# Steps that improve the latents, by effort.
EFFORTS = (0, 1, 2, 4, 6, 9, 14, 20, 30, 50)


def checked_image(image) -> np.ndarray:
    """Returns `image` as an array, if it is uint8 [height, width, 3] with pixels.

    Raises:
        TypeError, ValueError: it is not; the message says what it is.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise TypeError(f"an image must be uint8, not {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"an image must be [height, width, 3] with pixels in it, not "
            f"{list(image.shape)}"
        )
    return image


class Codec:
    """A model, loaded, with its two verbs.

    Args:
        model: a `registry.Model`.
    """

    def __init__(self, model: registry.Model):
        import tensorflow as tf

        self.model = model
        self.tf = tf
        self.parts = tf.saved_model.load(str(model.path)).signatures

    def compress(
        self,
        image: np.ndarray,
        quality_: float = DEFAULT_QUALITY,
        effort: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> bytes:
        """See `tfcodec.compress`."""
        image = checked_image(image)
        steps = steps_of(effort)
        level = quality.check(quality_)
        height, width = image.shape[:2]
        header = Header(self.model.fingerprint, width, height, level)
        bitstream.check_limits(header, Limits())
        tf = self.tf
        padded = tf.constant(tiling.pad(image, self.model.stride))
        y = self.parts["analysis"](image=padded)["y"]
        if steps:
            y = self._improved(padded, y, self._fraction(level), steps, progress)
        payload = self.parts["encode"](y=y, quality=self._fraction(level))["string"]
        return bitstream.pack(header, [Chunk(bitstream.TILE, payload.numpy())])

    def _improved(self, image, y, fraction, steps, progress):
        """Returns the best of `steps` improvements of y, and y itself."""
        if "improve" not in self.parts:
            raise ValueError(f"model {self.model.name} has no effort above 0")
        best, least = y, np.inf
        for step in range(steps + 1):
            if progress:
                progress(step, steps + 1)
            damping = self.tf.constant(0.3 / (1 + 0.1 * step), self.tf.float32)
            result = self.parts["improve"](
                image=image, y=y, quality=fraction, damping=damping
            )
            if result["cost"] < least:
                best, least = y, float(result["cost"])
            y = result["y"]
        return best

    def decode(self, header: Header, payload: bytes) -> dict:
        """Entropy decoding alone: `y` int32 [1, h, w, c], sixteenths, and `y_hat`.

        Raises:
            CorruptStream: the coder did not end as an encoder leaves it.
        """
        tf = self.tf
        size = tiling.padded_size(header.height, header.width, self.model.stride)
        result = self.parts["decode"](
            string=tf.constant(payload), size=tf.constant(size, tf.int32)
        )
        if not result["sound"]:
            raise CorruptStream("the coded pixels are damaged")
        return result

    def decompress(self, header: Header, payload: bytes) -> np.ndarray:
        """Returns uint8 [height, width, 3] of a header and its tile."""
        y_hat = self.decode(header, payload)["y_hat"]
        fraction = self._fraction(header.quality)
        image = self.parts["synthesis"](y_hat=y_hat, quality=fraction)["image"].numpy()
        return np.ascontiguousarray(tiling.crop(image, header.height, header.width))

    def _fraction(self, level):
        return self.tf.constant(quality.fraction(level), self.tf.float32)


def steps_of(effort: int) -> int:
    """Returns the steps of an effort.

    Raises:
        ValueError: not a whole number from 0 to 9.
    """
    if effort not in range(len(EFFORTS)):
        raise ValueError(f"effort must be a whole number from 0 to 9, not {effort!r}")
    return EFFORTS[int(effort)]


@functools.lru_cache(maxsize=4)
def _loaded(path: str, fingerprint: bytes) -> Codec:
    # Loaded again where a directory holds another model than it did.
    return Codec(registry.Model.at(path))


def load(model: str | os.PathLike = DEFAULT_MODEL) -> Codec:
    """Returns the codec of a shipped model or a model directory, loaded once.

    Raises:
        ValueError: there is no such model.
    """
    found = registry.resolve(model)
    return _loaded(str(found.path), found.fingerprint)


def compress(
    image: np.ndarray,
    quality: float = DEFAULT_QUALITY,
    model: str | os.PathLike = DEFAULT_MODEL,
    effort: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """Compresses an image.

    Args:
        image: uint8 [height, width, 3], RGB, any size from 1x1.
        quality: 0 (smallest) to 100 (best), in steps of a hundredth. A model trained
            for one rate ignores it.
        model: name of a shipped model, or a directory that `train.py` exported.
        effort: 0 to 9; from 1 on, the latents of this image are improved step by step
            against the decoder's own error, which takes longer and makes files smaller
            for what they show. Decoding is the same.
        progress: called as progress(steps done, steps in all) from effort 1 on.

    Returns:
        A whole `.tfc` file.

    Raises:
        TypeError, ValueError: the image, quality, model or effort is not as above.
    """
    image = checked_image(image)
    return load(model).compress(image, quality, effort, progress)


def decompress(
    data: bytes,
    model: str | os.PathLike | None = None,
    limits: Limits = Limits(),  # noqa: B008
) -> np.ndarray:
    """Decompresses a `.tfc` file.

    The shipped model whose fingerprint the file holds is used; `model` may name one
    more to look at. Limits are checked before any model is loaded.

    Args:
        data: the file's bytes.
        model: a model directory, for files made with a model that is not shipped.
        limits: what a file may ask for.

    Returns:
        uint8 [height, width, 3].

    Raises:
        CorruptStream: the file is damaged.
        UnsupportedStream: it is whole, but of another version or model, or too large.
    """
    header, chunks = bitstream.unpack(bytes(data), limits)
    extra = None if model is None else registry.resolve(model)
    found = registry.find(header.fingerprint, extra)
    codec = _loaded(str(found.path), found.fingerprint)
    tile = next(c for c in chunks if c.type == bitstream.TILE)
    return codec.decompress(header, tile.data)


def info(data: bytes, limits: Limits = Limits()) -> dict:  # noqa: B008
    """Says what a `.tfc` file is, without decoding it or loading TensorFlow.

    Returns:
        dict of version, model (name, or None if it is not shipped), fingerprint,
        width, height, quality, bytes, bpp, ratio (to 24-bit pixels) and chunks
        (type and bytes of each).

    Raises:
        StreamError: as `decompress`.
    """
    data = bytes(data)
    header, chunks = bitstream.unpack(data, limits)
    try:
        name = registry.find(header.fingerprint).name
    except bitstream.UnsupportedStream:
        name = None
    return {
        "version": bitstream.VERSION,
        "model": name,
        "fingerprint": header.fingerprint.hex(),
        "width": header.width,
        "height": header.height,
        "quality": header.quality,
        "bytes": len(data),
        "bpp": metrics.bits_per_pixel(len(data), header.height, header.width),
        "ratio": header.height * header.width * 3 / len(data),
        "chunks": [{"type": c.type, "bytes": len(c.data)} for c in chunks],
    }
