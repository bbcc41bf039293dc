"""Boxes of pixels: the tiles of an image, their surroundings, padding (NumPy).

Tiles do not overlap, and show no borders: the analysis of a tile sees all pixels around
it that affect its latents, and the synthesis all latents around it that affect its
pixels, so that both are the same as in an image of one tile.  Only the entropy coder
starts anew in each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfcodec import bitstream

# Images of more pixels, padding included, are coded in tiles of this side.
UNTILED_PIXELS = 2**21
TILE_SIDE = 1024


class Box(NamedTuple):
    """A rectangle; the last row and column are not in it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def __and__(self, other: Box) -> Box:
        """Returns the intersection; an empty box has a side of 0 or less."""
        return Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def __bool__(self) -> bool:
        return self.height > 0 and self.width > 0

    def grown(self, by: int) -> Box:
        """Returns the box with `by` more on every side."""
        return Box(self.top - by, self.left - by, self.bottom + by, self.right + by)

    def aligned(self, to: int) -> Box:
        """Returns the smallest box around this one of multiples of `to`."""
        bottom, right = padded_size(self.bottom, self.right, to)
        return Box(self.top // to * to, self.left // to * to, bottom, right)

    def shrunk(self, by: int) -> Box:
        """Returns the box in units of `by`, of which its coordinates are multiples."""
        return Box(*(side // by for side in self))

    def inside(self, outer: Box) -> tuple[slice, slice]:
        """Returns the slices, rows and columns, of this box in an array of `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Returns height and width rounded up to multiples of `stride`."""
    return -(-height // stride) * stride, -(-width // stride) * stride


def boxes(height: int, width: int, side: int) -> list[Box]:
    """Returns the tiles of an image, row after row; a `side` of 0 means one tile."""
    side = side or max(height, width)
    whole = Box(0, 0, height, width)
    return [
        Box(top, left, top + side, left + side) & whole
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def numbers(box: Box, side: int, columns: int) -> list[int]:
    """Returns the numbers, in the list of `boxes`, of the tiles that overlap a box.

    Args:
        box: within the padded image.
        side: of the tiles in pixels; for one tile, the longer side of the padded image.
        columns: tiles in a row.
    """
    rows = range(box.top // side, -(-box.bottom // side))
    return [
        row * columns + column
        for row in rows
        for column in range(box.left // side, -(-box.right // side))
    ]


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """Returns the pixels [box.height, box.width, ...] of a box of an image.

    Beyond the bottom and the right of the image the last row and column are repeated,
    which costs few bits, as it adds no edges.
    """
    whole = Box(0, 0, *image.shape[:2])
    pixels = image[(box & whole).inside(whole)]
    more = [(0, box.height - pixels.shape[0]), (0, box.width - pixels.shape[1])]
    return np.pad(pixels, more + [(0, 0)] * (image.ndim - 2), mode="edge")


def pad(image: np.ndarray, stride: int) -> np.ndarray:
    """Pads [h, w, c] at the bottom and right to multiples of `stride`."""
    return cut(image, Box(0, 0, *padded_size(*image.shape[:2], stride)))


def crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Removes what `pad` added."""
    return image[:height, :width]


def tile_layout(height: int, width: int, side: int | None = None) -> int:
    """Returns the field `tile` of a header.

    Args:
        height, width: of the image in pixels.
        side: of the tiles in pixels; 0 for one tile; by default 0 for images of up to
            2 megapixels (`UNTILED_PIXELS`), and `TILE_SIDE` for larger ones.

    Raises:
        ValueError: the side is no power of two from 64 on.
    """
    if side is None:
        # The padded size counts: a thin image has many more pixels with its padding.
        rows, columns = padded_size(height, width, bitstream.PADDED)
        side = TILE_SIDE if rows * columns > UNTILED_PIXELS else 0
    if not side:
        return bitstream.ONE_TILE
    layout = side.bit_length() - 6
    if not (1 <= layout < 16 and 64 << (layout - 1) == side):
        raise ValueError(f"tiles must have a side of 64, 128, 256, ..., not {side}")
    return layout
