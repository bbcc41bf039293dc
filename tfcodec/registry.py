"""The models: those shipped with the package, and model directories of users.

A model is a SavedModel directory with a `card.json` that describes it. A file refers to
its model by fingerprint, never by name, path or URL; `find` looks up fingerprints.
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
    """A shipped model. Its files must stay readable, so no entry may be removed.

    Once a version was released with it, its fingerprint stays, too: better weights are
    another entry.
    """

    name: str  # directory under `models/`
    fingerprint: str  # 16 hexadecimal digits; empty until the model is trained
    description: str


ENTRIES = (
    Entry(
        name="tfcodec",
        fingerprint="2c77f45f6acdcaa6",
        description="photographs, trained for what people see; every quality",
    ),
    Entry(
        name="tfcodec-mse",
        fingerprint="5aa45101fc47e3e7",
        description="photographs, trained for squared error (PSNR); every quality",
    ),
)
DEFAULT = ENTRIES[0].name  # the model that is taken where none is named


@dataclasses.dataclass(frozen=True)
class Model:
    """A model on disk, not loaded.

    Args:
        path: of its SavedModel directory.
        card: the contents of its `card.json`.
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
            inside = path / "model"  # of a run directory of `train.py`
            hint = f"; {inside} is one" if (inside / "card.json").is_file() else ""
            raise ValueError(f"not a model directory: {path} has no card.json{hint}")
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
        """Name in the card; of a shipped model, also that of its directory."""
        return self.card["name"]

    @property
    def fingerprint(self) -> bytes:
        """First 8 bytes of the model's SHA-256, as stored in a file."""
        return bytes.fromhex(self.card["fingerprint"])[:FINGERPRINT_BYTES]

    def __hash__(self) -> int:
        """Hash of the path alone, as dicts, such as `card`, have none.

        Models that were in one place one after the other have the same hash, but are
        not equal, as their cards differ: even if they have the same decoder, and so the
        same fingerprint, they may have other encoders or another second synthesis.
        """
        return hash(self.path)

    @property
    def licence(self) -> str:
        """SPDX identifier."""
        return self.card.get("licence") or "unknown"

    @property
    def distortion(self) -> str:
        """The distortion that training minimised, as of `--distortion`.

        Cards from before it was recorded are of models trained for mse.
        """
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
        """Pixels per latent, in each dimension."""
        return self.card["latents"]["stride"]

    @property
    def reach(self) -> dict[str, int]:
        """How far away inputs affect outputs, in latents, of analysis and synthesis."""
        return self.card["latents"]["reach"]

    def synthesis_reach(self, realism: float) -> int:
        """`reach` of the synthesis at a realism; above 0, the larger of both."""
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
        """Default realism, 0 to 1, for files of a quality.

        It is interpolated between the qualities of `default_realism_points`.
        """
        import numpy as np

        return float(np.interp(quality, *zip(*self.default_realism_points)))

    @property
    def default_realism_points(self) -> list[tuple[float, float]]:
        """(quality, realism) from the card, in rising order of quality.

        [(0, 0)] if the model has no second synthesis, or its card has no points.
        """
        points = self.card.get("realism", {}).get("default", [])
        return points if points and self.realistic else [(0, 0)]

    @property
    def single_rate(self) -> bool:
        """Whether the model was trained for one rate, and ignores quality."""
        return self.card.get("quality") is None


def models() -> list[Model]:
    """Returns the shipped models in this installation, in the order of `ENTRIES`."""
    paths = (ROOT / entry.name for entry in ENTRIES)
    return [Model.at(path) for path in paths if (path / "card.json").is_file()]


def check_replaceable(directory: pathlib.Path) -> None:
    """Raises ValueError if a directory to make exists and is neither empty nor a model.

    Tools replace a model by a new one of the same name, but nothing else.
    """
    if (directory / "card.json").is_file() or not os.path.lexists(directory):
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise ValueError(f"{directory} exists, and is no model: give another name")


def resolve(name_or_dir: str | os.PathLike) -> Model:
    """Returns a shipped model by name, or the model in a directory.

    The name of a shipped model has precedence; write `./name` for a directory of the
    same name.

    Raises:
        ValueError: there is neither; the message lists the shipped models. Or it is a
            model for TensorFlow Serving alone.
    """
    shipped = {model.name: model for model in models()}
    if name_or_dir in shipped:
        return shipped[name_or_dir]
    if name_or_dir not in {entry.name for entry in ENTRIES}:
        path = pathlib.Path(name_or_dir)
        if path.is_dir():
            model = Model.at(path)
            if "limits" in model.card:  # as `serving.export` writes it
                raise ValueError(
                    f"{path} is a model for TensorFlow Serving alone: give the one "
                    "that it was exported from"
                )
            return model
    raise ValueError(
        f"no model {str(name_or_dir)!r}: not a directory, and the shipped models are: "
        f"{', '.join(shipped) or 'none in this installation'}"
    )


def find(fingerprint: bytes, extra: Model | None = None) -> Model:
    """Returns the model that a file was made with.

    Args:
        fingerprint: from the file's header, 8 bytes.
        extra: a model to try before the shipped ones.

    Raises:
        UnsupportedStream: no model has this fingerprint.
    """
    # `extra` comes first: with the same fingerprint, it may have another second
    # synthesis.
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
        f"give its directory by --model DIR"
    )
