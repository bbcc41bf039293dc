"""The command line: compress, decompress, bulk, info, models, export, eval, demo.

One line on stdout reports each result. Diagnostics go to stderr. Bad input gives one
line there and exit code 1, wrong usage exit code 2.
"""

from __future__ import annotations

import argparse
import signal
import sys

from tfcodec import commands, signals
from tfcodec.arguments import parse
from tfcodec.console import (
    abandon_stdout,
    naming,
    open_standard_streams,
    report,
)

COMMANDS = {
    "compress": commands.compress,
    "decompress": commands.decompress,
    "bulk": commands.bulk,
    "info": commands.info,
    "models": commands.models,
    "export": commands.export,
    "eval": commands.eval_,
    "demo": commands.demo,
    "version": commands.version,
}


def run() -> None:
    """Runs the command in `sys.argv`, and ends the process: see `__main__`."""
    open_standard_streams()
    if sys.argv[1:2] != ["demo"]:  # Its server handles signals, and writes no files.
        signals.clean_up()
    try:
        code = main(parse(sys.argv))
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        signals.end_by(signal.SIGINT)
    sys.exit(code)


def main(args: argparse.Namespace) -> int:
    """Runs a command; returns the exit code."""
    try:
        failed = COMMANDS[args.command](args)
        if sys.stdout is not None:
            with naming(sys.stdout):
                sys.stdout.flush()
        return 1 if failed else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # The reader of our output has closed it.
        abandon_stdout()
        return 1
    except Exception as error:
        report(error, args)
        if getattr(error, "filename", None) == "stdout":
            abandon_stdout()
        return 1
