r"""The `.tfc` file: header, chunks, limits, checksums (standard library only).

All numbers are little-endian; a varint is unsigned LEB128 in its shortest form, below
2^32.

    magic        8  89 74 66 63 0D 0A 0A 01: see MAGIC; the last byte is the version
    header size  u8, bytes of the fields that follow; later versions may append fields,
                 which readers skip
    fingerprint  8  first bytes of the SHA-256 of the model
    width        varint, pixels
    height       varint, pixels
    layout       u8, low 4 bits: 0 RGB, 1 grey, 2 RGB and alpha, 3 grey and alpha, of 8
                 bits; high 4 bits: 0 for one tile, e for tiles of 64 << (e - 1) pixels
    quality      u16, hundredths, 0 to 10000

Then chunks to the end of the file: metadata first, alpha next, coded tiles last, row
after row. So a reader notices a file that is cut short anywhere.

    type         u8, bit 7 set: optional, skipped by a reader that does not know it
    size         varint, bytes of data
    checksum     u32, Adler-32 of all before the first chunk, the type, and the data
    data

    tile         the string of one tile, as the model codes it; see `tiling.boxes`
    alpha        a PNG of the image's size, 8-bit greyscale; or in its place
    alpha tile   as many as tiles: u16 quality in hundredths, and the string of a tile
                 whose three colours are all alpha; 0 to 8 become 0, 247 to 255 become
                 255
    metadata     (ICC profile, EXIF from its TIFF header on, XMP) a zlib stream

The checksum is Adler-32, as the SavedModel computes it too, and stock TensorFlow
operations have no CRC. It finds accidents, not attacks: any reader must withstand
arbitrary bytes.

    StreamError(ValueError)
      CorruptStream       damaged: truncated, wrong checksum or lengths
      UnsupportedStream   unfit for this reader: no .tfc, other version, over a limit
"""

from __future__ import annotations

import dataclasses
import numbers
import struct
import zlib
from collections.abc import Sequence

VERSION = 1
# Each byte catches a way of sending a file as text: 0x89 loses its 8th bit or becomes
# two bytes of UTF-8, CR LF becomes LF, and the lone LF after it becomes CR LF.
MAGIC = b"\x89tfc\r\n\n"
SUFFIX = ".tfc"

RGB, GREY, RGBA, GREY_ALPHA = range(4)  # layout
LAYOUTS = 4
ALPHA_BIT = 2  # of a layout
ONE_TILE = 0  # tile: the whole image is one tile
PADDED = 64  # pixels; every model pads to a multiple of at most this
OVERHEAD = 4096  # bytes that a chunk may have however few its pixels

OPTIONAL = 0x80  # bit of a chunk's type
TILE = 0x01
ALPHA = 0x02
ALPHA_TILE = 0x03
ICC = 0x81
EXIF = 0x82
XMP = 0x83
KNOWN = {
    TILE: "tile", ALPHA: "alpha", ALPHA_TILE: "alpha tile", ICC: "ICC profile",
    EXIF: "EXIF", XMP: "XMP",
}  # fmt: skip
# The order of a file's chunks: metadata, alpha, tiles.
ORDER = {ALPHA: 1, ALPHA_TILE: 1, TILE: 2}
# Metadata, by Pillow's name -> the type of its chunk.
METADATA = {"icc_profile": ICC, "exif": EXIF, "xmp": XMP}

UINT32_MAX = 2**32 - 1


class StreamError(ValueError):
    """A file that cannot be decoded; the message says why."""


class CorruptStream(StreamError):
    """The file is damaged."""


class UnsupportedStream(StreamError):
    """The file may be whole, but it is not for this reader, model or limit."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a file may make a reader decode. 0 means unlimited."""

    pixels: int = 2**27  # width times height; 134 megapixels are 384 MiB of RGB
    side: int = 2**20  # pixels of width or height: padding makes a thin image wider
    decoded_bytes: int = 2**29  # pixels times channels
    tiles: int = 2**14  # each is decoded by itself, in at least a few milliseconds
    tile_pixels: int = 2**22  # padded; decoding this many takes some 300 MB of memory
    chunks: int = 2**16
    file_bytes: int = 2**31
    bytes_per_pixel: int = 4  # of coded tiles and alpha; noise at quality 100 takes 1
    escapes: int = 2**22  # in each string: latents outside their tables
    metadata: int = 2**24  # bytes of each kind, decompressed

    def for_pixels(self, pixels: int | None) -> Limits:
        """Returns the same limits with another number of pixels.

        Args:
            pixels: width times height; 0 for any, with any number of tiles; None to
                leave it as it is.
        """
        if pixels is None:
            return self
        if not (isinstance(pixels, numbers.Real) and pixels >= 0):
            raise ValueError(f"max_pixels must be 0 (no limit) or more, not {pixels!r}")
        most = pixels and self.decoded_bytes and max(self.decoded_bytes, 4 * pixels)
        tiles = pixels and self.tiles
        return dataclasses.replace(self, pixels=pixels, decoded_bytes=most, tiles=tiles)


