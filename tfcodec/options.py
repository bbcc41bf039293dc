"""Options that several commands of the command line have; see `arguments`."""

from __future__ import annotations

import argparse
import functools
import pathlib

from tfcodec import bitstream, quality, registry

# Devices that are read as "-", stdin or stdout. Under its own name, a device that the
# shell has redirected to a file would be replaced by a new file.
STREAMS = dict.fromkeys(("/dev/stdin", "/dev/stdout"), "-")
# Options in place of a quality, as `quality.TARGETS` -> help.
TARGETS = {
    "max_bytes": "the best image of at most N bytes",
    "target_bpp": "the best image of at most X bits per pixel",
    "target_psnr": "the smallest file with a PSNR of X dB or more",
    "target_msssim": "the smallest file with an MS-SSIM of X or more, such as 0.97",
    "target_ssimulacra2": "the smallest file with an SSIMULACRA2 of X or more, such "
    "as 70",
}


def crop(text: str) -> tuple[int, ...]:
    """Reads X,Y,W,H, for argparse."""
    try:
        x, y, width, height = (int(number) for number in text.split(","))
    except ValueError:
        reason = f"not four whole numbers X,Y,W,H: {text!r}"
        raise argparse.ArgumentTypeError(reason) from None
    return x, y, width, height


def path(text: str) -> str:
    """Reads the name of a file or folder, for argparse."""
    if not text:  # pathlib would take it for the current folder
        raise argparse.ArgumentTypeError("an empty file name")
    return text


def file(text: str) -> str:
    """Reads the name of a file, "-" for stdin or stdout, for argparse."""
    return STREAMS.get(text, path(text))


def folder(text: str) -> pathlib.Path:
    """Reads the path of a folder, for argparse."""
    if not text:  # pathlib would take it for the current folder
        raise argparse.ArgumentTypeError("an empty folder name")
    return pathlib.Path(text)


def dotted(text: str) -> str:
    """Reads a suffix of file names, with or without its dot, for argparse."""
    return text if text.startswith(".") else f".{text}"


def positive(text: str) -> int:
    """Reads a whole number above 0, for argparse."""
    return _whole(text, 1)


def count(text: str) -> int:
    """Reads a whole number, 0 or more, for argparse."""
    return _whole(text, 0)


def _whole(text, least):
    number = int(text) if text.lstrip("+-").isdecimal() else None
    if number is None or number < least:
        raise argparse.ArgumentTypeError(
            f"not a whole number from {least} on: {text!r}"
        )
    return number


def checked(check, kind=float):
    """Returns a function for argparse that reads a number and has `check` check it.

    Args:
        check: function that raises a ValueError, whose message is shown.
        kind: `float` or `int`.
    """

    def read(text):
        number = kind(text)
        try:
            check(number)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return number

    read.__name__ = kind.__name__  # for argparse's own message
    return read


def check_effort(number: int) -> None:
    """Raises a ValueError for an effort that `codec.compress` does not have."""
    from tfcodec import compression  # imports NumPy: not for `--help`

    compression.steps_of(number)


def codecs(text: str) -> tuple[list, list[str]]:
    """Reads the codecs that `eval` compares, for argparse.

    Returns what `contestants.contestants` does. If none of the codecs is installed, the
    first list is empty: that is not wrong usage, and `eval` reports it later.
    """
    from tfcodec import classical, contestants  # not above, as these import NumPy

    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return contestants.contestants(names)
    except classical.Missing as error:
        return [], [str(error)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_metric(text: str) -> None:
    """Raises a ValueError for a metric that `eval` does not have."""
    from tfcodec import evaluation

    evaluation.metric(text)


def check_port(number: int) -> None:
    """Raises a ValueError for a port that `demo` cannot have."""
    if not 0 <= number < 65536:
        raise ValueError(f"a port is from 0 to 65535, not {number}")


def check_above_zero(number: float) -> None:
    """Raises a ValueError for a number that is not above 0."""
    if not number > 0:
        raise ValueError(f"must be above 0, not {number:g}")


def check_server(text: str) -> None:
    """Raises a ValueError for an address that `--server` cannot have."""
    from tfcodec import predict

    predict.Server(text)


def check_beside_server(parser, command, args) -> None:
    """Refuses options that have no effect where a server does the work.

    Args:
        parser: for errors.
        command: the parser of the command, for the defaults of its options.
        args: the arguments.
    """
    if not getattr(args, "server", None):
        return
    names = [*quality.TARGETS, "effort", "verify", "alpha_quality", "crop"]
    if not getattr(args, "verbose", False):  # -v decodes on this machine, to measure
        names += ["model", "engine"]
    for name in names:
        if getattr(args, name, None) != command.get_default(name):
            hint = "; HOST:PORT/MODEL chooses a model" if name == "model" else ""
            parser.error(f"--{name} cannot be used with --server{hint}")


def add_max_pixels(command, what: str) -> None:
    """Adds the limit on the pixels of inputs; `what` is a plural noun for these."""
    command.add_argument(
        "--max_pixels",
        metavar="N",
        type=count,
        help=f"take {what} of up to N pixels, 0 for any "
        f"(default: {bitstream.Limits().pixels})",
    )


def add_strip(command) -> None:
    """Adds the option to leave out metadata."""
    command.add_argument(
        "--strip", action="store_true", help="keep no ICC profile, EXIF or XMP"
    )


def add_engine(command) -> None:
    """Adds the choice of the engine that runs the model."""
    command.add_argument(
        "--engine",
        choices=("auto", "litert", "tensorflow"),
        default="auto",
        help="what runs the model: litert starts at once; auto takes it if it and the "
        "model's files for it are installed (default: %(default)s)",
    )


def add_rate(command) -> None:
    """Adds the quality, and the targets that may be given in its place."""
    rate = command.add_mutually_exclusive_group()
    rate.add_argument(
        "-q",
        "--quality",
        type=checked(quality.check),
        metavar="0..100",
        help="smallest file to best image, fractions allowed (default: "
        f"{quality.DEFAULT})",
    )
    for name, words in TARGETS.items():
        kind, metavar = (int, "N") if name == "max_bytes" else (float, "X")
        check = functools.partial(quality.check_target, name)
        rate.add_argument(
            f"--{name}", type=checked(check, kind), metavar=metavar, help=words
        )


def add_coding(command) -> None:
    """Adds the options of compression other than quality: model, effort and so on."""
    command.add_argument(
        "--alpha_quality",
        type=checked(quality.check),
        metavar="0..100",
        help="code alpha with loss, at this quality (default: without loss)",
    )
    command.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        help=f"a shipped model, or a model directory (default: {registry.DEFAULT})",
    )
    command.add_argument(
        "--effort",
        type=checked(check_effort, int),
        default=0,
        metavar="0..9",
        help="optimise the file step by step, which takes longer; decompression does "
        "not (default: %(default)s)",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="decode what was written and compare, before an old file is replaced",
    )


def add_realism(command) -> None:
    """Adds the option that says how much texture is synthesised."""
    command.add_argument(
        "--realism",
        type=checked(quality.check_realism),
        metavar="0..1",
        help="how much texture of hair, skin or grass, which the file does not store, "
        "is synthesised as it is likely to have been; 0 is nearest to the original in "
        "every pixel, for evidence, medicine and measurement (default: what the "
        "model's card says for the file's quality)",
    )
