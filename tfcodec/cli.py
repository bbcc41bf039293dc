"""The command line: compress, decompress, info, models, eval, demo.

One line on stdout says what was done. Diagnostics go to stderr; bad input is one line
there and exit code 1, wrong usage exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys

from absl import app

from tfcodec import commands
from tfcodec.arguments import parse
from tfcodec.console import quiet_tensorflow, report

COMMANDS = {
    "compress": commands.compress,
    "decompress": commands.decompress,
    "info": commands.info,
    "models": commands.models,
    "export": commands.export,
    "eval": commands.eval_,
    "demo": commands.demo,
    "version": commands.version,
}


def run() -> None:
    """Entry point of `tfcodec` and `compress.py`."""
    if sys.argv[1:2] == ["export"]:
        # Imported while absl's app runs, TensorFlow forgets that it is eager, and
        # cannot trace functions of ours.
        with quiet_tensorflow():
            import tensorflow  # noqa: F401
    app.run(main, flags_parser=parse)


def main(args: argparse.Namespace) -> int:
    """Runs a command; returns the exit code."""
    try:
        failed = COMMANDS[args.command](args)
        sys.stdout.flush()
        return 1 if failed else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        report(error, args)
        return 1
