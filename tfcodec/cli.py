"""The command line: compress, decompress, info, models, eval, demo.

One line on stdout says what was done. Diagnostics go to stderr; bad input is one line
there and exit code 1, wrong usage exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import pathlib
import sys
import time
import traceback

from absl import app, logging
from absl.flags import argparse_flags

from tfcodec import __version__, bitstream, files, quality, registry
from tfcodec.console import Progress, quiet_tensorflow
from tfcodec.files import new_file

# What `eval` compares by default.
CODECS = "tfcodec,jpeg,jpeg2000,webp,avif,jxl,png"


def run() -> None:
    """Entry point of `tfcodec` and `compress.py`."""
    if sys.argv[1:2] == ["export"]:
        # Imported while absl's app runs, TensorFlow forgets that it is eager, and
        # cannot trace functions of ours.
        with quiet_tensorflow():
            import tensorflow  # noqa: F401
    app.run(main, flags_parser=parse)


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the arguments; `command` is the function to call with them."""
    parser = argparse_flags.ArgumentParser(
        description="A learned image codec that runs wherever TensorFlow runs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-V", "--version", action="store_true", help="show version and models"
    )
    parser.set_defaults(command=None, debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(function, help):
        command = commands.add_parser(
            function.__name__.rstrip("_"),
            help=help,
            description=help[0].upper() + help[1:] + ".",
            allow_abbrev=False,
            inherited_absl_flags=None,  # their -v is not ours
        )
        command.set_defaults(command=function)
        command.add_argument(
            "--debug", action="store_true", help="show a traceback when it fails"
        )
        return command

    def add_files(command, source, target):
        command.add_argument("input", metavar="IN", nargs="+", help=source)
        command.add_argument("-o", "--output", metavar="OUT", help=target)
        command.add_argument(
            "--out_dir",
            metavar="DIR",
            type=pathlib.Path,
            help="write here, with the names of the inputs (default: beside each)",
        )
        command.add_argument(
            "-r",
            "--recursive",
            action="store_true",
            help="take all in folders, to any depth",
        )
        command.add_argument(
            "-f", "--force", action="store_true", help="overwrite what exists"
        )
        command.add_argument(
            "--strip", action="store_true", help="keep no ICC profile, EXIF or XMP"
        )
        command.add_argument(
            "--json", action="store_true", help="write one row of JSON for each file"
        )
        command.add_argument(
            "--server",
            metavar="HOST:PORT[/MODEL]",
            help="have the work done by a served model, over gRPC: see export",
        )

    command = add(compress, "compress images to .tfc files")
    add_files(
        command,
        "images that Pillow reads, folders with -r, - for stdin; the last of two is "
        "OUT if it ends in .tfc or is -",
        "the file to write, - for stdout (default: IN with suffix .tfc)",
    )
    rate = command.add_mutually_exclusive_group()
    rate.add_argument(
        "-q",
        "--quality",
        type=float,
        default=quality.DEFAULT,
        metavar="0..100",
        help="smallest file to best image, fractions allowed (default: %(default)s)",
    )
    rate.add_argument(
        "--max_bytes", type=int, metavar="N", help="the best image of at most N bytes"
    )
    rate.add_argument(
        "--target_bpp",
        type=float,
        metavar="X",
        help="the best image of at most X bits a pixel",
    )
    rate.add_argument(
        "--target_psnr",
        type=float,
        metavar="X",
        help="the smallest file with a PSNR of X dB or more",
    )
    rate.add_argument(
        "--target_msssim",
        type=float,
        metavar="X",
        help="the smallest file with an MS-SSIM of X or more, as 0.97",
    )
    rate.add_argument(
        "--target_ssimulacra2",
        type=float,
        metavar="X",
        help="the smallest file with an SSIMULACRA2 of X or more, as 70",
    )
    command.add_argument(
        "--alpha_quality",
        type=float,
        metavar="0..100",
        help="lose something of alpha too (default: nothing)",
    )
    command.add_argument(
        "--model",
        default=registry.ENTRIES[0].name,
        metavar="NAME_OR_DIR",
        help="a shipped model, or a model directory (default: %(default)s)",
    )
    command.add_argument(
        "--effort",
        type=int,
        default=0,
        metavar="0..9",
        help="improve the file step by step, which takes longer; to decompress takes "
        "no longer (default: %(default)s)",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        help="decode what was written and compare, before an old file is replaced",
    )
    command.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="decode what was written, and show its PSNR, MS-SSIM and SSIMULACRA2",
    )

    command = add(decompress, "decompress .tfc files to images")
    add_files(
        command,
        ".tfc files, folders with -r, - for stdin; the last of two is OUT unless it "
        "ends in .tfc",
        "format by suffix, as .png (default: IN with suffix .png), .webp (lossless), "
        ".jpg (quality 95); - for a PNG on stdout",
    )
    command.add_argument(
        "--crop",
        type=numbers,
        metavar="X,Y,W,H",
        help="only so many pixels, from column X and row Y on",
    )
    command.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        help="a model directory, for files made with a model that is not shipped",
    )

    command = add(info, "show what a .tfc file is, without decoding it")
    command.add_argument("input", metavar="FILE", help="a .tfc file, - for stdin")
    command.add_argument("--json", action="store_true", help="write JSON")

    command = add(models, "list the shipped models")
    command.add_argument("--json", action="store_true", help="write JSON")

    command = add(export, "write a model as TensorFlow Serving loads it")
    command.add_argument(
        "model", metavar="MODEL", help="a shipped model, or a model directory"
    )
    command.add_argument(
        "directory",
        metavar="DIR",
        help="of all versions of the model; its name is the model's on the server",
    )
    command.add_argument(
        "--limits",
        metavar="NAME=N,...",
        default="",
        help="what a request may ask for, as pixels=4000000 (see SECURITY.md)",
    )

    command = add(eval_, "compare codecs on images: size, quality, time, BD-rate")
    command.add_argument(
        "images", metavar="IMAGES", nargs="+", help="files, folders and globs"
    )
    command.add_argument(
        "--codecs",
        default=CODECS,
        metavar="NAME[:OPTION=VALUE][:q=Q:Q...],...",
        help="codecs, with commas between: a shipped model or a model directory "
        "(option: effort=0..9), jpeg, jpeg-444, jpeg2000 (q is its compression ratio), "
        "webp, avif and avif-444 (speed=0..10, by default 6, and "
        "tune=iq|ssimulacra2|ssim|psnr), jxl (effort=1..10, by default 7), heic, png, "
        "webp-lossless; and the qualities to try (default: %(default)s, each over a "
        "sweep of its own). Rivals at their best: avif:speed=0:tune=ssimulacra2, "
        "jxl:effort=9",
    )
    command.add_argument(
        "--json", metavar="OUT", type=pathlib.Path, help="write all rows as JSON"
    )
    command.add_argument(
        "--report",
        metavar="OUT.html",
        type=pathlib.Path,
        help="write a page of plots, tables and images side by side",
    )
    command.add_argument(
        "--pictures",
        metavar="N",
        type=int,
        default=3,
        help="images to show in the report, the first N (default: %(default)s)",
    )
    command.add_argument(
        "--published",
        action="store_true",
        help="compare with published curves too; the images must be the Kodak set",
    )
    command.add_argument(
        "--cache",
        metavar="DIR",
        type=pathlib.Path,
        help="keep every result here, and do none again; what was stopped goes on",
    )
    command.add_argument(
        "--jobs",
        metavar="N",
        type=positive,
        default=1,
        help="code so many files at a time, without times and memory; one at a time "
        "has them (default: %(default)s)",
    )
    command.add_argument(
        "--metric",
        metavar="MODULE:FUNCTION",
        action="append",
        default=[],
        help="one more metric, may be given again: module:function of two uint8 "
        "arrays [height, width, 3]",
    )
    command.add_argument(
        "-f", "--force", action="store_true", help="overwrite OUT if it exists"
    )

    command = add(
        demo, "show a page that compares codecs on photographs you drop on it"
    )
    command.add_argument(
        "image", metavar="IMAGE", nargs="?", help="a photograph to begin with"
    )
    command.add_argument(
        "--port",
        metavar="N",
        type=int,
        help="of http://127.0.0.1:N/, where only this machine reaches it (default: "
        "8642, or another that is free)",
    )
    command.add_argument(
        "--megapixels",
        metavar="X",
        type=float,
        default=4,
        help="reduce larger photographs to so many (default: %(default)s)",
    )
    command.add_argument(
        "--no_browser", action="store_true", help="do not open a browser"
    )

    args = parser.parse_args(argv[1:])
    if args.version:
        args.command = version
    elif not args.command:
        known = ", ".join(commands.choices)
        parser.error(f"a command is needed: {known}")
    if "out_dir" in args:
        ends = args.input[-1].lower().endswith(bitstream.SUFFIX)
        last = ends == (args.command is compress) or args.input[-1] == "-"
        if args.output is None and len(args.input) == 2 and last:
            args.output = args.input.pop()
        if args.output and (len(args.input) > 1 or args.out_dir):
            parser.error("one file for one OUT; --out_dir takes several")
    return args


