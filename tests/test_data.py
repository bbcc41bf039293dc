import errno
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

from PIL import Image

from tests import made
from tests.tiny import images, photograph
from tfcodec import data, held_out, inputs, training

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    """Nested photographs of three formats, a small one, and three broken files."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    pixels = photograph(200, 300)
    for number in range(6):
        image = Image.fromarray(np.roll(pixels, 40 * number, 1))
        suffix = (".jpg", ".PNG", ".webp")[number % 3]
        image.save(tmp_path / "deep" / "er" / f"{number}{suffix}")
    Image.fromarray(pixels[:50]).save(tmp_path / "small.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    whole = (tmp_path / "deep" / "er" / "0.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not for us")
    return tmp_path


def batches(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_same(a, b):
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_folders_and_globs_are_searched_to_any_depth(folder):
    everything = inputs.find_images([str(folder)])
    assert len(everything) == 10
    assert inputs.find_images([str(folder / "**" / "*.webp")]) == [
        n for n in everything if n.suffix == ".webp"
    ]
    with pytest.raises(ValueError, match="nothing"):
        inputs.find_images([str(folder / "nothing*")])


def test_small_and_broken_files_are_left_out_and_counted(folder, caplog):
    paths = data.usable(inputs.find_images([str(folder)]), 64)
    assert len(paths) == 7  # The truncated one opens; it fails when it is decoded.
    assert "1 smaller than 64 pixels, 2 unreadable" in caplog.text


def test_truncated_file_is_replaced_while_training(folder, caplog):
    paths = data.usable(inputs.find_images([str(folder)]), 64)
    for batch in batches(data.training_set(paths, 64, 7, seed=0), 2):
        assert batch["image"].shape == (7, 64, 64, 3)
        assert all(x.std() > 1 for x in batch["image"])
    assert caplog.text.count("left out") == 2  # The count before, and this file once.
    assert "truncated.jpg" in caplog.text


def test_training_set_resumes_where_it_was(folder):
    paths = data.usable(inputs.find_images([str(folder / "deep")]), 64)
    whole = batches(data.training_set(paths, 64, 4, seed=3), 6)
    rest = batches(data.training_set(paths, 64, 4, seed=3, first=16), 2)
    for a, b in zip(whole[4:], rest):
        assert_same(a, b)
    other = batches(data.training_set(paths, 64, 4, seed=4), 1)[0]
    assert np.any(other["image"] != whole[0]["image"])


def test_examples_vary_in_crop_quality_and_noise(folder):
    paths = data.usable(inputs.find_images([str(folder / "deep")]), 64)[:1]
    batch = batches(data.training_set(paths, 64, 32, seed=0), 1)[0]
    assert len({x.tobytes() for x in batch["image"]}) == 32
    assert len({x.tobytes() for x in batch["seed"]}) == 32
    assert batch["quality"].min() < 0.2
    assert batch["quality"].max() > 0.8


def test_held_out_images_are_never_trained_on():
    paths = [pathlib.Path(f"a/{n}.png") for n in range(1000)]
    training, validation = held_out.split_by_name(paths)
    assert set(training) | set(validation) == set(paths)
    assert not set(training) & set(validation)
    assert 5 < len(validation) < 50
    again, _ = held_out.split_by_name(paths[::2])  # Removing files moves none across.
    assert not set(again) & set(validation)


def test_validation_set_has_each_image_at_each_quality(folder):
    paths = data.usable(inputs.find_images([str(folder / "deep")]), 64)
    found = batches(data.validation_set(data.open_images(paths, 3), 64), 10)
    assert len(found) == 3
    for batch in found:
        assert batch["image"].shape == (5, 192, 256, 3)
        np.testing.assert_allclose(batch["quality"], data.VALIDATION_QUALITIES)


def deep_files(folder):
    """Files of more than 8 bits, of one grey that is 0x43 in 8."""
    value = np.full([70, 80], 0x4321, np.uint16)
    (folder / "grey.png").write_bytes(made.png(value, 16, 0))  # Pillow's mode I;16
    (folder / "colour.png").write_bytes(made.png(np.dstack([value] * 3), 16, 2))
    plain = b"P5 80 70 65535\n" + value.astype(">u2").tobytes()
    (folder / "plain.pgm").write_bytes(plain)  # I
    (folder / "big.tif").write_bytes(made.tiff(value, 16, order=">"))  # I;16B
    (folder / "deflated.tif").write_bytes(made.tiff(value, 16, compression=8))
    (folder / "low.tif").write_bytes(made.tiff(value // 16, 12))
    (folder / "black.tif").write_bytes(made.tiff(65535 - value, 16, photometric=0))
    return sorted(folder.iterdir())


def test_more_than_8_bits_train_and_validate_with_their_range(tmp_path):
    paths = data.usable(deep_files(tmp_path), 64)
    assert len(paths) == 7
    for batch in batches(data.training_set(paths, 64, 7, seed=0), 2):
        assert np.unique(batch["image"]).tolist() == [0x43]
    found = batches(data.validation_set(data.open_images(paths, 7), 64), 9)
    assert len(found) == 7
    assert {*np.unique([batch["image"] for batch in found])} == {0x43}


def test_floating_point_pixels_are_left_out_of_a_training_and_named(tmp_path, caplog):
    Image.fromarray(np.ones([70, 80], np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(photograph(70, 80)).save(tmp_path / "fine.png")
    paths = sorted(tmp_path.iterdir())
    assert data.usable(paths, 64) == [tmp_path / "fine.png"]
    assert "float.tif: floating-point" in caplog.text


def test_training_sees_a_picture_upright_as_compressing_does(tmp_path):
    pixels = np.zeros([64, 64, 3], np.uint8)
    pixels[:32] = 255  # the upper half
    exif = b"Exif\0\0" + made.exif(orientation=6)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    (batch,) = batches(
        data.validation_set(data.open_images([tmp_path / "a.png"], 1), 64), 1
    )
    assert np.array_equal(batch["image"][0], np.rot90(pixels, -1))


def test_the_only_image_is_not_held_out_without_a_word(tmp_path):
    with pytest.raises(ValueError, match="only.png is the only image.*--validation"):
        held_out.split_by_name([tmp_path / "only.png"])


@pytest.mark.parametrize("damage", [9000, 10])  # the pixels, and the header, too
def test_a_damaged_image_is_replaced_by_another_to_validate_on(
    tmp_path, caplog, damage
):
    paths = sorted(images(tmp_path / "images").iterdir())
    kept, held = held_out.split_by_name(paths)
    assert held == paths[:1]
    assert held_out.split(paths, 64) == (kept, held)
    os.truncate(held[0], damage)
    config = training.TrainConfig(images=str(tmp_path / "images"), patch=64)
    _, validation = training.datasets(config)
    assert len(list(validation)) == 1
    assert held_out.split(paths, 64) == (paths[2:], paths[1:2])
    assert caplog.text.count(str(held[0])) == 2
    for path in paths[1:7]:
        os.truncate(path, damage)
    with pytest.raises(ValueError, match="7.png is the only image"):
        held_out.split(paths, 64)


def test_of_many_images_that_are_too_small_each_is_read_once(tmp_path, monkeypatch):
    paths = sorted(images(tmp_path / "images").iterdir())
    seen, read = [], data.images.read_rgb
    monkeypatch.setattr(
        data.images, "read_rgb", lambda path: seen.append(path) or read(path)
    )
    assert held_out.split(paths, 5000) == held_out.split_by_name(paths)
    assert sorted(seen) == paths
    config = training.TrainConfig(images=str(tmp_path / "images"), patch=5000)
    with pytest.raises(ValueError, match="no readable image of at least 5000 pixels"):
        training.datasets(config)


def test_a_damaged_image_among_those_held_out_is_replaced_by_the_next(tmp_path, caplog):
    paths = sorted(images(tmp_path / "images").iterdir())
    os.truncate(paths[4], 9000)
    found = data.validation_set(data.open_images(paths, 2), 64)
    assert len(list(found)) == 2
    assert "4.png" in caplog.text


@pytest.fixture
def tfds_name(tmp_path, monkeypatch):
    """A TFDS data set of eight photographs, made here, with no validation split."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyPhotographs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 3))}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            pixels = photograph(150, 260)
            for number in range(200):
                side = 40 if number == 0 else 150  # One is too small.
                yield number, {"image": np.roll(pixels, number, 1)[:side].copy()}

    return "tiny_photographs", str(tmp_path)


