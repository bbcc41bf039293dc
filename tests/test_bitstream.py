import dataclasses
import itertools
import os
import struct
import zlib

import pytest

from tfcodec import bitstream
from tfcodec.bitstream import (
    ALPHA,
    ALPHA_TILE,
    EXIF,
    ICC,
    TILE,
    XMP,
    Chunk,
    CorruptStream,
    Header,
    Limits,
    StreamError,
    UnsupportedStream,
    check_limits,
    pack,
    read_header,
    unpack,
)

HEADER = Header(bytes(range(1, 9)), 768, 512, 50.0)
TILE_CHUNK = Chunk(TILE, os.urandom(40))
SMALL = pack(HEADER, [Chunk(ICC, b"profile"), TILE_CHUNK])


def raw(fields, chunks=((TILE, b"pixels"),), magic=bitstream.MAGIC + b"\x01"):
    """A file of any fields and chunks, with its checksums right."""
    start = magic + bytes([len(fields)]) + fields
    data = start
    for kind, body in chunks:
        checksum = zlib.adler32(start + bytes([kind]) + body)
        data += bytes([kind]) + bitstream.varint(len(body))
        data += struct.pack("<I", checksum) + body
    return data


def fields(width=b"\x05", height=b"\x07", layout=0, quality=5000, more=b""):
    return b"8 bytes." + width + height + struct.pack("<BH", layout, quality) + more


def test_pinned_bytes():
    data = pack(HEADER, [Chunk(TILE, b"abc")])
    assert data.hex(" ") == (
        "89 74 66 63 0d 0a 0a 01 0f 01 02 03 04 05 06 07 08 80 06 80 04 00 88 13 "
        "01 03 e8 04 d3 45 61 62 63"
    )


@pytest.mark.parametrize("width", [1, 127, 128, 768, 16383, 16384, 2**16])
@pytest.mark.parametrize("quality", [0, 0.01, 33.33, 100])
def test_unpack_gives_what_was_packed(width, quality):
    header = Header(b"\0\xff\r\n\x1a\0\0\x89", width, 1, quality)
    chunks = [Chunk(ICC, b""), Chunk(EXIF, b"e" * 300), Chunk(XMP, b"x"), TILE_CHUNK]
    data = pack(header, chunks)
    assert unpack(data) == (header, chunks)
    assert unpack(bytearray(data)) == unpack(memoryview(data)) == (header, chunks)
    assert read_header(data) == header
    assert read_header(data[:64]) == header


def test_quality_is_kept_in_hundredths():
    data = pack(dataclasses.replace(HEADER, quality=33.3333), [TILE_CHUNK])
    assert read_header(data).quality == 33.33


def test_tile_goes_last():
    first = pack(HEADER, [TILE_CHUNK, Chunk(ICC, b"1"), Chunk(XMP, b"2")])
    assert first == pack(HEADER, [Chunk(ICC, b"1"), Chunk(XMP, b"2"), TILE_CHUNK])


@pytest.mark.parametrize(("size", "cost"), [(16383, 31), (40_000, 32), (2**21 - 1, 32)])
def test_a_photograph_costs_at_most_32_bytes(size, cost):
    header = Header(bytes(8), 4032, 3024, 50)
    assert len(pack(header, [Chunk(TILE, bytes(size))])) - size == cost


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": b"short"},
        {"width": 0},
        {"height": -1},
        {"width": 2**32},
        {"quality": -0.01},
        {"quality": 100.01},
        {"quality": float("nan")},
        {"layout": 4},
        {"tile": 16},
    ],
)
def test_pack_refuses_fields_out_of_range(change):
    with pytest.raises(ValueError):  # noqa: PT011
        pack(dataclasses.replace(HEADER, **change), [TILE_CHUNK])


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [Chunk(ICC, b"")],
        [TILE_CHUNK, TILE_CHUNK],
        [TILE_CHUNK, Chunk(0, b"")],
        [TILE_CHUNK, Chunk(256, b"")],
        [TILE_CHUNK, Chunk(4, b"")],
        [TILE_CHUNK, Chunk(ALPHA, b"")],
        [TILE_CHUNK, Chunk(ICC, b""), Chunk(ICC, b"")],
    ],
)
def test_pack_refuses_chunks_that_no_reader_takes(chunks):
    with pytest.raises(ValueError, match="chunk|tiles"):
        pack(HEADER, chunks)


def test_every_prefix_is_corrupt():
    for size in range(len(SMALL)):
        with pytest.raises(CorruptStream):
            unpack(SMALL[:size])


def test_every_flipped_bit_is_noticed():
    for at, bit in itertools.product(range(len(SMALL)), range(8)):
        damaged = bytearray(SMALL)
        damaged[at] ^= 1 << bit
        with pytest.raises(StreamError):
            unpack(damaged)


