"""The planes of an image: layouts, separation of colours and alpha, alpha as a PNG."""

from __future__ import annotations

import io

import numpy as np

from tfcodec import tiling
from tfcodec.bitstream import GREY, GREY_ALPHA, RGB, RGBA, CorruptStream

# Channels of an array -> layout; None is a greyscale image without an axis of channels.
LAYOUTS = {None: GREY, 1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}

# Modes of Pillow whose arrays have these channels. Arrays of others look alike: palette
# indexes like greyscale, CMYK like RGB and alpha.
MODES = ("L", "LA", "RGB", "RGBA")

# Side in pixels of the cells in which colours that no one sees are replaced.
CELL = 16

# Lossy alpha of up to this becomes 0, and of 255 minus up to this becomes 255.
ALPHA_SNAP = 8


def checked_image(image) -> np.ndarray:
    """Returns `image` as an array, after checking its type and shape.

    Args:
        image: an array, or what NumPy makes one of, such as a Pillow image.

    Raises:
        TypeError: it is not uint8, or a Pillow image of a mode other than `MODES`.
        ValueError: it has no pixels, or is not [h, w] or [h, w, 1 to 4 channels].
    """
    mode = getattr(image, "mode", None)
    if hasattr(image, "getbands") and mode not in MODES:
        raise TypeError(
            f"a Pillow image must be of mode {', '.join(MODES[:-1])} or {MODES[-1]}, "
            f"not {mode}: convert it by image.convert"
        )
    given, image = image, np.asarray(image)
    if image.dtype != np.uint8:
        no_numbers = given is not image and image.dtype.kind in "OSU"
        kind = type(given).__name__ if no_numbers else image.dtype
        raise TypeError(f"an image must be uint8, not {kind}")
    shape = image.shape
    if len(shape) not in (2, 3) or 0 in shape or channels_of(image) not in LAYOUTS:
        raise ValueError(
            f"an image must be [height, width] or [height, width, 1 to 4 channels] "
            f"with pixels in it, not {list(shape)}"
        )
    return image


def channels_of(image):
    """Returns the channels of an array [h, w, c]; None for [h, w]."""
    return image.shape[2] if image.ndim == 3 else None


def layout_of(image):
    """Returns the layout of a `checked_image`, as headers have it."""
    return LAYOUTS[channels_of(image)]


def separated(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (colours [h, w] or [h, w, 3], alpha [h, w] or None) of an image.

    The colours of fully transparent pixels, which no one sees, are replaced by what
    costs few bits: the mean of the visible pixels in their cell of `CELL` pixels a
    side, or if there are none, in a larger cell.
    """
    channels = channels_of(image)
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


def cell_means(colours: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Returns uint8 [h, w, c]: at each pixel the mean of the visible ones in its cell.

    For a cell without any it is the mean over a cell twice as large, and so on.

    Args:
        colours: uint8 [h, w, c].
        visible: bool [h, w].
    """
    height, width = visible.shape
    side = CELL
    size = tiling.padded_size(height, width, side)
    more = ((0, size[0] - height), (0, size[1] - width))

    def sums(values):
        # One row of cells at a time, as a whole image in floats would be large.
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


GREY_8 = b"\x08\0"  # in IHDR: 8 bits, greyscale


def read_png(data: bytes, height: int, width: int) -> np.ndarray:
    """Reads what `png` wrote: uint8 [height, width].

    Raises:
        CorruptStream: it is damaged, of another size, or not 8-bit greyscale.
    """
    from PIL.PngImagePlugin import PngImageFile

    try:
        # Unlike `Image.open`, this has no limit on pixels; the size is checked here.
        with PngImageFile(io.BytesIO(data)) as image:
            if image.size != (width, height) or data[24:26] != GREY_8:
                raise ValueError(f"{image.size}, {image.mode}")
            return np.asarray(image)
    except Exception as error:  # Pillow's readers raise SyntaxError, struct.error, ...
        raise CorruptStream(f"damaged alpha: {error}") from None
