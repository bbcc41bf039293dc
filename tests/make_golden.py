"""Makes the golden set: `python -m tests.make_golden`, with TFC. See `golden.json`.

It is a model small enough to check in, trained for a minute on photographs from
scikit-image, and files of every kind by it and by the shipped models.  Existing files
must decode to the same integers for good, so this adds only missing files, and changes
none.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import tempfile

import numpy as np
from PIL import Image
from skimage import data

import tfcodec
from benchmarks.exactness import strings_of
from tests import tiny
from tfcodec import bitstream, codec, litert_export, training

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODEL = GOLDEN / "model"
SHIPPED, SQUARED = "tfcodec", "tfcodec-mse"


def pictures() -> dict[str, np.ndarray]:
    """Images of all kinds, by name."""
    astronaut, coffee = data.astronaut(), data.coffee()
    cat, rocket = data.chelsea(), data.rocket()
    slope = np.linspace(0, 255, 97).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, [70, 50, 3], np.uint8)
    alpha = np.minimum(cat[..., :1].astype(int) * 2, 255).astype(np.uint8)
    return {
        "face": astronaut[:200, 150:350],
        "cup": coffee[100:228, 200:392],
        "rocket": rocket[40:241, 200:331],
        "grey": cat[50:178, 100:229, 1],
        "alpha": np.concatenate([cat, alpha], -1)[60:160, 120:220],
        "grey_alpha": np.concatenate([cat[..., 1:2], alpha], -1)[60:160, 120:220],
        "pixel": astronaut[100:101, 200:201],
        "row": coffee[120:121, :311],
        "column": coffee[:311, 120:121],
        "prime": astronaut[:61, 200:331],
        "noise": noise,
        "flat": np.full([64, 64, 3], (40, 120, 200), np.uint8),
        "slope": np.broadcast_to(slope[:, None, None], [97, 67, 3]).copy(),
        "checks": np.tile(np.array([[0, 255], [255, 0]], np.uint8), [40, 40]),
    }


def files(images) -> dict[str, tuple]:
    """Name of a file -> (model, image, quality, further arguments)."""
    small, shipped = str(MODEL), SHIPPED
    made = {
        f"{name}_{level}": (small, image, level, {})
        for name, image in images.items()
        for level in ((0, 50, 100) if name in ("face", "noise") else (30,))
    }
    profile, exif = b"a profile" * 50, b"MM\0*\0\0\0\x08\0\0\0\0\0\0"
    made |= {
        "tiles_64": (small, images["face"], 40, {"tile": 64}),
        "tiles_128": (small, images["rocket"], 70, {"tile": 128}),
        "alpha_lossy": (small, images["alpha"], 60, {"alpha_quality": 50}),
        "alpha_tiles": (
            small, images["alpha"], 60, {"alpha_quality": 50, "tile": 64}
        ),
        "metadata": (
            small, images["prime"], 20,
            {"metadata": {"icc_profile": profile, "exif": exif, "xmp": b"<x/>"}},
        ),
        "effort": (small, images["cup"], 30, {"effort": 3}),
        "lanes": (small, np.tile(images["noise"], [12, 18, 1]), 100, {"tile": 0}),
        "shipped_lanes": (shipped, data.astronaut(), 60, {}),
        "shipped_cup_10": (shipped, images["cup"], 10, {}),
        "shipped_face_50": (shipped, images["face"], 50, {}),
        "shipped_rocket_90": (shipped, images["rocket"], 90, {}),
        "shipped_tiles_64": (shipped, images["cup"], 50, {"tile": 64}),
        "shipped_alpha_50": (shipped, images["alpha"], 50, {"alpha_quality": 30}),
        "shipped_face_0": (shipped, images["face"], 0, {}),
        "shipped_mse_face_50": (SQUARED, images["face"], 50, {}),
        "shipped_mse_cup_0": (SQUARED, images["cup"], 0, {}),
    }  # fmt: skip
    return made


def train_model():
    """Trains the model for a minute, so that tables are neither flat nor empty."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        names = "astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry"
        for name in names:
            Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
        config = training.TrainConfig(
            images=str(folder / "[acr]*.png"), validation=str(folder / "immuno*.png"),
            **tiny.flags("tfcodec", steps=600, validate_steps=300, patch=128),
        )  # fmt: skip
        exported = training.train(config, folder / "run")
        exported.rename(MODEL)
        litert_export.export(MODEL)


def escapes(decoder, image) -> bytes:
    """Makes a file of latents that no image has: far outside of tables, not finite."""
    y = decoder.engine.analysis(image).copy()
    rng = np.random.default_rng(0)
    for value in (300, -40, 1e4, -1e4, np.nan, np.inf):
        y[rng.random(y.shape) < 0.01] = value
    string, _, _ = decoder.engine.encode(y, 0.5)
    header = bitstream.Header(decoder.model.fingerprint, *image.shape[1::-1], 50)
    chunk = bitstream.Chunk(bitstream.TILE, string)
    return bitstream.pack(header, [chunk])


def digests(data: bytes, model: str) -> dict:
    """SHA-256 of the integers of each string of a file, in order, and of the pixels."""
    decoder = codec.load(model, "tensorflow")
    integers = []
    for box, string in strings_of(data, decoder):
        y, _ = decoder.decode(box.height, box.width, string)
        integers.append(hashlib.sha256(y.astype("<i4").tobytes()).hexdigest())
    pixels = tfcodec.decompress(data, model, realism=0, engine="tensorflow")
    return {
        "integers": integers,
        "shape": list(pixels.shape),
        "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
        # Pixels may be a level off elsewhere: these hardly move then.
        "mean": np.round(pixels.mean((0, 1)), 3).tolist(),
    }


def main():
    GOLDEN.mkdir(exist_ok=True)
    if not MODEL.exists():
        train_model()
    index = GOLDEN / "golden.json"
    rows = json.loads(index.read_text()) if index.exists() else {}
    images = pictures()
    wanted = files(images)
    for name in [*wanted, "escapes"]:
        path = GOLDEN / f"{name}.tfc"
        if path.exists():
            continue
        model, image, level, settings = wanted.get(name, (str(MODEL), None, 0, {}))
        decoder = codec.load(model, "tensorflow")
        if name == "escapes":
            made = escapes(decoder, images["face"][:192, :192])
        else:
            made = decoder.compress(image, level, **settings)
        path.write_bytes(made)
        rows[name] = {
            "model": "model" if model == str(MODEL) else model,
            "bytes": len(made),
            **digests(made, model),
        }
        print(name, len(made), rows[name]["shape"])
    index.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
