import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

from tests import apart, tiny
from tfcodec import (
    checkpoints,
    codec,
    export,
    locks,
    optimizers,
    programs,
    registry,
    signals,
    training,
    weights,
)

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return str(tiny.images(tmp_path_factory.mktemp("images")))


EVERY = {"lmbda": 0.0, "lmbda_min": 0.001, "lmbda_max": 0.128}


def config_of(images, arch="tfcodec", **settings):
    settings = {"log_steps": 5, "validate_steps": 20, **settings}
    return training.TrainConfig(**tiny.flags(arch, images=images, **settings))


def state_of(config, run):
    """All variables of the last checkpoint: weights, optimizer, averages."""
    model = training.build(config)
    assert checkpoints.Checkpoints(run, model).restore()
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables]]


def logged(run):
    """Lists of the values of each (tag, step) in all event files of a run."""
    found = {}
    for file in (run / "logs").iterdir():
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.simple_value)
    return found


def start(config, run):
    """Starts `train.py`, as a user does."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *apart.arguments(config, run)],
        env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Settings, and the run directory of a training that nothing happened to.

    For every quality, with an entry in the logs of each kind.
    """
    config = config_of(
        images, "bls2017", steps=16, validate_steps=16, checkpoint_minutes=0.0, **EVERY
    )
    run = tmp_path_factory.mktemp("whole") / "run"
    with tiny.unoptimised():
        training.train(config, run)
    return config, run


