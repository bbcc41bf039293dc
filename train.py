"""Trains a model and exports it as a SavedModel that needs no TensorFlow Compression.

    python train.py --images=photos/ --run=runs/mine
    python train.py --dataset=clic --arch=mbt2018-mean --lmbda=0.01 --run=runs/mean
    python train.py --xla_program=build/step --images=photos/ --precision=mixed_bfloat16
    python train.py --strategy=mirrored --images=photos/ --run=runs/mine
    python train.py --realism --init=runs/mine/model --images=photos/ --run=runs/grain

The run directory holds everything; run the same command again to resume.
"""

import dataclasses
import gc
import itertools
import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tfcodec import console, signals

if __name__ == "__main__":  # Before TensorFlow opens files.
    console.open_standard_streams()
    signals.clean_up()

console.need_training("train.py")

from absl import app, flags, logging

from tfcodec import litert_export, realism, registry, serving, training

DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}
RUN = flags.DEFINE_string("run", None, "Run directory.")
PROGRAM = flags.DEFINE_string(
    "xla_program",
    None,
    "In place of --run: write the training step to this folder, as a program for "
    "python -m tfcodec.accelerate, and train nothing.",
)
SERVE = flags.DEFINE_string(
    "serve", "", "Folder for a second export at the end, for TensorFlow Serving."
)
REALISM = flags.DEFINE_bool(
    "realism",
    False,
    "Train a second synthesis for the model --init, which adds fine texture; files "
    "stay the same. Some flags then have other defaults, in brackets below.",
)
CONFIGS = {False: training.TrainConfig, True: realism.RealismConfig}


def defined() -> dict:
    """Defines a flag for each setting of either training; returns the flags by name."""
    settings = {}
    for field in itertools.chain(*map(dataclasses.fields, CONFIGS.values())):
        settings.setdefault(field.name, []).append(field)
    own, made = {field.name for field in dataclasses.fields(CONFIGS[False])}, {}
    for name, (field, *others) in settings.items():
        words = field.metadata["help"]
        if name not in own:
            words += " [--realism only]"
        for other in others:
            if other.default != field.default:
                words += f" [--realism: {other.default!r}]"
        made[name] = DEFINE[type(field.default)](name, field.default, words)
    return made


FLAGS = defined()


def config_of():
    """Returns the config that the flags describe.

    Raises:
        ValueError: a flag was given that this kind of training does not have.
    """
    kind = CONFIGS[REALISM.value]
    given = {name: flag.value for name, flag in FLAGS.items() if flag.present}
    for name in given:
        if name not in {field.name for field in dataclasses.fields(kind)}:
            with_it = "without" if REALISM.value else "with"
            raise ValueError(f"--{name} can only be used {with_it} --realism")
    return kind(**given)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"not a flag: {argv[1]}")
    if bool(RUN.value) == bool(PROGRAM.value):
        raise app.UsageError("give either --run or --xla_program")
    if PROGRAM.value and (REALISM.value or SERVE.value):
        raise app.UsageError(
            "--xla_program cannot be used with --realism or with --serve"
        )
    train = realism.train if REALISM.value else training.train
    try:
        if PROGRAM.value:
            written = training.write_program(config_of(), PROGRAM.value)
            console.say(console.shown(written), sys.stdout)
            return
        exported = train(config_of(), RUN.value)
        if exported is None:  # Only the first worker writes the model.
            return
        try:
            litert_export.export(exported)
        except litert_export.Unsuited as error:
            logging.info("%s", error)
        console.say(console.shown(exported), sys.stdout)
        if SERVE.value:
            served = serving.export(registry.Model.at(exported), SERVE.value)
            console.say(console.shown(served), sys.stdout)
    except KeyboardInterrupt as error:
        signals.end_by(getattr(error, "number", signal.SIGINT))
    except (ValueError, OSError, FloatingPointError) as error:
        logging.debug("", exc_info=True)
        console.say(f"train.py: {error}", sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(console.names_are_shown)
    # Tracing graphs makes many objects that stay. By default Python collects garbage
    # after every 700 new objects, which takes a tenth of the time of tracing.
    gc.freeze()
    gc.set_threshold(50_000)
    app.run(main)
