"""Very many files: names, whole files and means; and jobs where Apache Beam is."""

import ast
import importlib.util
import io
import json
import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from tests import standin
from tfcodec import (
    arguments,
    bulk,
    cli,
    codec,
    engine,
    evaluation,
    files,
    registry,
)

needs_beam = pytest.mark.skipif(
    not importlib.util.find_spec("apache_beam"), reason="Apache Beam is not installed"
)


class Store:
    """Files in memory, with the functions of Beam's FileSystems that are used."""

    def __init__(self):
        self.files, self.folders, self.broken = {}, {"out"}, ""

    def create(self, path, compression_type):
        assert compression_type == bulk.RAW
        return Part(self.files, path)

    def rename(self, sources, targets):
        (source,), (target,) = sources, targets
        if self.broken or target.rpartition("/")[0] not in self.folders:
            raise OSError(self.broken or "no such folder")
        self.files[target] = self.files.pop(source)

    def mkdirs(self, path):
        self.folders.add(path)

    def delete(self, paths):
        for path in paths:
            self.files.pop(path, None)


class Part(io.BytesIO):
    """A file that is there when it is closed."""

    def __init__(self, files, path):
        super().__init__()
        self.files, self.path = files, path

    def close(self):
        if not self.closed:
            self.files[self.path] = self.getvalue()
        super().close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Goes to an empty folder, with one shipped model and the stand-in codec."""
    model = standin.make_model(tmp_path / "models" / "tfcodec")
    (model / registry.LITERT).mkdir()  # for whichever engine is installed
    monkeypatch.setattr(registry, "ROOT", tmp_path / "models")
    monkeypatch.setattr(engine, "Codec", standin.Lossless)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    codec._loaded.cache_clear()
    yield tmp_path / "work"
    codec._loaded.cache_clear()


def picture(number=0):
    return np.random.default_rng(number).integers(0, 256, (9, 7, 3), np.uint8)


def pictures(*names):
    for number, name in enumerate(names):
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)


def png(number=0):
    file = io.BytesIO()
    Image.fromarray(picture(number)).save(file, "PNG")
    return file.getvalue()


def bulk_command(*argv):
    words = ["tfcodec", "bulk", *map(str, argv)]
    return cli.main(cli.parse(words))


def made(out="out"):
    """All files of a folder, by their paths in it."""
    root = pathlib.Path(out)
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def rows(name):
    return [json.loads(line) for line in made()[name].splitlines()]


@pytest.mark.parametrize(
    ("pattern", "name", "target"),
    [
        ("gs://b/photos/*.png", "gs://b/photos/a.png", "out/a.tfc"),
        ("gs://b/photos/20*/**.png", "gs://b/photos/2001/x/a.b.png",
         "out/2001/x/a.b.tfc"),
        ("gs://b/photos/", "gs://b/photos/x/A.JPG", "out/x/A.tfc"),
        ("gs://b/photos/a.png", "gs://b/photos/a.png", "out/a.tfc"),
        ("gs://b/*/a.png", "gs://b/x/a.png", "out/x/a.tfc"),
        ("photos//in?/*.png", "photos/ink/a.png", "out/ink/a.tfc"),
        ("*.png", "./a.png", "out/a.tfc"),
    ],
)  # fmt: skip
def test_a_name_is_kept_from_the_first_folder_with_a_wildcard_on(pattern, name, target):
    found = bulk.Pattern.of(pattern, [".jpg"])
    assert found.takes(name)
    assert found.target(name, "out", ".tfc") == target


def test_of_a_folder_images_are_taken_whatever_brackets_it_has(folder):
    pictures("my [best]/in/a.png")
    found = bulk.Pattern.of("my [best]", [".png"])
    assert "[" not in found.text
    assert found.takes("my [best]/in/a.png")
    assert not found.takes("my [best]/in/notes.txt")
    assert not found.takes("my qbest]/in/a.png")
    one = bulk.Pattern.of("my [best]/in/a.png", [])
    assert one.takes("my [best]/in/a.png")
    assert one.target("my [best]/in/a.png", "out", ".tfc") == "out/a.tfc"


@pytest.mark.parametrize(
    "name", ["in/../../etc/a.png", "in/..\\a.png", "in/\udce9.png"]
)
def test_a_name_that_leads_elsewhere_or_is_no_text_is_refused(name):
    with pytest.raises(ValueError, match="a name"):
        bulk.Pattern.of("in/**", []).target(name, "out", ".tfc")


@pytest.mark.parametrize("text", ["", "gs://b/o*", "o[1]"])
def test_a_folder_for_outputs_has_no_wildcards(text):
    with pytest.raises(ValueError, match="--out_dir"):
        bulk.out_dir_of(text)


def test_a_file_is_the_same_however_often_it_is_written():
    store = Store()
    for _ in range(3):
        bulk.write(store, "out/new/a", [b"one", b"two"], "out/parts")
        assert store.files == {"out/new/a": b"onetwo"}


def test_what_cannot_be_written_leaves_what_was_there_and_nothing_else():
    store = Store()
    bulk.write(store, "out/a", [b"old"], "out/parts")
    store.broken = "no room"
    with pytest.raises(OSError, match="no room"):
        bulk.write(store, "out/a", [b"new"], "out/parts")

    def stopped():
        yield b"half"
        raise KeyboardInterrupt

    store.broken = ""
    with pytest.raises(KeyboardInterrupt):
        bulk.write(store, "out/a", stopped(), "out/parts")
    assert store.files == {"out/a": b"old"}


def test_two_that_write_a_file_at_a_time_do_not_meet():
    store = Store()

    def other():
        yield b"same "
        bulk.write(store, "out/a", [b"same ", b"thing"], "out/parts")
        yield b"thing"

    bulk.write(store, "out/a", other(), "out/parts")
    assert store.files == {"out/a": b"same thing"}


def figures(number):
    random = np.random.default_rng(number)
    return {figure: float(random.random()) for figure in bulk.FIGURES}


def test_means_do_not_depend_on_how_files_are_parted_among_workers():
    found = [figures(number) for number in range(7)]
    parts = [bulk.Mean(), bulk.Mean(), bulk.Mean()]
    for number, row in enumerate(found):
        parts[number % 2].add(row)
    result = parts[2].merge(parts[0]).merge(parts[1]).result()
    assert result["images"] == 7
    assert result["lacking"] == {}
    for figure in bulk.FIGURES:
        expected = np.mean([row[figure] for row in found])
        assert result[figure] == pytest.approx(expected)


def test_a_mean_is_over_the_images_that_have_a_figure_and_says_how_many_lack_it():
    mean = bulk.Mean()
    for number in range(3):
        mean.add({**figures(number), "ms_ssim_db": None, "psnr": number or None})
    result = mean.result()
    assert result["psnr"] == 1.5
    assert result["ms_ssim_db"] is None
    assert result["lacking"] == {"psnr": 1, "ms_ssim_db": 3}
    assert "PSNR 1.50 dB" in bulk.summary_of_mean(result)
    assert "left out: PSNR of 1, MS-SSIM of 3" in bulk.summary_of_mean(result)


def test_work_does_not_depend_on_what_runs_it(folder):
    with bulk.Models("auto", 0, 1).used():
        file = bulk.Compressing({"quality": 40})("it", png())
        back = bulk.Decompressing({}, ".webp")("it", file.result)
        row = bulk.Evaluating({"quality": 40})("it", png())
    assert codec.info(file.result)["quality"] == 40
    assert file.pixels == back.pixels == row.pixels == 63
    image = Image.open(io.BytesIO(back.result))
    assert image.format == "WEBP"
    assert np.array_equal(np.asarray(image), picture())
    assert row.result["bpp"] == pytest.approx(8 * len(file.result) / 63)
    assert row.result["psnr"] is None  # nothing was lost
    assert evaluation.FIGURES[0] in row.result


def test_a_job_that_cannot_go_well_is_refused_before_it_begins(folder):
    with pytest.raises(ValueError, match="no model 'nothing'"):
        bulk.Compressing({"model": "nothing"})
    with pytest.raises(TypeError, match="qualty"):
        bulk.Compressing({"qualty": 3})
    with pytest.raises(ValueError, match="quality"):
        bulk.Evaluating({"quality": 101})
    with pytest.raises(ValueError, match="a quality or one target, not"):
        bulk.Compressing({"target_psnr": 30, "max_bytes": 9})
    with pytest.raises(ValueError, match="realism"):
        bulk.Decompressing({"realism": 2})
    with pytest.raises(ValueError, match="no image format"):
        bulk.Decompressing({}, ".txt")


def test_options_that_are_not_ours_are_kept_for_beam():
    words = "bulk a*.png b --out_dir o -q 30 --direct_num_workers=2 -- --only_flink=1"
    args = arguments.parse(["tfcodec", *words.split()])
    assert args.patterns == ["a*.png", "b"]
    assert (args.quality, args.runner, args.effort) == (30, "DirectRunner", 0)
    assert args.beam == ["--direct_num_workers=2"]
    assert args.runners_own == ["--only_flink=1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bulk a*.png", "--out_dir"),
        ("bulk a.tfc --out_dir o --decompress --evaluate", "not allowed with"),
        ("bulk a.png --out_dir o -q 1 --target_psnr 30", "not allowed with"),
        ("compress a.png --direct_num_workers=2", "unrecognized arguments: --direct"),
    ],
)
def test_wrong_usage_is_said(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        arguments.parse(["tfcodec", *words.split()])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_without_beam_it_says_what_to_install(folder, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("apache_beam")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("tfcodec.jobs", "tfcodec.beam"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert bulk_command("*.png", "--out_dir", "out") == 1
    said = "tfcodec: this needs Apache Beam: pip install 'tfcodec[beam]'\n"
    assert capsys.readouterr().err == said
    assert os.listdir() == []


def in_memory(transform, elements):
    """What a transform makes of (key, value), by output, and Beam's counters."""
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    found = {}
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        outputs = pipeline | beam.Create(elements) | transform
        for name in ("done", "failed"):
            # A worker may be another process, from which files come back, not lists.
            rows = outputs[name] | f"{name} text" >> beam.Map(repr)
            rows | name >> beam.io.WriteToText(f"memory/{name}", num_shards=1)
    for name in ("done", "failed"):
        (path,) = pathlib.Path("memory").glob(f"{name}*")
        found[name] = sorted(map(ast.literal_eval, path.read_text().splitlines()))
    result = pipeline.result.metrics().query()["counters"]
    return found, {each.key.metric.name: each.result for each in result}


