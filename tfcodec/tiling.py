"""Pixels to what a model takes, and back (NumPy)."""

from __future__ import annotations

import numpy as np


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Returns height and width rounded up to multiples of `stride`."""
    return -(-height // stride) * stride, -(-width // stride) * stride


def pad(image: np.ndarray, stride: int) -> np.ndarray:
    """Pads [h, w, c] at the bottom and right to multiples of `stride`.

    Repeats the last row and column: it costs the fewest bits, as nothing new begins.
    """
    height, width = image.shape[:2]
    full_height, full_width = padded_size(height, width, stride)
    amount = ((0, full_height - height), (0, full_width - width), (0, 0))
    return np.pad(image, amount, mode="edge")


def crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Takes off what `pad` added."""
    return image[:height, :width]