def test_any_bytes_give_a_stream_error_alone():
    for size in range(200):
        for start in (b"", SMALL[:9], SMALL[:24]):
            with pytest.raises(StreamError):
                unpack(start + os.urandom(size))


def test_bytes_after_the_tile_are_refused():
    with pytest.raises(CorruptStream, match="1 bytes after"):
        unpack(SMALL + b"\0")
    with pytest.raises(CorruptStream, match="after the last tile"):
        unpack(raw(fields(), [(TILE, b"a"), (TILE, b"b")]))


def test_no_tile_is_corrupt():
    with pytest.raises(CorruptStream, match="0 of 1 tiles"):
        unpack(raw(fields(), [(ICC, b"a")]))


def test_unknown_chunks():
    header, chunks = unpack(raw(fields(), [(0xF0, b"future"), (TILE, b"a")]))
    assert (header.width, header.height) == (5, 7)
    assert chunks == [Chunk(TILE, b"a")]
    for kind in (0, 4, 0x7F):
        with pytest.raises(UnsupportedStream, match=f"chunk type {kind}"):
            unpack(raw(fields(), [(kind, b"future"), (TILE, b"a")]))


def test_an_unknown_optional_chunk_is_checked_too():
    data = raw(fields(), [(0xF0, b"future"), (TILE, b"a")])
    with pytest.raises(CorruptStream, match="checksum"):
        unpack(data.replace(b"future", b"Future"))


def test_later_fields_of_the_header_are_skipped():
    assert unpack(raw(fields(more=b"later"))) == unpack(raw(fields()))


@pytest.mark.parametrize("size", range(len(fields())))
def test_a_header_too_short_is_corrupt(size):
    with pytest.raises(CorruptStream):
        unpack(raw(fields()[:size]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"width": b"\0"}, CorruptStream, "width"),
        ({"height": b"\0"}, CorruptStream, "height"),
        ({"height": b"\x85\x00"}, CorruptStream, "longer number"),
        ({"width": b"\xff\xff\xff\xff\x10"}, CorruptStream, "32 bits"),
        ({"width": b"\xff\xff\xff\xff\xff\x01"}, CorruptStream, "32 bits"),
        ({"width": b"\xff\xff\xff\xff\x0f"}, UnsupportedStream, "limit"),
        ({"quality": 10001}, CorruptStream, "quality"),
        ({"layout": 4}, UnsupportedStream, "colour layout 4"),
        ({"layout": 2}, CorruptStream, "0 alpha chunks and 0 alpha tiles"),
    ],
)
def test_fields_out_of_range(change, error, message):
    with pytest.raises(error, match=message):
        unpack(raw(fields(**change)))


def test_another_version_is_unsupported():
    data = raw(fields(), magic=bitstream.MAGIC + b"\x02")
    with pytest.raises(UnsupportedStream, match="version 2"):
        unpack(data)


@pytest.mark.parametrize(
    "start",
    [
        SMALL.replace(b"\r\n", b"\n"),
        SMALL.replace(b"\n", b"\r\n"),
        SMALL.replace(b"\n", b"\r"),
        bytes(byte & 0x7F for byte in SMALL),
        SMALL.decode("latin-1").encode("utf-8"),
        SMALL.decode("ascii", "replace").encode("utf-8"),
        SMALL.decode("ascii", "replace").encode("ascii", "replace"),
    ],
    ids=range(7),  # Not the bytes, which differ from process to process.
)
def test_a_transfer_as_text_is_named(start):
    with pytest.raises(CorruptStream, match="as text"):
        unpack(start)


def test_other_files_are_unsupported():
    for start in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"tfc", b"\0" * 100):
        with pytest.raises(UnsupportedStream, match=r"not a \.tfc file"):
            unpack(start)
    with pytest.raises(CorruptStream, match="empty"):
        unpack(b"")


@pytest.mark.parametrize(
    "limits",
    [
        Limits(pixels=768 * 512 - 1),
        Limits(side=767),
        Limits(chunks=1),
        Limits(file_bytes=len(SMALL) - 1),
        Limits(decoded_bytes=3 * 768 * 512 - 1),
        Limits(tile_pixels=768 * 512 - 1),
    ],
)
def test_limits(limits):
    with pytest.raises(UnsupportedStream, match="limit"):
        unpack(SMALL, limits)


def test_limits_that_just_fit_and_zero():
    pixels = 768 * 512
    unpack(SMALL, Limits(pixels, 768, 3 * pixels, 1, pixels, 2, len(SMALL)))
    unpack(SMALL, Limits(*[0] * 10))
    huge = Header(bytes(8), 2**32 - 1, 2**32 - 1, 0)
    data = pack(huge, [TILE_CHUNK])
    with pytest.raises(UnsupportedStream, match="pixels"):
        unpack(data)
    none = Limits(pixels=0, side=0, decoded_bytes=0, tile_pixels=0)
    assert unpack(data, none)[0] == huge
    check_limits(huge, none)
    with pytest.raises(UnsupportedStream):
        check_limits(huge, Limits())