def numbers(text: str) -> tuple[int, ...]:
    """Reads X,Y,W,H, for argparse."""
    found = tuple(int(number) for number in text.split(","))
    if len(found) != 4:
        raise ValueError
    return found


def positive(text: str) -> int:
    """Reads a whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(args: argparse.Namespace) -> int:
    """Runs a command; returns the exit code."""
    try:
        failed = args.command(args)
        sys.stdout.flush()
        return 1 if failed else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        report(error, args)
        return 1


def report(error: Exception, args: argparse.Namespace, name: str = "") -> str:
    """Says on stderr what went wrong, in one line; returns that line.

    Args:
        name: the file it happened to.
    """
    if args.debug:
        traceback.print_exc()
    words = describe(error)
    if name and not words.startswith(f"{name}: ") and not isinstance(error, OSError):
        words = f"{name}: {words}"
    message = " ".join(words.split())[:500]
    print(f"tfcodec: {message}", file=sys.stderr)
    return message


def describe(error: Exception) -> str:
    """Returns what went wrong, in words for a user."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


def compress(args: argparse.Namespace) -> bool:
    from tfcodec import codec, images, metrics, predict, ssimulacra2

    level = quality.check(args.quality)
    if args.alpha_quality is not None:
        quality.check(args.alpha_quality)
    codec.steps_of(args.effort)
    model = registry.resolve(args.model)
    names = "max_bytes target_bpp target_psnr target_msssim target_ssimulacra2"
    targets = {name: getattr(args, name) for name in names.split()}
    codec.target_of((1, 1), **targets)
    server = args.server and predict.Server(args.server)
    if server:
        given = {
            **targets,
            "effort": args.effort or None,
            "verify": args.verify or None,
            "alpha_quality": args.alpha_quality,
        }
        unfit = [name for name, value in given.items() if value is not None]
        if unfit:
            raise ValueError(f"--{unfit[0]} is not for a server")

    def work(picture, progress):
        if server:
            return server.compress(picture.pixels, level, picture.metadata)
        return codec.compress(
            picture.pixels, level, args.model, args.effort, progress,
            alpha_quality=args.alpha_quality, verify=args.verify, **targets,
            **picture.metadata,
        )  # fmt: skip

    def one(job, progress):
        picture = images.read(job.reading(), job.source, args.strip)
        notes = "; ".join(picture.notes)
        if notes:
            print(f"note: {job.source}: {notes}", file=sys.stderr)
        start = time.perf_counter()
        data = work(picture, progress)
        seconds = time.perf_counter() - start
        with job.writing() as file:
            file.write(data)
            if args.verify and job.target != "-":
                file.flush()
                file.seek(0)
                if file.read() != data:
                    raise RuntimeError("what was written reads back otherwise")
        header = bitstream.read_header(data)
        row = {
            **job.row(len(data)), "width": header.width, "height": header.height,
            "mode": header.mode,
            "bpp": metrics.bits_per_pixel(len(data), header.height, header.width),
            "quality": None if model.single_rate else header.quality,
            "model": model.name, "seconds": round(seconds, 3),
            "notes": picture.notes,
        }  # fmt: skip
        ratio = header.height * header.width * len(header.mode) / len(data)
        rate = "single rate" if model.single_rate else f"quality {header.quality:g}"
        text = (
            f"{row['bpp']:.3f} bpp  1:{ratio:.1f}  {rate}  model {model.name}  "
            f"{seconds:.1f} s"
        )
        if args.verbose:
            decoded = codec.decompress(data, model=args.model)
            pair = codec.separated(picture.pixels)[0], codec.separated(decoded)[0]
            row["psnr"] = metrics.psnr(*pair)
            text += f"\nPSNR {row['psnr']:.2f} dB"
            try:
                row["ssimulacra2"] = ssimulacra2.score(*pair)
                text += f"  SSIMULACRA2 {row['ssimulacra2']:.2f}"
                row["ms_ssim"] = metrics.ms_ssim(*pair)
                decibels = metrics.decibels(row["ms_ssim"])
                text += f"  MS-SSIM {row['ms_ssim']:.4f} ({decibels:.2f} dB)"
            except ValueError as error:  # the image is too small for it
                text += f"  left out: {error}"
        return row, text

    return over_files(args, bitstream.SUFFIX, files.SUFFIXES, "steps", one)


