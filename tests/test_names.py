"""Where the names on the command line say that outputs go."""

import os
import pathlib

import pytest

from tfcodec import cli


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Goes to a folder with a few files and folders in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("album", "out", "coded.tfc"):
        os.mkdir(name)
    for name in ("a.png", "b.png", "a.tfc", "file"):
        pathlib.Path(name).touch()


def settled(line):
    """What is read of a command line: the inputs, and the output or `DIR/`."""
    args = cli.parse(["tfcodec", *line.split()])
    assert args.output is None or args.out_dir is None
    target = args.output if args.out_dir is None else os.path.join(args.out_dir, "")
    return " ".join(args.input), target


@pytest.mark.parametrize(
    ("line", "inputs", "target"),
    [
        ("compress a.png", "a.png", None),
        ("compress a.png b.png", "a.png b.png", None),
        ("compress a.png -o file", "a.png", "file"),
        ("compress a.png --out_dir new", "a.png", "new/"),
        # a folder that is there
        ("compress a.png -o out", "a.png", "out/"),
        ("compress a.png b.png -o out", "a.png b.png", "out/"),
        ("compress -r album -o out", "album", "out/"),
        ("compress a.png out", "a.png", "out/"),
        ("compress a.png b.png out", "a.png b.png", "out/"),
        ("decompress a.tfc out", "a.tfc", "out/"),
        ("compress album", "album", None),
        ("compress a.png album --out_dir out", "a.png album", "out/"),
        # but one whose name is that of a .tfc file is named by mistake
        ("compress a.png coded.tfc", "a.png", "coded.tfc"),
        ("compress a.png -o coded.tfc", "a.png", "coded.tfc"),
        # with -r, an input unless it ends in a separator
        ("compress -r a.png album", "a.png album", None),
        ("compress -r album out", "album out", None),
        ("compress -r album out/", "album", "out/"),
        ("decompress -r album out", "album out", None),
        ("compress -r album out --out_dir new", "album out", "new/"),
        # a name that ends in a separator
        ("compress a.png new/", "a.png", "new/"),
        ("compress a.png b.png new/", "a.png b.png", "new/"),
        ("compress -r album new/", "album", "new/"),
        ("compress a.png -o new/", "a.png", "new/"),
        ("compress a.png -o new.d/", "a.png", "new.d/"),
        ("decompress a.tfc new/", "a.tfc", "new/"),
        ("compress album/", "album/", None),
        # for several inputs, by -o, a name without a suffix that is not there
        ("compress a.png b.png -o new", "a.png b.png", "new/"),
        ("compress -r album -o new", "album", "new/"),
        ("compress *.png -o new", "*.png", "new/"),
        ("compress a.png -o new", "a.png", "new"),
        ("compress album -o new", "album", "new"),
        ("compress *.png -o new.tfc", "*.png", "new.tfc"),
        # the last of two, by its suffix
        ("compress a.png new.tfc", "a.png", "new.tfc"),
        ("compress a.png A.TFC", "a.png", "A.TFC"),
        ("compress a.png -", "a.png", "-"),
        ("compress - -", "-", "-"),
        ("compress a.png /dev/null", "a.png", "/dev/null"),
        ("compress a.png missing.jpg", "a.png missing.jpg", None),
        ("decompress a.tfc new.webp", "a.tfc", "new.webp"),
        ("decompress a.tfc new", "a.tfc", "new"),
        ("decompress -r album new", "album", "new"),
        ("decompress a.tfc b.tfc", "a.tfc b.tfc", None),
        ("decompress a.tfc -", "a.tfc", "-"),
    ],
)
def test_an_output_is_a_file_or_a_folder(line, inputs, target):
    assert settled(line) == (inputs, target)


@pytest.mark.parametrize(
    "line",
    [
        "compress a.png b.png -o new.tfc", "compress a.png b.png -o new.d",
        "compress a.png b.png -o file", "compress a.png b.png -o -",
        "compress a.png -o new --out_dir out", "compress a.png -o out --out_dir out",
        "compress a.png new/ --out_dir out", "compress a.png b.tfc --out_dir out",
    ],
)  # fmt: skip
def test_several_inputs_or_folders_beside_one_output_are_wrong_usage(line, capsys):
    with pytest.raises(SystemExit) as exit_:
        settled(line)
    assert exit_.value.code == 2
    assert "OUT can be given for one input only" in capsys.readouterr().err
