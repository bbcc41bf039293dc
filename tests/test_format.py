"""docs/format.md suffices to read files: `numpy_reader`, written from it, does."""

import functools
import hashlib
import json
import pathlib
import subprocess
import sys
import zlib

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from tests import numpy_reader

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden"
MODELS = {
    "model": GOLDEN / "model",
    **{
        name: HERE.parent / "tfcodec" / "models" / name
        for name in ("tfcodec", "tfcodec-mse")
    },
}
ROWS = json.loads((GOLDEN / "golden.json").read_text())
SMALLEST = "pixel_30"
# (quality, side of tiles) where the name of a file does not tell.
SETTINGS = {
    "tiles_64": (40, 64),
    "tiles_128": (70, 128),
    "alpha_lossy": (60, 0),
    "alpha_tiles": (60, 64),
    "metadata": (20, 0),
    "effort": (30, 0),
    "shipped_tiles_64": (50, 64),
    "lanes": (100, 0),
    "shipped_lanes": (60, 0),
    "escapes": (50, 0),
}


@functools.lru_cache(None)
def load(model: str):
    return tf.saved_model.load(str(MODELS[model]))


def load_numbers(model: str):
    """(numbers, card) of a model."""
    if not hasattr(load(model), "decoder"):
        pytest.skip("this model was exported before models held these numbers")
    numbers = {name: number.numpy() for name, number in load(model).decoder.items()}
    return numbers, json.loads((MODELS[model] / "card.json").read_text())


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.tfc").read_bytes()


def digests(integers) -> list[str]:
    return [hashlib.sha256(y.astype("<i4").tobytes()).hexdigest() for y in integers]


@pytest.mark.parametrize("name", ROWS)
def test_integers_of_golden_files(name):
    numbers, card = load_numbers(ROWS[name]["model"])
    _, _, integers = numpy_reader.read(golden(name), numbers, card)
    assert all(y.dtype == np.int32 for y in integers)
    assert digests(integers) == ROWS[name]["integers"]


@pytest.mark.parametrize("name", ROWS)
def test_header_of_golden_files(name):
    quality, tile = SETTINGS.get(name) or (int(name.split("_")[-1]), 0)
    shape = [*ROWS[name]["shape"], 1][:3]
    card = json.loads((MODELS[ROWS[name]["model"]] / "card.json").read_text())
    header, _ = numpy_reader.unpack(golden(name))
    assert card["fingerprint"].startswith(header.fingerprint.hex())
    assert [header.height, header.width] == shape[:2]
    assert (header.grey, header.alpha) == (shape[2] < 3, shape[2] % 2 == 0)
    assert (header.quality, header.tile) == (quality, tile)


def test_metadata_are_zlib_streams():
    _, chunks = numpy_reader.unpack(golden("metadata"))
    kinds = numpy_reader.ICC, numpy_reader.EXIF, numpy_reader.XMP
    found = [zlib.decompress(dict(chunks)[kind]) for kind in kinds]
    assert found == [b"a profile" * 50, b"MM\0*\0\0\0\x08\0\0\0\0\0\0", b"<x/>"]


def test_reader_needs_numpy_alone(tmp_path):
    numbers, card = load_numbers("model")
    np.savez(tmp_path / "numbers.npz", **numbers)
    program = f"""
import json, sys
sys.modules["tensorflow"] = sys.modules["tfcodec"] = None
sys.path.insert(0, {str(HERE)!r})
import numpy as np, numpy_reader
data = open({str(GOLDEN / "face_50.tfc")!r}, "rb").read()
card = json.load(open({str(MODELS["model"] / "card.json")!r}))
numbers = dict(np.load({str(tmp_path / "numbers.npz")!r}))
np.save({str(tmp_path / "y.npy")!r}, numpy_reader.read(data, numbers, card)[2][0])
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    y = np.load(tmp_path / "y.npy")
    assert digests([y]) == ROWS["face_50"]["integers"]


# --- Damage


def test_any_other_byte_is_refused():
    """Adler-32 sees every change of one byte; of lengths, the file's end does."""
    data = golden(SMALLEST)
    for at, byte in enumerate(data):
        for other in set(range(256)) - {byte}:
            damaged = data[:at] + bytes([other]) + data[at + 1 :]
            with pytest.raises(ValueError, match="[a-z]"):
                numpy_reader.unpack(damaged)


