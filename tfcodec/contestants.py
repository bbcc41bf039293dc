"""The codecs of a comparison: ours with options, and others by name."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json

import numpy as np

from tfcodec import (
    __version__,
    classical,
    compression,
    dictionary,
    engine,
    registry,
)

SWEEP = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)  # default qualities


# Options after a model's name, such as `tfcodec:effort=3` -> their types.
OPTIONS = {"effort": int, "realism": float, "engine": str}
# What may follow a model's name, in words.
KNOWN = "effort=0..9, realism=0..1, engine=NAME, q=0..100"
# Packages that may contain an engine; the version of the first one installed counts.
PACKAGES = {
    "litert": ("ai-edge-litert",),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly"),
}


def model_of(text: str) -> registry.Model:
    """Returns the model that a text names, without options.

    Raises:
        ValueError: there is none; the message lists what may be named.
    """
    try:
        return registry.resolve(text)
    except ValueError as error:
        known = f"other codecs are: {', '.join((*classical.CODECS, dictionary.NAME))}"
        reason = f"{error}; {known}"
    model = text.rpartition(":")[0]
    with contextlib.suppress(ValueError):
        if model and registry.resolve(model):
            reason = f"{text!r}: {model} takes {KNOWN}"
    raise ValueError(reason)


class Ours:
    """One of our models with options, with the two methods of every codec.

    Args:
        text: `NAME_OR_DIR`, and after it any of `:effort=0..9`, `:realism=0..1` and
            `:engine=NAME`. Realism is 0 where it is not named, whatever a model's
            default is, as most metrics compare pixel by pixel.

    Raises:
        ValueError: there is no such model, effort, realism or engine.
    """

    def __init__(self, text: str):
        parts = text.split(":")
        given = []
        while len(parts) > 1 and parts[-1].partition("=")[0] in OPTIONS:
            given.append(parts.pop().split("=", 1))
        model = ":".join(parts)
        found = model_of(model)
        try:
            options = {key: OPTIONS[key](value) for key, value in given}
        except ValueError:
            options = {"effort": -1}
        self.effort, self.realism = options.get("effort", 0), options.get("realism", 0)
        if self.effort not in range(10) or not 0 <= self.realism <= 1:
            raise ValueError(
                f"{text!r}: effort is a whole number from 0 to 9, realism 0 to 1"
            )
        if self.realism and not found.realistic:
            raise ValueError(f"{text!r}: the model has no realism above 0")
        try:
            wanted = options.get("engine", "auto")
            self.engine = engine.chosen(found, wanted, self.effort)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
        # Named by path, as two directories may hold models of the same name.
        self.model, self.name = model, text
        self.sweep = (50,) if found.single_rate else SWEEP
        self.single_rate = found.single_rate
        self.settings = {"fingerprint": found.fingerprint.hex()}
        if "encoder" in found.card:
            # Another encoder may have the same decoder, and so the same fingerprint.
            self.settings["encoder"] = found.card["encoder"]
        if self.effort:
            self.settings["effort"] = self.effort
            # Another version may take another number of steps.
            self.settings["steps"] = compression.steps_of(self.effort)
        if self.realism:
            # The second synthesis may be trained again without a new fingerprint.
            told = json.dumps(found.card["realism"], sort_keys=True).encode()
            self.settings["second"] = hashlib.sha256(told).hexdigest()[:16]
            self.settings["realism"] = self.realism

    @property
    def version(self) -> str:
        """Versions of this package and of the engine's."""
        for package in PACKAGES[self.engine]:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found = importlib.metadata.version(package)
                return f"tfcodec {__version__}, {package} {found}"
        return f"tfcodec {__version__}, {self.engine} of unknown version"

    def check(self, quality: float) -> float:
        """Returns a quality in the form that `compress` takes.

        Raises:
            ValueError: it is not from 0 to 100, or the model has a single rate.
        """
        from tfcodec import quality as scale

        level = scale.check(quality)
        if self.single_rate and level != self.sweep[0]:
            raise ValueError(f"{self.name} has a single rate and takes no quality")
        return scale.plain(level)

    def compress(self, image: np.ndarray, quality: float) -> bytes:
        """Compresses uint8 [height, width, 3] to a whole file."""
        from tfcodec import codec

        return codec.compress(
            image, quality, self.model, self.effort, engine=self.engine, max_pixels=0
        )

    def decompress(self, data: bytes) -> np.ndarray:
        """Decompresses a file to uint8 [height, width, 3]."""
        from tfcodec import codec

        return codec.decompress(
            data, model=self.model, realism=self.realism, engine=self.engine,
            max_pixels=0,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A codec and the qualities at which to compare it."""

    codec: object
    qualities: tuple

    @property
    def name(self) -> str:
        return self.codec.name


def contestant(text: str) -> Contestant:
    """Reads `NAME`, options and qualities: `tfcodec:effort=3:q=10:30`, `avif:speed=0`.

    NAME is one of `classical.CODECS`, `dictionary` (see that module), a shipped model
    or a model directory. Options come before the qualities.

    Raises:
        classical.Missing: the codec is not installed.
        ValueError: there is no such codec, option or quality.
    """
    name, colon, listed = text.partition(":q=")
    family = name.split(":")[0]
    if family in classical.CODECS:
        codec = classical.find(name)
    elif family == dictionary.NAME:
        codec = dictionary.find(name)
    else:
        codec = Ours(name)
    if not colon:
        return Contestant(codec, codec.sweep)
    try:
        qualities = [float(word) for word in listed.split(":")]
    except ValueError:
        late = next((word for word in listed.split(":") if "=" in word), None)
        raise ValueError(
            f"{text!r}: qualities are numbers with colons between, as {name}:q=10:30:50"
            + (f"; {late} must stand before :q=" if late else "")
        ) from None
    return Contestant(codec, tuple(dict.fromkeys(map(codec.check, qualities))))


def contestants(texts: list[str]) -> tuple[list[Contestant], list[str]]:
    """Returns (the contestants, reasons for those that are not installed).

    Raises:
        classical.Missing: none of them is installed.
        ValueError: as `contestant`; or one is named twice, or there is none.
    """
    found, missing = [], []
    for text in texts:
        try:
            found.append(contestant(text))
        except classical.Missing as error:
            missing.append(str(error))
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is named twice; list its qualities: {name}:q=1:2")
    if missing and not found:
        raise classical.Missing("; ".join(missing))
    if not found:
        raise ValueError("no codecs are named")
    return found, missing
