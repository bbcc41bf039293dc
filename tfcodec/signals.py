"""Ends by a signal as other programs do, but leaves no unfinished files behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

from tfcodec import files

# What asks a program to end, such as a container's stop (TERM), a terminal that closes
# (HUP), or a job's time limit (XCPU). INT is a KeyboardInterrupt.
ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")
SECONDS = 1.0  # that the main thread has to end by itself


def clean_up() -> None:
    """Lets signals that end this process remove its unfinished files first.

    A handler of Python's runs only when the main thread is done with what it is at, and
    a large AVIF or a tile takes seconds. So a thread, which hears of each signal at
    once, removes the files. The process then ends by the signal itself, so that its
    exit status says so (128 and the number, in a shell). What the parent process has
    chosen to ignore, as `nohup` does HUP, stays ignored. Nothing is changed on Windows.
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
        while (number := os.read(heard, 1)[0]) not in numbers:
            pass
        files.remove_unfinished()
        signal.pthread_kill(main, number)  # wakes it, if it sleeps, to call `_end`
        time.sleep(SECONDS)
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True, name="signals").start()


@contextlib.contextmanager
def at_once():
    """Lets signals end this process in a call during which no Python runs at all.

    Nothing is cleaned up then, so no file is to be unfinished. After the call they do
    what they did before, even if it has changed that, too.
    """
    numbers = [getattr(signal, x) for x in (*ENDING, "SIGINT") if hasattr(signal, x)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # The handlers are not this thread's to change.
    handlers = {number: signal.getsignal(number) for number in numbers}
    # Those that the parent process has chosen to ignore stay ignored.
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


def end_by_interrupt() -> None:
    """Ends this process by INT, so that a shell's loop over commands ends with it."""
    if os.name != "posix":
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):
            stream.flush()
    _end(signal.SIGINT)
