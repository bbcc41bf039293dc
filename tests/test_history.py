"""The comparison of all architectures: what it trains, and the table it prints."""

import numpy as np
import pytest

from benchmarks import history
from tests.test_metrics import photo
from tfcodec import contestants


def card(zeros=None):
    rows = [
        {"quality": q, "bpp": q / 100, "psnr": 20 + q / 10, "ms_ssim": 0.9}
        for q in (10, 30, 50, 70, 90)
    ]
    if zeros is not None:
        rows = [{**row, "zeros": zeros} for row in rows]
    costs = {"analysis": 1.0, "synthesis": 2.5, "coder": 0.0}
    figures = {"parameters": 1234, "kmac_per_pixel": costs, "seconds": 7.4}
    return {**figures, "training": {"figures": rows}}


def test_the_table_has_a_row_for_each_and_zeros_where_they_are_counted():
    lines = history.table({"cnn": card(), "sparse, 2": card(0.75)}).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "| 1,234 | 1.00 | 2.50 | 0.00 | 7 | 0.100, 21.00 dB |" in lines[2]
    assert lines[2].endswith("|  |")
    assert lines[3].endswith("| 75% / 75% / 75% |")


def test_the_plot_is_drawn_with_and_without_zeros(tmp_path):
    pytest.importorskip("matplotlib")
    for name, cards in (("a", {"cnn": card()}), ("b", {"sparse": card(0.5)})):
        path = tmp_path / f"{name}.svg"
        history.plot(cards, str(path))
        assert path.stat().st_size > 1000


def test_the_sheet_has_each_codec_at_the_size_nearest_to_that_asked_for(tmp_path):
    image = photo(64, 96)
    found, _ = contestants.contestants(["jpeg:q=5:50:95", "png"])
    sizes = [len(found[0].codec.compress(image, q)) for q in (5, 50, 95)]
    assert len(history.nearest(found[0], image, sizes[1] + 1)) == sizes[1]
    whole = np.asarray(history.sheet(found, image, 10**6, columns=2))
    assert whole.shape == (2 * (64 + 14), 2 * (96 + 2), 3)
    np.testing.assert_array_equal(whole[14:78, :96], image)
    np.testing.assert_array_equal(whole[92:156, :96], image)  # that of PNG
    assert np.any(whole[14:78, 98:194] != image)


def test_each_sparsity_is_a_row_and_full_widths_keep_the_kind():
    given = history.parse(["x", "--sparsity=0,2", "--full"])
    found = history.variants(given)
    assert found["sparse, 0"] == ("sparse", {"sparsity": 0})
    assert found["sparse, 2"] == ("sparse", {"sparsity": 2})
    assert found["cnn, pooled"] == ("cnn", {"kernel": 3, "pooled": True})
    only = history.variants(history.parse(["x", "--only=mlp;cnn"]))
    assert list(only) == ["mlp", "cnn"]


def test_a_row_that_there_is_not_is_named_with_those_there_are(capsys):
    assert history.main(["x", "--only=vae"]) == 1
    assert "no 'vae'; there are: mlp;" in capsys.readouterr().err


def test_every_architecture_is_in_the_table():
    pytest.importorskip("tensorflow_compression")
    from tfcodec import architectures

    compared = {arch for arch, _ in history.SMALL.values()}
    assert compared == set(architectures.ARCHITECTURES)
    for arch, options in history.SMALL.values():
        architectures.assembled(arch, (0.001, 0.1), **options)
