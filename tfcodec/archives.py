"""What goes wrong with damaged files of NumPy arrays."""

import zipfile
import zlib

# What `numpy.load`, and reading an array of what it returns, may raise for such a file.
DAMAGED = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
