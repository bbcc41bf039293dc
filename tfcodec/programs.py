"""A training step as a compiled program: its folder, its state, its schedule.

`train.py --xla_program` writes the folder, `python -m tfcodec.accelerate` runs it and
writes a state, `train.py --run` reads that state. This is what both sides share, in
NumPy alone. A folder holds

- `step.hlo`: the step, a serialised HLO module (`xla.HloModuleProto`);
- `manifest.json`: what its arguments and results are, and the settings of the training;
- `state.npz`: the arrays that it begins with, by name; those that are all zero are
  left out.

The names of the state are `weights/0000` and so on, in order of the model's
`trainable_variables`; `momentum/...`, `velocity/...` and `average/...`, of Adam and the
moving average, in the same order; `iterations`; `rate`, the last learning rate; and
`constant/...`, what the step reads and never writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib
import shutil
import time

import numpy as np

from tfcodec import archives, files

VERSION = 1
MANIFEST, STEP, STATE, WEIGHTS = "manifest.json", "step.hlo", "state.npz", "weights.npz"
# What else a run directory holds: the settings, and the folders of the results.
CONFIG, CHECKPOINTS, MODEL = "config.json", "checkpoints", "model"
# Of a state: what is known of the run that made it, as JSON.
RECORD = "record"
# A learning rate falls to this part of its peak.
LOWEST = 0.01
# A mean loss this many times the lowest so far has exploded. The learning rate is then
# multiplied by SLOWER, at most MOST_RETURNS times in a training.
EXPLODED, SLOWER, MOST_RETURNS = 2.0, 0.7, 10

# Settings that may differ when a training resumes, as they do not affect the steps that
# were taken.
MAY_CHANGE = {
    "steps", "strategy", "replicas", "tpu", "name", "licence", "note", "log_steps",
    "validate_steps", "checkpoint_minutes",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Program:
    """The folder of a program.

    Attributes:
        directory: where it is.
        manifest: as `manifest.json` has it: `inputs`, a list of name, shape and dtype;
            `metrics`, names of the first results, scalars; `arguments`, for each of
            the step's arguments after the inputs its name, shape, dtype and the number
            of the result that replaces it, or null; `config`, the settings of the
            training.
    """

    directory: pathlib.Path
    manifest: dict

    @classmethod
    def at(cls, directory: str | os.PathLike) -> Program:
        """Opens a folder.

        Raises:
            ValueError: it is not that of a program, or that of another version.
        """
        path = pathlib.Path(directory) / MANIFEST
        try:
            manifest = json.loads(path.read_text("utf-8"))
            version = manifest["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{directory}: not a program: {error}") from None
        if version != VERSION:
            raise ValueError(
                f"{directory}: a program of version {version}, not {VERSION}: write it "
                "anew with this version of train.py"
            )
        return cls(pathlib.Path(directory), manifest)

    def step(self) -> bytes:
        return (self.directory / STEP).read_bytes()

    def input_shape(self, name) -> list[int]:
        return next(x["shape"] for x in self.manifest["inputs"] if x["name"] == name)

    def state(self, path: str | os.PathLike | None = None) -> dict[str, np.ndarray]:
        """Returns the arrays that a step takes: those of the start, or of a state.

        Args:
            path: a state file; its constants are taken from the program.

        Raises:
            ValueError: the file is damaged, or of another program.
        """
        first = read_arrays(self.directory / STATE)
        later = read_arrays(path) if path else {}
        result = {}
        for argument in self.manifest["arguments"]:
            name, dtype = argument["name"], argument["dtype"]
            shape = tuple(argument["shape"])
            constant = argument["output"] is None
            array = (later if path and not constant else first).get(name)
            if array is None and (constant or not path):
                array = np.zeros(shape, dtype)
            if array is None or (array.shape, array.dtype.name) != (shape, dtype):
                raise ValueError(f"{path or self.directory}: no {name} of this program")
            result[name] = array
        return result


def write_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by name, all or nothing.

    Raises:
        OSError: it could not be written; what was there is as it was.
    """
    with files.new_file(path) as file:
        np.savez(file, **arrays)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote.

    Raises:
        ValueError: it is not there, or damaged.
    """
    with _opened(path) as stored:
        return {name: stored[name] for name in stored.files}


@contextlib.contextmanager
def _opened(path):
    """Opens what `write_arrays` wrote; ValueError if that, or reading, fails."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    except archives.DAMAGED as error:
        raise ValueError(f"cannot read a state from {path}: {error}") from None


def write_state(run: str | os.PathLike, arrays: dict, record: dict) -> None:
    """Writes a run's state, and its averaged weights in order, which `--init` takes.

    Args:
        run: the directory of the run.
        arrays: of the state, by name.
        record: what is known of the run; JSON.
    """
    run = pathlib.Path(run)
    text = np.array(json.dumps(record))
    write_arrays(run / STATE, {**arrays, RECORD: text})
    average = {k: v for k, v in sorted(arrays.items()) if k.startswith("average/")}
    write_arrays(run / WEIGHTS, average)


def record_of(run: str | os.PathLike) -> dict | None:
    """Returns the record of the state of a run; None if no state is there.

    Raises:
        ValueError: the state is damaged.
    """
    path = pathlib.Path(run) / STATE
    if not path.exists():
        return None
    with _opened(path) as stored:
        return json.loads(str(stored[RECORD]))


