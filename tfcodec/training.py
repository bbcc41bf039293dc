"""Training: one frozen config in, a run directory with an exported model out.

A run directory holds `config.json`, `checkpoints/`, TensorBoard events under `logs/`,
and at the end `model/`, the exported SavedModel.  Started again with the same
directory, a training goes on where it was: weights, optimizer, averages, data position
and noise, as if it had not stopped, whatever it was killed at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re

import tensorflow as tf
from absl import logging

from tfcodec import (
    architectures,
    data,
    export,
    files,
    losses,
    optimizers,
    programs,
    registry,
    strategies,
    weights,
    xla_program,
)
from tfcodec.checkpoints import Checkpoints
from tfcodec.optimizers import inner_optimizer, steps_taken
from tfcodec.progress import Guard, Progress
from tfcodec.validation import Validation

# Pixels a side: MS-SSIM, which every validation measures, has a window of 11.
SMALLEST_PATCH = 11


def setting(default, help):
    return dataclasses.field(default=default, metadata={"help": help})


def check_patches(config, stride: int = 64):
    """Raises ValueError unless a config names images, and patches that fit.

    Args:
        config: a dataclass of settings.
        stride: pixels; what sides of patches must be multiples of.
    """
    if bool(config.images) == bool(config.dataset):
        raise ValueError("give --images or --dataset, one of them")
    if config.patch % stride or config.patch < SMALLEST_PATCH:
        raise ValueError(
            f"--patch must be a multiple of {stride}, from {SMALLEST_PATCH} on, not "
            f"{config.patch}"
        )


def check_counts(config, *names, steps):
    """Raises ValueError if one of a config's numbers of `names` is below 1.

    Args:
        config: a dataclass of settings.
        names: of its fields.
        steps: the least that its `steps` may be.
    """
    for name, least in {"steps": int(steps), **dict.fromkeys(names, 1)}.items():
        if getattr(config, name) < least:
            raise ValueError(f"--{name} must be at least {least}")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All that decides a training. Each field is a flag of `train.py`."""

    arch: str = setting("tfcodec", "Architecture, a name in tfcodec.architectures.")
    options: str = setting("{}", 'Arguments of its builder as JSON, e.g. {"n": 128}.')
    images: str = setting("", "Folders or globs of images, separated by commas.")
    dataset: str = setting("", "Or a TFDS name, e.g. clic.")
    data_dir: str = setting("", "Where TFDS keeps its data; empty for its default.")
    validation: str = setting(
        "", "Folders or globs held out; by default one file in fifty of --images."
    )
    validation_images: int = setting(24, "Images validated on, at five qualities each.")
    distortion: str = setting(
        "mse",
        "What to train for: mse, ssim, ms-ssim, ssimulacra2, masked-mse, or a mixture "
        "with weights, e.g. mse:0.3,ssimulacra2:0.7.",
    )
    lmbda: float = setting(0.0, "Weight of the distortion, for a model of one rate.")
    lmbda_min: float = setting(0.001, "Lambda at quality 0, unless --lmbda is given.")
    lmbda_max: float = setting(0.512, "Lambda at quality 100, likewise.")
    steps: int = setting(
        1_000_000,
        "Optimizer steps in all, resumed ones included; 0 with --init only "
        "fits tables and exports.",
    )
    batch: int = setting(8, "Patches a step.")
    patch: int = setting(
        256,
        "Side of a patch in pixels, a multiple of the architecture's stride: 64, or 16 "
        "without a hyperprior; of cnn 2 to the power of its layers.",
    )
    init: str = setting(
        "",
        "What to go on from, weights alone: a shipped model's name, a model "
        "directory, or a file of arrays (.npz, .npy; see tfcodec/weights.py).",
    )
    record: str = setting(
        "", "JSON file that says how the arrays of --init were made, for the card."
    )
    learning_rate: float = setting(5e-4, "Peak learning rate of Adam.")
    warmup: int = setting(200, "Steps of linear warm-up.")
    hold: float = setting(0.3, "Part of the steps before the cosine fall begins.")
    clip: float = setting(1.0, "Largest global norm of the gradient.")
    average: float = setting(0.999, "Momentum of the moving average of weights.")
    precision: str = setting(
        "float32", "Of transforms; or mixed_bfloat16, mixed_float16."
    )
    strategy: str = setting(
        "none",
        "Where to train in step: mirrored, on devices of this machine; multi_worker, "
        "on machines that TF_CONFIG names; tpu; or none, on one device.",
    )
    replicas: int = setting(0, "Devices of --strategy=mirrored; 0 for every GPU.")
    tpu: str = setting(
        "local", "TPU of --strategy=tpu: local, its name or address in Google's cloud."
    )
    name: str = setting("", "Name of the model; by default that of the architecture.")
    note: str = setting("", "For the model card: what the images are, the hardware.")
    seed: int = setting(0, "Seed of initial weights, data order and noise.")
    log_steps: int = setting(100, "Steps between entries in the log and TensorBoard.")
    validate_steps: int = setting(1000, "Steps between validations.")
    checkpoint_minutes: float = setting(5.0, "Minutes between checkpoints.")

    def lmbda_range(self) -> tuple[float, float]:
        if self.lmbda:
            return self.lmbda, self.lmbda
        return self.lmbda_min, self.lmbda_max

    def check(self):
        """Raises ValueError, in words for the command line."""
        low, high = self.lmbda_range()
        if not 0 < low <= high:
            raise ValueError(f"lambda must be positive and ordered: {low}, {high}")
        options = self.builder_options()
        stride = architectures.assembled(self.arch, (low, high), **options).stride
        check_patches(self, stride)
        check_counts(self, "batch", "log_steps", "validate_steps", steps=not self.init)
        losses.Distortion.parse(self.distortion)
        self.began_from()
        if self.record and not weights.is_arrays(self.init):
            raise ValueError("--record says how the arrays of --init were made")
        if weights.is_arrays(self.init) and not os.path.isfile(self.init):
            raise ValueError(f"--init={self.init}: no such file")
        start = self.start()
        both = [options, start.card["options"] if start else {}]
        # A model may have residual blocks that the one it begins from has not.
        blocks = ("blocks", "synthesis_blocks")
        rest = [{k: v for k, v in x.items() if k not in blocks} for x in both]
        if start and (
            start.card["architecture"] != self.arch
            or rest[0] != rest[1]
            or start.single_rate != (low == high)
        ):
            raise ValueError(f"--init={self.init} is a model of another architecture")

    def start(self) -> registry.Model | None:
        """The exported model to go on from, if it is one."""
        if not self.init or weights.is_arrays(self.init):
            return None
        return registry.resolve(self.init)

    def began_from(self) -> dict | None:
        """What the card says of what the training began from.

        Raises:
            ValueError: the file that --record names is no JSON object.
        """
        start = self.start()
        if start:
            return {key: start.card[key] for key in ("fingerprint", "training")}
        if not self.init:
            return None
        if not self.record:
            return {"training": {}}
        try:
            training = json.loads(pathlib.Path(self.record).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"--record={self.record}: {error}") from None
        if not isinstance(training, dict):
            raise ValueError(f"--record={self.record}: not a JSON object")
        return {"training": training}

    def builder_options(self) -> dict:
        try:
            options = json.loads(self.options)
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise ValueError(f"--options must be a JSON object: {self.options}")
        return options


