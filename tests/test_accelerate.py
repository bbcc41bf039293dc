"""Programs run by JAX, in a Python of its own: TFCODEC_JAX_PYTHON names it."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from tests import tiny
from tests.test_programs import made
from tfcodec import accelerate, locks, programs

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = os.environ.get("TFCODEC_JAX_PYTHON", "")
needs_jax = pytest.mark.skipif(
    not PYTHON, reason="TFCODEC_JAX_PYTHON names no Python that has jax"
)


class Device:
    """Stands in for `jax_step`: each step adds 1 to the weights, at a loss as given."""

    CHUNK, VERSION = 64, "none"
    put = copied = staticmethod(dict)

    def __init__(self, loss):
        self.loss, self.rates = loss, []
        self.Chunks = lambda side, most, seed: types.SimpleNamespace(
            put=lambda *block: None, choose=lambda: (None, None, 64)
        )

    def name(self):
        return "a stand-in"

    def start_trace(self, directory):
        self.traced = [directory, len(self.rates)]

    def stop_trace(self):
        self.traced.append(len(self.rates))

    def wait(self, values):
        pass

    def no_sums(self, program):
        return {"loss": 0.0, "good": 0.0}

    def compiled(self, program, state, side, tf32):
        def advance(state, sums, tiles, extents, count, seed, number, rate):
            loss = self.loss(int(number))
            if not np.isfinite(loss):
                return state, sums
            self.rates.append(float(rate))
            after = {
                **state,
                "weights/0000": state["weights/0000"] + 1,
                "iterations": state["iterations"] + 1,
            }
            return after, {"loss": sums["loss"] + loss, "good": sums["good"] + 1}

        return advance


class Reader:
    files, tiles = 3, 64

    def take(self, wait):
        return (None, None) if wait else None


def ran(program, run, loss, *flags):
    """Trains with a stand-in; returns (Device, the state, lines of the log)."""
    lines, device = [], Device(loss)
    arguments = [str(program.directory), "--images", "x", "--run", str(run), *flags]
    args = accelerate.parser().parse_args(arguments)
    run.mkdir(exist_ok=True)
    training = accelerate.Run(program, args, lines.append, device)
    training.compile()
    training.train(Reader())
    return device, programs.read_arrays(run / programs.STATE), lines


@pytest.fixture
def program(tmp_path):
    return made(tmp_path / "program")


def test_a_step_that_is_not_finite_is_made_up_for(program, tmp_path):
    def loss(number):
        return np.nan if number in (3, 7) else 10.0

    flags = ("--log_steps", "4")
    device, state, lines = ran(program, tmp_path / "run", loss, *flags)
    assert state["iterations"] == len(device.rates) == 10
    assert list(state["weights/0000"]) == [11, 12]
    record = programs.record_of(tmp_path / "run")
    assert (record["steps"], record["skipped"], record["draws"]) == (10, 2, 12)
    assert "1 steps not finite" in "\n".join(lines)


def test_a_loss_that_explodes_goes_back_to_the_snapshot_at_a_lower_rate(
    program, tmp_path
):
    def loss(number):
        return 1e6 if number in (7, 8) else 10.0

    flags = ("--steps", "20", "--log_steps", "5", "--snapshot_seconds", "0")
    device, state, lines = ran(program, tmp_path / "run", loss, *flags)
    assert "back to the snapshot of step 5" in "\n".join(lines)
    assert state["iterations"] == 20
    assert list(state["weights/0000"]) == [21, 22]
    assert device.rates[10] == pytest.approx(0.7 * device.rates[5])
    assert programs.record_of(tmp_path / "run")["scale"] == pytest.approx(0.7)


def test_a_training_that_is_beyond_hope_ends_with_what_was_good(program, tmp_path):
    def loss(number):
        return 10.0 if number < 5 else np.inf

    flags = ("--log_steps", "5", "--snapshot_seconds", "0")
    with pytest.raises(FloatingPointError, match="exploded"):
        ran(program, tmp_path / "run", loss, *flags)
    state = programs.read_arrays(tmp_path / "run" / programs.STATE)
    assert state["iterations"] == 5


def test_a_run_goes_on_where_it_stopped_with_other_batches(program, tmp_path):
    numbers = []

    def loss(number):
        numbers.append(number)
        return 10.0

    ran(program, tmp_path / "run", loss, "--steps", "4")
    _, state, _ = ran(program, tmp_path / "run", loss, "--steps", "7")
    assert state["iterations"] == 7
    assert numbers == list(range(7))


def test_ten_steps_are_traced_after_the_first_twenty(program, tmp_path):
    flags = ("--steps", "40", "--trace", "here")
    device, _, lines = ran(program, tmp_path / "run", lambda number: 10.0, *flags)
    assert device.traced == ["here", 20, 30]
    assert "wrote the trace of 10 steps to here" in lines


def test_a_training_by_the_clock_ends_by_it(program, tmp_path):
    (tmp_path / "deadline").write_text("0")  # Long ago.
    flags = ("--deadline", str(tmp_path / "deadline"), "--to", "0.5")
    _, state, _ = ran(program, tmp_path / "run", lambda number: 10.0, *flags)
    assert state["iterations"] == 0
    assert programs.record_of(tmp_path / "run")["progress"] == 0.5
    flags = ("--minutes", "0.002")
    _, state, _ = ran(program, tmp_path / "run", lambda number: 10.0, *flags)
    assert state["iterations"] > 0
    assert programs.record_of(tmp_path / "run")["progress"] == 1
    with pytest.raises(ValueError, match="--from 0 begins it anew"):
        ran(program, tmp_path / "run", lambda number: 10.0, *flags)


def test_a_run_of_train_py_is_not_begun_anew_by_mistake(program, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="has checkpoints of train.py"):
        ran(program, tmp_path / "run", lambda number: 10.0)


def test_a_run_directory_that_another_training_writes_to_is_refused(
    program, tmp_path, capsys
):
    flags = ["--images", "x", "--run", str(tmp_path / "run")]
    with locks.alone(tmp_path / "run"):
        assert accelerate.main([str(program.directory), *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"accelerate: {tmp_path}/run: another training writes to")


def test_it_imports_neither_tensorflow_nor_jax_before_it_runs():
    code = (
        "import tfcodec.accelerate, tfcodec.training_tiles, sys; "
        "assert not {'tensorflow', 'jax'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


STEPS = 20
STEPS_BY_JAX = """
import sys
import jax, numpy as np
from tfcodec import jax_step, programs