def keep_settings(
    settings: dict, directory: pathlib.Path, defaults: dict, made: str = ""
) -> None:
    """Compares settings with the `config.json` of a run, if any, then writes it.

    A run that ended before it had anything to go on from may begin anew with others;
    the log tells which.

    Args:
        settings: of the training, by name.
        directory: of the run, which is made.
        defaults: values of settings that the file does not have.
        made: a folder in `directory` that depends on the settings, to be removed if
            these change; empty for none.

    Raises:
        ValueError: the directory is of a training with other settings.
        OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / CONFIG
    if path.exists():
        stored = _settings_of(path)
        # What a setting was before there was a flag for it is now its default.
        old = {**defaults, **stored}
        changed = [k for k in settings if old.get(k) != settings[k]]
        changed = [k for k in changed if k not in MAY_CHANGE]
        # A file without steps is that of another program.
        if changed and (began(directory) or "steps" not in stored):
            raise ValueError(
                f"{directory} is a training with other settings: "
                + ", ".join(f"{k}={old.get(k)!r}, not {settings[k]!r}" for k in changed)
            )
        if changed:
            logging.warning(
                "%s had no checkpoint yet: it begins anew, with another %s",
                directory, ", ".join(changed),
            )  # fmt: skip
            if made and (directory / made).exists():
                shutil.rmtree(directory / made)
    with files.new_file(path) as file:
        file.write(json.dumps(settings, indent=1).encode() + b"\n")


def _settings_of(path):
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return found


def began(run: pathlib.Path) -> bool:
    """Whether a run has a checkpoint, a state of `accelerate`, or a model."""
    # The name of a checkpoint whose writing was interrupted ends in `_temp`.
    results = (f"{CHECKPOINTS}/ckpt-*.*", STATE, MODEL)
    return any(next(run.glob(result), None) for result in results)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate: linear warm-up, hold, and half a cosine to a hundredth.

    It depends on the step, and on how far the training is, which the clock may tell.

    Args:
        peak: the highest rate.
        warmup: steps of the warm-up.
        hold: part of the training before the rate falls, 0 to 1.
    """

    peak: float
    warmup: int
    hold: float

    def rate(self, step, progress, numbers=np):
        """The rate of step number `step`, from 0 on, at `progress`, 0 to 1.

        Args:
            step: a number, or a float32 tensor.
            progress: likewise.
            numbers: the module that computes: `numpy`, or `tensorflow` for tensors.
        """
        warm = numbers.minimum(1.0, (step + 1) / max(1, self.warmup))
        fall = (progress - self.hold) / max(1e-9, 1 - self.hold)
        fall = numbers.minimum(numbers.maximum(fall, 0.0), 1.0)
        half = (1 - LOWEST) / 2
        return self.peak * warm * (LOWEST + half * (1 + numbers.cos(math.pi * fall)))


@dataclasses.dataclass
class Steps:
    """How far a training of a number of steps is, 0 to 1."""

    steps: int
    last = 1.0

    def begin(self) -> None:
        """Is called just before the first step."""

    def progress(self, iterations: int) -> float:
        return iterations / max(1, self.steps)


@dataclasses.dataclass
class Clock:
    """How far a training is by the time, 0 to 1.

    Args:
        minutes: how long this run is to take.
        deadline: a file that may hold the time at which the run is to end instead, in
            seconds since 1970. It may come late, and change.
        first, last: the part of the schedule that this run goes through.
        now: what tells the time, in seconds since 1970.
    """

    minutes: float
    deadline: str = ""
    first: float = 0.0
    last: float = 1.0
    now: object = time.time

    def begin(self) -> None:
        """The first step is about to be taken: the minutes count from here on."""
        self.began = self.now()

    def ending(self) -> float:
        """When the run is to end, in seconds since 1970."""
        try:
            with open(self.deadline) as file:
                return float(file.read())
        except (OSError, ValueError):  # Not there yet, or being written.
            return self.began + 60 * self.minutes

    def progress(self, iterations: int) -> float:
        total = max(1e-9, self.ending() - self.began)
        gone = min(1.0, (self.now() - self.began) / total)
        return self.first + (self.last - self.first) * gone


class Watch:
    """Tells from the mean losses of a training whether it exploded.

    Attributes:
        scale: what learning rates are to be multiplied by.
    """

    def __init__(self, scale: float = 1.0):
        self.best, self.scale, self.returns = math.inf, scale, 0

    def exploded(self, loss: float, good: int, steps: int) -> bool:
        """Whether to return to the last snapshot; the rate is then lower.

        Args:
            loss: the mean over the `good` of the last `steps` steps, those that were
                finite.

        Raises:
            FloatingPointError: it has exploded `MOST_RETURNS` times.
        """
        bad = 2 * good < steps or not loss <= EXPLODED * self.best
        if not bad:
            self.best = min(self.best, loss)
            return False
        if self.returns == MOST_RETURNS:
            raise FloatingPointError(
                f"the loss exploded {MOST_RETURNS + 1} times, last from "
                f"{self.best:.4g} to {loss:.4g}, at {self.scale:.3g} times the "
                "learning rate"
            )
        self.returns += 1
        self.scale *= SLOWER
        return True
