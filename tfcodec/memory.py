"""Makes the C library keep freed memory for tensors (standard library only)."""

from __future__ import annotations

import ctypes
import functools
import os

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Bytes. The most free memory that the process keeps, and the size from which a tensor
# is returned to the system when freed: activations of a tile of 1024x1024 are smaller.
KEPT = 256 * 2**20


@functools.lru_cache(maxsize=1)
def keep_freed() -> bool:
    """Lets this process keep up to `KEPT` bytes of freed memory for its next tensors.

    By default glibc returns large tensors to the system as soon as they are freed, and
    the system clears every page of the next ones again. That took up to 20 % of the
    processor time of a synthesis; less with smaller activations. Nothing is changed if
    one of glibc's own environment variables is set, or under another C library.

    Returns:
        Whether it took effect.
    """
    if any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, KEPT) and mallopt(_TRIM_THRESHOLD, KEPT))
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
