"""Options that several commands of the command line have; see `arguments`."""

from __future__ import annotations

from tfcodec import bitstream, quality, registry


def numbers(text: str) -> tuple[int, ...]:
    """Reads X,Y,W,H, for argparse."""
    found = tuple(int(number) for number in text.split(","))
    if len(found) != 4:
        raise ValueError
    return found


def positive(text: str) -> int:
    """Reads a whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def count(text: str) -> int:
    """Reads a whole number, 0 or more, for argparse."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def add_max_pixels(command, what: str) -> None:
    """Adds the limit on what is read, and says of what."""
    command.add_argument(
        "--max_pixels",
        metavar="N",
        type=count,
        help=f"take {what} of up to N pixels, 0 for any "
        f"(default: {bitstream.Limits().pixels})",
    )


def add_strip(command) -> None:
    command.add_argument(
        "--strip", action="store_true", help="keep no ICC profile, EXIF or XMP"
    )


def add_engine(command) -> None:
    """Adds what runs the model."""
    command.add_argument(
        "--engine",
        choices=("auto", "litert", "tensorflow"),
        default="auto",
        help="what runs the model: litert starts at once and has no effort; auto takes "
        "it where it and the model's files for it are installed (default: %(default)s)",
    )


def add_rate(command) -> None:
    """Adds the quality, or what stands in its place."""
    rate = command.add_mutually_exclusive_group()
    rate.add_argument(
        "-q",
        "--quality",
        type=float,
        default=quality.DEFAULT,
        metavar="0..100",
        help="smallest file to best image, fractions allowed (default: %(default)s)",
    )
    rate.add_argument(
        "--max_bytes", type=int, metavar="N", help="the best image of at most N bytes"
    )
    rate.add_argument(
        "--target_bpp",
        type=float,
        metavar="X",
        help="the best image of at most X bits a pixel",
    )
    rate.add_argument(
        "--target_psnr",
        type=float,
        metavar="X",
        help="the smallest file with a PSNR of X dB or more",
    )
    rate.add_argument(
        "--target_msssim",
        type=float,
        metavar="X",
        help="the smallest file with an MS-SSIM of X or more, as 0.97",
    )
    rate.add_argument(
        "--target_ssimulacra2",
        type=float,
        metavar="X",
        help="the smallest file with an SSIMULACRA2 of X or more, as 70",
    )


def add_coding(command) -> None:
    """Adds what is asked of a file, beside its quality, and of which model."""
    command.add_argument(
        "--alpha_quality",
        type=float,
        metavar="0..100",
        help="lose something of alpha too (default: nothing)",
    )
    command.add_argument(
        "--model",
        default=registry.ENTRIES[0].name,
        metavar="NAME_OR_DIR",
        help="a shipped model, or a model directory (default: %(default)s)",
    )
    command.add_argument(
        "--effort",
        type=int,
        default=0,
        metavar="0..9",
        help="improve the file step by step, which takes longer; to decompress takes "
        "no longer (default: %(default)s)",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="decode what was written and compare, before an old file is replaced",
    )


def add_realism(command) -> None:
    """Adds how much likely texture is drawn."""
    command.add_argument(
        "--realism",
        type=float,
        metavar="0..1",
        help="how much likely texture of hair, skin or grass is drawn where the file "
        "has no room for the true one; 0 is nearest to the original in every pixel, "
        "for evidence, medicine and measurement (default: what the model's card says "
        "for the file's quality)",
    )
