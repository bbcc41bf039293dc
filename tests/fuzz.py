"""Hostile files: `python -m tests.fuzz header|decode|litert|served [seconds]`.

Four targets get files made from the golden ones by random damage. Most checksums are
made right again, so that the damage reaches the coder. The rules are:

    header   bitstream.unpack, metadata, info: raises only StreamError, and is fast
    decode   tfcodec.decompress with the golden model, run by TensorFlow: raises only
             StreamError, or returns an image of the header's size
    litert   the same, run by LiteRT: accepts the same files as `decode`, with pixels
             that differ by at most one level
    served   the graph of a served model: never fails, and accepts the same files as
             `decode` (except for alpha's PNG, which another library reads), with pixels
             that differ by at most one level

With Atheris installed and `--atheris`, libFuzzer chooses damage that reaches new code
of `header`; graphs cannot be instrumented, so the other targets are not for it. A file
that breaks a rule is kept in tests/golden/broken, and tests/test_fuzz.py tries it from
then on.
"""

from __future__ import annotations

import collections
import hashlib
import io
import pathlib
import random
import resource
import struct
import sys
import time
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"
BROKEN = GOLDEN / "broken"
SLOW = {
    "header": 0.5,
    "decode": 10.0,
    "litert": 20.0,
    "served": 20.0,
}  # seconds, on a busy machine

from tfcodec import bitstream, planes
from tfcodec.bitstream import Limits, StreamError

# Large enough for every golden file, small enough for many runs a second.
LIMITS = Limits(pixels=2**17, side=2**12, tiles=64, chunks=256)


def corpus() -> list[bytes]:
    """The golden files of the golden model, and files that once broke a rule."""
    paths = [p for p in GOLDEN.glob("*.tfc") if not p.name.startswith("shipped")]
    files = [path.read_bytes() for path in sorted(paths) + sorted(BROKEN.glob("*"))]
    return [data for data in files if len(data) < 2**14]


def split(data: bytes) -> tuple[bytes, list[list]]:
    """Splits a file into (start, [[type, data], ...]), as far as it can be parsed."""
    end = min(len(data), 9 + data[8]) if len(data) > 8 else len(data)
    chunks, reader = [], bitstream.Reader(memoryview(data))
    try:
        reader.take(end)
        while reader.left:
            kind, size = reader.number("B"), reader.varint()
            reader.take(4)
            chunks.append([kind, bytes(reader.take(min(size, reader.left)))])
    except StreamError:
        pass
    return data[:end], chunks


def joined(start: bytes, chunks) -> bytes:
    """The inverse of `split`, with the right lengths and checksums."""
    parts, seed = [start], zlib.adler32(start)
    for kind, data in chunks:
        checksum = zlib.adler32(data, zlib.adler32(bytes([kind]), seed))
        parts += [bytes([kind]), bitstream.varint(len(data))]
        parts += [struct.pack("<I", checksum), data]
    return b"".join(parts)


