"""The comparison of codecs: rows, means, cache, command."""

import importlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import call, fails, folder, make_model, wrong  # noqa: F401
from tests.test_metrics import photo
from tfcodec import (
    averages,
    classical,
    console,
    contestants,
    evaluation,
    inputs,
    metrics,
    ssimulacra2,
    summary,
)
from tfcodec.images import read_rgb


class Steps:
    """A codec that quantises, counts its work, and breaks off when told."""

    name, version, settings, sweep = "steps", "1", {"dither": False}, (2, 1)
    done, last = 0, math.inf

    def compress(self, image, quality):
        if self.done >= self.last:
            raise KeyboardInterrupt
        self.done += 1
        return classical.CODECS["png"].compress(image // quality * quality)

    def decompress(self, data):
        return classical.CODECS["png"].decompress(data)


@pytest.fixture
def images():
    for i in range(2):
        Image.fromarray(photo(40, 50 + i)).save(f"{i}.png")
    return inputs.find_images(["."])


def rows_of(images, codec, **settings):
    each = contestants.Contestant(codec, codec.sweep)
    return evaluation.evaluate(images, [each], read_rgb, **settings)


def timeless(rows):
    times = evaluation.COSTS
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def test_a_row_is_of_the_file_as_written(images):
    row = rows_of(images, Steps())[0]
    image = read_rgb(images[0])
    data = Steps().compress(image, 2)
    assert row["bytes"] == len(data)
    assert row["bpp"] == 8 * len(data) / (40 * 50)
    assert row["ratio"] == 40 * 50 * 3 / len(data)
    assert row["psnr"] == metrics.psnr(image, image // 2 * 2)
    assert row["ssim"] == metrics.ssim(image, image // 2 * 2)
    assert row["ms_ssim"] is None  # too small an image
    assert (row["width"], row["height"], row["quality"]) == (50, 40, 2)
    assert (row["codec"], row["version"]) == ("steps", "1")
    assert row["settings"] == {"dither": False}
    assert row["encode_seconds"] > 0
    assert row["decode_seconds"] > 0


def test_equal_images_have_no_finite_psnr(images):
    row = rows_of(images, Steps())[1]
    assert row["lossless"]
    assert row["psnr"] is row["psnr_ycbcr"] is row["ms_ssim_db"] is None
    json.dumps(row, allow_nan=False)


def test_means_are_of_values_per_image(images):
    rows = rows_of(images, Steps())
    coarse = [row for row in rows if row["quality"] == 2]
    (mean,) = (m for m in averages.means(rows) if m["quality"] == 2)
    assert mean["images"] == 2
    for figure in ("bpp", "psnr", "ratio", "ssim"):
        assert mean[figure] == pytest.approx(np.mean([row[figure] for row in coarse]))


def test_results_are_kept_and_the_same(images):
    codec = Steps()
    rows = rows_of(images, codec, cache="kept")
    done = codec.done
    assert rows_of(images, codec, cache="kept") == rows  # times included
    assert codec.done == done
    assert timeless(rows_of(images, Steps())) == timeless(rows)


@pytest.mark.parametrize(
    ("key", "value"), [("version", "2"), ("settings", {}), ("name", "b")]
)
def test_another_codec_version_or_setting_is_another_result(images, key, value):
    rows_of(images, Steps(), cache="kept")
    other = Steps()
    setattr(other, key, value)
    rows_of(images, other, cache="kept")
    assert other.done == 6  # two images, two qualities, two sizes to warm up


def test_other_pixels_are_another_result_and_other_names_are_not(images):
    rows_of(images, Steps(), cache="kept")
    images[0].rename("renamed.png")
    Image.fromarray(photo(40, 51) ^ 1).save("1.png")
    codec = Steps()
    rows_of(inputs.find_images(["*.png"]), codec, cache="kept")
    assert codec.done == 3


def test_what_was_stopped_goes_on(images):
    stopped, codec = Steps(), Steps()
    stopped.last = 5
    with pytest.raises(KeyboardInterrupt):
        rows_of(images, stopped, cache="kept")
    rows = rows_of(images, codec, cache="kept")
    assert codec.done == 2
    assert timeless(rows) == timeless(rows_of(images, Steps()))


@pytest.mark.parametrize("damage", ["", "{}", '{"key": 1, "figures": {}}', "[]"])
def test_a_damaged_cache_is_done_again(images, damage):
    rows = rows_of(images, Steps(), cache="kept")
    for entry in pathlib.Path("kept").iterdir():
        entry.write_text(damage)
    assert timeless(rows_of(images, Steps(), cache="kept")) == timeless(rows)


class Costly(Steps):
    """Takes 300 MB to code, and ends its process at quality 2 if told."""

    name, dies = "costly", False

    def compress(self, image, quality):
        if self.dies:
            os._exit(1)
        np.ones(300_000_000, np.uint8)
        return super().compress(image, quality)


class Endless(Steps):
    """Says which process it is in, and never ends."""

    def compress(self, image, quality):
        pathlib.Path("pid.part").write_text(str(os.getpid()))
        os.replace("pid.part", "pid")
        while True:
            time.sleep(1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_of_their_own_change_nothing_but_costs(images, jobs):
    both = [contestants.Contestant(codec, codec.sweep) for codec in (Steps(), Costly())]
    here = evaluation.evaluate(images, both, read_rgb)
    calls = []
    apart = evaluation.evaluate(
        images, both, read_rgb, "kept", lambda *a: calls.append(a), jobs
    )
    assert timeless(apart) == timeless(here)
    assert [call[:2] for call in calls] == [(i, 8) for i in range(1, 9)]
    if jobs > 1:
        assert all(row[cost] is None for row in apart for cost in evaluation.COSTS)
        again = evaluation.evaluate(images, both, read_rgb, "kept")
        assert all(row[cost] for row in again for cost in evaluation.COSTS[:2])
        return
    peaks = {row["codec"]: row["peak_mebibytes"] for row in apart}
    if None not in peaks.values():
        assert 0 < peaks["steps"] < peaks["costly"] - 200


def test_a_codec_that_takes_its_process_along_is_named(images):
    codec = Costly()
    codec.dies = True
    with pytest.raises(ChildProcessError, match=r"costly: its process died at 0\.png"):
        rows_of(images, codec, jobs=1)


def test_processes_end_with_the_first(images, tmp_path):
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from tests.test_evaluation import *\n"
        "if __name__ == '__main__': rows_of(['0.png'], Endless(), jobs=1)"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = str(pathlib.Path(__file__).parents[1])
    with subprocess.Popen([sys.executable, str(script), root]) as first:
        deadline = time.monotonic() + 60
        while not pathlib.Path("pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        worker = int(pathlib.Path("pid").read_text())
        first.kill()
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the worker goes on without its parent")


def darkest(image, decoded):
    assert image.dtype == decoded.dtype == np.uint8
    return float(decoded.min())


def test_a_metric_of_ones_own(images, capsys):
    name = f"{__name__}:darkest"
    rows = rows_of(images, Steps(), extra=[name])
    image = read_rgb(images[0])
    assert rows[0]["metrics"] == {name: (image // 2 * 2).min()}
    assert call("eval", ".", "--codecs", "jpeg:q=20", "--metric", name) == 0
    assert name in capsys.readouterr().out
    for bad in ("nothing", "no.such:thing", "math:nothing", "math:pi", ".x:y"):
        assert "no metric" in wrong(capsys, "eval", ".", "--metric", bad)


def test_a_changed_metric_is_computed_again(images, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for value in (1.0, 2.0):
        text = f"def figure(image, decoded):\n    return {value}\n"
        (tmp_path / "changing_metric.py").write_text(text)
        sys.modules.pop("changing_metric", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        name = "changing_metric:figure"
        rows = rows_of(images, Steps(), cache=tmp_path / "cache", extra=[name])
        assert rows[0]["metrics"] == {name: value}


def fussy(image, decoded):
    raise ValueError("this image is too small")


def test_an_image_that_a_metric_of_ones_own_cannot_judge_has_none(images):
    name = f"{__name__}:fussy"
    rows = rows_of(images, Steps(), extra=[name])
    assert [row["metrics"] for row in rows] == [{name: None}] * len(rows)
    assert rows[0]["lacking"][name] == "this image is too small"
    assert all(row["psnr"] for row in rows[::2])


def broken(image, decoded):
    return decoded.nothing


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_metric_that_fails_is_named_with_the_image_and_the_error(images, jobs):
    name = f"{__name__}:broken"
    said = rf"^0\.png: metric {name}: AttributeError: .*nothing"
    with pytest.raises(console.Failure, match=said):
        rows_of(images, Steps(), extra=[name], jobs=jobs)


def test_a_metric_may_lie_in_the_current_folder(images, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    text = "def figure(image, decoded):\n    return 4.25\n"
    pathlib.Path("metric_of_this_folder.py").write_text(text)
    pathlib.Path("metric_with_a_slip.py").write_text("1 / 0\n")
    name = "metric_of_this_folder:figure"
    root = str(pathlib.Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, f"{root}/compress.py", "eval", "0.png", "--codecs", "jpeg:q=5",
         "--metric", name],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "4.2500" in done.stdout, done.stderr
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match="no metric .*ZeroDivisionError"):
        evaluation.metric("metric_with_a_slip:figure")


def test_ssimulacra2_is_always_reported(images, capsys):
    rows = rows_of(images, Steps())
    image = read_rgb(images[0])
    assert rows[0]["ssimulacra2"] == ssimulacra2.score(image, image // 2 * 2)
    assert rows[1]["ssimulacra2"] == 100
    assert averages.means(rows)[0]["ssimulacra2"] == pytest.approx(
        np.mean([row["ssimulacra2"] for row in rows[::2]])
    )
    said = wrong(capsys, "eval", ".", "--metric", "ssimulacra2")
    assert "always reported" in said


def test_an_image_too_small_for_ssimulacra2_has_none(images):
    Image.fromarray(photo(40, 50)[:7]).save("0.png")
    rows = rows_of(images, Steps())
    assert rows[0]["ssimulacra2"] is None
    (coarse,) = (m for m in averages.means(rows) if m["quality"] == 2)
    assert coarse["ssimulacra2"] == rows[2]["ssimulacra2"]
    assert coarse["lacking"] == {
        "ssim": 1, "ms_ssim": 2, "ms_ssim_db": 2, "ssimulacra2": 1
    }  # fmt: skip
    assert coarse["ms_ssim"] is None
    first, second, _ = summary.notes(averages.lacking(rows), 2)
    assert first.startswith("SSIM is the mean of 1 of 2 images; left out: 1, first ")
    assert second.startswith("no image has MS-SSIM, for instance ")


def test_what_an_image_lacks_is_compared_on_the_others_for_all_codecs(images, capsys):
    Image.fromarray(photo(170, 180)).save("1.png")
    line = ["eval", ".", "--codecs", "jpeg:q=20:50:90,webp:q=20:50:90,png"]
    assert call(*line, "--json", "all.json") == 0
    note = "MS-SSIM is the mean of 1 of 2 images; left out: 1, first 0.png (MS-SSIM "
    assert f"note: {note}" in capsys.readouterr().out
    line[1] = "1.png"
    assert call(*line, "--json", "one.json") == 0
    assert "note: " not in capsys.readouterr().out
    both, one = (
        json.loads(pathlib.Path(name).read_text()) for name in ("all.json", "one.json")
    )
    assert both["notes"][0].startswith(note)
    assert one["notes"] == []
    for mean, alone in zip(both["means"], one["means"]):
        assert (mean["images"], mean["lacking"]["ms_ssim"]) == (2, 1)
        assert mean["rates"]["ms_ssim"] == alone["bpp"] != mean["bpp"]
        for figure in ("ms_ssim", "ms_ssim_db"):  # None of PNG: infinite
            assert mean[figure] == alone[figure]
    for figure, same in (("ms_ssim_db", True), ("psnr", False)):
        found = [
            [pair["bd_rate"] for pair in each["bd"] if pair["figure"] == figure]
            for each in (both, one)
        ]
        assert len(found[0]) == 2
        assert (found[0] == found[1]) == same


def test_an_infinite_figure_is_not_one_that_an_image_lacks(images):
    Image.new("RGB", (50, 40)).save("0.png")  # which every codec reproduces
    rows = rows_of(images, Steps(), extra=[f"{__name__}:reciprocal"])
    (coarse,) = (m for m in averages.means(rows) if m["quality"] == 2)
    assert coarse["psnr"] is None
    assert coarse["metrics"] == {f"{__name__}:reciprocal": None}
    assert coarse["lacking"].keys() == {"ms_ssim", "ms_ssim_db"}


def reciprocal(image, decoded):
    error = metrics.mse(image, decoded)
    return 1 / error if error else math.inf


def test_progress_counts_rows_and_seconds(images):
    calls = []
    rows_of(images, Steps(), progress=lambda *args: calls.append(args))
    assert [call[:2] for call in calls] == [(i, 4) for i in (1, 2, 3, 4)]
    assert calls[-1][2] == 0
    assert all(left > 0 for _, _, left in calls[:-1])


def test_files_folders_and_globs_are_found_once(images):
    pathlib.Path("deep/er").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save("deep/er/2.JPG")
    pathlib.Path("deep/notes.txt").write_text("no image")
    found = inputs.find_images(["0.png", "?.png", "deep", "./0.png"])
    assert [path.name for path in found] == ["0.png", "1.png", "2.JPG"]
    with pytest.raises(ValueError, match=r"no\*such: no images"):
        inputs.find_images(["0.png", "no*such"])


def test_contestants_are_read():
    each = contestants.contestant("jpeg:q=10:50:10")
    assert (each.name, each.qualities) == ("jpeg", (10, 50))
    assert contestants.contestant("webp").qualities == classical.CODECS["webp"].sweep
    assert contestants.contestant("tfcodec:q=12.5").qualities == (12.5,)
    make_model(pathlib.Path("mine"), quality=None)
    assert contestants.contestant("./mine").qualities == (50,)
    slow = contestants.contestant("tfcodec:effort=3:q=12.5:50")
    assert (slow.name, slow.qualities) == ("tfcodec:effort=3", (12.5, 50))
    assert slow.codec.effort == 3
    assert slow.codec.settings != contestants.contestant("tfcodec").codec.settings
    avif = contestants.contestant("avif:speed=0:q=10:50")
    assert (avif.name, avif.qualities) == ("avif:speed=0", (10, 50))
    both, _ = contestants.contestants(["avif", "avif:speed=0"])
    assert both[0].codec.settings != both[1].codec.settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuch", "shipped models are: tfcodec; other codecs are: jpeg"),
        ("jpeg:q=a", "numbers"),
        ("jpeg:q=", "numbers"),
        ("jpeg:q=101", "jpeg must be from 1 to 100"),
        ("png:q=5", "lossless"),
        ("tfcodec:q=101", "from 0 to 100"),
        ("avif:speed=11:q=5", r"'avif:speed=11': avif takes speed=0\|1"),
        ("jpeg:quality=50", "'jpeg:quality=50': jpeg takes q=1..100$"),
        ("avif:quality=50", "takes speed=.*, tune=.*, q=0..100$"),
        ("png:x=1", "png takes no options"),
        ("tfcodec:quality=50", "tfcodec takes effort=0..9, .*, q=0..100$"),
        ("tfcodec:effort=10", "effort is a whole number from 0 to 9, realism 0 to 1$"),
        ("tfcodec:effort=", "effort is a whole number"),
    ],
)
def test_bad_contestants_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        contestants.contestants([text])


def mean(codec, bpp, psnr):
    points = None if psnr is None else 5 * psnr - 170  # from -20 on
    return {
        "codec": codec, "bpp": bpp, "psnr": psnr, "ms_ssim_db": None,
        "ssimulacra2": points, "metrics": {}, "rates": {},
    }  # fmt: skip


def test_every_pair_of_lossy_codecs_is_compared():
    means = [
        mean(codec, factor * 0.1 * 2**i, 30.0 + 3 * i)
        for codec, factor in (("a", 1), ("b", 0.9))
        for i in range(4)
    ] + [mean("png", 14.0, None)]
    known = [{"name": "k", "bpp": [1.0, 2], "psnr": [80.0, 90], "ms_ssim": None}]
    curves = averages.curves(means, known)
    found = {
        (pair["codec"], pair["against"]): (pair["bd_rate"], pair["bd_quality"])
        for pair in averages.pairs(curves)
    }
    assert len(found) == 6
    assert found["b", "a"][0] == pytest.approx(-10)
    assert found["b", "a"][1] == pytest.approx(-3 * math.log2(0.9))
    assert found["a", "b"][0] == pytest.approx(100 / 9)
    assert found["k", "a"][0] is None  # no quality in common
    assert averages.pairs(curves, "ms_ssim_db") == []
    by_points = averages.pairs(curves, "ssimulacra2")
    assert [pair["against"] for pair in by_points] == ["a", "b"]  # not of the published
    assert by_points[0]["bd_rate"] == pytest.approx(-10)
    assert by_points[0]["bd_quality"] == pytest.approx(-15 * math.log2(0.9))
    table = summary.pair_table(averages.pairs(curves))
    assert table.splitlines()[2].split() == ["[2]", "b", "-10.0", ".", "-"]


def test_published_curves_say_where_they_are_from():
    data = json.loads(averages.PUBLISHED.read_text("utf-8"))
    names = [curve["name"] for curve in data["curves"]]
    assert len(set(names)) == len(names)
    for curve in data["curves"]:
        assert curve["source"]
        assert curve["averaging"]
        assert len(curve["bpp"]) == len(curve["psnr"]) > 1
        assert curve["bpp"] == sorted(curve["bpp"])
    curves = averages.curves([], data["curves"])
    pairs = averages.pairs(curves)
    assert len(pairs) == len(names) * (len(names) - 1)


def test_published_curves_are_of_all_their_images_and_no_others(images, tmp_path):
    digests = [evaluation.digest(read_rgb(path)) for path in images]
    with pytest.raises(ValueError, match="all 24 images of Kodak"):
        averages.published(digests)


def test_the_command(images, capsys, monkeypatch):
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0)
    argv = ["eval", ".", "--codecs", "tfcodec:q=50,jpeg:q=20:90,webp:q=20:90,png"]
    assert call(*argv, "--json", "out.json") == 0
    out, err = capsys.readouterr()
    assert "12 of 12 files" in err
    assert "BD-rate by PSNR" in out
    assert "BD-rate by SSIMULACRA2" in out
    assert "BD-SSIMULACRA2, points" in out
    found = json.loads(pathlib.Path("out.json").read_text())
    assert len(found["rows"]) == 12
    assert {row["codec"] for row in found["rows"]} == {"tfcodec", "jpeg", "webp", "png"}
    assert len(found["means"]) == 6
    assert "exists; -f overwrites" in fails(capsys, *argv, "--json", "out.json")


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_json_to_stdout_is_alone_there(images, capsys, name):
    line = ["eval", ".", "--codecs", "jpeg:q=20:90"]
    assert call(*line, "--json", name) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["rows"]) == 4
    assert err.startswith("Means over 2 images")
    assert call(*line, "--report", name) == 0
    out, err = capsys.readouterr()
    assert out.startswith("<!doctype html>")
    assert err.startswith("Means over 2 images")
    for first, second in (("-", name), ("a", "./a")):
        said = fails(capsys, *line, "--json", first, "--report", second)
        assert "name the same" in said
    assert sorted(os.listdir()) == ["0.png", "1.png"]


def test_the_command_ends_by_itself(images):
    """With TensorFlow's noise kept from stderr, and processes that hold stderr open."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, root / "compress.py", "eval", ".", "--codecs", "jpeg:q=50"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert "tfcodec: " not in done.stderr
    assert "jpeg" in done.stdout


def test_the_same_command_prints_the_same(images, capsys):
    argv = ["eval", ".", "--codecs", "jpeg:q=20:90,jpeg2000:q=8:4", "--cache", "kept"]
    assert call(*argv) == 0
    first = capsys.readouterr().out
    assert call(*argv) == 0
    assert capsys.readouterr().out == first


def test_a_missing_codec_is_named_and_the_others_go_on(images, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    assert call("eval", ".", "--codecs", "jpeg:q=20:90,jxl", "--json", "out.json") == 0
    out, err = capsys.readouterr()
    assert "missing: jxl: " in out
    assert "pip install pillow-jxl-plugin" in err
    assert "jxl" in json.loads(pathlib.Path("out.json").read_text())["missing"][0]
    assert "pillow-jxl-plugin" in fails(capsys, "eval", ".", "--codecs", "jxl")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nosuch.png"], "nosuch.png: no images there"),
        ([".", "--codecs", "jpeg", "--published"], "Kodak"),
        ([".", "--codecs", "jpeg", "--json", "no/such.json"], "no/such.json"),
    ],
)
def test_bad_input_is_one_line(images, capsys, argv, message):
    assert message in fails(capsys, "eval", *argv)


@pytest.mark.parametrize(
    ("codecs", "message"),
    [
        ("nosuch", "nosuch"),
        ("jpeg,jpeg:q=5", "jpeg is named twice"),
        ("", "no codecs"),
        ("jpeg:q=500", "quality of jpeg must be from 1 to 100, not 500"),
        ("jpeg:quality=50", "jpeg takes q=1..100"),
    ],
)
def test_wrong_codecs_are_wrong_usage(capsys, codecs, message):
    said = wrong(capsys, "eval", "nosuch.png", "--codecs", codecs)
    assert "error: argument --codecs: " in said
    assert message in said


def test_a_damaged_image_is_named(capsys):
    pathlib.Path("bad.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    assert "bad.png" in fails(capsys, "eval", "bad.png", "--codecs", "jpeg:q=50")


def test_an_image_that_is_none_is_named_before_any_is_coded(
    images, capsys, monkeypatch
):
    pathlib.Path("z.png").write_bytes(b"text")
    monkeypatch.setattr(evaluation, "evaluate", None)
    assert "z.png" in fails(capsys, "eval", ".", "--codecs", "jpeg:q=50")
    pathlib.Path("z.png").unlink()
    line = ["eval", ".", "--codecs", "jpeg:q=50", "--json", "a", "--report", "a"]
    assert "name the same file" in fails(capsys, *line)
