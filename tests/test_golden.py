"""Files written long ago decode to the same integers, here and in other settings."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import tfcodec
from benchmarks import exactness
from tests.conftest import THREADS
from tfcodec import bitstream, codec, registry

ROWS = json.loads((exactness.GOLDEN / "golden.json").read_text())


# Fingerprints of the models of each release, whose files must decode for good.
RELEASED = {"0.2.0": ("2c77f45f6acdcaa6", "5aa45101fc47e3e7")}


def read(name):
    return (exactness.GOLDEN / f"{name}.tfc").read_bytes()


@pytest.fixture(scope="module", params=["tensorflow", "litert"])
def found(request):
    """What the golden files hold, by either engine."""
    if request.param == "litert":
        pytest.importorskip("ai_edge_litert")
    settings = {"engine": request.param}
    return {n: exactness.one(read(n), row, settings) for n, row in ROWS.items()}


def test_every_golden_file_is_listed():
    paths = exactness.GOLDEN.glob("*.tfc")
    assert sorted(ROWS) == sorted(path.stem for path in paths)


@pytest.mark.parametrize("release", RELEASED)
def test_models_of_every_release_are_still_there(release):
    for fingerprint in RELEASED[release]:
        model = registry.find(bytes.fromhex(fingerprint))
        assert model.card["fingerprint"].startswith(fingerprint)


def test_integers_are_those_of_the_day_they_were_written(found):
    pixels = {name: result["pixels"] for name, result in found.items()}
    count = exactness.compare(found, pixels)
    assert count["wrong"] == 0
    assert count["integers"] > 500_000


@pytest.mark.parametrize("name", ROWS)
def test_pixels_are_nearly_those(found, name):
    pixels = found[name]["pixels"]
    assert list(pixels.shape) == ROWS[name]["shape"]
    # One sample in fifty a level off would show.
    assert np.allclose(pixels.mean((0, 1)), ROWS[name]["mean"], atol=0.02)


def test_integers_are_the_same_in_another_setting(tmp_path):
    """Without oneDNN, and with a thread for each core: here tests have one."""
    program = [sys.executable, "-m", "benchmarks.exactness", "--child", "oneDNN off"]
    environment = {k: v for k, v in os.environ.items() if k not in THREADS}
    done = subprocess.run(
        [*program, str(tmp_path / "none.npz")], cwd=exactness.ROOT,
        env={**environment, **exactness.SETTINGS["oneDNN off"][0]},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["files"] == len(ROWS)
    assert row["wrong"] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_any_latents_code_and_decode(value):
    """The signature `encode` takes floats, and must stand them all."""
    decoder = codec.load(exactness.GOLDEN / "model")
    y = np.zeros([1, 8, 4, decoder.model.channels], np.float32)
    y[0, 3, 1] = value
    y[0, 5, :, 0] = value
    string, whole, _ = decoder.engine.encode(y, 0.5)
    back, y_hat = decoder.decode(128, 64, string)
    assert np.array_equal(back, whole)
    assert np.all(np.isfinite(y_hat))


def views(image):
    """The same pixels as NumPy may hold them."""
    read_only = image.copy()
    read_only.flags.writeable = False
    yield "read only", read_only
    yield "Fortran order", np.asfortranarray(image)
    yield "every second", np.repeat(np.repeat(image, 2, 0), 2, 1)[::2, ::2]
    yield "backwards", image[::-1, ::-1].copy()[::-1, ::-1]
    yield "channels of four", np.dstack([image, image])[..., :3]
    yield "a list", image.tolist()


def test_how_an_array_is_held_changes_nothing():
    image = tfcodec.decompress(read("prime_30"), exactness.GOLDEN / "model")
    model = exactness.GOLDEN / "model"
    expected = tfcodec.compress(image, 40, model)
    for name, view in views(image):
        view = np.asarray(view, np.uint8)
        assert tfcodec.compress(view, 40, model) == expected, name


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.full((8, 8, 3), np.nan), TypeError, "uint8, not float64"),
        (np.full((8, 8, 3), np.inf, np.float32), TypeError, "uint8, not float32"),
        (np.zeros((8, 8, 3), np.int32), TypeError, "uint8, not int32"),
        (np.zeros((8, 8, 3), np.uint16), TypeError, "uint8, not uint16"),
        (np.zeros((8, 8, 3), bool), TypeError, "uint8, not bool"),
        (np.zeros((8, 8, 3), object), TypeError, "uint8, not object"),
        (None, TypeError, "uint8, not NoneType"),
        ("photograph.png", TypeError, "uint8, not str"),
        (np.zeros(0, np.uint8), ValueError, r"not \[0\]"),
        (np.zeros((8, 0, 3), np.uint8), ValueError, "with pixels in it"),
        (np.zeros((8, 8, 0), np.uint8), ValueError, r"not \[8, 8, 0\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, r"not \[2, 8, 8, 3\]"),
        (
            np.broadcast_to(np.uint8(0), (31623, 31623, 3)),
            bitstream.UnsupportedStream,
            "31623x31623: over the limit of 134217728 pixels",
        ),
        (
            np.broadcast_to(np.uint8(0), (2, 2**20 + 1)),
            bitstream.UnsupportedStream,
            "over the limit of 1048576 a side",
        ),
    ],
)
def test_what_is_no_image_is_refused(image, error, words):
    with pytest.raises(error, match=words):
        tfcodec.compress(image, model=exactness.GOLDEN / "model")


def test_a_file_of_many_small_tiles_is_refused_before_any_is_decoded():
    fingerprint = registry.Model.at(exactness.GOLDEN / "model").fingerprint
    header = bitstream.Header(fingerprint, 2**20, 64, 50, tile=1)
    chunk = bitstream.Chunk(bitstream.TILE, b"")
    data = bitstream.pack(header, [chunk] * header.tiles)
    with pytest.raises(bitstream.UnsupportedStream, match=r"16384 tiles.*16000"):
        tfcodec.decompress(data, limits=bitstream.Limits(tiles=16000))


def test_escapes_over_the_limit_are_refused():
    limits = bitstream.Limits(escapes=10)
    with pytest.raises(bitstream.UnsupportedStream, match="escapes: over the limit"):
        tfcodec.decompress(read("escapes"), exactness.GOLDEN / "model", limits)