class Signal(tf.keras.callbacks.Callback):
    """Sends this process a signal while a step is taken."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            os.kill(os.getpid(), self.number)


@pytest.fixture(params=["SIGINT", "SIGTERM"])
def number(request):
    """A signal that has a handler, also where whoever runs the tests ignores it."""
    number = getattr(signal, request.param)
    before = signal.signal(number, signal.default_int_handler)
    yield number
    signal.signal(number, before)


def test_a_training_that_is_asked_to_end_saves_its_step_first(
    images, tmp_path, monkeypatch, number
):
    flags = tiny.flags("bls2017", images=str(images), steps=6, validation_images=1)
    config = training.TrainConfig(**flags)
    before = signal.getsignal(number)
    fit = tf.keras.Model.fit

    def asked(model, *args, callbacks, **options):
        return fit(model, *args, callbacks=[Signal(number), *callbacks], **options)

    monkeypatch.setattr(tf.keras.Model, "fit", asked)
    with pytest.raises(signals.Ended) as ended:
        training.train(config, tmp_path / "run")
    monkeypatch.setattr(tf.keras.Model, "fit", fit)
    assert ended.value.number == number
    assert signal.getsignal(number) == before
    assert (tmp_path / "run" / "checkpoints" / "ckpt-4.index").exists()
    assert training.train(config, tmp_path / "run")


def test_killed_training_goes_on_as_if_it_had_not_been(whole, tmp_path):
    config, once = whole
    run, logs = tmp_path / "run", [tmp_path / "first", tmp_path / "second"]
    process = apart.start(apart.train, logs[0], config, run)
    while not (logs[0].exists() and "step 10 of" in logs[0].read_text()):
        assert process.is_alive(), logs[0].read_text()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (run / "model").exists()

    # Even from the checkpoint before, in the middle of what one entry sums up.
    written = [
        path
        for path in (run / "checkpoints").glob("*.data-*")
        if not path.with_name(path.stem + "_temp").exists()
    ]
    os.truncate(max(written, key=lambda path: int(path.stem[5:])), 1000)
    process = apart.start(apart.train, logs[1], config, run)
    process.join()
    errors = logs[1].read_text()
    assert process.exitcode == 0, errors
    assert "which is damaged" in errors
    assert "resumed from" in errors
    for a, b in zip(state_of(config, once), state_of(config, run)):
        np.testing.assert_array_equal(a, b)
    entries = logged(run)
    assert all(len(set(several)) == 1 for several in entries.values())
    assert {k: v[:1] for k, v in entries.items()} == logged(once)
    assert (
        registry.Model.at(once / "model").fingerprint
        == registry.Model.at(run / "model").fingerprint
    )


def test_a_full_disk_is_told_in_a_line_and_costs_no_checkpoint(whole, tmp_path):
    config, once = whole
    run = shutil.copytree(once, tmp_path / "run")
    with tiny.little_room(100_000):  # What is started has no more, either.
        process = start(dataclasses.replace(config, steps=20), run)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"resumed from {run}/checkpoints/ckpt-16" in errors
    assert errors.splitlines()[-1].startswith(f"train.py: {run}/checkpoints/ckpt-17: ")
    assert "Traceback" not in errors
    for path in (once / "checkpoints").iterdir():
        assert (run / "checkpoints" / path.name).read_bytes() == path.read_bytes()
    assert len(list((run / "checkpoints").iterdir())) == 6


@tiny.unoptimised()
@tiny.without_effort()
def test_a_training_goes_on_from_an_exported_model(images, whole, tmp_path):
    first = whole[1] / "model"
    still = config_of(
        images, "bls2017", steps=1, init=str(first), learning_rate=1e-30,
        distortion="ssim", **EVERY,
    )  # fmt: skip
    second = training.train(still, tmp_path / "second")
    models = [registry.Model.at(path) for path in (first, second)]
    cards = [model.card for model in models]
    assert [model.distortion for model in models] == ["mse", "ssim"]
    both = [tf.saved_model.load(str(path)).weights for path in (first, second)]
    for a, b in zip(*both):
        np.testing.assert_array_equal(a, b)
    assert cards[1]["training"]["began_from"] == {
        "fingerprint": cards[0]["fingerprint"],
        "training": cards[0]["training"],
    }
    assert str(tmp_path) not in json.dumps(cards)
    for other in ({"arch": "mbt2018-mean", **EVERY}, {"arch": "bls2017"}):
        with pytest.raises(ValueError, match="another architecture"):
            training.train(
                config_of(images, init=str(first), **other), tmp_path / "third"
            )


@tiny.unoptimised()
def test_residual_blocks_that_a_model_gains_change_nothing_at_first(images, tmp_path):
    def settings(blocks, **more):
        own = {"blocks": blocks, "synthesis_blocks": blocks, "slices": [3, 13]}
        options = json.dumps({**tiny.OPTIONS["tfcodec"], **own})
        return config_of(images, "tfcodec", options=options, seed=3, **more)

    shallow = training.build(settings([0, 0]))
    for variable in shallow.trainable_variables:  # As training would: nothing is zero.
        variable.assign_add(0.01 * tf.random.stateless_normal(variable.shape, (1, 2)))
    start = tmp_path / "start"
    # What a training begins from are weights.
    shallow.graphs = tiny.decoder_alone(shallow)
    export.export(
        shallow, start, "tfcodec", json.loads(settings([0, 0]).options), {"note": ""}
    )
    deep = training.build(settings([1, 1], init=str(start)))
    assert len(deep.trainable_variables) > len(shallow.trainable_variables)
    batch = {
        "image": tiny.photograph(64, 64)[None],
        "quality": np.float32([0.5]),
        "seed": np.int32([[1, 2]]),
    }
    # Weights are exported rounded to float16, which `shallow` is too by now.
    np.testing.assert_allclose(deep(batch), shallow(batch), atol=1e-2)
    settings([1, 1], init=str(start)).check()
    with pytest.raises(ValueError, match="another architecture"):
        settings([1, 1], init=str(start), lmbda=0.01).check()


@tiny.unoptimised()
@tiny.without_effort()
def test_a_training_begins_from_arrays(images, tmp_path):
    """Weights trained elsewhere: fitted, exported and on record without a step."""
    arch = "bmshj2018-factorized"
    given = config_of(images, arch, seed=5)
    model = training.build(given)
    variables = model.trainable_variables
    half = [v.numpy().astype(np.float16) for v in variables]
    np.savez(tmp_path / "a.npz", **{f"{k:03d} x": a for k, a in enumerate(half)})
    np.save(tmp_path / "a.npy", np.concatenate([a.ravel() for a in half]))
    (tmp_path / "record.json").write_text('{"steps": 7, "hardware": "an abacus"}')
    config = config_of(
        images, arch, steps=0, init=str(tmp_path / "a.npz"),
        record=str(tmp_path / "record.json"),
    )  # fmt: skip
    exported = training.train(config, tmp_path / "run")
    card = registry.Model.at(exported).card
    began = {"training": {"steps": 7, "hardware": "an abacus"}}
    assert card["training"]["began_from"] == began
    assert card["training"]["steps"] == 0
    assert str(tmp_path) not in json.dumps(card)
    vector = dataclasses.replace(config, init=str(tmp_path / "a.npy"), record="")
    for variable, a in zip(training.build(vector).trainable_variables, half):
        np.testing.assert_array_equal(variable, a.astype(np.float32))
    # And the exported model is one to begin from.
    again = training.build(dataclasses.replace(vector, init=str(exported)))
    for variable, a in zip(again.trainable_variables, half):
        np.testing.assert_array_equal(variable, a.astype(np.float32))


def test_arrays_of_another_architecture_are_refused_in_words(images, tmp_path):
    arch = "bmshj2018-factorized"
    model = training.build(config_of(images, arch))
    arrays = [v.numpy() for v in model.trainable_variables]
    arrays[1] = arrays[1][:-1]
    np.savez(tmp_path / "short.npz", *arrays)
    np.save(tmp_path / "short.npy", arrays[0].ravel())
    (tmp_path / "none.npz").write_bytes(b"PK")
    arrays[1] = np.full(model.trainable_variables[1].shape, np.nan, np.float32)
    np.savez(tmp_path / "nan.npz", *arrays)
    for name, words in {
        "short.npz": "another architecture: .*number 1 is",
        "short.npy": "this architecture has",
        "none.npz": "cannot read arrays",
        "nan.npz": "not finite",
    }.items():
        with pytest.raises(ValueError, match=words):
            weights.load_arrays(model.trainable_variables, tmp_path / name)
    missing = config_of(images, arch, init=str(tmp_path / "gone.npz"))
    with pytest.raises(ValueError, match="no such file"):
        missing.check()
    with pytest.raises(ValueError, match="--record"):
        config_of(images, arch, record="x.json").check()
    with pytest.raises(ValueError, match="--steps"):
        config_of(images, arch, steps=0).check()


@tiny.unoptimised()
def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(whole, tmp_path):
    good, once = whole
    before = state_of(good, once)
    shutil.copytree(once / "checkpoints", tmp_path / "checkpoints")

    class Bad(optimizers.Schedule):
        def __call__(self, step):
            return super().__call__(step) * 1e30

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizers, "Schedule", Bad)
        longer = dataclasses.replace(good, steps=50)
        with pytest.raises(FloatingPointError, match="last good state"):
            training.train(longer, tmp_path)
    after = state_of(longer, tmp_path)
    assert all(np.all(np.isfinite(v)) for v in after)
    for a, b in zip(before, after):
        assert a.shape == b.shape


def test_run_directory_tells_all_and_refuses_other_settings(images, whole):
    config, run = whole
    exported = run / "model"
    assert json.loads((run / "config.json").read_text()) == vars(config)
    card = registry.Model.at(exported).card
    assert card["name"] == run.name
    assert card["training"]["steps"] == 16
    assert [row["quality"] for row in card["training"]["figures"]] == [
        10, 30, 50, 70, 90
    ]  # fmt: skip
    row = card["training"]["figures"][0]
    assert row["distortion"] > 0
    assert 0 < row["ms_ssim"] < 1
    assert row["ssimulacra2"] < 100
    assert card["distortion"] == "mse"
    image = tiny.photograph(80, 90)
    data = codec.compress(image, 50, exported)
    assert codec.decompress(data, exported).shape == image.shape
    other = config_of(images, "bls2017", steps=20, learning_rate=0.5, **EVERY)
    with pytest.raises(ValueError, match="learning_rate=0.001, not 0.5"):
        training.train(other, run)
    other = config_of(images, "bls2017", steps=20, distortion="ssim", **EVERY)
    with pytest.raises(ValueError, match="distortion='mse', not 'ssim'"):
        training.train(other, run)


def prepare(config, run):
    with training.prepared(config, run):
        pass


def test_a_run_directory_from_before_distortions_is_of_squared_error(images, tmp_path):
    config = config_of(images, distortion="mse")
    prepare(config, tmp_path)
    (tmp_path / programs.STATE).touch()
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["distortion"]
    path.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="distortion='mse', not 'ms-ssim'"):
        prepare(config_of(images, distortion="ms-ssim"), tmp_path)
    prepare(config, tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="damaged: it is not a JSON object"):
        prepare(config, tmp_path)


def test_a_run_directory_that_another_training_writes_to_is_refused(images, tmp_path):
    with locks.alone(tmp_path / "run"):
        process = start(config_of(images), tmp_path / "run")
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    line = errors.splitlines()[-1]
    assert line.startswith(f"train.py: {tmp_path}/run: another training writes to")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_folder_that_is_no_model_is_not_replaced_by_one(images, tmp_path):
    file = tmp_path / "model" / "of_mine.txt"
    file.parent.mkdir()
    file.touch()
    with pytest.raises(ValueError, match="model exists, and is no model"):
        training.train(config_of(images, steps=1), tmp_path)
    assert [file, file.parent] == sorted(tmp_path.rglob("*"), reverse=True)


def test_tensorboard_gets_scalars_and_images(whole):
    _, run = whole
    assert {
        "loss/train", "bpp/train", "psnr/train", "learning_rate",
        "loss/validation", "bpp/validation", "psnr/validation", "reconstruction/0",
        "distortion/train", "distortion/validation", "ms_ssim/validation",
        "ssimulacra2/validation",
    } <= {tag for tag, _ in logged(run)}  # fmt: skip


@tiny.unoptimised()
def test_averages_follow_the_weights(images):
    config = config_of(images, "bls2017", learning_rate=1e-2)
    model = training.build(config)
    data, _ = training.datasets(config)
    variables = model.trainable_variables
    start = [v.numpy() for v in variables]
    model.fit(data(0), steps_per_epoch=20, verbose=0)
    end = [v.numpy() for v in variables]
    optimizers.inner_optimizer(model).swap_averages(variables)
    averages = [v.numpy() for v in variables]
    moved = sum(np.abs(a - b).sum() for a, b in zip(start, end))
    behind = sum(np.abs(a - b).sum() for a, b in zip(averages, end))
    assert 0 < behind < 0.8 * moved
    optimizers.inner_optimizer(model).swap_averages(variables)
    for a, b in zip(variables, end):
        np.testing.assert_array_equal(a, b)


@tiny.unoptimised()
@tiny.without_effort()
@pytest.mark.parametrize(
    ("precision", "arch"),
    [("mixed_bfloat16", "mbt2018-mean"), ("mixed_float16", "bls2017")],
)
def test_mixed_precision_trains_and_exports(images, tmp_path, precision, arch):
    exported = training.train(
        config_of(images, arch=arch, steps=6, precision=precision), tmp_path
    )
    image = tiny.photograph(64, 64)
    assert codec.decompress(codec.compress(image, 50, exported), exported).any()
    # Half precision is for training alone.
    loaded = tf.saved_model.load(str(exported))
    for name in ("analysis", "synthesis"):
        graph = loaded.signatures[name].graph.as_graph_def()
        bodies = [graph.node, *(f.node_def for f in graph.library.function)]
        nodes = [n for body in bodies for n in body if n.op.startswith("Conv2D")]
        assert {tf.as_dtype(n.attr["T"].type) for n in nodes} == {tf.float32}


def test_a_step_is_that_of_adam_with_averages():
    """Keras's own, but for the order of roundings."""

    def after(kind, momentum):
        rng = np.random.default_rng(0)
        variables = [
            tf.Variable(rng.normal(size=s), dtype=tf.float32) for s in ((3, 4), ())
        ]
        optimizer = kind(
            optimizers.Schedule(1e-2, 3, 0.3, 20), global_clipnorm=1.0,
            use_ema=True, ema_momentum=momentum, ema_overwrite_frequency=None,
        )  # fmt: skip
        for _ in range(10):
            step = [
                tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables
            ]
            optimizer.apply_gradients(zip(step, variables))
        return [v.numpy() for v in [*variables, *optimizer.variables]]

    # A momentum that is less than that of any first step, so the same in both.
    pairs = zip(*(after(x, 0.05) for x in (optimizers.Adam, tf.keras.optimizers.Adam)))
    for own, other in pairs:
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


