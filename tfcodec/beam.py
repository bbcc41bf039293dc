"""Codes many images with Apache Beam, on one machine or on many: see `tfcodec[beam]`.

    import apache_beam as beam
    from tfcodec.beam import Compress, Read

    with beam.Pipeline() as pipeline:
        read = pipeline | beam.Create(["gs://photos/a.png"]) | Read()
        made = read.done | Compress(quality=50)
        made.done | beam.Map(...)    # (name, bytes of a .tfc file)
        made.failed | beam.Map(...)  # (name, why)

Each process loads a model once. `jobs` runs these transforms for `tfcodec bulk`.
"""

from __future__ import annotations

import contextlib
import dataclasses

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from tfcodec import bulk, codec, registry
from tfcodec.console import describe, shown

# Beam's counters, in the namespace `tfcodec`. If a runner tries a bundle again, it may
# count the files in it twice.
COUNTERS = ("files", "pixels", "bytes_in", "bytes_out", "failed", "skipped")
NAMESPACE = "tfcodec"
# Files on the results of a job, in its output folder: what went wrong, and figures.
REPORTS = FAILED, NOTES = "failed.jsonl", "notes.jsonl"
FIGURES = ROWS, MEAN = "rows.jsonl", "mean.json"


def count(name: str, number: int = 1) -> None:
    """Adds to one of `COUNTERS`."""
    Metrics.counter(NAMESPACE, name).inc(number)


def name_of(key) -> str:
    """Returns the name of a file by its key: the key, or the first of a tuple."""
    return key[0] if isinstance(key, tuple) else str(key)


def failure(key, error: Exception):
    """Returns an element (key, why) for the output `failed`, and counts it."""
    count("failed")
    words = describe(error).removeprefix(f"{name_of(key)}: ")
    words = words.removesuffix(" (--debug shows where)")  # Workers have no --debug.
    return beam.pvalue.TaggedOutput("failed", (key, words))


class _Try(beam.DoFn):
    """Replaces the value of each (key, value) by `function(key, value)`.

    An element for which that is None is dropped. One for which it raises goes to the
    output `failed`, and does not end the job.
    """

    def __init__(self, function):
        self.function = function

    def process(self, element):
        key, value = element
        try:
            found = self.function(key, value)
        except Exception as error:
            yield failure(key, error)
        else:
            if found is not None:
                yield key, found


class _Work(beam.DoFn):
    """Codes (key, bytes) by `work`, one of `bulk`, with the models of this process."""

    def __init__(self, work, threads):
        self.work, self.threads, self.shared = work, threads, Shared()

    def setup(self):
        options = self.work.options
        engine, effort = options.get("engine", "auto"), options.get("effort", 0)
        self.models = self.shared.acquire(
            lambda: bulk.Models(engine, effort, self.threads)
        )
        with self.models.used():  # If the model cannot be run, the job ends here.
            codec.load(options.get("model") or registry.DEFAULT)

    def process(self, element):
        key, data = element
        try:
            with self.models.used():
                made = self.work(name_of(key), data)
        except Exception as error:
            yield failure(key, error)
            return
        count("files")
        count("pixels", made.pixels)
        count("bytes_in", len(data))
        count("bytes_out", made.size)
        if made.notes:
            yield beam.pvalue.TaggedOutput("notes", (key, made.notes))
        yield key, made.result


class _Transform(beam.PTransform):
    """Base of the transforms: from (key, bytes of a file) to three outputs.

    Outputs are `done`, `failed`, which has (key, why), and `notes`, which has (key,
    what was not kept). A key is the file's name, or a tuple that begins with it.
    """

    def __init__(self, work, threads):
        super().__init__()
        self.work, self.threads = work, threads

    def expand(self, pcoll):
        each = beam.ParDo(_Work(self.work, self.threads))
        return pcoll | each.with_outputs("failed", "notes", main="done")


class Compress(_Transform):
    """From (key, bytes of an image file) to (key, bytes of a `.tfc` file).

    Outputs are `done`, `failed` and `notes`: see `_Transform`.

    Args:
        strip: whether to leave out metadata.
        threads: cores that LiteRT uses in each process.
        **options: of `tfcodec.compress`, such as `quality`, `model` and `effort`.
    """

    def __init__(self, *, strip: bool = False, threads: int = 1, **options):
        super().__init__(bulk.Compressing(options, strip), threads)


class Decompress(_Transform):
    """From (key, bytes of a `.tfc` file) to (key, bytes of an image file).

    Outputs are `done`, `failed` and `notes`: see `_Transform`.

    Args:
        suffix: of the format, such as `.png`.
        strip, threads: as for `Compress`.
        **options: of `tfcodec.decompress`, such as `realism` and `crop`.
    """

    def __init__(
        self, *, suffix: str = ".png", strip: bool = False, threads: int = 1, **options
    ):
        super().__init__(bulk.Decompressing(options, suffix, strip), threads)


class Evaluate(_Transform):
    """From (key, bytes of an image file) to (key, dict of figures).

    Figures are those of `tfcodec eval`: bpp, psnr, ssimulacra2, ...; `Mean` combines
    them. Outputs are `done`, `failed` and `notes`: see `_Transform`.

    Args:
        realism: as for `tfcodec.decompress`.
        threads, **options: as for `Compress`.
    """

    def __init__(self, *, realism: float | None = None, threads: int = 1, **options):
        super().__init__(bulk.Evaluating(options, realism), threads)


