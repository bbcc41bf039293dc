"""The command `bulk`: runs a job on Apache Beam, and reports its results."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pathlib
import sys
import time

from apache_beam import Pipeline, PTransform
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.runner import PipelineState

from tfcodec import beam, bitstream, bulk, files, inputs
from tfcodec.console import Failure, output, say, shown, without_warnings
from tfcodec.helpers import cores
from tfcodec.options import dotted

# Options for the DirectRunner in addition to the user's. By default it would download
# Prism, another runner, from GitHub, and run everything in one process there, whatever
# the options --direct_* say. It does not if unsafe triggers are allowed (our pipeline
# has none). The second option silences messages of each process that starts and ends.
DIRECT = ["--allow_unsafe_triggers", "--default_sdk_harness_log_level=ERROR"]
LOOKED_AT = 1000  # names that are listed to see whether there is anything to do
MOST_SAID = 10  # failures that are printed; a file lists all


def options_of(runner: str, flags: list[str], runners_own: list[str]):
    """Returns the `PipelineOptions` of a command line.

    Args:
        runner: its name.
        flags: options of Beam, each as --name=value.
        runners_own: options that only the runner knows.

    Raises:
        ValueError: a flag is not an option of Beam.
    """
    for flag in flags:
        if not flag.startswith("--"):
            raise ValueError(f"not of the form --name=value: {shown(flag)}")
    quiet = DIRECT if runner == "DirectRunner" else []
    flags = [f"--runner={runner}", *quiet, *flags]
    said = io.StringIO()
    try:
        # Beam would only print a warning about unknown options.
        with without_warnings(), contextlib.redirect_stderr(said):
            options = PipelineOptions(flags)
            known = options.get_all_options().keys()
            found = options.get_all_options(retain_unknown_options=True).keys()
    except SystemExit:
        raise ValueError(said.getvalue().strip().rpartition("error: ")[2]) from None
    if unknown := found - known:
        raise ValueError(
            f"neither an option of this command nor of Beam: --{min(unknown)}; "
            "options of the runner follow after --"
        )
    return PipelineOptions(flags + runners_own)


def threads_of(runner: str, options: PipelineOptions) -> int:
    """Returns the default of how many cores LiteRT uses in each process."""
    if runner != "DirectRunner":
        return 1
    direct = options.view_as(DirectOptions)
    one = direct.direct_running_mode == "in_memory"
    return max(1, cores() // (1 if one else direct.direct_num_workers or cores()))


def transform_of(args, options: dict, threads: int) -> PTransform:
    """Returns the transform that `tfcodec bulk` applies to each file.

    Args:
        args: arguments of the command.
        options: of `tfcodec.compress`.
        threads: of each process.
    """
    if args.decompress:
        return beam.Decompress(
            suffix=args.suffix, strip=args.strip, threads=threads, model=args.model,
            realism=args.realism, max_pixels=args.max_pixels, engine=args.engine,
        )  # fmt: skip
    if args.evaluate:
        return beam.Evaluate(realism=args.realism, threads=threads, **options)
    return beam.Compress(strip=args.strip, threads=threads, **options)


def check_some(text: str, pattern: bulk.Pattern) -> None:
    """Raises ValueError if no file matches; looks at no more than `LOOKED_AT`."""
    (found,) = FileSystems.match([pattern.text], [LOOKED_AT])
    names = [each.path for each in found.metadata_list]
    if not names:
        raise ValueError(f"{shown(text)}: no file matches")
    few = pattern.suffixes and len(names) < LOOKED_AT
    if few and not any(map(pattern.takes, names)):
        kind = "images" if len(pattern.suffixes) > 1 else min(pattern.suffixes)
        raise ValueError(f"{shown(text)}: no {kind} in it")


def run(args, options: dict) -> bool:
    """Runs the command `tfcodec bulk`; returns whether a file failed.

    Args:
        args: arguments of the command.
        options: of `tfcodec.compress`.

    Raises:
        ValueError: an argument is invalid, or no file matches.
        Failure: the job ended before all files were done.
        OSError: a file cannot be read or written.
    """
    out_dir, args.suffix = bulk.out_dir_of(args.out_dir), dotted(args.suffix)
    beams = options_of(args.runner, args.beam, args.runners_own)
    transform = transform_of(
        args, options, args.threads or threads_of(args.runner, beams)
    )
    suffixes = {bitstream.SUFFIX} if args.decompress else inputs.SUFFIXES
    patterns = [bulk.Pattern.of(text, suffixes) for text in args.patterns]
    for text, pattern in zip(args.patterns, patterns):
        check_some(text, pattern)
    job = beam.Job(
        patterns, out_dir, args.suffix if args.decompress else bitstream.SUFFIX,
        transform, f"{out_dir}/{files.temporary_name()}", args.force,
        args.skip_existing,
    )  # fmt: skip
    stdout = output("JSON") if args.json else sys.stdout
    if os.path.exists(out_dir) and not os.path.isdir(out_dir):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), out_dir)
    figures = [f"{out_dir}/{name}" for name in beam.FIGURES if job.measures]
    for path in figures:
        if not args.force and FileSystems.exists(path):
            raise ValueError(f"{shown(path)}: exists; -f overwrites it")
    _remove(*(f"{out_dir}/{name}" for name in beam.REPORTS), *figures)
    # So that processes that Beam starts on this machine find this package.
    paths = [str(pathlib.Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    began = time.monotonic()
    counts = _run_tidily(job, beams)
    path = f"{out_dir}/{beam.FAILED}"
    failed = _lines(path) if FileSystems.exists(path) else []
    row = {
        **counts, "failed": len(failed), "seconds": round(time.monotonic() - began, 3)
    }  # fmt: skip
    if job.measures:
        (row["mean"],) = _lines(f"{out_dir}/{beam.MEAN}")
    _tell(row, failed, path, args.json, stdout)
    return bool(failed)


def _run_tidily(job, options):
    """Runs a job, and removes its unfinished files however it ends."""
    try:
        with files.begun(job.parts):
            return _run(job, options)
    finally:
        found = FileSystems.match([f"{job.parts}/*"])[0].metadata_list
        _remove(*(each.path for each in found), job.parts)


def _run(job, options):
    """Runs a job; returns the counters."""
    pipeline = Pipeline(options=options)
    beam.assemble(pipeline, job)
    try:
        result = pipeline.run()
        state = result.wait_until_finish()
        why = "" if state == PipelineState.DONE else state
        cause = None
    except Exception as error:
        # Beam's messages contain the traceback of a worker; its last line is the error.
        why = str(error).strip().split("\n")[-1] or type(error).__name__
        cause = error
        if why.startswith("KeyboardInterrupt"):  # Beam makes another error of it.
            raise KeyboardInterrupt from None
    if why:
        hint = "" if job.measures else "; with --skip_existing the same command goes on"
        raise Failure(f"the job ended early: {why.rstrip('.')}{hint}") from cause
    found = dict.fromkeys(beam.COUNTERS, 0)
    named = MetricsFilter().with_namespace(beam.NAMESPACE)
    for each in result.metrics().query(named)["counters"]:
        found[each.key.metric.name] += each.result
    return found


def _remove(*paths):
    for path in paths:
        with contextlib.suppress(OSError):  # There is no such file.
            FileSystems.delete([path])


def _lines(path):
    return [json.loads(x) for x in bulk.read(FileSystems, path).decode().splitlines()]


def _tell(row, failed, path, as_json, stdout):
    """Prints the results of a job, and why files failed (`path` lists all)."""
    for each in failed[:MOST_SAID]:
        say(f"tfcodec: {shown(each['input'])}: {shown(each['error'])}", sys.stderr)
    if len(failed) > MOST_SAID:
        say(f"... and {len(failed) - MOST_SAID} more: {shown(path)}", sys.stderr)
    if as_json:
        say(json.dumps(row), stdout)
        return
    say(bulk.summary(row), stdout)
    if "mean" in row:
        say(bulk.summary_of_mean(row["mean"]), stdout)
