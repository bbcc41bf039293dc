"""Training on several devices and machines; two processes here stand for machines."""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

from tests import apart, tiny
from tfcodec import checkpoints, data, registry, strategies, training

PATIENCE = 900  # seconds, for machines that are busy with other things


def config_of(images, **settings):
    """Of a training whose learning rate does not depend on `steps`."""
    settings = {"validate_steps": 100, "log_steps": 1, "hold": 1.0, **settings}
    return training.TrainConfig(
        **tiny.flags("bls2017", images=str(images), warmup=0, **settings)
    )


def state_of(model):
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables]]


def assert_close(states, others, weights=0):
    """To a thousandth, or a ten thousandth of the largest value of a variable.

    The first `weights` are compared by their norm, to a thousandth. Sums in another
    order change gradients in the last digits. Where a gradient is nearly zero, Adam
    divides it by its own size, and after some steps a single weight may differ by more;
    its moments, by which gradients of other images would be found out, do not.
    """
    assert len(states) == len(others) > 50
    for one, two in zip(states[:weights], others):
        assert np.linalg.norm(one - two) <= 1e-3 * np.linalg.norm(one)
    for one, two in zip(states[weights:], others[weights:]):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4 * np.abs(one).max())


def work(log, tf_config, config, run):
    """What a worker's process does."""
    from tfcodec import litert_export, losses, ssimulacra2

    # Nothing else here takes so long to make, and what it is does not matter.
    ssimulacra2.distance = losses.mse
    litert_export.export = lambda exported: None
    os.environ["TF_CONFIG"] = tf_config
    apart.train(log, config, run)


def free_addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]


def start(config, run, logs):
    """Starts a worker for each log."""
    cluster, workers = {"worker": free_addresses(len(logs))}, []
    for index, log in enumerate(logs):
        task = {"type": "worker", "index": index}
        tf_config = json.dumps({"cluster": cluster, "task": task})
        workers.append(apart.start(work, log, tf_config, config, run))
    return workers


def ended(processes):
    """Waits, and returns how each ended; kills one that does not."""
    for process in processes:
        process.join(PATIENCE)
        process.kill()
    return [process.exitcode for process in processes]


@dataclasses.dataclass
class Story:
    """Two workers, of whom one was killed; both started again, for two more steps."""

    run: os.PathLike
    images: os.PathLike
    texts: list  # what each process said
    codes: list  # how each ended
    newest: int  # step of the last checkpoint before the kill


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    images, run = tiny.images(folder / "images"), folder / "run"
    logs = [folder / name for name in ("chief", "other", "chief again", "other again")]
    config = config_of(
        images, steps=60, checkpoint_minutes=0.0, strategy="multi_worker"
    )
    workers = start(config, run, logs[:2])
    for _ in range(10 * PATIENCE):
        if logs[0].exists() and "step 3 of" in logs[0].read_text():
            break
        assert all(worker.is_alive() for worker in workers), logs[0].read_text()
        time.sleep(0.1)
    workers[1].kill()
    codes = ended(workers)
    paths = [p.with_suffix("") for p in (run / "checkpoints").glob("ckpt-*.index")]
    newest = max(int(p.name[5:]) for p in paths if not checkpoints.damage(str(p)))
    config = dataclasses.replace(config, steps=newest + 2, validate_steps=newest + 1)
    codes += ended(start(config, run, logs[2:]))
    return Story(run, images, [log.read_text() for log in logs], codes, newest)


def test_workers_take_the_steps_that_one_takes_alone_though_one_was_killed(story):
    """Of `newest` steps before the kill, and of two after it."""
    assert story.codes[2:] == [0, 0], story.texts[2]
    config, states = config_of(story.images), []
    with tiny.unoptimised():
        model = training.build(config)
        keep = tf.keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_: states.append(state_of(model))
        )
        steps = story.newest + 2
        batches = training.datasets(config)[0](0)
        model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[keep])
    kept = checkpoints.Checkpoints(story.run, model)
    for step in range(story.newest, steps + 1):
        kept.needed.read(str(story.run / f"checkpoints/ckpt-{step}")).expect_partial()
        assert_close(states[step - 1], state_of(model), len(model.variables))


