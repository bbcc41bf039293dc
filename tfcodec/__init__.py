"""A learned image codec that runs wherever TensorFlow runs.

    import tfcodec
    data = tfcodec.compress(image, quality=50)   # uint8 [height, width, 3] to bytes
    image = tfcodec.decompress(data)

TensorFlow is imported when the first image is coded, not before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfcodec.bitstream import (
        CorruptStream,
        Limits,
        StreamError,
        UnsupportedStream,
    )
    from tfcodec.codec import compress, decompress, info

__version__ = "0.1.0"
__all__ = [
    "CorruptStream",
    "Limits",
    "StreamError",
    "UnsupportedStream",
    "__version__",
    "compress",
    "decompress",
    "info",
]

_HOME = {
    "CorruptStream": "bitstream",
    "Limits": "bitstream",
    "StreamError": "bitstream",
    "UnsupportedStream": "bitstream",
    "compress": "codec",
    "decompress": "codec",
    "info": "codec",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
