"""Training: one frozen config in, a run directory with an exported model out.

A run directory has `config.json`, `checkpoints/`, TensorBoard events in `logs/`, the
file of `locks`, and in the end `model/`, the exported SavedModel.  Started again with
the same directory, a training resumes with the same weights, optimizer state, averages,
data position and noise: the result is as if it had not been interrupted, at whatever
moment it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re

import tensorflow as tf
from absl import logging

from tfcodec import (
    architectures,
    archives,
    data,
    export,
    held_out,
    inputs,
    locks,
    losses,
    optimizers,
    programs,
    registry,
    signals,
    strategies,
    weights,
    xla_program,
)
from tfcodec.checkpoints import Checkpoints
from tfcodec.optimizers import inner_optimizer, steps_taken
from tfcodec.progress import Guard, Progress
from tfcodec.settings import TrainConfig, WrongSetting
from tfcodec.validation import Validation

# Number of batches to which the tables of a trained model are fitted.
CALIBRATION_STEPS = 200
# Settings that a model card leaves out: they describe a computer, not the model.
PRIVATE = {
    "images", "validation", "data_dir", "init", "second", "record", "name", "note",
    "tpu",
}  # fmt: skip


@contextlib.contextmanager
def prepared(config, directory: pathlib.Path, made: str = "", wanted: bool = True):
    """Holds the lock of a run directory within this context, with its `config.json`.

    Args:
        config: the settings, which are compared with those that are there.
        directory: of the run.
        made: as for `programs.keep_settings`.
        wanted: whether to do so.

    Raises:
        ValueError: the directory is that of a training with other settings, or the
            model would replace what is none.
        OSError: it cannot be written, or another training writes to it.
    """
    if not wanted:
        yield
        return
    registry.check_replaceable(directory / programs.MODEL)
    with locks.alone(directory):
        defaults = dataclasses.asdict(type(config)())
        programs.keep_settings(dataclasses.asdict(config), directory, defaults, made)
        yield


def network(config: TrainConfig, precision: str) -> tf.keras.Model:
    """Returns a model before any training; `precision` is a policy of Keras."""
    tf.keras.mixed_precision.set_global_policy(precision)
    tf.keras.utils.set_random_seed(config.seed)
    model = architectures.build(
        config.arch,
        config.lmbda_range(),
        losses.Distortion.parse(config.distortion),
        **config.builder_options(),
    )
    tf.keras.mixed_precision.set_global_policy("float32")
    return model


def build(config: TrainConfig, schedule=None) -> tf.keras.Model:
    """Returns the compiled model, with initial weights and optimizer state.

    Call it within the scope of the strategy.

    Args:
        config: the settings.
        schedule: of the learning rate, to use in place of the config's.
    """
    model = network(config, config.precision)
    if archives.is_arrays(config.init):
        weights.load_arrays(model.trainable_variables, config.init)
    elif config.init:
        weights.load_model(model, config.start().path)
        model.lowered = architectures.lowered(config.start().card)
    if config.extrapolate:
        model.lower(config.extrapolate)
    optimizer = optimizers.averaging(config, schedule)
    optimizer.build(model.trainable_variables)
    if config.precision == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(optimizer)
    # Metrics are means over all replicas already on each; Keras would add them up.
    model.distribute_reduction_method = "first"
    return model


def datasets(config: TrainConfig, validating: bool = True):
    """Returns (function that returns a training set, validation set).

    The function takes the number of the first example, and, to return only a part of
    each batch, a `data.Share`. The validation set is None unless `validating`.

    Raises:
        ValueError: there are no images to train or to validate on, or some are both.
    """
    count = config.validation_images
    side = held_out.side_of(config.patch)
    if config.dataset:
        images, held = data.tfds_sets(config.dataset, config.data_dir or None, count)
        read, paths = data.tfds_training_set, ()
    else:
        paths = inputs.find_images(inputs.patterns_of(config.images), logging.warning)
        if not config.validation:
            paths, held_paths = held_out.split(paths, side)
        images = paths = data.usable(paths, config.patch)
        read = data.training_set
        logging.info("training on %d images", len(paths))

    def training(first, share=data.WHOLE):
        return read(images, config.patch, config.batch, config.seed, first, share)

    if config.validation:
        held_paths = inputs.find_images(
            inputs.patterns_of(config.validation), logging.warning
        )
        if both := set(held_paths) & set(paths):
            raise ValueError(
                f"{len(both)} images are both in --images and in --validation"
            )
    if not validating:
        return training, None
    if config.validation or config.images:
        held = data.open_images(data.usable(held_paths, side), count)
    return training, data.validation_set(held, side)


@contextlib.contextmanager
def reading():
    """Turns TensorFlow's errors about training data into a ValueError of one line."""
    of_files = tf.errors.NotFoundError, tf.errors.DataLossError
    try:
        yield
    except (tf.errors.InvalidArgumentError, *of_files) as error:
        # The message of `data` or of TFDS is a part of TensorFlow's long message.
        tfds = isinstance(error, of_files)
        pattern = r"^(.+)\n\t \[\[" if tfds else r"^ValueError: (.+)\nTraceback"
        words = re.search(pattern, error.message, re.MULTILINE)
        if not words:
            raise
        raise ValueError(f"data: {words[1]}" if tfds else words[1]) from error


