"""Where a GPU's time goes in a training step: `python -m benchmarks.operations TRACE`.

TRACE is the folder that `python -m tfcodec.accelerate ... --trace TRACE` wrote. Prints
the share of time in which the GPU did nothing, time by kind of operation, and the
kernels that took longest. Needs jax.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import re
import sys

# Kinds of kernels by what their names have, the first that fits.
KINDS = {
    "copies": r"memcpy|memset|copy|transpose",
    "convolutions": r"conv|fprop|dgrad|wgrad|cudnn",
    "matrix products": r"gemm|nvjet|cutlass|dot|triton_softmax_gemm",
    "sums and reductions": r"reduce",
    "elementwise": r"fusion|loop|wrapped|broadcast|add|select|scatter|gather|slice",
}


def kind_of(name: str) -> str:
    lower = name.lower()
    found = (kind for kind, words in KINDS.items() if re.search(words, lower))
    return next(found, "others")


def kernels(trace: pathlib.Path) -> list[tuple[str, float, float]]:
    """Returns (name, first, last) of each kernel, in seconds.

    Args:
        trace: folder with a file `*.xplane.pb` somewhere within.

    Raises:
        ValueError: there is none, or no GPU in it.
    """
    found = sorted(trace.rglob("*.xplane.pb"))
    if not found:
        raise ValueError(f"{trace}: no *.xplane.pb")
    from jax.profiler import ProfileData

    events = [
        (event.name, event.start_ns / 1e9, event.end_ns / 1e9)
        for plane in ProfileData.from_file(str(found[-1])).planes
        if plane.name.startswith("/device:GPU")
        for line in plane.lines
        if line.name.startswith("Stream")
        for event in line.events
    ]
    if not events:
        raise ValueError(f"{found[-1]}: no kernels of a GPU")
    return events


def busy(events) -> float:
    """Returns the seconds in which at least one of the events was under way."""
    total, end = 0.0, float("-inf")
    for _, first, last in sorted(events, key=lambda event: event[1]):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def table(sums: dict[str, float], whole: float, most: int) -> str:
    rows = sorted(sums.items(), key=lambda item: -item[1])[:most]
    return "\n".join(f"{100 * s / whole:6.1f} %  {name}" for name, s in rows)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("trace", type=pathlib.Path)
    parser.add_argument("--most", type=int, default=20, help="kernels to print")
    given = parser.parse_args(argv)
    try:
        events = kernels(given.trace)
    except (ValueError, ImportError) as error:
        print(f"operations: {error}", file=sys.stderr)
        return 1
    span = max(last for *_, last in events) - min(first for _, first, _ in events)
    by_kind, by_name = collections.Counter(), collections.Counter()
    for name, first, last in events:
        by_kind[kind_of(name)] += last - first
        by_name[name] += last - first
    print(f"{len(events)} kernels in {1e3 * span:.1f} ms; of these the GPU was idle "
          f"{100 * (1 - busy(events) / span):.1f} %. Shares of the time:")  # fmt: skip
    print(table(by_kind, span, len(KINDS) + 1))
    print(table(by_name, span, given.most))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
