"""The reader of image files, on odd files of every kind."""

import io
import pathlib
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, features

from tests import made
from tests.made import SMALL, eight, read, saved, written
from tfcodec import classical, exif, formats, images, pixels, plugins, tiff
from tfcodec.pixels import Picture

RNG = np.random.default_rng(0)


# Transparency of PNG (tRNS) --------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)]
)
def test_the_transparent_colour_of_a_png_becomes_alpha(bits, colour):
    shape = (9, 11, 3) if colour else (9, 11)
    samples = RNG.integers(0, 2**bits, shape)
    key = np.atleast_1d(samples[3, 4])
    samples[5:7, :4] = samples[3, 4]
    trns = struct.pack(f">{len(key)}H", *key)
    found = read(made.png(samples, bits, colour, (b"tRNS", trns))).pixels
    same = samples == samples[3, 4]
    same = same.all(-1) if colour else same
    assert found.shape[2] == (4 if colour else 2)
    assert np.array_equal(found[..., -1], np.where(same, 0, 255))
    colours = found[..., :-1] if colour else found[..., 0]
    assert np.abs(colours.astype(int) - eight(samples, bits)).max() <= (bits == 16)


@pytest.mark.parametrize("colour", [0, 2])
def test_a_colour_of_16_bits_is_not_taken_for_one_of_8(colour):
    # The low bytes of the transparent colour are the high bytes of the pixels.
    samples = np.full((4, 4, 3) if colour else (4, 4), 0x3400)
    trns = struct.pack(">3H", *[0x1234] * 3) if colour else struct.pack(">H", 0x1234)
    found = read(made.png(samples, 16, colour, (b"tRNS", trns)))
    assert found.pixels.shape == samples.shape  # no alpha
    half = samples.copy()
    half[:2] = 0x12FF  # of the same high bytes
    half[2:] = 0x1234
    found = read(made.png(half, 16, colour, (b"tRNS", trns)))
    assert (found.pixels[:2, :, -1] == 255).all()
    assert (found.pixels[2:, :, -1] == 0).all()


def test_bits_of_a_transparent_colour_beyond_those_of_a_sample_do_not_count():
    samples = np.array([[7, 8]])
    found = read(made.png(samples, 8, 0, (b"tRNS", struct.pack(">H", 0x1207))))
    assert found.pixels[..., 1].tolist() == [[0, 255]]


def test_16_bit_grey_and_alpha_stays_grey_and_alpha():
    samples = RNG.integers(0, 65536, (5, 6, 2))
    found = read(made.png(samples, 16, 4))
    assert found.pixels.shape == (5, 6, 2)
    assert np.array_equal(found.pixels, samples >> 8)
    assert found.notes == ["not kept: the lower 8 of 16 bits"]


def test_the_transparent_colour_of_16_bit_grey_needs_no_file():
    image = Image.fromarray(np.array([[1234, 1235]], np.uint16))
    image.info["transparency"] = 1234
    found = images.picture_of(image, upright=False)
    assert found.pixels[..., 1].tolist() == [[0, 255]]


def test_the_alpha_of_an_interlaced_16_bit_png_is_as_of_a_plain_one():
    # One pixel of each of Adam7's first two passes; the others are empty.
    trns = b"tRNS", struct.pack(">3H", 1, 2, 3)
    plain = made.png(np.array([[[1, 2, 3]]]), 16, 2, trns)
    head = plain[12:29]  # type and data of IHDR; its last byte: interlaced
    laced = head[:-1] + b"\1"
    checksums = [struct.pack(">I", zlib.crc32(part)) for part in (head, laced)]
    data = plain.replace(head + checksums[0], laced + checksums[1])
    assert data != plain
    assert read(data).pixels.tolist() == [[[0, 0, 0, 0]]]


# EXIF ------------------------------------------------------------------------------


ODD = [
    (282, 2, b"abc\0"), (296, 5, struct.pack("<II", 2, 1)), (305, 5, bytes(8)),
    (271, 12, bytes(8)), (306, 4, bytes(4)), (315, 1, b"ab"), (34665, 2, b"ab\0\0"),
    (34853, 7, b"abcd"), (270, 9, bytes(4)), (33432, 10, bytes(8)), (700, 3, b"ab"),
    (256, 2, b"abc\0"),
]  # fmt: skip


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tag", ODD, ids=str)
def test_a_turned_picture_with_an_odd_tag_is_read_upright(form, tag):
    data = made.exif(tag)
    found = read(saved(Image.fromarray(SMALL), form, exif=b"Exif\0\0" + data))
    assert found.pixels.shape == (8, 12, 3)
    assert found.notes == []
    kept = exif.of_bytes(found.metadata["exif"])
    assert kept.entries[tag[0]] == exif.of_bytes(data).entries[tag[0]]
    assert exif.ORIENTATION not in kept.entries


