"""Gives an exported model another quantiser: its encoder changes, its decoder does not.

    python -m tfcodec.requantise MODEL DIR [--error_bits 11]

takes a shipped model, or one that `train.py` exported, and writes DIR, the same model
with an encoder whose quantiser makes the best of each latent if one unit of squared
error is worth so many bits. With more bits fewer latents become zero: files are larger
and pictures better. The fingerprint and the tables stay, so each of both models opens
the files of the other, and trained weights stay as they are.
"""

from __future__ import annotations

import json
import pathlib
import shutil

from tfcodec import console, export, files, litert_export, registry, same_decoder
from tfcodec.densities import CHOICE_BITS


def requantise(model, directory, error_bits: float = CHOICE_BITS) -> pathlib.Path:
    """Writes a model with another quantiser to `directory`, replaced if all succeeds.

    Args:
        model: an exported model, or the name of a shipped one.
        directory: to write; LiteRT files and a second synthesis are in it if `model`
            has them.
        error_bits: bits that one unit of squared error in a latent is worth.

    Returns:
        `directory`.

    Raises:
        ValueError: there is no such model, or its latents have no such quantiser, or
            `error_bits` is not above 0, or `directory` is that of the model.
        OSError: `directory` could not be written.
    """
    source, directory = registry.resolve(model), pathlib.Path(directory)
    if not error_bits > 0:
        raise ValueError(f"error_bits must be above 0, not {error_bits}")
    if directory.resolve() == source.path.resolve():
        raise ValueError(f"{directory} is the model itself: name another directory")
    built = same_decoder.rebuilt(source)
    if not built.coder.quantiser:
        raise ValueError(f"the latents of model {source.name} are simply rounded")
    built.coder.quantiser = built.coder.quantiser.with_error_bits(error_bits)
    of = (source.card[key] for key in ("architecture", "options", "training", "name"))
    with files.new_directory(directory) as part:
        export.export(built, part, *of, same_decoder.tables(source.path))
        # A later version may compute the fingerprint of the same decoder differently.
        same_decoder.check(part, source.path)
        card = registry.Model.at(part).card
        card["fingerprint"] = source.card["fingerprint"]
        card["encoder"] = {"error_bits": error_bits}
        if source.realism:
            shutil.copytree(source.realism, part / registry.REALISM)
            card["realism"] = source.card["realism"]
        (part / "card.json").write_text(json.dumps(card, indent=1) + "\n")
        if source.litert:
            litert_export.export(part)
    return directory


def main(argv=None):
    parser = console.tool("requantise", __doc__)
    parser.add_argument("directory", help="model directory to make")
    parser.add_argument(
        "--error_bits", type=float, default=CHOICE_BITS,
        help=f"bits that a unit of squared error is worth; by default {CHOICE_BITS:g}",
    )  # fmt: skip
    args = parser.parse_args(argv)
    console.print_made(
        parser, lambda: requantise(args.model, args.directory, args.error_bits)
    )


if __name__ == "__main__":
    main()
