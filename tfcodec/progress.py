"""Keras callbacks between the steps of a training: logs, checkpoints, validations."""

from __future__ import annotations

import json
import math
import os
import sys
import time

import numpy as np
import tensorflow as tf
from absl import logging

from tfcodec import files, signals
from tfcodec.optimizers import inner_optimizer, steps_taken
from tfcodec.validation import Validation


def _on_a_terminal():
    return sys.stderr is not None and sys.stderr.isatty()


class Events:
    """A TensorBoard event file. (The writer of `tf.summary` ignores a full disk.)

    Raises:
        OSError: (also from each method) it could not be written.
    """

    def __init__(self, directory):
        self.path = directory / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        with files.writing(self.path):
            directory.mkdir(exist_ok=True)
            self.file = tf.io.TFRecordWriter(str(self.path))
        self.write(file_version="brain.Event:2")

    def write(self, **fields):
        event = tf.compat.v1.Event(wall_time=time.time(), **fields)
        with files.writing(self.path):
            self.file.write(event.SerializeToString())
            self.file.flush()

    def scalars(self, step, values):
        """Writes numbers by tag."""
        summary = tf.compat.v1.Summary()
        for tag, value in values.items():
            summary.value.add(tag=tag, simple_value=value)
        self.write(step=step, summary=summary)

    def image(self, step, tag, pixels):
        """Writes an image, uint8 [h, w, 3]."""
        height, width, _ = pixels.shape
        png = tf.io.encode_png(pixels).numpy()
        image = tf.compat.v1.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png
        )
        value = tf.compat.v1.Summary.Value(tag=tag, image=image)
        self.write(step=step, summary=tf.compat.v1.Summary(value=[value]))


class Guard(tf.keras.callbacks.Callback):
    """Counts steps, and stops at a loss that is not finite.

    If there are several workers, all but the first have only this callback. The loss is
    the same on all, so they stop at the same step.

    Attributes:
        step: number of steps taken, including those before the training was resumed.
    """

    kept = "that of the last checkpoint"  # the last good state, in words
    noted: list[int] = []  # signals that ask the training to end: `signals.deferred`

    def on_train_begin(self, logs=None):
        self.step = steps_taken(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if not math.isfinite(logs["loss"]):
            self.model.stop_training = True
            self.fail("the loss")
        self.reset_metrics()

    def reset_metrics(self):
        """Resets metrics: means over steps would depend on where a training resumed.

        The method of Keras would communicate with all workers for each variable.
        """
        local = self.model.distribute_strategy.experimental_local_results
        for metric in self.model.metrics:
            for variable in metric.variables:
                for own in local(variable):
                    own.assign(tf.zeros_like(own))

    def fail(self, what):
        """Raises an error on what is not finite, which names the last good state."""
        raise FloatingPointError(
            f"step {self.step}: {what} is not finite; the last good state is "
            f"{self.kept}"
        )


class Progress(Guard):
    """Logs, writes checkpoints and validates; stops at a loss that is not finite.

    Args:
        config: the settings of the training.
        directory: of the run.
        checkpoints: a `Checkpoints`.
        crops: dataset of `data.validation_set`.
    """

    def __init__(self, config, directory, checkpoints, crops):
        super().__init__()
        self.config, self.crops = config, crops
        self.checkpoints = checkpoints
        self.events = Events(directory / "logs")

    @property
    def kept(self):
        return self.checkpoints.latest or "the start"

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.prepare_validation()
        self.began, self.first = time.time(), self.step
        self.saved = time.time()
        self.sums = json.loads(self.checkpoints.sums.numpy())

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        for key, value in {"steps": 1, **logs}.items():
            self.sums[key] = self.sums.get(key, 0) + float(value)
        if self.step % self.config.log_steps == 0:
            steps = self.sums.pop("steps")
            self.record("train", {k: v / steps for k, v in self.sums.items()})
            self.sums = {}
        if self.step % self.config.validate_steps == 0:
            self.validate()
        if time.time() - self.saved > 60 * self.config.checkpoint_minutes:
            self.save()
        if _on_a_terminal() and self.step % self.config.log_steps:
            print(f"\r{self.status()}", end="", file=sys.stderr, flush=True)
        if self.noted:
            self.save()
            logging.info("stopped at step %d; the same command goes on", self.step)
            raise signals.Ended(self.noted[0])

    def on_train_end(self, logs=None):
        self.save()

    def save(self):
        """Writes a checkpoint, unless a weight is not finite."""
        for variable in self.model.trainable_variables:
            if not np.all(np.isfinite(variable.numpy())):
                self.fail(variable.name)
        self.checkpoints.seconds.assign_add(time.time() - self.saved)
        self.saved = time.time()
        self.checkpoints.sums.assign(json.dumps(self.sums))
        self.checkpoints.save(self.step)

    def status(self):
        """Returns step, speed and remaining time, in words."""
        done = self.step - self.first
        rate = done / max(1e-9, time.time() - self.began)
        left = (self.config.steps - self.step) / max(rate, 1e-9)
        minutes, seconds = divmod(round(left), 60)
        clock = f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
        pixels = rate * self.config.batch * self.config.patch**2 / 1e6
        return (
            f"step {self.step} of {self.config.steps}, {rate:.2f}/s, "
            f"{pixels:.2f} megapixels/s, {clock} left"
        )

    def record(self, name, values):
        """Logs numbers by name, in TensorBoard and as text."""
        scalars = {f"{key}/{name}": value for key, value in values.items()}
        if name == "train":  # The learning rate is a variable that the schedule sets.
            rate = inner_optimizer(self.model).learning_rate
            scalars["learning_rate"] = float(rate.numpy())
        self.events.scalars(self.step, scalars)
        text = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
        if _on_a_terminal():
            print("\r", end="", file=sys.stderr)
        logging.info("%s: %s (%s)", self.status(), text, name)

    def averaged(self):
        """Returns the variables of which the optimizer keeps averages."""
        return self.model.trainable_variables

    def prepare_validation(self):
        """Sets up what validations share, once."""
        self.validation = Validation(self.model, self.crops)

    def show_validation(self):
        """Validates the present weights; logs figures and a few reconstructions."""
        figures = self.validation.figures().items()
        self.record("validation", {k: float(v.mean()) for k, v in figures})
        for number, batch in enumerate(self.crops.take(3)):
            x_hat = self.model.outcome(batch)["x_hat"]
            x_hat = tf.clip_by_value(x_hat, 0, 255)
            row = tf.concat([batch["image"][:1], tf.cast(x_hat, tf.uint8)], 0)
            row = tf.concat(tf.unstack(row), 1)
            self.events.image(self.step, f"reconstruction/{number}", row)

    def validate(self):
        """Validates the averaged weights: see `show_validation`."""
        optimizer = inner_optimizer(self.model)
        variables = self.averaged()
        optimizer.swap_averages(variables)
        try:
            self.show_validation()
        finally:
            optimizer.swap_averages(variables)
