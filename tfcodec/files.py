"""Writing files and folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pathlib
import re
import shutil
import stat

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


def temporary_name() -> str:
    """Returns a new name for an incomplete file or folder, hidden and unlike others."""
    return f".tfcodec-{os.urandom(8).hex()}"


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
    part = os.path.join(os.path.dirname(target), f"{temporary_name()}.part")
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
    name = temporary_name()
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
