"""Where a training runs: one device, several of a machine, several machines, a TPU.

All are synchronous strategies of `tf.distribute`: each device has a copy of the model,
a replica, and takes an equal part of each batch. The gradients are summed over all
replicas before the weights change. So a step on several devices is the same as on one,
except for the order in which numbers are added.
"""

from __future__ import annotations

import concurrent.futures
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

# Seconds to look for a TPU by its name. Outside of Google's cloud there is no metadata
# server, which knows the names, and so no answer.
SECONDS = 20
CLUSTER = (
    'as JSON, {"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": '
    '"worker", "index": 0}}: the same list on every worker, and the index of its own '
    "place in it"
)


def make(kind: str, replicas: int = 0, tpu: str = "local") -> tf.distribute.Strategy:
    """Returns a strategy. Call this before any TensorFlow operation has run.

    Args:
        kind: one of `STRATEGIES` of `settings`, which has checked what goes with it.
        replicas: number of devices of a mirrored strategy; 0 for all GPUs, or the CPU.
        tpu: `local`, the name of a Cloud TPU, or its address, `grpc://host:port`.

    Raises:
        ValueError: there is no such strategy, device, cluster or TPU; the message is
            for the command line.
    """
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
        config: value of the environment variable TF_CONFIG.

    Raises:
        ValueError: it does not describe a cluster.
        OSError: the port of this worker is in use.
    """
    own, others = cluster_of(config)
    meet(own, others)
    tf.get_logger().setLevel("ERROR")  # Else it reports all collective operations.
    try:
        with signals.at_once():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise ValueError(f"--strategy=multi_worker: {first_line(error)}") from error


def meet(own: str, others: Sequence[str]):
    """Waits until all workers listen at their ports.

    TensorFlow would wait, too, but for up to an hour, ignoring signals and printing
    nothing.

    Args:
        own: address of this worker, `host:port`.
        others: addresses of the other workers.

    Raises:
        OSError: the port of this worker is in use.
    """
    try:
        here = socket.create_server(("", place_of(own)[1]))
    except OSError as error:
        raise OSError(f"--strategy=multi_worker: {own}: {error.strerror}") from error
    missing, told = list(others), None
    with here:  # Others only test whether they can connect, and need no answer.
        while missing := [address for address in missing if not is_there(address)]:
            if missing != told:
                logging.info("waiting for %s", ", ".join(missing))
                told = missing
            time.sleep(0.2)


def place_of(address: str) -> tuple[str, int]:
    """Returns host and port of an address `host:port`."""
    host, port = address.rsplit(":", 1)
    return host, int(port)


def is_there(address: str) -> bool:
    """Whether a worker listens at an address, in `meet` or TensorFlow's server."""
    try:
        socket.create_connection(place_of(address), timeout=2).close()
    except OSError:
        return False
    return True


def cluster_of(config: str) -> tuple[str, list[str]]:
    """Returns (address of this worker, addresses of the others) from TF_CONFIG.

    Raises:
        ValueError: it is invalid; the message says why, and what it should be.
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
        ValueError: there is no such TPU, or it belongs to another machine.
    """
    if name != "local":
        host = host_of(name)
        if not is_own(host):
            raise ValueError(
                f"--tpu={name} is at {host}, another machine: images are read by "
                "Python on the TPU's own machine; run train.py there, with --tpu=local"
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
        ValueError: there is no TPU of that name, or no answer within `SECONDS`.
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
    except Exception as error:  # From the network, Google's client, or TensorFlow.
        raise not_found(first_line(error)) from error
    return re.sub(r"^grpc://|:\d+$", "", address)


def is_own(host: str) -> bool:
    """Whether a host name or address is that of this machine."""
    try:
        with socket.socket() as own:
            own.bind((host, 0))
    except OSError:
        return False
    return True


def within(seconds: float, function):
    """Calls a function, with a time limit, and returns its result.

    Raises:
        TimeoutError: it took longer. It goes on in a thread of its own.
    """
    future: concurrent.futures.Future = concurrent.futures.Future()

    def call():
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    # Not of a pool, whose threads keep the process from ending.
    threading.Thread(target=call, daemon=True).start()
    try:
        return future.result(seconds)
    except concurrent.futures.TimeoutError:  # before Python 3.11 not the built-in one
        raise TimeoutError from None


def first_line(error) -> str:
    """Returns the first line of an error's message, or its type if that is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def of_workers(strategy) -> bool:
    """Whether a strategy has several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy) -> bool:
    """Whether this process is the one that validates, writes files and exports."""
    return strategy.extended.should_checkpoint


def check_batch(strategy, batch: int):
    """Raises ValueError if a batch cannot be divided equally among all replicas."""
    count = strategy.num_replicas_in_sync
    if batch % count:
        raise ValueError(f"--batch={batch} is not a multiple of {count} replicas")


def distributed(strategy, training):
    """Returns a training set of which each worker reads only its own part.

    Args:
        strategy: of the training.
        training: function from a `Share` to an endless `tf.data.Dataset`.
    """
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)

    def own(context):
        workers = context.num_input_pipelines
        replicas = context.num_replicas_in_sync // workers
        share = Share(context.input_pipeline_id, workers, replicas)
        # Known to be endless; else workers would ask each other before each step
        # whether all have another batch.
        return training(share).apply(endless)

    return strategy.distribute_datasets_from_function(own)


def follow_chief(strategy, variables):
    """Sets variables on all workers to the values that they have on the chief."""
    if not of_workers(strategy):
        return
    context = tf.distribute.get_replica_context

    def summed(values):
        first = tf.equal(context().replica_id_in_sync_group, 0)
        own = [tf.where(first, value, tf.zeros_like(value)) for value in values]
        return context().all_reduce(tf.distribute.ReduceOp.SUM, own)

    exchange = traced(lambda values: strategy.run(summed, [values]))
    # All values of one type are sent in one message.
    for kind in sorted({variable.dtype.name for variable in variables}):
        group = [variable for variable in variables if variable.dtype.name == kind]
        values = [variable.read_value() for variable in group]
        for variable, value in zip(group, exchange(values)):
            variable.assign(strategy.experimental_local_results(value)[0])


@contextlib.contextmanager
def together(strategy):
    """Turns TensorFlow's errors about a lost worker into one of a single line.

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
            "another worker is lost; start all of them again to resume from the last "
            "checkpoint"
        ) from error
