"""The comparison of all architectures: what it trains, and the table it prints."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import history
from tests.test_metrics import photo
from tfcodec import contestants, held_out, inputs


def card(zeros=None):
    rows = [
        {"quality": q, "bpp": q / 100, "psnr": 20 + q / 10, "ssimulacra2": q}
        for q in (10, 30, 50, 70, 90)
    ]
    if zeros is not None:
        rows = [{**row, "zeros": zeros} for row in rows]
    costs = {"analysis": 1.0, "synthesis": 2.5, "coder": 0.0}
    figures = {"parameters": 1234, "kmac_per_pixel": costs, "seconds": 7.4}
    scale = {"lmbda_min": 0.01, "lmbda_max": 1.0}
    return {**figures, "quality": scale, "training": {"figures": rows}}


def test_the_table_has_a_row_for_each_and_times_where_they_were_measured():
    timed = {**card(), "coding": {"compress": 0.5, "decompress": 1.25}}
    lines = history.table({"mlp": card(), "cnn": timed}).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "| 1,234 | 1.00 | 2.50 | 0.00 | 7 |  |  | 0.100, 21.00 dB |" in lines[2]
    assert "| 7 | 0.50 | 1.25 | 0.100, 21.00 dB |" in lines[3]


def test_the_table_of_all_rows_is_found_in_what_is_printed():
    cards = {"cnn": card(), "sparse, 0": card(0.5)}
    whole, other = history.table(cards), history.sparsity_table(history.counted(cards))
    first = history.table({"cnn": card()})
    assert history.last_table(f"cnn ...\n{first}\n\n{whole}\n\n{other}\n") == whole
    assert history.last_table(f"cnn ...\n{first}\n\n{whole}\n") == whole


def test_the_table_of_sparsity_has_a_row_for_each_lambda():
    cards = {"cnn": card(), "sparse, 0": card(0.5), "sparse, 2": card(0.75)}
    lines = history.sparsity_table(history.counted(cards)).splitlines()
    assert lines[0].count("zeros") == 2
    assert len(lines) == 2 + 5
    # Quality 50 is halfway between 0.01 and 1, in logarithms.
    cells = "| 0.1000 | 50.0%, 0.500, 25.00 dB | 75.0%, 0.500, 25.00 dB |"
    assert lines[4] == cells


def test_what_is_not_trained_is_dashed_and_sparsity_is_over_lambda(tmp_path):
    pytest.importorskip("matplotlib")
    rows = history.figures_of(card())
    both = history.plot({"cnn": rows, "jpeg": rows}, dashed=["jpeg"])
    trained, known = both.axes[0].lines
    assert (trained.get_linestyle(), known.get_linestyle()) == ("-", "--")
    np.testing.assert_allclose(trained.get_ydata(), [21, 23, 25, 27, 29])
    zeros, bpp, psnr = history.plot_sparsity({"sparse, 0": card(0.5)}).axes
    np.testing.assert_allclose(zeros.lines[0].get_ydata(), 0.5)
    np.testing.assert_allclose(bpp.lines[0].get_xdata()[2], 0.1)
    both.savefig(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_a_curve_has_the_means_of_crops_at_each_quality():
    found = contestants.contestant("jpeg:q=5:50")
    crops = [photo(64, 64), photo(64, 96)]
    both = history.curve(found, crops)
    alone = [history.curve(found, [crop]) for crop in crops]
    assert both[0]["bpp"] < both[1]["bpp"]
    assert both[0]["psnr"] < both[1]["psnr"]
    for key in ("bpp", "psnr", "ssimulacra2"):
        mean = np.mean([rows[1][key] for rows in alone])
        np.testing.assert_allclose(both[1][key], mean)


def test_other_codecs_code_the_crops_that_models_are_validated_on(tmp_path):
    pytest.importorskip("tensorflow_compression")
    for number in range(3):
        Image.fromarray(photo(100, 70 + number)).save(tmp_path / f"{number}.png")
    held = held_out.split_by_name(inputs.find_images([tmp_path]))[1][0]
    held.write_bytes(b"damaged")  # another is held out instead
    crops = history.held_out(history.parse([str(tmp_path), "--patch=32"]))
    assert [crop.shape for crop in crops] == [(96, 64, 3)]
    assert crops[0].dtype == np.uint8


def test_the_sheet_has_each_codec_at_the_size_nearest_to_that_asked_for(tmp_path):
    image = photo(64, 96)
    found, _ = contestants.contestants(["jpeg:q=5:50:95", "png"])
    codecs = dict(zip(["jpeg", "png"], found))
    size = len(found[0].codec.compress(image, 50))
    whole = np.asarray(history.sheet(codecs, image, size, columns=2))
    height = 64 + history.LABEL
    assert whole.shape == (2 * height, 2 * (96 + 2), 3)
    pictures = whole[history.LABEL : height], whole[history.LABEL + height :]
    np.testing.assert_array_equal(pictures[0][:, :96], image)
    np.testing.assert_array_equal(pictures[1][:, :96], image)  # that of PNG
    jpeg = found[0].codec.decompress(found[0].codec.compress(image, 50))
    np.testing.assert_array_equal(pictures[0][:, 98:194], jpeg)


def test_a_finished_row_is_read_and_not_trained_again(tmp_path):
    pytest.importorskip("tensorflow_compression")
    config = history.config_of("mlp", {"m": 4}, history.parse(["x"]))
    kept = {**card(), "config": dataclasses.asdict(config)}
    (tmp_path / "row.json").write_text(json.dumps(kept), "utf-8")
    assert history.trained(config, tmp_path) == card()
    other = dataclasses.replace(config, steps=7)
    with pytest.raises(ValueError, match="other settings"):
        history.trained(other, tmp_path)


def test_the_sheet_needs_a_picture(capsys):
    assert history.main(["x", "--sheet=sheet.png"]) == 1
    assert "--picture" in capsys.readouterr().err


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


def test_each_row_has_a_program_for_the_settings_that_finish_it(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_compression")
    from tfcodec import training

    written = {}
    monkeypatch.setattr(
        training, "write_program",
        lambda config, folder: written.update({folder.name: config}),
    )  # fmt: skip
    flags = ["photographs", "--sparsity=0,0.2", f"--programs={tmp_path}"]
    assert history.main([*flags, "--only=cnn, pooled;sparse"]) == 0
    assert list(written) == ["cnn-pooled", "sparse-0", "sparse-0.2"]
    given = history.parse(flags)
    for name, (arch, options) in history.variants(given).items():
        if config := written.pop(history.folder_of(name), None):
            assert config == history.config_of(arch, options, given)
    assert not written
