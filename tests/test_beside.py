"""What image files hold beside one picture, and files that are none to be read."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from tests import made
from tests.made import SMALL, read, saved
from tfcodec import headers

PICTURE = Image.fromarray(SMALL)
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 9


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"", []), (b"\r\n", []), (bytes(5000), []), (b"\xff" * 99, []),
        (VIDEO, [f"not kept: video after the picture, {len(VIDEO)} bytes"]),
        (b"an archive" * 9, ["not kept: 90 bytes after the picture"]),
    ],
)  # fmt: skip
def test_what_follows_the_picture_in_a_file_is_said(form, rest, said):
    found = read(saved(PICTURE, form) + rest)
    assert found.notes == said
    assert found.pixels.shape == SMALL.shape


@pytest.mark.parametrize("progressive", [False, True])
def test_the_end_of_a_jpeg_is_found_whatever_its_segments_hold(progressive):
    # A thumbnail has an end marker of its own, and so has a comment that looks so.
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    data = saved(
        Image.fromarray(noise), "JPEG", quality=99, progressive=progressive,
        restart_marker_rows=1, exif=b"Exif\0\0" + made.exif((271, 2, b"\xff\xd9" * 9)),
    )  # fmt: skip
    assert read(data).notes == []
    assert read(data + VIDEO).notes[0].startswith("not kept: video")


def several(**options):
    small = Image.new("L", (4, 6), 99)
    return saved(PICTURE, "MPO", save_all=True, append_images=[small], **options)


def test_pictures_after_the_first_of_a_jpeg_are_said_once():
    said = ["not kept: all but the first frame"]
    assert read(several()).notes == said
    video = f"not kept: video after the picture, {len(VIDEO) + len(several()) - END}"
    assert read(several() + VIDEO).notes[0].startswith(video.rsplit(",")[0])


END = several().index(b"\xff\xd9") + 2


def test_the_gain_map_of_an_ultra_hdr_photograph_is_said():
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
        b"</x:xmpmeta>"
    )
    found = read(several(xmp=xmp))
    assert headers.GAIN_MAP in found.notes
    assert found.pixels.shape == SMALL.shape


@pytest.mark.parametrize(
    ("kind", "said"), [(b"tmap", [headers.GAIN_MAP]), (b"av01", [])]
)
def test_the_gain_map_of_an_avif_is_said(kind, said):
    def box(name, data):
        return struct.pack(">I4s", 8 + len(data), name) + data

    item = box(b"infe", b"\2\0\0\0" + struct.pack(">HH4s", 1, 0, kind) + b"\0")
    meta = box(b"meta", bytes(4) + box(b"iinf", struct.pack(">IH", 0, 1) + item))
    file = io.BytesIO(box(b"ftyp", b"avif" + bytes(4)) + meta)
    assert headers.facts(file).notes == said


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("extra", [(0,), (0, 0), (2, 0), (2,), (1,)])
def test_samples_of_a_tiff_that_are_no_colours_are_said(bits, colours, extra):
    shape = (12, 8, colours + len(extra))
    samples = np.full(shape, 2**bits - 1)
    tag = 338, 3, struct.pack(f"<{len(extra)}H", *extra)
    photometric = 1 if colours == 1 else 2
    data = made.tiff(samples, bits, photometric, tags=[tag])
    try:
        found = read(data)
    except ValueError as error:
        # What only Pillow reads is refused if the installed one has no mode for it.
        assert bits == 8 or len(extra) > 1
        assert "not an image that Pillow reads" in str(error)  # noqa: PT017
        with pytest.raises(UnidentifiedImageError):
            Image.open(io.BytesIO(data))
        return
    said = [note for note in found.notes if "samples a pixel" in note]
    left = len(extra) - (extra[0] > 0)
    total = colours + len(extra)
    assert said == [f"not kept: {left} more of {total} samples a pixel"] * (left > 0)


RAW = {
    "DNG": [
        (254, 4, struct.pack("<I", 1)),
        (330, 4, bytes(4)),
        (50706, 1, b"\1\4\0\0"),
    ],
    "NEF": [(254, 4, struct.pack("<I", 1)), (330, 4, bytes(8)), (271, 2, b"NIKON\0")],
}


@pytest.mark.parametrize("kind", RAW)
def test_a_raw_file_is_refused_rather_than_its_preview_taken(kind):
    with pytest.raises(ValueError, match="it: a camera's raw file, of which only"):
        read(made.tiff(SMALL, 8, 2, tags=RAW[kind]))


def test_a_tiff_with_smaller_copies_beside_it_is_read():
    # As pyramids have them: the first picture is the whole one.
    plain = [(254, 4, bytes(4)), (330, 4, bytes(4))]
    assert np.array_equal(read(made.tiff(SMALL, 8, 2, tags=plain)).pixels, SMALL)


def test_a_file_that_another_program_would_have_to_draw_is_refused(monkeypatch):
    from PIL import EpsImagePlugin

    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **b: ran.append(a))
    with pytest.raises(ValueError, match="it: EPS is drawn by a program"):
        read(saved(PICTURE, "EPS"))
    assert not ran


def test_long_texts_and_profiles_of_a_png_are_no_reason_to_refuse_it():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * 2_000_000, zip=True)
    info.add_text("workflow", "y" * 2_000_000, zip=True)
    found = read(saved(PICTURE, "PNG", pnginfo=info))
    assert found.metadata == {"xmp": b"x" * 2_000_000}
    assert found.notes == ["not kept: text (workflow)"]


def test_a_damaged_png_is_called_one():
    plain = saved(PICTURE, "PNG")
    odd = plain[:33] + made.chunk(b"tEXt", b"a\0b")[:-1] + b"?" + plain[33:]
    with pytest.raises(ValueError, match="it: a damaged or unsupported PNG"):
        read(odd)
