"""The notebooks run from the first cell to the last, as a reader would run them."""

import importlib.util
import pathlib
import re
import shutil
import sys

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("ipywidgets")
pytest.importorskip("matplotlib")
pytest.importorskip("skimage")
pytest.importorskip("tensorflow")

from notebooks import execute
from tfcodec import registry

NOTEBOOKS = sorted(pathlib.Path(execute.__file__).parent.glob("*.ipynb"))
BADGE = r"\((https://colab.research.google.com/github/[^)]+)\)"


def cells(path, kind):
    notebook = nbformat.read(path, 4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def outputs(notebook):
    return [o for cell in notebook.cells for o in cell.get("outputs", ())]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_no_cell_is_longer_than_a_look(path):
    assert max(len(c.source.splitlines()) for c in cells(path, "code")) <= 20


def test_badge_opens_the_notebook_itself(path):
    (target,) = re.findall(BADGE, cells(path, "markdown")[0].source)
    assert target.endswith(f"/blob/main/notebooks/{path.name}")


def test_readme_has_every_badge(path):
    readme = (path.parents[1] / "README.md").read_text("utf-8")
    (target,) = re.findall(BADGE, cells(path, "markdown")[0].source)
    assert f"({target})" in readme


def test_stored_outputs_show_pictures_and_no_machine(path):
    notebook = nbformat.read(path, 4)
    shown = {kind for output in outputs(notebook) for kind in output.get("data", {})}
    assert shown & {"image/png", "image/jpeg"}
    assert not execute.PRIVATE.findall(execute.text_of(notebook))
    assert all(output.output_type != "error" for output in outputs(notebook))
    assert path.stat().st_size < 1.5 * 2**20


def copied(path, place):
    """Copies a notebook to where it finds all it needs, and a smaller photograph."""
    root = path.parents[1]
    for name in ("notebooks", "tests"):
        (place / name).mkdir()
    code = "tfcodec", "train.py", "benchmarks", "notebooks/training_python.py"
    for name in (*code, "tests/golden", "tests/numpy_reader.py"):
        (place / name).symlink_to(root / name)
    # How it works shows a detail of the whole.
    size = (512, 352) if path.stem == "how_it_works" else (256, 192)
    with Image.open(root / "tests" / "photograph.png") as photograph:
        photograph.crop((0, 0, *size)).save(place / "tests" / "photograph.png")
    return pathlib.Path(shutil.copy(path, place / "notebooks"))


# In place of the Python that trains: it takes the same arguments, prints what
# `benchmarks.history` prints, and what it has trained is the model of the golden files.
STAND_IN = """#!{python}
import json, os, pathlib, sys
sys.path.insert(0, os.environ["PYTHONPATH"])
from benchmarks import history
assert sys.argv[1:3] == ["-m", "benchmarks.history"]
given = history.parse(sys.argv[3:])
assert list(pathlib.Path(given.images[0]).iterdir())
assert pathlib.Path(given.validation).is_file()
cards = {{}}
for name in list(history.variants(given))[:1]:
    model = pathlib.Path(given.run, history.folder_of(name), "model")
    model.parent.mkdir(parents=True)
    model.symlink_to("{model}")
    cards[name] = {{**json.loads((model / "card.json").read_text()), "seconds": 1}}
print(history.table(cards), history.table(cards), sep="\\n\\n")
"""


def trains_nothing(place):
    """Writes a Python that stands in for the one that trains; returns its path."""
    path = place / "stand_in"
    model = pathlib.Path(__file__).parent / "golden" / "model"
    path.write_text(STAND_IN.format(python=sys.executable, model=model))
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_runs_from_the_first_cell_to_the_last(path, tmp_path, monkeypatch):
    if not registry.models():
        pytest.skip("no shipped model in this checkout")
    training = importlib.util.find_spec("tensorflow_compression")
    if path.stem == "train_your_own" and not training:
        pytest.skip("would install TensorFlow Compression first, by uv")
    # Ours takes a minute to trace and export, however small.
    monkeypatch.setenv("TFCODEC_NOTEBOOK_FLAGS", '--arch=bls2017 --options={"n":8}')
    if path.stem == "history":
        monkeypatch.setenv("TFCODEC_NOTEBOOK_CODECS", "jpeg,png")
        monkeypatch.setenv("TFCODEC_TRAINING_PYTHON", str(trains_nothing(tmp_path)))
    monkeypatch.setenv("TFCODEC_NOTEBOOK_STEPS", "10")
    monkeypatch.setenv("TFCODEC_NOTEBOOK_SWEEP", ":q=30:70")
    notebook = execute.execute(copied(path, tmp_path))
    assert outputs(notebook)
