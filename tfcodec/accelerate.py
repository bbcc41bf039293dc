"""Trains with a step that `train.py --xla_program` wrote, by JAX, on an accelerator.

    python -m tfcodec.accelerate build/step --images photos/ --run runs/mine

It needs jax, numpy and pillow, and no TensorFlow. The images become tiles, which stay
on the device; new files in the folders are taken in while it goes on. The run directory
gets `state.npz`, from which this and `train.py --run` go on, and `weights.npz`, the
averaged weights, which `train.py --init` takes.
"""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import signal
import sys
import time

import numpy as np

from tfcodec import console, held_out, helpers, locks, programs, training_tiles

# Steps that may be under way on the device before the next is asked for.
AHEAD = 10
# Steps between looks for new tiles.
LOOK = 4


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m tfcodec.accelerate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = result.add_argument
    add("program", help="folder that train.py --xla_program wrote")
    add("--images", nargs="+", required=True, metavar="PATH", help="folders and globs")
    add("--run", required=True, metavar="DIR", help="run directory")
    add("--steps", type=int, help="optimizer steps in all, by default the program's")
    add("--minutes", type=float, help="minutes to train, in place of --steps")
    add(
        "--deadline", default="", metavar="FILE",
        help="a file with the time to end at instead, in seconds since 1970; it may be "
        "made or changed while the training runs",
    )  # fmt: skip
    add(
        "--from", type=float, dest="first", metavar="PART",
        help="with --minutes or --deadline: part of the schedule to begin at, by "
        "default where the state stopped",
    )  # fmt: skip
    add(
        "--to", type=float, default=1.0, dest="last", metavar="PART",
        help="with --minutes or --deadline: part of the schedule to end at",
    )  # fmt: skip
    add("--learning_rate", type=float, help="peak, by default the program's")
    add("--tile", type=int, help="side of a tile in pixels, by default 1.375 patches")
    add(
        "--scales",
        type=float,
        nargs="+",
        default=training_tiles.SCALES,
        help="factors by which images are reduced",
    )
    add("--jobs", type=int, default=helpers.cores(), help="processes that decode")
    add("--gigabytes", type=float, default=8.0, help="of tiles on the device, at most")
    add("--rescan", type=float, default=20.0, help="seconds between looks for images")
    add("--log_steps", type=int, default=100, help="steps between lines of the log")
    add("--save_minutes", type=float, default=5.0, help="minutes between saves")
    add("--snapshot_seconds", type=float, default=30.0, help="between snapshots")
    add("--seed", type=int, default=0, help="of batches and noise")
    add(
        "--trace", default="", metavar="DIR",
        help=f"write when the device did what in {AHEAD} steps, the first {2 * AHEAD} "
        "left out: for TensorBoard's profiler, and benchmarks.operations",
    )  # fmt: skip
    add(
        "--tf32",
        action="store_true",
        help="let products use TF32, or bfloat16 on a TPU",
    )
    return result


