"""The programs `python -m tfcodec.NAME MODEL ...`: their arguments, start and end.

They are kept apart from the modules that do the work, whose imports are slow or may
fail. So `--help` and usage errors are answered at once, everywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import signal

from tfcodec import signals
from tfcodec.console import need_training


def _parser(name, about):
    parser = argparse.ArgumentParser(
        prog=f"python -m tfcodec.{name}", description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", help="a model directory, or the name of a shipped one")
    return parser


def reencode(about: str) -> argparse.ArgumentParser:
    """Returns the parser of `reencode`, given its description."""
    parser = _parser("reencode", about)
    parser.add_argument("directory", help="model directory to make")
    parser.add_argument(
        "--error_bits",
        type=float,
        help="bits that a unit of squared error is worth; by default 11",
    )
    parser.add_argument("--weights", help="file of the encoder's weights")
    parser.add_argument("--note", default="", help="how these were trained")
    return parser


def litert_export(about: str) -> argparse.ArgumentParser:
    """Returns the parser of `litert_export`, given its description."""
    parser = _parser("litert_export", about)
    parser.add_argument(
        "directory", nargs="?", help="model directory to make, for LiteRT alone"
    )
    parser.add_argument(
        "--int8", action="store_true", help="weights of 8 bits: smaller files"
    )
    return parser


def web_files(about: str) -> argparse.ArgumentParser:
    """Returns the parser of `web_files`, given its description."""
    parser = _parser("web_files", about)
    parser.add_argument("directory", help="folder of models, such as web/beside/models")
    parser.add_argument(
        "--decode_only", action="store_true", help="leave out what only encoding needs"
    )
    parser.add_argument(
        "--no_realism", action="store_true", help="leave out the second synthesis"
    )
    return parser


def realism(about: str) -> None:
    """Says that the module `realism` is a part of `train.py`, and ends the process."""
    parser = argparse.ArgumentParser(
        prog="python -m tfcodec.realism", description=about,
        usage="python train.py --realism --init=MODEL --images=FOLDER --run=RUN",
        epilog="This module is no program: train.py --help lists the settings.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    begin(parser)
    parser.exit(2, f"{parser.prog}: no program; use train.py --realism\n")


def begin(parser: argparse.ArgumentParser, training: bool = True) -> None:
    """Answers for help and wrong arguments, and sees to signals, before slow imports.

    Args:
        parser: of this process's arguments.
        training: whether the program needs what is installed for training, without
            which the process ends here.
    """
    parser.parse_args()
    signals.clean_up()
    if training:
        need_training(parser.prog)


def print_made(parser: argparse.ArgumentParser, make) -> None:
    """Prints what make() returns; exits with one line on stderr if it fails.

    These errors are ValueError, of what was asked for, and OSError.
    """
    try:
        made = make()
    except KeyboardInterrupt:
        signals.end_by(signal.SIGINT)
        raise
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    with contextlib.suppress(BrokenPipeError):
        print(made)
