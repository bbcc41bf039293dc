"""Keeps NumPy's matrix products on the thread that asks for them.

The coder makes some hundred small products for each tile. A BLAS that parts each among
threads makes them wait for one another at every one, and where other programs use the
processor too, or a container may use fewer cores than it sees, that took ten times as
long as one thread needs. Tiles are coded side by side anyway.
"""

from __future__ import annotations

import contextlib
import functools
import threading


class _OneThread(contextlib.ContextDecorator):
    """Holds BLAS to one thread while any thread of the process is inside.

    The setting belongs to the process, so who comes first sets it, and the last to
    leave sets it back.
    """

    def __init__(self):
        self.lock, self.inside, self.limit = threading.Lock(), 0, None

    @functools.cached_property
    def controller(self):
        from threadpoolctl import ThreadpoolController

        return ThreadpoolController()

    def _let_any_thread_set(self):
        """Of OpenBLAS, threadpoolctl lets the thread alone that set it first set it."""
        for library in self.controller.lib_controllers:
            if hasattr(library, "clear_controlling_thread"):  # not in old versions
                library.clear_controlling_thread(force=True)

    def __enter__(self):
        with self.lock:
            if self.inside == 0:
                self._let_any_thread_set()
                self.limit = self.controller.limit(limits=1, user_api="blas")
            self.inside += 1

    def __exit__(self, *_):
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self._let_any_thread_set()
                self.limit.restore_original_limits()
                self._let_any_thread_set()


one_thread = _OneThread()
