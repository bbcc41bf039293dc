"""Full disks, damaged checkpoints, and images that go: what a training does then."""

import errno
import os
import shutil

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

from tests import tiny
from tfcodec import data, files, inputs, progress, training
from tfcodec.checkpoints import Checkpoints, damage


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny.images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def config(images):
    return training.TrainConfig(**tiny.flags("bls2017", images=str(images)))


@pytest.fixture(scope="module")
def model(config):
    return training.build(config)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def three(tmp_path_factory, model):
    made = Checkpoints(tmp_path_factory.mktemp("three"), model)
    for step in (1, 2, 3):
        fill(model, step)
        made.save(step)
    return made.directory


@pytest.fixture
def checkpoints(three, tmp_path, model):
    """Those of steps 1, 2, 3; all weights are that number, and 0 in the model."""
    fill(model, 0)
    return shutil.copytree(three, tmp_path / "checkpoints")


def fill(model, number):
    for variable in [*model.variables, *model.optimizer.variables]:
        variable.assign(tf.cast(tf.fill(variable.shape, number), variable.dtype))


def is_filled(model, number):
    variables = [*model.variables, *model.optimizer.variables]
    return all(np.all(variable.numpy() == number) for variable in variables)


@pytest.mark.parametrize(
    ("part", "following"), [("index", 3), ("data-00000-of-00001", 4)]
)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    checkpoints, model, caplog, part, following, damage
):
    DAMAGE[damage](checkpoints / f"ckpt-3.{part}")
    again = Checkpoints(checkpoints.parent, model)
    assert again.restore() == str(checkpoints / "ckpt-2")
    assert is_filled(model, 2)
    assert "ckpt-3, which is damaged" in caplog.text
    # It is written again, or makes room before those do that are whole.
    fill(model, following)
    again.save(following)
    last = Checkpoints(checkpoints.parent, model).restore()
    assert last == str(checkpoints / f"ckpt-{following}")
    assert is_filled(model, following)
    assert len(list(checkpoints.iterdir())) == 6


def test_each_flipped_bit_of_the_data_is_noticed(checkpoints):
    path = checkpoints / "ckpt-3.data-00000-of-00001"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(0, len(whole), 50), rng.integers(0, 8, 50)):
        content = bytearray(whole)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        assert damage(str(checkpoints / "ckpt-3")), place
    path.write_bytes(whole)
    assert not damage(str(checkpoints / "ckpt-3"))


def test_nothing_starts_anew_where_every_checkpoint_is_damaged(checkpoints, model):
    for path in checkpoints.glob("*.data-*"):
        flip(path)
    before = sorted(checkpoints.iterdir())
    with pytest.raises(ValueError, match="every checkpoint in .* is damaged"):
        Checkpoints(checkpoints.parent, model).restore()
    assert is_filled(model, 0)
    assert sorted(checkpoints.iterdir()) == before


def test_a_first_checkpoint_cut_short_by_a_kill_is_none(checkpoints, model):
    for step in (1, 2):
        for path in checkpoints.glob(f"ckpt-{step}.*"):
            path.unlink()
    os.truncate(checkpoints / "ckpt-3.index", 100)
    (checkpoints / "ckpt-3_temp").mkdir()  # TensorFlow's, until all is written.
    assert Checkpoints(checkpoints.parent, model).restore() is None
    assert not list(checkpoints.iterdir())


def test_a_checkpoint_of_another_model_is_refused(checkpoints):
    other = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=[1])])
    other.compile("adam")
    with pytest.raises(ValueError, match="ckpt-3 is of another model"):
        Checkpoints(checkpoints.parent, other).restore()


def test_a_checkpoint_that_finds_no_room_leaves_those_before(checkpoints, model):
    again = Checkpoints(checkpoints.parent, model)
    again.restore()
    before = sorted(checkpoints.iterdir())
    fill(model, 4)
    for size in (0, 1000, 100_000):  # Bytes of data, of 190,000.
        with (
            tiny.little_room(size),
            pytest.raises(OSError, match=r"ckpt-4: .*") as raised,
        ):
            again.save(4)
        assert len(str(raised.value).splitlines()) == 1
        assert sorted(checkpoints.iterdir()) == before
    again.save(4)
    assert Checkpoints(checkpoints.parent, model).restore()[-1] == "4"
    assert is_filled(model, 4)


def test_entries_that_find_no_room_are_not_lost_silently(tmp_path):
    events = progress.Events(tmp_path / "logs")
    events.scalars(1, {"loss": 1.0})
    with tiny.little_room(1000):
        with pytest.raises(OSError, match="tfevents"):
            events.image(2, "image", tf.constant(tiny.photograph(64, 64)))
    with tiny.little_room(0), pytest.raises(OSError, match="tfevents"):
        progress.Events(tmp_path / "others")


def test_an_export_that_finds_no_room_leaves_the_model_that_is_there(tmp_path):
    there = tmp_path / "model"
    module = tf.Module()
    module.weights = tf.Variable(tf.zeros([1000]))
    module.double = tf.function(lambda x: 2 * x, [tf.TensorSpec([])])

    def save(number):
        with files.new_directory(there) as part:
            tf.saved_model.save(module, str(part))
            (part / "card.json").write_text(str(number))

    save(1)
    before = sorted(tmp_path.rglob("*"))
    for size in (0, 1000, 4500):  # Weights take 4,000 bytes, the graph more.
        with (
            tiny.little_room(size),
            pytest.raises(OSError, match=r"model: .*") as raised,
        ):
            save(2)
        assert len(str(raised.value).splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before
    assert (there / "card.json").read_text() == "1"
    # Folders of similar names are another's.
    for other in ("model.part", "model.old"):
        shutil.copytree(there, tmp_path / other)
    save(3)
    assert (there / "card.json").read_text() == "3"
    for other in ("model.part", "model.old"):
        assert (tmp_path / other / "card.json").read_text() == "1"


def test_a_model_that_cannot_be_replaced_is_still_there(tmp_path, monkeypatch):
    there = tmp_path / "model"
    there.mkdir()
    (there / "card.json").write_text("1")
    replace = os.replace

    def failing(source, target):
        if str(source).endswith(".part"):
            raise OSError(errno.EACCES, "no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="model: no"), files.new_directory(there) as part:
        part.mkdir()
    assert (there / "card.json").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_damaged_record_of_the_settings_is_named(config, tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(ValueError, match="config.json is damaged"):
        with training.prepared(config, tmp_path):
            pass


class Reader(tf.keras.Model):
    """Reads, and no more."""

    def train_step(self, batch):
        return {"loss": tf.reduce_mean(tf.cast(batch["image"], tf.float32))}


def test_images_that_are_gone_end_a_training_by_their_name(images, tmp_path, caplog):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    paths = inputs.find_images([folder])
    dataset = data.training_set(paths, 64, 1, seed=0)
    model = Reader()
    model.compile()
    gone = tf.keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, _: batch or shutil.rmtree(folder)
    )
    with pytest.raises(ValueError, match=r"8 images in a row .*No such file.*\.png'$"):
        with training.reading():
            model.fit(dataset, steps_per_epoch=100, verbose=0, callbacks=[gone])
    assert len(caplog.records) == len(paths)  # Each is named once.