@pytest.mark.parametrize("number", range(1, 9))
def test_all_orientations_are_undone_as_pillow_does(number):
    file = io.BytesIO(
        saved(Image.fromarray(SMALL), "PNG", exif=made.exif(orientation=number))
    )
    from PIL import ImageOps

    with Image.open(file) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(images.read(file, "it").pixels, wanted)


def test_taking_the_orientation_out_leaves_all_else_where_it_was():
    # As a maker's notes need it, which point into EXIF.
    data = made.exif((270, 2, b"a description\0"), (305, 2, b"a program\0"))
    less = exif.upright(data)
    assert len(less) == len(data)
    read_again = Image.Exif()
    read_again.load(less)
    assert dict(read_again) == {270: "a description", 305: "a program"}
    assert data.index(b"a program") == less.index(b"a program")


def thumbnail_exif(orientation, order="<", more=b""):
    """EXIF with a thumbnail, a JPEG in its second directory, and `more` at the end."""
    small = saved(Image.new("RGB", (16, 12), "red"), "JPEG")
    first = made.exif((271, 2, b"a maker\0"), order=order, orientation=orientation)
    at = len(first)
    entries = [(259, 3, 6), (513, 4, at + 2 + 36 + 4), (514, 4, len(small))]
    second = struct.pack(order + "H", len(entries)) + b"".join(
        struct.pack(f"{order}HHI{'H2x' if kind == 3 else 'I'}", tag, kind, 1, value)
        for tag, kind, value in entries
    )
    (count,) = struct.unpack_from(order + "H", first, 8)
    link = 10 + 12 * count
    first = first[:link] + struct.pack(order + "I", at) + first[link + 4 :]
    return first + second + bytes(4) + small + more, small


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("more", [b"", b"a maker's notes"])
def test_a_thumbnail_that_is_not_turned_with_the_picture_is_dropped_and_said(
    order, more
):
    data, small = thumbnail_exif(6, order, more)
    assert Image.open(io.BytesIO(saved(Image.fromarray(SMALL), "JPEG", exif=data)))
    found = read(saved(Image.fromarray(SMALL), "JPEG", exif=b"Exif\0\0" + data))
    kept = found.metadata["exif"]
    assert found.notes == ["not kept: thumbnail in EXIF, which is not turned"]
    assert small[:8] not in kept
    assert set(exif.of_bytes(kept).entries) == {271}
    assert not any(exif.of_bytes(kept).after)
    assert not more or kept.index(more) == data.index(more)


def test_the_thumbnail_of_an_upright_picture_is_kept():
    data, _ = thumbnail_exif(0)
    found = read(saved(Image.fromarray(SMALL), "JPEG", exif=b"Exif\0\0" + data))
    assert found.metadata["exif"] == data
    assert found.notes == []


@pytest.mark.parametrize("at", [1, 2**31, 2**32 - 1])
def test_a_second_directory_that_is_not_there_spoils_no_turned_picture(at):
    data, _ = thumbnail_exif(6)
    (count,) = struct.unpack_from("<H", data, 8)
    link = 10 + 12 * count
    data = data[:link] + struct.pack("<I", at) + data[link + 4 :]
    found = read(saved(Image.fromarray(SMALL), "JPEG", exif=b"Exif\0\0" + data))
    assert found.pixels.shape == (8, 12, 3)


@pytest.mark.parametrize(
    "said",
    [
        b'tiff:Orientation="6"/>', b"tiff:Orientation = ' 6'/>",
        b"><tiff:Orientation>6</tiff:Orientation></rdf:Description>",
        b'><tiff:Orientation rdf:datatype="x"> 6\n</tiff:Orientation >'
        b"</rdf:Description>",
    ],
)  # fmt: skip
def test_xmp_does_not_turn_a_picture_that_is_turned_already(said):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description a="b" ' + said
    options = {"exif": b"Exif\0\0" + made.exif(), "xmp": xmp + b"</x:xmpmeta>"}
    found = read(saved(Image.fromarray(SMALL), "JPEG", **options))
    assert found.pixels.shape == (8, 12, 3)
    assert b"Orientation" not in found.metadata["xmp"]
    assert b'a="b"' in found.metadata["xmp"]
    del options["exif"]  # by which alone browsers turn
    found = read(saved(Image.fromarray(SMALL), "JPEG", **options))
    assert found.pixels.shape == (12, 8, 3)
    assert found.metadata["xmp"] == options["xmp"]


