"""What a user sees while a command works: progress, and no noise of TensorFlow's."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
import traceback

PROGRESS_SECONDS = 2
BAR = 30  # characters

# Lines of TensorFlow's start that say nothing to a user: information and warnings, in
# both its formats, and the errors of a GPU build on a machine without a GPU. Releases
# from 2.18 on write the former before they have read any log level.
NOISE = (
    r"WARNING: All log messages before absl::InitializeLog|"
    r"[IW]\d{4} \d\d:\d\d:\d\d\.|[IW]0000 |"
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] |"
    r"To enable the following instructions: |"
    r"(E0000|.*: E) .*(Unable to register cu|failed call to cuInit)"
)
# A process of its own, so that what TensorFlow says before it aborts still arrives.
SIEVE = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if line == b"\\0\\n":
        break
    if not noise.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


class Progress:
    """Says how far a work is: a bar on a terminal, elsewhere a line now and then.

    Args:
        stream: where.
        unit: what is counted, in the plural.
    """

    def __init__(self, stream, unit: str):
        self.stream, self.unit = stream, unit
        self.terminal = stream is not None and stream.isatty()
        self.wait = 0.1 if self.terminal else PROGRESS_SECONDS
        # Nothing is said of what is done as soon as begun.
        self.began = self.last = time.monotonic()
        self.first = None
        self.shown = False

    def __call__(self, done: int, total: int, left: float | None = None) -> None:
        """`left` is in seconds; by default as the work has gone so far."""
        if self.stream is None or total < 2:
            return
        now = time.monotonic()
        if self.first is None:
            self.began, self.first = now, done
        elif done > self.first and left is None:
            left = (now - self.began) / (done - self.first) * (total - done)
        if now - self.last < self.wait and not (self.shown and done == total):
            return
        self.last, self.shown = now, True
        text = f"{done} of {total} {self.unit}"
        if left is not None and done < total:
            text += f", {left:.0f} s left"
        if self.terminal:
            filled = BAR * done // total
            text = f"\r[{'=' * filled:{BAR}}] {text}\033[K"
        print(text, end="" if self.terminal else "\n", file=self.stream, flush=True)

    def clear(self) -> None:
        """Leaves the line of a terminal empty."""
        if self.terminal and self.shown:
            print("\r\033[K", end="", file=self.stream, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()


@contextlib.contextmanager
def quiet_tensorflow():
    """Keeps the log lines of TensorFlow's start from stderr, and nothing else.

    Gives a stream that leads to stderr at once; none where there is no stderr. Does
    nothing else where the user has chosen a log level.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield sys.stderr
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        stderr = os.dup(2)
    except OSError:
        yield None
        return
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SIEVE, NOISE], stdin=subprocess.PIPE
    ) as sieve:
        os.dup2(sieve.stdin.fileno(), 2)
        sieve.stdin.close()
        try:
            with open(stderr, "w", closefd=False) as direct:
                yield direct
        finally:
            sys.stderr.flush()
            # The end, though a process started meanwhile may hold the pipe open.
            os.write(2, b"\0\n")
            os.dup2(stderr, 2)
            os.close(stderr)


def report(error: Exception, args: argparse.Namespace, name: str = "") -> str:
    """Says on stderr what went wrong, in one line; returns that line.

    Args:
        name: the file it happened to.
    """
    if args.debug:
        traceback.print_exc()
    words = describe(error)
    if name and not words.startswith(f"{name}: ") and not isinstance(error, OSError):
        words = f"{name}: {words}"
    message = " ".join(words.split())[:500]
    print(f"tfcodec: {message}", file=sys.stderr)
    return message


def describe(error: Exception) -> str:
    """Returns what went wrong, in words for a user."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"
