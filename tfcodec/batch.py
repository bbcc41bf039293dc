"""One command over many files: which there are, where each goes, what came of it."""

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

from tfcodec import bitstream, files
from tfcodec.console import Progress, quiet_tensorflow, report
from tfcodec.files import new_file


@dataclasses.dataclass
class Job:
    """One file to make of another; "-" is stdin or stdout.

    Args:
        source, target: paths.
        args: of the command.
    """

    source: str
    target: str
    args: argparse.Namespace

    @functools.cached_property
    def stdin(self) -> bytes:
        return sys.stdin.buffer.read()

    @property
    def size(self) -> int:
        """Bytes of the source; 0 where that is not known."""
        if self.source == "-":
            return len(self.__dict__.get("stdin", b""))
        with contextlib.suppress(OSError):
            return os.path.getsize(self.source)
        return 0

    def reading(self):
        """Returns what Pillow may open."""
        return io.BytesIO(self.stdin) if self.source == "-" else self.source

    def stream(self) -> bytes:
        """Returns a `.tfc` file, of which the header is sound."""
        if self.source == "-":
            return self.stdin
        return read_stream(self.source)

    @contextlib.contextmanager
    def writing(self):
        """Opens the target: a new file, or stdout when all is written."""
        if self.target == "-":
            file = io.BytesIO()
            yield file
            sys.stdout.buffer.write(file.getvalue())
            sys.stdout.buffer.flush()
            return
        if self.args.out_dir:
            os.makedirs(os.path.dirname(self.target) or ".", exist_ok=True)
        with new_file(self.target) as file:
            yield file

    def check(self, taken: set[str]) -> None:
        """Finds what would make `writing` fail, before the work is done.

        Args:
            taken: what others write, to which the target is added.
        """
        if self.source != "-" and os.path.isdir(self.source):
            raise IsADirectoryError(
                errno.EISDIR, os.strerror(errno.EISDIR) + "; -r takes what is in it",
                self.source,
            )  # fmt: skip
        if self.target != "-":
            check_output(pathlib.Path(self.target), self.args, self.source)
            real = os.path.realpath(self.target)
            if real in taken:
                raise ValueError(f"{self.target}: another input is written there")
            taken.add(real)

    def row(self, size: int | None) -> dict:
        """Returns what a row of JSON begins with; `size` is that of the target."""
        return {
            "input": self.source, "output": self.target, "bytes_in": self.size,
            "bytes": size,
        }  # fmt: skip


def jobs_of(args: argparse.Namespace, suffix: str, suffixes: set[str]) -> list[Job]:
    """Returns what is to be done.

    Args:
        args: of the command.
        suffix: of what is written, where no name is given.
        suffixes: of what is taken from folders.

    Raises:
        ValueError: a folder has nothing of the kind.
    """
    jobs = []
    for source in args.input:
        path = pathlib.Path(source)
        found, base = [path], path.parent
        if args.recursive and source != "-" and path.is_dir():
            found, base = files.inside(path, suffixes), path
            if not found:
                raise ValueError(f"{source}: no {' or '.join(sorted(suffixes))} in it")
        for each in found:
            target = args.output
            if target is None and source == "-":
                target = "-"
            elif target is None:
                folder = each.parent
                if args.out_dir:
                    folder = args.out_dir / folder.relative_to(base)
                target = str(folder / f"{each.stem}{suffix}")
            jobs.append(Job(str(each), target, args))
    return jobs


def over_files(args, suffix, suffixes, unit, function) -> bool:
    """Does `function` for each file, says what came of it; returns whether one failed.

    Args:
        suffix, suffixes: as `jobs_of` takes them.
        unit: what `function` counts in its progress.
        function: from a `Job` and a progress to (row of JSON, the same in words).
    """
    jobs = jobs_of(args, suffix, suffixes)
    taken, failed = set(), False
    told = sys.stderr if any(job.target == "-" for job in jobs) else sys.stdout
    sizes = [job.size for job in jobs]
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
                    failed = True
                    row = {**job.row(None), "error": report(error, args, job.source)}
                    if not args.json:
                        continue
                else:
                    progress.clear()
                    size = "" if row["bytes"] is None else f" {row['bytes']} B"
                    start = f"{job.source} {row['bytes_in']} B -> {job.target}{size}"
                    words = f"{start}  {words}"
                print(json.dumps(row) if args.json else words, file=told, flush=True)
    return failed


def read_stream(path: str) -> bytes:
    """Returns a `.tfc` file, of which the header is sound.

    Raises:
        OSError, StreamError: it cannot be read, or is no such file.
    """
    with open(path, "rb") as file:
        start = file.read(64)
        bitstream.read_header(start)  # before a large file of another kind is read
        return start + file.read()


def check_output(path: pathlib.Path, args: argparse.Namespace, source: str = "-"):
    """Finds what would make `new_file` fail, before the work is done.

    Args:
        path: the file to be.
        args: of the command: `force`, and `out_dir`, which is made if it is not there.
        source: what is read, which may not be the same file.

    Raises:
        OSError, ValueError: `path` may not, or cannot, be written.
    """
    folder = os.path.dirname(os.path.realpath(path))
    while getattr(args, "out_dir", None) and not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if path.exists():
        if source != "-" and os.path.exists(source) and path.samefile(source):
            raise ValueError(f"{path}: input and output are the same file")
        if path.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path)
            )
        if not path.is_file():
            raise ValueError(f"{path}: exists and is not a regular file")
        if not args.force:
            raise ValueError(f"{path}: exists; -f overwrites it")
    for problem, missing in (
        (errno.ENOENT, not os.path.isdir(folder)),
        (errno.EACCES, not os.access(folder, os.W_OK)),
    ):
        if missing:
            raise OSError(problem, os.strerror(problem), os.fspath(path))