program = programs.Program.at(sys.argv[1])
batches = np.load(sys.argv[2])
config = program.manifest["config"]
pace = programs.Steps(config["steps"])
schedule = programs.Schedule(config["learning_rate"], config["warmup"], config["hold"])
step = jax.jit(jax_step.finite_or_before(jax_step.function_of(program)))
state, losses, trail = program.state(), [], {}
for tf32 in (False, True):
    function = jax.jit(jax_step.function_of(program, tf32))
    inputs = {name: batches[name][0] for name in ("images", "quality", "seed")}
    text = function.lower(state, {**inputs, "learning_rate": np.float32(0)}).as_text()
    assert ("HIGHEST" in text) != tf32
for number in range(len(batches["seed"])):
    inputs = {name: batches[name][number] for name in ("images", "quality", "seed")}
    rate = schedule.rate(number, pace.progress(number))
    trail.update({f"{number}/{name}": array for name, array in state.items()})
    state, metrics, good = step(state, {**inputs, "learning_rate": np.float32(rate)})
    assert good
    losses.append(float(metrics["loss"]))
# A step whose gradient is not finite changes nothing.
bad = {**state, "weights/0000": state["weights/0000"] * np.float32(np.nan)}
after, _, good = step(bad, {**inputs, "learning_rate": np.float32(rate)})
assert not good and all(np.array_equal(after[k], bad[k], equal_nan=True) for k in bad)
trail.update({f"{number + 1}/{name}": array for name, array in state.items()})
programs.write_arrays(sys.argv[3], {**trail, "losses": np.array(losses)})
"""


def jax_python(*arguments):
    """Runs the Python that has jax; quick to compile, at the cost of slow steps."""
    quick = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick,
    }  # fmt: skip
    done = subprocess.run(
        [PYTHON, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function of an architecture: (settings of a training, its `Program`)."""
    pytest.importorskip("tensorflow_compression")
    from tfcodec import training

    images, found = tiny.images(tmp_path_factory.mktemp("images")), {}

    def of(arch):
        if arch not in found:
            flags = tiny.flags(arch, images=str(images), steps=STEPS)
            config = training.TrainConfig(**flags)
            folder = tmp_path_factory.mktemp("program") / arch
            training.write_program(config, folder)
            found[arch] = config, programs.Program.at(folder)
        return found[arch]

    return of


@pytest.mark.slow
def test_a_program_makes_its_noise_without_a_loop_and_replaces_its_state(exported):
    config, program = exported("bls2017")
    from tensorflow.compiler.xla.service import hlo_pb2

    module = hlo_pb2.HloModuleProto.FromString(program.step())
    opcodes = {i.opcode for c in module.computations for i in c.instructions}
    assert "convolution" in opcodes
    assert "while" not in opcodes
    assert "copy" not in opcodes  # JAX's plugin for NVIDIA's GPUs refuses it.
    state = {x["name"]: x["output"] for x in program.manifest["arguments"]}
    changed = [output for output in state.values() if output is not None]
    count = len([name for name in state if name.startswith("weights/")])
    assert len(changed) == len(set(changed)) == 4 * count + 2
    assert program.manifest["config"] == vars(config)
    assert program.input_shape("images") == [4, 64, 64, 3]
    assert any(array.any() for array in program.state().values())


