"""The reader and the writer of image files, on odd files of every kind."""

import io
import itertools
import pathlib
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from tests import made
from tfcodec import exif, formats, images, pixels, plugins, profiles
from tfcodec.images import Picture

RNG = np.random.default_rng(0)
SMALL = np.arange(12 * 8 * 3).reshape(12, 8, 3).astype(np.uint8)


def read(data, **options):
    return images.read(io.BytesIO(data), "it", **options)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def written(form, picture, **options):
    """(what was lost, the file read again)"""
    file = io.BytesIO()
    notes = images.write(file, form, picture, **options)
    return notes, read(file.getvalue())


def eight(samples, bits):
    most = 2**bits - 1
    return (np.asarray(samples) * 255 + most // 2) // most


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


@pytest.mark.parametrize("kind", [(2, b"6\0"), (5, struct.pack("<II", 6, 1))])
def test_an_orientation_that_is_no_integer_turns_nothing(kind):
    data = made.exif((274, *kind), (271, 2, b"a maker\0"))
    found = read(saved(Image.fromarray(SMALL), "PNG", exif=data))
    assert np.array_equal(found.pixels, SMALL)
    assert written("TIFF", found)[0] == []


GARBAGE = [
    b"garbage garbage", b"II*\0", b"II*\0\x08\0\0\0\xff\xff", made.exif()[:15],
    made.exif((282, 2, b"abc\0"), orientation=0), made.exif((282, 2, b"abc\0")),
    made.exif((34665, 4, b"\xff\xff\xff\x7f")),
]  # fmt: skip


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP", "PPM"])
def test_a_picture_with_odd_exif_is_written_whatever_the_format(form, data):
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    picture = Picture(SMALL, {"exif": data})
    turned = exif.orientation(data) != 1
    notes, back = written(form, picture)
    assert back.pixels.shape == ((8, 12, 3) if turned else (12, 8, 3))
    kept = back.metadata.get("exif") == (exif.upright(data) if turned else data)
    assert kept or any("exif" in note for note in notes)
    assert all(note.startswith("not kept: exif") for note in notes)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_an_avif_with_damaged_exif_is_read_and_the_loss_is_said():
    whole = made.exif((271, 2, b"a maker\0"), orientation=0)
    data = saved(Image.fromarray(SMALL), "AVIF", exif=whole)
    assert read(data).metadata["exif"] == whole
    found = read(data.replace(whole[:8], b"garbage!"))
    assert found.pixels.shape == SMALL.shape
    assert found.notes == ["not kept: EXIF, which is damaged"]


def test_exif_and_xmp_both_go_into_a_tiff():
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"
    data = made.exif((271, 2, b"a maker\0"), orientation=0)
    notes, back = written("TIFF", Picture(SMALL, {"exif": data, "xmp": xmp}))
    assert notes == []
    assert back.metadata["xmp"] == xmp
    assert exif.of_bytes(back.metadata["exif"]).kind(271) == 2


def test_exif_does_not_say_how_the_pixels_of_a_tiff_are_stored():
    data = made.exif((256, 4, b"\1\0\0\0"), (258, 3, b"\1\0"), (262, 3, b"\0\0"))
    _, back = written("TIFF", Picture(SMALL, {"exif": data}))
    assert np.array_equal(back.pixels, pixels.turned(SMALL, 6))


@pytest.mark.parametrize("form", ["BMP", "TGA", "JPEG2000", "PPM", "ICO", "GIF"])
def test_the_pixels_are_turned_where_exif_is_not_kept(form):
    grey = SMALL[..., 0]
    notes, back = written(form, Picture(grey, {"exif": made.exif()}))
    assert notes == ["not kept: exif"]
    found = back.pixels if back.pixels.ndim == 2 else back.pixels[..., 0]
    assert np.array_equal(found, np.rot90(grey, -1))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_the_pixels_are_turned_where_exif_is_stripped(form):
    notes, back = written(form, Picture(SMALL, {"exif": made.exif()}), strip=True)
    assert (notes, back.metadata) == ([], {})
    assert back.pixels.shape == (8, 12, 3)
    again = written(form, Picture(SMALL, {"exif": made.exif()}))[1]
    assert np.array_equal(back.pixels, again.pixels)


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
    with pytest.raises(images.Unfit, match=words):
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


# Colours ---------------------------------------------------------------------------


def gama(value):
    return b"gAMA", struct.pack(">I", value)


def chrm(*values):
    return b"cHRM", struct.pack(">8I", *(round(v * 100000) for v in values))


SRGB_CHRM = chrm(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_CHRM = chrm(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def as_srgb(picture):
    profile = io.BytesIO(picture.metadata["icc_profile"])
    image = Image.fromarray(picture.pixels)
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(
        ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(profile), srgb,
                                  outputMode="RGB")
    )  # fmt: skip


@pytest.mark.parametrize(
    "chunks",
    [
        (), (gama(45455),), (gama(45455), SRGB_CHRM), (SRGB_CHRM,),
        ((b"sRGB", b"\0"), gama(100000), P3_CHRM), ((b"cICP", bytes([1, 13, 0, 1])),),
        ((b"cICP", bytes([2, 2, 0, 1])),),
    ],
)  # fmt: skip
def test_a_png_of_srgb_said_in_any_way_says_nothing(chunks):
    found = read(made.png(SMALL, 8, 2, *chunks))
    assert (found.metadata, found.notes) == ({}, [])


def test_the_gamma_of_a_png_becomes_an_icc_profile_that_looks_the_same():
    found = read(made.png(np.full((1, 1, 3), 128), 8, 2, gama(100000)))
    assert np.abs(as_srgb(found).astype(int) - 188).max() <= 1  # linear 0.5
    assert found.notes == ["colours (gamma 1) as an ICC profile"]
    grey = read(made.png(np.full((1, 1), 128), 8, 0, gama(100000)))
    assert grey.metadata["icc_profile"][16:20] == b"GRAY"
    assert np.abs(as_srgb(grey).astype(int) - 188).max() <= 1


@pytest.mark.parametrize(
    "chunk", [P3_CHRM, (b"cICP", bytes([12, 13, 0, 1]))], ids=["cHRM", "cICP"]
)
def test_wider_primaries_of_a_png_become_an_icc_profile(chunk):
    found = read(made.png(np.array([[[200, 100, 50]]]), 8, 2, chunk))
    # By the matrices of CSS Color 4, section 18.
    assert np.abs(as_srgb(found)[0, 0] - np.array([215, 93, 31])).max() <= 2
    notes, back = written("PNG", found)
    assert notes == []
    assert back.metadata == found.metadata


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_colours_that_no_profile_can_say_are_named(transfer, name):
    chunk = b"cICP", bytes([9, transfer, 0, 1])
    found = read(made.png(SMALL, 8, 2, chunk))
    assert found.metadata == {}
    assert found.notes == [f"not kept: cICP of {name}, which no ICC profile says"]


def test_code_points_of_a_png_count_more_than_its_profile_and_that_more_than_gamma():
    profile = profiles.profile(profiles.of_gamma(0.5, None))
    iccp = b"iCCP", b"x\0\0" + zlib.compress(profile)
    found = read(made.png(SMALL, 8, 2, iccp, gama(100000), P3_CHRM))
    assert (found.metadata, found.notes) == ({"icc_profile": profile}, [])
    found = read(made.png(SMALL, 8, 2, (b"cICP", bytes([12, 13, 0, 1])), iccp))
    assert found.metadata["icc_profile"] != profile
    assert any("precedence" in note for note in found.notes)


def test_impossible_chromaticities_are_said():
    flat = chrm(0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)
    for chunk in (flat, gama(0)):
        found = read(made.png(SMALL, 8, 2, chunk))
        assert found.metadata == {}
        assert "impossible" in found.notes[0]


@pytest.mark.parametrize("key", [*itertools.product((1, 9, 12), (1, 4, 8, 13))])
def test_a_made_profile_maps_white_to_white_and_grey_to_grey(key):
    profile = profiles.profile(profiles.of_code_points(*key))
    ramp = np.repeat(np.arange(0, 256, 15, dtype=np.uint8)[None, :, None], 3, -1)
    found = as_srgb(Picture(ramp, {"icc_profile": profile})).astype(int)
    assert np.ptp(found, axis=-1).max() <= 1
    assert (found[0, 0].max(), found[0, -1].min()) == (0, 255)
    assert (np.diff(found[..., 1]) >= 0).all()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_code_points_of_an_avif_become_an_icc_profile():
    data = saved(Image.fromarray(SMALL), "AVIF")
    assert read(data).metadata == {}
    at = data.index(b"nclx") + 4
    wide = data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :]
    found = read(wide)
    wanted = profiles.profile(profiles.of_code_points(12, 13))
    assert found.metadata == {"icc_profile": wanted}
    hdr = read(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :])
    assert hdr.notes == ["not kept: nclx of PQ, which no ICC profile says"]


