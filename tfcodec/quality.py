"""Quality, 0 to 100: its scale, its checks, and the search for one that meets a target.

Quality is a point on a logarithmic scale of lambda, the weight of distortion
against rate: 0 is the smallest lambda a model was trained for, 100 the largest.
A model trained for one lambda has one quality, and ignores the number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

MAXIMUM = 100.0
# At this quality the shipped model has an SSIMULACRA2 of 78 on Kodak. AVIF at 60, the
# default of `avifenc`, has 73.
DEFAULT = 60
# Arguments of `codec.compress` that may stand in place of a quality -> (the figure of
# the `Target` that they set, what the value must be below).
TARGETS = {
    "max_bytes": ("bytes", math.inf),
    "target_bpp": ("bytes", math.inf),
    "target_psnr": ("psnr", math.inf),
    "target_msssim": ("ms_ssim", 1),
    "target_ssimulacra2": ("ssimulacra2", 100),
}
# A file stores quality in hundredths.
STEPS = 10_000
# The quality at which a search begins, and the slope that it first assumes: the change
# of `Target.scaled` per unit of quality.
START = 50.0
SLOPES = {"bytes": 0.027, "psnr": 0.12, "ms_ssim": 0.12, "ssimulacra2": 0.6}
# A search ends this near to the target: in the logarithm of bytes, in dB, in points.
NEAR = {"bytes": 0.005, "psnr": 0.01, "ms_ssim": 0.01, "ssimulacra2": 0.05}


class OutOfReach(ValueError):
    """No quality meets a target; the message says which comes nearest."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What a file must reach: at most so many bytes, or at least such a figure.

    Args:
        figure: "bytes", "psnr" or "ms_ssim" (both in dB), or "ssimulacra2".
        value: of the figure, above 0.
        pixels: of the image, if messages shall tell bits per pixel, too.

    Raises:
        ValueError: the value is not above 0, or not finite.
    """

    figure: str
    value: float
    pixels: int | None = None

    def __post_init__(self):
        if not (math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"a target must be above 0, not {self.value}")

    def scaled(self, value: float) -> float:
        """Transforms a value so that it is nearly linear in quality."""
        return math.log(value) if self.figure == "bytes" else min(value, 1e3)

    def met(self, value: float) -> bool:
        """Whether a value of the figure meets the target."""
        return value <= self.value if self.figure == "bytes" else value >= self.value

    def says(self, value: float) -> str:
        """Returns a value of the figure with its unit."""
        if self.figure == "bytes":
            rate = f" ({8 * value / self.pixels:.4g} bpp)" if self.pixels else ""
            return f"{value:.0f} byte{'s' * (round(value) != 1)}{rate}"
        unit = {"psnr": "dB PSNR", "ms_ssim": "dB MS-SSIM"}
        return f"{value:.2f} {unit.get(self.figure, 'SSIMULACRA2')}"


def search(
    target: Target, measure: Callable[[float], float], start: float | None = None
) -> float:
    """Returns the quality that meets `target` with the best picture or fewest bytes.

    The search stops within `NEAR` of the target, or at the last hundredth of quality
    that still meets it.

    Args:
        target: what to meet.
        measure: function from a quality to the target's figure, which should grow with
            quality; a little noise is tolerated.
        start: the quality at which to begin, by default `START`.

    Raises:
        OutOfReach: quality 0 has too many bytes, or quality 100 is not good enough.
    """
    goal = target.scaled(target.value)
    near = NEAR[target.figure]
    # In the middle of the margin, so that a small error still meets the target.
    aim = goal - near / 2 if target.figure == "bytes" else goal + near / 2
    # (step of quality, scaled figure): the highest below the aim, the lowest above it.
    low, high, best = None, None, None
    slope = SLOPES[target.figure] * MAXIMUM / STEPS
    before, measured = None, {}
    step = round((START if start is None else start) * STEPS / MAXIMUM)
    while True:
        value = measure(step * MAXIMUM / STEPS)
        at = (step, target.scaled(value))
        measured[step] = value
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
            # Not too near to either end, so that the interval shrinks even if the curve
            # is bent.
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
        raise _out_of_reach(target, measured)
    return best * MAXIMUM / STEPS


def nearer(target: Target, level: float, value: float, curve) -> float:
    """Returns the quality that would meet a target, given the figure at another one.

    Args:
        target: what to meet.
        level: a quality.
        value: the target's figure at that quality.
        curve: figures by quality, of the same image coded in another way, that of
            `level` among them: the figure is taken to change with quality as there.
    """
    slope = SLOPES[target.figure]
    if others := [other for other in curve if abs(other - level) >= 1]:
        other = min(others, key=lambda each: abs(each - level))
        rise = target.scaled(curve[other]) - target.scaled(curve[level])
        slope = rise / (other - level) if rise * (other - level) > 0 else slope
    move = (target.scaled(target.value) - target.scaled(value)) / slope
    return round(min(max(level + move, 0.0), MAXIMUM), 2)


def _out_of_reach(target, measured):
    """Returns the error that no step of quality meets a target.

    Args:
        target: the `Target`.
        measured: its figure by step.
    """

    def distance(step):
        return abs(target.scaled(measured[step]) - target.scaled(target.value))

    step = min(measured, key=distance)
    return OutOfReach(
        f"no quality gives {target.says(target.value)}; the nearest is "
        f"{target.says(measured[step])}, at quality {step * MAXIMUM / STEPS:g}"
    )


def check(quality: float, name: str = "quality") -> float:
    """Returns `quality` as a float in hundredths, as a file stores it.

    Raises:
        ValueError: not a number from 0 to 100; the message has the name.
    """
    value = _number(name, quality)
    if not 0 <= value <= MAXIMUM:
        raise ValueError(f"{name} must be from 0 to 100, not {quality}")
    return round(value, 2)


def chosen(quality: float | None) -> float:
    """Returns the quality to code at: `DEFAULT` if none is given, else as `check`."""
    return check(DEFAULT if quality is None else quality)


def check_realism(realism: float) -> float:
    """Returns `realism` as a float.

    Raises:
        ValueError: not a number from 0 to 1.
    """
    value = _number("realism", realism)
    if not 0 <= value <= 1:
        raise ValueError(f"realism must be from 0 to 1, not {realism}")
    return value


def check_target(name: str, value: float) -> float:
    """Returns the value of one of `TARGETS`.

    Raises:
        ValueError: no image can have such a figure.
    """
    _, end = TARGETS[name]
    if not 0 < _number(name, value) < end:
        below = "" if end == math.inf else f" and below {end:g}"
        raise ValueError(f"{name} must be above 0{below}, not {value}")
    return value


def _number(name, value) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, not {value!r}") from None


def plain(number: float) -> float:
    """Returns a number as an int if it is whole, as messages and names show it."""
    return int(number) if number == int(number) else number


def fraction(quality: float) -> float:
    """Maps quality to [0, 1], the number that the networks take."""
    return check(quality) / MAXIMUM
