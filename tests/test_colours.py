"""What files hold beside pixels: colours, texts, resolutions; kept, or said."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from tests import made
from tests.made import SMALL, read, saved, written
from tfcodec import profiles
from tfcodec.pixels import Picture

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
    assert found.notes == [f"not kept: cICP of {name}, which ICC cannot describe"]


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
    assert hdr.notes == ["not kept: nclx of PQ, which ICC cannot describe"]


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