@needs_beam
def test_files_in_memory_come_back_and_bad_ones_have_reasons(folder):
    from tfcodec.beam import Compress, Decompress

    elements = [("a.png", png(1)), ("b.png", b"no image"), (("c", 3), png(2))]
    found, counters = in_memory(Compress(quality=30), elements[:2])
    assert found["failed"] == [("b.png", "not an image that Pillow reads")]
    ((name, data),) = found["done"]
    assert name == "a.png"
    assert codec.info(data)["quality"] == 30
    assert counters["files"] == counters["failed"] == 1
    assert counters["pixels"] == 63
    assert (counters["bytes_in"], counters["bytes_out"]) == (len(png(1)), len(data))
    found, _ = in_memory(Compress(quality=30), elements[2:])
    ((key, _),) = found["done"]
    assert key == ("c", 3)
    found, counters = in_memory(Decompress(), [("a", data), ("cut", data[:-1])])
    ((_, image),) = found["done"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image))), picture(1))
    assert [name for name, _ in found["failed"]] == ["cut"]


@needs_beam
def test_files_are_read_by_name_and_missing_ones_have_reasons(folder):
    from tfcodec.beam import Read

    pathlib.Path("a").write_bytes(b"bytes")
    found, counters = in_memory(Read(), ["a", "b"])
    assert found["done"] == [("a", b"bytes")]
    ((name, why),) = found["failed"]
    assert name == "b"
    assert "No such file" in why
    assert counters["failed"] == 1


