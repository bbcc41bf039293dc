import errno
import subprocess
import sys

import pytest

from tfcodec import locks

fcntl = pytest.importorskip("fcntl")

HOLDING = """
import sys, time
from tfcodec import locks
with locks.alone(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """A process that has the lock of `tmp_path / "run"`."""
    line = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path, other):
    run = tmp_path / "run"
    with pytest.raises(OSError, match="another training writes") as refused:
        with locks.alone(run):
            raise AssertionError("both hold it")
    assert str(refused.value).startswith(f"{run}: ")
    with locks.alone(tmp_path / "another"):
        pass
    other.kill()
    other.wait()
    with locks.alone(run):
        pass
    with locks.alone(run):  # Again, as it was let go of.
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_stops_no_training(tmp_path, monkeypatch, number):
    def refused(file, operation):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refused)
    with locks.alone(tmp_path / "run"), locks.alone(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_lock_that_cannot_be_opened_stops_no_training(tmp_path):
    (tmp_path / locks.LOCK).mkdir()
    with locks.alone(tmp_path):
        pass


def test_an_error_of_the_training_is_not_taken_for_one_of_the_lock(tmp_path):
    with pytest.raises(OSError, match="disk"), locks.alone(tmp_path):
        raise OSError(errno.ENOLCK, "disk")
