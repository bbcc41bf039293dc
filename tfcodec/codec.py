"""The public functions: an array of pixels to the bytes of a `.tfc` file, and back.

They need LiteRT or TensorFlow, and import it only when there are pixels to code.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import operator
import os
import sys
import threading
from collections.abc import Iterable, Sequence

import numpy as np

from tfcodec import bitstream, forks, metrics, planes, quality, registry
from tfcodec import engine as engines
from tfcodec import exif as exif_data
from tfcodec.bitstream import Header, Limits
from tfcodec.compression import Progress, steps_of
from tfcodec.tiling import Box

# A function from a `registry.Model` to its codec, which `pipelines` and `bulk` set, to
# be used in place of `_loaded`.
loader = contextvars.ContextVar("loader", default=None)
DEFAULT_QUALITY = quality.DEFAULT
_loading = threading.Lock()
forks.renew(sys.modules[__name__], "_loading")


@functools.lru_cache(maxsize=4)
def _loaded(model: registry.Model, name: str) -> engines.Codec:
    # Models in one directory, one after the other, are not equal: see `Model.__hash__`.
    return engines.Codec(model, engines.ENGINES[name])


def loaded(
    model: registry.Model, engine: str = "auto", effort: int = 0
) -> engines.Codec:
    """Returns the codec of a model, loaded once for each engine.

    Args:
        model: what to load.
        engine, effort: as for `compress`.

    Raises:
        ValueError: the engine cannot run the model.
        RuntimeError: the engine is TensorFlow's, and this process was forked from one
            in which TensorFlow has run.
    """
    if load_here := loader.get():
        with _loading:
            return load_here(model)
    name = engines.chosen(model, engine, effort)
    with _loading:
        return _loaded(model, name)


def load(
    model: str | os.PathLike = registry.DEFAULT, engine: str = "auto", effort: int = 0
) -> engines.Codec:
    """Returns the codec of a shipped model or a model directory, as `loaded` does.

    Raises:
        ValueError: there is no such model.
    """
    return loaded(registry.resolve(model), engine, effort)


def compress(
    image: np.ndarray,
    quality: float | None = None,
    model: str | os.PathLike = registry.DEFAULT,
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
    engine: str = "auto",
) -> bytes:
    """Compresses an image.

    In a process that was forked from one in which TensorFlow has run, TensorFlow would
    hang; there this raises a RuntimeError. So start worker processes by "spawn".

    Args:
        image: uint8 [height, width, 3], RGB, any size from 1x1; or [height, width] or
            [height, width, 1], greyscale; 2 channels are greyscale and alpha, 4 are RGB
            and alpha. Or a Pillow image of mode L, LA, RGB or RGBA, whose pixels alone
            are taken. Images over 2 megapixels are coded in tiles, in little more
            memory than one of 2 megapixels takes.
        quality: 0 (smallest) to 100 (best), in steps of a hundredth; by default
            `DEFAULT_QUALITY`. A model trained for one rate ignores it.
        model: name of a shipped model, or a directory that `train.py` exported.
        effort: 0 to 9; from 1 on, the latents of this image are optimised step by step
            by the decoder's error, which takes longer and makes a file smaller at the
            same error. Decoding takes as long as without.
        progress: called as progress(done, total) as the work goes on.
        max_bytes: in place of a quality, the largest size of the file in bytes.
        target_bpp: likewise, in bits per pixel of the image.
        target_psnr: in place of a quality, the least PSNR in dB over all pixels; with
            alpha, invisible pixels count as the colours that replace them.
        target_msssim: likewise the least MS-SSIM, 0 to 1. Needs memory for the whole
            image as floats.
        target_ssimulacra2: likewise the least SSIMULACRA2, up to 100, with as much
            memory: 50 is medium quality, 70 high, 90 visually lossless.
        alpha_quality: 0 to 100 for lossy alpha; by default alpha is lossless.
        icc_profile, exif, xmp: stored in the file unchanged; EXIF from its TIFF
            header on, without the prefix "Exif" and two zeros that Pillow's has.
        verify: whether to decode what was coded, and compare.
        max_pixels: the largest width times height, 0 for any; by default that of
            `Limits`, so that every reader opens the file.
        engine: what runs the model: `litert`, which starts at once; `tensorflow`; or
            `auto`, the first of the two that is installed and can run it. Either engine
            opens the files of the other.

    Returns:
        A whole `.tfc` file.

    Raises:
        TypeError, ValueError: an argument is not as above.
        OutOfReach: (a ValueError) no quality meets the target.
        RuntimeError: `verify` found that the file does not decode to what was coded; or
            the process was forked, see above.
    """
    image = planes.checked_image(image)
    engines.check_size(image, max_pixels)
    metadata = _metadata(icc_profile=icc_profile, exif=exif, xmp=xmp)
    steps_of(effort)  # before an engine is loaded for it
    target = target_of(
        image.shape, quality, max_bytes=max_bytes, target_bpp=target_bpp,
        target_psnr=target_psnr, target_msssim=target_msssim,
        target_ssimulacra2=target_ssimulacra2,
    )  # fmt: skip
    return load(model, engine, effort).compress(
        image, quality, effort, progress, target=target, alpha_quality=alpha_quality,
        metadata=metadata, verify=verify,
    )  # fmt: skip


_SIGNATURE = inspect.signature(compress)


def check_settings(**settings) -> None:
    """Checks the arguments of `compress` that do not depend on the image.

    Raises:
        TypeError: `compress` has no such argument.
        ValueError: a quality, target, effort or model is invalid.
    """
    given = _SIGNATURE.bind(None, **settings)
    given.apply_defaults()
    found = given.arguments
    for name in ("quality", "alpha_quality"):
        if found[name] is not None:
            quality.check(found[name], name)
    steps_of(found["effort"])
    registry.resolve(found["model"])
    targets = {name: found[name] for name in quality.TARGETS}
    target_of((1, 1), found["quality"], **targets)


def target_of(
    shape: Sequence[int], level: float | None = None, **targets: float | None
) -> quality.Target | None:
    """Returns the target that arguments of `compress` set, or None.

    Args:
        shape: of the image, [height, width, ...].
        level: the quality, if one is given.
        **targets: `quality.TARGETS`, None for those that are not given.

    Raises:
        ValueError: there are several targets, or one beside a quality, or one is out
            of range.
    """
    given = {name: value for name, value in targets.items() if value is not None}
    both = [*(["quality"] if level is not None else []), *given]
    if len(both) > 1:
        raise ValueError(f"give a quality or one target, not {' and '.join(both)}")
    for name, value in given.items():
        quality.check_target(name, value)
        figure, _ = quality.TARGETS[name]
        pixels = None
        if name == "max_bytes":
            value = int(value)
        elif name == "target_bpp":
            pixels = shape[0] * shape[1]
            value = int(value * pixels / 8) or 1
        elif name == "target_msssim":
            value = metrics.decibels(value)
        return quality.Target(figure, value, pixels)
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
    engine: str = "auto",
) -> np.ndarray:
    """Decompresses a `.tfc` file.

    Raises a RuntimeError in some forked processes: see `compress`.

    The model is found by the fingerprint in the file, among the shipped models and
    `model`. Limits are checked before any model is loaded.

    Args:
        data: the file's bytes.
        model: a model directory, for files made with a model that is not shipped.
        limits: how much the file may make us decode.
        crop: (x, y, width, height), in pixels, of the part that is wanted; only the
            tiles that this part needs are decoded.
        progress: called as progress(done, total), in tiles.
        realism: 0 to 1: how much fine texture (of hair, skin or grass), which the file
            does not store, is synthesised as it is likely to have been. At 0 there is
            none, and pixels are nearest to the original. By default what the model's
            card says for the file's quality. Use 0 for evidence, medicine and
            measurement.
        max_pixels: the largest width times height, in place of that of `limits`; 0 for
            any.
        engine: as for `compress`. Pixels of the two engines may differ by one.

    Returns:
        uint8 [height, width, 3], RGB; or as the file has it, [height, width] greyscale,
        [height, width, 2] greyscale and alpha, [height, width, 4] RGB and alpha.

    Raises:
        TypeError: `data` is not bytes.
        CorruptStream: the file is damaged.
        UnsupportedStream: its version, model or size is not supported.
        ValueError: the crop is not within the image; there is no such model or engine;
            the realism is out of range, or above 0 and the model has one synthesis.
        RuntimeError: the process was forked, see above.
    """
    limits = limits.for_pixels(max_pixels)
    header, chunks = bitstream.unpack(_bytes(data), limits)
    region = region_of(header, crop)
    extra = None if model is None else registry.resolve(model)
    found = registry.find(header.fingerprint, extra)
    codec = loaded(found, engine)
    return codec.decompress(header, chunks, region, progress, limits, realism)


def region_of(header: Header, crop: Sequence[int] | None) -> Box | None:
    """Returns a crop (x, y, width, height) as a box; None for no crop.

    Raises:
        ValueError: it has no pixels, or is not within the image.
    """
    if crop is None:
        return None
    try:
        x, y, width, height = map(operator.index, crop)
    except (TypeError, ValueError):
        raise ValueError(
            f"crop must be four whole numbers, x, y, width and height, not {crop!r}"
        ) from None
    box = Box(y, x, y + height, x + width)
    if not box or box & Box(0, 0, header.height, header.width) != box:
        raise ValueError(
            f"crop {x},{y},{width},{height} is not within an image of "
            f"{header.width}x{header.height}"
        )
    return box


def _bytes(data, what: str = "a file") -> bytes:
    try:
        return data if type(data) is bytes else bytes(memoryview(data))
    except TypeError:
        raise TypeError(
            f"the bytes of {what} are wanted, not {type(data).__name__}"
        ) from None


def _metadata(**given) -> dict[str, bytes]:
    """Returns the metadata that there is, by name, as a file stores it."""
    found = {
        name: _bytes(value, name) for name, value in given.items() if value is not None
    }
    if "exif" in found:
        found["exif"] = exif_data.bare(found["exif"])
    return found


def metadata(
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008
    *,
    max_pixels: int | None = None,
) -> dict[str, bytes]:
    """Returns the metadata in a file, by name: `icc_profile`, `exif` and `xmp`.

    Args:
        data: the file's bytes.
        limits: how much the file may make us decode.
        max_pixels: as for `decompress`.

    Raises:
        StreamError: as `decompress`.
    """
    limits = limits.for_pixels(max_pixels)
    return bitstream.metadata(bitstream.unpack(_bytes(data), limits)[1], limits)


def compress_batch(images: Iterable[np.ndarray], *args, **settings) -> list[bytes]:
    """Compresses images, of one size or of many.

    Args:
        images: an array [batch, height, width, channels], or arrays of any sizes.
        *args, **settings: as for `compress`, the same for all.

    Raises:
        TypeError, ValueError: as `compress`, naming the image by its number from 0.
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
        *args, **settings: as for `decompress`, the same for all.

    Raises:
        StreamError, ValueError: as `decompress`, naming the file by its number from 0.
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
    """Describes a `.tfc` file, without decoding it or loading TensorFlow.

    Args:
        data: the file's bytes.
        limits: how much the file may make us decode.
        max_pixels: as for `decompress`.

    Returns:
        dict of version, model (name, or None if it is not shipped), fingerprint,
        width, height, mode (Pillow's: RGB, L, RGBA, LA), quality, realism (the default
        for this file; None if the model is not shipped), tiles, bytes, bpp, ratio (of
        the size at 8 bits per channel to that of the file) and chunks (type and bytes
        of each).

    Raises:
        StreamError: as `decompress`.
    """
    data = _bytes(data)
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
