"""Distortions of one picture and their slopes, in NumPy.

For `--effort` on machines without TensorFlow, which derives the slopes of `losses` by
itself.
"""

from __future__ import annotations

import numpy as np

from tfcodec import similarity_slopes, ssimulacra2_slope
from tfcodec.distortions import Mixture


class SquaredError:
    """Mean squared error from an original, uint8 [h, w, 3]."""

    def __init__(self, image: np.ndarray):
        self.image = image.astype(np.float32)

    def compare(self, decoded: np.ndarray):
        """Returns (the error, function of its slope): see `Distortion.compare`."""
        error = decoded - self.image
        mean = np.mean(np.square(error), dtype=np.float64)
        return float(mean), lambda: error * np.float32(2 / error.size)


# What is behind the names in `distortions.FACTORS`.
TERMS = {
    "mse": SquaredError,
    "ssim": similarity_slopes.Similarity,
    "ms-ssim": similarity_slopes.MultiscaleSimilarity,
    "ssimulacra2": ssimulacra2_slope.Original,
    "masked-mse": similarity_slopes.MaskedError,
}


class Distortion:
    """The distortion of decoded pictures of one original.

    Args:
        text: of a `Mixture`.
        image: the original, uint8 [h, w, 3].
    """

    def __init__(self, text: str, image: np.ndarray):
        mixture = Mixture.parse(text).factors()
        self.terms = [(factor, TERMS[name](image)) for name, factor in mixture]

    def compare(self, decoded: np.ndarray):
        """Compares a decoded picture.

        Args:
            decoded: uint8, of the shape of the original.

        Returns:
            (the distortion, in units of squared error; a function that returns, once,
            its derivative with respect to each sample of the decoded picture, float32
            [h, w, 3]).
        """
        found = [(factor, *term.compare(decoded)) for factor, term in self.terms]

        def slope():
            return sum(np.float32(factor) * own() for factor, _, own in found)

        return sum(factor * value for factor, value, _ in found), slope