def test_schedule_warms_up_holds_and_falls():
    schedule = optimizers.Schedule(1.0, 10, 0.5, 100)
    rates = np.array([float(schedule(step)) for step in range(101)])
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == pytest.approx(1.0)
    assert np.all(np.diff(rates[50:]) < 0)
    assert rates[100] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": ""}, "--images or --dataset"),
        ({"patch": 100}, "multiple of 64"),
        ({"lmbda_min": 0.1, "lmbda_max": 0.01}, "positive and ordered"),
        ({"extrapolate": 1.0}, "--extrapolate"),
        ({"options": "n=3"}, "JSON object"),
        ({"options": '{"n": 2.5}'}, "n must be a whole number from 1 on, not 2.5"),
        ({"steps": 0}, "--steps"),
        ({"validation_images": 0}, "--validation_images must be at least 1"),
        ({"distortion": "mse:1,psnr:2"}, "no distortion 'psnr'"),
        ({"images": "/no/such/folder"}, "no images there"),
        ({"replicas": 99}, "99"),
    ],
)
def test_bad_settings_are_explained(images, tmp_path, settings, words):
    config = config_of(images).__class__(**{**vars(config_of(images)), **settings})
    with pytest.raises(ValueError, match=words):
        training.train(config, tmp_path)


def test_export_refuses_ops_that_a_stock_server_lacks(images, monkeypatch):
    import tensorflow_compression as tfc

    model = training.build(config_of(images, "bls2017"))
    stock = tiny.decoder_alone(model)

    def with_foreign(tables):
        def coded(string):
            handle = tfc.create_range_decoder(string[None], tf.constant([-12, 0, 4096]))
            return {"a": tf.strings.as_string(tf.zeros([1])), "b": handle}

        return {**stock(tables), "bad": (coded, [tf.TensorSpec([], tf.string, "s")])}

    monkeypatch.setattr(model, "graphs", with_foreign)
    with pytest.raises(ValueError, match="CreateRangeDecoder"):
        export.export(model, "unused", "bls2017")
