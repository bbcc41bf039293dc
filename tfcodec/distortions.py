"""The names of distortions, and mixtures of them.

`losses` has the functions in TensorFlow, `distortion_slopes` in NumPy.
"""

from __future__ import annotations

import dataclasses
import math

# By name, the factor to units of squared error, so that the same lambda suits all.
# docs/training.md says how the factors were found.
FACTORS = {
    "mse": 1.0,
    "ssim": 600.0,
    "ms-ssim": 2500.0,
    "ssimulacra2": 8.0,
    "masked-mse": 1.0,
}
# In masked-mse a local variance of this (a standard deviation of 4 levels) halves the
# weight of an error.
VISIBLE_VARIANCE = 16.0
# In MS-SSIM terms are raised to powers below 1, whose slope at 0 is infinite. So terms
# below this are raised to it; their gradients pass as if they were not.
LEAST_SIMILARITY = 0.01


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A weighted sum of distortions, in units of squared error.

    The text that `parse` reads and `str` returns is that of `--distortion`: names with
    weights, such as `mse:0.3,ssimulacra2:0.7`; the default of a weight is 1.

    Args:
        weights: pairs of a name in `FACTORS` and its weight, above 0.

    Raises:
        ValueError: there is no name, an unknown one, one twice, or a weight that is not
            above 0.
    """

    weights: tuple[tuple[str, float], ...] = (("mse", 1.0),)

    def __post_init__(self):
        names = [name for name, _ in self.weights]
        for name, weight in self.weights:
            if name not in FACTORS:
                known = ", ".join(FACTORS)
                raise ValueError(f"no distortion {name!r}; there are {known}")
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} must be above 0, not {weight}")
            if names.count(name) > 1:
                raise ValueError(f"{name} is there twice")
        if not names:
            raise ValueError("no distortion is named")
        # Sorted, so that floats are added in the same order however they were named.
        ordered = sorted(self.weights, key=lambda pair: list(FACTORS).index(pair[0]))
        object.__setattr__(self, "weights", tuple(ordered))

    @classmethod
    def parse(cls, text: str) -> Mixture:
        """Reads a text such as `mse` or `mse:0.3,ssimulacra2:0.7`.

        Raises:
            ValueError: as the class, or a weight is not a number.
        """
        weights = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, colon, weight = part.partition(":")
            try:
                weights.append((name.strip(), float(weight) if colon else 1.0))
            except ValueError:
                raise ValueError(f"not a weight: {part!r}") from None
        return cls(tuple(weights))

    def __str__(self):
        return ",".join(
            name if weight == 1 else f"{name}:{float(weight)!r}"
            for name, weight in self.weights
        )

    def factors(self):
        """Yields (name, factor by which the function of that name counts)."""
        for name, weight in self.weights:
            yield name, weight * FACTORS[name]
