"""Quality, 0 to 100, as every part of the codec understands it.

Quality is a point on a logarithmic scale of lambda, the weight of distortion
against rate: 0 is the smallest lambda a model was trained for, 100 the largest.
A model trained for one lambda has one quality, and ignores the number.
"""

from __future__ import annotations

import math

MAXIMUM = 100.0


def check(quality: float) -> float:
    """Returns `quality` as a float in hundredths, as a file stores it.

    Raises:
        ValueError: not a number from 0 to 100.
    """
    try:
        value = float(quality)
    except (TypeError, ValueError):
        raise ValueError(f"quality must be a number, not {quality!r}") from None
    if not 0 <= value <= MAXIMUM:
        raise ValueError(f"quality must be from 0 to 100, not {quality}")
    return round(value, 2)


def fraction(quality: float) -> float:
    """Maps quality to [0, 1], the number that the networks take."""
    return check(quality) / MAXIMUM


def lmbda_at(quality: float, lowest: float, highest: float) -> float:
    """Returns lambda (weight of the MSE on the 0..255 scale) at `quality`."""
    return lowest * math.exp(fraction(quality) * math.log(highest / lowest))
