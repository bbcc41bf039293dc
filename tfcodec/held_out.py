"""Which images are validated on, and so not trained on, if no others are named.

`train.py` and `tfcodec.accelerate` train one model in turn, so both hold out the same.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from tfcodec import console, images

ONE_IN = 50  # files, of which one is held out by its name
# Sides of validation crops are multiples of this, or of the patch if that is smaller.
MULTIPLE = 64


def side_of(patch: int) -> int:
    """Returns the unit, in pixels, of the sides of validation crops; also the least."""
    return min(patch, MULTIPLE)


def by_name(path: Path) -> bool:
    """Whether a file is held out by its name, whatever others there are."""
    digest = hashlib.sha256(os.fsencode(path.name)).digest()
    return int.from_bytes(digest[:4], "little") % ONE_IN == 0


def split_by_name(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Splits files into (training, validation), always alike: by a hash of the name.

    Neither part is empty.

    Raises:
        ValueError: there is only one file, so none would be left to train on.
    """
    if len(paths) == 1:
        raise ValueError(
            f"{paths[0]} is the only image, and one is held out for validation: give "
            "more images, or others to validate on (--validation)"
        )
    validation = [path for path in paths if by_name(path)][: len(paths) - 1]
    validation = validation or list(paths[:1])
    kept = set(validation)
    return [p for p in paths if p not in kept], validation


def split(paths: Sequence[Path], side: int) -> tuple[list[Path], list[Path]]:
    """Splits files as `split_by_name`, so that one of those held out can be read.

    If none can, they are left out, and the first of the others that can is held out.
    If no file can be read at all, the split is that of `split_by_name`.

    Args:
        paths: the files.
        side: in pixels, which an image to validate on must have at least.

    Raises:
        ValueError: none would be left to train on.
    """
    training, held = split_by_name(paths)
    both = [*held, *training]
    reasons = itertools.takewhile(bool, (_unfit(path, side) for path in both))
    reasons = list(reasons)
    if len(reasons) < len(held) or len(reasons) == len(both):
        return training, held
    logging.warning(
        "images that cannot be validated on, and are left out: %d (%s); another is "
        "held out instead", len(reasons), reasons[0],
    )  # fmt: skip
    return split_by_name(both[len(reasons) :])


def _unfit(path, side) -> str:
    """Returns why an image cannot be validated on, with its name, or ""."""
    try:
        height, width, _ = images.read_rgb(path).shape
    except Exception as error:  # Pillow may raise anything on a damaged file.
        return console.named(path, error)
    return "" if min(height, width) >= side else f"{path}: below {side} pixels a side"
