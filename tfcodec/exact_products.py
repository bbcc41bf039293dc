"""Sums of exact layers by LiteRT, which multiplies integers of 8 bits.

Processors with instructions for these (AVX512-VNNI, ARM's dot products) do up to four
times as many multiplications of them as of float32's. `litert_exact` makes the file.

LiteRT rounds the inputs of a convolution whose weights have 8 bits to 8 bits, too. It
does so by their range: the least and the largest input, zero included, become the least
and the largest integer of 8 bits. Here all inputs are integers in 0..255 and some are
255, so that rounding changes none. Their products are added up in 32 bits, and the sums
of an exact layer are below 2**24, so float32 holds them.
"""

from __future__ import annotations

import functools

import numpy as np

from tfcodec.constants import ACTIVATION_MAX, WEIGHT_MAX
from tfcodec.exact_layers import Layer, exact_dtype, varied

NAME = "exact"  # of the file among a model's LiteRT files
TRIAL = "trial"  # the signature of its convolution for `trial`
# Layers with fewer weights stay in NumPy: a call of LiteRT takes 0.1 ms.
LEAST_WEIGHTS = 2**17


def suited(coder) -> dict[str, tuple[Layer, int]]:
    """Returns the layers of a coder that LiteRT is to compute.

    Args:
        coder: a `walk.Coder`; any other has none.

    Returns:
        By name: (layer, unsigned). The first `unsigned` channels of a layer's inputs
        have no negative values.
    """
    networks = getattr(coder, "networks", {})
    found = {}
    for name, network in networks.items():
        # The first layer of a slice sees the features, and then earlier latents. Those
        # of the hyper synthesis and of a second pass see nothing but latents.
        before = networks["hyper_synthesis"][-1]
        latents = name == "hyper_synthesis" or name.endswith("/second")
        unsigned = 0 if latents else before.integers.shape[3]
        for number, layer in enumerate(network):
            kernel = layer.integers
            in_range = before.low.min() >= 0 and before.high.max() <= ACTIVATION_MAX
            if kernel.dtype == np.int8 and kernel.size >= LEAST_WEIGHTS and in_range:
                found[f"{name}/{number}"] = layer, min(unsigned, kernel.shape[2])
            before, unsigned = layer, kernel.shape[3]
    return found


def trial():
    """Returns a layer without negative inputs, and inputs; some sums near 2**24."""
    kernel = varied([3, 3, 53, 64], -WEIGHT_MAX, WEIGHT_MAX)
    x = varied([8, 8, 53], 0, ACTIVATION_MAX)
    kernel[..., 0], x[:3, :3] = WEIGHT_MAX, ACTIVATION_MAX
    layer = Layer(kernel.astype(np.int8), np.zeros([4, 64]))
    return layer, x.astype(exact_dtype())


def without_signs(x, unsigned: int):
    """The inputs of a layer as LiteRT takes them: integers in 0..255, the last 255.

    A channel that may have negative values becomes two: its positive part, and the
    magnitude of its negative part.

    Args:
        x: [h, w, in], integers in -255..255.
        unsigned: so many channels, the first ones, have no negative values.

    Returns:
        float32 [1, h, w, 2 in - unsigned + 1].
    """
    height, width, channels = x.shape
    found = np.empty((1, height, width, 2 * channels - unsigned + 1), np.float32)
    (own,) = found
    own[..., :unsigned] = x[..., :unsigned]
    signed = x[..., unsigned:]
    np.maximum(signed, 0, out=own[..., unsigned:channels])
    np.maximum(-signed, 0, out=own[..., channels:-1])
    own[..., -1] = ACTIVATION_MAX
    return found


class Products:
    """The sums of a coder's large layers by LiteRT, if it computes them exactly here.

    Args:
        run: runs the file that `litert_exact` made: takes the name of a signature and
            its input, and returns its output.
    """

    def __init__(self, run):
        self.run = run

    def serve(self, coder) -> None:
        """Lets the layers of a coder use these sums."""
        for name, (layer, unsigned) in suited(coder).items():
            layer.product = functools.partial(self.sums, name, unsigned)

    @functools.cached_property
    def exact(self) -> bool:
        """Whether sums near 2**24 come out right on this machine."""
        layer, x = trial()
        try:
            found = self.run(TRIAL, without_signs(x, x.shape[-1]))
        except (RuntimeError, ValueError):
            # This LiteRT has no such convolution, or not this version of it.
            return False
        return np.array_equal(found[0], layer.sums(x))

    def sums(self, name: str, unsigned: int, x):
        """Returns the sums [h, w, out] of one layer for X [h, w, in], or None."""
        if not self.exact:
            return None
        found = self.run(name, without_signs(x, unsigned))
        return found[0].astype(x.dtype, copy=False)