# Batches that the tables of a trained model are fitted to.
CALIBRATION_STEPS = 200
# What a model card leaves out, as it says more of a computer than of a model.
PRIVATE = {
    "images", "validation", "data_dir", "init", "second", "record", "name", "note",
    "tpu",
}  # fmt: skip


def prepare_directory(config, directory: pathlib.Path):
    """Writes `config.json`, or holds `config` against the one that is there.

    Raises:
        ValueError: the directory is of a training with other settings.
        OSError: it cannot be written.
    """
    defaults = dataclasses.asdict(type(config)())
    programs.keep_settings(dataclasses.asdict(config), directory, defaults)


def network(config: TrainConfig, precision: str) -> tf.keras.Model:
    """Returns the model as it is before any training."""
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
    """Returns the compiled model, with optimizer state made. Call it under a scope.

    Args:
        config: the settings.
        schedule: of the learning rate, another one than that of the config.
    """
    model = network(config, config.precision)
    if weights.is_arrays(config.init):
        weights.load_arrays(model, config.init)
    elif config.init:
        weights.load_model(model, config.start().path)
    optimizer = optimizers.averaging(config, schedule)
    optimizer.build(model.trainable_variables)
    if config.precision == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(optimizer)
    # Of metrics each replica has the mean over all; Keras would add these up.
    model.distribute_reduction_method = "first"
    return model


def datasets(config: TrainConfig, validating: bool = True):
    """Returns (function that returns a training set, validation set).

    The function takes the first example's number, and a `data.Share` if it is to return
    a part of each batch. Unless `validating`, there is no validation set.
    """
    count = config.validation_images
    side = min(config.patch, data.VALIDATION_MULTIPLE)
    if config.dataset:
        images, held = data.tfds_sets(config.dataset, config.data_dir or None, count)
        read, paths = data.tfds_training_set, ()
    else:
        paths = files.find_images(files.patterns_of(config.images), logging.warning)
        if not config.validation:
            paths, held_paths = files.hold_out(paths)
        images = paths = data.usable(paths, config.patch)
        read = data.training_set
        logging.info("training on %d images", len(paths))

    def training(first, share=data.WHOLE):
        return read(images, config.patch, config.batch, config.seed, first, share)

    if config.validation:
        held_paths = files.find_images(
            files.patterns_of(config.validation), logging.warning
        )
        if both := set(held_paths) & set(paths):
            raise ValueError(f"{len(both)} images to validate on are trained on too")
    if not validating:
        return training, None
    if config.validation or config.images:
        held = data.open_images(data.usable(held_paths, side), count)
    return training, data.validation_set(held, side)