class Mean(beam.CombineFn):
    """Combines the figures of `Evaluate` to their means: see `bulk.Mean`."""

    def create_accumulator(self):
        return bulk.Mean()

    def add_input(self, mean, row):
        return mean.add(row)

    def merge_accumulators(self, means):
        total = bulk.Mean()
        for mean in means:
            total.merge(mean)
        return total

    def extract_output(self, mean):
        return mean.result()


class Read(beam.PTransform):
    """From names of files, on any file system of Beam, to (name, bytes).

    Outputs are `done`, and `failed`, which has (name, why).
    """

    def expand(self, names):
        tries = beam.ParDo(_Try(_read)).with_outputs("failed", main="done")
        return names | beam.Map(lambda name: (name, None)) | tries


def _read(key, _):
    return bulk.read(FileSystems, name_of(key))


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of `jobs.run`.

    Args:
        patterns: of the inputs.
        out_dir: output folder, without a slash at its end.
        suffix: of the outputs.
        transform: a `Compress`, `Decompress` or `Evaluate`.
        parts: folder for incomplete files.
        force, skip_existing: whether to overwrite or to skip outputs that exist; by
            default they are failures.
    """

    patterns: list[bulk.Pattern]
    out_dir: str
    suffix: str
    transform: _Transform
    parts: str
    force: bool = False
    skip_existing: bool = False

    @property
    def measures(self) -> bool:
        """Whether the job writes figures, not images."""
        return isinstance(self.transform, Evaluate)

    def write(self, path, chunks):
        """Writes a file that appears only when complete: see `bulk.write`."""
        bulk.write(FileSystems, path, chunks, self.parts)


class _Inputs(beam.DoFn):
    """Yields (path of an output, name of its input) for all files of a pattern.

    If the job only measures, the path is the name of the input.
    """

    def __init__(self, job):
        self.job = job

    def process(self, pattern):
        (found,) = FileSystems.match([pattern.text])
        for each in found.metadata_list:
            name = each.path
            if not pattern.takes(name):
                continue
            try:
                target = pattern.target(name, self.job.out_dir, self.job.suffix)
            except ValueError as error:
                yield failure((shown(name), None), error)
            else:
                yield target if not self.job.measures else name, name


class _Chosen(beam.DoFn):
    """Yields ((input, output), None) for outputs to make, of one input each.

    The others fail (their output exists, or is that of another input too) or are
    skipped.
    """

    def __init__(self, job):
        self.job = job

    def process(self, element):
        target, groups = element
        first, *others = sorted(set(groups["inputs"])) or [None]
        if first is None:
            return
        for name in others:
            words = f"{shown(target)}: another input is written there: {shown(first)}"
            yield failure((name, target), ValueError(words))
        if self.job.measures:
            yield (first, None), None
        elif target == first:
            words = "input and output are the same file"
            yield failure((first, target), ValueError(words))
        elif not any(groups["existing"]):
            yield (first, target), None
        elif self.job.skip_existing:
            count("skipped")
        else:
            words = (
                f"{shown(target)}: exists; -f overwrites it, --skip_existing skips it"
            )
            yield failure((first, target), ValueError(words))


class _Files(beam.DoFn):
    """Yields (path, True) for all files in a folder, which may be missing."""

    def process(self, folder):
        (found,) = FileSystems.match([f"{folder}/**"])
        for each in found.metadata_list:
            with contextlib.suppress(UnicodeEncodeError):
                each.path.encode()  # Names of our outputs are valid UTF-8.
                yield each.path, True


def assemble(root, job: Job) -> None:
    """Adds all steps of a job to a pipeline.

    All outputs that exist are listed before the first is written, so that a bundle that
    is tried again does not take its own outputs for existing ones.
    """
    failed = []

    def stage(pcoll, label, dofn, *tags):
        outputs = pcoll | label >> beam.ParDo(dofn).with_outputs(
            "failed", *tags, main="done"
        )
        failed.append(outputs.failed)
        return outputs.done

    patterns = root | "patterns" >> beam.Create(job.patterns)
    inputs = stage(patterns, "inputs", _Inputs(job))
    folders = [] if job.force or job.measures else [job.out_dir]
    existing = (
        root | "out_dir" >> beam.Create(folders) | "existing" >> beam.ParDo(_Files())
    )
    groups = {"inputs": inputs, "existing": existing} | beam.CoGroupByKey()
    chosen = stage(groups, "choose", _Chosen(job))
    made = stage(chosen, "read", _Try(_read)) | "code" >> job.transform
    failed.append(made.failed)
    if job.measures:
        rows = made.done | "rows" >> beam.Map(
            lambda element: {"input": name_of(element[0]), **element[1]}
        )
        _listed(rows, job, ROWS)
        mean = rows | "mean" >> beam.CombineGlobally(Mean())
        _listed(mean, job, MEAN)
    else:

        def write(key, data):
            job.write(key[1], [data])

        stage(made.done, "write", _Try(write))
    reasons = failed | beam.Flatten() | "reasons" >> beam.Map(_row("error"))
    _listed(reasons, job, FAILED)
    _listed(made.notes | "what is lost" >> beam.Map(_row("notes")), job, NOTES)


def _row(name):
    """Returns a function from an element ((input, output), value) to a row of JSON."""

    def row(element):
        (source, target), value = element
        return {"input": source, "output": target, name: value}

    return row


def _listed(rows, job, name):
    """Writes rows to the file `name` of `out_dir`, if there are any."""

    def write(group):
        job.write(f"{job.out_dir}/{name}", bulk.lines(group[1]))

    keyed = rows | f"{name}: key" >> beam.Map(lambda row: (name, row))
    keyed | f"{name}: group" >> beam.GroupByKey() | f"{name}: write" >> beam.Map(write)
