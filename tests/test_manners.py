"""How the command line behaves towards terminals, pipes, signals and file names."""
# ruff: noqa: F811

import concurrent.futures
import contextlib
import errno
import io
import json
import logging
import os
import pathlib
import pty
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import tfcodec
from tests.standin import PROGRAM
from tests.test_cli import (  # noqa: F401
    ROOT,
    call,
    fails,
    folder,
    image,
    pixels,
    wrong,
)
from tests.test_inputs import lock
from tfcodec import (
    bitstream,
    codec,
    console,
    files,
    images,
    inputs,
    planes,
    registry,
)


def command(*argv, closed=(), **settings):
    """Runs the whole program, with the stand-in for the codec, in a process."""
    line = [sys.executable, "-c", PROGRAM, str(ROOT), str(registry.ROOT), *argv]

    def close():
        for descriptor in closed:
            os.close(descriptor)

    for name in ("stdout", "stderr"):
        settings.setdefault(name, subprocess.PIPE)
    return subprocess.run(line, preexec_fn=close if closed else None, **settings)


def encoded_as(encoding):
    return {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C.UTF-8"}


ODD = ["aaa", os.fsdecode(b"caf\xe9"), "d\u00eda", "\x1b[31mred", "two\nlines", "zzz"]


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "cp1252:strict"])
def test_a_name_that_stdout_cannot_encode_is_escaped_and_the_rest_goes_on(
    image, encoding
):  # fmt: skip
    os.mkdir("n")
    for name in ODD:
        os.link("in.png", f"n/{name}.png")
    for line in ("compress", "decompress"):
        out = ["--out_dir", "b"] if line == "decompress" else []
        done = command(line, "-r", "n", *out, env=encoded_as(encoding))
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b"\n") == len(ODD)
        assert rb"caf\xe9" in done.stdout
        assert rb"\x1b[31mred" in done.stdout
        assert rb"two\nlines" in done.stdout
        assert b"\x1b" not in done.stdout
    made = {path.stem for path in pathlib.Path("n").glob("*.tfc")}
    assert made == set(ODD) == {path.stem for path in pathlib.Path("b").iterdir()}
    again = command("compress", "-r", "n", "--json", env=encoded_as(encoding))
    rows = [json.loads(line) for line in again.stdout.splitlines()]
    assert [row["input"] for row in rows] == sorted(f"n/{x}.png" for x in ODD)
    assert again.stderr.count(b"\n") == len(ODD)
    assert b"\x1b" not in again.stderr
    assert command("info", f"n/{ODD[1]}.tfc", env=encoded_as(encoding)).returncode == 0


def test_names_in_errors_notes_and_usage_are_escaped(image, capsys):
    name = "\x1b[31m\u202egnp.exe"
    err = fails(capsys, "compress", name)
    assert err == "tfcodec: \\x1b[31m\\u202egnp.exe: No such file or directory\n"
    Image.new("CMYK", (9, 5)).save(f"{name}.tif")
    assert call("compress", f"{name}.tif") == 0
    out, err = capsys.readouterr()
    assert err.startswith("note: \\x1b[31m\\u202egnp.exe.tif: mode CMYK")
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    pathlib.Path(f"{name}.tfc").write_bytes(b"no")
    assert "\\x1b" in fails(capsys, "info", f"{name}.tfc")
    with pytest.raises(SystemExit):
        call("info", "a", name)
    assert "\\x1b[31m" in capsys.readouterr().err


def test_names_in_log_lines_are_escaped():
    record = logging.LogRecord(
        "absl", logging.WARNING, "", 1, "left out: %s", ("\x1b[2Jx.png",), None
    )
    assert console.names_are_shown(record)
    assert record.getMessage() == "left out: \\x1b[2Jx.png"


def test_ordinary_text_of_any_script_stays_as_it_is():
    text = "d\u00eda \N{GRINNING FACE} \u65e5\u672c C:\\x\u202f1\u200d"
    assert console.shown(text) == text
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict")
    console.say("\u00e9\ud800\x9b", stream)
    assert stream.buffer.getvalue() == b"\\xe9\\ud800\\x9b\n"