@contextlib.contextmanager
def reading():
    """Turns what is wrong with the data into a ValueError of one line."""
    of_files = tf.errors.NotFoundError, tf.errors.DataLossError
    try:
        yield
    except (tf.errors.InvalidArgumentError, *of_files) as error:
        # Much surrounds the words, those of `data` or those of what reads TFDS.
        tfds = isinstance(error, of_files)
        pattern = r"^(.+)\n\t \[\[" if tfds else r"^ValueError: (.+)\nTraceback"
        words = re.search(pattern, error.message, re.MULTILINE)
        if not words:
            raise
        raise ValueError(f"data: {words[1]}" if tfds else words[1]) from error


def resume(model, directory, checkpoints):
    """Gives a model the state that was last kept in the directory of its run, if any.

    Raises:
        ValueError: what is there is damaged, or of another model.
    """
    if checkpoints.restore():
        logging.info("resumed from %s", checkpoints.latest)
    if accelerated := xla_program.resume(model, directory):
        logging.info("goes on from what an accelerator trained: %s", accelerated)
        checkpoints.seconds.assign(accelerated["seconds"])


def fit(model, config, directory, checkpoints, training, validation):
    """Trains a model up to `config.steps`, and leaves it with its averaged weights.

    Args:
        model: compiled, as `build` returns it under the scope of a strategy.
        config: the `TrainConfig`.
        directory: of the run.
        checkpoints: of the model; it goes on from the last one.
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
        with reading():
            model.fit(
                strategies.distributed(strategy, lambda share: training(first, share)),
                steps_per_epoch=config.steps - step,
                verbose=0,
                callbacks=[progress],
            )
    if config.steps:
        inner_optimizer(model).swap_averages(model.trainable_variables)


def for_export(model, config: TrainConfig) -> tf.keras.Model:
    """Returns a trained model as it is exported: in full precision, on one device.

    That is the model itself, unless it was trained otherwise.
    """
    if config.precision == "float32" and config.strategy == "none":
        return model
    whole = network(config, "float32")
    for variable, trained in zip(whole.trainable_variables, model.trainable_variables):
        variable.assign(trained)
    return whole


def history(config: TrainConfig, model, checkpoints) -> dict:
    """Returns what a model card says of how a model was trained, and for how long."""
    settings = dataclasses.asdict(config).items()
    return {
        "note": config.note,
        "settings": {k: v for k, v in settings if k not in PRIVATE},
        "steps": steps_taken(model),
        "hours": round(float(checkpoints.seconds) / 3600, 2),
    }


def train(config: TrainConfig, directory: str | os.PathLike) -> pathlib.Path | None:
    """Trains until `config.steps`, from the last checkpoint if there is one, exports.

    Returns:
        The exported model's directory, `directory/model`; None on a worker that is not
        the first, which alone writes.

    Raises:
        ValueError: bad settings, no images (any more), or a directory with other
            settings or of which every checkpoint is damaged.
        OSError: something could not be read or written, or another worker is lost; the
            last checkpoint is kept.
        FloatingPointError: the loss stopped being finite; the last good state is kept.
    """
    directory = pathlib.Path(directory)
    # The first thing: TensorFlow takes no other machines once it has begun.
    strategy = strategies.make(config.strategy, config.replicas, config.tpu)
    strategies.check_batch(strategy, config.batch)
    config.check()
    chief = strategies.is_chief(strategy)
    training, validation = datasets(config, chief)
    if chief:
        prepare_directory(config, directory)
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
    """Fits a trained model's tables, and exports it; arguments as of `fit`.

    Returns:
        The exported model's directory.
    """
    whole = for_export(model, config)
    # To patches that training would have gone on with.
    patches = training(config.steps * config.batch)
    with reading():
        steps = steps_taken(model)
        count = min(steps or CALIBRATION_STEPS, CALIBRATION_STEPS)
        whole.calibrate(patches.take(count))
    record = {
        **history(config, model, checkpoints),
        "figures": Validation(whole, validation).rows(),
    }
    if config.init:
        record["began_from"] = config.began_from()
    if accelerated := programs.record_of(directory):
        record["accelerator"] = accelerated
    options = config.builder_options()
    return export.export(
        whole, directory / "model", config.arch, options, record, config.name
    )


def write_program(config: TrainConfig, directory: str | os.PathLike) -> pathlib.Path:
    """Writes the training step as a program for `accelerate`; returns its folder.

    Raises:
        ValueError: bad settings, or a precision that the program has not.
        OSError: something could not be read or written.
    """
    config.check()
    if config.strategy != "none":
        raise ValueError("--xla_program is the step of one device: give no --strategy")
    if config.precision == "mixed_float16":
        raise ValueError("--xla_program has no mixed_float16: use mixed_bfloat16")
    given = xla_program.Given()
    return xla_program.write(build(config, given), given, config, directory)