# What is not kept ------------------------------------------------------------------


def text(kind, word, value):
    if kind == b"iTXt":
        return kind, word + b"\0\0\0\0\0" + value
    return kind, word + b"\0" + (
        b"\0" + zlib.compress(value) if kind == b"zTXt" else value
    )


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_text_of_a_png_is_said_by_its_name(kind):
    data = made.png(SMALL, 8, 2, text(kind, b"Author", b"A. Person"))
    assert read(data).notes == ["not kept: text (Author)"]
    assert read(data, strip=True).notes == []


def test_a_name_of_a_text_moves_no_cursor():
    data = made.png(SMALL, 8, 2, text(b"tEXt", b"\x1b[31mred", b"x"))
    assert "\x1b" not in read(data).notes[0]


def test_comments_and_iptc_and_unknown_segments_are_said():
    image = Image.fromarray(SMALL)
    assert read(saved(image, "JPEG", comment=b"mine")).notes == ["not kept: comment"]
    assert "not kept: comment" in read(saved(image, "GIF", comment=b"mine")).notes
    plain = saved(image, "JPEG")

    def with_segment(number, data):
        mark = bytes([0xFF, 0xE0 + number]) + struct.pack(">H", 2 + len(data))
        return plain[:2] + mark + data + plain[2:]

    iptc = b"\x1c\x02\x78\0\4text"
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + iptc + b"\0"
    found = read(with_segment(13, b"Photoshop 3.0\0" + resource))
    assert found.notes == ["not kept: IPTC"]
    assert read(with_segment(11, b"JP\0\0")).notes == [
        "not kept: JPEG segments (APP11)"
    ]
    tagged = made.tiff(SMALL, 8, 2, tags=[(33723, 7, iptc), (34735, 3, b"\1\0")])
    assert read(tagged).notes == ["not kept: TIFF tags (IPTC, 34735)"]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP"])