def test_tfds_set_trains_resumes_and_holds_out(tfds_name):
    name, folder = tfds_name
    images, held = data.tfds_sets(name, folder, count=5)
    whole = batches(data.tfds_training_set(images, 64, 4, seed=1), 4)
    rest = batches(data.tfds_training_set(images, 64, 4, seed=1, first=8), 2)
    for a, b in zip(whole[2:], rest):
        assert_same(a, b)
    assert len(list(held())) == 2  # One in a hundred of 200.


@pytest.mark.parametrize(
    ("dtype", "channels"), [("uint16", 1), ("uint16", 3), ("uint16", 4), ("uint8", 1)]
)
def test_tfds_images_of_any_depth_have_their_range(tmp_path, dtype, channels):
    tfds = pytest.importorskip("tensorflow_datasets")
    value = 0x4321 if dtype == "uint16" else 0x43
    pixels = np.full([70, 80, channels], value, dtype)
    name, folder = made_set(tfds, tmp_path, f"{dtype}x{channels}", pixels)
    images, held = data.tfds_sets(name, folder, count=5)
    (batch,) = batches(data.tfds_training_set(images, 64, 2, seed=1), 1)
    assert np.unique(batch["image"]).tolist() == [0x43]
    assert np.unique(np.asarray(next(held()))).tolist() == [0x43]