def resume(model, directory, checkpoints):
    """Restores the last saved state in the directory of a run, if there is one.

    Raises:
        ValueError: it is damaged, or of another model.
    """
    if checkpoints.restore():
        logging.info("resumed from %s", checkpoints.latest)
    if accelerated := xla_program.resume(model, directory):
        logging.info("resumed from a training on an accelerator: %s", accelerated)
        checkpoints.seconds.assign(accelerated["seconds"])


def fit(model, config, directory, checkpoints, training, validation):
    """Trains a model up to `config.steps`, and leaves it with its averaged weights.

    Args:
        model: compiled, as `build` returns it within the scope of a strategy.
        config: the `TrainConfig`.
        directory: of the run.
        checkpoints: of the model; training resumes from the last one.
        training, validation: as `datasets` returns them.
    """
    strategy = model.distribute_strategy
    chief = strategies.is_chief(strategy)
    if chief:
        resume(model, directory, checkpoints)
    strategies.follow_chief(strategy, [*model.variables, *model.optimizer.variables])
    step = steps_taken(model)
    if step < config.steps:
        progress = Guard()
        if chief:
            progress = Progress(config, directory, checkpoints, validation)
        first = step * config.batch
        with reading(), signals.deferred(chief) as progress.noted:
            model.fit(
                strategies.distributed(strategy, lambda share: training(first, share)),
                steps_per_epoch=config.steps - step,
                verbose=0,
                callbacks=[progress],
            )
    if config.steps:
        inner_optimizer(model).swap_averages(model.trainable_variables)


def for_export(model, config: TrainConfig) -> tf.keras.Model:
    """Returns a trained model in full precision and on one device, to export.

    It is the model itself if that was trained so, or else a copy.
    """
    if config.precision == "float32" and config.strategy == "none":
        return model
    whole = network(config, "float32")
    whole.lowered = model.lowered
    for variable, trained in zip(whole.trainable_variables, model.trainable_variables):
        variable.assign(trained)
    return whole


def history(config: TrainConfig, model, checkpoints) -> dict:
    """Returns the card's entries on how a model was trained, and for how long."""
    settings = dataclasses.asdict(config).items()
    return {
        "note": config.note,
        "settings": {k: v for k, v in settings if k not in PRIVATE},
        "steps": steps_taken(model),
        "hours": round(float(checkpoints.seconds) / 3600, 2),
    }


def train(config: TrainConfig, directory: str | os.PathLike) -> pathlib.Path | None:
    """Trains until `config.steps`, from the last checkpoint if there is one; exports.

    Returns:
        The directory of the exported model, `directory/model`. If there are several
        workers, only the first writes it; the others return None.

    Raises:
        ValueError: a setting is invalid, images are missing, the directory has other
            settings, or all its checkpoints are damaged.
        OSError: another training writes to the directory; or something could not be
            read or written, or another worker is lost, and the last checkpoint is kept.
        FloatingPointError: the loss is no longer finite; the last good state is kept.
    """
    directory = pathlib.Path(directory)
    config.check_values()
    # First, as TensorFlow cannot connect to other machines once it has started.
    strategy = strategies.make(config.strategy, config.replicas, config.tpu)
    strategies.check_batch(strategy, config.batch)
    config.check()
    chief = strategies.is_chief(strategy)
    training, validation = datasets(config, chief)
    with prepared(config, directory, wanted=chief):
        with strategies.together(strategy):
            with strategy.scope():
                model = build(config)
            for part, cost in model.kmac_per_pixel().items() if chief else ():
                logging.info("%s: %.2f kMAC per pixel", part, cost)
            checkpoints = Checkpoints(directory, model)
            fit(model, config, directory, checkpoints, training, validation)
        if not chief:
            return None
        return finish(model, config, directory, checkpoints, training, validation)


def finish(model, config, directory, checkpoints, training, validation) -> pathlib.Path:
    """Fits the tables of a trained model, and exports it; arguments as for `fit`.

    Returns:
        The exported model's directory.
    """
    whole = for_export(model, config)
    logging.info("fitting the coder's tables")
    # The tables are fitted to the patches that would have come next.
    patches = training(config.steps * config.batch)
    with reading():
        steps = steps_taken(model)
        count = min(steps or CALIBRATION_STEPS, CALIBRATION_STEPS)
        whole.calibrate(patches.take(count))
    logging.info("validating")
    figures = Validation(whole, validation).rows()
    for row in figures:
        words = (f"{name} {v}" for name, v in row.items() if v is not None)
        logging.info("measured: %s", ", ".join(words))
    record = {**history(config, model, checkpoints), "figures": figures}
    if config.init:
        record["began_from"] = config.began_from()
    if accelerated := programs.record_of(directory):
        record["accelerator"] = accelerated
    options = config.builder_options()
    logging.info("exporting")
    # By default a name of its own: `tfcodec` would be that of a shipped model, too.
    name = config.name or directory.absolute().name
    return export.export(
        whole, directory / programs.MODEL, config.arch, options, record, name,
        licence=config.licence,
    )  # fmt: skip


def write_program(config: TrainConfig, directory: str | os.PathLike) -> pathlib.Path:
    """Writes the training step as a program for `accelerate`; returns its folder.

    Raises:
        ValueError: a setting is invalid, or not supported in such a program.
        OSError: something could not be read or written.
    """
    config.check()
    if config.strategy != "none":
        raise WrongSetting(
            "--xla_program is the step of one device: leave out --strategy"
        )
    if config.precision == "mixed_float16":
        raise WrongSetting(
            "--xla_program does not support mixed_float16: use mixed_bfloat16"
        )
    given = xla_program.Given()
    return xla_program.write(build(config, given), given, config, directory)
