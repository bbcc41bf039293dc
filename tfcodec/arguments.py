"""The arguments of the command line: one function for each command."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

from tfcodec import names, registry
from tfcodec.console import Failure, output, report, say, shown
from tfcodec.options import (
    add_coding,
    add_engine,
    add_max_pixels,
    add_rate,
    add_realism,
    add_strip,
    check_above_zero,
    check_beside_server,
    check_metric,
    check_port,
    check_server,
    checked,
    codecs,
    count,
    crop,
    file,
    folder,
    path,
    positive,
)

# Codecs that `eval` compares by default.
CODECS = "tfcodec,jpeg,jpeg2000,webp,avif,jxl,png"


class Parser(argparse.ArgumentParser):
    """An argument parser that can print any file name on any terminal."""

    def error(self, message):
        say(self.format_usage(), sys.stderr, end="")
        say(shown(f"{self.prog}: error: {message}"), sys.stderr)
        sys.exit(2)

    def print_help(self, file=None):
        try:
            say(self.format_help(), file or output("the help"), end="")
        except (Failure, OSError) as error:
            report(error, argparse.Namespace(debug=False))
            sys.exit(1)


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the arguments in `argv`; `command` is the name of the command to run."""
    name = os.path.basename(argv[0])
    parser = Parser(
        prog="python -m tfcodec" if name == "__main__.py" else name,
        description="A learned image codec that runs wherever a picture is opened.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-V", "--version", action="store_true", help="show version and models"
    )
    parser.set_defaults(command=None, debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (
        add_compress, add_decompress, add_bulk, add_info, add_models, add_export,
        add_eval, add_demo,
    ):  # fmt: skip
        add(commands)
    own, others = argv[1:], []
    if own[:1] == ["bulk"] and "--" in own:
        at = own.index("--")
        own, others = own[:at], own[at + 1 :]
    args, unknown = parser.parse_known_args(own)
    if args.command == "bulk":  # Unknown options may be Beam's, which `jobs` checks.
        args.beam, args.runners_own = unknown, others
    elif unknown:
        names.take_late(parser, args, unknown)
    if args.version:
        args.command = "version"
    elif not args.command:
        known = ", ".join(commands.choices)
        parser.error(f"a command is needed: {known}")
    if "input" in args and "out_dir" in args:
        names.settle_output(parser, args)
        names.check(parser, args)
        check_beside_server(parser, commands.choices[args.command], args)
    # Only now: as a default of argparse it could not be told from one that is given,
    # which `check_beside_server` refuses.
    if args.command in ("compress", "bulk") and args.model is None:
        args.model = registry.DEFAULT
    return args


def add_command(commands, name: str, help: str):
    """Adds a command with the options that all commands have; returns its parser."""
    command = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        allow_abbrev=False,
    )
    command.set_defaults(command=name)
    command.add_argument(
        "--debug", action="store_true", help="show a traceback when it fails"
    )
    return command


def add_files(command, source: str, target: str) -> None:
    """Adds the arguments of both `compress` and `decompress`: on files and results.

    Args:
        command: the parser.
        source, target: help on the inputs and on the output.
    """
    command.add_argument("input", metavar="IN", nargs="+", type=file, help=source)
    command.add_argument("-o", "--output", metavar="OUT", type=file, help=target)
    command.add_argument(
        "--out_dir",
        metavar="DIR",
        type=folder,
        help="write to this folder, with the names of the inputs (default: beside "
        "each); a last IN that is a folder, or whose name ends in /, does the same; "
        "with -r, only one whose name ends in /",
    )
    command.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        help="take all files in folders, to any depth",
    )
    command.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="overwrite existing files; let - write to a terminal",
    )
    add_strip(command)
    command.add_argument(
        "--json", action="store_true", help="write one row of JSON for each file"
    )
    command.add_argument(
        "--keep_times",
        action="store_true",
        help="give each output the file times of its input",
    )
    command.add_argument(
        "--server",
        type=checked(check_server, str),
        metavar="HOST:PORT[/MODEL]",
        help="let a served model do the work, over gRPC: see export",
    )


