"""One command over many files: finds them, says where each goes, reports results."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import pathlib
import sys
import time

from tfcodec import bitstream, files, inputs
from tfcodec.console import (
    Failure,
    Progress,
    naming,
    output,
    quiet_tensorflow,
    report,
    say,
    shown,
)
from tfcodec.files import new_file
from tfcodec.names import ONE_INPUT

# Any file takes about as long as so many bytes of a larger one, for the time left.
OVERHEAD = 100_000


@contextlib.contextmanager
def to_stdout():
    """Opens a file whose bytes are written to stdout in the end, all or none."""
    file = io.BytesIO()
    yield file
    stdout = output("the file")
    with naming(stdout):
        stdout.buffer.write(file.getvalue())
        stdout.buffer.flush()


@dataclasses.dataclass
class Job:
    """The conversion of one file; "-" is stdin or stdout.

    Args:
        source, target: paths.
        args: arguments of the command.
    """

    source: str
    target: str
    args: argparse.Namespace

    @functools.cached_property
    def stdin(self) -> bytes:
        """All bytes of stdin."""
        if sys.stdin is None:
            raise Failure("stdin is closed, and there is nothing to read")
        with naming(sys.stdin):
            return sys.stdin.buffer.read()

    @property
    def size(self) -> int:
        """Size of the source in bytes; 0 if it is not known."""
        if self.source == "-":
            return len(self.__dict__.get("stdin", b""))
        with contextlib.suppress(OSError):
            return os.path.getsize(self.source)
        return 0

    @property
    def streams(self) -> bool:
        """Whether the target is stdout, a named pipe or a device."""
        return self.target == "-" or files.is_stream(self.target)

    def reading(self):
        """Returns the source, as a path or a file, for Pillow to open."""
        return io.BytesIO(self.stdin) if self.source == "-" else self.source

    def stream(self) -> bytes:
        """Returns the bytes of a `.tfc` file; checks the header, but not of stdin.

        Raises:
            OSError: the file cannot be read.
            StreamError: its header is damaged or unsupported.
        """
        if self.source == "-":
            return self.stdin
        limits = bitstream.Limits().for_pixels(self.args.max_pixels)
        with open(self.source, "rb") as file:
            start = file.read(64)
            # First, so that a large file of another kind is not read.
            bitstream.read_header(start, limits)
            return start + file.read()

    @contextlib.contextmanager
    def writing(self):
        """Opens the target to write: it appears, or stdout gets it, only as a whole."""
        if self.target == "-":
            with to_stdout() as file:
                yield file
            return
        if self.args.out_dir:
            os.makedirs(os.path.dirname(self.target) or ".", exist_ok=True)
        times = None
        if self.args.keep_times and self.source != "-":
            found = os.stat(self.source)
            times = found.st_atime_ns, found.st_mtime_ns
        with new_file(self.target, replace=self.args.force) as file:
            yield file
        if times and not self.streams:
            os.utime(self.target, ns=times)

    def check(self, taken: dict[str, str]) -> None:
        """Raises, before the work is done, if `writing` is bound to fail.

        Args:
            taken: real paths of the targets of other jobs -> their sources; this job
                is added.
        """
        if self.source != "-":
            self._check_source()
        if self.target == "-":
            if output("the file").isatty() and not self.args.force:
                raise ValueError(
                    "the result is binary, and stdout is a terminal: name an output "
                    "file, or use -f"
                )
        else:
            # First, as an output that exists may be that of another job.
            real = os.path.realpath(self.target)
            if real in taken:
                raise ValueError(
                    f"{shown(self.target)}: another input is written there: "
                    f"{shown(taken[real])}"
                )
            taken[real] = self.source
            check_output(pathlib.Path(self.target), self.args, self.source)

    def _check_source(self):
        if os.path.isdir(self.source):
            raise IsADirectoryError(
                errno.EISDIR, os.strerror(errno.EISDIR) + "; -r takes the files in it",
                self.source,
            )  # fmt: skip
        if os.path.islink(self.source) and not os.path.exists(self.source):
            to = shown(os.readlink(self.source))
            raise FileNotFoundError(
                errno.ENOENT, f"a broken link, to {to}", self.source
            )
        os.stat(self.source)  # The error of a missing file or folder names the input.
        if os.path.isfile(self.source):  # Of a named pipe no byte may be taken here.
            with open(self.source, "rb") as file:
                coded = file.read(len(bitstream.MAGIC)) == bitstream.MAGIC
            if self.args.command == "compress" and coded:
                raise ValueError("a .tfc file already; decompress makes an image of it")
            named = pathlib.Path(self.source).suffix.lower() in inputs.SUFFIXES
            if self.args.command == "decompress" and named and not coded:
                raise ValueError(
                    "not a .tfc file, but by its name an image; compress takes those"
                )

    def row(self, size: int | None) -> dict:
        """Returns the first entries of a row of JSON; `size` is that of the target."""
        return {
            "input": self.source, "output": self.target, "bytes_in": self.size,
            "bytes": size,
        }  # fmt: skip


def passed_over(words: str) -> None:
    """Prints on stderr, in `words`, which files of a folder were ignored."""
    say(f"note: {shown(words)}", sys.stderr)


def jobs_of(
    args: argparse.Namespace, suffix: str, suffixes: set[str]
) -> tuple[list[Job], list[OSError]]:
    """Returns (a job for each input file of a command, errors of skipped folders).

    Args:
        args: arguments of the command.
        suffix: of output files whose names are not given.
        suffixes: of the files that are taken from folders.

    Raises:
        ValueError: a folder has no such file, or one output is named for several.
    """
    jobs, skipped = [], []
    for source in args.input:
        path = pathlib.Path(source)
        named = [path]
        if inputs.is_pattern(source):
            # Shells of Windows do not expand wildcards, others not those in quotes.
            named = [pathlib.Path(name) for name in inputs.matching(source)] or named
        for path in named:
            found, base = [path], path.parent
            if args.recursive and source != "-" and os.path.isdir(path):
                before, base = len(skipped), path
                found = inputs.inside(path, suffixes, passed_over, skipped.append)
                if not found and len(skipped) == before:
                    kind = "images" if len(suffixes) > 1 else min(suffixes)
                    raise ValueError(f"{shown(str(path))}: no {kind} in it")
            for each in found:
                jobs.append(Job(str(each), target_of(each, base, suffix, args), args))
    if args.output is not None and len(jobs) > 1:
        raise ValueError(ONE_INPUT)
    return jobs, skipped


def target_of(source: pathlib.Path, base: pathlib.Path, suffix: str, args) -> str:
    """Returns the path of the result for a file; "-" is stdout.

    Args:
        source: the file, "-" for stdin.
        base: with `--out_dir`, the folder that it replaces; subfolders are kept.
        suffix: of output files whose names are not given.
        args: arguments of the command.
    """
    if args.output is not None:
        return args.output
    if str(source) == "-":
        return "-"
    folder = source.parent
    if args.out_dir:
        folder = args.out_dir / folder.relative_to(base)
    return str(folder / f"{source.stem}{suffix}")


class Results:
    """Prints the result for each file, as a line of text or of JSON.

    Args:
        args: arguments of the command.
        jobs: all jobs of the command.

    Attributes:
        failed: whether a file or folder failed, or a line could not be printed.
    """

    def __init__(self, args: argparse.Namespace, jobs: list[Job]):
        self.args, self.failed, self.silent = args, False, False
        self.file = sys.stdout
        if any(job.target == "-" for job in jobs):
            self.file = sys.stderr
        elif args.json:
            self.file = output("JSON")

    def done(self, job: Job, row: dict, words: str) -> None:
        """Reports a file that was written."""
        size = "" if row["bytes"] is None else f" {row['bytes']} B"
        names = shown(job.source), shown(job.target)
        start = f"{names[0]} {row['bytes_in']} B -> {names[1]}{size}"
        line = json.dumps(row) if self.args.json else f"{start}  {words}"
        self._tell(line)

    def error(self, job: Job, error: Exception) -> None:
        """Reports a file that failed."""
        self.failed = True
        words = report(error, self.args, job.source)
        if self.args.json:
            self._tell(json.dumps({**job.row(None), "error": words}))

    def skipped(self, error: OSError) -> None:
        """Reports a folder that could not be read."""
        self.failed = True
        words = report(error, self.args)
        if self.args.json:
            row = dict.fromkeys(("output", "bytes_in", "bytes"))
            row = {"input": os.fsdecode(error.filename), **row, "error": words}
            self._tell(json.dumps(row))

    def _tell(self, line):
        if self.silent:
            return
        try:
            say(line, self.file)
        except BrokenPipeError:
            raise
        except OSError as error:  # A full disk, say; the files go on, without lines.
            self.failed = self.silent = True
            report(error, self.args)


def over_files(args, suffix, suffixes, unit, function) -> bool:
    """Calls `function` for each file, prints results; returns whether a file failed.

    Args:
        args: arguments of the command.
        suffix, suffixes: as for `jobs_of`.
        unit: what `function` counts in its progress, a plural noun.
        function: takes a `Job` and a progress function (or None), returns (row of JSON,
            the same in words).
    """
    jobs, skipped = jobs_of(args, suffix, suffixes)
    results = Results(args, jobs)
    for error in skipped:
        results.skipped(error)
    taken: dict[str, str] = {}
    sizes = [job.size + OVERHEAD for job in jobs]
    with quiet_tensorflow() as stderr:
        began = time.monotonic()
        with Progress(stderr, "files" if len(jobs) > 1 else unit) as progress:
            for number, job in enumerate(jobs):
                done = sum(sizes[:number])
                if done and len(jobs) > 1:
                    spent = time.monotonic() - began
                    left = spent / done * (sum(sizes) - done)
                    progress(number, len(jobs), left)
                try:
                    job.check(taken)
                    row, words = function(job, progress if len(jobs) == 1 else None)
                except BrokenPipeError:
                    raise
                except Exception as error:
                    progress.clear()
                    results.error(job, error)
                else:
                    progress.clear()
                    results.done(job, row, words)
    return results.failed


def check_output(path: pathlib.Path, args: argparse.Namespace, source: str = "-"):
    """Raises, before the work is done, if `new_file` is bound to fail.

    Args:
        path: of the file to write.
        args: arguments of the command, of which `force` counts, and `out_dir`, a folder
            that will be made if it is missing.
        source: the file that is read, which must be another one.

    Raises:
        OSError: `path` cannot be written.
        ValueError: it is the source, or exists and `force` is not given.
    """
    folder = os.path.dirname(os.path.realpath(path))
    while getattr(args, "out_dir", None) and not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if path.exists():
        if source != "-" and os.path.exists(source) and path.samefile(source):
            raise ValueError(f"{shown(path)}: input and output are the same file")
        if path.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path)
            )
        if path.is_fifo() or os.path.samefile(path, os.devnull):
            return
        if not path.is_file() and not path.is_char_device():
            raise ValueError(f"{shown(path)}: exists and is not a regular file")
        if not args.force:
            raise ValueError(f"{shown(path)}: exists; -f overwrites it")
        if path.is_char_device():
            return
    for problem, missing in (
        (errno.ENOENT, not os.path.exists(folder)),
        (errno.ENOTDIR, not os.path.isdir(folder)),
        (errno.EACCES, not os.access(folder, os.W_OK)),
    ):
        if missing:
            raise OSError(problem, os.strerror(problem), os.fspath(path))
