"""The planes of an image: its layouts, colours that are seen, alpha as a PNG."""

from __future__ import annotations

import io

import numpy as np

from tfcodec import tiling
from tfcodec.bitstream import GREY, GREY_ALPHA, RGB, RGBA, CorruptStream

# Layout of an array by its channels; none is a greyscale image without that axis.
LAYOUTS = {None: GREY, 1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}

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
    if len(shape) not in (2, 3) or 0 in shape or channels_of(image) not in LAYOUTS:
        raise ValueError(
            f"an image must be [height, width] or [height, width, 1 to 4 channels] "
            f"with pixels in it, not {list(shape)}"
        )
    return image


def channels_of(image):
    return image.shape[2] if image.ndim == 3 else None


def separated(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (colours [h, w] or [h, w, 3], alpha [h, w] or None) of an image.

    Colours that no one can see become what costs least: the mean of the visible ones
    of the cell of 16x16 pixels, or of those around where a cell has none.
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
