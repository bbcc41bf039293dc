"""Where a training runs: one device, several of a machine, several machines, a TPU.

All are strategies of `tf.distribute` that keep one copy of the model on each device, a
replica, in step: each takes an equal part of a batch, and the gradients are added up
before anything changes. So a step on several devices is the step on one, but for the
order in which numbers are added.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from tfcodec import signals
from tfcodec.data import Share
from tfcodec.tracing import traced

KINDS = ("none", "mirrored", "multi_worker", "tpu")
# How long to look for a TPU by its name. Where there is none, what knows of them, the
# metadata server of Google's cloud, may never answer.
SECONDS = 20
CLUSTER = (
    'as JSON, {"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": '
    '"worker", "index": 0}}: the same list on every worker, and the index of its own '
    "place in it"
)


def make(kind: str, replicas: int = 0, tpu: str = "local") -> tf.distribute.Strategy:
    """Returns a strategy. Call it before anything else of TensorFlow runs.

    Args:
        kind: one of `KINDS`.
        replicas: devices of a mirrored strategy; 0 for all GPUs, or the CPU.
        tpu: `local`, a Cloud TPU's name, or its address, `grpc://host:port`.

    Raises:
        ValueError: no such strategy, device, cluster or TPU, in words for the command
            line.
    """
    if kind not in KINDS:
        raise ValueError(f"--strategy={kind}: it is one of {', '.join(KINDS)}")
    if replicas < 0 or (kind != "mirrored" and replicas > 1):
        raise ValueError(f"--replicas={replicas} goes with --strategy=mirrored")
    if kind != "tpu" and tpu != "local":
        raise ValueError(f"--tpu={tpu} goes with --strategy=tpu")
    if kind == "mirrored":
        return mirrored(replicas)
    if kind == "multi_worker":
        return multi_worker(os.environ.get("TF_CONFIG", ""))
    return tf.distribute.get_strategy() if kind == "none" else on_tpu(tpu)


def mirrored(replicas: int) -> tf.distribute.Strategy:
    """Returns the strategy of several devices of this machine."""
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    if replicas > len(devices):
        raise ValueError(f"--replicas={replicas}, but there are {len(devices)} devices")
    return tf.distribute.MirroredStrategy([d.name for d in devices[: replicas or None]])


def multi_worker(config: str) -> tf.distribute.Strategy:
    """Returns the strategy of several processes, usually on as many machines.

    Args:
        config: what the environment variable TF_CONFIG holds.

    Raises:
        ValueError: it holds no cluster.
        OSError: the own port is taken.
    """
    own, others = cluster_of(config)
    meet(own, others)
    tf.get_logger().setLevel("ERROR")  # It tells of each kind of message they send.
    try:
        with signals.at_once():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise ValueError(f"--strategy=multi_worker: {first_line(error)}") from error


def meet(own: str, others: Sequence[str]):
    """Waits until all workers are there.

    TensorFlow would wait, too, but for an hour, deaf to signals and without a word.

    Args:
        own: the address of this one, `host:port`.
        others: those of the others.

    Raises:
        OSError: the own port is taken.
    """
    try:
        here = socket.create_server(("", place_of(own)[1]))
    except OSError as error:
        raise OSError(f"--strategy=multi_worker: {own}: {error.strerror}") from error
    missing, told = list(others), None
    with here:  # What connects is not answered: to be able to is enough.
        while missing := [address for address in missing if not is_there(address)]:
            if missing != told:
                logging.info("waiting for %s", ", ".join(missing))
                told = missing
            time.sleep(0.2)


def place_of(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host, int(port)


def is_there(address: str) -> bool:
    """Whether a worker listens, in `meet` or TensorFlow's server after that."""
    try:
        socket.create_connection(place_of(address), timeout=2).close()
    except OSError:
        return False
    return True