def test_the_step_of_a_program_minimises_all_that_the_model_does(tmp_path):
    """Of latents' magnitudes, too, which a sparse model adds to the rate."""
    pytest.importorskip("tensorflow_compression")
    import tensorflow as tf

    from tfcodec import training, xla_program

    images = str(tiny.images(tmp_path))
    config = training.TrainConfig(**tiny.flags("sparse", images=images, steps=2))
    model, given = training.build(config), xla_program.Given()
    inputs = {
        "image": tf.constant(tiny.photograph(64, 64)[None]),
        "quality": tf.zeros([1]), "seed": tf.constant([1, 2]),
    }  # fmt: skip
    cost = float(model.outcome(inputs, training=True)["cost"])
    assert model.sparsity
    loss, *_ = xla_program.step_of(model, given)(*inputs.values(), 0.0)
    assert float(loss) == pytest.approx(cost, rel=1e-5)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["bls2017", "tfcodec"])
def test_twenty_steps_by_jax_are_those_of_keras(arch, exported, tmp_path):
    config, program = exported(arch)
    import tensorflow as tf

    from tfcodec import training, xla_program

    random = np.random.default_rng(0)
    photograph = tiny.photograph(512, 512)
    corners = random.integers(0, 512 - 64, [STEPS, 4, 2])
    batches = {
        "images": np.stack(
            [[photograph[r : r + 64, c : c + 64] for r, c in row] for row in corners]
        ),
        "quality": random.random([STEPS, 4], np.float32),
        "seed": random.integers(0, 2**31 - 1, [STEPS, 2], np.int32),
    }
    np.savez(tmp_path / "batches.npz", **batches)
    jax_python(
        "-c", STEPS_BY_JAX, str(program.directory), str(tmp_path / "batches.npz"),
        str(tmp_path / "jax.npz"),
    )  # fmt: skip

    trail = programs.read_arrays(tmp_path / "jax.npz")
    model, losses, ways = training.build(config), [], []
    variables = xla_program.variables_of(model)
    batches["image"] = batches.pop("images")
    # Each step begins where that of JAX began: a latent that is rounded up here and
    # down there changes all that follow.
    for number in range(STEPS):
        for name, variable in variables.items():
            variable.assign(trail[f"{number}/{name}"])
        batch = {name: array[number : number + 1] for name, array in batches.items()}
        fitted = model.fit(tf.data.Dataset.from_tensor_slices(batch), verbose=0)
        losses += fitted.history["loss"]
        ways.append([apart(kind, number, variables, trail) for kind in KINDS])
    assert trail[f"{STEPS}/iterations"] == variables["iterations"] == STEPS
    off = np.abs(trail["losses"] / losses - 1)
    # In one step of the twenty, a latent may be so near to half a whole number that one
    # program rounds it up and the other down. Which step depends on the processor.
    off = np.sort(off)
    print(f"{arch}: losses at most {off[-2]:.2e} apart, and {off[-1]:.2e} once")
    assert off[-2] < 1e-5
    assert off[-1] < 1e-2
    for kind, way in zip(KINDS, np.transpose(ways)):
        way = np.sort(way)
        print(
            f"{arch}: {kind} {way[-2]:.2e} of their way apart, and {way[-1]:.2e} once"
        )
        assert way[-2] < 2e-3
        assert way[-1] < 2e-2


KINDS = "weights", "average"


def apart(kind, number, variables, trail):
    """How far Keras and JAX ended apart after one step, over how far they went."""
    names = sorted(name for name in variables if name.startswith(kind))
    ours, theirs, start = (
        np.concatenate([np.ravel(array) for array in arrays])
        for arrays in (
            [variables[name].numpy() for name in names],
            [trail[f"{number + 1}/{name}"] for name in names],
            [trail[f"{number}/{name}"] for name in names],
        )
    )
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs - start)


@needs_jax
@pytest.mark.slow
def test_train_py_goes_on_from_what_jax_trained_and_exports(exported, tmp_path):
    config, program = exported("bls2017")
    from tfcodec import registry, training

    run = tmp_path / "run"
    log = jax_python(
        "-m", "tfcodec.accelerate", str(program.directory), "--images", config.images,
        "--run", str(run), "--steps", "12", "--log_steps", "4", "--jobs", "1",
        "--gigabytes", "0.01",
    )  # fmt: skip
    assert "step 12 at" in log
    # All was trained there: here are no steps left to take.
    model = training.train(dataclasses.replace(config, steps=1), run)
    card = registry.Model.at(model).card
    assert card["training"]["steps"] == 12
    record = card["training"]["accelerator"]
    assert (record["steps"], record["device"]) == (12, "cpu")
    assert config.images not in json.dumps(card)
    # The averages are what is exported, and what --init takes.
    init = dataclasses.replace(config, steps=0, init=str(run / programs.WEIGHTS))
    arrays = programs.read_arrays(run / programs.STATE)
    averages = [arrays[k] for k in sorted(arrays) if k.startswith("average/")]
    for variable, average in zip(training.build(init).trainable_variables, averages):
        np.testing.assert_array_equal(variable, average)