@dataclasses.dataclass(frozen=True)
class Header:
    """All that a decoder must know before it allocates memory for pixels."""

    fingerprint: bytes  # first 8 bytes of the SHA-256 of the model
    width: int  # pixels, 1 to 2^32 - 1
    height: int  # pixels, 1 to 2^32 - 1
    quality: float  # 0 to 100; a file keeps hundredths
    layout: int = RGB
    tile: int = ONE_TILE  # e > 0: squares of 64 << (e - 1) pixels

    @property
    def tile_side(self) -> int:
        """Side of the tiles in pixels; 0 if the image is a single tile."""
        return 64 << (self.tile - 1) if self.tile else 0

    @property
    def tiles(self) -> int:
        """How many tiles the image has."""
        side = self.tile_side or max(self.width, self.height)
        return -(-self.width // side) * -(-self.height // side)

    @property
    def tile_area(self) -> int:
        """Pixels of the largest tile, padded as the model with most padding does."""
        side = self.tile_side or UINT32_MAX
        rows, columns = (-(-min(x, side) // PADDED) for x in (self.height, self.width))
        return rows * columns * PADDED**2

    @property
    def alpha(self) -> bool:
        return bool(self.layout & ALPHA_BIT)

    @property
    def mode(self) -> str:
        """Pillow's name of the layout."""
        return ("RGB", "L", "RGBA", "LA")[self.layout]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A part of a file. `pack` adds the checksum, and `unpack` checks it."""

    type: int  # 1 to 255; bit 7 set: optional
    data: bytes


class Reader:
    """Reads bytes in order; every read checks that enough are left.

    Args:
        data: what to read, as a memoryview of bytes; it is not copied.
    """

    def __init__(self, data: memoryview):
        self.data = data
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> memoryview:
        """Reads `size` bytes, or raises CorruptStream if fewer are left."""
        if size > self.left:
            raise CorruptStream(
                f"truncated: {size} bytes wanted at {self.at}, {len(self.data)} in all"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        """Reads one little-endian number of a `struct` format, such as "B"."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def varint(self) -> int:
        """Reads an unsigned LEB128 number in its shortest form, below 2^32."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.number("B")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise CorruptStream(f"a longer number than needed at {self.at}")
                if value > UINT32_MAX:
                    break
                return value
        raise CorruptStream(f"a number over 32 bits at {self.at}")


def varint(value: int) -> bytes:
    """Returns `value`, 0 to 2^32 - 1, as unsigned LEB128.

    Raises:
        ValueError: `value` is out of range.
    """
    if not 0 <= value <= UINT32_MAX:
        raise ValueError(f"not a number from 0 to 2^32 - 1: {value}")
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def pack(header: Header, chunks: Sequence[Chunk]) -> bytes:
    """Returns the file of a header and chunks, which are put in order.

    Raises:
        ValueError: a field is out of range, or the number of chunks of some type does
            not fit the header.
    """
    _check_header(header)
    problem = _miscounted(header, [chunk.type for chunk in chunks])
    if problem:
        raise ValueError(problem)
    layout, hundredths = header.layout | header.tile << 4, round(header.quality * 100)
    fields = header.fingerprint + varint(header.width) + varint(header.height)
    fields += struct.pack("<BH", layout, hundredths)
    start = MAGIC + bytes([VERSION, len(fields)]) + fields
    parts = [start]
    seed = zlib.adler32(start)
    for chunk in sorted(chunks, key=lambda chunk: ORDER.get(chunk.type, 0)):
        if not 1 <= chunk.type <= 255:
            raise ValueError(f"a chunk type is from 1 to 255, not {chunk.type}")
        if not chunk.type & OPTIONAL and chunk.type not in KNOWN:
            raise ValueError(f"no reader knows the required chunk type {chunk.type}")
        type_ = bytes([chunk.type])
        checksum = zlib.adler32(chunk.data, zlib.adler32(type_, seed))
        parts += [type_, varint(len(chunk.data)), struct.pack("<I", checksum)]
        parts.append(chunk.data)
    return b"".join(parts)


def unpack(data: bytes, limits: Limits = Limits()) -> tuple[Header, list[Chunk]]:
    """Returns the header and the known chunks of a whole file, in the file's order.

    Args:
        data: the file, bytes or an object with the buffer protocol.
        limits: how much the file may make us decode.

    Raises:
        CorruptStream: the file is damaged.
        UnsupportedStream: it is no `.tfc` file, needs a newer tfcodec, or is over a
            limit.
    """
    reader, header = _start(data, limits)
    seed = zlib.adler32(reader.data[: reader.at])
    chunks, count, tiles = [], 0, 0
    while reader.left:
        if tiles == header.tiles:
            raise CorruptStream(f"{reader.left} bytes after the last tile")
        count += 1
        if limits.chunks and count > limits.chunks:
            raise UnsupportedStream(f"over the limit of {limits.chunks} chunks")
        type_ = reader.take(1)
        size = reader.varint()
        checksum = reader.number("I")
        body = reader.take(size)
        check_chunk(header, type_[0], size, limits)
        if zlib.adler32(body, zlib.adler32(type_, seed)) != checksum:
            raise CorruptStream("checksum: the file was damaged on its way")
        kind = type_[0]
        if kind in KNOWN:
            chunks.append(Chunk(kind, bytes(body)))
        elif not kind & OPTIONAL:
            raise UnsupportedStream(f"needs a newer tfcodec: chunk type {kind}")
        tiles += kind == TILE
    if tiles < header.tiles:
        raise CorruptStream(f"truncated: {tiles} of {header.tiles} tiles")
    problem = _miscounted(header, [chunk.type for chunk in chunks])
    if problem:
        raise CorruptStream(problem)
    return header, chunks


def metadata_chunks(metadata: dict[str, bytes | None]) -> list[Chunk]:
    """Returns the chunks of metadata by Pillow's names: icc_profile, exif, xmp.

    Raises:
        ValueError: there is another name, or more than a reader takes by default.
    """
    unknown = set(metadata) - set(METADATA)
    if unknown:
        raise ValueError(f"no such metadata: {', '.join(sorted(unknown))}")
    most = Limits().metadata
    for name, data in metadata.items():
        if data and len(data) > most:
            raise ValueError(
                f"{name}: {len(data)} bytes, at most {most} fit into a file"
            )
    return [
        Chunk(METADATA[name], zlib.compress(data, 9))
        for name, data in metadata.items()
        if data
    ]


def metadata(chunks: Sequence[Chunk], limits: Limits = Limits()) -> dict[str, bytes]:
    """Returns what `metadata_chunks` packed.

    Raises:
        CorruptStream: it is damaged.
        UnsupportedStream: it is over the limit.
    """
    found = {}
    for name, kind in METADATA.items():
        for chunk in chunks:
            if chunk.type == kind:
                found[name] = _inflated(chunk, limits.metadata)
    return found


def _inflated(chunk, limit):
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(chunk.data, limit)
    except zlib.error:
        raise CorruptStream(f"damaged {KNOWN[chunk.type]}") from None
    if limit and inflater.unconsumed_tail:
        raise UnsupportedStream(f"{KNOWN[chunk.type]}: over the limit of {limit} bytes")
    if not inflater.eof or inflater.unused_data:
        raise CorruptStream(f"damaged {KNOWN[chunk.type]}")
    return data


def _miscounted(header: Header, types: Sequence[int]) -> str | None:
    """Returns what is wrong with the numbers of chunks of each type, or None."""
    count = {kind: types.count(kind) for kind in KNOWN}
    if count[TILE] != header.tiles:
        return f"{count[TILE]} tiles for an image of {header.tiles}"
    for kind in METADATA.values():
        if count[kind] > 1:
            return f"{count[kind]} chunks of {KNOWN[kind]}"
    fitting = [(1, 0), (0, header.tiles)] if header.alpha else [(0, 0)]
    if (count[ALPHA], count[ALPHA_TILE]) not in fitting:
        return (
            f"{count[ALPHA]} alpha chunks and {count[ALPHA_TILE]} alpha tiles for an "
            f"image of {header.tiles} tiles, {header.mode}"
        )
    return None


def read_header(data: bytes, limits: Limits = Limits()) -> Header:
    """Returns the header of a file; its first 64 bytes are enough.

    The checksum, which covers a whole chunk, is not checked.

    Raises:
        StreamError: as `unpack`.
    """
    return _start(data, limits)[1]


def over_pixels(size: str, limit: int) -> str:
    """Returns a message on an image over the limit, which says how to lift that."""
    return (
        f"{size}: over the limit of {limit} pixels, which --max_pixels lifts "
        f"(max_pixels= in Python)"
    )


def check_limits(header: Header, limits: Limits) -> None:
    """Raises UnsupportedStream if the image is larger than `limits` allow."""
    size = f"{header.width}x{header.height}"
    if limits.pixels and header.width * header.height > limits.pixels:
        raise UnsupportedStream(over_pixels(size, limits.pixels))
    if limits.side and max(header.width, header.height) > limits.side:
        raise UnsupportedStream(f"{size}: over the limit of {limits.side} a side")
    decoded = header.width * header.height * len(header.mode)
    if limits.decoded_bytes and decoded > limits.decoded_bytes:
        raise UnsupportedStream(
            f"{size}, {header.mode}: over the limit of {limits.decoded_bytes} bytes"
        )
    if limits.tiles and header.tiles > limits.tiles:
        raise UnsupportedStream(
            f"{header.tiles} tiles: over the limit of {limits.tiles}"
        )
    if limits.tile_pixels and header.tile_area > limits.tile_pixels:
        raise UnsupportedStream(
            f"{size} in {header.tiles} tiles: over the limit of "
            f"{limits.tile_pixels} pixels a tile"
        )


def check_chunk(header: Header, kind: int, size: int, limits: Limits) -> None:
    """Raises UnsupportedStream if a chunk has too many bytes for its pixels."""
    area = {
        TILE: header.tile_area,
        ALPHA_TILE: header.tile_area,
        ALPHA: header.width * header.height,
    }.get(kind)
    if not limits.bytes_per_pixel or area is None:
        return
    if size > OVERHEAD + limits.bytes_per_pixel * area:
        raise UnsupportedStream(
            f"{KNOWN[kind]} of {size} bytes: over the limit of "
            f"{limits.bytes_per_pixel} bytes per pixel"
        )


def _start(data, limits: Limits) -> tuple[Reader, Header]:
    """Reads the header; returns it and a reader at the first chunk."""
    reader = Reader(memoryview(data).cast("B"))
    _check_magic(bytes(reader.data[:16]))
    if limits.file_bytes and reader.left > limits.file_bytes:
        raise UnsupportedStream(
            f"{reader.left} bytes: over the limit of {limits.file_bytes}"
        )
    reader.take(len(MAGIC))
    version = reader.number("B")
    if version != VERSION:
        raise UnsupportedStream(
            f"format version {version}, and this tfcodec reads {VERSION}"
        )
    fields = Reader(reader.take(reader.number("B")))
    fingerprint = bytes(fields.take(8))
    width, height = fields.varint(), fields.varint()
    tile, layout = divmod(fields.number("B"), 16)
    quality = fields.number("H") / 100
    header = Header(fingerprint, width, height, quality, layout, tile)
    try:
        _check_header(header)
    except StreamError:
        raise
    except ValueError as error:
        raise CorruptStream(str(error)) from None
    check_limits(header, limits)
    return reader, header


def _check_magic(start: bytes) -> None:
    if start.startswith(MAGIC):
        return
    if MAGIC.startswith(start):
        raise CorruptStream("truncated: not even a header" if start else "empty file")
    # A transfer as text changes the first and last bytes of the magic, but not "tfc".
    if b"tfc" in start[:6] and start[:1] in b"\x09\x89\xc2\xef?":
        raise CorruptStream(
            "damaged by a transfer as text (line ends or 8th bits changed); "
            "send it again as binary"
        )
    raise UnsupportedStream("not a .tfc file")


def _check_header(header: Header) -> None:
    """Raises ValueError on a bad field (UnsupportedStream on a reserved layout)."""
    if len(header.fingerprint) != 8:
        raise ValueError(f"a fingerprint is 8 bytes, not {len(header.fingerprint)}")
    for name in ("width", "height"):
        if not 1 <= getattr(header, name) <= UINT32_MAX:
            raise ValueError(f"{name} out of range: {getattr(header, name)}")
    if not 0 <= header.quality <= 100:
        raise ValueError(f"quality must be from 0 to 100, not {header.quality}")
    if not 0 <= header.layout < LAYOUTS:
        raise UnsupportedStream(f"needs a newer tfcodec: colour layout {header.layout}")
    if not 0 <= header.tile < 16:
        raise ValueError(f"tile layout out of range: {header.tile}")
