"""Training of a second synthesis, whose pictures look like the original.

A model's analysis, coder and faithful synthesis are fixed, so its files stay the same:
the second synthesis is another way to decode them. The latents of many patches, over
all qualities and as decoded from files, are computed once and kept in the run
directory. Like any training here, it resumes where it was stopped.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import, or is not installed
    from tfcodec import tools

    tools.realism(__doc__)

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import tensorflow as tf
from absl import logging

from tfcodec import (
    adversarial,
    architectures,
    captions,
    codec,
    export,
    files,
    losses,
    optimizers,
    programs,
    registry,
    signals,
    textures,
    weights,
)
from tfcodec.checkpoints import Checkpoints
from tfcodec.critics import Features
from tfcodec.model import REACH_SIDE, farthest
from tfcodec.progress import Progress
from tfcodec.settings import RealismConfig
from tfcodec.tracing import traced
from tfcodec.training import datasets, history, prepared, reading

LATENTS = "latents"  # folder in a run directory
# The quality of a patch is u ** QUALITY_POWER, with u uniform in 0..1. So low
# qualities, at which most texture is missing, are more frequent.
QUALITY_POWER = 1.3


def networks(config: RealismConfig, source: registry.Model, precision="float32"):
    """Returns (the trained model, its second synthesis before training)."""
    model = architectures.from_card(source.card)
    weights.load_model(model, source.path)
    return model, second_of(model, config, source, precision)


def second_of(model, config: RealismConfig, source, precision="float32"):
    """Returns the second synthesis before training; `model` is `source`, loaded."""
    tf.keras.utils.set_random_seed(config.seed)
    second = architectures.realistic(source.card, config.counts(), precision)
    trained = model.synthesis.trainable_variables
    for variable, value in zip(second.trainable_variables, trained):
        variable.assign(value)
    if config.second:
        weights.load_arrays(second.trainable_variables, config.second)
    elif source.realism:
        weights.load_plain(second, source.realism)
    return second


class Encoder:
    """Turns patches into latents as decoded from a file, after the inverse gain.

    Args:
        source: the exported model, whose coder is used.
        model: the same as a `CompressionModel`, whose inverse gains are used.
    """

    def __init__(self, source: registry.Model, model):
        self.engine = codec.load(source.path, "tensorflow").engine
        self.model, self.features = model, Features()

    def __call__(self, image, quality):
        """Returns (latents [h', w', c], the faithful picture uint8 [h, w, 3]).

        Args:
            image: uint8 [h, w, 3].
            quality: 0 to 1.
        """
        _, _, y_hat = self.engine.encode(self.engine.analysis(image), quality)
        x_hat = self.engine.synthesis(y_hat, quality)
        y_hat = self.model.unscaled_latents(y_hat, tf.constant([quality], tf.float32))
        return y_hat[0].numpy(), x_hat

    def textures(self, image):
        """Returns the `texture_maps` of uint8 [h, w, 3], as a batch of one."""
        x = tf.cast(image[None], tf.float32)
        return textures.texture_maps(x, self.features.both(x)[1])


def keep_latents(config, directory, training, encode, channels):
    """Computes the examples of a training, unless the run directory has them already.

    Args:
        config: the `RealismConfig`.
        directory: of the run.
        training: function that returns the training set, as `datasets` returns it.
        encode: an `Encoder`.
        channels: of the latents.

    Returns:
        Arrays, memory-mapped, by name: `image`, `latents`, `error`, `moments`,
        `weight`, as `adversarial.Adversarial` takes them.
    """
    folder, side = directory / LATENTS, config.patch
    if not folder.is_dir():
        examples = (
            pair
            for batch in training(0)
            for pair in zip(batch["image"].numpy(), batch["quality"].numpy())
        )
        with files.new_directory(folder) as part, reading():
            part.mkdir()
            arrays = {
                "image": (np.uint8, (side, side, 3)),
                "latents": (np.float16, (side // 16, side // 16, channels)),
                "error": (np.float32, ()),
                "moments": (np.float32, (len(textures.WINDOWS),)),
                "weight": (np.uint8, (side, side)),
            }
            arrays = {
                key: np.lib.format.open_memmap(
                    part / f"{key}.npy", "w+", kind, (config.patches, *shape)
                )
                for key, (kind, shape) in arrays.items()
            }
            for number, (pixels, u) in zip(range(config.patches), examples):
                example = _example(config, number, pixels, u, encode)
                for key, value in example.items():
                    arrays[key][number] = value
                if (number + 1) % 200 == 0:
                    logging.info("latents of %d patches", number + 1)
            for array in arrays.values():
                array.flush()
    keys = ("image", "latents", "error", "moments", "weight")
    return {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in keys}


def _example(config, number, pixels, u, encode):
    rng = np.random.default_rng((config.seed, 2, number))
    weight = np.zeros(pixels.shape[:2], np.uint8)
    if rng.random() < config.text:
        pixels, weight = captions.written_on(pixels, rng)
    latents, faithful = encode(pixels, u**QUALITY_POWER)
    error = np.mean((pixels.astype(np.float32) - faithful) ** 2)
    maps = [encode.textures(x) for x in (pixels, faithful)]
    return {
        "image": pixels,
        "latents": latents,
        "error": error,
        "moments": textures.moment_distances(*maps)[0].numpy(),
        "weight": weight,
    }


def batches(config, arrays, first) -> tf.data.Dataset:
    """Endless batches of the arrays of `keep_latents`, from step `first` on.

    The patches of step k depend only on the seed and k.
    """
    keys = list(arrays)

    def load(step):
        rng = np.random.default_rng((config.seed, 3, int(step)))
        chosen = rng.integers(0, len(arrays["image"]), config.batch)
        seed = rng.integers(0, 2**31 - 1, 2, dtype=np.int32)
        return (*(np.ascontiguousarray(arrays[key][chosen]) for key in keys), seed)

    kinds = [tf.as_dtype(arrays[key].dtype) for key in keys] + [tf.int32]
    shapes = [(config.batch, *arrays[key].shape[1:]) for key in keys] + [(2,)]

    def example(step):
        values = tf.numpy_function(load, [step], kinds)
        values = [tf.ensure_shape(v, s) for v, s in zip(values, shapes)]
        return dict(zip([*keys, "seed"], values))

    return tf.data.Dataset.range(first, 2**62).map(example).prefetch(2)


class RealismProgress(Progress):
    """As `Progress`; validates by figures, and shows three pictures side by side.

    These are the original, the faithful and the realistic one.
    """

    SHOWN = 3

    def __init__(self, config, directory, checkpoints, crops, encode):
        super().__init__(config, directory, checkpoints, crops)
        self.encode = encode

    def averaged(self):
        return self.model.played

    def prepare_validation(self):
        self.examples = []
        for inputs in self.crops:
            images, qualities = inputs["image"].numpy(), inputs["quality"].numpy()
            self.examples.append(
                [(x, *self.encode(x, q)) for x, q in zip(images, qualities)]
            )
        self.draw = traced(self.model.pictures, reduce_retracing=True)

    def show_validation(self):
        figures, origin = {}, tf.zeros([2], tf.int32)
        for number, rows in enumerate(self.examples):
            triples = []
            for x, y, faithful in rows:
                x_hat = np.clip(np.round(self.draw(y[None], origin)[0]), 0, 255)
                for name, picture in (("faithful", faithful), ("realistic", x_hat)):
                    for key, value in _figures(x, picture).items():
                        figures.setdefault(f"{key}_{name}", []).append(value)
                triples.append(np.concatenate([x, faithful, x_hat.astype(np.uint8)], 1))
            if number < self.SHOWN:
                tag = f"original, faithful, realistic/{number}"
                self.events.image(self.step, tag, np.concatenate(triples, 0))
        means = {key: float(np.mean(values)) for key, values in figures.items()}
        self.record("validation", means)


def _figures(x, x_hat):
    """PSNR in dB and mean squared difference of `deviations`, of pictures [h, w, 3]."""
    a, b = (tf.constant(image[None], tf.float32) for image in (x, x_hat))
    pairs = zip(textures.deviations(a), textures.deviations(b))
    distances = [tf.reduce_mean(tf.math.squared_difference(p, q)) for p, q in pairs]
    psnr = losses.psnr(losses.mse(a, b))
    return {"psnr": float(psnr[0]), "deviations": float(adversarial.mean(distances))}


def train(config: RealismConfig, directory: str | os.PathLike) -> pathlib.Path:
    """Trains until `config.steps`, from the last checkpoint if there is one; exports.

    Returns:
        `directory/model`: a copy of the model with the second synthesis.

    Raises:
        ValueError, OSError, FloatingPointError: as `training.train`.
    """
    directory = pathlib.Path(directory)
    config.check()
    source = registry.resolve(config.init)
    training, crops = datasets(config)
    with prepared(config, directory, LATENTS):
        return _train(config, source, directory, training, crops)


def _train(config, source, directory, training, crops):
    """Does what `train` does, in a run directory that is prepared and locked.

    Args:
        config: the `RealismConfig`.
        source: the model that the second synthesis is for.
        directory: of the run.
        training, crops: as `datasets` returns them.
    """
    model, second = networks(config, source, config.precision)
    encode = Encoder(source, model)
    arrays = keep_latents(config, directory, training, encode, source.channels)
    player = _player(config, second, arrays, source.channels)
    checkpoints = Checkpoints(directory, player)
    if checkpoints.restore():
        logging.info("resumed from %s", checkpoints.latest)
    step = optimizers.steps_taken(player)
    if step < config.steps:
        progress = RealismProgress(config, directory, checkpoints, crops, encode)
        with signals.deferred() as progress.noted:
            player.fit(
                batches(config, arrays, step),
                steps_per_epoch=config.steps - step,
                verbose=0,
                callbacks=[progress],
            )
    if config.steps:
        player.optimizer.swap_averages(player.played)
    whole = second_of(model, dataclasses.replace(config, second=""), source)
    for variable, trained in zip(whole.trainable_variables, player.played):
        variable.assign(trained)
    record = {
        **history(config, player, checkpoints),
        "weights": dataclasses.asdict(player.weighting),
    }
    return _exported(config, source, model, whole, record, directory / programs.MODEL)


def _player(config, second, arrays, channels):
    moments = {"beta_1": 0.5, "beta_2": 0.99}
    player = adversarial.Adversarial(second, warmup=config.critic_warmup)
    player.compile(
        optimizers.averaging(config, **moments),
        optimizers.Adam(
            optimizers.Schedule(
                3 * config.learning_rate, config.warmup, config.hold, config.steps
            ),
            global_clipnorm=5 * config.clip, **moments,
        ),
    )  # fmt: skip
    return player.initialise(arrays["image"][:32], channels)


def reach(second, channels):
    """How far away a latent affects the picture, in latents: see `model.farthest`."""
    y = np.random.default_rng(0).normal(0, 3, [REACH_SIDE, REACH_SIDE, channels])
    return farthest(lambda x: second(x, tf.zeros([2], tf.int32)).numpy(), y)


def _exported(config, source, model, second, record, directory):
    """Writes a copy of the model `source` with its second synthesis.

    LiteRT files are not copied, as they have another second synthesis or none.
    """
    with files.new_directory(directory) as part:
        old = shutil.ignore_patterns(registry.REALISM, registry.LITERT)
        shutil.copytree(source.path, part, ignore=old, dirs_exist_ok=True)
        export.export_realism(model, second, part / registry.REALISM)
        found = {"reach": reach(second, source.channels), "default": config.default()}
        record = {**record, **found}
        card = {**source.card, "name": config.name or source.name, "realism": record}
        (part / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return directory