def decompress(args: argparse.Namespace) -> bool:
    from tfcodec import codec, images, predict

    if args.model is not None:
        registry.resolve(args.model)
    if args.server and args.crop:
        raise ValueError("--crop is not for a server")
    server = args.server and predict.Server(args.server)

    def work(data, progress):
        if server:
            return server.decompress(data)
        return codec.decompress(
            data, model=args.model, crop=args.crop, progress=progress
        )

    def one(job, progress):
        data = job.stream()
        # Known to be of no use before the work is done.
        form = "PNG" if job.target == "-" else images.form_of(pathlib.Path(job.target))
        start = time.perf_counter()
        pixels = work(data, progress)
        seconds = time.perf_counter() - start
        picture = images.Picture(pixels, codec.metadata(data))
        with job.writing() as file:
            notes = images.write(file, form, picture, args.strip)
            size = file.seek(0, os.SEEK_END) if job.target != "-" else None
        if notes:
            print(f"note: {job.target}: {'; '.join(notes)}", file=sys.stderr)
        height, width = pixels.shape[:2]
        row = {
            **job.row(size), "width": width, "height": height,
            "seconds": round(seconds, 3), "notes": notes,
        }  # fmt: skip
        return row, f"{width}x{height}  {seconds:.1f} s"

    return over_files(args, ".png", {bitstream.SUFFIX}, "tiles", one)