def damaged(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """Changes, inserts, removes or copies bytes at random; `other` is a source."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1)
        size = min(rng.choice([1, 1, 2, 4, 8, 64]), len(data) - at)
        how = rng.randrange(7)
        if how == 0 and size:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at : at + size] = rng.randbytes(size)
        elif how == 2:
            value = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**32 - 1])
            data[at : at + size] = struct.pack("<I", value)[:size]
        elif how == 3:
            del data[at : at + size]
        elif how == 4:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 4, 64]))
        elif how == 5 and other:
            begin = rng.randrange(len(other))
            data[at : at + size] = other[begin : begin + size]
        else:
            del data[at:]
    return bytes(data)


def mutated(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Makes a hostile file, mostly one with right lengths and checksums."""
    if rng.random() < 0.2:
        return damaged(data, rng, other)
    start, chunks = split(data)
    others = split(other)[1]
    for _ in range(rng.choice([1, 1, 2, 3])):
        how = rng.randrange(8)
        if how == 0 or not chunks:
            at = rng.randrange(17, len(start)) if len(start) > 17 else 0
            start = start[:at] + damaged(start[at:], rng)
        elif how == 1:
            chunks.insert(rng.randrange(len(chunks) + 1), rng.choice(chunks))
        elif how == 2:
            chunks.pop(rng.randrange(len(chunks)))
        elif how == 3 and others:
            chunks[rng.randrange(len(chunks))] = rng.choice(others)
        elif how == 4:
            k = rng.randrange(len(chunks))
            kind = rng.choice([0, *bitstream.KNOWN, 0x7F, 0xFF])
            chunks[k] = [kind, chunks[k][1]]
        else:
            k = rng.randrange(len(chunks))
            source = rng.choice(others)[1] if others else b""
            chunks[k] = [chunks[k][0], damaged(chunks[k][1], rng, source)]
    return joined(start, chunks)


def try_header(data: bytes):
    """Returns the header, or the error."""
    try:
        header, chunks = bitstream.unpack(data, LIMITS)
        bitstream.metadata(chunks, LIMITS)
        return header
    except StreamError as error:
        return error


def try_decode(data: bytes, engine: str = "tensorflow"):
    """Returns the image, or the error."""
    import tfcodec

    try:
        image = tfcodec.decompress(data, GOLDEN / "model", LIMITS, engine=engine)
    except StreamError as error:
        return error
    header = bitstream.read_header(data, LIMITS)
    shape = (header.height, header.width, len(header.mode))
    assert image.dtype == np.uint8
    assert image.shape == (shape[:2] if header.mode == "L" else shape)
    return image


def try_litert(data: bytes):
    """Returns the image, or the error; checks that LiteRT and TensorFlow agree."""
    found, expected = try_decode(data, "litert"), try_decode(data)
    assert type(found) is type(expected), f"{found!r}, not {expected!r}"
    if isinstance(found, np.ndarray):
        # Alpha that is nearly transparent, or opaque, is made quite so.
        most = 1 + planes.ALPHA_SNAP * (found.ndim == 3 and found.shape[2] % 2 == 0)
        assert np.abs(found.astype(int) - expected).max() <= most
    return found


def try_served(data: bytes):
    """Returns the image, or the error; checks that the graph and `try_decode` agree."""
    import tensorflow as tf
    from PIL import Image

    result = served().decompress(tf.constant([data]))
    error = result["error"].numpy()[0].decode()
    expected = try_decode(data)
    if "alpha" in f"{error}{expected}":
        return StreamError(error)  # Two PNG readers, and damage that one overlooks.
    if isinstance(expected, StreamError):
        assert error, f"the graph takes what Python refuses: {expected}"
        return StreamError(error)
    assert not error, f"the graph refuses what Python takes: {error}"
    with Image.open(io.BytesIO(result["image_bytes"].numpy()[0])) as image:
        image = np.asarray(image)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 1
    return image


_served = []


def served():
    """The golden model as a served model, made once."""
    from tfcodec import registry, serving

    if not _served:
        _served.append(serving.Served(registry.Model.at(GOLDEN / "model"), LIMITS))
    return _served[0]


TARGETS = {
    "header": try_header,
    "decode": try_decode,
    "litert": try_litert,
    "served": try_served,
}


def times() -> tuple[float, float]:
    """Returns (time on the clock, processor time of this process), in seconds."""
    return time.perf_counter(), time.process_time()


class Run:
    """Tries files on a target, and counts the outcomes."""

    def __init__(self, target: str):
        self.target, self.function = target, TARGETS[target]
        self.count, self.slowest, self.outcomes = 0, (0.0, b""), collections.Counter()

    def __call__(self, data: bytes):
        outcome, seconds = self.timed(data)
        if seconds > SLOW[self.target] and self.count:
            # Python itself may have paused, to collect the garbage of other tests.
            seconds = min(seconds, self.timed(data)[1])
        self.count += 1
        if isinstance(outcome, StreamError):
            self.outcomes[type(outcome).__name__] += 1
        else:
            self.outcomes["decoded"] += 1
        # The first loads the model.
        if self.count > 1 and seconds > self.slowest[0]:
            self.slowest = seconds, data
            if seconds > SLOW[self.target]:
                self.keep(data)
                raise AssertionError(f"{seconds:.1f} s")

    def timed(self, data):
        """Returns (what the target returns for a file, seconds it took)."""
        begin = times()
        try:
            outcome = self.function(data)
        except BaseException:
            self.keep(data)
            raise
        # Of several threads the processor's time adds up; and on a busy machine others
        # add to that on the clock.
        return outcome, min(after - before for before, after in zip(begin, times()))

    def keep(self, data):
        BROKEN.mkdir(exist_ok=True)
        name = hashlib.sha256(data).hexdigest()[:16]
        (BROKEN / f"{name}.tfc").write_bytes(data)
        print(f"broke a rule: {BROKEN / name}.tfc", file=sys.stderr)

    def __str__(self):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        outcomes = ", ".join(f"{v} {k}" for k, v in self.outcomes.most_common())
        return (
            f"{self.target}: {self.count} files ({outcomes}); slowest "
            f"{1000 * self.slowest[0]:.0f} ms, {len(self.slowest[1])} bytes; "
            f"peak memory {peak:.0f} MiB"
        )


def fuzz(target: str, seconds: float, seed: int = 0, most: int = 2**62) -> Run:
    """Tries files for some seconds, at most `most` files."""
    rng, files, run = random.Random(seed), corpus(), Run(target)
    for data in files:
        run(data)
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.count < most:
        run(mutated(rng.choice(files), rng, rng.choice(files)))
    return run


def fuzz_with_atheris(target: str, seconds: float):
    import tempfile

    import atheris

    def mutator(data, size, seed):
        rng = random.Random(seed)
        start, chunks = split(data)
        if chunks and rng.random() < 0.9:
            k = rng.randrange(len(chunks))
            if rng.random() < 0.7:
                piece = chunks[k][1]
                chunks[k] = [chunks[k][0], atheris.Mutate(piece, len(piece) + 64)]
                return joined(start, chunks)[:size]
            return mutated(data, rng, rng.choice(files))[:size]
        return atheris.Mutate(data, size)

    files, run = corpus(), Run(target)
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(files):
            (pathlib.Path(folder) / str(number)).write_bytes(data)
        atheris.instrument_all()
        count = [0]

        def one(data):
            run(data)
            count[0] += 1
            if count[0] % 1000 == 0:
                print(run, flush=True)

        atheris.Setup(
            [sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=8192", folder],
            one,
            custom_mutator=mutator,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    seconds = float(arguments[1]) if len(arguments) > 1 else 60
    if "--atheris" in sys.argv:
        fuzz_with_atheris("header", seconds)
    else:
        seed = int(arguments[2]) if len(arguments) > 2 else 0
        print(fuzz(arguments[0], seconds, seed))
