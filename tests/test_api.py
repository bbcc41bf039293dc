"""The API reference, and the notes of what the package exports."""

import inspect
import pathlib
import runpy

import pytest

import tfcodec

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
