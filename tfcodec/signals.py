"""Ends by signals as other programs do, but removes unfinished files first."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

from tfcodec import files

# Signals that ask a program to end, such as when a container stops (TERM), a terminal
# closes (HUP), or a job reaches its time limit (XCPU). INT is a KeyboardInterrupt.
ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")
SECONDS = 1.0  # until a main thread that does not end is ended
# Signals that `deferred` catches. The thread of `clean_up` removes a number, not the
# handler, because the thread may see the signal later.
_deferred: set[int] = set()


class Ended(KeyboardInterrupt):
    """A signal asked the process to end, and what was under way has been saved.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextlib.contextmanager
def deferred(wanted: bool = True):
    """Notes INT and TERM within this context, for work that ends at a good moment.

    A second one is obeyed at once, as before. Outside the main thread, and where the
    parent process ignores a signal, nothing changes.

    Args:
        wanted: whether to do so.

    Yields:
        A list, which gets the number of the signal when it comes.
    """
    noted: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.getsignal(n) for n in numbers}
    before = {n: x for n, x in before.items() if x not in (signal.SIG_IGN, None)}

    def restore():
        _deferred.difference_update(set(before) - set(noted))
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number, _):
        noted.append(number)
        restore()

    _deferred.update(before)
    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def clean_up() -> None:
    """Makes signals that end this process remove its unfinished files first.

    Python runs a handler only when the main thread returns from C code, which for a
    large AVIF or a tile takes seconds. So another thread, which is woken by each signal
    at once, removes the files. The process then ends by the signal itself, so that its
    exit status tells (128 plus the number, in a shell). Signals that the parent process
    ignores, such as HUP under `nohup`, stay ignored. Does nothing on Windows.
    """
    if os.name != "posix":
        return
    numbers = {
        getattr(signal, name)
        for name in ENDING
        if signal.getsignal(getattr(signal, name)) is signal.SIG_DFL
    }
    heard, told = os.pipe()
    os.set_blocking(told, False)
    for number in numbers:
        signal.signal(number, _end)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    main = threading.get_ident()

    def wait():
        while True:
            number = os.read(heard, 1)[0]
            if number in _deferred:
                _deferred.discard(number)
            elif number in numbers:
                break
        files.remove_unfinished()
        signal.pthread_kill(main, number)  # wakes it, if it sleeps, to call `_end`
        time.sleep(SECONDS)
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True, name="signals").start()


@contextlib.contextmanager
def at_once():
    """Makes signals end this process at once, for a call in which no Python code runs.

    Nothing is cleaned up then, so there must be no unfinished files. After the call
    handlers that were Python functions are restored, even if the call has changed them.
    """
    numbers = [getattr(signal, x) for x in (*ENDING, "SIGINT") if hasattr(signal, x)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Only the main thread may change handlers.
    handlers = {number: signal.getsignal(number) for number in numbers}
    # Signals that the parent process ignores stay ignored.
    before = {number: x for number, x in handlers.items() if callable(x)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number, _=None):
    files.remove_unfinished()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def end_by(number: int) -> None:
    """Ends this process by a signal; by INT, a loop in a shell ends, too."""
    if os.name != "posix":
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):
            stream.flush()
    _end(number)
