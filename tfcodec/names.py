"""What the names on the command line mean: inputs, one output, or a folder for all."""

from __future__ import annotations

import argparse
import os
import pathlib

from tfcodec import bitstream, files
from tfcodec.options import file

ONE_INPUT = (
    "OUT can be given for one input only; several need a folder, such as -o FOLDER/"
)


def take_late(parser, args, words: list[str]) -> None:
    """Adds names of files that follow options to those before, as in IN -q 50 OUT.

    Args:
        parser: for errors.
        args: what argparse has read, with names up to the next option only.
        words: what it has not taken.
    """
    taken = next(
        (v for v in map(vars(args).get, ("input", "images")) if isinstance(v, list)), []
    )
    if not taken or any(word.startswith("-") and word != "-" for word in words):
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    try:
        taken += map(file, words)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))


def settle_output(parser, args) -> None:
    """Moves the last input to the output, if it is meant as one.

    As for `cp`, an existing folder that is named last is where to write; but with `-r`
    all folders are inputs. The last of two files is the output if its suffix is that of
    an output. If `-o` names nothing that exists, and there may be several inputs, it is
    a folder to make.
    """
    if not args.out_dir and takes_several(args) and is_new_folder(args.output):
        args.out_dir, args.output = pathlib.Path(args.output), None
        return
    named = args.output if args.output is not None else args.input[-1]
    is_folder = os.path.isdir(named) and not named.lower().endswith(bitstream.SUFFIX)
    if is_folder and args.out_dir is None:
        if args.output is not None:
            args.out_dir, args.output = pathlib.Path(args.output), None
            return
        if len(args.input) > 1 and not args.recursive:
            args.out_dir = pathlib.Path(args.input.pop())
            return
    if named.endswith(os.sep) and len(args.input) > 1 and args.output is None:
        # A folder that is not there yet.
        args.output = args.input.pop()
    ends = args.input[-1].lower().endswith(bitstream.SUFFIX)
    last = ends == (args.command == "compress") or args.input[-1] in ("-", os.devnull)
    last &= not (args.recursive and is_folder)
    if args.output is None and len(args.input) == 2 and last:
        args.output = args.input.pop()
    if args.output and args.output.endswith(os.sep) and args.out_dir is None:
        args.out_dir, args.output = pathlib.Path(args.output), None
    if args.output and (len(args.input) > 1 or args.out_dir):
        parser.error(ONE_INPUT)


def takes_several(args) -> bool:
    """Whether the inputs of a command may be more than one file."""
    return len(args.input) > 1 or any(
        (args.recursive and os.path.isdir(name))
        or (files.WILDCARD.search(name) and not os.path.lexists(name))
        for name in args.input
    )


def is_new_folder(output: str | None) -> bool:
    """Whether the output of several inputs names a folder that is still to be made.

    A name with a suffix is that of a file, unless it ends in `/`.
    """
    if output in (None, "-") or os.path.lexists(output):
        return False
    return not pathlib.Path(output).suffix


def check(parser, args) -> None:
    """Refuses inputs that cannot be meant so, before any file is read."""
    if args.out_dir and "-" in args.input:
        parser.error(
            f"standard input has no name to have in {args.out_dir}; give it one, as "
            f"-o {args.out_dir / 'NAME'}"
        )
    # The last of several names, if nothing is there, is often that of a folder.
    last = args.input[-1]
    suffixes = files.SUFFIXES if args.command == "compress" else {bitstream.SUFFIX}
    is_input = (
        last == "-"
        or pathlib.Path(last).suffix.lower() in suffixes
        or os.path.lexists(last)
        or files.WILDCARD.search(last)
    )
    if len(args.input) > 1 and not args.out_dir and not is_input:
        parser.error(
            f"{last}: neither a folder nor an input that is there; to make a folder, "
            f"write {os.path.join(last, '')}"
        )