def test_limit_of_tiles():
    header = Header(bytes(8), 640, 64, 0, tile=1)
    data = pack(header, [TILE_CHUNK] * 10)
    unpack(data, Limits(tiles=10))
    with pytest.raises(UnsupportedStream, match="10 tiles: over the limit of 9"):
        unpack(data, Limits(tiles=9))


@pytest.mark.parametrize("kind", [bitstream.TILE, bitstream.ALPHA_TILE])
def test_limit_of_bytes_per_pixel_is_of_a_tile_and_its_padding(kind):
    # Tiles of 128 pixels, of which the image has 100 rows and 65 columns.
    header = Header(bytes(8), 65, 100, 0, layout=bitstream.RGBA, tile=2)
    most = 2 * 128 * 128 + bitstream.OVERHEAD
    for size in (most, most + 1):
        kinds = [bitstream.TILE, bitstream.ALPHA_TILE]
        chunks = [Chunk(k, bytes(size if k == kind else 2)) for k in kinds]
        data = pack(header, chunks)
        if size == most:
            unpack(data, Limits(bytes_per_pixel=2))
            continue
        with pytest.raises(UnsupportedStream, match="2 bytes per pixel"):
            unpack(data, Limits(bytes_per_pixel=2))
    unpack(data, Limits(bytes_per_pixel=0))


def test_a_length_beyond_the_file_allocates_nothing():
    data = raw(fields(), [])
    with pytest.raises(CorruptStream, match="truncated"):
        unpack(data + b"\x01" + bitstream.varint(2**32 - 1) + bytes(4))


@pytest.mark.parametrize(
    ("width", "height", "tile", "count"),
    [
        (64, 64, 1, 1),
        (65, 64, 1, 2),
        (130, 70, 1, 6),
        (4000, 3000, 5, 12),
        (9, 9, 0, 1),
    ],
)
def test_an_image_has_all_its_tiles(width, height, tile, count):
    header = dataclasses.replace(HEADER, width=width, height=height, tile=tile)
    assert header.tiles == count
    chunks = [Chunk(TILE, bytes([k])) for k in range(count)]
    data = pack(header, [*chunks, Chunk(XMP, b"x")])
    assert unpack(data) == (header, [Chunk(XMP, b"x"), *chunks])
    for wrong in (chunks[1:], [*chunks, TILE_CHUNK]):
        with pytest.raises(ValueError, match="tiles"):
            pack(header, wrong)
    with pytest.raises(CorruptStream):
        unpack(data[: -len(chunks[-1].data) - 6])


def test_alpha_is_one_chunk_or_as_many_as_tiles():
    header = dataclasses.replace(HEADER, tile=4, layout=bitstream.RGBA)  # 2x1 tiles
    tiles = [TILE_CHUNK, TILE_CHUNK]
    for alpha in ([Chunk(ALPHA, b"a")], [Chunk(ALPHA_TILE, b"a")] * 2):
        assert unpack(pack(header, tiles + alpha)) == (header, alpha + tiles)
    for alpha in ([], [Chunk(ALPHA, b"")] * 2, [Chunk(ALPHA_TILE, b"")]):
        with pytest.raises(ValueError, match="alpha"):
            pack(header, tiles + alpha)


def test_metadata_goes_there_and_back_within_its_limit():
    given = {"icc_profile": os.urandom(3000), "exif": bytes(5000), "xmp": None}
    chunks = bitstream.metadata_chunks(given)
    del given["xmp"]
    assert bitstream.metadata(chunks) == given
    assert bitstream.metadata(chunks, Limits(metadata=5000)) == given
    with pytest.raises(UnsupportedStream, match="EXIF: over the limit of 4999"):
        bitstream.metadata(chunks, Limits(metadata=4999))
    with pytest.raises(ValueError, match="no such metadata: iptc"):
        bitstream.metadata_chunks({"iptc": b""})
    whole = chunks[0].data
    for damaged in (b"", whole[:-1], whole + b"x", b"x" + whole):
        with pytest.raises(CorruptStream, match="damaged ICC profile"):
            bitstream.metadata([Chunk(ICC, damaged)])


def test_varint():
    for value in (0, 1, 127, 128, 300, 2**14, 2**21 - 1, 2**28, 2**32 - 1):
        reader = bitstream.Reader(memoryview(bitstream.varint(value)))
        assert reader.varint() == value
        assert reader.left == 0
    for value in (-1, 2**32):
        with pytest.raises(ValueError, match="2\\^32"):
            bitstream.varint(value)