@pytest.mark.parametrize("kind", [(2, b"6\0"), (5, struct.pack("<II", 6, 1))])
def test_an_orientation_that_is_no_integer_turns_nothing(kind):
    data = made.exif((274, *kind), (271, 2, b"a maker\0"))
    found = read(saved(Image.fromarray(SMALL), "PNG", exif=data))
    assert np.array_equal(found.pixels, SMALL)
    assert written("TIFF", found)[0] == []


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_an_avif_with_damaged_exif_is_read_and_the_loss_is_said():
    whole = made.exif((271, 2, b"a maker\0"), orientation=0)
    data = saved(Image.fromarray(SMALL), "AVIF", exif=whole)
    assert read(data).metadata["exif"] == whole
    found = read(data.replace(whole[:8], b"garbage!"))
    assert found.pixels.shape == SMALL.shape
    assert found.notes == ["not kept: EXIF, which is damaged"]


# TIFF ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 8])
def test_a_grey_tiff_of_any_depth_has_its_range(bits, photometric, order, compression):
    samples = RNG.integers(0, 2**bits, (13, 17))
    found = read(made.tiff(samples, bits, photometric, order, compression))
    wanted = samples if photometric else 2**bits - 1 - samples
    assert np.array_equal(found.pixels, eight(wanted, bits))
    few = [f"not kept: the lower {bits - 8} of {bits} bits"] if bits > 8 else []
    assert [note for note in found.notes if "mode 1" not in note] == few


@pytest.mark.parametrize(
    ("bits", "count"), [(12, 2), (12, 3), (10, 4), (16, 2), (8, 2)]
)
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tiff_with_colours_or_alpha_of_any_depth_has_its_range(
    bits, count, photometric
):
    samples = RNG.integers(0, 2**bits, (6, 7, count))
    kind = 2 if count > 2 else photometric
    wanted = samples.copy()
    if kind == 0:
        wanted[..., 0] = 2**bits - 1 - wanted[..., 0]
    found = read(made.tiff(samples, bits, kind))
    assert np.array_equal(found.pixels, eight(wanted, bits))


def test_a_tiff_of_12_bits_is_turned_as_its_orientation_says():
    samples = RNG.integers(0, 4096, (6, 7))
    found = read(made.tiff(samples, 12, tags=[(274, 3, b"\6\0")]))
    assert np.array_equal(found.pixels, np.rot90(eight(samples, 12), -1))


@pytest.mark.parametrize(
    ("kind", "words"), [(2, "signed pixels of 16 bits"), (3, "floating-point")]
)
def test_a_tiff_without_black_and_white_is_refused_in_true_words(kind, words):
    data = made.tiff(np.ones((4, 4), int), 16, tags=[(339, 3, bytes([kind, 0]))])
    with pytest.raises(tiff.Unfit, match=words):
        read(data)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("tag", [tag for tag in ODD if tag[0] != 256], ids=str)
def test_a_tiff_with_an_odd_tag_is_read(tag, bits):
    samples = RNG.integers(0, 2**bits, (6, 7))
    found = read(made.tiff(samples, bits, tags=[tag]))
    assert np.array_equal(found.pixels, eight(samples, bits))
    kept = exif.of_bytes(found.metadata.get("exif", b""))
    said = any(f"({tag[0]})" in note for note in found.notes)
    assert said or tag[0] in kept.entries


# Depths ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", range(715, 725))
def test_a_plain_bmp_is_not_said_to_be_of_16_bits(width):
    assert read(saved(Image.new("RGB", (width, 2)), "BMP")).notes == []


def test_a_plain_compressed_tiff_is_not_said_to_be_of_16_bits():
    for height in range(20, 60):  # until the offset in the file has a 16 in it
        image = Image.fromarray(RNG.integers(0, 256, (height, 16, 3), np.uint8))
        assert read(saved(image, "TIFF", compression="tiff_lzw")).notes == []


def test_a_bmp_of_16_bits_a_pixel_is_not_said_to_be_of_16_bits_a_sample():
    head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    body = struct.pack("<2H", 0xF800, 0x001F)
    start = b"BM" + struct.pack("<IHHI", 14 + 52 + 4, 0, 0, 14 + 52)
    found = read(start + head + masks + body)
    assert found.pixels.tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert found.notes == []


def test_more_than_8_bits_of_a_pnm_are_said():
    data = b"P5\n# a comment\n2 1 1023\n" + struct.pack(">2H", 0, 1023)
    found = read(data)
    assert found.pixels.tolist() == [[0, 255]]
    assert found.notes == ["not kept: the lower 2 of 10 bits"]
    data = b"P6 1 1 65535\n" + struct.pack(">3H", 0, 65535, 0)
    assert read(data).notes == ["not kept: the lower 8 of 16 bits"]
    assert read(b"P6 1 1 255\n\1\2\3").notes == []


# Packages --------------------------------------------------------------------------


