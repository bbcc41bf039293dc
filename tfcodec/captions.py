"""Draws text on training patches, so that a synthesis learns not to alter letters."""

from __future__ import annotations

import functools
import pathlib

import numpy as np

# Additional weight, in sixteenths, of squared error where there is text;
# `adversarial.Adversarial` adds it to 1.
WEIGHT = 64
SIZES = (7, 28)  # of fonts in pixels, from the first to below the second
FOLDERS = ("/usr/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?&%()-+="


@functools.lru_cache
def fonts() -> list[str]:
    """Returns the paths of TrueType fonts on this machine, perhaps none."""
    found = (p for folder in FOLDERS for p in pathlib.Path(folder).rglob("*.[to]tf"))
    return sorted(map(str, found))


def _font(rng, size):
    from PIL import ImageFont

    if fonts() and rng.random() < 0.8:
        try:
            return ImageFont.truetype(fonts()[rng.integers(len(fonts()))], size)
        except OSError:  # A font that Pillow cannot load; its own always works.
            pass
    return ImageFont.load_default(size)


def written_on(pixels: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """Draws some lines of text on a patch.

    Args:
        pixels: uint8 [h, w, 3].
        rng: NumPy generator for fonts, sizes, colours, positions and letters.

    Returns:
        (uint8 [h, w, 3], uint8 [h, w]: `WEIGHT` within the lines, 0 elsewhere).
    """
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    weight = np.zeros(pixels.shape[:2], np.uint8)
    draw = ImageDraw.Draw(image)
    paper = rng.random() < 0.6  # a flat ground, as in a document, under all lines
    dark = rng.random() < 0.7  # text on bright ground
    inks = rng.integers(0, 90, 3), rng.integers(180, 256, 3)
    ink, ground = (tuple(map(int, c)) for c in (inks if dark else inks[::-1]))
    top = int(rng.integers(0, max(1, image.height // 2)))
    left = int(rng.integers(0, max(1, image.width // 4)))
    size = int(rng.integers(*SIZES))
    font = _font(rng, size)
    while top < image.height - size:
        letters = rng.choice(list(LETTERS + " " * 12), rng.integers(8, 40))
        line = "".join(letters)
        box = draw.textbbox((left, top), line, font=font)
        if paper:
            draw.rectangle((box[0] - 3, box[1] - 3, box[2] + 3, box[3] + 3), ground)
        draw.text((left, top), line, ink, font=font)
        weight[max(0, box[1] - 2) : box[3] + 3, max(0, box[0] - 2) : box[2] + 3] = (
            WEIGHT
        )
        top = max(box[3], top + size) + int(rng.integers(1, size))
        if rng.random() < 0.15:
            break
    return np.asarray(image), weight
