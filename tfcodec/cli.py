"""The command line: compress, decompress, info, models, eval.

One line on stdout says what was done. Diagnostics go to stderr; bad input is one line
there and exit code 1, wrong usage exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

from absl import app
from absl.flags import argparse_flags

from tfcodec import __version__, bitstream, files, quality, registry
from tfcodec.files import new_file

# How to write formats that lose something by default.
SAVE_OPTIONS = {
    "AVIF": {"quality": 95},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}

# What `eval` compares by default.
CODECS = "tfcodec,jpeg,jpeg2000,webp,avif,jxl,png"

PROGRESS_SECONDS = 2
BAR = 30  # characters

# Lines of TensorFlow's start that say nothing to a user: information and warnings, in
# both its formats, and the errors of a GPU build on a machine without a GPU. Releases
# from 2.18 on write the former before they have read any log level.
NOISE = (
    r"WARNING: All log messages before absl::InitializeLog|"
    r"[IW]\d{4} \d\d:\d\d:\d\d\.|[IW]0000 |"
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] |"
    r"To enable the following instructions: |"
    r"(E0000|.*: E) .*(Unable to register cu|failed call to cuInit)"
)
# A process of its own, so that what TensorFlow says before it aborts still arrives.
SIEVE = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if line == b"\\0\\n":
        break
    if not noise.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


def run() -> None:
    """Entry point of `tfcodec` and `compress.py`."""
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
        command.add_argument("input", metavar="IN", type=pathlib.Path, help=source)
        command.add_argument(
            "output", metavar="OUT", type=pathlib.Path, nargs="?", help=target
        )
        command.add_argument(
            "-f", "--force", action="store_true", help="overwrite OUT if it exists"
        )

    command = add(compress, "compress an image to a .tfc file")
    add_files(command, "any image that Pillow reads", "default: IN with suffix .tfc")
    command.add_argument(
        "-q",
        "--quality",
        type=float,
        default=50,
        metavar="0..100",
        help="smallest file to best image, fractions allowed (default: %(default)s)",
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
        "-v",
        "--verbose",
        action="store_true",
        help="decode what was written, and show its PSNR and MS-SSIM",
    )

    command = add(decompress, "decompress a .tfc file to an image")
    add_files(
        command,
        "a .tfc file",
        "format by suffix, as .png (default: IN with suffix .png), .webp (lossless), "
        ".jpg (quality 95)",
    )
    command.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        help="a model directory, for files made with a model that is not shipped",
    )

    command = add(info, "show what a .tfc file is, without decoding it")
    command.add_argument("input", metavar="FILE", type=pathlib.Path, help="a .tfc file")
    command.add_argument("--json", action="store_true", help="write JSON")

    command = add(models, "list the shipped models")
    command.add_argument("--json", action="store_true", help="write JSON")

    command = add(eval_, "compare codecs on images: size, quality, time, BD-rate")
    command.add_argument(
        "images", metavar="IMAGES", nargs="+", help="files, folders and globs"
    )
    command.add_argument(
        "--codecs",
        default=CODECS,
        metavar="NAME[:effort=N][:q=Q:Q...],...",
        help="codecs, with commas between: a shipped model, a model directory, jpeg, "
        "jpeg-444, jpeg2000 (q is its compression ratio), webp, avif, avif-444, jxl, "
        "heic, png, webp-lossless; and the qualities to try (default: %(default)s, "
        "each over a sweep of its own)",
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
        metavar="NAME",
        action="append",
        default=[],
        help="one more metric, may be given again: ssimulacra2 (needs the package of "
        "that name), or module:function of two uint8 arrays [height, width, 3]",
    )
    command.add_argument(
        "-f", "--force", action="store_true", help="overwrite OUT if it exists"
    )

    args = parser.parse_args(argv[1:])
    if args.version:
        args.command = version
    elif not args.command:
        parser.error("a command is needed: compress, decompress, info, models, eval")
    return args


def positive(text: str) -> int:
    """Reads a whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(args: argparse.Namespace) -> int:
    """Runs a command; returns the exit code."""
    try:
        args.command(args)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        message = " ".join(describe(error, args).split())
        print(f"tfcodec: {message[:500]}", file=sys.stderr)
        return 1


def describe(error: Exception, args: argparse.Namespace) -> str:
    """Returns what went wrong, in words for a user."""
    if isinstance(error, bitstream.StreamError) and "input" in args:
        return f"{args.input}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