@dataclasses.dataclass
class Job:
    """One file to make of another; "-" is stdin or stdout.

    Args:
        source, target: paths.
        args: of the command.
    """

    source: str
    target: str
    args: argparse.Namespace

    @functools.cached_property
    def stdin(self) -> bytes:
        return sys.stdin.buffer.read()

    @property
    def size(self) -> int:
        """Bytes of the source; 0 where that is not known."""
        if self.source == "-":
            return len(self.__dict__.get("stdin", b""))
        with contextlib.suppress(OSError):
            return os.path.getsize(self.source)
        return 0

    def reading(self):
        """Returns what Pillow may open."""
        return io.BytesIO(self.stdin) if self.source == "-" else self.source

    def stream(self) -> bytes:
        """Returns a `.tfc` file, of which the header is sound."""
        if self.source == "-":
            return self.stdin
        return read_stream(self.source)

    @contextlib.contextmanager
    def writing(self):
        """Opens the target: a new file, or stdout when all is written."""
        if self.target == "-":
            file = io.BytesIO()
            yield file
            sys.stdout.buffer.write(file.getvalue())
            sys.stdout.buffer.flush()
            return
        if self.args.out_dir:
            os.makedirs(os.path.dirname(self.target) or ".", exist_ok=True)
        with new_file(self.target) as file:
            yield file

    def check(self, taken: set[str]) -> None:
        """Finds what would make `writing` fail, before the work is done.

        Args:
            taken: what others write, to which the target is added.
        """
        if self.source != "-" and os.path.isdir(self.source):
            raise IsADirectoryError(
                errno.EISDIR, os.strerror(errno.EISDIR) + "; -r takes what is in it",
                self.source,
            )  # fmt: skip
        if self.target != "-":
            check_output(pathlib.Path(self.target), self.args, self.source)
            real = os.path.realpath(self.target)
            if real in taken:
                raise ValueError(f"{self.target}: another input is written there")
            taken.add(real)

    def row(self, size: int | None) -> dict:
        """Returns what a row of JSON begins with; `size` is that of the target."""
        return {
            "input": self.source, "output": self.target, "bytes_in": self.size,
            "bytes": size,
        }  # fmt: skip


