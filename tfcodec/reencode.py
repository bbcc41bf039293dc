"""Gives an exported model another encoder, and keeps its decoder.

    python -m tfcodec.reencode MODEL DIR [--error_bits 11] [--weights ARRAYS]

takes a shipped model, or one that `train.py` exported, and writes DIR, the same model
with another encoder. The fingerprint and the coder's tables stay, so each of both
models opens the files of the other. What may change:

- the quantiser: for each latent it picks the integer with the least bits + error_bits *
  squared error. With a larger error_bits fewer latents become zero: files are larger
  and pictures better;
- the weights of the analysis, the hyper analysis and the gains, in this order, from a
  file of arrays (.npz, .npy), as `train.py --init` takes for a whole model. They were
  trained elsewhere, with the decoder of MODEL fixed.

A model of version 0.2.0 gets kernels of integers, too, which are smaller and faster:
see `rounding`. A second synthesis stays what it was, but for that. It was trained for
the files of the encoder before; `train.py --realism --init=DIR` trains it on for those
of the new one.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import, or is not installed
    from tfcodec import tools

    tools.begin(tools.reencode(__doc__))

import hashlib
import json
import pathlib

from tfcodec import (
    export,
    files,
    litert_export,
    registry,
    rounding,
    same_decoder,
    tools,
    weights,
)
from tfcodec.densities import CHOICE_BITS


def reencode(
    model, directory, error_bits: float = CHOICE_BITS, arrays=None, note: str = ""
) -> pathlib.Path:
    """Writes a model with another encoder to `directory`, replaced if all succeeds.

    Args:
        model: an exported model, or the name of a shipped one.
        directory: to write; LiteRT files and a second synthesis are in it if `model`
            has them.
        error_bits: bits that one unit of squared error in a latent is worth.
        arrays: file of the encoder's weights, in the order of
            `same_decoder.encoder_variables`; None to keep those of `model`.
        note: for the model card: how these weights were trained.

    Returns:
        `directory`.

    Raises:
        ValueError: there is no such model, or without `arrays` its latents have no such
            quantiser, or `error_bits` is not above 0, or `directory` is that of the
            model, or the arrays are not those of its encoder.
        OSError: `directory` could not be written.
    """
    source, directory = registry.resolve(model), pathlib.Path(directory)
    if not error_bits > 0:
        raise ValueError(f"error_bits must be above 0, not {error_bits}")
    if directory.resolve() == source.path.resolve():
        raise ValueError(f"{directory} is the model itself: name another directory")
    registry.check_replaceable(directory)
    built = same_decoder.rebuilt(source)
    quantiser = built.coder.quantiser
    if quantiser:
        built.coder.quantiser = quantiser.with_error_bits(error_bits)
    elif not arrays:
        raise ValueError(
            f"model {source.name} rounds latents without a quantiser that could be "
            "fitted anew: give --weights"
        )
    if arrays:
        weights.load_arrays(same_decoder.encoder_variables(built), arrays)
    of = (source.card[key] for key in ("architecture", "options", "training", "name"))
    with files.new_directory(directory) as part:
        tables = same_decoder.tables(source.path)
        export.export(built, part, *of, tables, source.card.get("licence", ""))
        # A later version may compute the fingerprint of the same decoder differently.
        same_decoder.check(part, source.path, built)
        card = registry.Model.at(part).card
        card["fingerprint"] = source.card["fingerprint"]
        card["encoder"] = _record(source, built, arrays, note)
        if quantiser:
            card["encoder"]["error_bits"] = error_bits
        if source.realism:
            second = litert_export.realistic(built, source)
            export.export_realism(built, second, part / registry.REALISM)
            card["realism"] = source.card["realism"]
        (part / "card.json").write_text(json.dumps(card, indent=1) + "\n")
        if source.litert:
            litert_export.export(part)
    return directory


def _record(source, built, arrays, note) -> dict:
    """Returns what the model card tells of the encoder's weights.

    The SHA-256 of the arrays tells encoders apart that have the same decoder.
    """
    record = dict(source.card.get("encoder", {}))
    if rounding.by_integers(built):
        record["kernel_bits"] = 8
    if arrays:
        content = pathlib.Path(arrays).read_bytes()
        record["weights"] = hashlib.sha256(content).hexdigest()
        record["note"] = note
    return record


def main(argv=None):
    parser = tools.reencode(__doc__)
    parser.set_defaults(error_bits=CHOICE_BITS)
    args = parser.parse_args(argv)
    tools.print_made(
        parser,
        lambda: reencode(
            args.model, args.directory, args.error_bits, args.weights, args.note
        ),
    )


if __name__ == "__main__":
    main()
