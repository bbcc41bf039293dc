"""What a user sees: text that is safe on any terminal, errors, progress, no noise."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import re
import subprocess
import sys
import time
import traceback
import unicodedata

PROGRESS_SECONDS = 2  # between lines of progress, if stderr is no terminal
BAR = 30  # characters of a progress bar

# Lines that TensorFlow prints when it starts, of no use to a user: information and
# warnings, in both its formats, and errors of a GPU build on a machine without a GPU.
# Releases from 2.18 on print information before they read any log level.
NOISE = (
    r"WARNING: All log messages before absl::InitializeLog|"
    r"[IW]\d{4} \d\d:\d\d:\d\d\.|[IW]0000 |"
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] |"
    r"To enable the following instructions: |"
    r"INFO: Created TensorFlow Lite |"
    r"(E0000|.*: E) .*(Unable to register cu|failed call to cuInit)"
)
# A program that filters these lines. It is a process of its own, so that what
# TensorFlow prints before it aborts still arrives. It ignores signals to the whole
# process group, and ends when its input does.
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


# Characters that reorder the text around them, by which a name can look like another:
# https://www.unicode.org/reports/tr9/
REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
                       "\u2066\u2067\u2068\u2069")  # fmt: skip
# Modules that may not be installed -> (the extra to install, a name for messages).
EXTRAS = {
    "tensorflow": ("tensorflow", "TensorFlow"),
    "grpc": ("tensorflow", "TensorFlow"),
    "apache_beam": ("beam", "Apache Beam"),
    "starlette": ("demo", "Starlette"),
    "uvicorn": ("demo", "Uvicorn"),
}
NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


class Failure(RuntimeError):
    """An error outside of this program, such as on a server.

    The message is enough for a user, without a traceback.
    """


def shown(text: str | os.PathLike, keep: str = "") -> str:
    r"""Escapes text so that it is safe to print.

    Control characters, which terminals may obey, and characters that reorder text
    become `\x1b`, `\u202e`; a byte of a file name that is not UTF-8 becomes `\xe9`.

    Args:
        text: what to print, such as a file name.
        keep: control characters that stay.
    """
    return "".join(c if c in keep else _escaped(c) for c in os.fspath(text))


def _escaped(character):
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # Python's surrogate for a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs", "Zl", "Zp") or character in REORDERING:
        form = f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
        return NAMED.get(character, form)
    return character


def say(text: str = "", file=None, end: str = "\n") -> None:
    """Prints text after escaping it with `shown`; line feeds stay.

    A file name in it, which may have line feeds, must already be escaped.

    Args:
        text: what to print.
        file: stream, such as `sys.stderr`. Nothing is printed if it is None, which is
            what Python sets for a standard stream that was closed at the start.
        end: printed after the text.

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
    """Adds the name of a standard stream to an OSError, which lacks it.

    A BrokenPipeError is left as it is.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) or not error.errno or error.filename:
            raise
        name = getattr(file, "name", "output").strip("<>")
        raise OSError(error.errno, error.strerror, name) from None


def names_are_shown(record) -> bool:
    """Escapes a message of `logging` with `shown`: a filter that lets all pass."""
    record.msg, record.args = shown(record.getMessage(), keep="\n"), ()
    return True


def output(what: str = "the output"):
    """Returns stdout, for the result of a command.

    Args:
        what: the result, for the message.

    Raises:
        Failure: stdout is closed.
    """
    if sys.stdout is None:
        raise Failure(f"stdout is closed, and {what} has nowhere to go")
    return sys.stdout


def open_standard_streams() -> None:
    """Opens those of the descriptors 0, 1 and 2 that are closed, as the null device.

    Else the next file that is opened would get such a number, and TensorFlow's C++
    code, which logs to 2, could write into it. Python's own streams stay None.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def abandon_stdout() -> None:
    """Discards what stdout still buffers, as Python would fail to flush it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Progress:
    """Shows progress: a bar on a terminal, else a line every few seconds.

    Args:
        stream: where to print; None for nowhere.
        unit: what is counted, a plural noun.
    """

    def __init__(self, stream, unit: str):
        self.stream, self.unit = stream, unit
        self.terminal = stream is not None and stream.isatty()
        self.wait = 0.1 if self.terminal else PROGRESS_SECONDS
        # Nothing is shown for work that takes less time than `wait`.
        self.began = self.last = time.monotonic()
        self.first = None
        self.shown = False

    def __call__(self, done: int, total: int, left: float | None = None) -> None:
        """Shows that `done` of `total` are done.

        `left` is the remaining time in seconds, by default estimated from the past.
        """
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
        """Erases the bar from the terminal."""
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
    """Filters the lines in `NOISE`, which TensorFlow prints as it starts, from stderr.

    Gives a stream that leads to stderr without the filter; None if it cannot be opened.
    Filters nothing if the user has set a log level (TF_CPP_MIN_LOG_LEVEL).
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
            if sys.stderr is not None:  # It is None if it was closed at the start.
                sys.stderr.flush()
            # Ends the filter, even if a process started meanwhile holds the pipe open.
            os.write(2, b"\0\n")
            os.dup2(stderr, 2)
            os.close(stderr)


def report(error: Exception, args: argparse.Namespace, name: str = "") -> str:
    """Prints an error on stderr, in one line; returns that line.

    Args:
        error: what happened.
        args: of the command; `debug` adds the traceback.
        name: of the file that it concerns.
    """
    if args.debug:
        with contextlib.suppress(OSError):
            parts = traceback.format_exception(type(error), error, error.__traceback__)
            say("".join(parts), sys.stderr, end="")
    words = describe(error)
    if name:
        if not words.startswith(f"{name}: ") and not isinstance(error, OSError):
            words = f"{name}: {words}"
        words = words.replace(name, shown(name))
    message = shown(re.sub(r"\s*\n\s*", " ", words.strip()))[:500]
    with contextlib.suppress(OSError):  # There is no other place to report it.
        say(f"tfcodec: {message}", sys.stderr)
    return message


def describe(error: Exception) -> str:
    """Describes an error in words for a user."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return str(error)
        name = error.filename  # or the number of a descriptor
        name = str(name) if isinstance(name, int) else os.fsdecode(name)
        return f"{shown(name)}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        extra, name = EXTRAS[error.name]
        return f"this needs {name}: pip install 'tfcodec[{extra}]'"
    plain = isinstance(error, (ValueError, Failure, ConnectionError, TimeoutError))
    if plain:
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


def named(path: str | os.PathLike, error: Exception) -> str:
    """Returns the message of an error, with the name of the file once in it."""
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def need_training(program: str) -> None:
    """Ends the process with a line on stderr if no model can be made here."""
    try:
        importlib.import_module("tensorflow_compression")
    except ImportError as error:
        sys.exit(
            f"{program} needs TensorFlow Compression 2.14.1, which has wheels for "
            f"Python 3.9 to 3.11 only (this is {sys.version.split()[0]}): use one of "
            f"those and pip install -r requirements.txt  [{error}]"
        )