def jobs_of(args: argparse.Namespace, suffix: str, suffixes: set[str]) -> list[Job]:
    """Returns what is to be done.

    Args:
        args: of the command.
        suffix: of what is written, where no name is given.
        suffixes: of what is taken from folders.

    Raises:
        ValueError: a folder has nothing of the kind.
    """
    jobs = []
    for source in args.input:
        path = pathlib.Path(source)
        found, base = [path], path.parent
        if args.recursive and source != "-" and path.is_dir():
            found, base = files.inside(path, suffixes, passed_over), path
            if not found:
                kind = "images" if len(suffixes) > 1 else min(suffixes)
                raise ValueError(f"{source}: no {kind} in it")
        for each in found:
            target = args.output
            if target is None and source == "-":
                target = "-"
            elif target is None:
                folder = each.parent
                if args.out_dir:
                    folder = args.out_dir / folder.relative_to(base)
                target = str(folder / f"{each.stem}{suffix}")
            jobs.append(Job(str(each), target, args))
    return jobs


def passed_over(words: str) -> None:
    """Says on stderr what of a folder was not taken."""
    print(f"note: {words}", file=sys.stderr)


def over_files(args, suffix, suffixes, unit, function) -> bool:
    """Does `function` for each file, says what came of it; returns whether one failed.

    Args:
        suffix, suffixes: as `jobs_of` takes them.
        unit: what `function` counts in its progress.
        function: from a `Job` and a progress to (row of JSON, the same in words).
    """
    jobs = jobs_of(args, suffix, suffixes)
    taken, failed = set(), False
    told = sys.stderr if any(job.target == "-" for job in jobs) else sys.stdout
    sizes = [job.size for job in jobs]
    with quiet_tensorflow() as stderr:
        began = time.monotonic()
        with Progress(stderr, "files" if len(jobs) > 1 else unit) as progress:
            for number, job in enumerate(jobs):
                done = sum(sizes[:number])
                if done and len(jobs) > 1:
                    spent = time.monotonic() - began
                    left = spent / done * (sum(sizes) - done)
                    progress(number, len(jobs), left)
                try:
                    job.check(taken)
                    row, words = function(job, progress if len(jobs) == 1 else None)
                except BrokenPipeError:
                    raise
                except Exception as error:
                    progress.clear()
                    failed = True
                    row = {**job.row(None), "error": report(error, args, job.source)}
                    if not args.json:
                        continue
                else:
                    progress.clear()
                    size = "" if row["bytes"] is None else f" {row['bytes']} B"
                    start = f"{job.source} {row['bytes_in']} B -> {job.target}{size}"
                    words = f"{start}  {words}"
                print(json.dumps(row) if args.json else words, file=told, flush=True)
    return failed


def info(args: argparse.Namespace) -> None:
    from tfcodec import codec

    try:
        found = codec.info(Job(args.input, "", args).stream())
    except bitstream.StreamError as error:
        raise type(error)(f"{args.input}: {error}") from None
    if args.json:
        print(json.dumps(found, indent=1))
        return
    found["bpp"] = f"{found['bpp']:.3f}"
    found["ratio"] = f"1:{found['ratio']:.1f}"
    found["model"] = found["model"] or "not shipped"
    found["chunks"] = ", ".join(
        f"{bitstream.KNOWN[chunk['type']]} {chunk['bytes']} B"
        for chunk in found["chunks"]
    )
    for key, value in found.items():
        print(f"{key:12}{value}")


def models(args: argparse.Namespace) -> None:
    found = registry.models()
    if args.json:
        cards = [{**model.card, "path": str(model.path)} for model in found]
        print(json.dumps(cards, indent=1))
        return
    words = {entry.name: entry.description for entry in registry.ENTRIES}
    for model in found:
        print(
            f"{model.name}  {model.fingerprint.hex()}  {model.licence}  "
            f"{words[model.name]}"
        )
    if not found:
        print("no models in this installation", file=sys.stderr)


def export(args: argparse.Namespace) -> None:
    model = registry.resolve(args.model)
    given = dict(pair.partition("=")[::2] for pair in args.limits.split(",") if pair)
    with quiet_tensorflow():
        from tfcodec import serving

        logging.set_verbosity(logging.ERROR)  # how each function's inputs are renamed
        known = dataclasses.asdict(serving.LIMITS)
        for name, value in given.items():
            if name not in known or not value.isdigit():
                raise ValueError(
                    f"--limits: not one of {', '.join(known)} = a number: {name}"
                )
            known[name] = int(value)
        version = serving.export(model, args.directory, bitstream.Limits(**known))
    print(f"{version}  model {model.name}  {model.fingerprint.hex()}")


