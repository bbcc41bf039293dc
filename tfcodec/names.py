"""What the names on the command line mean: inputs, one output, or a folder for all."""

from __future__ import annotations

import argparse
import os
import pathlib

from tfcodec import bitstream, inputs
from tfcodec.options import file

ONE_INPUT = (
    "OUT can be given for one input only; several need a folder, such as -o FOLDER/"
)


def take_late(parser, args, words: list[str]) -> None:
    """Adds names of files that follow options to those before, as in IN -q 50 OUT.

    Args:
        parser: for errors.
        args: what argparse has read; of names, only those before the next option.
        words: those that argparse did not recognise.
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
    """Settles where outputs go: to `args.output`, one file, or `args.out_dir`.

    The last input becomes the output if it is meant as one, and an output that is a
    folder becomes `out_dir`.
    """
    given = args.output is not None
    if not given and last_is_output(args):
        args.output = args.input.pop()
    if args.output is None:
        return
    several = given and takes_several(args)
    if args.out_dir is None and is_folder(args.output, several):
        args.out_dir, args.output = pathlib.Path(args.output), None
    elif args.out_dir or len(args.input) > 1:
        parser.error(ONE_INPUT)


def last_is_output(args) -> bool:
    """Whether the last of several inputs is where to write.

    As for `cp`, a folder is; but with `-r` one that exists is an input, unless its name
    ends in a separator. The last of two files is, if its suffix is that of an output.
    """
    if len(args.input) < 2:
        return False
    last = args.input[-1]
    if last.endswith(os.sep):
        return True
    if is_folder(last) and (args.recursive or args.out_dir is None):
        return not args.recursive
    coded = last.lower().endswith(bitstream.SUFFIX)
    is_target = coded == (args.command == "compress") or last in ("-", os.devnull)
    return len(args.input) == 2 and is_target


def is_folder(output: str, several: bool = False) -> bool:
    """Whether an output is a folder to write to, which may still have to be made.

    It is if its name ends in a separator, or if it is there, and not named as a `.tfc`
    file, which is a mistake. For several inputs, it is also if nothing is there and its
    name has no suffix.
    """
    if output.endswith(os.sep):
        return True
    if os.path.isdir(output):
        return not output.lower().endswith(bitstream.SUFFIX)
    is_new = output != "-" and not os.path.lexists(output)
    return several and is_new and not pathlib.Path(output).suffix


def takes_several(args) -> bool:
    """Whether the inputs of a command may be more than one file."""
    return len(args.input) > 1 or any(
        (args.recursive and os.path.isdir(name)) or inputs.is_pattern(name)
        for name in args.input
    )


def check(parser, args) -> None:
    """Refuses names that must be mistakes, before any file is read."""
    if args.out_dir and "-" in args.input:
        parser.error(
            f"standard input has no name to have in {args.out_dir}; give it one, as "
            f"-o {args.out_dir / 'NAME'}"
        )
    # If nothing has the last of several names, it was probably meant as a folder to
    # write to.
    last = args.input[-1]
    suffixes = inputs.SUFFIXES if args.command == "compress" else {bitstream.SUFFIX}
    is_input = (
        last == "-"
        or pathlib.Path(last).suffix.lower() in suffixes
        or os.path.lexists(last)
        or inputs.is_pattern(last)
    )
    if len(args.input) > 1 and not args.out_dir and not is_input:
        parser.error(
            f"{last}: neither a folder nor an input that is there; to make a folder, "
            f"write {os.path.join(last, '')}"
        )
