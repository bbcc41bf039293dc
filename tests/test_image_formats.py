"""The writer of image files: what each format keeps, and what is said."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image, features

from tests import made
from tests.made import SMALL, written
from tfcodec import exif, formats, pixels
from tfcodec.pixels import Picture

RNG = np.random.default_rng(0)


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
    lost = "not kept: alpha; blended with white"
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


@pytest.mark.parametrize("form", [k for k, v in formats.FORMS.items() if v.side])
def test_a_side_that_a_format_has_not_is_refused_and_one_less_is_read(form):
    most = formats.FORMS[form].side
    for height, width in ((1, most + 1), (most + 1, 1)):
        with pytest.raises(ValueError, match=f"{width}x{height}: {form} has at most"):
            formats.write(
                io.BytesIO(), form, Picture(np.zeros((height, width), np.uint8))
            )
    if form in EXACT and form in _writable():
        # Pillow up to 12.2 writes PCX files of width 1 that nothing reads.
        narrow = 2 if form == "PCX" else 1
        for shape in ((1, most, 3), (most, narrow, 3)):
            picture = Picture(RNG.integers(0, 256, shape, np.uint8))
            assert np.array_equal(written(form, picture)[1].pixels, picture.pixels)


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
    notes = formats.write(file, "PDF", Picture(SMALL, {"exif": made.exif()}))
    assert notes == ["not kept: exif", "not kept: exact pixels: a PDF holds a JPEG"]


@pytest.mark.parametrize("suffix", [".icns", ".spi", ".msp", ".palm", ".psd", ".txt"])
def test_a_format_that_holds_no_photograph_is_refused(suffix):
    with pytest.raises(ValueError, match=r"try \.png"):
        formats.form_of(pathlib.Path(f"x{suffix}"))


# EXIF ------------------------------------------------------------------------------


GARBAGE = [
    b"garbage garbage", b"II*\0", b"II*\0\x08\0\0\0\xff\xff", made.exif()[:15],
    made.exif((282, 2, b"abc\0"), orientation=0), made.exif((282, 2, b"abc\0")),
    made.exif((34665, 4, b"\xff\xff\xff\x7f")),
    b"II+\0\x08\0\0\0" + b"\xff" * 8,  # The position of a BigTIFF's directory.
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
