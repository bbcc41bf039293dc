"""The models: those shipped with the package, and directories of one's own.

A model is a SavedModel directory with a `card.json` that says what it is. A file names
its model by fingerprint, never by name, path or URL; `find` looks that up here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

from tfcodec.bitstream import UnsupportedStream

ROOT = pathlib.Path(__file__).parent / "models"
REALISM = "realism"  # directory of the second synthesis, in that of a model
LITERT = "litert"  # directory of the files for the engine without TensorFlow
FINGERPRINT_BYTES = 8  # of the SHA-256, as a file holds them


@dataclasses.dataclass(frozen=True)
class Entry:
    """A promise: files of a model once shipped stay readable."""

    number: int  # assigned by hand, never reused
    name: str  # directory under `models/`
    fingerprint: str  # 16 hexadecimal digits; empty until the model is trained
    licence: str  # SPDX
    description: str


ENTRIES = (
    Entry(
        number=1,
        name="tfcodec",
        fingerprint="1b846a9a7c09264d",
        licence="Apache-2.0",
        description="photographs, trained for what people see; every quality",
    ),
    Entry(
        number=2,
        name="tfcodec-mse",
        fingerprint="631c7c7afe8d62c0",
        licence="Apache-2.0",
        description="photographs, trained for squared error (PSNR); every quality",
    ),
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model on disk, not loaded.

    Args:
        path: SavedModel directory.
        card: what its `card.json` holds.
    """

    path: pathlib.Path
    card: dict

    @classmethod
    def at(cls, path: str | os.PathLike) -> Model:
        """Reads the card of a model directory.

        Raises:
            ValueError: `path` is no model directory, or its card is damaged.
        """
        path = pathlib.Path(path)
        if not (path / "card.json").is_file():
            raise ValueError(f"not a model directory: {path} has no card.json")
        if not (path / "saved_model.pb").is_file() and not (path / LITERT).is_dir():
            raise ValueError(f"not a model directory: {path} has no saved_model.pb")
        try:
            model = cls(path, json.loads((path / "card.json").read_text("utf-8")))
            sound = (
                len(model.fingerprint) == FINGERPRINT_BYTES
                and isinstance(model.name, str)
                and model.stride > 0
                and model.channels > 0
                and model.latent_stride > 0
                and min(model.reach["analysis"], model.reach["synthesis"]) >= 0
                and (not model.realistic or model.synthesis_reach(1) >= 0)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"damaged card: {path / 'card.json'}: {error}") from None
        if not sound:
            raise ValueError(f"damaged card: {path / 'card.json'}")
        return model

    @property
    def name(self) -> str:
        return self.card["name"]

    @property
    def fingerprint(self) -> bytes:
        """First 8 bytes of the model's SHA-256, as a file holds them."""
        return bytes.fromhex(self.card["fingerprint"])[:FINGERPRINT_BYTES]

    @property
    def licence(self) -> str:
        """SPDX identifier."""
        return self.card.get("licence", "unknown")

    @property
    def distortion(self) -> str:
        """What it was trained for, as `--distortion`; before cards said so, mse."""
        return self.card.get("distortion", "mse")

    @property
    def stride(self) -> int:
        """Pixels; an image is padded to a multiple of it."""
        return self.card["stride"]

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.card["latents"]["channels"]

    @property
    def latent_stride(self) -> int:
        """Pixels to one latent, each way."""
        return self.card["latents"]["stride"]

    @property
    def reach(self) -> dict[str, int]:
        """How far pixels and latents depend on each other, in latents.

        By network, `analysis` or `synthesis`.
        """
        return self.card["latents"]["reach"]

    def synthesis_reach(self, realism: float) -> int:
        """`reach` of what draws a picture at a realism: one synthesis, or both."""
        second = self.card["realism"]["reach"] if realism else 0
        return max(self.reach["synthesis"], second)

    @property
    def realistic(self) -> bool:
        """Whether the model has a second synthesis, for either engine."""
        file = self.path / LITERT / f"{REALISM}.tflite"
        return self.realism is not None or file.is_file()

    @property
    def realism(self) -> pathlib.Path | None:
        """Directory of the second synthesis as a SavedModel, if there is one."""
        path = self.path / REALISM
        return path if (path / "saved_model.pb").is_file() else None

    @property
    def litert(self) -> pathlib.Path | None:
        """Directory of its LiteRT files, if the model has them."""
        path = self.path / LITERT
        return path if path.is_dir() else None

    @property
    def tensorflow(self) -> bool:
        """Whether the model has the SavedModel that TensorFlow loads."""
        return (self.path / "saved_model.pb").is_file()

    def default_realism(self, quality: float) -> float:
        """Realism, 0 to 1, at which files of a quality are opened unless one is named.

        Between the qualities of `default_realism_points` it is interpolated.
        """
        import numpy as np

        return float(np.interp(quality, *zip(*self.default_realism_points)))

    @property
    def default_realism_points(self) -> list[tuple[float, float]]:
        """(quality, realism) of the card's `realism`, in rising order of quality.

        A model without a second synthesis, or whose card names none, has zero.
        """
        points = self.card.get("realism", {}).get("default", [])
        return points if points and self.realistic else [(0, 0)]

    @property
    def single_rate(self) -> bool:
        """Whether the model was trained for one rate, and ignores quality."""
        return self.card.get("quality") is None


def models() -> list[Model]:
    """Returns the shipped models that this installation holds, in table order."""
    paths = (ROOT / entry.name for entry in ENTRIES)
    return [Model.at(path) for path in paths if (path / "card.json").is_file()]


def resolve(name_or_dir: str | os.PathLike) -> Model:
    """Returns a shipped model by name, or that of a directory.

    A shipped name wins; write `./name` for a directory of the same name.

    Raises:
        ValueError: there is neither; the message names the models there are.
    """
    shipped = {model.name: model for model in models()}
    if name_or_dir in shipped:
        return shipped[name_or_dir]
    if name_or_dir not in {entry.name for entry in ENTRIES}:
        path = pathlib.Path(name_or_dir)
        if path.is_dir():
            return Model.at(path)
    raise ValueError(
        f"no model {str(name_or_dir)!r}: not a directory, and the shipped models are: "
        f"{', '.join(shipped) or 'none in this installation'}"
    )


def find(fingerprint: bytes, extra: Model | None = None) -> Model:
    """Returns the model that a file was made with.

    Args:
        fingerprint: of the file's header, 8 bytes.
        extra: a model to look at before the shipped ones.

    Raises:
        UnsupportedStream: it is none of them.
    """
    # The model that was named comes first: it may have a second synthesis of its own.
    for model in [*([extra] if extra else []), *models()]:
        if model.fingerprint == fingerprint:
            return model
    if extra:
        raise UnsupportedStream(
            f"made with a model of fingerprint {fingerprint.hex()}, which is not that "
            f"of {extra.path} ({extra.fingerprint.hex()}) nor of a shipped model"
        )
    raise UnsupportedStream(
        f"made with a model of fingerprint {fingerprint.hex()}, which is not shipped; "
        f"--model DIR may name it"
    )
