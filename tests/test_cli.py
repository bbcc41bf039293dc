"""The command line and the registry, with a lossless stand-in for the codec."""

import contextlib
import errno
import glob
import io
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

import tfcodec
from tests import standin
from tests.standin import FINGERPRINT, Lossless, make_model
from tfcodec import (
    batch,
    bitstream,
    cli,
    codec,
    console,
    engine,
    files,
    formats,
    images,
    registry,
)
from tfcodec.pixels import Picture

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Goes to an empty folder, with one shipped model and the stand-in codec."""
    make_model(tmp_path / "models" / "tfcodec")
    monkeypatch.setattr(registry, "ROOT", tmp_path / "models")
    monkeypatch.setattr(engine, "Codec", Lossless)
    codec._loaded.cache_clear()
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    codec._loaded.cache_clear()


@pytest.fixture
def image():
    """An image, also in `in.png`: uint8 [17, 23, 3]."""
    pixels = np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8)
    Image.fromarray(pixels).save("in.png")
    return pixels


def call(*argv):
    return cli.main(cli.parse(["tfcodec", *map(str, argv)]))


def wrong(capsys, *argv):
    """Runs a command whose usage is wrong; returns what it says."""
    with pytest.raises(SystemExit) as exit_:
        call(*argv)
    assert exit_.value.code == 2
    return capsys.readouterr().err


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


def test_a_format_that_has_no_such_side_is_told_before_decoding(capsys, monkeypatch):
    Image.new("L", (300, 1)).save("wide.png")
    call("compress", "wide.png")
    os.remove("wide.png")
    with monkeypatch.context() as here:
        here.setattr(codec, "decompress", lambda *_, **__: pytest.fail("decoded"))
        assert "300x1: ICO has at most 256 pixels" in fails(
            capsys, "decompress", "wide.tfc", "wide.ico"
        )
    assert call("decompress", "wide.tfc", "part.ico", "--crop", "9,0,256,1") == 0


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
    said = "PSNR inf dB  SSIMULACRA2 100.00  left out: MS-SSIM needs 161 pixels"
    assert said in capsys.readouterr().out
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
        ("compress", "in.png", "-o", "in.png"),
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
    assert "0 to 100" in wrong(capsys, "compress", "in.png", f"--quality={quality}")
    option = f"--alpha_quality={quality}"
    assert "0 to 100" in wrong(capsys, "compress", "in.png", option)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--max_bytes=0", "above 0"),
        ("--target_bpp=nan", "above 0"),
        ("--target_psnr=-3", "above 0"),
        ("--target_msssim=1", "above 0 and below 1"),
        ("--target_ssimulacra2=100", "above 0 and below 100"),
        ("--effort=-1", "0 to 9"),
        ("--effort=1.5", "invalid int"),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(capsys, option, words):
    assert words in wrong(capsys, "compress", "in.png", option)


@pytest.mark.parametrize(
    "options",
    [
        ["compress", "--effort=1"], ["compress", "--verify"],
        ["compress", "--alpha_quality=60"], ["compress", "--target_psnr=40"],
        ["compress", "--model=other"], ["compress", "--model=tfcodec"],
        ["compress", "--engine=tensorflow"],
        ["decompress", "--crop=0,0,8,8"], ["decompress", "--model=other"],
        ["decompress", "--engine=litert"],
    ],
)  # fmt: skip
def test_options_without_effect_on_a_server_are_wrong_usage(capsys, options):
    name = options[1].partition("=")[0]
    words = wrong(capsys, *options, "in", "--server=localhost:8500")
    assert f"error: {name} cannot be used with --server" in words
    assert ("HOST:PORT/MODEL chooses" in words) == (name == "--model")


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_server_without_a_port_is_wrong_usage(capsys, command):
    words = wrong(capsys, command, "in", "--server=localhost")
    assert "a server is HOST:PORT or HOST:PORT/MODEL, not localhost" in words


def test_model_and_engine_beside_a_server_are_of_what_measures():
    server = "--server=localhost:8500"
    line = ["compress", "in.png", "-v", "--model=other", "--engine=litert", server]
    args = cli.parse(["tfcodec", *line])
    assert (args.model, args.engine) == ("other", "litert")


@pytest.mark.parametrize(
    "line",
    ["compress in.png", "bulk in.png --out_dir x", "compress in.png -v --server=a:1"],
)
def test_without_a_model_it_is_the_default(line):
    args = cli.parse(["tfcodec", *line.split()])
    assert args.model == registry.DEFAULT


def test_a_last_name_with_a_separator_is_a_folder_to_make(image):
    assert call("compress", "in.png", "new/") == 0
    assert call("decompress", "new/in.tfc", "newer/") == 0
    assert os.listdir("new") == ["in.tfc"]
    assert os.listdir("newer") == ["in.png"]
    shutil.copy("in.png", "other.png")
    assert call("compress", "in.png", "other.png", "both/") == 0
    assert sorted(os.listdir("both")) == ["in.tfc", "other.tfc"]


def test_names_may_follow_options(image, capsys):
    assert call("compress", "in.png", "-q", "50", "a.tfc") == 0
    assert call("compress", "-f", "in.png", "--json", "b.tfc", "-v") == 0
    assert call("compress", "in.png", "-q", "50", "in.png", "-f", "many/") == 1
    assert sorted(os.listdir()) == ["a.tfc", "b.tfc", "in.png", "many"]
    assert call("decompress", "a.tfc", "-f", "b.tfc", "--strip", "both/") == 0
    assert sorted(os.listdir("both")) == ["a.png", "b.png"]
    args = cli.parse(["tfcodec", "eval", "a.png", "--jobs", "2", "b.png", "c.png"])
    assert args.images == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    "argv",
    [
        ("compress", "in.png", "--nosuch"), ("compress", "in.png", "--nosuch", "5"),
        ("info", "a.tfc", "--json", "b.tfc"), ("models", "a"),
    ],
)  # fmt: skip
def test_what_no_command_takes_is_wrong_usage(image, capsys, argv):
    assert "unrecognized arguments: " in wrong(capsys, *argv)
    assert "an empty file name" in wrong(capsys, "compress", "in.png", "-v", "")


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
        ("compress", "a", "b", "-o", "c.tfc"),
        ("compress", "a", "b", "-o", "c", "--out_dir", "d"),
        ("compress", "a", "-o", "c", "--out_dir", "d"),
        ("compress", "a", "-q", "5", "--max_bytes", "5"),
        ("decompress", "a.tfc", "--crop", "1,2,3"),
    ],
)
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        call(*argv)
    assert exit_.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_unforeseen_errors_are_one_line_unless_debugged(image, capsys, monkeypatch):
    def broken(*args, **settings):
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
    ("mode", "kept", "colour"),
    [
        ("RGB", "RGB", (1, 2, 3)), ("RGBA", "RGBA", (9, 8, 7, 128)), ("L", "L", 77),
        ("RGBA", "RGB", (9, 8, 7, 255)), ("LA", "LA", (9, 3)), ("1", "L", 1),
        ("P", "L", 3), ("CMYK", "RGB", (200, 10, 0, 40)), ("LAB", "RGB", (128, 9, 8)),
    ],
)  # fmt: skip
def test_modes_are_kept_or_named(capsys, mode, kept, colour):
    source = Image.new(mode, (9, 5), colour)
    source.save("in.png" if mode in ("RGBA", "LA") else "in.tif")
    assert call("compress", *glob.glob("in.*")) == 0
    err = capsys.readouterr().err
    same = kept.removesuffix("A") == mode.removesuffix("A")
    assert err.count(f"mode {mode} converted to {kept}") == (0 if same else 1)
    assert call("decompress", "in.tfc", "out.png") == 0
    back = Image.open("out.png")
    assert back.mode == kept
    if mode != "LAB":
        assert np.array_equal(np.asarray(back), np.asarray(source.convert(kept)))


def test_palette_with_transparency_keeps_it(capsys):
    source = Image.new("P", (9, 5), 1)
    source.putpalette([200, 0, 0, 0, 200, 0])
    source.putpixel((2, 1), 0)
    source.save("in.png", transparency=0)
    assert call("compress", "in.png", "out.tfc") == 0
    assert call("decompress", "out.tfc") == 0
    assert pixels("out.png")[1, 2, 3] == 0
    assert pixels("out.png")[..., 3].sum() == 255 * 44


def test_sixteen_bits_keep_their_range(capsys):
    ramp = np.linspace(0, 65535, 300).astype(np.uint16).reshape(10, 30)
    Image.fromarray(ramp).save("in.png")
    assert call("compress", "in.png", "out.tfc") == 0
    assert "lower 8 of 16 bits" in capsys.readouterr().err
    assert call("decompress", "out.tfc") == 0
    assert np.array_equal(pixels("out.png"), np.round(ramp / 257))


def test_sixteen_bits_of_colour_are_named(capsys):
    # Pillow writes none: one pixel, by hand.
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data
            + struct.pack(">I", zlib.crc32(kind + data))
        )  # fmt: skip

    data = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    )
    data += chunk(
        b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 0x1234, 0, 0xFFFF))
    )
    pathlib.Path("in.png").write_bytes(data + chunk(b"IEND", b""))
    assert call("compress", "in.png", "out.tfc") == 0
    assert "lower 8 of 16 bits" in capsys.readouterr().err
    assert call("decompress", "out.tfc") == 0
    assert pixels("out.png").tolist() == [[[0x12, 0, 0xFF]]]


def test_floating_point_is_refused(capsys):
    Image.new("F", (9, 5)).save("in.tif")
    assert "floating-point" in fails(capsys, "compress", "in.tif")


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>\xc3\xa9</x:xmpmeta>"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_metadata_goes_there_and_back(capsys, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    source = Image.new("RGB", (30, 20), "navy")
    exif = source.getexif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "a maker"
    names = {"exif": exif, "icc_profile": SRGB}
    picture = Picture(
        np.asarray(source),
        {"exif": exif.tobytes()[6:], "icc_profile": SRGB, "xmp": XMP},
    )
    with open(f"in{suffix}", "wb") as file:
        form = formats.form_of(pathlib.Path(file.name))
        if form == "TIFF":  # of which Pillow's EXIF is the directory itself
            source.save(file, form, **names)
        else:
            assert formats.write(file, form, picture) == []
    assert call("compress", f"in{suffix}") == 0
    assert capsys.readouterr().err == ""
    data = pathlib.Path("in.tfc").read_bytes()
    header = bitstream.read_header(data)
    assert (header.width, header.height) == (20, 30)
    found = tfcodec.metadata(data)
    assert found["icc_profile"] == SRGB
    read = Image.Exif()
    read.load(found["exif"])
    assert read[0x010F] == "a maker"
    assert 0x0112 not in read  # the pixels are upright now
    assert form == "TIFF" or found["xmp"] == XMP
    assert call("decompress", "in.tfc", f"back{suffix}") == 0
    back = Image.open(f"back{suffix}")
    assert back.size == (20, 30)
    assert back.info["icc_profile"] == SRGB
    assert back.getexif()[0x010F] == "a maker"
    assert images.read(f"back{suffix}").metadata == found
    assert call("compress", f"in{suffix}", "-f", "--strip") == 0
    assert tfcodec.metadata(pathlib.Path("in.tfc").read_bytes()) == {}


def test_a_large_profile_is_kept_and_a_huge_one_is_named(image, capsys):
    profile = SRGB[:128] + os.urandom(3_000_000)
    Image.fromarray(image).save("in.png", icc_profile=profile)
    assert call("compress", "in.png") == 0
    found = tfcodec.metadata(pathlib.Path("in.tfc").read_bytes())
    assert found == {"icc_profile": profile}
    Image.fromarray(image).save("in.tif", icc_profile=profile * 6)
    assert call("compress", "in.tif", "-f") == 0
    assert "not kept: icc_profile of 18" in capsys.readouterr().err


def test_a_profile_of_other_colours_is_named(image, capsys):
    Image.new("L", (9, 5)).save("grey.png", icc_profile=SRGB)
    assert call("compress", "grey.png") == 0
    assert "not kept: an ICC profile" in capsys.readouterr().err
    Image.new("CMYK", (9, 5)).save("in.jpg", icc_profile=SRGB)
    assert call("compress", "in.jpg") == 0
    assert "which is damaged" in capsys.readouterr().err


def test_what_a_format_cannot_keep_is_named(capsys):
    Image.new("RGBA", (9, 5), (255, 0, 0, 0)).save("in.png", icc_profile=SRGB)
    assert call("compress", "in.png") == 0
    for suffix, words in ((".jpg", "alpha"), (".bmp", "icc_profile")):
        assert call("decompress", "in.tfc", f"out{suffix}") == 0
        assert words in capsys.readouterr().err
    assert pixels("out.jpg").min() > 250  # over white


def test_several_files_and_folders(image, capsys):
    os.makedirs("album/old")
    for name in ("a.png", "old/b.jpg", "notes.txt"):
        shutil.copy("in.png", f"album/{name}")
    assert "-r takes" in fails(capsys, "compress", "album")
    assert call("compress", "-r", "album", "in.png", "--out_dir", "new/there") == 0
    assert capsys.readouterr().out.count("\n") == 3
    made = {str(path) for path in pathlib.Path("new/there").rglob("*.tfc")}
    assert made == {f"new/there/{name}.tfc" for name in ("a", "old/b", "in")}
    assert call("decompress", "-r", "new", "--out_dir", "back", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["output"] for row in rows] == [
        "back/there/a.png", "back/there/in.png", "back/there/old/b.png"
    ]  # fmt: skip
    assert all(np.array_equal(pixels(row["output"]), image) for row in rows)
    os.mkdir("empty")
    assert "empty: no .tfc in it" in fails(capsys, "decompress", "-r", "empty")


def test_json_has_no_infinite_numbers(capsys):
    def refused(name):
        raise ValueError(name)

    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save("clear.png")
    assert call("compress", "-v", "--json", "clear.png") == 0
    row = json.loads(capsys.readouterr().out, parse_constant=refused)
    assert row["psnr"] is None


def test_a_name_that_ends_as_a_folder_does_is_one(image, capsys):
    assert call("compress", "in.png", "-o", "new/") == 0
    assert os.listdir("new") == ["in.tfc"]
    assert "empty folder name" in wrong(capsys, "compress", "in.png", "--out_dir", "")
    os.rename("new/in.tfc", "file")
    assert "Not a directory" in fails(capsys, "compress", "in.png", "--out_dir", "file")


def test_folders_that_a_wildcard_finds_are_taken_with_r(image):
    for name in ("album1", "album2"):
        os.mkdir(name)
        shutil.copy("in.png", f"{name}/{name}.png")
    assert call("compress", "-r", "album*", "--out_dir", "out") == 0
    assert sorted(os.listdir("out")) == ["album1.tfc", "album2.tfc"]


def test_what_appears_while_a_file_is_made_is_not_overwritten(
    image, capsys, monkeypatch
):
    real = tfcodec.codec.compress

    def slow(*args, **options):
        pathlib.Path("in.tfc").write_bytes(b"precious")
        return real(*args, **options)

    monkeypatch.setattr(tfcodec.codec, "compress", slow)
    assert call("compress", "in.png") == 1
    assert "in.tfc: File exists" in capsys.readouterr().err
    assert pathlib.Path("in.tfc").read_bytes() == b"precious"
    assert sorted(os.listdir()) == ["in.png", "in.tfc"]
    assert call("compress", "in.png", "-f") == 0
    assert pathlib.Path("in.tfc").read_bytes() != b"precious"


def test_a_crop_that_is_none_is_explained(capsys):
    said = wrong(capsys, "decompress", "a.tfc", "--crop", "1,2,3")
    assert "four whole numbers X,Y,W,H" in said


def test_one_output_is_for_one_input_however_it_is_named(image, capsys):
    os.mkdir("album")
    for name in ("a.png", "b.png"):
        shutil.copy("in.png", f"album/{name}")
    for source in (["-r", "album"], ["album/*.png"]):
        said = fails(capsys, "compress", *source, "-o", "small.tfc")
        assert "one input only; several need a folder, such as -o FOLDER/" in said
        assert not os.path.exists("small.tfc")


@pytest.mark.parametrize(
    "inputs", [["in.png", "album/a.png"], ["-r", "album", "in.png"], ["*.png"]]
)
def test_the_output_of_several_inputs_may_be_a_folder_to_make(image, inputs):
    os.mkdir("album")
    shutil.copy("in.png", "album/a.png")
    assert call("compress", *inputs, "-o", "small") == 0
    assert "in.tfc" in os.listdir("small")
    assert call("compress", "-r", "album", "-o", "one/of") == 0
    assert os.listdir("one/of") == ["a.tfc"]
    assert call("compress", "in.png", "-o", "file") == 0
    assert os.path.isfile("file")


def test_several_inputs_have_no_output_that_is_a_file(image, capsys):
    for name in ("there", "in.tfc"):
        pathlib.Path(name).touch()
        said = wrong(capsys, "compress", "in.png", "in.png", "-o", name, "-f")
        assert "one input only" in said


def test_what_is_passed_over_in_a_folder_is_told(image, capsys):
    os.makedirs("album")
    for name in ("a.JFIF", "b.jpe", "notes.txt", "film.mov"):
        shutil.copy("in.png", f"album/{name}")
    assert call("compress", "-r", "album", "--json") == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line)["input"] for line in out.splitlines()]
    assert rows == ["album/a.JFIF", "album/b.jpe"]
    assert err.startswith("note: album: 2 other files ignored (.mov, .txt)")
    assert call("compress", "-r", "album", "-f") == 0  # beside its own output
    assert "2 other files" in capsys.readouterr().err


def test_strip_turns_pixels_upright_and_says_nothing_of_what_it_drops(capsys):
    source = Image.new("RGB", (9, 5), "navy")
    exif = source.getexif()
    exif[0x0112] = 6
    source.save("in.jpg", exif=exif, comment=b"mine", dpi=(300, 300))
    assert call("compress", "in.jpg", "--strip") == 0
    assert capsys.readouterr().err == ""
    assert tfcodec.metadata(pathlib.Path("in.tfc").read_bytes()) == {}
    assert call("decompress", "in.tfc") == 0
    assert Image.open("in.png").size == (5, 9)
    # As the Pillow plugin writes: stored on its side, with EXIF that says so.
    data = tfcodec.compress(np.asarray(source), exif=exif.tobytes()[6:])
    pathlib.Path("side.tfc").write_bytes(data)
    capsys.readouterr()
    for argv, size in (
        (["side.bmp"], (5, 9)),
        (["side.png"], (9, 5)),
        (["strip.png", "--strip"], (5, 9)),
    ):
        assert call("decompress", "side.tfc", *argv) == 0
        assert Image.open(argv[0]).size == size
    assert capsys.readouterr().err == "note: side.bmp: not kept: exif\n"


def test_a_bad_file_is_reported_and_the_rest_goes_on(image, capsys):
    pathlib.Path("bad.png").write_text("no image")
    shutil.copy("in.png", "also.png")
    shutil.copy("in.png", "in.bmp")
    names = ["bad.png", "in.png", "missing.png", "in.bmp", "also.png"]
    assert call("compress", *names, "--json") == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["input"] for row in rows] == names
    assert [bool(row.get("error")) for row in rows] == [True, False, True, True, False]
    assert err.count("\n") == 3
    assert "another input is written there: in.png" in rows[3]["error"]
    assert sorted(glob.glob("*.tfc")) == ["also.tfc", "in.tfc"]
    assert call("compress", "in.png", "in.bmp", "-f") == 1
    assert "another input is written there" in capsys.readouterr().err


def in_a_process(*argv):
    """A command line of its own, with the stand-in for the codec."""
    line = [sys.executable, "-c", standin.PROGRAM, str(ROOT), str(registry.ROOT)]
    return [*line, *argv]


def test_a_killed_command_leaves_every_file_old_or_new(image):
    rng = np.random.default_rng()
    os.mkdir("album")
    for number in range(30):
        noise = rng.integers(0, 256, (300, 300, 3), np.uint8)
        Image.fromarray(noise).save(f"album/{number:02}.png", compress_level=0)
    assert call("compress", "-r", "album", "-q", 10) == 0
    old = {path: path.read_bytes() for path in pathlib.Path("album").glob("*.tfc")}
    assert call("compress", "-r", "album", "-q", 20, "-f") == 0
    new = {path: path.read_bytes() for path in old}
    assert len(old) == 30
    command = in_a_process("compress", "-r", "album", "-q", "20", "-f")
    halfway = 0
    for _ in range(5):
        for path, data in old.items():
            path.write_bytes(data)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            for _ in range(rng.integers(1, 30)):  # files are done, the next is begun
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.02))
            process.kill()
        found = {path: path.read_bytes() for path in old}
        assert all(data in (old[path], new[path]) for path, data in found.items())
        halfway += found not in (old, new)
    assert halfway


def test_stdin_and_stdout(image):
    data = pathlib.Path("in.png").read_bytes()

    def piped(*argv, data):
        done = subprocess.run(in_a_process(*argv), input=data, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    coded = piped("compress", "-", data=data)
    assert bitstream.read_header(coded).width == 23
    assert b"width       23" in piped("info", "-", data=coded)
    back = piped("decompress", "-", "-", data=coded)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(back))), image)
    piped("decompress", "-", "out.bmp", data=coded)
    assert np.array_equal(pixels("out.bmp"), image)


def test_crop(image, capsys):
    assert call("compress", "in.png") == 0
    assert call("decompress", "in.tfc", "out.png", "--crop", "3,4,10,5") == 0
    assert np.array_equal(pixels("out.png"), image[4:9, 3:13])
    for crop in ("20,0,4,1", "0,0,0,5", "-1,0,2,2"):
        err = fails(capsys, "decompress", "in.tfc", "-o", "b.png", f"--crop={crop}")
        assert "not within an image of 23x17" in err


def test_verify_reads_what_was_written(image, capsys, monkeypatch):
    pathlib.Path("in.tfc").write_bytes(b"old")
    assert call("compress", "in.png", "new.tfc", "--verify") == 0
    real = files.new_file

    @contextlib.contextmanager
    def failing(path, **options):
        with real(path, **options) as file:
            file.read = lambda: b"something else"
            yield file

    monkeypatch.setattr(batch, "new_file", failing)
    capsys.readouterr()
    assert "reads back" in fails(capsys, "compress", "in.png", "-f", "--verify")
    assert pathlib.Path("in.tfc").read_bytes() == b"old"


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
    assert "tile 1" in out
    assert "RGB" in out
    assert call("info", "in.tfc", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["width"], found["height"], found["quality"]) == (23, 17, 60)


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
    with pytest.raises(ValueError, match=r"has no card\.json"):
        registry.resolve("mine")
    path = make_model(folder / "other")
    (path / "saved_model.pb").unlink()
    with pytest.raises(ValueError, match=r"has no saved_model\.pb"):
        registry.resolve(path)
    (path / "saved_model.pb").touch()
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
    assert (model.name, model.licence) == (entry.name, "Apache-2.0")


def test_entries_are_told_apart():
    for key in ("name", "fingerprint"):
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


# Runs what `tfcodec` and compress.py run, with Ctrl-C while a module is imported.
INTERRUPTED = """
import os, signal, sys
sys.argv[:] = ["tfcodec", "models"]
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "tfcodec.commands":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from tfcodec.__main__ import run
run()
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_while_modules_are_imported_is_quiet(ignored):
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == (0 if ignored else -signal.SIGINT)


