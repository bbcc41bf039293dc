"""Finding images: folders, links, suffixes, names with commas."""

import errno
import os

import pytest

from tfcodec import inputs


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def lock(monkeypatch, folder):
    """Makes a folder unreadable, also for root, whom permissions do not stop."""
    real = os.scandir

    def scandir(path):
        if os.path.realpath(path) == os.path.realpath(folder):
            code = errno.EACCES
            raise PermissionError(code, os.strerror(code), os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def names_in(folder, suffixes=inputs.SUFFIXES):
    """(names of what is found, what is told)"""
    told = []
    found = inputs.inside(folder, suffixes, told.append)
    return [path.relative_to(folder).as_posix() for path in found], told


@pytest.mark.parametrize(
    "suffix",
    "jpg jpeg jpe jif jfif png webp tif tiff bmp pgm ppm pbm pnm gif jp2 j2k avif heic "
    "heif jxl".split(),
)
def test_an_image_is_known_by_its_suffix_in_any_case(tmp_path, suffix):
    touch(tmp_path, f"a.{suffix}", f"b.{suffix.upper()}", f"c.{suffix.title()}")
    assert names_in(tmp_path) == ([f"{a}" for a in sorted(os.listdir(tmp_path))], [])


def test_what_is_passed_over_is_counted_and_told(tmp_path):
    touch(tmp_path, "a.png", "b.txt", "deep/c.mov", "deep/Makefile", ".hidden", "d.tfc")
    found, (told,) = names_in(tmp_path)
    assert found == ["a.png"]
    assert "3 other files ignored (.mov, .txt, no suffix)" in told
    # Images beside what they were compressed to are not missed.
    found, (told,) = names_in(tmp_path, {".tfc"})
    assert found == ["d.tfc"]
    assert "3 other files" in told


def test_linked_folders_are_searched_once(tmp_path):
    album, away = tmp_path / "album", tmp_path / "away"
    touch(album, "a.png", "inner/b.png")
    touch(away, "c.png", "more/d.png")
    os.symlink(away, album / "link")
    os.symlink(away, album / "again")
    os.symlink(album / "inner", album / "0")  # a real place comes before a link
    os.symlink(album, away / "loop")
    found, told = names_in(album)
    assert found == ["a.png", "again/c.png", "again/more/d.png", "inner/b.png"]
    assert told == [
        f"{album}/again/loop: a link to a folder that contains it; not followed"
    ]


def test_a_link_upwards_is_passed_over_and_told(tmp_path):
    touch(tmp_path, "outside.png", "album/a.png")
    os.symlink(tmp_path, tmp_path / "album" / "up")
    found, told = names_in(tmp_path / "album")
    assert found == ["a.png"]
    assert "not followed" in told[0]
    os.symlink(".", tmp_path / "album" / "here")
    assert ["not followed" in words for words in names_in(tmp_path / "album")[1]] == [
        True,
        True,
    ]


def test_a_broken_link_is_an_image_or_told_and_a_hidden_one_is_neither(tmp_path):
    for name in ("a.raw", "c.png", ".#b.png"):
        os.symlink(tmp_path / "nowhere.png", tmp_path / name)
    touch(tmp_path, "b.png")
    found, (told,) = names_in(tmp_path)
    assert found == ["b.png", "c.png"]
    assert "1 other file ignored (.raw)" in told


def test_a_folder_that_cannot_be_read_is_an_error_or_skipped(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "locked/b.png", "open/c.png")
    lock(monkeypatch, tmp_path / "locked")
    with pytest.raises(PermissionError):
        inputs.inside(tmp_path, inputs.SUFFIXES)
    skipped = []
    found = inputs.find_images([tmp_path, tmp_path / "locked"], None, skipped.append)
    assert [path.name for path in found] == ["a.png", "c.png"]
    assert [error.filename for error in skipped] == [str(tmp_path / "locked")] * 2
    assert skipped[0].strerror == "Permission denied; this folder is skipped"


def test_a_name_with_a_comma_is_one_of_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a,b/x.png", "c/x.png", "a/x.png")
    for text, wanted in (
        ("a,b", ["a,b"]), ("a,b,c", ["a,b", "c"]), ("c,a,b", ["c", "a,b"]),
        ("a,c", ["a", "c"]), ("a", ["a"]), ("x*,y*", ["x*", "y*"]),
    ):  # fmt: skip
        assert inputs.patterns_of(text) == wanted


def test_a_file_that_has_several_names_is_found_once(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "b.png")
    monkeypatch.chdir(tmp_path)
    names = ["a.png", tmp_path, f"../{tmp_path.name}/b.png", "*.png"]
    found = inputs.find_images(names)
    assert sorted(path.name for path in found) == ["a.png", "b.png"]


def test_find_images_tells_of_folders_alone(tmp_path):
    touch(tmp_path, "a.png", "b.raw")
    told = []
    inputs.find_images([tmp_path / "b.raw", tmp_path / "*"], told.append)
    assert told == []
    inputs.find_images([tmp_path], told.append)
    assert len(told) == 1
