"""Processes that code images, and the memory that they hold (no codec, no NumPy)."""

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
    """An executor that runs what it is given in this process, at once."""

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future


def _begin():
    """Leaves interrupts to the first process, and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = multiprocessing.parent_process().sentinel

    def follow():
        multiprocessing.connection.wait([first])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def processes(names, jobs):
    """Yields an executor for each codec, by name: one all its own, or one for all.

    One process a codec, so that its peak memory is its own; more than one job share a
    pool of so many processes.
    """
    # Not forked: TensorFlow would not survive it.
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:

        def pool(workers):
            made = concurrent.futures.ProcessPoolExecutor(workers, context, _begin)
            stack.callback(made.shutdown, cancel_futures=True)
            return made

        shared = pool(jobs) if jobs > 1 else None
        yield {name: shared or pool(1) for name in names}


def reset_peak():
    """Lets `peak` begin again from what this process holds now (on Linux)."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak() -> float | None:
    """Most memory that this process has held at once, in MiB; None if unknown.

    Since `reset_peak`, or where that is not possible, since it started.
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