class Run:
    """A training by a program: the state on the device, and what to do with it.

    Args:
        program: a `programs.Program`.
        args: of `parser`.
        say: prints a line of the log.
        device: what computes, the module `jax_step`.
    """

    def __init__(self, program, args, say, device):
        self.device, self.args, self.say = device, args, say
        self.program, self.run = program, pathlib.Path(args.run)
        self.record = programs.record_of(self.run) or {}
        if not self.record and (self.run / programs.CHECKPOINTS).exists():
            raise ValueError(
                f"{self.run} has checkpoints of train.py, which a program cannot "
                "continue: give another --run, and --init to train.py --xla_program"
            )
        old = self.run / programs.STATE if self.record else None
        host = program.state(old)
        self.watch = programs.Watch(self.record.get("scale", 1.0))
        self.draws = self.record.get("draws", 0)
        self.seconds = self.record.get("seconds", 0.0)
        self.skipped = self.record.get("skipped", 0)
        self.state = device.put(host)
        self.snapshot = device.copied(self.state)
        self.iterations = int(host["iterations"])
        self.schedule, self.pace = self._schedule()
        self.progress, self.images, self.stopped = 0.0, 0, False
        batch, patch = program.input_shape("images")[:2]
        self.patch, self.megapixels = patch, batch * patch**2 / 1e6
        self.side = args.tile or patch * 11 // 8
        if self.side < patch:
            raise ValueError(f"--tile must be at least {patch}, a patch")
        most = args.gigabytes * 1e9 / (3 * self.side**2) // device.CHUNK
        self.chunks = device.Chunks(self.side, max(1, int(most)), args.seed)

    def _schedule(self):
        """Returns (`programs.Schedule`, what tells the progress)."""
        config = self.program.manifest["config"]
        peak = self.args.learning_rate
        if peak is None:
            peak = config["learning_rate"]
        schedule = programs.Schedule(peak, config["warmup"], config["hold"])
        if self.args.minutes or self.args.deadline:
            first = self.args.first
            if first is None:
                first = self.record.get("progress", 0.0)
            if first >= self.args.last:
                raise ValueError(
                    f"{self.run} is at {first} of its schedule, which this run is to "
                    f"follow to {self.args.last}: --from 0 begins it anew"
                )
            minutes = self.args.minutes or 10**6
            pace = programs.Clock(minutes, self.args.deadline, first, self.args.last)
        else:
            pace = programs.Steps(self.args.steps or config["steps"])
        return schedule, pace

    def compile(self):
        began = time.monotonic()
        self.advance = self.device.compiled(
            self.program, self.state, self.side, self.args.tf32
        )
        self.say(f"compiled in {time.monotonic() - began:.1f} s")

    def train(self, reader):
        """Trains to the end of the schedule, or until `stopped`; saves the state.

        Raises:
            FloatingPointError: the loss exploded again and again; what is saved is
                from before.
            ValueError: there are no images.
        """
        self.chunks.put(*reader.take(wait=True))
        self.pace.begin()
        self.saved = self.snapped = time.monotonic()
        self._begin_window()
        try:
            self._steps(reader)
            self._end_window(reader)
            self.snapshot = self.state
        finally:
            self.save()

    def _steps(self, reader):
        number = 0
        while not self.stopped:
            if number % LOOK == 0 and (block := reader.take(wait=False)):
                self.chunks.put(*block)
            self.progress = self.pace.progress(self.iterations)
            if self.progress >= self.pace.last:
                self._end_window(reader)
                # Not yet, if some steps did not count.
                if self.pace.progress(self.iterations) >= self.pace.last:
                    break
                continue
            self._trace(number)
            self._one_step()
            number += 1
            if number % AHEAD == 0:
                self.device.wait(self.sums)
            if self.steps == self.args.log_steps:
                self._end_window(reader)

    def _trace(self, number):
        """Begins or ends the trace that --trace asks for, before step `number`."""
        if self.args.trace and number == 2 * AHEAD:
            self.device.start_trace(self.args.trace)
        elif self.args.trace and number == 3 * AHEAD:
            self.device.wait(self.sums)
            self.device.stop_trace()
            self.say(f"wrote the trace of {AHEAD} steps to {self.args.trace}")

    def _begin_window(self):
        self.sums, self.steps = self.device.no_sums(self.program), 0
        self.window = time.monotonic()

    def _one_step(self):
        rate = self.schedule.rate(self.iterations, self.progress)
        self.rate = rate * self.watch.scale
        self.state, self.sums = self.advance(
            self.state, self.sums, *self.chunks.choose(), np.int32(self.args.seed),
            np.int32(self.draws), np.float32(self.rate),
        )  # fmt: skip
        self.draws += 1
        self.iterations += 1
        self.steps += 1

    def _end_window(self, reader) -> None:
        """Reads the sums, logs, returns to the snapshot or makes one; saves, if due."""
        if not self.steps:
            return
        sums = {name: float(value) for name, value in self.sums.items()}
        good, steps = int(sums.pop("good")), self.steps
        means = {name: value / max(1, good) for name, value in sums.items()}
        self.iterations -= steps - good
        self.skipped += steps - good
        self._log(means, steps, steps - good, reader)
        exploded = self.watch.exploded(means["loss"] if good else np.nan, good, steps)
        if exploded:
            self.state = self.device.copied(self.snapshot)
            self.iterations = int(self.state["iterations"])
            self.say(
                f"the loss exploded: back to the snapshot of step {self.iterations}, "
                f"at {self.watch.scale:.3g} of the learning rate"
            )
        elif time.monotonic() - self.snapped >= self.args.snapshot_seconds:
            self.snapshot = self.device.copied(self.state)
            self.snapped = time.monotonic()
            if self.snapped - self.saved >= 60 * self.args.save_minutes:
                self.save()
        self._begin_window()

    def _log(self, means, steps, bad, reader):
        speed = steps * self.megapixels / max(1e-9, time.monotonic() - self.window)
        values = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
        self.say(
            f"step {self.iterations} at {self.progress:.3f}: {values}, rate "
            f"{self.rate:.3g}, {speed:.3g} megapixels/s, {reader.tiles} tiles of "
            f"{reader.files} images" + (f", {bad} steps not finite" if bad else "")
        )
        self.images = reader.files

    def save(self):
        """Writes the snapshot, with the record of the run."""
        now = time.monotonic()
        self.seconds += now - self.saved
        self.saved = now
        arrays = {k: np.asarray(v) for k, v in self.snapshot.items()}
        changed = {x["name"] for x in self.program.manifest["arguments"]
                   if x["output"] is not None}  # fmt: skip
        self.record = {
            "device": self.device.name(), "jax": self.device.VERSION,
            "steps": int(arrays["iterations"]), "skipped": self.skipped,
            "seconds": round(self.seconds, 1), "progress": round(self.progress, 6),
            "scale": self.watch.scale, "draws": self.draws,
            "learning_rate": self.schedule.peak, "images": self.images,
            "tf32": self.args.tf32,
        }  # fmt: skip
        kept = {name: arrays[name] for name in changed}
        programs.write_state(self.run, kept, self.record)
        self.say(f"saved step {self.record['steps']} to {self.run}")


