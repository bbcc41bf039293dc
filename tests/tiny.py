"""Architectures small enough to train and export in seconds, and other test helpers."""

from __future__ import annotations

import contextlib
import functools
import json
import resource

import numpy as np

OPTIONS = {
    "mlp": {"m": 12, "predict": True},
    "cnn": {"n": 8, "m": 12, "layers": 3},
    "sparse": {"n": 8, "m": 12, "layers": 2, "pooled": True, "sparsity": 0.05},
    "bls2017": {"n": 8},
    "bmshj2018-factorized": {"n": 8, "m": 12},
    "bmshj2018-hyperprior": {"n": 8, "m": 12},
    "mbt2018-mean": {"n": 8, "m": 12},
    "ms2020": {
        "n": 8, "m": 12, "slices": 3, "support": 1, "h": 8, "features": [8, 8],
        "hidden": [12, 8],
    },
    "tfcodec": {
        "widths": [8, 12, 16], "blocks": [1, 1], "synthesis_blocks": [1, 0], "n": 8,
        "z": 4, "features": 12, "hidden": 12, "slices": [3, 4, 9], "pyramid": 8,
    },
}  # fmt: skip


def lmbda_of(arch):
    """Returns (lowest, highest) lambda: equal for published architectures, not ours."""
    return (0.001, 0.128) if arch == "tfcodec" else (0.01, 0.01)


def flags(arch, **settings):
    """Returns the settings of a `TrainConfig` for a tiny training."""
    low, high = lmbda_of(arch)
    rate = {"lmbda": low} if low == high else {"lmbda_min": low, "lmbda_max": high}
    options = json.dumps(OPTIONS[arch])
    return {
        "arch": arch, "options": options, "patch": 64, "batch": 4, "warmup": 5,
        "learning_rate": 1e-3, **rate, **settings,
    }  # fmt: skip


@functools.lru_cache(None)
def astronaut():
    """Returns a photograph from scikit-image, uint8 [512, 512, 3]."""
    from skimage import data

    return data.astronaut()


def photograph(height, width):
    """Returns uint8 [height, width, 3], made of copies of a photograph."""
    pixels = astronaut()
    repeats = (-(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1)
    return np.ascontiguousarray(np.tile(pixels, repeats)[:height, :width])


def images(folder):
    """Writes eight photographs of 200x256 to a folder, and returns it."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    pixels = photograph(200, 256)
    for number in range(8):
        image = Image.fromarray(np.roll(pixels, 32 * number, 1))
        image.save(folder / f"{number}.png")
    return folder


def decoder_alone(model):
    """Returns a replacement for `model.graphs` with only `decode` and `synthesis`.

    It saves the time to trace the other functions.
    """
    graphs = model.graphs
    return lambda tables: {
        name: graphs(tables)[name] for name in ("decode", "synthesis")
    }


@contextlib.contextmanager
def without_effort():
    """Models are exported without `improve`, which takes long to make."""
    from tfcodec.model import CompressionModel

    whole = CompressionModel.graphs

    def graphs(model, tables):
        made = whole(model, tables)
        del made["improve"]
        return made

    CompressionModel.graphs = graphs
    try:
        yield
    finally:
        CompressionModel.graphs = whole


@contextlib.contextmanager
def unoptimised():
    """Runs graphs without optimising them, which would take longer than a few steps."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@contextlib.contextmanager
def little_room(size):
    """Lets no file grow beyond `size` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