@needs_beam
def test_each_input_has_one_output_however_often_a_bundle_is_tried(folder, monkeypatch):
    codings, loadings = [], []

    class Counting(standin.Lossless):
        def __init__(self, *args):
            super().__init__(*args)
            loadings.append(1)

        def compress(self, *args, **options):
            codings.append(1)
            return super().compress(*args, **options)

    monkeypatch.setattr(engine, "Codec", Counting)
    names = ["a.png", "x/a.png", "x/y/b.c.png", "x/y/d.jpg"]
    pictures(*(f"in/{name}" for name in names))
    pathlib.Path("in/notes.txt").write_text("no image")
    argv = ("in", "--out_dir", "out", "--direct_runner_bundle_repeat=2")
    assert bulk_command(*argv) == 0
    assert len(codings) == 3 * len(names)
    assert len(loadings) == 1
    first = made()
    assert sorted(first) == ["a.tfc", "x/a.tfc", "x/y/b.c.tfc", "x/y/d.tfc"]
    assert bulk_command(*argv, "-f") == 0
    assert made() == first
    assert sorted(os.listdir("out")) == ["a.tfc", "x"]


@needs_beam
def test_of_two_inputs_with_one_output_the_first_by_name_is_done(folder, capsys):
    pictures("in/a.png", "in/a.bmp", "in/b.png")
    assert bulk_command("in/*", "--out_dir", "out") == 1
    out, err = capsys.readouterr()
    assert "2 files" in out
    assert "1 failed" in out
    reason = "out/a.tfc: another input is written there: in/a.bmp"
    assert err == f"tfcodec: in/a.png: {reason}\n"
    assert rows("failed.jsonl") == [
        {"input": "in/a.png", "output": "out/a.tfc", "error": reason}
    ]
    assert np.array_equal(codec.decompress(made()["a.tfc"]), picture(1))


