"""Divides work among threads: this one and idle helpers, at most one for each core.

NumPy lets other threads run while it computes, so a large operation on parts of an
array takes less time on two threads. Threads that wait for work here sleep: if other
programs use all cores, that costs little.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable

MOST = 3  # helping threads; the parts of a larger number would be too small
# Most threads that work for a caller at the same time, itself counted; None: no limit.
_limit = contextvars.ContextVar("limit", default=None)


def cores() -> int:
    """Returns on how many processor cores this process may run."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Threads:
    """Threads that help any number of others, each one at a time."""

    def __init__(self, count: int):
        self.count, self.idle = count, threading.Semaphore(count)
        self.pool = concurrent.futures.ThreadPoolExecutor(max(1, count), "tfcodec")

    def taken(self, most: int) -> int:
        """Takes up to `most` idle threads; returns how many, to be given back."""
        number = 0
        while number < most and self.idle.acquire(blocking=False):
            number += 1
        return number


@functools.lru_cache(maxsize=1)
def _threads(process: int) -> _Threads:
    """Returns the threads of a process; those of a parent do not survive a fork."""
    return _Threads(min(MOST, cores() - 1))


@contextlib.contextmanager
def limited(threads: int | None):
    """Within the context, calls of `divided` use at most so many threads in all."""
    token = _limit.set(threads)
    try:
        yield
    finally:
        _limit.reset(token)


def divided(function: Callable[[int, int], None], count: int) -> None:
    """Calls function(begin, end) for consecutive parts that make up 0..count.

    There is a part for this thread and for each idle one. It returns when all are done.

    Args:
        function: may be called on several threads at the same time.
        count: of items, at least 1.
    """
    threads = _threads(os.getpid())
    most = min(threads.count, count - 1, (_limit.get() or count) - 1)
    helping = threads.taken(most)
    ends = [count * k // (helping + 1) for k in range(helping + 2)]
    own, *others = zip(ends, ends[1:])
    mine, calls = [own], []
    try:
        for part in others:
            try:
                calls.append(threads.pool.submit(function, *part))
            except RuntimeError:  # No more threads, or the interpreter shuts down.
                mine.append(part)
        for part in mine:
            function(*part)
    finally:
        concurrent.futures.wait(calls)
        for _ in others:
            threads.idle.release()
    for call in calls:
        call.result()
