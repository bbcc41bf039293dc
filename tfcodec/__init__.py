"""A learned image codec that runs wherever a picture is opened.

    import tfcodec
    data = tfcodec.compress(image, quality=50)   # uint8 [height, width, 3] to bytes
    image = tfcodec.decompress(data)

LiteRT, or TensorFlow, is imported when the first image is coded, not before.
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
    from tfcodec.codec import (
        compress,
        compress_batch,
        decompress,
        decompress_batch,
        info,
        metadata,
    )
    from tfcodec.pipelines import decode_tensor, encode_tensor
    from tfcodec.quality import OutOfReach

__version__ = "0.2.0"
__all__ = [
    "CorruptStream",
    "Limits",
    "OutOfReach",
    "StreamError",
    "UnsupportedStream",
    "__version__",
    "compress",
    "compress_batch",
    "decode_tensor",
    "decompress",
    "decompress_batch",
    "encode_tensor",
    "info",
    "metadata",
]

_HOME = {
    "CorruptStream": "bitstream",
    "Limits": "bitstream",
    "OutOfReach": "quality",
    "StreamError": "bitstream",
    "UnsupportedStream": "bitstream",
    "compress": "codec",
    "compress_batch": "codec",
    "decode_tensor": "pipelines",
    "decompress": "codec",
    "decompress_batch": "codec",
    "encode_tensor": "pipelines",
    "info": "codec",
    "metadata": "codec",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
