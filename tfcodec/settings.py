"""Settings of trainings: fields that are flags of `train.py`, and their checks."""

from __future__ import annotations

import dataclasses

# Side in pixels: MS-SSIM, which every validation measures, has a window of 11.
SMALLEST_PATCH = 11


def setting(default, help):
    """Returns a field of a config, with the help for its flag."""
    return dataclasses.field(default=default, metadata={"help": help})


def check_patches(config, stride: int = 64):
    """Raises ValueError if a config does not name images, or its patches do not fit.

    Args:
        config: a dataclass of settings.
        stride: in pixels, of which sides of patches must be multiples.
    """
    if bool(config.images) == bool(config.dataset):
        raise ValueError("give either --images or --dataset")
    if config.patch % stride or config.patch < SMALLEST_PATCH:
        raise ValueError(
            f"--patch must be a multiple of {stride}, from {SMALLEST_PATCH} on, not "
            f"{config.patch}"
        )


def check_counts(config, *names, steps):
    """Raises ValueError if one of the fields `names` of a config is below 1.

    Args:
        config: a dataclass of settings.
        names: of fields.
        steps: the least value of its field `steps`.
    """
    for name, least in {"steps": int(steps), **dict.fromkeys(names, 1)}.items():
        if getattr(config, name) < least:
            raise ValueError(f"--{name} must be at least {least}")
