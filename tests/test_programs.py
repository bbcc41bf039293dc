import json
import math

import numpy as np
import pytest

from tfcodec import programs


def test_the_schedule_is_that_of_train_py():
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    from tfcodec import optimizers

    ours = programs.Schedule(5e-4, 20, 0.3)
    theirs = optimizers.Schedule(5e-4, 20, 0.3, 200)
    pace = programs.Steps(200)
    for step in (0, 5, 19, 20, 59, 60, 61, 130, 199, 200, 300):
        expected = float(theirs(step))
        assert ours.rate(step, pace.progress(step)) == pytest.approx(expected, 1e-5)


def test_a_deadline_that_comes_late_moves_the_end_of_the_schedule(tmp_path):
    time = [1000.0]
    file = tmp_path / "deadline"
    clock = programs.Clock(10, str(file), 0.5, 1.0, now=lambda: time[0])
    clock.begin()
    assert clock.progress(0) == 0.5
    time[0] += 300
    assert clock.progress(7) == pytest.approx(0.75)
    file.write_text(str(1000.0 + 400))
    assert clock.progress(8) == pytest.approx(0.5 + 0.5 * 3 / 4)
    file.write_text("")  # Being written anew.
    assert clock.progress(9) == pytest.approx(0.75)
    time[0] += 1e6
    assert clock.progress(10) == 1.0


def test_a_loss_that_explodes_lowers_the_rate_until_there_is_no_use_in_it():
    watch = programs.Watch()
    assert not any(watch.exploded(loss, 10, 10) for loss in (30.0, 12.0, 10.0, 19.0))
    assert watch.scale == 1
    assert watch.exploded(21.0, 10, 10)
    assert watch.scale == pytest.approx(0.7)
    assert watch.exploded(10.0, 4, 10)  # Most steps were not finite.
    assert watch.exploded(math.nan, 0, 10)
    assert watch.scale == pytest.approx(0.7**3)
    assert not watch.exploded(11.0, 9, 10)
    for _ in range(programs.MOST_RETURNS - 3):
        assert watch.exploded(math.inf, 10, 10)
    with pytest.raises(FloatingPointError, match="exploded 11 times"):
        watch.exploded(math.inf, 10, 10)


def made(directory):
    """A program whose step is no step, and the arrays of a state of it."""
    arguments = [
        {"name": "weights/0000", "shape": [2], "dtype": "float32", "output": 1},
        {"name": "momentum/0000", "shape": [2], "dtype": "float32", "output": 2},
        {"name": "average/0000", "shape": [2], "dtype": "float32", "output": 3},
        {"name": "iterations", "shape": [], "dtype": "int64", "output": 4},
        {"name": "constant/0004", "shape": [3], "dtype": "int32", "output": None},
    ]
    manifest = {
        "version": programs.VERSION, "arguments": arguments, "metrics": ["loss"],
        "inputs": [{"name": "images", "shape": [2, 64, 64, 3], "dtype": "uint8"}],
        "config": {
            "validation": "", "learning_rate": 1e-3, "warmup": 1, "hold": 0.5,
            "steps": 10,
        },
    }  # fmt: skip
    directory.mkdir()
    (directory / programs.MANIFEST).write_text(json.dumps(manifest))
    (directory / programs.STEP).write_bytes(b"")
    start = {
        "weights/0000": np.float32([1, 2]),
        "average/0000": np.float32([1, 2]),
        "constant/0004": np.int32([1, 2, 3]),
    }
    programs.write_arrays(directory / programs.STATE, start)
    return programs.Program.at(directory)


def test_a_program_begins_with_its_arrays_and_goes_on_with_those_of_a_state(tmp_path):
    program = made(tmp_path / "program")
    start = program.state()
    assert list(start["momentum/0000"]) == [0, 0]  # Zeros are not stored.
    assert start["iterations"] == 0
    assert start["iterations"].dtype == np.int64
    later = {**start, "weights/0000": np.float32([5, 6]), "iterations": np.int64(7)}
    later["average/0000"] = np.float32([3, 4])
    del later["constant/0004"]
    programs.write_state(tmp_path, later, {"steps": 7})
    assert programs.record_of(tmp_path) == {"steps": 7}
    found = program.state(tmp_path / programs.STATE)
    assert list(found["weights/0000"]) == [5, 6]
    assert found["iterations"] == 7
    assert list(found["constant/0004"]) == [1, 2, 3]
    with np.load(tmp_path / programs.WEIGHTS) as arrays:  # For --init.
        assert [list(arrays[name]) for name in arrays.files] == [[3, 4]]


def test_a_state_that_is_damaged_or_of_another_program_is_refused(tmp_path):
    program = made(tmp_path / "program")
    path = tmp_path / programs.STATE
    assert programs.record_of(tmp_path) is None
    state = {**program.state(), "weights/0000": np.float32([1, 2, 3])}
    programs.write_state(tmp_path, state, {})
    with pytest.raises(ValueError, match=r"no weights/0000 of this program"):
        program.state(path)
    path.write_bytes(path.read_bytes()[:-100])
    for read in (lambda: program.state(path), lambda: programs.record_of(tmp_path)):
        with pytest.raises(ValueError, match="cannot read a state"):
            read()


def test_what_is_no_program_or_one_of_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a program"):
        programs.Program.at(tmp_path)
    program = made(tmp_path / "program")
    path = program.directory / programs.MANIFEST
    path.write_text(json.dumps({**program.manifest, "version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        programs.Program.at(program.directory)


def test_a_run_keeps_its_settings_but_for_those_that_may_change(tmp_path):
    settings, run = {"arch": "tfcodec", "steps": 10}, tmp_path / "run"
    programs.keep_settings(settings, run, {})
    (run / programs.STATE).touch()
    programs.keep_settings({**settings, "steps": 20}, run, {})
    stored = json.loads((run / "config.json").read_text())
    assert stored["steps"] == 20
    with pytest.raises(ValueError, match="arch='tfcodec', not 'bls2017'"):
        programs.keep_settings({"arch": "bls2017"}, run, {})


def test_a_run_without_a_result_begins_anew_with_other_settings(tmp_path, caplog):
    settings, run = {"arch": "tfcodec", "steps": 10}, tmp_path / "run"
    corrected = {**settings, "arch": "bls2017"}
    programs.keep_settings(settings, run, {})
    (run / "latents").mkdir()
    (run / "checkpoints" / "ckpt-1_temp").mkdir(parents=True)
    programs.keep_settings(settings, run, {}, "latents")
    assert (run / "latents").exists()
    assert not caplog.text
    programs.keep_settings(corrected, run, {}, "latents")
    assert f"{run} had no checkpoint yet" in caplog.text
    assert "another arch\n" in caplog.text
    assert json.loads((run / "config.json").read_text()) == corrected
    assert not (run / "latents").exists()
    for result in ("checkpoints/ckpt-1.index", programs.STATE, programs.MODEL):
        (run / result).touch()
        with pytest.raises(ValueError, match="arch='bls2017', not 'tfcodec'"):
            programs.keep_settings(settings, run, {})
        (run / result).unlink()


def test_settings_of_another_program_are_not_replaced(tmp_path):
    (tmp_path / "config.json").write_text('{"arch": "of something else"}')
    settings = {"arch": "tfcodec", "steps": 10}
    for defaults in ({}, {**settings, "steps": 20}):
        with pytest.raises(ValueError, match="arch='of something else', not 'tfcodec'"):
            programs.keep_settings(settings, tmp_path, defaults)
