"""The numbers of the coder in Python are those of the decoder in JavaScript."""

import ast
import pathlib
import re

import pytest

from tfcodec import constants

SOURCE = pathlib.Path(__file__).parents[1] / "web" / "src"
CODER = ("actions.js", "decoder.js", "rans.js", "walk.js")
CALLED = {"CONTEXT_MAX": "ACTIVATION_MAX"}  # names in JavaScript that differ


def found():
    """Constants of the coder in JavaScript, by the name that Python has for them."""
    names = {}
    for name in CODER:
        text = re.sub(r"/\*.*?\*/", "", (SOURCE / name).read_text("utf-8"))
        names.update(re.findall(r"^(?:export )?const ([A-Z_]+) = (.*?);", text, re.M))
    return {CALLED.get(name, name): value.strip("( )") for name, value in names.items()}


@pytest.mark.parametrize(("name", "value"), found().items())
def test_javascript_has_the_same(name, value):
    if not hasattr(constants, name):
        pytest.skip("Python derives it from the others")
    for inner, its_value in found().items():
        value = re.sub(rf"\b{inner}\b", its_value, value)
    ours = repr(getattr(constants, name)).replace("(", "[").replace(")", "]")
    assert ast.literal_eval(ours) == ast.literal_eval(value)


def test_javascript_has_nearly_all():
    names = {name for name in vars(constants) if name.isupper()}
    # The shapes and weights of exact networks have been checked when they were made.
    elsewhere = {"MEAN_BITS", "CONTEXT_BITS", "EXACT_LIMIT", "WEIGHT_MAX", "PRECISION"}
    assert names - found().keys() == elsewhere