def test_a_worker_that_is_killed_stops_the_others_with_a_line(story):
    assert story.codes[:2] == [1, -9]
    assert story.texts[0].splitlines()[-1] == (
        "train.py: another worker is lost; start all of them again to resume from the "
        "last checkpoint"
    )
    assert "Traceback" not in story.texts[0]


def test_workers_that_are_started_again_go_on_at_the_step_of_the_checkpoint(story):
    chief, newest = story.texts[2], story.newest
    assert f"resumed from {story.run}/checkpoints/ckpt-{newest}\n" in chief
    assert f"step {newest} of" not in chief
    assert f"step {newest + 1} of {newest + 2}" in chief


def test_the_chief_alone_validates_logs_and_exports(story):
    chief, other = story.texts[2:]
    assert "(validation)" in chief
    assert "step " not in other
    assert len(list((story.run / "logs").iterdir())) == 2  # as often as it was started
    card = registry.Model.at(story.run / "model").card
    assert card["training"]["steps"] == story.newest + 2
    assert card["training"]["settings"]["strategy"] == "multi_worker"
    assert f"{story.run}/model" in chief
    assert "model" not in other


def mirror(log, images):
    """What the process of a test does: a step on two devices, and on one."""
    apart.begin(log)
    (cpu,) = tf.config.list_physical_devices("CPU")
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one, one])
    states = []
    for settings in ({}, {"strategy": "mirrored", "replicas": 2}):
        # Adam forgives a gradient that is twice as long, and so does clipping.
        config = config_of(images, steps=1, clip=1e9, **settings)
        strategy = strategies.make(config.strategy, config.replicas)
        with strategy.scope():
            model = training.build(config)
        found, _ = training.datasets(config)
        batches = strategies.distributed(strategy, lambda share: found(0, share))  # noqa: B023
        losses = model.fit(batches, steps_per_epoch=1, verbose=0).history["loss"]
        states.append([*state_of(model), np.float32(losses)])
    assert strategy.num_replicas_in_sync == 2
    assert_close(*states)


def test_a_step_on_two_devices_is_the_step_on_one(tmp_path):
    images, log = tiny.images(tmp_path / "images"), tmp_path / "log"
    process = apart.start(mirror, log, images)
    assert ended([process]) == [0], log.read_text()


@pytest.mark.parametrize(("workers", "replicas"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_workers_read_the_parts_of_each_batch(workers, replicas):
    batch, first, parts = 12, 7, []
    for worker in range(workers):
        share = data.Share(worker, workers, replicas)
        numbers = share.of(tf.data.Dataset.range(first, 100), batch, first)
        own = numbers.batch(share.batch(batch)).as_numpy_iterator()
        # Of the first two steps, for each replica a batch.
        parts.append([[next(own) for _ in range(replicas)] for _ in range(2)])
    for step in range(2):
        seen = np.concatenate([part for worker in parts for part in worker[step]])
        start = first + step * batch
        np.testing.assert_array_equal(seen, np.arange(start, start + batch))


def test_a_part_of_a_training_set_has_examples_of_the_whole(tmp_path):
    paths = sorted(tiny.images(tmp_path).iterdir())
    whole = next(iter(data.training_set(paths, 64, 4, seed=1, first=8)))
    share = data.Share(1, 2)
    part = next(iter(data.training_set(paths, 64, 4, 1, 8, share)))
    for key, values in part.items():
        np.testing.assert_array_equal(values, whole[key][2:])


CLUSTER = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not set"),
        ("{", "not JSON"),
        ("[]", "lacks"),
        ('{"cluster": {"worker": ["a:1"]}}', "lacks 'task'"),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "worker"}}), "lacks 'index'"),
        (("worker", 2, CLUSTER), "index 2 of 2"),
        (("worker", "0", CLUSTER), "index '0'"),
        (("chief", 0, CLUSTER), "'chief', and no such job"),
        (("worker", 0, {"worker": ["a:1", "b"]}), "'b' where host:port"),
        (("worker", 0, {"worker": ["a:1", "a:1"]}), "twice"),
        (("ps", 0, {"worker": ["a:1"], "ps": ["b:1"]}), "other than worker and chief"),
    ],
)
def test_what_tf_config_should_hold_is_told(monkeypatch, text, words):
    if isinstance(text, tuple):
        kind, index, cluster = text
        task = {"type": kind, "index": index}
        text = json.dumps({"cluster": cluster, "task": task})
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=words) as caught:
        strategies.make("multi_worker")
    assert '"task": {"type": "worker", "index": 0}}' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cluster_may_have_a_chief_of_its_own():
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    text = json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}})
    assert strategies.cluster_of(text) == ("a:1", ["b:1", "c:1"])