def test_tfds_images_of_unknown_range_are_refused_before_training(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    pixels = np.zeros([70, 80, 1], np.float32)
    name, folder = made_set(tfds, tmp_path, "floats", pixels)
    with pytest.raises(ValueError, match=f"{name}: floating-point"):
        data.tfds_sets(name, folder, count=5)


def made_set(tfds, folder, name, pixels):
    """A TFDS data set of one image again and again: (name, directory)."""
    shape = (None, None, pixels.shape[2])
    image = tfds.features.Image(shape=shape, dtype=pixels.dtype)

    def info(self):
        features = tfds.features.FeaturesDict({"image": image})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def examples(self, manager):
        splits = {"train": 3, "test": 2}
        return {
            split: ((k, {"image": pixels}) for k in range(count))
            for split, count in splits.items()
        }

    members = {
        "VERSION": tfds.core.Version("1.0.0"), "_info": info, "__module__": __name__,
        "_split_generators": examples, "_generate_examples": None,
    }  # fmt: skip
    type(f"Deep{name}", (tfds.core.GeneratorBasedBuilder,), members)
    return f"deep{name}", str(folder)


def test_images_to_validate_on_are_read_once_and_whole(tmp_path, caplog):
    folder = images(tmp_path / "images")
    os.truncate(folder / "3.png", 9000)
    validation = data.validation_set(
        data.open_images(inputs.find_images([folder]), 8), 64
    )
    assert caplog.text.count("left out") == 1
    assert "3.png" in caplog.text
    shutil.rmtree(folder)
    assert len(list(validation)) == 7
    with pytest.raises(ValueError, match="no image to validate on"):
        data.validation_set(data.open_images([folder / "3.png"], 8), 64)


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    images(tmp_path / "a" / "b")
    scandir = os.scandir

    def denied(path):  # Not by chmod, which does not bind root.
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(PermissionError, match="b'$"):
            inputs.find_images([folder])


INTERRUPTED = """
import pathlib, sys, time
from tfcodec import data

def slow(*arguments):
    time.sleep(0.2)
    return crop(*arguments)

def train():
    paths = sorted(pathlib.Path(sys.argv[1]).iterdir())
    images = iter(data.training_set(paths, 64, 1, seed=0))
    next(images)
    raise RuntimeError("for some reason")

crop, data.random_crop = data.random_crop, slow
train()
"""


def test_a_training_that_fails_ends(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, images(tmp_path / "images")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: for some reason\n")


def test_some_images_are_left_to_train_on_though_all_names_are_held_out():
    names = [p for k in range(999) if held_out.by_name(p := pathlib.Path(f"{k}.png"))]
    kept, held = held_out.split_by_name(names[:2])
    assert sorted(kept + held) == sorted(names[:2])
    assert len(kept) == 1


def test_a_name_that_is_no_text_is_held_out_or_not_like_any_other():
    names = [pathlib.Path(os.fsdecode(b"caf\xe9%d.png" % k)) for k in range(200)]
    kept, held = held_out.split_by_name(names)
    assert sorted(kept + held) == sorted(names)
    assert 0 < len(held) < 20


def test_a_folder_is_no_data_set(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match="is a folder.*use --images"):
        data.tfds_sets(str(tmp_path), None, count=1)


def test_an_unknown_data_set_is_answered_by_the_most_similar_names(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def missing(name, data_dir):
        raise tfds.core.DatasetNotFoundError("all\n" * 466)

    monkeypatch.setattr(tfds, "builder", missing)
    monkeypatch.setattr(tfds, "list_builders", lambda: ["clic", "mnist", "div2k"])
    with pytest.raises(ValueError, match="'clik'; similar ones: clic$"):
        data.tfds_sets("clik", None, 1)
    with pytest.raises(ValueError, match="data set 'xyzzy'$"):
        data.tfds_sets("xyzzy", None, 1)
