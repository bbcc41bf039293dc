"""The API reference, and the notes of what the package exports."""

import inspect
import json
import pathlib
import runpy
import shutil

import pytest

import tfcodec
from tfcodec import registry

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