@needs_beam
def test_a_job_that_a_signal_ends_leaves_no_unfinished_files(folder, monkeypatch):
    from tfcodec import jobs

    def ended(job, _):
        parts = pathlib.Path(job.parts)
        parts.mkdir(parents=True)
        (parts / "a.part").touch()
        files.remove_unfinished()  # as `signals.clean_up` does
        assert not parts.exists()
        raise KeyboardInterrupt

    pictures("in/a.png")
    monkeypatch.setattr(jobs, "_run", ended)
    assert bulk_command("in/*", "--out_dir", "out") == 130


@needs_beam
def test_what_exists_is_kept_passed_over_or_replaced(folder, capsys):
    pictures("in/a.png", "in/b.png")
    pathlib.Path("out").mkdir()
    pathlib.Path("out/a.tfc").write_bytes(b"old")
    assert bulk_command("in/*", "--out_dir", "out") == 1
    assert rows("failed.jsonl")[0]["error"].startswith("out/a.tfc: exists; -f")
    assert made()["a.tfc"] == b"old"
    os.remove("out/b.tfc")
    capsys.readouterr()
    assert bulk_command("in/*", "--out_dir", "out/", "--skip_existing", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["files"], row["skipped"], row["failed"]) == (1, 1, 0)
    assert made().keys() == {"a.tfc", "b.tfc"}  # what failed before is not told of
    assert made()["a.tfc"] == b"old"
    assert bulk_command("in/*", "--out_dir", "out", "-f") == 0
    assert np.array_equal(codec.decompress(made()["a.tfc"]), picture(0))


@needs_beam
def test_no_input_is_replaced_by_its_output(folder, capsys):
    pictures("in/a.png")
    data = pathlib.Path("in/a.png").read_bytes()
    words = ("--decompress", "--suffix", ".png", "-f")
    assert bulk_command("in/*.png", "--out_dir", "in", *words) == 1
    assert "input and output are the same file" in capsys.readouterr().err
    assert pathlib.Path("in/a.png").read_bytes() == data