def test_a_resolution_is_said_unless_it_is_a_usual_one(form):
    image = Image.fromarray(SMALL)
    assert read(saved(image, form, dpi=(300, 300))).notes == [
        "not kept: resolution of 300 dpi"
    ]
    assert read(saved(image, form, dpi=(72, 72))).notes == []
    if form != "BMP":
        (note,) = read(saved(image, form, dpi=(300, 150))).notes
        assert "300x150 dpi: not square" in note


def test_pixels_that_are_not_square_are_said():
    phys = b"pHYs", struct.pack(">IIB", 2, 1, 0)
    assert "2:1: not square" in read(made.png(SMALL, 8, 2, phys)).notes[0]
    jfif = saved(Image.fromarray(SMALL), "JPEG")
    at = jfif.index(b"JFIF\0") + 7
    wide = jfif[: at + 1] + struct.pack(">HH", 2, 1) + jfif[at + 5 :]
    assert "2:1: not square" in read(wide).notes[0]


def test_a_resolution_that_exif_says_too_is_kept_and_not_said():
    one = struct.pack("<II", 300, 1)
    data = made.exif((282, 5, one), (283, 5, one), (296, 3, b"\2\0"), orientation=0)
    file = saved(
        Image.fromarray(SMALL), "JPEG", dpi=(300, 300), exif=b"Exif\0\0" + data
    )
    found = read(file)
    assert (found.notes, found.metadata["exif"]) == ([], data)


@pytest.mark.parametrize("kind", ["exif", "APP1", "xmp", "icc"])
def test_old_style_profiles_of_a_png_are_kept(kind):
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"
    held = {
        "exif": b"Exif\0\0" + made.exif((271, 2, b"a maker\0"), orientation=0),
        "APP1": b"http://ns.adobe.com/xap/1.0/\0" + xmp,
        "xmp": xmp,
        "icc": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    }[kind]
    words = f"\n{kind}\n{len(held):8}\n{held.hex()}\n".encode()
    name = b"Raw profile type " + kind.encode()
    found = read(made.png(SMALL, 8, 2, text(b"zTXt", name, words)))
    assert found.notes == []
    wanted = held.removeprefix(b"Exif\0\0").removeprefix(
        b"http://ns.adobe.com/xap/1.0/\0"
    )
    key = {"APP1": "xmp", "icc": "icc_profile"}.get(kind, kind)
    assert found.metadata == {key: wanted}


def test_an_old_style_profile_of_iptc_is_said():
    words = text(b"tEXt", b"Raw profile type iptc", b"\niptc\n       2\n1c02\n")
    assert read(made.png(SMALL, 8, 2, words)).notes == ["not kept: IPTC"]