def test_closed_stdout_fails_only_what_had_to_print(image):
    for argv in (["compress", "in.png", "a.tfc"], ["decompress", "a.tfc", "b.png"]):
        done = command(*argv, closed=[1])
        assert (done.returncode, done.stderr) == (0, b"")
    assert np.array_equal(pixels("b.png"), image)
    for argv in (
        ["info", "a.tfc"], ["models"], ["-V"], ["--help"], ["compress", "in.png", "-"],
        ["decompress", "a.tfc", "-"], ["eval", "in.png", "--codecs", "png"],
        ["compress", "in.png", "c.tfc", "--json"],
    ):  # fmt: skip
        done = command(*argv, closed=[1])
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1
        assert b"stdout is closed" in done.stderr
    assert not os.path.exists("c.tfc")


def test_closed_stdin_and_stderr_are_no_accidents(image):
    assert call("compress", "in.png", "a.tfc") == 0
    for argv in (["compress", "-"], ["decompress", "-", "b.png"], ["info", "-"]):
        done = command(*argv, closed=[0])
        assert done.returncode == 1
        assert b"stdin is closed" in done.stderr
        assert done.stderr.count(b"\n") == 1
    piped = command("compress", "in.png", "-", closed=[2])
    assert piped.stdout == pathlib.Path("a.tfc").read_bytes()
    for argv, code in (
        (["info", "nowhere"], 1), (["nosuch"], 2), (["compress", "in.png", "d.tfc"], 0),
    ):  # fmt: skip
        done = command(*argv, closed=[0, 2])
        assert done.returncode == code
        assert b"tfcodec: " not in done.stdout
    assert command("compress", "in.png", "e.tfc", closed=[0, 1, 2]).returncode == 0
    assert np.array_equal(codec.decompress(piped.stdout), image)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_stdout_is_said_once_and_files_are_written(image):
    os.link("in.png", "other.png")
    with open("/dev/full", "w") as full:
        done = command("compress", "in.png", "other.png", stdout=full)
        assert done.returncode == 1
        assert done.stderr == b"tfcodec: stdout: No space left on device\n"
        assert os.path.exists("other.tfc")
        for argv in (["info", "in.tfc"], ["decompress", "in.tfc", "-"]):
            done = command(*argv, stdout=full)
            assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
            assert b"stdout: No space left" in done.stderr


def test_it_ends_though_stderr_is_closed_and_no_log_level_is_set(image):
    env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = command("compress", "in.png", "a.tfc", closed=[2], env=env, timeout=60)
    assert done.returncode == 0
    assert np.array_equal(codec.decompress(pathlib.Path("a.tfc").read_bytes()), image)


# Runs train.py until it first imports what only training needs. There it begins a file,
# writes to the descriptor 3 which of 0, 1 and 2 are open, and waits for a signal.
TRAINING = """
import os, runpy, sys, time
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("tensorflow"):
            from tfcodec import files
            self.file = files.new_file("new")
            self.file.__enter__()
            os.write(3, bytes(os.path.exists(f"/dev/fd/{n}") for n in range(3)))
            time.sleep(20)
            os._exit(0)
sys.meta_path.insert(0, Stop())
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="needs /dev/fd")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_train_py_sees_to_signals_and_to_closed_streams_first(name, tmp_path):
    number, here = getattr(signal, name), tmp_path / "here"
    here.mkdir()
    heard, told = os.pipe()

    def prepare():
        signal.signal(number, signal.SIG_DFL)
        os.dup2(told, 3)
        for descriptor in range(3):
            os.close(descriptor)

    line = [sys.executable, "-c", TRAINING, str(ROOT / "train.py")]
    line += ["--run=run", "--images=images"]
    with subprocess.Popen(line, preexec_fn=prepare, pass_fds=[3], cwd=here) as process:
        os.close(told)
        assert os.read(heard, 3) == b"\1\1\1"
        assert len(os.listdir(here)) == 1
        process.send_signal(number)
        assert process.wait(10) == -number
    os.close(heard)
    assert not os.listdir(here)


WAITING = PROGRAM.replace(
    "cli.run()",
    """
