"""A lock on a run directory, so that only one training at a time writes to it."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib

LOCK = ".lock"  # the file in a run directory that is locked; it stays there, empty
# Errors that mean that another process has the lock (the first one on Windows).
TAKEN = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def alone(directory: str | os.PathLike):
    """Holds the lock of a run directory within this context; makes the directory.

    The operating system releases the lock when the process ends, even if it is killed,
    so no file ever has to be deleted by hand. Where a file system has no locks, or the
    file cannot be opened, the training goes on without one.

    Raises:
        OSError: another training has the lock, or the directory cannot be made.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        free = True
        with contextlib.suppress(OSError):
            free = _locked(stack.enter_context(open(directory / LOCK, "ab")))
        if not free:
            raise OSError(
                f"{directory}: another training writes to this folder; wait for it to "
                "end, or give another --run"
            )
        yield


def _locked(file) -> bool:
    """Locks an open file until it is closed; returns False if another process did.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    return True
