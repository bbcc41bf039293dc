"""Checkpoints of a training, none of which is resumed from when it is damaged."""

from __future__ import annotations

import os
import pathlib
import re
import shutil

import tensorflow as tf
from absl import logging

from tfcodec import files

# Checkpoints kept.
KEPT = 3


class Checkpoints:
    """The newest checkpoints of a run; one that is damaged is never resumed from.

    Attributes:
        latest: path of the newest, as TensorFlow takes it, or None.
        seconds: variable, how long the training took so far.
        sums: variable, what `Progress` has summed since its last entry, as JSON.
    """

    def __init__(self, directory, model):
        self.directory = pathlib.Path(directory) / "checkpoints"
        self.latest, self.damaged = None, []
        self.seconds = tf.Variable(0.0, trainable=False)
        self.sums = tf.Variable("{}", trainable=False)
        state = {"model": model, "optimizer": model.optimizer, "seconds": self.seconds}
        self.whole = tf.train.Checkpoint(**state, sums=self.sums)
        self.needed = tf.train.Checkpoint(**state)  # Once there were no sums.

    def paths(self) -> list[str]:
        """Returns what is there, whole or not, newest first."""
        found = (path.name for path in self.directory.glob("ckpt-*"))
        found = {re.match(r"ckpt-(\d+)\.(index|data)", name) for name in found} - {None}
        steps = sorted({int(match[1]) for match in found}, reverse=True)
        return [str(self.directory / f"ckpt-{step}") for step in steps]

    def restore(self) -> str | None:
        """Restores the newest whole checkpoint; returns it, or None if there is none.

        Raises:
            ValueError: there are checkpoints, and all are damaged, or of another model.
        """
        for path in self.paths():
            why = damage(path)
            if not why:
                self.latest = path
                break
            if os.path.exists(path + "_temp"):  # Killed while it was written.
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
                f"every checkpoint in {self.directory} is damaged; to begin anew, "
                "remove that directory"
            )
        return self.latest

    def save(self, step):
        """Writes a checkpoint, and removes old ones and damaged ones.

        Raises:
            OSError: it could not be written; those before are as they were.
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
            if old != path:  # A damaged one may just have been written again.
                self.remove(old)
        self.damaged = []

    def remove(self, path):
        """Removes a checkpoint, or what there is of it."""
        shutil.rmtree(path + "_temp", ignore_errors=True)
        for file in self.directory.glob(os.path.basename(path) + ".*"):
            file.unlink()


def damage(path) -> str:
    """Says what is wrong with a checkpoint, or nothing. Every checksum is checked.

    To restore from a damaged one would tell as well, but leave the model half restored.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    return ""
