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
import math
import os
import pathlib
import re
import shutil
import sys
import time

import numpy as np
import tensorflow as tf
from absl import logging

from tfcodec import architectures, data, export, files, losses, registry, weights


def setting(default, help):
    return dataclasses.field(default=default, metadata={"help": help})


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
    lmbda: float = setting(0.0, "Weight of the MSE, for a model of one rate.")
    lmbda_min: float = setting(0.001, "Lambda at quality 0, unless --lmbda is given.")
    lmbda_max: float = setting(0.512, "Lambda at quality 100, likewise.")
    steps: int = setting(
        1_000_000,
        "Optimizer steps in all, resumed ones included; 0 with --init only "
        "fits tables and exports.",
    )
    batch: int = setting(8, "Patches a step.")
    patch: int = setting(256, "Side of a patch in pixels, a multiple of 64.")
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
    replicas: int = setting(1, "Devices to train on in step; 0 for every GPU.")
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
        if bool(self.images) == bool(self.dataset):
            raise ValueError("give --images or --dataset, one of them")
        if self.patch % 64 or self.patch <= 0:
            raise ValueError(f"--patch must be a multiple of 64, not {self.patch}")
        low, high = self.lmbda_range()
        if not 0 < low <= high:
            raise ValueError(f"lambda must be positive and ordered: {low}, {high}")
        for name in ("steps", "batch", "log_steps", "validate_steps"):
            if getattr(self, name) < 1 and not (name == "steps" and self.init):
                raise ValueError(f"--{name} must be at least 1")
        if self.steps < 0:
            raise ValueError("--steps must not be negative")
        self.builder_options()
        self.began_from()
        if self.record and not weights.is_arrays(self.init):
            raise ValueError("--record says how the arrays of --init were made")
        if weights.is_arrays(self.init) and not os.path.isfile(self.init):
            raise ValueError(f"--init={self.init}: no such file")
        start = self.start()
        options = [self.builder_options(), start.card["options"] if start else {}]
        # A model may have residual blocks that the one it begins from has not.
        blocks = ("blocks", "synthesis_blocks")
        rest = [{k: v for k, v in x.items() if k not in blocks} for x in options]
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
        try:
            training = json.loads(pathlib.Path(self.record).read_text("utf-8"))
        except (OSError, ValueError) as error:
            if self.record:
                raise ValueError(f"--record={self.record}: {error}") from None
            training = {}
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


# What may differ when a training resumes: it changes nothing that has been.
MAY_CHANGE = {
    "steps", "replicas", "name", "note", "log_steps", "validate_steps",
    "checkpoint_minutes",
}  # fmt: skip
# Batches that the tables of a trained model are fitted to.
CALIBRATION_STEPS = 200
# Checkpoints kept.
KEPT = 3
# What a model card leaves out, as it says more of a computer than of a model.
PRIVATE = {"images", "validation", "data_dir", "init", "record", "name", "note"}


class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, hold, and half a cosine down to a hundredth."""

    def __init__(self, peak, warmup, hold, steps):
        self.peak, self.warmup, self.hold, self.steps = peak, warmup, hold, steps

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        warm = tf.minimum(1.0, (step + 1) / max(1, self.warmup))
        start = self.hold * self.steps
        fall = tf.clip_by_value((step - start) / max(1.0, self.steps - start), 0.0, 1.0)
        return self.peak * warm * (0.01 + 0.495 * (1 + tf.cos(math.pi * fall)))

    def get_config(self):
        return dict(vars(self))


class Adam(tf.keras.optimizers.Adam):
    """Adam that averages weights, and leaves the weights alone when `fit` ends."""

    @property
    def ema_momentum(self):
        """Less over the first steps, so that the start is soon forgotten."""
        step = tf.cast(self.iterations, tf.float32)
        return tf.minimum(self._ema_momentum, (1 + step) / (10 + step))

    @ema_momentum.setter
    def ema_momentum(self, value):
        self._ema_momentum = value

    def finalize_variable_values(self, var_list):
        pass

    def swap_averages(self, variables):
        """Exchanges the weights with their moving averages."""
        for variable, average in zip(variables, self._model_variables_moving_average):
            value = variable.numpy()
            variable.assign(average)
            average.assign(value)


def prepare_directory(config: TrainConfig, directory: pathlib.Path):
    """Writes `config.json`, or holds `config` against the one that is there.

    Raises:
        ValueError: the directory is of a training with other settings.
        OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.json"
    if path.exists():
        try:
            old = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        new = dataclasses.asdict(config)
        changed = [k for k in new if k in old and old[k] != new[k]]
        changed = [k for k in changed if k not in MAY_CHANGE]
        if changed:
            raise ValueError(
                f"{directory} is a training with other settings: "
                + ", ".join(f"{k}={old.get(k)!r}, not {new[k]!r}" for k in changed)
            )
    with files.new_file(path) as file:
        file.write(json.dumps(dataclasses.asdict(config), indent=1).encode() + b"\n")