def test_a_heic_is_read_where_pillow_heif_is_installed():
    pillow_heif = pytest.importorskip("pillow_heif")
    if not pillow_heif.libheif_info().get("HEIF"):
        pytest.skip("built without an encoder")
    file = io.BytesIO()
    flat = Image.new("RGB", (64, 48), (200, 100, 50))
    pillow_heif.from_pillow(flat).save(file, quality=90)
    found = read(file.getvalue())
    assert np.abs(found.pixels - np.array([200, 100, 50])).max() < 6
    notes, back = written(formats.form_of(pathlib.Path("x.heic")), found)
    assert (notes, back.pixels.shape) == ([], (48, 64, 3))


def test_a_jpeg_xl_is_read_where_its_package_is_installed():
    pytest.importorskip("pillow_jxl")
    form = formats.form_of(pathlib.Path("x.jxl"))
    data = {"exif": made.exif((271, 2, b"a maker\0"))}
    notes, back = written(form, Picture(SMALL, data))
    assert notes == []
    assert np.array_equal(back.pixels, np.rot90(SMALL, -1))  # upright, by us
    assert back.metadata == {"exif": exif.upright(data["exif"])}


@pytest.mark.parametrize(
    ("start", "package"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "pillow-heif"),
        (b"\xff\x0a1234567890", "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "pillow-jxl-plugin"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "--upgrade pillow"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "--upgrade pillow"),
        (b"\xff\x4f\xff\x51", "--upgrade pillow"),
        (b"RIFF1234WEBPVP8 ", "--upgrade pillow"),
    ],
)
def test_the_package_that_reads_a_file_is_named_where_it_is_missing(
    monkeypatch, start, package
):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(plugins.importlib, "import_module", missing)
    monkeypatch.setattr(features, "check", lambda name: False)
    monkeypatch.setattr(Image, "OPEN", {})
    monkeypatch.setattr(Image, "ID", [])
    monkeypatch.setattr(Image, "EXTENSION", {})
    need = plugins.wanted(start)
    words = plugins.missing(need)
    assert words.startswith(f"{plugins.NAMES[need]} needs ")
    assert words.endswith(f": pip install {package}")
    with pytest.raises(ValueError, match=f": {words}$"):
        read(start + bytes(100))
    for suffix in (suffix for suffix, of in plugins.SUFFIXES.items() if of == need):
        with pytest.raises(ValueError, match=f"^x{suffix}: {words}, or try .png$"):
            formats.form_of(pathlib.Path(f"x{suffix}"))
    for codec in classical.CODECS.values():
        if need in (codec.feature, codec.plugin):
            assert codec.missing() == f"{codec.name}: {words}"


def test_a_package_that_is_there_but_fails_says_why(monkeypatch):
    def broken(name):
        raise ImportError("libheif.so: cannot open shared object file")

    monkeypatch.setattr(plugins.importlib, "import_module", broken)
    assert plugins.missing("pillow-heif").endswith("fails: libheif.so: cannot open "
                                                   "shared object file")  # fmt: skip


def test_pillow_is_as_it_was_after_readers_in_several_threads():
    from PIL import PngImagePlugin

    before = PngImagePlugin.MAX_TEXT_CHUNK
    data = saved(Image.fromarray(SMALL), "PNG")
    threads = [
        threading.Thread(target=lambda: [read(data) for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert PngImagePlugin.MAX_TEXT_CHUNK == before


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("top", [255, 65535])
def test_grey_levels_of_32_bits_are_refused_as_white_is_not_known(signed, top):
    levels = np.linspace(0, top, 64).reshape(8, 8).astype(np.uint32)
    file = io.BytesIO()
    Image.fromarray(levels.astype(np.int32)).save(file, "TIFF")
    data = file.getvalue()
    kind = struct.pack("<HHIHH", 339, 3, 1, 2, 0)  # SampleFormat 2, signed
    assert kind in data
    if not signed:
        data = data.replace(kind, struct.pack("<HHIHH", 339, 3, 1, 1, 0))
    with pytest.raises(tiff.Unfit, match="32 bits, of which black and white are not"):
        images.read(io.BytesIO(data), "it")


def test_arrays_of_data_sets_have_their_range():
    deep = np.array([[[0], [128], [257], [65535]]], np.uint16)
    for channels in (1, 3, 4):
        found = pixels.rgb_of(np.repeat(deep, channels, -1))
        assert found.tolist() == [[[v] * 3 for v in (0, 0, 1, 255)]]
    assert pixels.rgb_of(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    for kind in (np.float32, np.int32, np.float16):
        with pytest.raises(tiff.Unfit):
            pixels.rgb_of(np.zeros((2, 2, 3), kind))


def test_the_size_of_a_large_image_is_told_within_the_limit_given(tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="max_pixels"):
        images.size_of(tmp_path / "large.png")
    assert images.size_of(tmp_path / "large.png", 0) == (20_000, 10_000)
