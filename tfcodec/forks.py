"""Forked processes: locks of our own for them, and an error if TensorFlow would hang.

A fork copies the memory of TensorFlow, with its locks and lists of threads, but not the
threads, for which the first operation of the new process then waits. A fork before
TensorFlow has run is harmless, and so is a process started by "spawn".
"""

from __future__ import annotations

import os
import sys
import threading
import weakref

_state = {"forked": False}


def _runs() -> bool:
    """Whether TensorFlow has started its threads here, which importing it does not."""
    context = sys.modules.get("tensorflow.python.eager.context")
    current = getattr(context, "_context", None)
    return bool(getattr(current, "_initialized", False))


def _before():
    _state["running"] = _runs()


def _in_child():
    _state["forked"] |= _state["running"]


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before, after_in_child=_in_child)


def renew(owner: object, name: str) -> None:
    """Gives a forked process a new lock in place of the attribute `name` of `owner`.

    A thread may hold the lock during a fork. The new process does not have that thread,
    so nothing would release the lock there.
    """
    found = weakref.ref(owner)

    def in_child():
        if (owner := found()) is not None:
            setattr(owner, name, threading.Lock())

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child)


def check() -> None:
    """Raises RuntimeError in a process that was forked after TensorFlow had run."""
    if _state["forked"]:
        raise RuntimeError(
            "this process was forked from one in which TensorFlow had run, and would "
            'hang; start workers by "spawn", such as with '
            'multiprocessing.get_context("spawn") or DataLoader(..., '
            'multiprocessing_context="spawn"), or before the first image is coded'
        )