def network(config: TrainConfig, precision: str) -> tf.keras.Model:
    """Returns the model as it is before any training."""
    tf.keras.mixed_precision.set_global_policy(precision)
    tf.keras.utils.set_random_seed(config.seed)
    model = architectures.build(
        config.arch, config.lmbda_range(), **config.builder_options()
    )
    tf.keras.mixed_precision.set_global_policy("float32")
    return model


def build(config: TrainConfig) -> tf.keras.Model:
    """Returns the compiled model, with optimizer state made. Call it under a scope."""
    model = network(config, config.precision)
    if weights.is_arrays(config.init):
        weights.load_arrays(model, config.init)
    elif config.init:
        weights.load_model(model, config.start().path)
    optimizer = Adam(
        Schedule(config.learning_rate, config.warmup, config.hold, config.steps),
        global_clipnorm=config.clip,
        use_ema=True,
        ema_momentum=config.average,
        ema_overwrite_frequency=None,
    )
    optimizer.build(model.trainable_variables)
    if config.precision == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(optimizer)
    return model


def inner_optimizer(model) -> Adam:
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def strategy_for(replicas: int):
    """Returns the default strategy, or a mirrored one over several devices."""
    gpus = tf.config.list_logical_devices("GPU")
    if replicas == 1 or (replicas == 0 and len(gpus) <= 1):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    if replicas > len(devices):
        raise ValueError(f"--replicas={replicas}, but there are {len(devices)} devices")
    return tf.distribute.MirroredStrategy([d.name for d in devices[: replicas or None]])


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