def add_compress(commands) -> None:
    command = add_command(commands, "compress", "compress images to .tfc files")
    add_files(
        command,
        "images that Pillow reads, folders with -r, - for stdin; the last of two is "
        "OUT if it ends in .tfc or is -",
        "the file to write, - for stdout (default: IN with suffix .tfc)",
    )
    add_rate(command)
    add_coding(command)
    command.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="decode what was written, and show its PSNR, MS-SSIM and SSIMULACRA2",
    )
    add_max_pixels(command, "images")
    add_engine(command)


def add_decompress(commands) -> None:
    command = add_command(commands, "decompress", "decompress .tfc files to images")
    add_files(
        command,
        ".tfc files, folders with -r, - for stdin; the last of two is OUT unless it "
        "ends in .tfc",
        "the file to write, its format by suffix: .png, .webp (lossless), .jpg (of "
        "quality 95), ... (default: IN with suffix .png); - for a PNG on stdout",
    )
    add_realism(command)
    command.add_argument(
        "--crop",
        type=crop,
        metavar="X,Y,W,H",
        help="decode only W x H pixels, from column X and row Y on",
    )
    command.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        help="a model directory, for files made with a model that is not shipped",
    )
    add_max_pixels(command, "files")
    add_engine(command)


def add_bulk(commands) -> None:
    command = add_command(
        commands, "bulk", "compress more images than one machine can, by Apache Beam"
    )
    command.add_argument(
        "patterns",
        metavar="PATTERN",
        nargs="+",
        help="input files, such as 'gs://bucket/photos/**.jpg', in quotes: * is any "
        "name, ** any path; or a folder, for all images in it. Options of Beam may "
        "follow as --name=value, and after -- those that only its runner knows",
    )
    command.add_argument(
        "--out_dir",
        metavar="DIR",
        required=True,
        help="write to this folder, with the names of the inputs from the pattern's "
        "first folder with a wildcard on; and failed.jsonl, which files failed and why",
    )
    verb = command.add_mutually_exclusive_group()
    verb.add_argument(
        "--decompress", action="store_true", help="the inputs are .tfc files"
    )
    verb.add_argument(
        "--evaluate",
        action="store_true",
        help="write no images, but rows.jsonl with their bits per pixel, PSNR, "
        "SSIMULACRA2 and other figures, and mean.json",
    )
    command.add_argument(
        "--suffix",
        metavar=".png",
        default=".png",
        help="format to decompress to (default: %(default)s)",
    )
    command.add_argument(
        "-f", "--force", action="store_true", help="overwrite what exists"
    )
    command.add_argument(
        "--skip_existing",
        action="store_true",
        help="skip inputs whose output exists: to continue a job that ended early",
    )
    command.add_argument(
        "--runner",
        default="DirectRunner",
        help="runner of Beam, such as DataflowRunner (default: %(default)s, on this "
        "machine)",
    )
    command.add_argument(
        "--threads",
        metavar="N",
        type=positive,
        help="cores that LiteRT uses in each process of Beam (default: those of this "
        "machine divided by --direct_num_workers; 1 with other runners)",
    )
    command.add_argument("--json", action="store_true", help="print results as JSON")
    for add in (add_rate, add_coding, add_realism, add_strip, add_engine):
        add(command)
    add_max_pixels(command, "images or files")


def add_info(commands) -> None:
    command = add_command(
        commands, "info", "show what a .tfc file is, without decoding it"
    )
    command.add_argument(
        "input", metavar="FILE", type=file, help="a .tfc file, - for stdin"
    )
    command.add_argument("--json", action="store_true", help="write JSON")
    add_max_pixels(command, "a file")


def add_models(commands) -> None:
    command = add_command(commands, "models", "list the shipped models")
    command.add_argument("--json", action="store_true", help="write JSON")


