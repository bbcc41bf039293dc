"""Trains a model and exports it as a SavedModel that needs no TensorFlow Compression.

    python train.py --images=photos/ --run=runs/mine
    python train.py --dataset=clic --arch=mbt2018-mean --lmbda=0.01 --run=runs/mean

The run directory holds everything; the same command again goes on where it stopped.
"""

import dataclasses
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tfcodec import console, signals

if __name__ == "__main__":  # Before TensorFlow opens files.
    console.open_standard_streams()
    signals.clean_up()

from absl import app, flags, logging

try:
    import tensorflow_compression  # noqa: F401
except ImportError as error:
    sys.exit(
        f"train.py needs TensorFlow Compression 2.14.1, which has wheels for Python "
        f"3.9 to 3.11 only (this is {sys.version.split()[0]}): use one of those and "
        f"pip install -r requirements.txt  [{error}]"
    )

from tfcodec import registry, serving, training

DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}
RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)
SERVE = flags.DEFINE_string(
    "serve", "", "At the end write here, too, what TensorFlow Serving loads."
)
FLAGS = {
    f.name: DEFINE[type(f.default)](f.name, f.default, f.metadata["help"])
    for f in dataclasses.fields(training.TrainConfig)
}


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"not a flag: {argv[1]}")
    config = training.TrainConfig(**{name: flag.value for name, flag in FLAGS.items()})
    try:
        exported = training.train(config, RUN.value)
        console.say(console.shown(exported), sys.stdout)
        if SERVE.value:
            served = serving.export(registry.Model.at(exported), SERVE.value)
            console.say(console.shown(served), sys.stdout)
    except (ValueError, OSError, FloatingPointError) as error:
        logging.debug("", exc_info=True)
        console.say(f"train.py: {error}", sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(console.names_are_shown)
    app.run(main)
