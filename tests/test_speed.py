"""The benchmark runs, and says which codecs are missing."""

import json
import pathlib
import sys

import numpy as np
from PIL import Image

from benchmarks import speed
from tests.test_metrics import photo

ROOT = pathlib.Path(__file__).parents[1]


def test_speed_of_two_codecs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    Image.fromarray(photo(40, 50)).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    out = tmp_path / "out.json"
    argv = [str(tmp_path), "--codecs=jpeg:q=75,webp:q=75,jxl", "--runs=1"]
    assert speed.main([*argv, "--megapixels=0.01,0.02", f"--json={out}"]) == 0
    found = json.loads(out.read_text())
    assert len(found["results"]) == 4 * len(speed.cores_to_try())
    assert all(r["encode_megapixels_per_second"] > 0 for r in found["results"])
    assert "pillow-jxl-plugin" in capsys.readouterr().out


def test_images_take_any_size():
    for megapixels in (0.0005, 0.01, 0.3):
        image = speed.resized(photo(40, 50), megapixels)
        height, width, _ = image.shape
        assert abs(height * width / 1e6 / megapixels - 1) < 0.1
        assert np.array_equal(image[:5, :5], photo(40, 50)[:5, :5])