def train(args) -> None:
    """Runs the training that the arguments of `parser` ask for."""
    program = programs.Program.at(args.program)
    with locks.alone(args.run):
        programs.keep_settings(program.manifest["config"], pathlib.Path(args.run), {})
        _train(program, args)


def _train(program, args):
    """Does what `train` does, in a run directory that is prepared and locked."""
    began = time.monotonic()

    def say(text):
        console.say(f"[{time.monotonic() - began:7.1f}] {text}", sys.stdout)

    # Counters of optimizers are of 64 bits.
    os.environ["JAX_ENABLE_X64"] = "1"
    # A generator that is quick on accelerators.
    os.environ.setdefault("JAX_DEFAULT_PRNG_IMPL", "rbg")
    from tfcodec import jax_step

    run = Run(program, args, say, jax_step)
    say(f"{jax_step.name()}, from step {run.iterations}")

    def stop(number, _):
        run.stopped = True
        signal.signal(number, signal.SIG_DFL)  # A second one ends it at once.

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    validated = bool(program.manifest["config"]["validation"])
    side = None if validated else held_out.side_of(run.patch)
    finder = training_tiles.Finder(args.images, side)
    with training_tiles.Reader(
        finder, run.side, run.patch, tuple(args.scales), args.jobs, args.rescan
    ) as reader:
        run.compile()  # While images are read.
        run.train(reader)


def main(arguments=None) -> int:
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        console.say(f"accelerate: {error}", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