def test_any_other_length_is_refused():
    data = golden(SMALLEST)
    for damaged in [data[:at] for at in range(len(data))] + [data + b"\0", data * 2]:
        with pytest.raises(ValueError, match="[a-z]"):
            numpy_reader.unpack(damaged)


def test_damaged_string_is_refused_without_checksum():
    """States and words lead back to 2^16 if they are right, else but by rare chance."""
    numbers, card = load_numbers("model")
    _, chunks = numpy_reader.unpack(golden(SMALLEST))
    string, tables = chunks[-1][1], numpy_reader.Tables(numbers)
    escapes = int.from_bytes(string[2:6], "little")
    for at in range(len(string) - (escapes + 1) // 2 * 2):
        for bit in range(8):
            damaged = bytearray(string)
            damaged[at] ^= 1 << bit
            with pytest.raises(ValueError, match="string|state|escape"):
                decode(bytes(damaged), 1, 1, tables, numbers, card)


# --- Files that are valid or not by the document alone


def varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head, value = head + bytes([value % 128 + 128]), value // 128
    return head + bytes([value])


def pack(chunks, width=1, layout=0, quality=3000, fingerprint=b"12345678", more=b""):
    fields = fingerprint + varint(width) + varint(1) + bytes([layout])
    fields += quality.to_bytes(2, "little") + more
    start = numpy_reader.MAGIC + bytes([1, len(fields)]) + fields
    data = start
    for kind, chunk in chunks:
        checksum = zlib.adler32(start + bytes([kind]) + chunk).to_bytes(4, "little")
        data += bytes([kind]) + varint(len(chunk)) + checksum + chunk
    return data


T, A, ICC, NEW = (1, b"string"), (2, b"PNG"), (0x81, b"zlib"), (0x90, b"?" * 200)
LOSSY, OTHER = (3, b"\1\0string"), (3, b"\2\0string")


@pytest.mark.parametrize(
    ("chunks", "fields"),
    [
        ([T], {}),
        ([T], {"width": 129}),
        ([T] * 3, {"width": 129, "layout": 0x10}),
        ([T], {"more": b"of a later version"}),
        ([NEW, ICC, NEW, T], {}),
        ([A, T], {"layout": 2}),
        ([LOSSY, LOSSY, T, T], {"width": 65, "layout": 0x12}),
        ([LOSSY, T, LOSSY, NEW, T], {"width": 65, "layout": 0x12}),
    ],
)
def test_file_of_valid_chunks(chunks, fields):
    header, found = numpy_reader.unpack(pack(chunks, **fields))
    assert found == chunks
    assert header.width == fields.get("width", 1)


@pytest.mark.parametrize(
    ("chunks", "fields"),
    [
        ([], {}),
        ([T, T], {}),
        ([T, NEW], {}),
        ([T], {"width": 0}),
        ([T], {"width": 2**32}),
        ([T], {"width": 65, "layout": 0x10}),
        ([T], {"layout": 4}),
        ([T], {"quality": 10001}),
        ([T], {"fingerprint": b""}),
        ([(4, b""), T], {}),
        ([ICC, ICC, T], {}),
        ([A, T], {}),
        ([T], {"layout": 2}),
        ([A, A, T], {"layout": 2}),
        ([A, LOSSY, T], {"layout": 2}),
        ([LOSSY, OTHER, T, T], {"width": 65, "layout": 0x12}),
        ([(3, b"\x11\x27string"), T], {"layout": 2}),
        ([(3, b"\1"), T], {"layout": 2}),
    ],
)
def test_file_of_other_chunks_is_refused(chunks, fields):
    with pytest.raises(ValueError, match="[a-z]"):
        numpy_reader.unpack(pack(chunks, **fields))


# --- Strings with all that a string can have


class StringWriter:
    """The inverse of `numpy_reader.StringReader`, for values that it draws itself."""

    def __init__(self, tables, escapes: float):
        self.tables, self.rate, self.random = tables, escapes, np.random.default_rng(0)
        self.symbols, self.escapes = [], []

    def segment(self, rows):
        values = []
        for i, row in enumerate(rows):
            frequencies, escape = self.tables.rows[row], len(self.tables.rows[row]) - 1
            symbol = self.random.choice(escape + 1, p=frequencies / 4096)
            if self.random.random() < self.rate:
                symbol = escape
            self.symbols.append((i, row, symbol))
            if symbol == escape:
                z = int(self.random.integers(self.random.choice([8, 255, 600, 65536])))
                self.escapes.append(z)
                symbol = -1 - z // 2 if z % 2 else escape + z // 2
            values.append(symbol + self.tables.offsets[row])
        return np.array(values)

    def string(self, lanes=None) -> bytes:
        lanes = lanes or min(max(len(self.symbols) // 4096, 1), 1024)
        states, words = [2**16] * lanes, []
        for i, row, symbol in reversed(self.symbols):
            f, s = (int(x[row][symbol]) for x in (self.tables.rows, self.tables.sums))
            x = states[i % lanes]
            if x >= f << 20:
                words.append(x % 65536)
                x //= 65536
            states[i % lanes] = x // f * 4096 + x % f + s
        large = [z for z in self.escapes if z >= 255]
        parts = [lanes], [len(self.escapes), *states], [*words[::-1], *large]
        parts = zip(parts, ("<u2", "<u4", "<u2"))
        small = bytes(min(z, 255) for z in self.escapes) + bytes(len(self.escapes) % 2)
        return b"".join(np.array(*part).tobytes() for part in parts) + small


def decode(string, height, width, tables, numbers, card):
    reader = numpy_reader.StringReader(string, tables)
    y = numpy_reader.walk(reader, height, width, numbers, card)
    reader.end()
    return y


@pytest.mark.parametrize(
    ("model", "height", "width", "escapes", "lanes"),
    [
        ("model", 64, 64, 0.3, 1),
        ("model", 192, 128, 0.01, 1),
        ("model", 640, 448, 0.01, 4),
        ("tfcodec", 128, 128, 0.02, 2),
    ],
)
def test_escapes_and_lanes(model, height, width, escapes, lanes):
    """Golden files have one lane, few escapes; the model's own decoder has the say."""
    numbers, card = load_numbers(model)
    tables = numpy_reader.Tables(numbers)
    writer = StringWriter(tables, escapes)
    y = numpy_reader.walk(writer, height, width, numbers, card)
    string = writer.string()
    assert max(writer.escapes) > 10000
    assert 0 < sum(z < 255 for z in writer.escapes) < len(writer.escapes)
    assert string[0] >= lanes
    np.testing.assert_array_equal(
        decode(string, height, width, tables, numbers, card), y
    )
    found = load(model).signatures["decode"](
        size=tf.constant([height, width]), string=tf.constant(string)
    )
    assert found["sound"]
    np.testing.assert_array_equal(found["y"], y)

    wrong = writer.string(lanes=string[0] + 1)
    with pytest.raises(ValueError, match="lanes"):
        decode(wrong, height, width, tables, numbers, card)
    for wrong in [string + b"\0\0", string[:-2], string + b"\0", string[:4]]:
        with pytest.raises(ValueError, match="string|state|escape"):
            decode(wrong, height, width, tables, numbers, card)
