import math
import re
import sys

import numpy as np
import pytest
from PIL import Image

from tests.test_metrics import photo
from tfcodec import classical, metrics, plugins

IMAGE = photo(64, 81)


@pytest.fixture(params=classical.CODECS)
def codec(request):
    try:
        return classical.find(request.param)
    except classical.Missing as error:
        pytest.skip(str(error))


def test_a_file_comes_back_as_the_image(codec):
    for quality in codec.sweep[-2:]:
        image = codec.decompress(codec.compress(IMAGE, quality))
        assert image.dtype == np.uint8
        assert image.shape == IMAGE.shape
        value = metrics.psnr(IMAGE, image)
        assert value == math.inf if codec.key is None else 25 < value < math.inf


def test_a_sweep_goes_from_small_to_large(codec):
    sizes = [len(codec.compress(IMAGE, quality)) for quality in codec.sweep[::4]]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def test_versions_and_settings_are_known(codec):
    assert codec.version.startswith("Pillow ")
    assert "None" not in codec.version
    assert codec.name == next(k for k, v in classical.CODECS.items() if v is codec)


def test_only_files_of_its_own_format_are_read(codec):
    with pytest.raises(OSError, match="cannot identify"):
        codec.decompress(b"not an image")


def test_full_colour_costs_more_and_shows_more():
    half, full = classical.find("jpeg"), classical.find("jpeg-444")
    a, b = half.compress(IMAGE, 90), full.compress(IMAGE, 90)
    assert len(a) < len(b)
    assert metrics.psnr(IMAGE, half.decompress(a)) < metrics.psnr(
        IMAGE, full.decompress(b)
    )


@pytest.mark.parametrize(
    ("name", "quality"),
    [("jpeg", 0), ("jpeg", 101), ("jpeg", 50.5), ("jpeg", None), ("png", 5)]
    + [("jpeg2000", 0), ("webp", math.nan)],
)
def test_quality_is_checked(name, quality):
    with pytest.raises(ValueError, match=name):
        classical.CODECS[name].compress(IMAGE, quality)


@pytest.mark.parametrize("name", ["jxl", "heic"])
def test_a_missing_package_is_named(name, monkeypatch):
    codec = classical.CODECS[name]
    monkeypatch.setitem(sys.modules, plugins.MODULES[codec.plugin], None)
    for use in (classical.find, lambda _: codec.compress(IMAGE, 50)):
        with pytest.raises(classical.Missing, match=f"pip install {codec.plugin}"):
            use(name)


@pytest.mark.parametrize("name", ["webp", "avif", "jpeg2000"])
def test_a_pillow_without_it_is_named(name, monkeypatch):
    from PIL import features

    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(
        classical.Missing, match=f"{name}: .* needs a Pillow.*: pip install"
    ):
        classical.find(name)


def test_unknown_codecs():
    with pytest.raises(ValueError, match="'gif'; there are: jpeg, "):
        classical.find("gif")


@pytest.mark.parametrize(
    ("name", "option", "quality"),
    [
        ("avif", "speed=9", 50), ("avif", "tune=ssimulacra2", 50),
        ("avif", "tune=psnr", 50), ("avif-444", "speed=9", 50), ("jxl", "effort=9", 50),
    ],
)  # fmt: skip
def test_an_option_changes_the_file(name, option, quality):
    try:
        plain, other = classical.find(name), classical.find(f"{name}:{option}")
    except classical.Missing as error:
        pytest.skip(str(error))
    assert other.name == f"{name}:{option}"
    assert other.settings != plain.settings
    data = other.compress(IMAGE, quality)
    assert data != plain.compress(IMAGE, quality)
    assert metrics.psnr(IMAGE, other.decompress(data)) > 25


def test_options_go_together():
    codec = classical.find("avif:speed=8:tune=iq")
    assert codec.settings == {
        "speed": 8,
        "subsampling": "4:2:0",
        "advanced": {"tune": "iq"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("avif:speed=11", "avif takes speed=0|1"),
        ("avif:tune=vmaf", "tune=iq|ssimulacra2|ssim|psnr"),
        ("avif:", "avif takes"),
        ("jxl:speed=1", "jxl takes effort=1|2"),
        ("png:effort=1", "png takes no options"),
    ],
)
def test_options_there_are_not_are_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        classical.find(text)


def test_an_encoder_without_a_tune_is_named(monkeypatch):
    if classical.CODECS["avif"].missing():
        pytest.skip("no AVIF")

    def refuse(self, file, form, **arguments):
        raise ValueError("Invalid codec-specific option")

    monkeypatch.setattr(Image.Image, "save", refuse)
    classical._refusal.cache_clear()
    with pytest.raises(classical.Missing, match=r"no tune=iq in aom .*pip install"):
        classical.find("avif:tune=iq")
    classical._refusal.cache_clear()
