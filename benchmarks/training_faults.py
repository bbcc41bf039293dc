"""Kills a training at random moments, and compares it with one that was not killed.

    python -m benchmarks.training_faults --kills 20

It trains a tiny model by `train.py`, as users run it. Each start is killed by SIGKILL:
while it starts, between steps, in the middle of a checkpoint, of a validation, of
fitting the tables, or of the export. The last start is not killed. Then every value
that was ever logged, all of the last checkpoint, and the exported model must be the
same as those of the training without kills. Exits with 1 if they are not.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
LOG_STEPS, VALIDATE_STEPS = 5, 20
HALF_WRITTEN = {"checkpoint": "checkpoints/*_temp", "export": "model.part"}


@dataclasses.dataclass
class Moment:
    """When to kill a run: `seconds` after `what` has happened, at `step` or later."""

    what: str
    step: int
    seconds: float


def main(argv=None) -> int:
    args = parse(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from tests import tiny

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        images = tiny.images(folder / "images")
        whole, killed = (Run(folder / x, images, args) for x in ("whole", "killed"))
        began = time.time()
        whole.start()
        if whole.process.wait():
            sys.exit(whole.log())
        took = time.time() - began
        print(
            f"{args.steps} steps of {args.arch} for {args.distortion}, "
            f"left alone: {took:.0f} s\n"
        )
        print(f"{'killed':30}{'at step':>8}{'cut short':>14}   {'resumed from':14}")
        for moment in moments(args, took / 3):
            killed.start()
            at_step, cut = killed.kill(moment)
            began = killed.resumed_from()
            print(
                f"{moment.what + f' + {1000 * moment.seconds:.0f} ms':30}"
                f"{at_step:>8}{cut:>14}   {began:14}", flush=True,
            )  # fmt: skip
        killed.start()
        if killed.process.wait():
            sys.exit(killed.log())
        print(f"{'not':52}   {killed.resumed_from()}\n")
        return compare(whole, killed)


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_faults", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200, help="in all")
    parser.add_argument("--arch", default="bls2017", help="architecture")
    parser.add_argument("--distortion", default="mse", help="as of train.py")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args(argv)


def moments(args, starting) -> list[Moment]:
    """Returns moments of each kind, in an order in which a training reaches them.

    Args:
        args: of the command line.
        starting: seconds that a training needs until its first step.
    """
    rng = random.Random(args.seed)
    longest = {
        "training starts": starting, "step is done": 0.2, "checkpoint begins": 0.002,
        "validation begins": 0.5,
    }  # fmt: skip
    last = {"tables are fitted": 3, "export begins": 0.1, "export is on": 0.3}
    first = max(0, args.kills - len(last))
    steps = sorted(rng.randrange(args.steps * 9 // 10) for _ in range(first))
    kinds = [(step, *rng.choice(list(longest.items()))) for step in steps]
    kinds += [(args.steps, *item) for item in last.items()]
    return [Moment(what, step, rng.uniform(0, most)) for step, what, most in kinds]


class Run:
    """A run directory, and the process that trains in it."""

    def __init__(self, directory, images, args):
        from tests import tiny

        self.directory, self.steps = directory, args.steps
        self.checkpoints = directory / "checkpoints"
        self.errors = directory.with_suffix(".log")
        settings = tiny.flags(
            args.arch, images=images, steps=args.steps, log_steps=LOG_STEPS,
            validate_steps=VALIDATE_STEPS, checkpoint_minutes=0.003,
            distortion=args.distortion,
        )  # fmt: skip
        flags = [f"--{name}={value}" for name, value in settings.items()]
        program = [sys.executable, ROOT / "train.py", f"--run={directory}"]
        self.command = [*program, *flags]

    def start(self):
        with open(self.errors, "w") as file:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=file
            )
        self.first, self.began = self.step(), time.time()

    def log(self) -> str:
        return self.errors.read_text()

    def resumed_from(self) -> str:
        """The checkpoint from which the last start resumed."""
        if " kMAC per pixel" not in self.log():
            return "(not so far)"
        found = re.search(r"resumed from .*(ckpt-\d+)", self.log())
        return found[1] if found else "the start"

    def step(self) -> int:
        """The last step in a checkpoint or in the log."""
        names = (path.name for path in self.checkpoints.glob("ckpt-*.index"))
        saved = [int(name[5:-6]) for name in names]
        logged = [int(n) for n in re.findall(r"\] step (\d+) of", self.log())]
        return max([*saved, *logged], default=0)

    def half_written(self) -> str:
        """What this start has begun to write, and not yet completed."""
        for what, pattern in HALF_WRITTEN.items():
            for path in self.directory.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime >= self.began:
                        return what
        return ""

    def come(self, moment) -> bool:
        """Whether the event of a moment has happened."""
        if moment.what == "training starts":
            return True
        # Each start takes at least one step, unless it is to be killed before.
        if self.step() < min(self.steps, max(moment.step, self.first + 1)):
            return False
        if moment.what == "checkpoint begins":
            return self.half_written() == "checkpoint"
        if moment.what == "validation begins":
            last = re.findall(r"\] step (\d+) of.*\((\w+)\)", self.log())[-1:]
            return any(int(n) % VALIDATE_STEPS == 0 and x == "train" for n, x in last)
        if moment.what in ("export begins", "export is on"):
            return self.half_written() == "export"
        return True

    def kill(self, moment):
        """Kills the run at a moment; returns (step, what it was writing)."""
        while not self.come(moment):
            if self.process.poll() is not None:
                sys.exit(f"ended before it was to be killed, {moment}\n{self.log()}")
            time.sleep(0.002)
        time.sleep(moment.seconds)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return self.step(), self.half_written()

    def curve(self) -> dict:
        """Returns every value ever logged: (tag, step) -> set of values."""
        import tensorflow as tf

        values = {}
        for file in (self.directory / "logs").iterdir():
            # The last record of a killed run may be incomplete.
            records = tf.data.TFRecordDataset(str(file)).ignore_errors()
            for record in records.as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                for value in event.summary.value:
                    key = (value.tag, event.step)
                    values.setdefault(key, set()).add(value.SerializeToString())
        return values

    def state(self) -> dict:
        """Returns the tensors of the last checkpoint, without the time it took."""
        import tensorflow as tf

        steps = [int(path.name[5:-6]) for path in self.checkpoints.glob("*.index")]
        reader = tf.train.load_checkpoint(str(self.checkpoints / f"ckpt-{max(steps)}"))
        names = reader.get_variable_to_shape_map()
        clock = ("seconds", "_CHECKPOINTABLE", "save_counter")
        return {n: reader.get_tensor(n) for n in names if not n.startswith(clock)}


def compare(whole, killed) -> int:
    """Prints what is equal; returns the exit status."""
    import numpy as np

    from tfcodec import registry

    curves = whole.curve(), killed.curve()
    tags = sorted({tag for tag, _ in curves[0]})
    states = whole.state(), killed.state()
    cards = [registry.Model.at(run.directory / "model").card for run in (whole, killed)]
    for card in cards:
        card["training"].pop("hours")
    # Compared by name, but for the steps of checkpoints and the event files.
    files = [
        sorted(
            re.sub(r"-\d+\.", "-N.", path.name)
            for path in run.directory.rglob("*")
            if "tfevents" not in path.name
        )
        for run in (whole, killed)
    ]
    checks = {
        f"logged values, {len(curves[0])} of {', '.join(tags)}": curves[0] == curves[1],
        f"last checkpoint, {len(states[0])} tensors": states[0].keys()
        == states[1].keys()
        and all(np.array_equal(x, states[1][n]) for n, x in states[0].items()),
        f"card, with fingerprint {cards[0]['fingerprint'][:16]}": cards[0] == cards[1],
        "no file more or less": files[0] == files[1],
    }
    for what, equal in checks.items():
        print(f"{'equal' if equal else 'NOT EQUAL'}: {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
