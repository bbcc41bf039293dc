"""How the programs `python -m tfcodec.NAME` start and end."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tfcodec import tools

ROOT = pathlib.Path(__file__).parents[1]
# Runs a program; first it blocks the modules before the program's name.
BLOCKED = """
import runpy, sys
at = sys.argv.index("--")
sys.modules.update(dict.fromkeys(sys.argv[1:at]))
sys.argv = sys.argv[at + 1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def ran(name, *arguments, without=("tensorflow", "tensorflow_compression", "numpy")):
    line = [sys.executable, "-c", BLOCKED, *without, "--", name, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["reencode", "litert_export", "realism"])
def test_help_is_given_wherever_there_is_python(name):
    done = ran(f"tfcodec.{name}", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    assert not done.stderr


@pytest.mark.parametrize("name", ["reencode", "litert_export", "realism"])
def test_what_is_missing_for_the_work_is_one_line(name):
    given = () if name == "realism" else ("tfcodec", "new")
    done = ran(f"tfcodec.{name}", *given)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip install -r requirements.txt" in line


def test_wrong_arguments_are_told_first():
    done = ran("tfcodec.litert_export", "tfcodec", "new", "--int4")
    assert done.returncode == 2
    assert "--int4" in done.stderr


def test_realism_names_the_program_that_trains_it():
    pytest.importorskip("tensorflow_compression")
    done = ran("tfcodec.realism", without=())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()[-1:]
    assert "use train.py --realism" in line


def test_the_default_in_the_help_is_that_of_reencode():
    densities = pytest.importorskip("tfcodec.densities", exc_type=ImportError)
    words = " ".join(tools.reencode("").format_help().split())
    assert f"by default {densities.CHOICE_BITS:g} --weights" in words


# A program of `tools` that waits while it makes a folder.
WAITING = """
import sys, time
from tfcodec import files, tools
parser = tools.web_files("")
tools.begin(parser, training=False)
files.writing = files.contextlib.nullcontext  # as TensorFlow takes long to import

def make():
    with files.new_directory(files.pathlib.Path("new")) as part:
        part.mkdir()
        (part / "half").touch()
        print("writing", flush=True)
        time.sleep(60)

tools.print_made(parser, make)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_no_unfinished_folder_and_no_traceback(name, tmp_path):
    number = getattr(signal, name)
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, "model", "folder"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "writing\n"
        assert os.listdir(tmp_path)
        process.send_signal(number)
        assert process.wait(10) == -number
        assert not process.stderr.read()
    assert not os.listdir(tmp_path)


# Runs a program until it imports TensorFlow, where it begins a file and waits.
IMPORTING = """
import runpy, sys, time
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("tensorflow"):
            from tfcodec import files
            with files.new_file("new"):
                print("importing", flush=True)
                time.sleep(60)
sys.meta_path.insert(0, Stop())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("name", ["reencode", "litert_export"])
def test_each_program_sees_to_signals_before_its_work(name, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTING, f"tfcodec.{name}", "tfcodec", "folder"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "importing\n"
        assert os.listdir(tmp_path)
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
    assert not os.listdir(tmp_path)
