"""Trains a model and exports it as a SavedModel that needs no TensorFlow Compression.

    python train.py --images=photos/ --run=runs/mine
    python train.py --dataset=clic --arch=mbt2018-mean --lmbda=0.01 --run=runs/mean
    python train.py --xla_program=build/step --images=photos/ --precision=mixed_bfloat16
    python train.py --strategy=mirrored --images=photos/ --run=runs/mine
    python train.py --realism --init=runs/mine/model --images=photos/ --run=runs/grain

The run directory holds everything; run the same command again to resume. With
--only_check_args the settings are checked, but not the images, and nothing is done.
"""

import dataclasses
import faulthandler
import gc
import itertools
import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tfcodec import console, settings, signals

if __name__ == "__main__":  # Before TensorFlow opens files.
    console.open_standard_streams()
    signals.clean_up()

try:
    from absl import app, flags, logging
except ImportError:
    console.need_training("train.py")
    raise

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
CONFIGS = {False: settings.TrainConfig, True: settings.RealismConfig}


def defined() -> dict:
    """Defines a flag for each setting of either training; returns the flags by name."""
    fields = {}
    for field in itertools.chain(*map(dataclasses.fields, CONFIGS.values())):
        fields.setdefault(field.name, []).append(field)
    own, made = {field.name for field in dataclasses.fields(CONFIGS[False])}, {}
    for name, (field, *others) in fields.items():
        words = field.metadata["help"]
        if name not in own:
            words += " [--realism only]"
        for other in others:
            if other.default != field.default:
                words += f" [--realism: {other.default!r}]"
        made[name] = DEFINE[type(field.default)](name, field.default, words)
    return made


FLAGS = defined()


def parsed(argv):
    """Reads the flags; returns the other arguments."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(error, 2)
    except SystemExit:  # Help was asked for, for which absl has code 1.
        sys.exit(0)


def fail(error, code):
    """Ends the program with a line on stderr."""
    logging.debug("", exc_info=True)
    console.say(f"train.py: {' '.join(str(error).split())}", sys.stderr)
    sys.exit(code)


def checked(argv):
    """Returns the config that the flags describe.

    Raises:
        WrongSetting: a flag has a value that it cannot have, or cannot be used.
    """
    if len(argv) > 1:
        raise settings.WrongSetting(f"not a flag: {argv[1]}")
    if bool(RUN.value) == bool(PROGRAM.value):
        raise settings.WrongSetting("give either --run or --xla_program")
    if PROGRAM.value and (REALISM.value or SERVE.value):
        raise settings.WrongSetting(
            "--xla_program cannot be used with --realism or with --serve"
        )
    kind = CONFIGS[REALISM.value]
    given = {name: flag.value for name, flag in FLAGS.items() if flag.present}
    for name in given:
        if name not in {field.name for field in dataclasses.fields(kind)}:
            with_it = "without" if REALISM.value else "with"
            raise settings.WrongSetting(
                f"--{name} can only be used {with_it} --realism"
            )
    config = kind(**given)
    config.check_values()
    # Of several workers only the first writes.
    alone = FLAGS["strategy"].value != "multi_worker"
    for flag in (RUN, PROGRAM, SERVE):
        if flag.value:
            settings.check_folder(flag.name, flag.value, alone)
    return config


def train(config):
    """Does what the flags ask for, and prints the names of the folders it made."""
    # Only now, as these take seconds to import, and need what is needed for training.
    from tfcodec import litert_export, realism, registry, serving, training

    if PROGRAM.value:
        written = training.write_program(config, PROGRAM.value)
        console.say(console.shown(written), sys.stdout)
        return
    kind = realism if REALISM.value else training
    exported = kind.train(config, RUN.value)
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


def main(argv):
    try:
        config = checked(argv)
        console.need_training("train.py")
        if flags.FLAGS.only_check_args:  # a flag of absl
            config.check()
        else:
            train(config)
    except KeyboardInterrupt as error:
        signals.end_by(getattr(error, "number", signal.SIGINT))
    except settings.WrongSetting as error:
        fail(error, 2)
    except (ValueError, OSError, FloatingPointError) as error:
        fail(error, 1)


if __name__ == "__main__":
    if sys.stderr is not None:
        faulthandler.enable()  # tells where Python was when TensorFlow crashes
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(console.names_are_shown)
    # Tracing graphs makes many objects that stay. By default Python collects garbage
    # after every 700 new objects, which takes a tenth of the time of tracing.
    gc.freeze()
    gc.set_threshold(50_000)
    app.define_help_flags()
    # Not by `app.run`: if TensorFlow is first imported within it, `tf.init_scope` does
    # not lead out of a graph that is being traced.
    main(parsed(sys.argv))
