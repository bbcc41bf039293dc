"""The codec of sparse sums of atoms: bytes and back, and atoms that are learned."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from tests.test_metrics import photo
from tfcodec import contestants, dictionary, metrics
from tfcodec.bitstream import CorruptStream
from tfcodec.classical import Missing

IMAGE = photo(45, 61)


@pytest.fixture
def codec():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return contestants.contestant("dictionary").codec


def test_atoms_are_a_redundant_frame_without_the_constant():
    atoms = dictionary.cosine_atoms()
    assert atoms.shape == (255, 64)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(atoms.sum(1), 0, atol=1e-4)
    assert np.linalg.matrix_rank(atoms) == 63


def test_blocks_and_numbers_come_back():
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(24, 16, 3))
    blocks = dictionary.blocks_of(planes)
    np.testing.assert_array_equal(blocks[2, 1, 1].reshape(8, 8), planes[8:16, 8:, 2])
    np.testing.assert_array_equal(dictionary.planes_of(blocks), planes)
    whole = np.array([0, -1, 1, 2**15 - 1, -(2**15)])
    found = dictionary.numbers_of(dictionary.bytes_of(whole))
    np.testing.assert_array_equal(found, whole)


def test_more_quality_takes_more_bytes_and_leaves_less_error(codec):
    sizes, figures = [], []
    for quality in (10, 45, 80):
        data = codec.compress(IMAGE, quality)
        decoded = codec.decompress(data)
        assert decoded.shape == IMAGE.shape
        assert decoded.dtype == np.uint8
        sizes.append(len(data))
        figures.append(metrics.psnr(IMAGE, decoded))
    assert sizes == sorted(sizes)
    assert figures == sorted(figures)
    assert figures[-1] > 35
    assert sizes[0] < IMAGE.size / 20


def test_a_flat_picture_has_no_atoms(codec):
    image = np.full((16, 24, 3), (200, 90, 30), np.uint8)
    data = codec.compress(image, 80)
    assert np.abs(codec.decompress(data).astype(int) - image).max() <= 1
    assert len(data) < 250


def test_learned_atoms_are_a_codec_of_their_own(codec, tmp_path):
    Image.fromarray(photo(96, 96)).save(tmp_path / "a.png")
    path = tmp_path / "atoms"  # that name, without a suffix added
    dictionary.main([str(tmp_path / "a.png"), str(path), "--blocks", "100"])
    other = contestants.contestant(f"dictionary:{path}:q=50").codec
    data = other.compress(IMAGE, 50)
    assert metrics.psnr(IMAGE, other.decompress(data)) > 25
    assert other.settings != codec.settings
    with pytest.raises(CorruptStream, match="another dictionary"):
        codec.decompress(data)
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="cannot read atoms"):
        contestants.contestant(f"dictionary:{path}")


def test_a_damaged_file_is_refused(codec):
    data = codec.compress(IMAGE, 20)
    bad = [data[:k] for k in range(0, len(data), 40)] + [data + b"\0"]
    bad += [data[:12] + b"\xff" + data[13:], b"", b"not a file at all"]
    for each in bad:
        with pytest.raises(CorruptStream):
            codec.decompress(each)


def test_without_scikit_learn_it_is_missing_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match="pip install scikit-learn"):
        contestants.contestant("dictionary")
    _, missing = contestants.contestants(["jpeg", "dictionary"])
    assert len(missing) == 1


def test_qualities_out_of_range_are_refused(codec):
    for quality in (None, -1, 101):
        with pytest.raises(ValueError, match="quality of dictionary must be"):
            codec.check(quality)