# Formats to write ------------------------------------------------------------------


EXACT = sorted(
    set(formats.FORMS) - {"AVIF", "EPS", "GIF", "HEIF", "JPEG", "JXL", "PDF"}
)


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_format_holds_what_its_table_says_and_names_the_rest(form, channels):
    if form not in _writable():
        pytest.skip("this Pillow does not write it")
    whole = RNG.integers(0, 256, (9, 7, channels), np.uint8)
    whole = whole[..., 0] if channels == 1 else whole
    if channels in (2, 4):
        whole[..., -1] |= 1  # of a colour that no one sees, nothing is said
    notes, back = written(form, Picture(whole))
    grey, alpha = channels < 3, channels in (2, 4)
    lost = "not kept: alpha; what was seen is over white"
    assert notes in ([], [lost] if alpha else [])
    if not notes:
        colours = back.pixels[..., :3] if back.pixels.ndim == 3 else back.pixels
        if back.pixels.ndim == 3 and back.pixels.shape[2] in (1, 2):
            colours = back.pixels[..., 0]
        if grey and colours.ndim == 3:
            colours = colours[..., 0]
        first = whole if channels == 1 else whole[..., : 1 if grey else 3]
        assert np.array_equal(colours, np.squeeze(first))
    if alpha and not notes:
        assert np.array_equal(back.pixels[..., -1], whole[..., -1])


def _writable():
    Image.init()
    return Image.SAVE


def test_an_icon_is_whole_or_refused():
    picture = Picture(RNG.integers(0, 256, (100, 200, 3), np.uint8))
    assert np.array_equal(written("ICO", picture)[1].pixels, picture.pixels)
    large = Picture(np.zeros((100, 257, 3), np.uint8))
    with pytest.raises(ValueError, match="at most 256 pixels"):
        written("ICO", large)


def test_what_a_gif_loses_is_said():
    noise = RNG.integers(0, 256, (40, 40, 3), np.uint8)
    assert written("GIF", Picture(noise))[0] == [
        "not kept: colours beyond the 256 of a GIF"
    ]
    assert written("GIF", Picture(noise[..., 0]))[0] == []
    assert written("GIF", Picture(np.zeros((4, 4, 3), np.uint8)))[0] == []
    seen = np.full((4, 4, 4), 128, np.uint8)
    assert "not kept: shades of alpha" in written("GIF", Picture(seen))[0]


def test_what_a_pdf_loses_is_said():
    file = io.BytesIO()
    notes = images.write(file, "PDF", Picture(SMALL, {"exif": made.exif()}))
    assert notes == ["not kept: exif", "not kept: exact pixels: a PDF holds a JPEG"]


@pytest.mark.parametrize("suffix", [".icns", ".spi", ".msp", ".palm", ".psd", ".txt"])
def test_a_format_that_holds_no_photograph_is_refused(suffix):
    with pytest.raises(ValueError, match=r"try \.png"):
        images.form_of(pathlib.Path(f"x{suffix}"))


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
    notes, back = written(images.form_of(pathlib.Path("x.heic")), found)
    assert (notes, back.pixels.shape) == ([], (48, 64, 3))


def test_a_jpeg_xl_is_read_where_its_package_is_installed():
    pytest.importorskip("pillow_jxl")
    form = images.form_of(pathlib.Path("x.jxl"))
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
    ],
)
def test_the_package_that_reads_a_file_is_named_where_it_is_missing(
    monkeypatch, start, package
):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(plugins.importlib, "import_module", missing)
    monkeypatch.setattr(Image, "OPEN", {})
    monkeypatch.setattr(Image, "ID", [])
    monkeypatch.setattr(Image, "EXTENSION", {})
    with pytest.raises(ValueError, match=f"not an image.*pip install {package}"):
        read(start + bytes(100))
    with pytest.raises(ValueError, match="pip install pillow-heif"):
        images.form_of(pathlib.Path("x.heic"))


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


def test_arrays_of_data_sets_have_their_range():
    deep = np.array([[[0], [128], [257], [65535]]], np.uint16)
    for channels in (1, 3, 4):
        found = pixels.rgb_of(np.repeat(deep, channels, -1))
        assert found.tolist() == [[[v] * 3 for v in (0, 0, 1, 255)]]
    assert pixels.rgb_of(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]
    for kind in (np.float32, np.int32, np.float16):
        with pytest.raises(images.Unfit):
            pixels.rgb_of(np.zeros((2, 2, 3), kind))
