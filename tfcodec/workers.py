"""Processes that code images, and the memory that they use (no codec, no NumPy)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing.connection
import os
import pathlib
import platform
import signal
import threading


class Here:
    """An executor that calls functions in this process, at once."""

    def submit(self, function, *args):
        """Calls a function; returns a future that has its result, or error, already."""
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def _begin():
    """Sets up a worker: it ignores interrupts, and ends when the first process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = multiprocessing.parent_process().sentinel

    def follow():
        multiprocessing.connection.wait([first])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def processes(names, jobs):
    """Yields a dict of executors, one for each name (of a codec).

    With one job, each is a process of its own, so that the peak memory is that of one
    codec; with more, all are the same pool of `jobs` processes.
    """
    # Not by a fork, after which TensorFlow may hang.
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:

        def pool(workers):
            made = concurrent.futures.ProcessPoolExecutor(workers, context, _begin)
            stack.callback(made.shutdown, cancel_futures=True)
            return made

        shared = pool(jobs) if jobs > 1 else None
        yield {name: shared or pool(1) for name in names}


def reset_peak():
    """Resets `peak` to the memory that this process uses now (on Linux)."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak() -> float | None:
    """Returns the peak memory of this process in MiB; None if unknown.

    It is the peak since `reset_peak`, or if that has no effect, since the start.
    """
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
