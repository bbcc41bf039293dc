"""Ends by a signal as other programs do, but leaves no unfinished files behind."""

from __future__ import annotations

import os
import signal
import sys
import threading

from tfcodec import files

# What asks a program to end, such as a container's stop (TERM), a terminal that closes
# (HUP), or a job's time limit (XCPU). INT is a KeyboardInterrupt.
ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")


def clean_up() -> None:
    """Lets signals that end this process remove its unfinished files first.

    A thread waits for them, and so removes the files at once, whatever the main thread
    is at: a handler of Python's would run only when that is done, and a large AVIF or
    a tile takes seconds. The process then ends by the signal itself, so that its exit
    status says so (128 and the number, in a shell). What the parent process has chosen
    to ignore, as `nohup` does HUP, stays ignored.

    To call before other threads start, as those of NumPy and TensorFlow would take the
    signals. There is nothing of the kind on Windows, where nothing is changed.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    numbers = {
        getattr(signal, name)
        for name in ENDING
        if signal.getsignal(getattr(signal, name)) is signal.SIG_DFL
    }
    if not numbers:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def wait():
        number = signal.sigwait(numbers)
        files.remove_unfinished()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True, name="signals").start()


def unblock() -> None:
    """Undoes the part of `clean_up` that a process inherits from the one it is of."""
    if hasattr(signal, "pthread_sigmask"):
        numbers = {getattr(signal, name) for name in ENDING}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def end_by_interrupt() -> None:
    """Ends this process by INT, so that a shell's loop over commands ends with it."""
    if os.name != "posix":
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                pass
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
