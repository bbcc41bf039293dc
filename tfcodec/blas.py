"""Keeps NumPy's matrix products on the thread that calls them.

The coder computes some hundred small products per tile, and metrics thousands per
image. If BLAS divides each among threads, they wait for each other at every product.
When other programs used the processor too, or a container had fewer cores than it could
see, that took ten times as long as a single thread. Tiles are coded in parallel anyway.
"""

from __future__ import annotations

import contextlib
import functools
import threading

from tfcodec import forks


class _OneThread(contextlib.ContextDecorator):
    """Limits BLAS to one thread while any thread of the process is in the context.

    The setting is that of the process, so the first thread to enter sets it, and the
    last to leave restores it.
    """

    def __init__(self):
        self.lock, self.inside, self.limit = threading.Lock(), 0, None
        forks.renew(self, "lock")

    @functools.cached_property
    def controller(self):
        from threadpoolctl import ThreadpoolController

        return ThreadpoolController()

    def _let_any_thread_set(self):
        """Lets this thread set OpenBLAS, for which threadpoolctl allows only one."""
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
