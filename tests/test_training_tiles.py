import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tfcodec import held_out, training_tiles
from tfcodec.workers import Here


def save(path, height, width, number=0):
    """Writes a photograph, rolled by `number`; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.roll(tiny.photograph(height, width), 16 * number, 1)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize("extent", [40, 64, 65, 150, 203])
def test_tiles_cover_every_place(extent):
    begins = training_tiles.starts(extent, 64, 48)
    covered = {x for begin in begins for x in range(begin, begin + 64)}
    assert covered >= set(range(extent))
    assert begins[-1] + 64 <= max(64, extent)


def test_a_tile_is_a_part_of_the_picture_and_says_how_much_of_it_is():
    pixels = tiny.photograph(100, 50)
    found, extents = training_tiles.cut(pixels, 64, 48)
    assert found.shape == (2, 64, 64, 3)
    assert extents.tolist() == [[64, 50]] * 2
    np.testing.assert_array_equal(found[0, :, :50], pixels[:64])
    np.testing.assert_array_equal(found[1, :, :50], pixels[36:])
    assert not found[:, :, 50:].any()


def test_an_image_is_cut_at_each_size_that_holds_a_patch(tmp_path):
    save(tmp_path / "a.png", 88, 200)
    (_, extents), failure = training_tiles.tiles_of(tmp_path / "a.png", 88, 64)
    assert not failure
    # At full size 88 rows, at 3/4 66; at 1/2 there is no patch of 64.
    assert set(map(tuple, extents.tolist())) == {(88, 88), (66, 88)}


def test_a_file_that_is_no_image_is_told_of_and_has_no_tiles(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    (found, extents), failure = training_tiles.tiles_of(tmp_path / "a.png", 88, 64)
    assert len(found) == len(extents) == 0
    assert "a.png" in failure
    assert "\n" not in failure


def test_new_and_changed_files_are_found_and_those_validated_on_are_not(tmp_path):
    names = [tmp_path / "one" / f"{k}.png" for k in range(120)]
    for path in names:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    finder = training_tiles.Finder([tmp_path / "one", tmp_path / "two"], side=64)
    kept, held = held_out.split_by_name(names)
    assert held
    assert finder.new() == sorted(kept)
    assert finder.new() == []
    other = tmp_path / "two" / "deep" / held[0].name  # The hash is of the name.
    for path in (other, other.with_name("0.png"), kept[0]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"longer")
    assert finder.new() == sorted([kept[0], other.with_name("0.png")])
    everything = training_tiles.Finder([tmp_path / "one"], side=None)
    assert everything.new() == sorted(names)


def test_a_file_that_comes_later_is_trained_on_where_no_name_is_held_out(tmp_path):
    def kept(start):
        names = (tmp_path / f"{start}{k}.png" for k in range(100))
        return [path for path in names if not held_out.by_name(path)]

    first, second, later = kept("m")[0], kept("m")[1], kept("a")[0]
    for path in (first, second):
        path.write_bytes(b"x")
    finder = training_tiles.Finder([tmp_path], side=64)
    assert finder.new() == [second]  # The first one is held out nevertheless.
    later.write_bytes(b"x")
    assert finder.new() == [later]


def test_a_damaged_file_is_replaced_by_the_one_that_train_py_holds_out(tmp_path):
    names = (tmp_path / f"{k}.png" for k in range(100))
    paths = sorted([path for path in names if not held_out.by_name(path)][:4])
    for number, path in enumerate(paths):
        save(path, 64, 64, number)
    assert training_tiles.Finder([tmp_path], side=64).new() == paths[1:]
    paths[0].write_bytes(b"damaged")
    finder = training_tiles.Finder([tmp_path], side=64)
    assert held_out.split(paths, 64) == (paths[2:], paths[1:2])
    assert paths[1] not in finder.new()
    for path in paths[1:3]:
        path.unlink()
    assert (
        paths[3] in training_tiles.Finder([tmp_path], side=64).new()
    )  # It is all there is.


def reader(folder, **settings):
    finder = training_tiles.Finder([folder], side=None)
    return training_tiles.Reader(finder, 88, 64, pool=Here(), seconds=0.05, **settings)


def test_images_that_come_later_are_taken_in(tmp_path):
    save(tmp_path / "a.png", 88, 88)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    with reader(tmp_path) as reading:
        first, extents = reading.take(wait=True)
        assert first.shape == (training_tiles.BLOCK, 88, 88, 3)
        assert extents.shape == (training_tiles.BLOCK, 2)
        reading.searched.wait()
        assert (reading.files, reading.failed) == (1, 1)
        pixels = save(tmp_path / "new" / "c.png", 88, 88, 1)
        second, _ = reading.take(wait=True)
        assert (second == pixels).all((1, 2, 3)).any()
        assert not (first == pixels).all((1, 2, 3)).any()


def test_every_tile_is_handed_over(tmp_path):
    pixels = save(tmp_path / "a.png", 88, 88 + 64 * 100)
    with reader(tmp_path, scales=(1.0,)) as reading:
        blocks = [reading.take(wait=True)[0]]
        reading.searched.wait()
        while block := reading.take(wait=False):
            blocks.append(block[0])
    found = np.concatenate(blocks)
    assert len(found) % training_tiles.BLOCK == 0
    expected, _ = training_tiles.cut(pixels, 88, training_tiles.stride_of(88, 64))
    np.testing.assert_array_equal(found[: len(expected)], expected)


def test_folders_without_one_picture_that_is_large_enough_are_an_error(tmp_path):
    save(tmp_path / "small.png", 40, 40)
    with (
        reader(tmp_path) as reading,
        pytest.raises(ValueError, match="no readable image of at least 64 pixels"),
    ):
        reading.take(wait=True)
