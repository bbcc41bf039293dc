"""The Python that notebooks train with, as a process beside them.

TensorFlow Compression has stopped at Python 3.11 and TensorFlow 2.14; Colab has later
ones. So where it is missing, `uv` sets up a Python of its own.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def training_python() -> str:
    """Returns the path of a Python with all that `requirements.txt` asks for.

    `TFCODEC_TRAINING_PYTHON` names one that is there already. Otherwise it is the
    Python that runs this, if that can train, or else a new one in `build/training`,
    which takes some minutes and 3 GB.
    """
    if given := os.environ.get("TFCODEC_TRAINING_PYTHON"):
        return given
    if importlib.util.find_spec("tensorflow_compression"):
        return sys.executable
    place = ROOT / "build" / "training"
    python = place / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    steps = [
        [sys.executable, "-m", "pip", "install", "-q", "uv"],
        [*uv, "venv", "-q", "--clear", "--python", "3.11", place],
        [*uv, "pip", "install", "-q", "--python", place, "-r", "requirements.txt"],
    ]
    for step in steps:
        subprocess.run(step, cwd=ROOT, check=True)
    return str(python)
