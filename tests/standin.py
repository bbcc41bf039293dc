"""A lossless stand-in for the codec, and a program that uses it, without TensorFlow."""

import json
import zlib

import numpy as np

from tfcodec import bitstream, compression, engine, planes, quality
from tfcodec.bitstream import Chunk, Header

FINGERPRINT = "00112233445566778899aabbccddeeff"
CARD = {
    "name": "tfcodec",
    "fingerprint": FINGERPRINT,
    "licence": "MIT",
    "stride": 64,
    "latents": {
        "channels": 16,
        "stride": 16,
        "reach": {"analysis": 2, "synthesis": 2},
    },
    "quality": {"lmbda_min": 0.001, "lmbda_max": 0.1},
}


def make_model(path, **change):
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"")
    (path / "card.json").write_text(json.dumps({**CARD, **change}))
    return path


class Lossless(engine.Codec):
    """A stand-in that compresses by zlib, without TensorFlow."""

    def __init__(self, model, engine):
        self.model = model

    def compress(
        self, image, quality_=None, effort=0, progress=None, *, target=None,
        alpha_quality=None, metadata=None, verify=False, tile=None,
    ):  # fmt: skip
        steps = compression.steps_of(effort)
        for step in range(steps):
            progress(step, steps)
        image = planes.checked_image(image)
        height, width = image.shape[:2]
        layout = planes.layout_of(image)
        level = quality.chosen(quality_)
        header = Header(self.model.fingerprint, width, height, level, layout)
        chunks = bitstream.metadata_chunks(metadata)
        if header.alpha:
            chunks.append(Chunk(bitstream.ALPHA, b""))
        chunks.append(Chunk(bitstream.TILE, zlib.compress(image.tobytes())))
        return bitstream.pack(header, chunks)

    def decompress(
        self, header, chunks, region=None, progress=None, limits=None, realism=None
    ):
        pixels = np.frombuffer(zlib.decompress(chunks[-1].data), np.uint8)
        image = pixels.reshape(header.height, header.width, -1)
        if region:
            image = image[region.top : region.bottom, region.left : region.right]
        return image[..., 0] if header.mode == "L" else image


# With the folder of the checkout and that of the models as its first arguments.
PROGRAM = """
import pathlib, sys
sys.path.insert(0, sys.argv.pop(1))
from tests import standin
from tfcodec import cli, engine, registry
registry.ROOT = pathlib.Path(sys.argv.pop(1))
engine.Codec = standin.Lossless
cli.run()
"""
