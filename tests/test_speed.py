"""The benchmark runs, and says which codecs are missing."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from benchmarks import peers, speed
from tests.test_metrics import photo
from tfcodec import classical

ROOT = pathlib.Path(__file__).parents[1]


def test_speed_of_two_codecs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    Image.fromarray(photo(40, 50)).save(tmp_path / "a.png")
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "pillow_jxl.py").write_text("raise ImportError('no pillow_jxl here')")
    monkeypatch.setenv("PYTHONPATH", str(absent))
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


# As small as it can be made.
SMALL = {peers.TensorFlowCompression.name: {"channels": 12}}


@pytest.mark.slow
@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_code_and_decode(name):
    try:
        peer = peers.PEERS[name](**SMALL.get(name, {}))
    except classical.Missing as error:
        pytest.skip(str(error))
    image = photo(50, 70)
    decoded = peer.decompress(peer.compress(image))
    assert decoded.shape == image.shape
    assert decoded.dtype == np.uint8
    assert np.array_equal(peer.decompress(peer.compress(image)), decoded)
