"""What a user sees: text that any terminal can take, errors, progress, no noise."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import subprocess
import sys
import time
import traceback
import unicodedata

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
    r"INFO: Created TensorFlow Lite |"
    r"(E0000|.*: E) .*(Unable to register cu|failed call to cuInit)"
)
# A process of its own, so that what TensorFlow says before it aborts still arrives. It
# outlives signals to the whole group, and ends when the pipe does.
SIEVE = """
import re, signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if line == b"\\0\\n":
        break
    if not noise.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


# Characters that reorder the text around them, so that a name looks like another one:
# https://www.unicode.org/reports/tr9/
REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
                       "\u2066\u2067\u2068\u2069")  # fmt: skip
# Modules that may not be installed: the extra that brings each, what people call it.
EXTRAS = {
    "tensorflow": ("tensorflow", "TensorFlow"),
    "grpc": ("tensorflow", "TensorFlow"),
    "apache_beam": ("beam", "Apache Beam"),
}
NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


class Failure(RuntimeError):
    """What went wrong outside of this program, such as on a server.

    The message says it all: no one needs to look for the place in the code.
    """


def shown(text: str | os.PathLike, keep: str = "") -> str:
    r"""Returns text with all escaped that would not be read but obeyed, or not encoded.

    Control characters, of which terminals make commands, and those that reorder text
    become `\x1b`, `\u202e`; a byte of a file name that is no UTF-8 becomes `\xe9`.

    Args:
        text: what to print, such as a file name.
        keep: control characters that stay.
    """
    return "".join(c if c in keep else _escaped(c) for c in os.fspath(text))


def _escaped(character):
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # Python's stand-in for a byte that is no text
        return f"\\x{number - 0xDC00:02x}"
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs", "Zl", "Zp") or character in REORDERING:
        form = f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
        return NAMED.get(character, form)
    return character


def say(text: str = "", file=None, end: str = "\n") -> None:
    """Prints text that may hold any name; nothing where there is no such stream.

    Line feeds of the text stay: of a name that may have some, print `shown`.

    Args:
        text: what to print.
        file: where, such as `sys.stderr`, which is None where that is closed.

    Raises:
        OSError: naming the stream, which cannot be written.
    """
    if file is None:
        return
    text = shown(text, keep="\n") + end
    encoding = getattr(file, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    with naming(file):
        file.write(text)
        file.flush()


@contextlib.contextmanager
def naming(file):
    """Gives an OSError of a standard stream, which has no name, the name of it.

    A pipe that no one reads stays a BrokenPipeError.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) or not error.errno or error.filename:
            raise
        name = getattr(file, "name", "output").strip("<>")
        raise OSError(error.errno, error.strerror, name) from None


def names_are_shown(record) -> bool:
    """A filter for a handler of `logging`: file names in messages do no harm."""
    record.msg, record.args = shown(record.getMessage(), keep="\n"), ()
    return True


def output(what: str = "the output"):
    """Returns stdout, for what a command is run for.

    Raises:
        Failure: it is closed.
    """
    if sys.stdout is None:
        raise Failure(f"stdout is closed, and {what} has nowhere to go")
    return sys.stdout


def open_standard_streams() -> None:
    """Opens what is closed of the descriptors 0, 1 and 2, to nothing.

    Else the next file that is opened gets such a number, and what TensorFlow's C++
    logs to 2 would be written into it. Python's own streams stay None.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def abandon_stdout() -> None:
    """Lets what stdout's buffer holds go nowhere, else Python fails as it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


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
def without_warnings():
    """Drops what libraries log at the level of warnings or below."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


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
        with contextlib.suppress(OSError):
            say(traceback.format_exc(), sys.stderr, end="")
    words = describe(error)
    if name:
        if not words.startswith(f"{name}: ") and not isinstance(error, OSError):
            words = f"{name}: {words}"
        words = words.replace(name, shown(name))
    message = shown(re.sub(r"\s*\n\s*", " ", words.strip()))[:500]
    with contextlib.suppress(OSError):  # There is no other place to say it.
        say(f"tfcodec: {message}", sys.stderr)
    return message


def describe(error: Exception) -> str:
    """Returns what went wrong, in words for a user."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return str(error)
        return f"{shown(os.fsdecode(error.filename))}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        extra, name = EXTRAS[error.name]
        return f"this needs {name}: pip install 'tfcodec[{extra}]'"
    plain = isinstance(error, (ValueError, Failure, ConnectionError, TimeoutError))
    if plain:
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"