def test_a_port_that_is_taken_is_told_in_a_line():
    with socket.create_server(("", 0)) as taken:
        own = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"{own}: Address already in use"):
            strategies.meet(own, [])


def test_workers_wait_for_each_other():
    first, second = free_addresses(2)
    met = []
    thread = threading.Thread(
        target=lambda: met.append(strategies.meet(first, [second]))
    )
    thread.start()
    time.sleep(0.3)
    assert not met
    with socket.create_server(strategies.place_of(second)):
        thread.join(5)
    assert met


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategy": "horovod"}, "one of none, mirrored, multi_worker, tpu"),
        ({"replicas": 2}, "goes with --strategy=mirrored"),
        ({"strategy": "multi_worker", "replicas": 2}, "goes with --strategy=mirrored"),
        ({"strategy": "mirrored", "replicas": 99}, "there are 1 devices"),
        ({"tpu": "mine"}, "goes with --strategy=tpu"),
        ({"strategy": "tpu"}, "no TPU on this machine"),
        ({"strategy": "tpu", "tpu": "grpc://192.0.2.1:8470"}, "another machine"),
        ({"strategy": "tpu", "tpu": "grpc://127.0.0.1:8470"}, "no TPU on this machine"),
    ],
)
def test_what_cannot_be_trained_on_is_told_in_a_line(tmp_path, settings, words):
    began = time.monotonic()
    with pytest.raises(ValueError, match=words) as caught:
        training.train(config_of(tmp_path, **settings), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60  # it did not wait for a TPU
    assert not (tmp_path / "run").exists()


def resolver_that(found):
    """A stand-in of TensorFlow's, whose TPUs are at what `found` returns."""

    class Resolver:
        def __init__(self, tpu):
            assert tpu == "mine"

        def master(self):
            return found()

    return Resolver


def failing():
    raise RuntimeError("no metadata server\nand much more")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda: "grpc://192.0.2.1:8470", "mine is at 192.0.2.1, another machine"),
        (failing, r"no TPU found by that name \(no metadata server\)"),
        (lambda: time.sleep(5), "no answer within 0.1 seconds"),
    ],
)
def test_a_tpu_is_looked_up_by_name_for_a_limited_time(monkeypatch, found, words):
    place = tf.distribute.cluster_resolver
    monkeypatch.setattr(place, "TPUClusterResolver", resolver_that(found))
    monkeypatch.setattr(strategies, "SECONDS", 0.1)
    with pytest.raises(ValueError, match=words) as caught:
        strategies.make("tpu", tpu="mine")
    assert "\n" not in str(caught.value)


def test_a_batch_is_to_have_a_part_for_each_replica():
    class Three:
        num_replicas_in_sync = 3

    strategies.check_batch(Three, 9)
    with pytest.raises(ValueError, match="--batch=8 is not a multiple of 3 replicas"):
        strategies.check_batch(Three, 8)


def test_a_program_is_of_one_device(tmp_path):
    images = tiny.images(tmp_path / "images")
    with pytest.raises(ValueError, match="--xla_program is the step of one device"):
        training.write_program(config_of(images, strategy="mirrored"), tmp_path / "p")