def add_export(commands) -> None:
    command = add_command(
        commands, "export", "write a model as TensorFlow Serving loads it"
    )
    command.add_argument(
        "model", metavar="MODEL", help="a shipped model, or a model directory"
    )
    command.add_argument(
        "directory",
        metavar="DIR",
        help="folder of all versions of the model; the server knows the model by the "
        "folder's name",
    )
    command.add_argument(
        "--limits",
        metavar="NAME=N,...",
        default="",
        help="limits on a request, such as pixels=4000000 (see SECURITY.md)",
    )


def add_eval_extras(command) -> None:
    """Adds the options of `eval` other than codecs and reports."""
    command.add_argument(
        "--published",
        action="store_true",
        help="compare with published curves too; the images must be the Kodak set",
    )
    command.add_argument(
        "--cache",
        metavar="DIR",
        type=pathlib.Path,
        help="keep every result in this folder and use it again, so that a run that "
        "was stopped can be continued",
    )
    command.add_argument(
        "--jobs",
        metavar="N",
        type=positive,
        default=1,
        help="code N files at a time; times and memory are measured only with 1 "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--metric",
        metavar="METRIC",
        type=checked(check_metric, str),
        action="append",
        default=[],
        help="a further metric, may be repeated: wasserstein, or module:function of "
        "two uint8 arrays [height, width, 3], from a module that Python can import or "
        "that lies in the current folder; it raises ValueError for an image that it "
        "cannot judge",
    )
    command.add_argument(
        "-f", "--force", action="store_true", help="overwrite OUT if it exists"
    )
    add_max_pixels(command, "images")


def add_eval(commands) -> None:
    command = add_command(
        commands, "eval", "compare codecs on images: size, quality, time, BD-rate"
    )
    command.add_argument(
        "images", metavar="IMAGES", nargs="+", type=path, help="files, folders, globs"
    )
    command.add_argument(
        "--codecs",
        type=codecs,
        default=CODECS,
        metavar="NAME[:OPTION=VALUE][:q=Q:Q...],...",
        help="codecs, with commas between: a shipped model or a model directory "
        "(effort=0..9, realism=0..1, by default 0, engine=NAME), jpeg, jpeg-444, "
        "jpeg2000 (q is its compression ratio), webp, avif and avif-444 (speed=0..10, "
        "by default 6, and tune=iq|ssimulacra2|ssim|psnr), jxl (effort=1..10, by "
        "default 7), heic, png, webp-lossless, dictionary (or dictionary:ATOMS.npy; "
        "with scikit-learn); and qualities to try (default: %(default)s, each over a "
        "sweep of its own). Rivals at their best: avif:speed=0:tune=ssimulacra2, "
        "jxl:effort=9",
    )
    command.add_argument(
        "--json",
        metavar="OUT",
        type=file,
        help="write all rows as JSON; - for stdout, and the tables go to stderr",
    )
    command.add_argument(
        "--report",
        metavar="OUT.html",
        type=file,
        help="write a page of plots, tables and images side by side; - for stdout",
    )
    command.add_argument(
        "--pictures",
        metavar="N",
        type=count,
        default=3,
        help="images to show in the report, the first N (default: %(default)s)",
    )
    add_eval_extras(command)


def add_demo(commands) -> None:
    command = add_command(
        commands,
        "demo",
        "show a page that compares codecs on photographs you drop on it",
    )
    command.add_argument(
        "image", metavar="IMAGE", nargs="?", help="a photograph to begin with"
    )
    command.add_argument(
        "--port",
        metavar="N",
        type=checked(check_port, int),
        help="serve http://127.0.0.1:N/, which only this machine reaches (default: "
        "8642, or another port that is free)",
    )
    command.add_argument(
        "--megapixels",
        metavar="X",
        type=checked(check_above_zero),
        default=4,
        help="reduce larger photographs to X megapixels (default: %(default)s)",
    )
    command.add_argument(
        "--no_browser", action="store_true", help="do not open a browser"
    )
    add_max_pixels(command, "photographs")