import time
from tfcodec import batch, files, formats
def wait(file, *_):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
formats.write = wait
cli.run()
""",
)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT"])
def test_a_signal_that_ends_it_leaves_no_unfinished_file(image, name):
    assert call("compress", "in.png") == 0
    os.remove("in.png")
    line = [sys.executable, "-c", WAITING, str(ROOT), str(registry.ROOT)]
    number = getattr(signal, name)
    with subprocess.Popen(
        [*line, "decompress", "in.tfc"],
        stdout=subprocess.PIPE,
        text=True,
        # Whatever this process ignores, as one that was started by nohup does.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(os.listdir()) == 2
        process.send_signal(number)
        # By the signal itself, which a shell shows as 128 and the number.
        assert process.wait(10) == -number
    assert os.listdir() == ["in.tfc"]


def test_a_signal_that_the_caller_ignores_stays_ignored(image):
    assert call("compress", "in.png") == 0
    line = [sys.executable, "-c", WAITING, str(ROOT), str(registry.ROOT)]
    with subprocess.Popen(
        [*line, "decompress", "in.tfc", "out.png"],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()


def test_a_folder_half_written_is_removed_too(folder):
    with files.new_directory(folder / "version") as part:
        part.mkdir()
        (part / "file").write_text("half")
        files.remove_unfinished()
        assert os.listdir() == []
        part.mkdir()
    assert os.listdir() == ["version"]


def test_more_pixels_than_the_limit_are_no_damage(image, capsys):
    assert call("compress", "in.png") == 0
    for argv in (
        ["compress", "in.png", "a.tfc"], ["decompress", "in.tfc", "a.png"],
        ["info", "in.tfc"], ["eval", "in.png", "--codecs", "png"],
    ):  # fmt: skip
        err = fails(capsys, *argv, "--max_pixels", 390)
        assert "over the limit of 390 pixels" in err
        assert "--max_pixels" in err
        assert "damaged" not in err
        assert call(*argv, "--max_pixels", 391) == 0


def test_max_pixels_is_an_argument_of_every_function(image, monkeypatch):
    assert call("compress", "in.png") == 0
    data = pathlib.Path("in.tfc").read_bytes()
    small = tfcodec.Limits(pixels=300, decoded_bytes=900)
    for function in (tfcodec.decompress, tfcodec.info, tfcodec.metadata):
        with pytest.raises(tfcodec.UnsupportedStream, match="max_pixels"):
            function(data, limits=small)
        with pytest.raises(tfcodec.UnsupportedStream, match="max_pixels"):
            function(data, max_pixels=300)
        for most in (0, 391):
            function(data, limits=small, max_pixels=most)
    with pytest.raises(tfcodec.UnsupportedStream, match="max_pixels"):
        tfcodec.compress(image, max_pixels=300)
    assert tfcodec.compress(image, max_pixels=391) == tfcodec.compress(image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # which is ours to lift
    assert np.array_equal(images.read("in.png").pixels, image)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(ValueError, match="max_pixels"):
        images.read("in.png", max_pixels=300)


def test_max_pixels_lifts_the_bytes_of_colour_and_alpha():
    header = bitstream.Header(b"", 20000, 10000, 50, bitstream.RGBA, tile=5)
    for most in (0, 200_000_000):
        bitstream.check_limits(header, bitstream.Limits().for_pixels(most))
    with pytest.raises(tfcodec.UnsupportedStream, match="pixels"):
        bitstream.check_limits(header, bitstream.Limits().for_pixels(199_999_999))
    with pytest.raises(ValueError, match="max_pixels"):
        bitstream.Limits().for_pixels(-1)


def test_large_alpha_is_beyond_no_limit_of_pillows(monkeypatch):
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    assert np.array_equal(planes.read_png(planes.png(alpha), 5, 7), alpha)


def test_the_plugin_opens_as_many_pixels_as_pillow_does(image, monkeypatch):
    import tfcodec.pillow_plugin  # noqa: F401

    assert call("compress", "in.png") == 0
    small = tfcodec.Limits(pixels=100, decoded_bytes=100)
    monkeypatch.setattr(bitstream, "Limits", lambda: small)
    for most in (None, 300):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with (
            pytest.warns(Image.DecompressionBombWarning)
            if most
            else contextlib.nullcontext()
        ):
            opened = Image.open("in.tfc")
        assert np.array_equal(np.asarray(opened), image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open("in.tfc")


def test_a_replaced_file_keeps_who_may_read_it(image):
    assert call("compress", "in.png") == 0
    os.chmod("in.tfc", 0o600)
    assert call("compress", "in.png", "-f", "-q", 10) == 0
    assert os.stat("in.tfc").st_mode & 0o777 == 0o600


def test_times_are_kept_where_asked_for(image):
    os.utime("in.png", ns=(10**18, 10**18 + 5000))
    assert call("compress", "in.png") == 0
    assert os.stat("in.tfc").st_mtime_ns != 10**18 + 5000
    assert call("compress", "in.png", "-f", "--keep_times") == 0
    assert os.stat("in.tfc").st_mtime_ns == 10**18 + 5000
    assert call("decompress", "in.tfc", "b.png", "--keep_times") == 0
    assert os.stat("b.png").st_mtime_ns == 10**18 + 5000


def test_a_folder_as_the_last_name_is_written_into_as_by_cp(image, capsys):
    os.makedirs("sub/out")
    os.link("in.png", "sub/b.png")
    assert call("compress", "in.png", "sub/b.png", "sub/out") == 0
    assert call("compress", "in.png", "-o", "sub/out/", "-f") == 0
    assert sorted(os.listdir("sub/out")) == ["b.tfc", "in.tfc"]
    assert call("decompress", "sub/out/in.tfc", "sub/out") == 0
    assert np.array_equal(pixels("sub/out/in.png"), image)
    assert "-r takes" in fails(capsys, "compress", "sub")


def test_wildcards_that_no_shell_expanded_are_expanded(image, capsys):
    for name in ("b.png", "c[1].png", "d.bmp"):
        os.link("in.png", name)
    assert call("compress", "?.png", "c[1].png", "--out_dir", "out") == 0
    assert sorted(os.listdir("out")) == ["b.tfc", "c[1].tfc"]
    assert "*.jpg: No such file" in fails(capsys, "compress", "*.jpg")


def test_brackets_in_the_name_of_a_folder_stand_for_themselves(image, capsys):
    os.makedirs("[2024] a[1-3]")
    os.link("in.png", "[2024] a[1-3]/b[2].png")
    assert call("compress", "[2024] a[1-3]/*.png") == 0
    assert os.listdir("[2024] a[1-3]") != ["b[2].png"]
    found = inputs.find_images(["[2024] a[1-3]/*.png"])
    assert [path.name for path in found] == ["b[2].png"]
    os.link("in.png", "a2.png")
    assert [path.name for path in inputs.find_images(["a[1-3].png"])] == ["a2.png"]


def test_named_pipes_are_read_and_written_as_files_are(image):
    assert call("compress", "in.png") == 0
    data = pathlib.Path("in.tfc").read_bytes()
    assert call("decompress", "in.tfc", "back.png") == 0
    png = pathlib.Path("back.png").read_bytes()
    for line, given, wanted, suffix in (
        ("compress", png, data, "tfc"), ("decompress", data, png, "png"),
    ):  # fmt: skip
        os.mkfifo(f"from.{suffix}x")
        os.mkfifo(f"to.{suffix}")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            sent = pool.submit(pathlib.Path(f"from.{suffix}x").write_bytes, given)
            got = pool.submit(pathlib.Path(f"to.{suffix}").read_bytes)
            assert call(line, f"from.{suffix}x", "-o", f"to.{suffix}") == 0
            assert (sent.result(), got.result()) == (len(given), wanted)
        assert stat.S_ISFIFO(os.stat(f"to.{suffix}").st_mode)


def test_devices_are_written_to_and_never_replaced(image, capsys):
    before = os.stat(os.devnull)
    assert call("compress", "in.png", os.devnull) == 0
    assert call("compress", "in.png") == 0
    assert call("decompress", "in.tfc", "-o", os.devnull) == 0
    assert os.stat(os.devnull).st_mode == before.st_mode
    assert "exists; -f" in fails(capsys, "compress", "in.png", "-o", "/dev/zero")


def test_dev_stdin_and_dev_stdout_are_those_of_the_process(image):
    done = command(
        "compress", "/dev/stdin", "/dev/stdout", input=open("in.png", "rb").read()
    )
    assert (done.returncode, done.stdout[:4]) == (0, b"\x89tfc")


def test_an_empty_name_is_not_the_folder_one_is_in(image, capsys):
    for argv in (
        ("compress", "-r", ""), ("compress", "in.png", "-o", ""), ("info", ""),
        ("eval", ""), ("eval", "in.png", "--json", ""),
    ):  # fmt: skip
        assert "an empty file name" in wrong(capsys, *argv)


def test_a_folder_that_cannot_be_read_is_skipped_and_told(image, capsys, monkeypatch):
    os.makedirs("album/locked")
    for name in ("album/a.png", "album/locked/b.png"):
        os.link("in.png", name)
    lock(monkeypatch, "album/locked")
    said = "tfcodec: album/locked: Permission denied; this folder is skipped\n"
    assert call("compress", "-r", "album", "--json") == 1
    out, err = capsys.readouterr()
    skipped, done = map(json.loads, out.splitlines())
    assert (skipped["input"], skipped["output"]) == ("album/locked", None)
    assert skipped["error"] in said
    assert (done["output"], err) == ("album/a.tfc", said)
    assert call("eval", "album", "--codecs", "jpeg:q=50") == 1
    out, err = capsys.readouterr()
    assert ("Means over 1 image of" in out, err) == (True, said)
    for argv in (["compress", "-r"], ["eval", "--codecs", "jpeg"]):  # nothing to do
        assert said == fails(capsys, *argv, "album/locked")


def test_codecs_may_have_spaces_between_them(image, capsys):
    assert call("eval", "in.png", "--codecs", "jpeg:q=50, png,") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("png ") for line in lines)


def test_links_to_nowhere_and_upwards_are_told(image, capsys):
    os.mkdir("album")
    os.link("in.png", "album/a.png")
    os.symlink("nowhere", "album/b.png")
    os.symlink("..", "album/up")
    assert call("compress", "-r", "album") == 1
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert err.splitlines() == [
        "note: album/up: a link to a folder that contains it; not followed",
        "tfcodec: album/b.png: a broken link, to nowhere",
    ]


def test_an_input_in_a_folder_that_is_missing_is_named(image, capsys):
    why = "No such file or directory"
    for command, name in (("compress", "ablum/a.png"), ("decompress", "ablum/a.tfc")):
        assert fails(capsys, command, name) == f"tfcodec: {name}: {why}\n"


def test_a_missing_input_takes_no_output(image, capsys):
    assert call("compress", "ablum/in.png", "in.png", "-o", "small/") == 1
    out, err = capsys.readouterr()
    assert err == "tfcodec: ablum/in.png: No such file or directory\n"
    assert out.startswith("in.png ")
    assert os.listdir("small") == ["in.tfc"]


def test_a_file_of_the_other_command_is_named_as_such(image, capsys):
    assert call("compress", "in.png") == 0
    for names in (["in.tfc"], ["in.tfc", "-o", "new"]):
        said = fails(capsys, "compress", *names)
        assert said.startswith("tfcodec: in.tfc: a .tfc file already; decompress")
    for names in (["in.png"], ["in.png", "new.png"]):
        said = fails(capsys, "decompress", *names)
        assert said.startswith("tfcodec: in.png: not a .tfc file")
        assert "compress takes" in said
    os.rename("in.tfc", "odd.png")  # What is in a file counts.
    assert call("decompress", "odd.png", "-o", "out.png") == 0


def test_standard_input_has_no_name_to_have_in_a_folder(image, capsys):
    os.mkdir("out")
    for argv in (("out",), ("out/",), ("--out_dir", "new"), ("in.png", "-o", "out")):
        assert "standard input has no name" in wrong(capsys, "compress", "-", *argv)


def test_a_last_name_that_is_no_input_and_not_there_is_told_first(image, capsys):
    os.mkdir("album")
    os.link("in.png", "album/a.png")
    for argv in (
        ("compress", "in.png", "new"), ("compress", "in.png", "a.jpg", "new.typo"),
        ("compress", "-r", "album", "new"), ("decompress", "a.tfc", "b.tfc", "a.png"),
    ):  # fmt: skip
        said = wrong(capsys, *argv)
        assert f"{argv[-1]}: neither a folder nor an input that is there" in said
        assert f"write {argv[-1]}/" in said
    assert call("compress", "in.png", "missing.png") == 1  # an input that is missing
    assert os.path.exists("in.tfc")
    assert call("compress", "-f", "in.png", "alb*/*") == 0


def test_a_link_to_nowhere_is_written_through_and_a_hard_link_is_not(image):
    os.symlink("real.tfc", "soft.tfc")
    assert call("compress", "in.png", "soft.tfc") == 0
    old = pathlib.Path("real.tfc").read_bytes()
    os.link("real.tfc", "hard.tfc")
    assert call("compress", "in.png", "hard.tfc", "-f", "-q", "7") == 0
    assert os.path.islink("soft.tfc")
    assert pathlib.Path("real.tfc").read_bytes() == old
    assert pathlib.Path("hard.tfc").read_bytes() != old


def test_without_links_a_file_that_has_appeared_is_not_overwritten(monkeypatch):
    def link(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    with files.new_file("a", replace=False) as file:
        file.write(b"new")
    with pytest.raises(FileExistsError, match="File exists"):
        with files.new_file("a", replace=False) as file:
            file.write(b"newer")
    assert pathlib.Path("a").read_bytes() == b"new"
    assert os.listdir() == ["a"]


def test_bytes_go_to_a_terminal_only_by_force(image):
    main, side = pty.openpty()
    refused = command("compress", "in.png", "-", stdout=side)
    assert refused.returncode == 1
    assert b"terminal" in refused.stderr
    assert command("compress", "in.png", "-", "-f", stdout=side).returncode == 0
    os.close(side)
    assert os.read(main, 4).startswith(b"\x89tfc")
    os.close(main)


def test_a_jpeg_without_end_marker_is_read_if_all_its_pixels_are_there(image):
    big = Image.fromarray(np.tile(image, (4, 4, 1)))
    for settings in ({}, {"progressive": True}, {"quality": 95, "subsampling": 0}):
        file = io.BytesIO()
        big.save(file, "JPEG", **settings)
        data = file.getvalue()
        expected = np.asarray(Image.open(io.BytesIO(data)))
        for cut in (1, 2):
            read = images.read(io.BytesIO(data[:-cut]), "a.jpg")
            assert np.array_equal(read.pixels, expected)
            assert any("no end marker" in note for note in read.notes)
        for cut in (4, 20, len(data) // 2):
            with pytest.raises(ValueError, match="truncated"):
                images.read(io.BytesIO(data[:-cut]), "a.jpg")
        for more in (b"", bytes(10**5), b"\xff\xda" + bytes(10**5)):
            assert images.read(io.BytesIO(data + more), "a.jpg").notes == []


def test_a_png_without_its_last_chunk_is_read_with_a_note(image):
    data = pathlib.Path("in.png").read_bytes()
    assert images.read(io.BytesIO(data), "in.png").notes == []
    for cut in (9, 12):  # of the 12 bytes of the last chunk
        read = images.read(io.BytesIO(data[:-cut]), "in.png")
        assert np.array_equal(read.pixels, image)
        assert [note for note in read.notes if "no end chunk" in note]
    with pytest.raises(ValueError, match="truncated"):
        images.read(io.BytesIO(data[:-60]), "in.png")


DEFERRED = """
import os, signal, time
from tfcodec import signals

signals.clean_up()
with signals.deferred() as noted:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(signals.SECONDS + 0.5)
    assert noted == [signal.SIGTERM]
print("saved", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(10)
print("still there")
"""


def test_a_signal_may_be_noted_once_and_the_next_is_obeyed():
    done = subprocess.run(
        [sys.executable, "-c", DEFERRED],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.stdout == "saved\n", done.stderr
    assert done.returncode == -signal.SIGTERM


def test_an_error_of_a_descriptor_is_described():
    error = OSError(errno.EBADF, os.strerror(errno.EBADF), 7)
    assert console.describe(error) == "7: Bad file descriptor"
