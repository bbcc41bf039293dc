"""Finding image files, and writing files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Sequence

# Files in a folder that count as images; a file given by name may have any suffix.
SUFFIXES = set(
    ".png .apng .jpg .jpeg .jpe .jif .jfif .jfi .mpo .webp .tif .tiff .bmp .dib .ppm "
    ".pgm .pbm .pnm .avif .gif .jp2 .j2k .j2c .jpc .jpf .jpx .heic .heif .hif .jxl "
    ".tga .qoi .psd".split()
)
# Files that are expected beside images, which were made of them; ignored in silence.
BESIDE = {".tfc"}
WILDCARD = re.compile(r"[*?]")
MOST_NAMED = 6  # suffixes that a message lists


def find_images(
    patterns: Sequence[str | os.PathLike],
    tell: Callable[[str], None] | None = None,
    fail: Callable[[OSError], None] | None = None,
) -> list[pathlib.Path]:
    """Returns the images that paths, folders (to any depth) and globs name, sorted.

    Args:
        patterns: paths, folders and globs. A file that several of them find, also by
            different names such as `a.png` and `folder/../a.png`, is returned once.
        tell: called with a sentence on the files of a folder that are ignored.
        fail: as for `inside`.

    Raises:
        ValueError: a pattern is empty, or finds nothing where all could be searched.
        OSError: a folder cannot be read, and `fail` is not given.
    """
    found, skipped = set(), []

    def skip(error):
        skipped.append(error)
        fail(error)

    for pattern in patterns:
        if not os.fspath(pattern):  # pathlib would take it for the current folder
            raise ValueError("an empty file name")
        path, before = pathlib.Path(pattern), len(skipped)
        if path.is_file():
            here = [path]
        elif path.is_dir():
            here = inside(path, SUFFIXES, tell, fail and skip)
        else:
            names = matching(os.fspath(pattern))
            here = [file for file in map(pathlib.Path, names) if file.is_file()]
        if not here and len(skipped) == before:
            raise ValueError(f"{pattern}: no images there")
        found.update(here)
    # Of several names of one file, the first.
    return sorted(
        {os.path.realpath(path): path for path in sorted(found)[::-1]}.values()
    )


def is_pattern(name: str) -> bool:
    """Whether a name has wildcards, and is not that of a file or folder with them."""
    return bool(WILDCARD.search(name)) and not os.path.lexists(name)


def matching(pattern: str) -> list[str]:
    """Returns the paths that match a glob, sorted.

    Brackets are taken literally at first, as they mostly are part of a name, such as
    `holiday [1]`; if nothing matches, they are classes of characters.
    """
    plain = re.sub(r"\[", "[[]", pattern)
    return sorted(
        glob.glob(plain, recursive=True) or glob.glob(pattern, recursive=True)
    )


def patterns_of(text: str) -> list[str]:
    """Splits a list of paths and globs at commas, except within names that exist.

    So `a,b` is the file or folder `a,b` if there is one, or else `a` and `b`.
    """
    parts, found = text.split(","), []
    while parts:
        sizes = range(len(parts), 1, -1)
        whole = (n for n in sizes if os.path.exists(",".join(parts[:n])))
        size = next(whole, 1)
        found.append(",".join(parts[:size]))
        parts = parts[size:]
    return found


def inside(
    folder: pathlib.Path,
    suffixes: Collection[str],
    tell: Callable[[str], None] | None = None,
    fail: Callable[[OSError], None] | None = None,
) -> list[pathlib.Path]:
    """Returns the files of some suffixes in a folder, to any depth, sorted.

    Links to folders are followed, but each folder is searched only once, and a link to
    a folder that contains the link is ignored. A link to a file that is not there is
    returned, so that whoever reads it says so.

    Args:
        folder: where to look.
        suffixes: those to take, in lower case.
        tell: as for `find_images`; not called for hidden files, images and `.tfc`
            files.
        fail: called with the error for each folder that cannot be read, which is then
            skipped. By default the first such error is raised.

    Raises:
        OSError: the folder or one in it cannot be read, and `fail` is not given.
    """
    found, others = [], []
    for file in _files(folder, tell, fail):
        if file.suffix.lower() in suffixes and _is_to_read(file):
            found.append(file)
        elif not file.name.startswith("."):
            others.append(file.suffix.lower())
    others = [suffix for suffix in others if suffix not in SUFFIXES | BESIDE]
    if others and tell:
        kinds = sorted({suffix or "no suffix" for suffix in others})
        more = ["..."] if len(kinds) > MOST_NAMED else []
        tell(
            f"{folder}: {len(others)} other file{'s' * (len(others) > 1)} ignored "
            f"({', '.join(kinds[:MOST_NAMED] + more)}); name a file to include it"
        )
    return sorted(found)


def _is_to_read(path):
    """Whether a path is a regular file, or cannot be examined: a reader says why.

    But a hidden link to nowhere, by which some editors mark open files, is ignored.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return not path.name.startswith(".")


