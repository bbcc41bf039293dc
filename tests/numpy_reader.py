"""A second reader of `.tfc` files, written from docs/format.md: read them together.

It decodes the bytes of a file, given the numbers of a model, to the integers that its
strings code, in Python and with 64-bit integers of NumPy. Damaged files raise
ValueError.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

MAGIC = b"\x89tfc\r\n\n"
TILE, ALPHA, ALPHA_TILE, ICC, EXIF, XMP = 1, 2, 3, 0x81, 0x82, 0x83
LARGEST = 2**27  # pixels: this reader's limit, not the format's
DIAGONAL = [(-1, -1), (-1, 1), (1, -1), (1, 1)]  # (down, right)
CROSS = [(-1, 0), (0, -1), (0, 1), (1, 0)]


class Header(NamedTuple):
    fingerprint: bytes
    width: int
    height: int
    grey: bool
    alpha: bool
    tile: int  # side in pixels, 0 for one tile
    quality: float


def check(condition, message: str):
    if not condition:
        raise ValueError(message)


# --- File


class Cursor:
    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        check(self.at <= len(self.data), "The file is cut short.")
        return self.data[self.at - count : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def varint(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.number(1)
            value |= (byte & 127) << shift
            if byte < 128:
                break
        check(byte < 128 and value < 2**32, "A varint is too large.")
        check(byte or not shift, "A varint is not in its shortest form.")
        return value


def unpack(data: bytes) -> tuple[Header, list[tuple[int, bytes]]]:
    """Returns the header and the chunks (type, data) of a file, after checking them."""
    cursor = Cursor(data)
    check(cursor.take(7) == MAGIC, "Not a .tfc file.")
    check(cursor.number(1) == 1, "A version that this reader does not know.")
    fields = Cursor(cursor.take(cursor.number(1)))
    start = data[: cursor.at]
    fingerprint, width, height = fields.take(8), fields.varint(), fields.varint()
    layout, quality = fields.number(1), fields.number(2)
    check(0 < width * height <= LARGEST, "The image is empty or over the limit.")
    check(layout % 16 < 4, "A layout that this reader does not know.")
    check(quality <= 10000, "The quality is above 100.")
    tile = 64 << (layout // 16 - 1) if layout // 16 else 0
    grey, alpha = layout % 2 == 1, layout % 4 > 1
    header = Header(fingerprint, width, height, grey, alpha, tile, quality / 100)

    chunks = []
    while cursor.at < len(data):
        kind, length, checksum = cursor.number(1), cursor.varint(), cursor.number(4)
        chunk = cursor.take(length)
        found = zlib.adler32(start + bytes([kind]) + chunk)
        check(found == checksum, "A chunk is damaged.")
        check(kind in (TILE, ALPHA, ALPHA_TILE) or kind >= 128, "An unknown chunk.")
        chunks.append((kind, chunk))

    tiles, kinds = len(boxes(header)), [kind for kind, _ in chunks]
    check(kinds.count(TILE) == tiles, "Too few or too many tiles.")
    check(kinds[-1] == TILE, "The file goes on after its last tile.")
    alphas = kinds.count(ALPHA), kinds.count(ALPHA_TILE)
    right = [(1, 0), (0, tiles)] if alpha else [(0, 0)]
    check(alphas in right, "Too few or too many chunks of alpha.")
    for kind in ICC, EXIF, XMP:
        check(kinds.count(kind) <= 1, "More than one chunk of a kind of metadata.")
    qualities = {Cursor(c).number(2) for kind, c in chunks if kind == ALPHA_TILE}
    check(len(qualities) <= 1, "Tiles of alpha have different qualities.")
    check(max(qualities, default=0) <= 10000, "The quality of alpha is above 100.")
    return header, chunks


def boxes(header: Header) -> list[tuple[int, int]]:
    """(height, width) of each tile, row after row."""
    side = header.tile or max(header.height, header.width)
    return [
        (min(side, header.height - top), min(side, header.width - left))
        for top in range(0, header.height, side)
        for left in range(0, header.width, side)
    ]


# --- String


class Tables:
    """For each row its frequencies, their cumulative sums, the value of symbol 0."""

    def __init__(self, numbers):
        ends = np.cumsum(numbers["tables/size"], dtype=int)
        self.rows = np.split(numbers["tables/frequency"].astype(np.int64), ends[:-1])
        self.sums = [np.cumsum(row) - row for row in self.rows]
        self.offsets = numbers["tables/offset"].astype(np.int64)


class StringReader:
    """Decodes the values of a string, one segment at a time."""

    def __init__(self, string: bytes, tables: Tables):
        check(len(string) % 2 == 0, "A string has half a unit.")
        check(len(string) >= 6, "A string is cut short.")
        units = np.frombuffer(string, "<u2").tolist()
        lanes, escapes = units[0], units[1] + 65536 * units[2]
        first, last = 3 + 2 * lanes, len(units) - (escapes + 1) // 2
        check(lanes and first <= last, "A string is cut short.")
        small = string[2 * last :]
        check(not any(small[escapes:]), "The last escape is not padded with zero.")
        middle = last - small[:escapes].count(255)
        check(first <= middle, "A string is cut short.")
        self.states = np.frombuffer(string[6 : 2 * first], "<u4").tolist()
        check(min(self.states) >= 2**16, "A state is too small.")
        self.words, self.large = iter(units[first:middle]), iter(units[middle:last])
        self.small = iter(small[:escapes])
        self.tables, self.count = tables, 0

    def segment(self, rows) -> np.ndarray:
        """The next values, one for each of these rows of the tables."""
        self.count += len(rows)
        lanes = len(self.states)
        values = [self.value(i % lanes, row) for i, row in enumerate(rows)]
        return np.array(values, np.int64)

    def value(self, lane: int, row: int) -> int:
        frequencies, sums = self.tables.rows[row], self.tables.sums[row]
        high, rest = divmod(self.states[lane], 4096)
        symbol = int(np.searchsorted(sums, rest, "right")) - 1
        x = int(frequencies[symbol]) * high + rest - int(sums[symbol])
        # Within a step lanes ascend, so the next word is this lane's.
        self.states[lane] = x if x >= 2**16 else 65536 * x + self.next(self.words)
        values = len(frequencies) - 1
        if symbol == values:
            z = self.next(self.small)
            z = self.next(self.large) if z == 255 else z
            symbol = -1 - z // 2 if z % 2 else values + z // 2
        return symbol + int(self.tables.offsets[row])

    def next(self, units) -> int:
        for unit in units:
            return unit
        raise ValueError("A string is cut short.")

    def end(self):
        lanes = min(max(self.count // 4096, 1), 1024)
        check(len(self.states) == lanes, "A string has a wrong number of lanes.")
        check(set(self.states) == {2**16}, "A string is damaged.")
        left = [*self.words, *self.large, *self.small]
        check(not left, "A string has more than its symbols.")


# --- Networks of integers, on [rows, columns, channels]


def sums(x, kernel):
    rows, columns, size, edge = *x.shape[:2], len(kernel), len(kernel) // 2
    x = np.pad(x, [(edge, edge), (edge, edge), (0, 0)])
    return sum(
        x[i : i + rows, j : j + columns] @ kernel[i, j].astype(np.int64)
        for i, j in np.ndindex(size, size)
    )


def activation(total, numbers):
    bias, shift, low, high = numbers.astype(np.int64)
    return np.clip((total + bias) >> shift, low, high)


def convolution(x, kernel, numbers):
    return activation(sums(x, kernel), numbers)


def network(numbers, name: str, x, upsampled=(), layer=0):
    while f"{name}/{layer}/kernel" in numbers:
        kernel, others = (numbers[f"{name}/{layer}/{n}"] for n in ("kernel", "numbers"))
        x = convolution(x, kernel, others)
        x = depth_to_space(x) if layer in upsampled else x
        layer += 1
    return x


def two_passes(numbers, name: str, seen, code):
    """Latents of a slice: first those where row + column is even, then the others."""
    kernels = [numbers[f"{name}/{half}/0/kernel"] for half in ("first", "second")]
    own = kernels[1].shape[2]
    seen = np.concatenate(seen, -1)
    shared = sums(seen, kernels[0])
    y = np.zeros([*seen.shape[:2], own], shared.dtype)
    row, column = np.indices(seen.shape[:2])
    for parity, half in enumerate(("first", "second")):
        total = shared + sums(context(y), kernels[1])
        x = activation(total, numbers[f"{name}/{half}/0/numbers"])
        x = network(numbers, f"{name}/{half}", x, layer=1)
        index, mean = split(x)
        places = (row + column) % 2 == parity
        y[places] = code(index[places], mean[places])
    return y


def depth_to_space(x):
    rows, columns, channels = x.shape
    x = x.reshape(rows, columns, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return x.reshape(2 * rows, 2 * columns, channels // 4)


def parameters(numbers, name: str, seen):
    """Runs a network on what it sees; returns (index, mean)."""
    return split(network(numbers, name, np.concatenate(seen, -1)))


def split(output):
    """Splits the output of a network into (index, mean)."""
    return np.split(output, 2, -1)


def context(v):
    return np.clip(v // 2, -255, 255)


def neighbours(y, places, distance: int):
    """The neighbours in y, [places, rows, columns, channels], and which are inside."""

    def there(x):
        x = np.pad(x, [(distance, distance), (distance, distance), (0, 0)])
        corners = (distance + distance * np.array(places)).tolist()
        return np.stack([x[i : i + len(y), j : j + len(y[0])] for i, j in corners])

    return there(y), there(np.ones_like(y))


# --- Segments


def walk(coder, height: int, width: int, numbers, card) -> np.ndarray:
    """Returns the integers y of a tile, int32 [1, rows, columns, channels], in 1/16.

    `coder.segment(rows)` decodes a segment, given the row of the tables of each value.
    """
    stride, per_stride = card["stride"], card["stride"] // card["latents"]["stride"]
    rows, columns = -(-height // stride) * per_stride, -(-width // stride) * per_stride
    channels = numbers["hyper_synthesis/0/kernel"].shape[2]

    z = coder.segment(np.tile(np.arange(channels), rows * columns // 16))
    z = np.clip(z, -127, 127).reshape(rows // 4, columns // 4, channels)
    features = network(numbers, "hyper_synthesis", z, upsampled=(0, 1))

    def code(index, mean):
        value, coded = np.zeros_like(index), index > 6
        value[coded] = np.clip(coder.segment(channels + index[coded]), -8191, 8191)
        return 16 * value + mean

    index, mean = parameters(numbers, "slice/0", [features])
    y = np.zeros_like(index)
    y[::4, ::4] = code(index[::4, ::4], mean[::4, ::4])
    row, column = np.indices([rows, columns])
    for step, distance in enumerate([2, 2, 1, 1]):
        places, odd = [(DIAGONAL, 2), (CROSS, 1)][step % 2]
        now = row // distance % 2 + column // distance % 2 == odd
        now &= (row % distance == 0) & (column % distance == 0)
        around, inside = (x[:, now] for x in neighbours(y, places, distance))
        guess = np.sum(around, 0) // np.sum(inside, 0)
        seen = [features[now], *context((around - guess) * inside)]
        index, mean = parameters(numbers, f"step/{step}", [x[None] for x in seen])
        y[now] = code(index[0], mean[0] + guess)

    slices = [y]
    around, inside = neighbours(y, CROSS, 1)
    seen = [features, *context((around - y) * inside)]
    while f"slice/{len(slices)}/first/0/kernel" in numbers:
        slices.append(two_passes(numbers, f"slice/{len(slices)}", seen, code))
        seen.append(context(slices[-1]))
    return np.concatenate(slices, -1)[None].astype(np.int32)


def read(data: bytes, numbers, card) -> tuple[Header, list, list[np.ndarray]]:
    """Returns header, chunks, and the integers of each string, in the file's order.

    `numbers` are the arrays of the model by name, `card` is its card.json, parsed.
    """
    header, chunks = unpack(data)
    model = bytes.fromhex(card["fingerprint"])[:8]
    check(header.fingerprint == model, "The file is of another model.")
    tables, integers = Tables(numbers), []
    strings = {TILE: iter(boxes(header)), ALPHA_TILE: iter(boxes(header))}
    for kind, chunk in chunks:
        if kind in strings:
            coder = StringReader(chunk[2 * (kind == ALPHA_TILE) :], tables)
            integers.append(walk(coder, *next(strings[kind]), numbers, card))
            coder.end()
    return header, chunks, integers
