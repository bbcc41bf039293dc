"""Writes the files of a model for a web page: see docs/web.md.

    python -m tfcodec.web_files MODEL DIR [--decode_only] [--no_realism]

MODEL is an exported model with LiteRT files, or the name of a shipped one. DIR gets a
directory, named by the model's fingerprint, with `model.json` and gzip streams of the
networks and of the coder's numbers. A page fetches those that it needs, and checks them
by the SHA-256 in `model.json`. `models.json` in DIR lists the models, those that encode
before those that only decode, and the one written last before others: a page encodes
with the first. Needs only NumPy.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pathlib
from collections.abc import Iterator

import numpy as np

from tfcodec import files, litert_files, registry, tools

CARD, LIST = "model.json", "models.json"
DECODING = ("synthesis",)
ENCODING = ("analysis", "hyper_analysis")
# Entries of a card that a page needs.
FIELDS = ("name", "licence", "stride", "latents")


def parts(
    model: registry.Model, encode: bool = True, realism: bool = True
) -> Iterator[tuple[str, bytes]]:
    """Yields (name, bytes) of each file that a page may need.

    Args:
        model: one that has LiteRT files.
        encode: whether the page also compresses.
        realism: whether to include the second synthesis, if the model has one.

    Raises:
        ValueError: the model has no LiteRT files, these are damaged, or it has no
            hyperprior.
    """
    if model.litert is None:
        raise ValueError(f"model {model.name} has no LiteRT files: {model.path}")
    source = litert_files.Files(model.litert, model.path)
    if "hyper_analysis" not in source:
        raise ValueError(
            f"model {model.name} has no hyperprior, which the JavaScript codec needs"
        )
    realism = realism and model.realistic
    numbers = source.numbers().items()
    archive = io.BytesIO()
    np.savez(archive, **{k: v for k, v in numbers if realism or "noise" not in k})
    yield "coder", archive.getvalue()
    more = [registry.REALISM] if realism else []
    for name in [*DECODING, *more]:
        yield name, source.network(name)
    if encode:
        for name in ENCODING:
            yield name, source.network(name)


def card(model: registry.Model, stored: dict[str, dict]) -> dict:
    """Returns the contents of `model.json`, given its entries on the files."""
    found = {name: model.card[name] for name in FIELDS if name in model.card}
    found["fingerprint"] = model.fingerprint.hex()
    if registry.REALISM in stored:
        about = model.card[registry.REALISM]
        found["realism"] = {k: about[k] for k in ("reach", "default") if k in about}
    found["files"] = stored
    return found


def write(
    model: registry.Model,
    target: pathlib.Path,
    encode: bool = True,
    realism: bool = True,
) -> pathlib.Path:
    """Writes a model's directory into `target`, replacing the files in it.

    Args:
        model, encode, realism: as for `parts`.
        target: folder of all models.

    Returns:
        The directory.

    Raises:
        ValueError: as `parts`.
        OSError: it could not be written.
    """
    directory = target / model.fingerprint.hex()
    directory.mkdir(parents=True, exist_ok=True)
    stored = {}
    for name, data in parts(model, encode, realism):
        packed = gzip.compress(data, 9, mtime=0)
        path = f"{name}.gz"
        with files.new_file(directory / path) as file:
            file.write(packed)
        stored[name] = {
            "path": path,
            "size": len(packed),
            "whole": len(data),
            "sha256": hashlib.sha256(packed).hexdigest(),
        }
    _write_json(directory / CARD, card(model, stored))
    _write_json(target / LIST, {"models": listed(target, directory.name)})
    return directory


def listed(target: pathlib.Path, first: str) -> list[str]:
    """Returns the fingerprints of the models in a directory, `first` before others.

    But models that can encode come before those that can only decode.
    """
    found = {path.parent.name: _encodes(path) for path in target.glob(f"*/{CARD}")}
    return sorted(found, key=lambda name: (not found[name], name != first, name))


def _encodes(path):
    """Whether the model of a card, which may be damaged, has what encoding needs."""
    try:
        stored = json.loads(path.read_text("utf-8"))["files"]
        return set(ENCODING) <= set(stored)
    except (ValueError, KeyError, TypeError):
        return False


def _write_json(path, value):
    with files.new_file(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def main(argv=None):
    parser = tools.web_files(__doc__)
    args = parser.parse_args(argv)

    def make():
        return write(
            registry.resolve(args.model), pathlib.Path(args.directory),
            encode=not args.decode_only, realism=not args.no_realism,
        )  # fmt: skip

    tools.print_made(parser, make)


if __name__ == "__main__":
    tools.begin(tools.web_files(__doc__), training=False)
    main()