def _files(folder, tell, fail):
    """Yields all files in a folder, links to folders last; see `inside`."""

    def failed(error):
        if fail is None:
            raise error
        words = f"{error.strerror}; this folder is skipped"
        fail(OSError(error.errno, words, error.filename))

    todo, seen = [os.fspath(folder)], set()
    while todo:
        top, links = todo.pop(0), []
        if os.path.realpath(top) in _above(top, folder):
            if tell:
                tell(f"{top}: a link to a folder that contains it; not followed")
            continue
        for here, names, files in os.walk(top, onerror=failed):
            real = os.path.realpath(here)
            if real in seen:
                names.clear()
                continue
            seen.add(real)
            links += [
                os.path.join(here, name)
                for name in sorted(names)
                if os.path.islink(os.path.join(here, name))
            ]
            yield from (pathlib.Path(here, name) for name in files)
        todo += links


def _above(path, folder):
    """Returns the real paths of all folders that contain a path in `folder`."""
    above = {str(path) for path in pathlib.Path(folder).resolve().parents}
    while path != os.fspath(folder):
        path = os.path.dirname(path)
        above.add(os.path.realpath(path))
    return above


def named(path: str | os.PathLike, error: Exception) -> str:
    """Returns the message of an error, with the name of the file once in it."""
    return str(error) if str(path) in str(error) else f"{path}: {error}"


# Files and folders that this process has begun to write, and that are incomplete.
_unfinished: set[str] = set()


@contextlib.contextmanager
def begun(part: str):
    """Registers a path to remove if a signal ends the process within the context."""
    _unfinished.add(part)
    try:
        yield
    finally:
        _unfinished.discard(part)


def remove_unfinished() -> None:
    """Removes incomplete files and folders of this process, which is about to end."""
    for part in list(_unfinished):
        if os.path.isdir(part):
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(part)


def is_stream(path: str | os.PathLike) -> bool:
    """Whether a path is a named pipe or a device, so that a reader gets the bytes."""
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    return False


def _mode_of(path: str) -> int | None:
    """Returns the permissions of a file that is to be replaced; None for a new one."""
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        return None


@contextlib.contextmanager
def new_file(path: str | os.PathLike, replace: bool = True):
    """Opens a file that replaces `path` at the end, or leaves it alone after an error.

    It keeps the permissions of the file that it replaces: what only its owner may read
    stays so. A named pipe or a device is not replaced: it gets all bytes at the end.

    Args:
        path: of the file.
        replace: whether to replace a file that is there at the end.

    Raises:
        OSError: naming `path`, not the temporary file; also a `FileExistsError`.
    """
    if is_stream(path):
        whole = io.BytesIO()
        yield whole
        with open(path, "wb") as file:
            file.write(whole.getvalue())
        return
    target = os.path.realpath(path)
    part = os.path.join(
        os.path.dirname(target), f".tfcodec-{secrets.token_hex(8)}.part"
    )
    mode = _mode_of(target)

    def opener(name, flags):
        return os.open(name, flags, 0o666 if mode is None else mode & 0o700)

    try:
        with begun(part):
            with open(part, "x+b", opener=opener) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if mode is not None:
                os.chmod(part, mode)
            (os.replace if replace else _move)(part, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def _move(source, target):
    """Renames a file; raises FileExistsError if there is one of the new name."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # The file system has no links.
        if os.path.lexists(target):
            words = os.strerror(errno.EEXIST)
            raise FileExistsError(errno.EEXIST, words, target) from None
        os.replace(source, target)
    else:
        os.unlink(source)


@contextlib.contextmanager
def new_directory(path: pathlib.Path):
    """Gives the path of a directory to make, which in the end takes `path`'s place.

    Raises:
        OSError: naming `path`, which is unchanged.
    """
    name = f".tfcodec-{secrets.token_hex(8)}"
    part, old = (path.with_name(name + suffix) for suffix in (".part", ".old"))
    try:
        with writing(path), begun(os.fspath(part)):
            yield part
            if path.exists():
                os.replace(path, old)
            try:
                os.replace(part, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def writing(path):
    """Turns errors of writing, TensorFlow's too, into an OSError that names `path`."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        # TensorFlow's message names an operation, a temporary file, and then the error.
        words = getattr(error, "message", None) or error.strerror or str(error)
        line, *_ = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", words).strip().split("\n")
        raise OSError(f"{path}: {line.split('; ')[-1]}") from error