def eval_(args: argparse.Namespace) -> None:
    from tfcodec import evaluation, images, summary
    from tfcodec import report as html

    names = [name for name in args.codecs.split(",") if name]
    codecs, missing = evaluation.contestants(names)
    others: list[str] = []
    paths = files.find_images(args.images, others.append)
    for output in (args.json, args.report):
        if output:
            check_output(output, args)
    for text in args.metric:
        evaluation.metric(text)
    for reason in missing:
        print(f"missing: {reason}", file=sys.stderr)
    for words in others:
        passed_over(words)
    known = []
    if args.published:  # found out before the work is done
        known = evaluation.published(
            [evaluation.digest(images.read_rgb(path)) for path in paths]
        )
    with quiet_tensorflow() as stderr, Progress(stderr, "files") as progress:
        rows = evaluation.evaluate(
            paths, codecs, images.read_rgb, args.cache, progress, args.jobs, args.metric
        )
        if args.report:
            chosen = paths[: max(0, args.pictures)]
            pictures = html.pictures(chosen, codecs, images.read_rgb)
    means = evaluation.means(rows)
    curves = evaluation.curves(means, known)
    pairs = [
        pair
        for figure in evaluation.COMPARED
        for pair in evaluation.pairs(curves, figure)
    ]
    found = evaluation.document(rows, means, pairs, missing, known)
    if args.json:
        with new_file(args.json) as file:
            file.write(json.dumps(found, indent=1, allow_nan=False).encode())
    if args.report:
        with new_file(args.report) as file:
            file.write(html.page(found, curves, pictures).encode())
    print(f"Means over {len(paths)} images of per-image values; PSNR in dB.\n")
    print(summary.comparison(means, pairs, evaluation.COMPARED))
    for reason in missing:
        print(f"missing: {reason}")


def demo(args: argparse.Namespace) -> None:
    import webbrowser

    from tfcodec import demo as server

    def announce(url):
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        if not args.no_browser:
            webbrowser.open(url)

    if not args.megapixels > 0:
        raise ValueError(f"megapixels must be above 0, not {args.megapixels:g}")
    limits = server.Limits(megapixels=args.megapixels)
    with quiet_tensorflow(), contextlib.suppress(KeyboardInterrupt):
        server.serve(announce, args.image, args.port, limits)
    sys.stdout.flush()
    os._exit(0)  # at once, though a thread may still work for no one


def version(args: argparse.Namespace) -> None:
    names = [f"{model.name} {model.fingerprint.hex()}" for model in registry.models()]
    print(f"tfcodec {__version__}, models: {', '.join(names) or 'none'}")


def read_stream(path: str) -> bytes:
    """Returns a `.tfc` file, of which the header is sound.

    Raises:
        OSError, StreamError: it cannot be read, or is no such file.
    """
    with open(path, "rb") as file:
        start = file.read(64)
        bitstream.read_header(start)  # before a large file of another kind is read
        return start + file.read()


def check_output(path: pathlib.Path, args: argparse.Namespace, source: str = "-"):
    """Finds what would make `new_file` fail, before the work is done.

    Args:
        path: the file to be.
        args: of the command: `force`, and `out_dir`, which is made if it is not there.
        source: what is read, which may not be the same file.

    Raises:
        OSError, ValueError: `path` may not, or cannot, be written.
    """
    folder = os.path.dirname(os.path.realpath(path))
    while getattr(args, "out_dir", None) and not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if path.exists():
        if source != "-" and os.path.exists(source) and path.samefile(source):
            raise ValueError(f"{path}: input and output are the same file")
        if path.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path)
            )
        if not path.is_file():
            raise ValueError(f"{path}: exists and is not a regular file")
        if not args.force:
            raise ValueError(f"{path}: exists; -f overwrites it")
    for problem, missing in (
        (errno.ENOENT, not os.path.isdir(folder)),
        (errno.EACCES, not os.access(folder, os.W_OK)),
    ):
        if missing:
            raise OSError(problem, os.strerror(problem), os.fspath(path))