class Events:
    """A TensorBoard event file. The writer of `tf.summary` keeps silent on a full disk.

    Raises:
        OSError: it could not be written.
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
        summary = tf.compat.v1.Summary()
        for tag, value in values.items():
            summary.value.add(tag=tag, simple_value=value)
        self.write(step=step, summary=summary)

    def image(self, step, tag, pixels):
        """`pixels` are uint8 [h, w, 3]."""
        height, width, _ = pixels.shape
        png = tf.io.encode_png(pixels).numpy()
        image = tf.compat.v1.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png
        )
        value = tf.compat.v1.Summary.Value(tag=tag, image=image)
        self.write(step=step, summary=tf.compat.v1.Summary(value=[value]))


class Progress(tf.keras.callbacks.Callback):
    """Logs, checkpoints, validates; stops at a loss that is not finite."""

    def __init__(self, config, directory, checkpoints, validation):
        super().__init__()
        self.config, self.validation = config, validation
        self.checkpoints = checkpoints
        self.events = Events(directory / "logs")

    def on_train_begin(self, logs=None):
        self.step = int(inner_optimizer(self.model).iterations)
        self.began, self.first = time.time(), self.step
        self.saved = time.time()
        self.sums = json.loads(self.checkpoints.sums.numpy())

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if not math.isfinite(logs["loss"]):
            self.model.stop_training = True
            self.fail("the loss")
        # Means of Keras would begin anew where a training does.
        self.model.reset_metrics()
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
        if sys.stderr.isatty() and self.step % self.config.log_steps:
            print(f"\r{self.status()}", end="", file=sys.stderr, flush=True)

    def on_train_end(self, logs=None):
        self.save()

    def fail(self, what):
        raise FloatingPointError(
            f"step {self.step}: {what} is not finite; the last good state is "
            f"{self.checkpoints.latest or 'the start'}"
        )

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
        done = self.step - self.first
        rate = done / max(1e-9, time.time() - self.began)
        left = (self.config.steps - self.step) / max(rate, 1e-9)
        clock = time.strftime("%H:%M:%S", time.gmtime(left))
        pixels = rate * self.config.batch * self.config.patch**2 / 1e6
        return (
            f"step {self.step} of {self.config.steps}, {rate:.2f}/s, "
            f"{pixels:.2f} megapixels/s, {clock} left"
        )

    def record(self, name, values):
        scalars = {f"{key}/{name}": value for key, value in values.items()}
        if name == "train":  # The learning rate is a variable that the schedule sets.
            rate = inner_optimizer(self.model).learning_rate
            scalars["learning_rate"] = float(rate)
        self.events.scalars(self.step, scalars)
        text = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)
        logging.info("%s: %s (%s)", self.status(), text, name)

    def validate(self):
        """Evaluates the averaged weights, and shows a few reconstructions."""
        variables = self.model.trainable_variables
        inner_optimizer(self.model).swap_averages(variables)
        try:
            values = self.model.evaluate(self.validation, return_dict=True, verbose=0)
            self.record("validation", values)
            for number, batch in enumerate(self.validation.take(3)):
                x_hat = tf.clip_by_value(self.model(batch), 0, 255)
                row = tf.concat([batch["image"][:1], tf.cast(x_hat, tf.uint8)], 0)
                row = tf.concat(tf.unstack(row), 1)
                self.events.image(self.step, f"reconstruction/{number}", row)
        finally:
            inner_optimizer(self.model).swap_averages(variables)
            self.model.reset_metrics()


def datasets(config: TrainConfig):
    """Returns (function of the first example's number -> training set, validation)."""
    count, side = config.validation_images, 64
    if config.dataset:
        images, held = data.tfds_sets(config.dataset, config.data_dir or None, count)

        def training(first):
            return data.tfds_training_set(
                images, config.patch, config.batch, config.seed, first
            )

        if not config.validation:
            return training, data.validation_set(held, side)
    else:
        paths = files.find_images(config.images.split(","))
        if not config.validation:
            paths, held_paths = data.hold_out(paths)
        paths = data.usable(paths, config.patch)
        logging.info("training on %d images", len(paths))

        def training(first):
            return data.training_set(
                paths, config.patch, config.batch, config.seed, first
            )

    if config.validation:
        held_paths = files.find_images(config.validation.split(","))
        both = set(held_paths) & set(paths if config.images else ())
        if both:
            raise ValueError(f"{len(both)} images to validate on are trained on too")
    held_paths = data.usable(held_paths, side)
    return training, data.validation_set(data.open_images(held_paths, count), side)


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


def train(config: TrainConfig, directory: str | os.PathLike) -> pathlib.Path:
    """Trains until `config.steps`, from the last checkpoint if there is one, exports.

    Returns:
        The exported model's directory, `directory/model`.

    Raises:
        ValueError: bad settings, no images (any more), or a directory with other
            settings or of which every checkpoint is damaged.
        OSError: something could not be read or written; the last checkpoint is kept.
        FloatingPointError: the loss stopped being finite; the last good state is kept.
    """
    directory = pathlib.Path(directory)
    config.check()
    training, validation = datasets(config)
    prepare_directory(config, directory)
    with strategy_for(config.replicas).scope():
        model = build(config)
    for part, cost in model.kmac_per_pixel().items():
        logging.info("%s: %.2f kMAC per pixel", part, cost)
    checkpoints = Checkpoints(directory, model)
    if checkpoints.restore():
        logging.info("resumed from %s", checkpoints.latest)
    step = int(inner_optimizer(model).iterations)
    if step < config.steps:
        progress = Progress(config, directory, checkpoints, validation)
        with reading():
            model.fit(
                training(step * config.batch),
                steps_per_epoch=config.steps - step,
                verbose=0,
                callbacks=[progress],
            )
    if config.steps:
        inner_optimizer(model).swap_averages(model.trainable_variables)
    whole = model
    if config.precision != "float32":  # Half precision is for training alone.
        whole = network(config, "float32")
        for variable, trained in zip(
            whole.trainable_variables, model.trainable_variables
        ):
            variable.assign(trained)
    # To patches that training would have gone on with.
    patches = training(config.steps * config.batch)
    with reading():
        count = min(config.steps or CALIBRATION_STEPS, CALIBRATION_STEPS)
        whole.calibrate(patches.take(count))
    settings = dataclasses.asdict(config).items()
    record = {
        "note": config.note,
        "settings": {k: v for k, v in settings if k not in PRIVATE},
        "steps": int(inner_optimizer(model).iterations),
        "hours": round(float(checkpoints.seconds) / 3600, 2),
        "figures": validation_figures(whole, validation),
    }
    if config.init:
        record["began_from"] = config.began_from()
    options = config.builder_options()
    return export.export(
        whole, directory / "model", config.arch, options, record, config.name
    )


def validation_figures(model, validation) -> list[dict]:
    """Returns mean estimated bpp and PSNR on the validation crops, by quality."""
    function = tf.function(model.evaluate_images, reduce_retracing=True)
    bpps, psnrs = [], []
    for batch in validation:
        _, bpp, mse = function(batch)
        bpps.append(bpp.numpy())
        psnrs.append(losses.psnr(mse).numpy())
    rows = zip(data.VALIDATION_QUALITIES, np.mean(bpps, 0), np.mean(psnrs, 0))
    if not model.variable_rate:
        rows = list(rows)[:1]
    return [
        {
            "quality": round(100 * quality) if model.variable_rate else None,
            "bpp": round(float(bpp), 4),
            "psnr": round(float(psnr), 3),
        }
        for quality, bpp, psnr in rows
    ]
