"""What `train.py` says to settings that no training can have, before it begins."""

import dataclasses
import math
import os
import pathlib
import subprocess
import sys

import pytest

from tfcodec import settings
from tfcodec.settings import RealismConfig, TrainConfig

ROOT = pathlib.Path(__file__).parents[1]
NUMBERS = [
    (kind, field.name, type(field.default))
    for kind in (TrainConfig, RealismConfig)
    for field in dataclasses.fields(kind)
    if not isinstance(field.default, str)
]


@pytest.mark.parametrize(("kind", "name", "of"), NUMBERS)
def test_every_number_has_its_limits(kind, name, of):
    kind(images="x").check_values()
    bad = [-1] if of is int else [-1e-9, math.nan, math.inf]
    for value in bad:
        with pytest.raises(settings.WrongSetting, match=f"^--{name} must be .*not"):
            kind(images="x", **{name: value}).check_values()


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (TrainConfig, {"learning_rate": 0.0}, "--learning_rate must be above 0"),
        (TrainConfig, {"hold": 1.5}, "at least 0 and at most 1, not 1.5"),
        (TrainConfig, {"average": 1.5}, "--average must be at least 0 and at most 1"),
        (TrainConfig, {"batch": 0}, "--batch must be at least 1"),
        (TrainConfig, {"steps": 0}, "--steps must be at least 1, or --init be given"),
        (TrainConfig, {"seed": 2**32}, "--seed must be"),
        (TrainConfig, {"patch": 8}, "--patch must be at least 11"),
        (TrainConfig, {"precision": "half"}, "--precision must be one of float32, "),
        (TrainConfig, {"strategy": "all"}, "--strategy must be one of none, mirrored"),
        (TrainConfig, {"replicas": 2}, "--replicas=2 goes with --strategy=mirrored"),
        (TrainConfig, {"tpu": "mine"}, "--tpu=mine goes with --strategy=tpu"),
        (TrainConfig, {"dataset": "clic"}, "either --images or --dataset"),
        (TrainConfig, {"lmbda_min": 1.0}, "positive and ordered"),
        (TrainConfig, {"options": "[]"}, "--options must be a JSON object"),
        (TrainConfig, {"record": "x"}, "--record needs a file of arrays"),
        (RealismConfig, {"text": 1.5}, "--text must be at least 0 and at most 1"),
        (RealismConfig, {"precision": "mixed_float16"}, "one of float32, mixed_b"),
        (RealismConfig, {"patch": 100}, "multiple of 64"),
        (RealismConfig, {"second": "model"}, "not a .npz or .npy file"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_those_that_can(kind, given, words):
    with pytest.raises(settings.WrongSetting, match=words):
        kind(**{"images": "x", **given}).check_values()


@pytest.mark.parametrize(
    ("patch", "stride", "least"),
    [(11, 16, 16), (8, 8, 16), (72, 64, 64), (11, 4, 12), (0, 16, 16)],
)
def test_the_smallest_patch_that_is_named_is_one(patch, stride, least):
    words = f"must be a multiple of {stride}, at least {least}, not {patch}$"
    with pytest.raises(settings.WrongSetting, match=words):
        settings.check_patch(patch, stride)
    settings.check_patch(least, stride)


def train(*flags):
    """Runs `train.py` where neither TensorFlow nor what needs it can be imported."""
    pytest.importorskip("absl")
    block = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(['tensorflow', 'tensorflow_compression']))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", block, str(ROOT / "train.py"), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip


GOOD = ("--run=run", "--images=x")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "give either --run or --xla_program"),
        ((*GOOD, "--clip=-1"), "--clip must be at least 0, not -1.0"),
        ((*GOOD, "--warmup=few"), "flag --warmup=few: invalid"),
        ((*GOOD, "--wramup=2"), "Unknown command line flag 'wramup'"),
        ((*GOOD, "--text=0"), "--text can only be used with --realism"),
        ((*GOOD, "x.png"), "not a flag: x.png"),
        ((*GOOD, f"--serve={__file__}"), f"--serve={__file__}: "),
        ((*GOOD, f"--serve={__file__}/served"), "test_settings.py is no folder"),
        ((f"--run={__file__}", "--images=x"), "test_settings.py is no folder"),
    ],
)
def test_wrong_flags_are_one_line_and_code_2_before_anything_is_done(flags, words):
    done = train(*flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("train.py: ")
    assert words in line
    assert not done.stdout


def test_help_needs_nothing_of_what_training_needs():
    done = train("--help")
    assert done.returncode == 0
    assert "--learning_rate: " in done.stdout
    assert not done.stderr
    done = train(*GOOD)
    assert done.returncode == 1
    assert "pip install -r requirements.txt" in done.stderr


@pytest.mark.parametrize(("patch", "code"), [(64, 0), (72, 2)])
def test_settings_can_be_checked_without_a_training(tmp_path, patch, code):
    pytest.importorskip("tensorflow_compression")
    run = tmp_path / "run"
    flags = (f"--run={run}", "--images=x", "--only_check_args", f"--patch={patch}")
    line = [sys.executable, str(ROOT / "train.py"), *flags]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert not run.exists()
    assert not done.stdout
    assert ("train.py: --patch must be a multiple of 64" in done.stderr) == bool(code)


# Runs train.py with a training that only tells whether all is as it should be.
TELLING = """
import faulthandler, runpy, sys, types

def train(config, run):
    import tensorflow as tf

    def traced():
        with tf.init_scope():
            print(tf.executing_eagerly(), faulthandler.is_enabled())

    tf.function(traced)()

for name in ("training", "realism", "litert_export", "serving"):
    sys.modules[f"tfcodec.{name}"] = types.SimpleNamespace(train=train)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_training_can_compute_while_it_traces_a_graph_and_tells_where_it_crashed():
    pytest.importorskip("tensorflow_compression")
    line = [sys.executable, "-c", TELLING, str(ROOT / "train.py"), *GOOD]
    # TensorFlow, if another test has imported it, tells child processes by this.
    own = {k: v for k, v in os.environ.items() if k != "TF2_BEHAVIOR"}
    done = subprocess.run(line, cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "True True\n"


def test_a_folder_may_be_named_that_is_not_there_yet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("new", "new/deep/er", str(tmp_path), str(tmp_path / "new")):
        settings.check_folder("serve", path)
    access = os.access
    monkeypatch.setattr(  # Not by chmod, which does not bind root.
        os, "access", lambda path, mode: access(path, mode) and mode == os.R_OK
    )
    settings.check_folder("run", "new", writing=False)
    with pytest.raises(settings.WrongSetting, match="--run=new: .*cannot be written"):
        settings.check_folder("run", "new")
