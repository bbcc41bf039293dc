"""How the C library keeps the memory of tensors (standard library only)."""

from __future__ import annotations

import ctypes
import functools
import os

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# What remains with the process at most, above what it uses, and the size from which a
# tensor is given back at once: the activations of a tile of 1024x1024 are smaller.
KEPT = 256 * 2**20


@functools.lru_cache(maxsize=1)
def keep_freed() -> bool:
    """Lets this process keep up to `KEPT` bytes of freed memory for its next tensors.

    By default glibc returns large tensors to the system as soon as they are freed, and
    the system clears every page of the next ones anew. That took up to 20 % of the
    processor's time of a synthesis, and little of networks with smaller activations.
    Nothing is changed where one of glibc's own environment variables says what is
    wanted, or under another C library.

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