@needs_beam
def test_what_is_measured_is_told_by_file_and_as_a_mean(folder, capsys):
    pictures("in/a.png", "in/b.png")
    assert bulk_command("in", "--out_dir", "out", "--evaluate", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    found = rows("rows.jsonl")
    assert {each["input"] for each in found} == {"in/a.png", "in/b.png"}
    mean = row["mean"]
    assert mean["bpp"] == pytest.approx(np.mean([each["bpp"] for each in found]))
    assert mean["images"] == mean["lacking"]["psnr"] == 2  # nothing was lost
    assert made().keys() == {"mean.json", "rows.jsonl"}


@needs_beam
def test_figures_of_another_job_are_kept_unless_they_are_made_anew(folder, capsys):
    pictures("in/a.png")
    evaluate = ["in", "--out_dir", "out", "--evaluate"]
    assert bulk_command(*evaluate) == 0
    before = made()
    assert bulk_command("in", "--out_dir", "out") == 0
    assert {**before, **made()} == made()
    assert bulk_command(*evaluate) == 1
    assert "rows.jsonl: exists; -f overwrites it" in capsys.readouterr().err
    assert bulk_command(*evaluate, "-f") == 0


@needs_beam
def test_names_that_are_no_text_may_lie_in_the_output_folder(folder):
    pictures("in/a.png")
    os.mkdir("out")
    pathlib.Path(os.fsdecode(b"out/caf\xe9.txt")).touch()
    assert bulk_command("in", "--out_dir", "out") == 0
    assert os.path.exists("out/a.tfc")


@needs_beam
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.png --out_dir a.png", "a.png: Not a directory"),
        ("none*.png --out_dir out", "none*.png: no file matches"),
        ("empty --out_dir out", "empty: no images in it"),
        ("a.png --out_dir out --qualty=3", "nor of Beam: --qualty; options of the"),
        ("a.png --out_dir out --direct_num_workers 2", "not of the form --name=value"),
        ("a.png --out_dir out --direct_num_workers=x", "invalid int value"),
        ("a.png --out_dir out --runner=Nothing", "Unexpected pipeline runner"),
        ("a.png --out_dir out --model nothing", "no model 'nothing'"),
        ("nowhere://b/a.png --out_dir out", "nowhere://b/a.png"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(folder, words, message, capsys):
    pictures("a.png")
    pathlib.Path("empty").mkdir()
    pathlib.Path("empty/notes.txt").write_text("no image")
    assert bulk_command(*words.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith("tfcodec: ")
    assert err.count("\n") == 1
    assert message in err
    assert not made()


@needs_beam
def test_a_model_that_cannot_be_run_ends_the_job_and_not_each_file(
    folder, monkeypatch, capsys
):
    def chosen(*_):
        raise ValueError("LiteRT is not installed")

    pictures("a.png", "b.png")
    monkeypatch.setattr(engine, "chosen", chosen)
    assert bulk_command("*.png", "--out_dir", "out") == 1
    err = capsys.readouterr().err
    assert err.startswith("tfcodec: the job ended early: ")
    assert "LiteRT is not installed" in err
    assert not made()


@needs_beam
def test_cores_are_shared_by_the_processes_of_this_machine(monkeypatch):
    from tfcodec import jobs

    monkeypatch.setattr(jobs, "cores", lambda: 8)
    for flags, expected in (
        ([], 8),
        (["--direct_num_workers=4", "--direct_running_mode=multi_processing"], 2),
        (["--direct_num_workers=0", "--direct_running_mode=multi_processing"], 1),
    ):
        options = jobs.options_of("DirectRunner", flags, [])
        assert jobs.threads_of("DirectRunner", options) == expected
    assert jobs.threads_of("FlinkRunner", options) == 1
