"""The command line and the registry, with a lossless stand-in for the codec."""

import errno
import io
import json
import os
import pathlib
import stat
import subprocess
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image

import tfcodec
from tfcodec import bitstream, cli, registry

ROOT = pathlib.Path(__file__).parents[1]
FINGERPRINT = "00112233445566778899aabbccddeeff"
CARD = {"name": "tfcodec", "fingerprint": FINGERPRINT, "licence": "MIT", "stride": 64}
CARD["quality"] = {"lmbda_min": 0.001, "lmbda_max": 0.1}


def make_model(path, **change):
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"")
    (path / "card.json").write_text(json.dumps({**CARD, **change}))
    return path


def stand_in():
    """A module with the verbs of `codec`, that deflates."""
    module = types.ModuleType("tfcodec.codec")

    def compress(image, quality=50, model="tfcodec", effort=0, progress=None):
        assert image.dtype == np.uint8
        for step in range(steps_of(effort)):
            progress(step, steps_of(effort))
        assert image.shape[2] == 3
        height, width = image.shape[:2]
        fingerprint = registry.resolve(model).fingerprint
        header = bitstream.Header(fingerprint, width, height, quality)
        tile = bitstream.Chunk(bitstream.TILE, zlib.compress(image.tobytes()))
        return bitstream.pack(header, [tile])

    def decompress(data, model=None, limits=bitstream.Limits()):
        header, (tile,) = bitstream.unpack(data, limits)
        registry.find(header.fingerprint, model and registry.resolve(model))
        pixels = np.frombuffer(zlib.decompress(tile.data), np.uint8)
        return pixels.reshape(header.height, header.width, 3)

    def info(data, limits=bitstream.Limits()):
        header, chunks = bitstream.unpack(data, limits)
        return {
            "version": 1,
            "model": None,
            "fingerprint": header.fingerprint.hex(),
            "width": header.width,
            "height": header.height,
            "quality": header.quality,
            "bytes": len(data),
            "bpp": 1.5,
            "ratio": 16.0,
            "chunks": [{"type": c.type, "bytes": len(c.data)} for c in chunks],
        }

    def steps_of(effort):
        if effort not in range(10):
            raise ValueError("effort must be a whole number from 0 to 9")
        return effort * effort

    module.compress, module.decompress, module.info = compress, decompress, info
    module.steps_of = steps_of
    return module


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Goes to an empty folder, with one shipped model and the stand-in codec."""
    make_model(tmp_path / "models" / "tfcodec")
    monkeypatch.setattr(registry, "ROOT", tmp_path / "models")
    module = stand_in()
    monkeypatch.setitem(sys.modules, "tfcodec.codec", module)
    monkeypatch.setattr(tfcodec, "codec", module, raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def image():
    """An image, also in `in.png`: uint8 [17, 23, 3]."""
    pixels = np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8)
    Image.fromarray(pixels).save("in.png")
    return pixels


def call(*argv):
    return cli.main(cli.parse(["tfcodec", *map(str, argv)]))


def fails(capsys, *argv):
    """Runs a command that fails on bad input; returns its one line."""
    capsys.readouterr()
    before = sorted(os.listdir())
    assert call(*argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tfcodec: ")
    assert err.count("\n") == 1
    assert sorted(os.listdir()) == before
    return err


def pixels(path):
    return np.asarray(Image.open(path))


def test_there_and_back(image, capsys):
    assert call("compress", "in.png", "-q", 33.3) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    size = os.path.getsize("in.tfc")
    for word in ("in.png", f"in.tfc {size} B", "bpp", "quality 33.3", "model tfcodec"):
        assert word in out
    assert call("decompress", "in.tfc", "back.png") == 0
    assert "23x17" in capsys.readouterr().out
    assert np.array_equal(pixels("back.png"), image)
    assert sorted(os.listdir()) == ["back.png", "in.png", "in.tfc"]


def test_output_names_follow_the_input(image, folder):
    os.rename("in.png", "a.b.jpeg")
    assert call("compress", folder / "a.b.jpeg") == 0
    os.remove("a.b.jpeg")
    assert call("decompress", "a.b.tfc") == 0
    assert np.array_equal(pixels("a.b.png"), image)


def test_odd_names(image):
    for name in ("-dash.png", "two words.png", "\N{GRINNING FACE}.png"):
        os.rename("in.png", name)
        assert call("compress", "--", name, "out.tfc") == 0
        assert call("decompress", "-f", "--", "out.tfc", name) == 0
        os.rename(name, "in.png")
        os.remove("out.tfc")


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".webp", ".bmp", ".tif"])
def test_format_by_suffix(image, suffix):
    assert call("compress", "in.png") == 0
    assert call("decompress", "in.tfc", f"out{suffix}") == 0
    if suffix == ".jpg":
        assert pixels("out.jpg").shape == image.shape
    else:
        assert np.array_equal(pixels(f"out{suffix}"), image)


def test_verbose_measures_what_was_written(image, capsys):
    assert call("compress", "in.png", "-v") == 0
    assert "PSNR inf dB  MS-SSIM left out: " in capsys.readouterr().out
    Image.new("RGB", (161, 170), "teal").save("large.png")
    assert call("compress", "large.png", "-v") == 0
    assert "MS-SSIM 1.0000" in capsys.readouterr().out


def test_existing_files_are_kept_without_force(image, capsys):
    pathlib.Path("in.tfc").write_bytes(b"precious")
    assert "-f overwrites" in fails(capsys, "compress", "in.png")
    assert pathlib.Path("in.tfc").read_bytes() == b"precious"
    assert call("compress", "in.png", "-f") == 0
    assert "-f overwrites" in fails(capsys, "decompress", "in.tfc", "in.png")
    assert call("decompress", "in.tfc", "in.png", "-f") == 0


def test_input_is_never_output(image, capsys):
    assert call("compress", "in.png") == 0
    capsys.readouterr()
    os.link("in.png", "link.tfc")
    os.symlink("in.tfc", "soft.png")
    for argv in (
        ("compress", "in.png", "in.png"),
        ("compress", "in.png", "link.tfc"),
        ("decompress", "in.tfc", "soft.png"),
    ):
        assert "same file" in fails(capsys, *argv, "-f")


def test_new_file_has_usual_permissions(image):
    assert call("compress", "in.png") == 0
    pathlib.Path("usual").write_bytes(b"")
    assert os.stat("in.tfc").st_mode == os.stat("usual").st_mode


def test_a_link_stays_a_link(image):
    os.symlink("target.tfc", "link.tfc")
    assert call("compress", "in.png", "link.tfc") == 0
    assert os.path.islink("link.tfc")
    assert os.path.getsize("target.tfc") > 0


def test_bad_images(image, capsys):
    data = pathlib.Path("in.png").read_bytes()
    pathlib.Path("cut.png").write_bytes(data[: len(data) // 2])
    pathlib.Path("text.png").write_text("no image")
    pathlib.Path("empty.png").write_bytes(b"")
    os.mkdir("folder.png")
    assert "missing.png: No such file" in fails(capsys, "compress", "missing.png")
    assert "folder.png: Is a dir" in fails(capsys, "compress", "folder.png")
    assert "not an image" in fails(capsys, "compress", "text.png")
    assert "not an image" in fails(capsys, "compress", "empty.png")
    assert "cut.png: damaged" in fails(capsys, "compress", "cut.png")


def test_an_image_cut_anywhere_is_one_line(image, capsys):
    for name in ("in.png", "in.jpg", "in.webp", "in.gif", "in.tif"):
        Image.fromarray(image).save(name)
        data = pathlib.Path(name).read_bytes()
        for size in range(0, len(data) - 16, len(data) // 9):
            pathlib.Path("cut").write_bytes(data[:size])
            if call("compress", "cut", "-f"):
                out, err = capsys.readouterr()
                assert (out, err.count("\n")) == ("", 1)


def test_bad_streams(image, capsys):
    assert call("compress", "in.png") == 0
    capsys.readouterr()
    data = pathlib.Path("in.tfc").read_bytes()
    for name, content, message in (
        ("cut", data[:-1], "truncated"),
        ("head", data[:20], "truncated"),
        ("empty", b"", "empty"),
        ("more", data + b"x", "after the last tile"),
        ("flip", data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "checksum"),
        ("text", data.replace(b"\r\n", b"\n"), "as text"),
        ("png", pathlib.Path("in.png").read_bytes(), "not a .tfc file"),
    ):
        pathlib.Path(name).write_bytes(content)
        for command in ("decompress", "info"):
            err = fails(capsys, command, name)
            assert err.startswith(f"tfcodec: {name}: ")
            assert message in err
    assert "No such file" in fails(capsys, "info", "missing")
    assert "Is a directory" in fails(capsys, "decompress", ".")


def test_bad_outputs(image, capsys):
    assert call("compress", "in.png") == 0
    capsys.readouterr()
    os.mkdir("folder.tfc")
    err = fails(capsys, "compress", "in.png", "folder.tfc", "-f")
    assert "folder.tfc: Is a directory" in err
    err = fails(capsys, "compress", "in.png", "nowhere/out.tfc")
    assert "nowhere/out.tfc: No such file" in err
    err = fails(capsys, "compress", "in.png", os.devnull, "-f")
    assert "not a regular file" in err
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    for name in ("out.xyz", "out", "out.psd"):
        assert "try .png" in fails(capsys, "decompress", "in.tfc", name)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_permission_denied(image, capsys, monkeypatch):
    os.mkdir("locked")
    if os.geteuid() == 0:  # whom permissions do not stop
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        os.chmod("locked", 0o500)
    err = fails(capsys, "compress", "in.png", "locked/out.tfc")
    assert "locked/out.tfc: Permission denied" in err


@pytest.mark.parametrize(
    "argv",
    [("compress", "in.png", "out.tfc"), ("decompress", "a.tfc", "out.png")],
)
def test_a_full_disk_leaves_nothing(image, capsys, monkeypatch, argv):
    assert call("compress", "in.png", "a.tfc") == 0
    capsys.readouterr()

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert f"{argv[2]}: No space left" in fails(capsys, *argv)


@pytest.mark.parametrize("quality", [-1, 100.5, "nan", "inf"])
def test_quality_out_of_range(image, capsys, quality):
    assert "0 to 100" in fails(capsys, "compress", "in.png", f"--quality={quality}")


def test_unknown_models(image, capsys):
    for argv in (("compress", "in.png"), ("decompress", "in.png")):
        err = fails(capsys, *argv, "--model", "nosuch")
        assert "nosuch" in err
        assert "shipped models are: tfcodec" in err
    make_model(pathlib.Path("mine"), name="mine", fingerprint="ff" * 8)
    assert call("compress", "in.png", "--model", "mine") == 0
    assert "model mine" in capsys.readouterr().out
    assert "--model DIR" in fails(capsys, "decompress", "in.tfc", "out.png")
    assert call("decompress", "in.tfc", "out.png", "--model", "mine") == 0


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("nosuch",),
        ("compress",),
        ("compress", "in.png", "-q", "high"),
        ("info", "a", "--nosuch"),
        ("compress", "a", "b", "c"),
    ],
)
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        call(*argv)
    assert exit_.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_unforeseen_errors_are_one_line_unless_debugged(image, capsys, monkeypatch):
    def broken(*args):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(tfcodec.codec, "compress", broken)
    assert "RuntimeError: first second" in fails(capsys, "compress", "in.png")
    assert call("compress", "in.png", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupted(image, monkeypatch):
    def interrupted(fd):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    assert call("compress", "in.png") == 130
    assert os.listdir() == ["in.png"]


@pytest.mark.parametrize(
    ("mode", "lost"),
    [("RGBA", "transparency"), ("L", ""), ("P", ""), ("CMYK", ""), ("1", "")],
)
def test_other_modes_become_rgb(capsys, mode, lost):
    source = Image.new(mode, (9, 5))
    source.save("in.tif")
    assert call("compress", "in.tif") == 0
    err = capsys.readouterr().err
    assert f"mode {mode} converted to RGB" in err
    assert lost in err
    assert call("decompress", "in.tfc") == 0
    assert np.array_equal(pixels("in.png"), np.asarray(source.convert("RGB")))


def test_an_opaque_alpha_is_no_loss(capsys):
    Image.new("RGBA", (9, 5), "red").save("in.png")
    assert call("compress", "in.png") == 0
    assert "transparency" not in capsys.readouterr().err


def test_sixteen_bits_keep_their_range(capsys):
    ramp = np.linspace(0, 65535, 300).astype(np.uint16).reshape(10, 30)
    Image.fromarray(ramp).save("in.png")
    assert call("compress", "in.png", "out.tfc") == 0
    assert "lower 8 of 16 bits" in capsys.readouterr().err
    assert call("decompress", "out.tfc") == 0
    assert np.array_equal(pixels("out.png")[..., 1], ramp >> 8)


def test_floating_point_is_refused(capsys):
    Image.new("F", (9, 5)).save("in.tif")
    assert "floating-point" in fails(capsys, "compress", "in.tif")


def test_orientation_is_applied_and_metadata_named(capsys):
    source = Image.new("RGB", (30, 20), "navy")
    exif = source.getexif()
    exif[0x0112] = 6  # turned by a quarter
    source.save("in.jpg", exif=exif, icc_profile=b"profile")
    assert call("compress", "in.jpg") == 0
    assert "not kept: ICC profile, EXIF" in capsys.readouterr().err
    header = bitstream.read_header(pathlib.Path("in.tfc").read_bytes())
    assert (header.width, header.height) == (20, 30)


def test_only_the_first_frame(capsys):
    frames = [Image.new("RGB", (9, 5), colour) for colour in ("red", "blue")]
    frames[0].save("in.gif", save_all=True, append_images=frames[1:])
    assert call("compress", "in.gif") == 0
    assert "all but the first frame" in capsys.readouterr().err
    assert call("decompress", "in.tfc") == 0
    assert pixels("in.png")[0, 0].tolist() == [255, 0, 0]


def test_info(image, capsys):
    assert call("compress", "in.png") == 0
    capsys.readouterr()
    assert call("info", "in.tfc") == 0
    out = capsys.readouterr().out
    assert FINGERPRINT[:16] in out
    assert "not shipped" in out
    assert "tile" in out
    assert call("info", "in.tfc", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["width"], found["height"], found["quality"]) == (23, 17, 50)


def test_models_and_version(capsys, monkeypatch):
    assert call("models") == 0
    assert f"tfcodec  {FINGERPRINT[:16]}  MIT" in capsys.readouterr().out
    assert call("models", "--json") == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert card["fingerprint"] == FINGERPRINT
    assert call("-V") == 0
    out = capsys.readouterr().out
    assert out == f"tfcodec {tfcodec.__version__}, models: tfcodec 0011223344556677\n"
    monkeypatch.setattr(registry, "ROOT", pathlib.Path("nowhere"))
    assert call("models") == 0
    assert "no models" in capsys.readouterr().err
    assert call("--version") == 0
    assert capsys.readouterr().out.endswith("models: none\n")


def test_registry_finds_by_name_folder_and_fingerprint(folder):
    shipped = registry.resolve("tfcodec")
    assert (shipped.licence, shipped.stride, shipped.single_rate) == ("MIT", 64, False)
    assert registry.find(bytes.fromhex(FINGERPRINT[:16])) == shipped
    mine = make_model(folder / "mine", name="mine", fingerprint="ff" * 32, quality=None)
    model = registry.resolve(mine)
    assert model == registry.resolve(str(mine))
    assert model.card == registry.resolve("mine").card
    assert model.single_rate
    assert registry.find(b"\xff" * 8, model) == model
    assert registry.find(shipped.fingerprint, model) == shipped
    with pytest.raises(bitstream.UnsupportedStream, match="ffffffffffffffff.*--model"):
        registry.find(b"\xff" * 8)
    with pytest.raises(bitstream.UnsupportedStream, match="0{16}.*mine"):
        registry.find(bytes(8), model)


def test_a_shipped_name_is_not_a_folder_that_happens_to_be_there(folder):
    make_model(folder / "tfcodec", fingerprint="ff" * 8)
    assert registry.resolve("tfcodec").fingerprint != b"\xff" * 8
    assert registry.resolve("./tfcodec").fingerprint == b"\xff" * 8


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "0011"},
        {"fingerprint": "not hexadecimal!"},
        {"fingerprint": None},
        {"name": 5},
        {"stride": 0},
        {"stride": "64"},
    ],
)
def test_a_damaged_card_is_named(folder, change):
    path = make_model(folder / "mine", **change)
    with pytest.raises(ValueError, match=r"card\.json"):
        registry.resolve(path)


def test_a_folder_without_a_model_is_named(folder):
    (folder / "mine").mkdir()
    with pytest.raises(ValueError, match=r"saved_model\.pb"):
        registry.resolve("mine")
    path = make_model(folder / "other")
    (path / "card.json").write_text("[1]")
    with pytest.raises(ValueError, match="damaged card"):
        registry.resolve(path)


@pytest.mark.parametrize("entry", registry.ENTRIES, ids=lambda entry: entry.name)
def test_entries_are_their_cards(entry):
    path = ROOT / "tfcodec" / "models" / entry.name
    if not path.is_dir():
        pytest.skip(f"{entry.name} is not in this checkout")
    model = registry.Model.at(path)
    assert model.fingerprint.hex() == entry.fingerprint
    assert (model.name, model.licence) == (entry.name, entry.licence)


def test_entries_are_told_apart():
    for key in ("number", "name"):
        values = [getattr(entry, key) for entry in registry.ENTRIES]
        assert len(set(values)) == len(values)


def shim(*argv, env=None):
    """Runs compress.py in a process of its own."""
    return subprocess.run(
        [sys.executable, ROOT / "compress.py", *argv],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
    )


def test_compress_py():
    assert "COMMAND" in shim("--help").stdout
    assert shim("--help").returncode == 0
    missing = shim("info", "missing.tfc")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "tfcodec: missing.tfc: No such file or directory\n"
    assert shim().returncode == 2
    assert shim("--verbosity=1", "models").returncode == 0


def test_effort_is_passed_on_and_its_progress_told(image, capsys):
    assert call("compress", "in.png", "a.tfc") == 0
    assert capsys.readouterr().err == ""
    assert call("compress", "in.png", "b.tfc", "--effort", 3) == 0
    assert capsys.readouterr().err == "0 of 9 steps\n"
    assert "0 to 9" in fails(capsys, "compress", "in.png", "c.tfc", "--effort", 10)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, terminal):
    clock = [0.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    with cli.Progress(stream, "steps") as progress:
        for step in range(6):
            progress(step, 5)
            clock[0] += 1.5
    told = stream.getvalue()
    if not terminal:
        wanted = ["0 of 5 steps", "2 of 5 steps, 4 s left", "4 of 5 steps, 2 s left"]
        assert told.splitlines() == [*wanted, "5 of 5 steps"]
        return
    bars = told.split("\r")[1:]
    assert len(bars) == 7
    assert bars[0].startswith("[" + " " * cli.BAR + "] 0 of 5 steps")
    assert bars[2].startswith("[" + "=" * 12 + " " * 18 + "] 2 of 5 steps, 4 s left")
    assert bars[-1] == "\033[K"  # The line is left empty.
    cli.Progress(None, "steps")(0, 5)


def test_quiet_start_hides_noise_and_nothing_else():
    lines = [
        "WARNING: All log messages before absl::InitializeLog() is called are written",
        "I0000 00:00:1795255927.485459    3722 port.cc:153] oneDNN custom operations",
        "2026-11-21 10:12:10.256057: I tensorflow/core/util/port.cc:111] oneDNN",
        "2026-11-21 10:12:11.236065: W tensorflow/compiler/tf2tensorrt: no TensorRT",
        "To enable the following instructions: AVX2, rebuild TensorFlow",
        "E0000 00:00:1741.5 1 cuda_dnn.cc:8310] Unable to register cuDNN factory: x",
        "Traceback of ours",
        "F0000 00:00:1741.5 1 fatal.cc:1] aborted",
        "2026-11-21 10:12:11.236065: F tensorflow/core: The library needs AVX",
    ]
    code = (
        "import os, sys\nfrom tfcodec import cli\nwith cli.quiet_tensorflow() as err:\n"
        "    print('I at once', file=err, flush=True)\n"
        f"    os.write(2, {chr(10).join([*lines, '']).encode()!r})\n"
        "    if len(sys.argv) > 1: os.abort()\n"
        "print('after', file=sys.stderr)"
    )
    env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    for argv, last in (([], ["after"]), (["abort"], [])):
        result = subprocess.run(
            [sys.executable, "-c", code, *argv],
            capture_output=True,
            text=True,
            env={**env, "PYTHONPATH": str(ROOT)},
        )
        assert result.stderr.splitlines() == ["I at once", *lines[6:], *last]
    chosen = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**env, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "0"},
    )
    assert chosen.stderr.splitlines() == ["I at once", *lines, "after"]