def compress(args: argparse.Namespace) -> None:
    from tfcodec import codec, metrics

    level = quality.check(args.quality)
    codec.steps_of(args.effort)
    model = registry.resolve(args.model)
    image = read_image(args.input)
    output = args.output or args.input.with_suffix(bitstream.SUFFIX)
    check_output(output, args)
    height, width = image.shape[:2]
    with quiet_tensorflow() as stderr:
        start = time.perf_counter()
        with Progress(stderr, "steps") as progress:
            data = codec.compress(image, level, args.model, args.effort, progress)
        seconds = time.perf_counter() - start
        with new_file(output) as file:
            file.write(data)
        bpp = metrics.bits_per_pixel(len(data), height, width)
        print(
            f"{args.input} {args.input.stat().st_size} B -> {output} {len(data)} B  "
            f"{bpp:.3f} bpp  1:{height * width * 3 / len(data):.1f}  "
            f"{'single rate' if model.single_rate else f'quality {level:g}'}  "
            f"model {model.name}  {seconds:.1f} s"
        )
        if args.verbose:
            decoded = codec.decompress(data, model=args.model)
            try:
                value = metrics.ms_ssim(image, decoded)
                similarity = f"{value:.4f} ({metrics.decibels(value):.2f} dB)"
            except ValueError as error:
                similarity = f"left out: {error}"
            print(f"PSNR {metrics.psnr(image, decoded):.2f} dB  MS-SSIM {similarity}")


def decompress(args: argparse.Namespace) -> None:
    if args.model is not None:
        registry.resolve(args.model)
    data = read_stream(args.input)
    output = args.output or args.input.with_suffix(".png")
    form = image_format(output)
    check_output(output, args)
    with quiet_tensorflow():
        from PIL import Image

        from tfcodec import codec

        start = time.perf_counter()
        image = codec.decompress(data, model=args.model)
        seconds = time.perf_counter() - start
        with new_file(output) as file:
            Image.fromarray(image).save(file, form, **SAVE_OPTIONS.get(form, {}))
        height, width = image.shape[:2]
        print(
            f"{args.input} {len(data)} B -> {output} {output.stat().st_size} B  "
            f"{width}x{height}  {seconds:.1f} s"
        )


def info(args: argparse.Namespace) -> None:
    from tfcodec import codec

    found = codec.info(read_stream(args.input))
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


def eval_(args: argparse.Namespace) -> None:
    from tfcodec import evaluation, report

    names = [name for name in args.codecs.split(",") if name]
    codecs, missing = evaluation.contestants(names)
    paths = files.find_images(args.images)
    for output in (args.json, args.report):
        if output:
            check_output(output, args)
    for text in args.metric:
        evaluation.metric(text)
    for reason in missing:
        print(f"missing: {reason}", file=sys.stderr)
    known = []
    if args.published:  # found out before the work is done
        known = evaluation.published(
            [evaluation.digest(read_image(path)) for path in paths]
        )
    with quiet_tensorflow() as stderr, Progress(stderr, "files") as progress:
        rows = evaluation.evaluate(
            paths, codecs, read_image, args.cache, progress, args.jobs, args.metric
        )
        if args.report:
            chosen = paths[: max(0, args.pictures)]
            pictures = report.pictures(chosen, codecs, read_image)
    means = evaluation.means(rows)
    curves = evaluation.curves(means, known)
    pairs = evaluation.pairs(curves) + evaluation.pairs(curves, "ms_ssim_db")
    found = evaluation.document(rows, means, pairs, missing, known)
    if args.json:
        with new_file(args.json) as file:
            file.write(json.dumps(found, indent=1, allow_nan=False).encode())
    if args.report:
        with new_file(args.report) as file:
            file.write(report.page(found, curves, pictures).encode())
    print(f"Means over {len(paths)} images of per-image values; PSNR in dB.\n")
    print(evaluation.table(means))
    for figure, name in (("psnr", "PSNR"), ("ms_ssim_db", "MS-SSIM")):
        chosen = [pair for pair in pairs if pair["figure"] == figure]
        if chosen:
            print(f"\nBD-rate by {name}, %: each line against each column.\n")
            print(evaluation.pair_table(chosen))
            print(f"\nBD-{name}, dB: each line against each column.\n")
            print(evaluation.pair_table(chosen, "bd_quality"))
    for reason in missing:
        print(f"missing: {reason}")


def version(args: argparse.Namespace) -> None:
    names = [f"{model.name} {model.fingerprint.hex()}" for model in registry.models()]
    print(f"tfcodec {__version__}, models: {', '.join(names) or 'none'}")


