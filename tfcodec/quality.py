"""Quality, 0 to 100, as every part of the codec understands it.

Quality is a point on a logarithmic scale of lambda, the weight of distortion
against rate: 0 is the smallest lambda a model was trained for, 100 the largest.
A model trained for one lambda has one quality, and ignores the number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

MAXIMUM = 100.0
# What is taken where none is given: SSIMULACRA2 of the shipped model on photographs is
# then 74 on Kodak, about that of AVIF at 60, the default of `avifenc` (73).
DEFAULT = 60
# Hundredths, as a file stores quality.
STEPS = 10_000
# Where a search begins, and how steep it takes a figure to be at first, per quality.
START = 50.0
SLOPES = {"bytes": 0.027, "psnr": 0.12, "ms_ssim": 0.12, "ssimulacra2": 0.6}
# How near is near enough: of the logarithm of bytes, in dB, and in points.
NEAR = {"bytes": 0.005, "psnr": 0.01, "ms_ssim": 0.01, "ssimulacra2": 0.05}


class OutOfReach(ValueError):
    """No quality meets a target; the message says which comes nearest."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What a file is to be: of at most so many bytes, or at least so good.

    Args:
        figure: "bytes", "psnr" or "ms_ssim" (both in dB), or "ssimulacra2".
        value: of it, above 0.
    """

    figure: str
    value: float

    def __post_init__(self):
        if not (math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"a target must be above 0, not {self.value}")

    def scaled(self, value: float) -> float:
        """Returns a figure as something nearly linear in quality."""
        return math.log(value) if self.figure == "bytes" else min(value, 1e3)

    def met(self, value: float) -> bool:
        return value <= self.value if self.figure == "bytes" else value >= self.value

    def says(self, value: float) -> str:
        if self.figure == "bytes":
            return f"{value:.0f} bytes"
        unit = {"psnr": "dB PSNR", "ms_ssim": "dB MS-SSIM"}
        return f"{value:.2f} {unit.get(self.figure, 'SSIMULACRA2')}"


def search(
    target: Target, measure: Callable[[float], float], start: float | None = None
) -> float:
    """Returns the quality that meets `target` with the best picture or fewest bytes.

    It meets the target by less than `NEAR`, or the next hundredth does not meet it.

    Args:
        target: what to meet.
        measure: from quality to the figure, which grows with it (but for noise).
        start: where to begin.

    Raises:
        OutOfReach: quality 0 has too many bytes, or quality 100 is not good enough.
    """
    goal = target.scaled(target.value)
    near = NEAR[target.figure]
    # Inside of what is near enough, so that a small error still meets the target.
    aim = goal - near / 2 if target.figure == "bytes" else goal + near / 2
    # Steps of quality with their figures: the highest below the aim, the lowest above.
    low, high, best = None, None, None
    slope = SLOPES[target.figure] * MAXIMUM / STEPS
    before = None
    step = round((START if start is None else start) * STEPS / MAXIMUM)
    while True:
        value = measure(step * MAXIMUM / STEPS)
        at = (step, target.scaled(value))
        if target.met(value):
            best = step
            if abs(at[1] - goal) <= near:
                break
        if at[1] < aim:
            low = at
        else:
            high = at
        last = low[0] if low else -1, high[0] if high else STEPS + 1
        if last[1] - last[0] <= 1:
            break
        if low and high:
            # Away from both ends, so that a bent curve is soon enclosed.
            margin = (high[0] - low[0]) // 32
        else:
            margin = 0
        bounds = last[0] + 1 + margin, last[1] - 1 - margin
        if before and (at[1] - before[1]) * (at[0] - before[0]) > 0:
            slope = (at[1] - before[1]) / (at[0] - before[0])
        before = at
        guess = at[0] + (aim - at[1]) / slope
        step = round(min(max(guess, bounds[0]), max(bounds)))
    if best is None:
        raise OutOfReach(
            f"no quality gives {target.says(target.value)}; the nearest is "
            f"{target.says(value)}, at quality {step * MAXIMUM / STEPS:g}"
        )
    return best * MAXIMUM / STEPS


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


def check_realism(realism: float) -> float:
    """Returns `realism` as a float.

    Raises:
        ValueError: not a number from 0 to 1.
    """
    if not 0 <= realism <= 1:
        raise ValueError(f"realism must be 0 to 1, not {realism}")
    return float(realism)


def fraction(quality: float) -> float:
    """Maps quality to [0, 1], the number that the networks take."""
    return check(quality) / MAXIMUM


def lmbda_at(quality: float, lowest: float, highest: float) -> float:
    """Returns lambda (weight of the MSE on the 0..255 scale) at `quality`."""
    return lowest * math.exp(fraction(quality) * math.log(highest / lowest))
