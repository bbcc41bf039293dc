"""Files of NumPy arrays: how to recognise them, and what damaged ones may raise."""

import zipfile
import zlib

# What `numpy.load`, and reading an array of what it returns, may raise for such a file.
DAMAGED = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def is_arrays(path) -> bool:
    """Whether a path is, by its suffix, that of arrays, not of an exported model."""
    return str(path).endswith((".npz", ".npy"))
