"""Trainings in processes of their own, which a test may kill, that start at once."""

import gc
import multiprocessing
import os

from tests import tiny
from tfcodec import signals

# Processes that import what a training needs once, and begin with it.
PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["train", "tfcodec.realism", "tfcodec.litert_export", "tests.apart"]
PROCESSES.set_forkserver_preload(PRELOADED)
# To be kept: one that is let go sets back what it has set.
UNOPTIMISED = tiny.unoptimised()


def begin(log):
    """Has this process tell what it does in a file, and waste no time on graphs."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for own in (1, 2):
        os.dup2(file, own)
    gc.freeze()
    gc.set_threshold(50_000)
    UNOPTIMISED.__enter__()


def arguments(config, run):
    """Those of `train.py`, for a training's settings and the directory of its run."""
    flags = {k: v for k, v in vars(config).items() if v != ""}
    return [f"--run={run}", *(f"--{name}={value}" for name, value in flags.items())]


def train(log, config, run):
    """What the process of a training does: `train.py`."""
    begin(log)
    signals.clean_up()
    from absl import app, logging

    import train

    logging.set_verbosity(logging.INFO)
    app.run(train.main, ["train.py", *arguments(config, run)])


def start(function, *given):
    """Starts a process that calls a function of what is given; returns it."""
    process = PROCESSES.Process(target=function, args=given)
    process.start()
    return process