def test_the_package_is_a_program(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "tfcodec", "compress"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m tfcodec compress [-h]")


def test_effort_is_passed_on_and_its_progress_told(image, capsys, monkeypatch):
    assert call("compress", "in.png", "a.tfc") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(console, "PROGRESS_SECONDS", 0)
    assert call("compress", "in.png", "b.tfc", "--effort", 3) == 0
    assert "of 6 steps" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, terminal):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    with console.Progress(stream, "steps") as progress:
        for step in range(6):
            progress(step, 5)
            clock[0] += 1.5
    told = stream.getvalue()
    if not terminal:
        wanted = ["2 of 5 steps, 4 s left", "4 of 5 steps, 2 s left"]
        assert told.splitlines() == [*wanted, "5 of 5 steps"]
        return
    bars = told.split("\r")[1:]
    assert len(bars) == 6
    assert bars[1].startswith("[" + "=" * 12 + " " * 18 + "] 2 of 5 steps, 4 s left")
    assert bars[-1] == "\033[K"  # The line is left empty.
    console.Progress(None, "steps")(0, 5)


def test_quiet_start_hides_noise_and_nothing_else():
    lines = [
        "WARNING: All log messages before absl::InitializeLog() is called are written",
        "I0000 00:00:1795255927.485459    3722 port.cc:153] oneDNN custom operations",
        "2026-11-21 10:12:10.256057: I tensorflow/core/util/port.cc:111] oneDNN",
        "2026-11-21 10:12:11.236065: W tensorflow/compiler/tf2tensorrt: no TensorRT",
        "To enable the following instructions: AVX2, rebuild TensorFlow",
        "E0000 00:00:1741.5 1 cuda_dnn.cc:8310] Unable to register cuDNN factory: x",
        "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
        "Traceback of ours",
        "F0000 00:00:1741.5 1 fatal.cc:1] aborted",
        "2026-11-21 10:12:11.236065: F tensorflow/core: The library needs AVX",
    ]
    code = (
        "import os, sys\nfrom tfcodec import console\n"
        "with console.quiet_tensorflow() as err:\n"
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
        assert result.stderr.splitlines() == ["I at once", *lines[7:], *last]
    chosen = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**env, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "0"},
    )
    assert chosen.stderr.splitlines() == ["I at once", *lines, "after"]