def cluster_of(config: str) -> tuple[str, list[str]]:
    """Returns a worker's own address and those of the others, by TF_CONFIG.

    Raises:
        ValueError: what is wrong with it, and what it should hold.
    """

    def bad(what):
        return ValueError(f"--strategy=multi_worker: {what}; it should hold, {CLUSTER}")

    if not config:
        raise bad("the environment variable TF_CONFIG is not set")
    try:
        found = json.loads(config)
        jobs, task = found["cluster"], found["task"]
        kind, index = task["type"], task["index"]
        sizes = {job: len(addresses) for job, addresses in jobs.items()}
        addresses = [address for job in jobs.values() for address in job]
    except ValueError as error:
        raise bad(f"TF_CONFIG is not JSON ({error})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise bad(f"TF_CONFIG lacks {error}") from None
    if not set(sizes) <= {"chief", "worker"}:
        raise bad(f"TF_CONFIG has jobs other than worker and chief: {[*sizes]}")
    for address in addresses:
        if not isinstance(address, str) or not re.fullmatch(r".+:\d+", address):
            raise bad(f"TF_CONFIG has {address!r} where host:port should be")
    if len(set(addresses)) < len(addresses):
        raise bad("TF_CONFIG has an address twice")
    if kind not in sizes:
        raise bad(f"TF_CONFIG has a task of type {kind!r}, and no such job")
    if not isinstance(index, int) or not 0 <= index < sizes[kind]:
        raise bad(f"TF_CONFIG has index {index!r} of {sizes[kind]} of type {kind!r}")
    own = jobs[kind][index]
    return own, [address for address in addresses if address != own]


def on_tpu(name: str) -> tf.distribute.Strategy:
    """Returns the strategy of a TPU of this machine.

    Args:
        name: `local`, the TPU's name in Google's cloud, or its address.

    Raises:
        ValueError: there is no such TPU, or it is another machine's.
    """
    if name != "local":
        host = host_of(name)
        if not is_own(host):
            raise ValueError(
                f"--tpu={name} is at {host}, another machine: images are read by "
                "Python, and only beside the TPU; run train.py there, with --tpu=local"
            )
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
    try:
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        why, *_ = first_line(error).split(". ")
        raise ValueError(
            f"--strategy=tpu: TensorFlow {tf.__version__} finds no TPU on this "
            f"machine: {why}"
        ) from error


def host_of(name: str) -> str:
    """Returns the host of a TPU, given its name or address.

    Raises:
        ValueError: there is none of that name, or no answer within `SECONDS`.
    """

    def not_found(why):
        return ValueError(
            f"--tpu={name}: no TPU found by that name ({why}); names are known only "
            "inside Google's cloud, and --tpu=local is that of this machine"
        )

    def look():
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        return resolver.master()

    try:
        address = within(SECONDS, look)
    except TimeoutError:
        raise not_found(f"no answer within {SECONDS} seconds") from None
    except Exception as error:  # Of the network, Google's client, or TensorFlow.
        raise not_found(first_line(error)) from error
    return re.sub(r"^grpc://|:\d+$", "", address)


def is_own(host: str) -> bool:
    """Whether a host's address is one of this machine's."""
    try:
        with socket.socket() as own:
            own.bind((host, 0))
    except OSError:
        return False
    return True


def within(seconds: float, function):
    """Returns what a function returns.

    Raises:
        TimeoutError: it took longer; it may go on, and nothing waits for it.
    """
    results = []

    def call():
        try:
            results.append((function(), None))
        except Exception as error:
            results.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if not results:
        raise TimeoutError
    ((value, error),) = results
    if error:
        raise error
    return value


def first_line(error) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def of_workers(strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy) -> bool:
    """Whether this process is the one that validates, writes and exports."""
    return strategy.extended.should_checkpoint


def check_batch(strategy, batch: int):
    """Raises ValueError unless all replicas get equal parts of a batch."""
    count = strategy.num_replicas_in_sync
    if batch % count:
        raise ValueError(f"--batch={batch} has no {count} equal parts, one a replica")


def distributed(strategy, training):
    """Returns a training set of which each worker reads its own part.

    Args:
        strategy: of the training.
        training: function of a `Share` that returns a `tf.data.Dataset` without end.
    """
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)

    def own(context):
        workers = context.num_input_pipelines
        replicas = context.num_replicas_in_sync // workers
        share = Share(context.input_pipeline_id, workers, replicas)
        # Or workers ask each other, before each step, whether all have a batch left.
        return training(share).apply(endless)

    return strategy.distribute_datasets_from_function(own)


def follow_chief(strategy, variables):
    """Gives variables of all workers the values that those of the chief have."""
    if not of_workers(strategy):
        return
    context = tf.distribute.get_replica_context

    def summed(values):
        first = tf.equal(context().replica_id_in_sync_group, 0)
        own = [tf.where(first, value, tf.zeros_like(value)) for value in values]
        return context().all_reduce(tf.distribute.ReduceOp.SUM, own)

    exchange = traced(lambda values: strategy.run(summed, [values]))
    # Values of one type make one message.
    for kind in sorted({variable.dtype.name for variable in variables}):
        group = [variable for variable in variables if variable.dtype.name == kind]
        values = [variable.read_value() for variable in group]
        for variable, value in zip(group, exchange(values)):
            variable.assign(strategy.experimental_local_results(value)[0])


@contextlib.contextmanager
def together(strategy):
    """Turns what a worker raises when another one is lost into a line.

    Raises:
        ConnectionError: another worker is lost.
    """
    try:
        yield
    except tf.errors.OpError as error:
        lost = isinstance(error, tf.errors.UnavailableError)
        if not of_workers(strategy) or not (lost or "ollective" in str(error)):
            raise
        raise ConnectionError(
            "another worker is lost; start all of them again, and they go on from the "
            "last checkpoint"
        ) from error
