"""The API reference, and the notes of what the package exports."""

import inspect
import json
import pathlib
import runpy
import shutil

import numpy as np
import pytest
from PIL import Image

import tfcodec
from tfcodec import bitstream, codec, planes, registry

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    "name", [n for n in tfcodec.__all__ if callable(getattr(tfcodec, n))]
)
def test_what_is_exported_is_documented_and_typed(name):
    value = getattr(tfcodec, name)
    assert value.__doc__
    if inspect.isfunction(value):
        named = [
            p.name for p in inspect.signature(value).parameters.values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]  # fmt: skip
        for parameter in named:
            assert parameter in value.__doc__
        assert set(named) - {"image", "data"} <= set(value.__annotations__)


@pytest.mark.filterwarnings("ignore")
def test_the_reference_is_made_of_docstrings(tmp_path):
    pytest.importorskip("pdoc")
    script = runpy.run_path(str(ROOT / "docs" / "api.py"))
    script["main"].__globals__["TARGET"] = tmp_path
    script["main"]()
    text = (tmp_path / "tfcodec.html").read_text()
    for name in tfcodec.__all__:
        assert f'id="{name}"' in text
    assert {p.name for p in (tmp_path / "tfcodec").iterdir()} == {
        "bitstream.html", "pillow_plugin.html"
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [pathlib.Path("a.tfc"), "a.tfc", 100, None])
def test_what_is_no_bytes_is_named(wrong):
    for function in (tfcodec.decompress, tfcodec.info, tfcodec.metadata):
        with pytest.raises(TypeError, match="the bytes of a file are wanted, not"):
            function(wrong)


def test_what_is_no_array_of_pixels_is_named():
    for wrong in (None, "a.png", pathlib.Path("a.png"), b"bytes"):
        with pytest.raises(TypeError, match=f"uint8, not {type(wrong).__name__}"):
            tfcodec.compress(wrong)


@pytest.mark.parametrize(
    "mode", ["P", "PA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La", "1", "I"]
)
def test_pillow_images_whose_arrays_only_look_alike_are_refused(mode):
    with pytest.raises(TypeError, match=f"L, LA, RGB or RGBA, not {mode}:"):
        planes.checked_image(Image.new(mode, (8, 8)))


def test_a_pillow_image_is_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    for channels in ([0], [0, 3], [0, 1, 2], [0, 1, 2, 3]):
        image = Image.fromarray(np.squeeze(pixels[..., channels]))
        assert image.mode in planes.MODES
        taken = planes.checked_image(image)
        assert np.array_equal(taken, np.squeeze(pixels[..., channels]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exif": "a"}, "bytes of exif are wanted, not str"),
        ({"xmp": 5}, "bytes of xmp are wanted, not int"),
        ({"max_pixels": "many"}, "max_pixels must be 0 .* not 'many'"),
        ({"alpha_quality": 101}, "alpha_quality must be from 0 to 100, not 101"),
        ({"alpha_quality": "high"}, "alpha_quality must be a number, not 'high'"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        tfcodec.compress(np.zeros((8, 8, 3), np.uint8), **settings)


@pytest.mark.parametrize("crop", [5, (1, 2, 3), "1234", (0, 0, 1.5, 2), (0, 0, 4, "a")])
def test_a_crop_that_is_not_four_whole_numbers_is_refused(crop):
    header = bitstream.Header(bytes(8), 64, 64, 50)
    with pytest.raises(ValueError, match="four whole numbers, x, y, width and height"):
        codec.region_of(header, crop)
    whole = codec.region_of(header, np.array([0, 1, 62, 63]))
    assert tuple(whole) == (1, 0, 64, 62)


def test_models_that_are_elsewhere_are_pointed_at(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="no card.json; .*model is one"):
        registry.resolve(tmp_path / "run")
    served = tmp_path / "served"
    shutil.copytree(ROOT / "tests" / "golden" / "model", served)
    card = json.loads((served / "card.json").read_text())
    (served / "card.json").write_text(json.dumps({**card, "limits": {}}))
    with pytest.raises(ValueError, match="for TensorFlow Serving alone"):
        registry.resolve(served)