def read_stream(path: pathlib.Path) -> bytes:
    """Returns a `.tfc` file, of which the header is sound.

    Raises:
        OSError, StreamError: it cannot be read, or is no such file.
    """
    with open(path, "rb") as file:
        start = file.read(64)
        bitstream.read_header(start)  # before a large file of another kind is read
        return start + file.read()


def read_image(path: pathlib.Path):
    """Returns an image as uint8 [height, width, 3], upright, and says what is lost.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, or a damaged one.
    """
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Of odd metadata, or of an image half as large as Pillow refuses.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                pixels, notes = to_rgb(image)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image that Pillow reads") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{path}: damaged or unsupported image: {error}") from error
    if notes:
        print(f"note: {path}: {'; '.join(notes)}", file=sys.stderr)
    return pixels


def to_rgb(image):
    """Returns a Pillow image as uint8 [height, width, 3], and notes on the way there.

    Raises:
        ValueError: its values have no range that could be made 0 to 255.
    """
    import numpy as np
    from PIL import ImageOps

    image.load()
    mode, lost = image.mode, []
    if getattr(image, "is_animated", False):
        lost.append("all but the first frame")
    if image.info.get("icc_profile"):
        lost.append("ICC profile")
    if image.getexif():
        lost.append("EXIF")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            lost.append("transparency")
    if mode == "I" or mode.startswith("I;16"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("more than 16 bits a pixel")
        lost.append("the lower 8 of 16 bits")
        pixels = np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, -1)
    elif mode == "F":
        raise ValueError("floating-point pixels; convert them to 8 bits first")
    else:
        pixels = np.asarray(image.convert("RGB"))
    notes = [f"mode {mode} converted to RGB"] if mode != "RGB" else []
    return pixels, notes + ([f"not kept: {', '.join(lost)}"] if lost else [])


def image_format(path: pathlib.Path) -> str:
    """Returns Pillow's name of the format to write by a path's suffix.

    Raises:
        ValueError: Pillow writes no such format.
    """
    from PIL import Image

    form = Image.registered_extensions().get(path.suffix.lower())
    if form not in Image.SAVE:
        raise ValueError(f"{path}: no image format of that suffix to write; try .png")
    return form


def check_output(path: pathlib.Path, args: argparse.Namespace) -> None:
    """Finds what would make `new_file` fail, before the work is done.

    Raises:
        OSError, ValueError: `path` may not, or cannot, be written.
    """
    folder = os.path.dirname(os.path.realpath(path))
    if path.exists():
        if "input" in args and path.samefile(args.input):
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


class Progress:
    """Says how far a work is: a bar on a terminal, elsewhere a line now and then.

    Args:
        stream: where.
        unit: what is counted, in the plural.
    """

    def __init__(self, stream, unit: str):
        self.stream, self.unit = stream, unit
        self.terminal = stream is not None and stream.isatty()
        self.began = self.last = None

    def __call__(self, done: int, total: int, left: float | None = None) -> None:
        """`left` is in seconds; by default as the work has gone so far."""
        if self.stream is None:
            return
        now = time.monotonic()
        if self.began is None:
            self.began, self.first = now, done
        elif done > self.first and left is None:
            left = (now - self.began) / (done - self.first) * (total - done)
        wait = 0.1 if self.terminal else PROGRESS_SECONDS
        if self.last is not None and done < total and now - self.last < wait:
            return
        self.last = now
        text = f"{done} of {total} {self.unit}"
        if left is not None and done < total:
            text += f", {left:.0f} s left"
        if self.terminal:
            filled = BAR * done // total
            text = f"\r[{'=' * filled:{BAR}}] {text}\033[K"
        print(text, end="" if self.terminal else "\n", file=self.stream, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.terminal and self.last is not None:
            print("\r\033[K", end="", file=self.stream, flush=True)


@contextlib.contextmanager
def quiet_tensorflow():
    """Keeps the log lines of TensorFlow's start from stderr, and nothing else.

    Gives a stream that leads to stderr at once; none where there is no stderr. Does
    nothing else where the user has chosen a log level.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield sys.stderr
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        stderr = os.dup(2)
    except OSError:
        yield None
        return
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SIEVE, NOISE], stdin=subprocess.PIPE
    ) as sieve:
        os.dup2(sieve.stdin.fileno(), 2)
        sieve.stdin.close()
        try:
            with open(stderr, "w", closefd=False) as direct:
                yield direct
        finally:
            sys.stderr.flush()
            # The end, though a process started meanwhile may hold the pipe open.
            os.write(2, b"\0\n")
            os.dup2(stderr, 2)
            os.close(stderr)
