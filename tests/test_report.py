"""The page of a comparison."""

import base64
import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import call, fails, folder  # noqa: F401
from tests.test_metrics import photo
from tfcodec import classical, console, contestants, report


@pytest.fixture
def images():
    for i in range(2):
        Image.fromarray(photo(170, 180 + i)).save(f"{i}.png")


def page():
    return pathlib.Path("out.html").read_text("utf-8")


def data():
    found = re.search(r'id="data">(.*?)</script>', page(), re.DOTALL)
    return json.loads(found[1])


CODECS = "webp:q=20:90,jpeg:q=20:50:90,jpeg2000:q=30:4,png"


def test_a_report_holds_all_it_shows(images, capsys):
    argv = ["eval", ".", "--codecs", CODECS, "--report", "out.html", "--pictures=1"]
    assert call(*argv) == 0
    found = data()
    assert set(found["curves"]) == {"webp", "jpeg", "jpeg2000"}
    assert len(found["means"]) == 8
    assert [c["codec"] for c in found["codecs"]][-1] == "png"
    (picture,) = found["pictures"]
    assert [v["codec"] for v in picture["views"]] == [
        "original", "webp", "jpeg", "jpeg2000",
    ]  # fmt: skip
    for view in picture["views"][1:]:
        assert re.search(r"dB, SSIMULACRA2 -?\d+\.\d$", view["label"])
    for curve in found["curves"].values():
        assert len(curve["ssimulacra2"]) == len(curve["bpp"])
        assert None not in curve["ssimulacra2"]
    by_points = [pair for pair in found["bd"] if pair["figure"] == "ssimulacra2"]
    assert len(by_points) == 3 * 2
    for view in picture["views"]:
        start, _, code = view["url"].partition(",")
        assert start == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(code))).size == (180, 170)
    assert "exists; -f overwrites" in fails(capsys, *argv)


def test_progress_is_shown_while_pictures_are_coded(images, capsys, monkeypatch):
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # leaves stderr to the test
    argv = ["eval", ".", "--codecs", "jpeg:q=50", "--report", "out.html"]
    assert call(*argv, "--pictures=2") == 0
    assert "2 of 2 pictures of the report" in capsys.readouterr().err


def test_a_report_asks_for_nothing_from_elsewhere(images):
    assert call("eval", ".", "--codecs", "jpeg:q=20:90", "--report", "out.html") == 0
    rest = page().replace("http://www.w3.org/2000/svg", "")  # a name, not fetched
    assert not re.search(r"https?://|src=|@import|url\((?!#)", rest)
    assert len(data()["pictures"]) == 2


def test_lossless_codecs_alone_have_no_pictures(images):
    assert call("eval", ".", "--codecs", "png", "--report", "out.html") == 0
    assert data()["pictures"] == []


def test_names_cannot_break_the_page():
    document = {"rows": [], "means": [], "bd": [], "missing": ["</script><b>"]}
    text = report.page(document, {}, [])
    assert "</script><b>" not in text


@pytest.mark.parametrize("name", ["jpeg", "webp", "jpeg2000"])
def test_sizes_are_as_equal_as_whole_qualities_allow(name):
    codec, image = classical.CODECS[name], photo(170, 180)
    middle = {"jpeg2000": 11}.get(name, 63)
    size = len(codec.compress(image, middle))
    quality, file = report.closest(codec, codec.sweep, image, size)
    assert len(file) == pytest.approx(size, rel=0.03)
    assert np.array_equal(
        codec.decompress(file), codec.decompress(codec.compress(image, quality))
    )
    assert report.closest(codec, codec.sweep, image, 1)[0] == codec.sweep[0]


def test_every_picture_has_the_size_of_the_first_codec():
    each = [contestants.contestant(name) for name in ("webp", "jpeg")]
    (picture,) = report.pictures(["a"], each, lambda path: photo(170, 180), bpp=1)
    _, a, b = (int(re.search(r"(\d+) B|$", v["label"])[1] or 0)
               for v in picture["views"])  # fmt: skip
    assert b == pytest.approx(a, rel=0.05)
