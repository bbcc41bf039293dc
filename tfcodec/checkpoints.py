"""Checkpoints of a training; it never resumes from a damaged one."""

from __future__ import annotations

import os
import pathlib
import re
import shutil

import tensorflow as tf
from absl import logging

from tfcodec import files, programs

KEPT = 3  # checkpoints; older ones are removed


class Checkpoints:
    """The newest checkpoints of a run.

    Args:
        directory: of the run.
        model: a compiled Keras model.

    Attributes:
        latest: path prefix of the newest intact checkpoint, or None.
        seconds: variable, the duration of the training so far.
        sums: variable, sums of `progress.Progress` since its last log entry, as JSON.
    """

    def __init__(self, directory, model):
        self.directory = pathlib.Path(directory) / programs.CHECKPOINTS
        self.latest, self.damaged = None, []
        self.seconds = tf.Variable(0.0, trainable=False)
        self.sums = tf.Variable("{}", trainable=False)
        state = {"model": model, "optimizer": model.optimizer, "seconds": self.seconds}
        self.whole = tf.train.Checkpoint(**state, sums=self.sums)
        self.needed = tf.train.Checkpoint(**state)  # Old checkpoints have no sums.

    def paths(self) -> list[str]:
        """Returns the path prefixes of all checkpoints, intact or not, newest first."""
        found = (path.name for path in self.directory.glob("ckpt-*"))
        found = {re.match(r"ckpt-(\d+)\.(index|data)", name) for name in found} - {None}
        steps = sorted({int(match[1]) for match in found}, reverse=True)
        return [str(self.directory / f"ckpt-{step}") for step in steps]

    def restore(self) -> str | None:
        """Restores the newest intact checkpoint; returns its path, or None if none.

        Raises:
            ValueError: there are checkpoints, and all are damaged, or of another model.
        """
        for path in self.paths():
            why = damage(path)
            if not why:
                self.latest = path
                break
            if os.path.exists(path + "_temp"):  # Its writing was interrupted.
                self.remove(path)
                continue
            logging.warning("not resumed from %s, which is damaged: %s", path, why)
            self.damaged.append(path)
        for unfinished in self.directory.glob("ckpt-*_temp"):
            shutil.rmtree(unfinished)
        if self.latest:
            try:
                status = self.needed.read(self.latest).expect_partial()
                status.assert_existing_objects_matched()
            except (AssertionError, ValueError) as error:
                raise ValueError(f"{self.latest} is of another model") from error
            self.whole.read(self.latest).expect_partial()
        elif self.damaged:
            raise ValueError(
                f"every checkpoint in {self.directory} is damaged; to start the "
                "training again, remove that directory"
            )
        return self.latest

    def save(self, step):
        """Writes a checkpoint of a step; removes old and damaged ones.

        Raises:
            OSError: it could not be written; earlier ones are unchanged.
        """
        path = str(self.directory / f"ckpt-{step}")
        if path == self.latest:
            return
        try:
            with files.writing(path):
                self.whole.write(path)
        except OSError:
            self.remove(path)
            raise
        self.latest = path
        good = [path for path in self.paths() if path not in self.damaged]
        for old in good[KEPT:] + self.damaged:
            if old != path:  # A damaged one of the same step was just replaced.
                self.remove(old)
        self.damaged = []

    def remove(self, path):
        """Removes all files of a checkpoint, complete or not."""
        shutil.rmtree(path + "_temp", ignore_errors=True)
        for file in self.directory.glob(os.path.basename(path) + ".*"):
            file.unlink()


def damage(path) -> str:
    """Returns what is wrong with a checkpoint, or "". Every checksum is checked.

    Restoring would find damage, too, but leave the model partly restored.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    return ""
