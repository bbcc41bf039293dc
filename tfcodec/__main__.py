"""The program `tfcodec`, also as `python -m tfcodec` and `compress.py`."""

from __future__ import annotations

import signal


def run() -> None:
    """Runs the command line; Ctrl-C ends it without a traceback from the start."""
    # A KeyboardInterrupt in one of many imports would be printed as a traceback.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # Else the caller ignores the signal.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tfcodec import cli

    signal.signal(signal.SIGINT, handler)
    cli.run()


if __name__ == "__main__":
    run()
