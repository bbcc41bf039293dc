"""The work on each of very many files: naming outputs, coding bytes, writing files.

`beam` runs it on Apache Beam, but nothing here needs Beam. A "store" is
`apache_beam.io.filesystems.FileSystems`, or anything with its functions `open`,
`create`, `rename`, `exists`, `mkdirs` and `delete`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import os
import pathlib
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tfcodec import codec, engine, evaluation, formats, images, quality, registry
from tfcodec import pixels as pixels_
from tfcodec.litert_engine import LiteRTEngine

RAW = "uncompressed"  # Beam's name for bytes stored as they are, whatever the suffix
WILDCARD = re.compile(r"[*?[]")
SCHEME = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")  # such as gs://, s3://, hdfs://
FIGURES = ("bytes", *evaluation.FIGURES)  # in a row of `Evaluating`


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A pattern of names of input files.

    Args:
        text: the pattern as a store matches it: `*` is any name, `**` any path.
        prefix: the folder that `out_dir` replaces in the names of outputs.
        start: what names must begin with, or else they are ignored.
        suffixes: that names must have, in lower case; None for any.
    """

    text: str
    prefix: str
    start: str
    suffixes: frozenset[str] | None = None

    @classmethod
    def of(cls, text: str, suffixes: Iterable[str]) -> Pattern:
        """Reads a pattern, the name of a file, or that of a folder.

        Args:
            text: from the command line; a folder that is not on this machine must end
                in a slash.
            suffixes: of the files that are taken from a folder, at any depth.

        Raises:
            ValueError: the text is empty.
        """
        if not text:
            raise ValueError("an empty file name")
        folder = text.endswith("/")
        if not SCHEME.match(text):
            folder, text = os.path.isdir(text), os.path.normpath(text)
            if not os.path.dirname(text) and not folder:
                text = os.path.join(".", text)  # Beam needs the folder's name
        if folder:
            # A bracket in the folder's name would start a class of characters.
            prefix = text.rstrip("/") + "/"
            plain = prefix.replace("[", "?")
            return cls(f"{plain}**", prefix, prefix, frozenset(suffixes))
        wild = WILDCARD.search(text)
        if wild and not SCHEME.match(text) and os.path.lexists(text):
            wild, plain = None, text.replace("[", "?")  # the name of an existing file
        else:
            plain = text
        fixed = text[: wild.start()] if wild else text
        prefix = fixed[: max(fixed.rfind("/"), fixed.rfind(os.sep)) + 1]
        return cls(plain, prefix, text if not wild else prefix)

    def takes(self, name: str) -> bool:
        """Whether a file that matches `text` is an input."""
        suffix = os.path.splitext(name)[1].lower()
        wanted = self.suffixes is None or suffix in self.suffixes
        return wanted and name.startswith(self.start)

    def target(self, name: str, out_dir: str, suffix: str) -> str:
        """Returns the path of the output for an input.

        Raises:
            ValueError: it would be outside of `out_dir`, or the name is not UTF-8.
        """
        rest = name[len(self.prefix) :]
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError("a name that is not valid UTF-8") from None
        if ".." in re.split(r"[/\\]", rest):
            raise ValueError("a name with .. in it, which may lead out of --out_dir")
        return f"{out_dir}/{os.path.splitext(rest)[0]}{suffix}"


def out_dir_of(text: str) -> str:
    """Returns the output folder without a slash at its end.

    Raises:
        ValueError: it is empty, or has a wildcard, so that a store could not list it.
    """
    if not text or WILDCARD.search(text):
        raise ValueError(f"--out_dir may not be empty nor have any of * ? [: {text!r}")
    return text.rstrip("/") if SCHEME.match(text) else os.path.normpath(text)


def read(store, path: str) -> bytes:
    """Returns a file's bytes."""
    with store.open(path, compression_type=RAW) as file:
        return file.read()


def write(store, path: str, chunks: Iterable[bytes], parts: str) -> None:
    """Writes a file that appears only when complete, however often this is tried.

    Two processes may write the same file at a time: each writes a temporary file of its
    own, which in the end replaces what is there.

    Args:
        store: see the top of this module.
        path: of the file; its folder is made if it is missing.
        chunks: bytes of the file.
        parts: folder in the same store, for incomplete files.

    Raises:
        OSError: the file could not be written; what was at `path` is unchanged.
    """
    part = f"{parts}/{secrets.token_hex(16)}.part"
    try:
        with store.create(part, compression_type=RAW) as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            # Only a file on this machine has a descriptor.
            with contextlib.suppress(io.UnsupportedOperation, AttributeError):
                os.fsync(file.fileno())
        try:
            store.rename([part], [path])
        except OSError:
            with contextlib.suppress(OSError):  # It exists, or the next line raises.
                store.mkdirs(path.rpartition("/")[0])
            store.rename([part], [path])
    except BaseException:
        with contextlib.suppress(OSError):
            store.delete([part])
        raise


def lines(rows: Iterable[dict]) -> Iterator[bytes]:
    """Yields rows as lines of JSON."""
    for row in rows:
        yield json.dumps(row).encode() + b"\n"


class Models:
    """The models of one process, each loaded once for all its threads.

    Args:
        wanted: name of an engine, or auto.
        effort: as for `tfcodec.compress`.
        threads: cores that LiteRT uses; all of them if None.
    """

    def __init__(self, wanted: str, effort: int, threads: int | None):
        self.wanted, self.effort, self.threads = wanted, effort, threads
        self.found: dict[registry.Model, engine.Codec] = {}

    def load(self, model: registry.Model) -> engine.Codec:
        """Returns a codec; `codec` calls it, one thread at a time."""
        if model not in self.found:
            kind = engine.ENGINES[engine.chosen(model, self.wanted, self.effort)]
            if kind is LiteRTEngine:
                kind = functools.partial(LiteRTEngine, threads=self.threads)
            self.found[model] = engine.Codec(model, kind)
        return self.found[model]

    @contextlib.contextmanager
    def used(self):
        """Makes the functions of `codec` use these models, within this context."""
        token = codec.loader.set(self.load)
        try:
            yield
        finally:
            codec.loader.reset(token)


class Made(NamedTuple):
    """The result for a file.

    Args:
        result: bytes of the file that was made, or a row of figures.
        size: of the file that was made, in bytes.
        pixels: width times height.
        notes: what was not kept, or was changed, in words.
    """

    result: bytes | dict
    size: int
    pixels: int
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Compressing:
    """Compresses an image file to a `.tfc` file.

    Args:
        options: of `tfcodec.compress`.
        strip: whether to leave out metadata.

    Raises:
        TypeError, ValueError: as `codec.check_settings`.
    """

    options: dict
    strip: bool = False

    def __post_init__(self):
        codec.check_settings(**self.options)

    def __call__(self, name: str, data: bytes) -> Made:
        picture = images.read(
            io.BytesIO(data), name, self.options.get("max_pixels"), self.strip
        )
        made = codec.compress(picture.pixels, **self.options, **picture.metadata)
        height, width = picture.pixels.shape[:2]
        return Made(made, len(made), height * width, picture.notes)


@dataclasses.dataclass(frozen=True)
class Decompressing:
    """Decompresses a `.tfc` file to an image file.

    Args:
        options: of `tfcodec.decompress`.
        suffix: of the format, such as `.png`.
        strip: whether to leave out metadata.

    Raises:
        TypeError, ValueError: an option is invalid, or the format cannot be written.
    """

    options: dict
    suffix: str = ".png"
    strip: bool = False

    def __post_init__(self):
        inspect.signature(codec.decompress).bind(b"", **self.options)
        if self.options.get("model") is not None:
            registry.resolve(self.options["model"])
        if self.options.get("realism") is not None:
            quality.check_realism(self.options["realism"])
        self.form()

    def form(self) -> str:
        """Returns Pillow's name of the format."""
        return formats.form_of(pathlib.Path(f"*{self.suffix}"))

    def __call__(self, name: str, data: bytes) -> Made:
        pixels = codec.decompress(data, **self.options)
        given = {k: v for k, v in self.options.items() if k in ("limits", "max_pixels")}
        metadata = codec.metadata(data, **given)
        picture, file = pixels_.Picture(pixels, metadata), io.BytesIO()
        notes = formats.write(file, self.form(), picture, self.strip)
        height, width = pixels.shape[:2]
        return Made(file.getvalue(), len(file.getvalue()), height * width, notes)


@dataclasses.dataclass(frozen=True)
class Evaluating:
    """Compresses and decompresses an image without its alpha; measures size and error.

    Args:
        options: of `tfcodec.compress`.
        realism: as for `tfcodec.decompress`.

    Raises:
        TypeError, ValueError: as `codec.check_settings`; the realism is out of range.
    """

    options: dict
    realism: float | None = None

    def __post_init__(self):
        codec.check_settings(**self.options)
        if self.realism is not None:
            quality.check_realism(self.realism)

    def compress(self, image, _) -> bytes:
        """As the method of every codec, for `evaluation.measure`; takes no quality."""
        return codec.compress(image, **self.options)

    def decompress(self, data: bytes):
        """As the method of every codec, for `evaluation.measure`."""
        shared = {name: self.options.get(name) for name in ("model", "max_pixels")}
        return codec.decompress(
            data, realism=self.realism, engine=self.options.get("engine", "auto"),
            **shared,
        )  # fmt: skip

    def __call__(self, name: str, data: bytes) -> Made:
        most = self.options.get("max_pixels")
        picture = images.read(io.BytesIO(data), name, most, strip=True)
        image = pixels_.rgb_of(picture.pixels)
        height, width = image.shape[:2]
        found = evaluation.measure(self, None, image, timed=False)
        row = {"width": width, "height": height}
        row.update({figure: found[figure] for figure in FIGURES})
        return Made(row, found["bytes"], height * width, [])


class Mean:
    """Sums of figures, which can be added in any order, and in the end their means.

    Attributes:
        images: number of images.
        sums: by figure, (sum, number of images that have the figure).
    """

    def __init__(self):
        self.images, self.sums = 0, {figure: (0.0, 0) for figure in FIGURES}

    def add(self, row: dict) -> Mean:
        """Adds the figures of one image; those that are None do not count."""
        self.images += 1
        for figure, (total, count) in self.sums.items():
            if row[figure] is not None:
                self.sums[figure] = total + row[figure], count + 1
        return self

    def merge(self, other: Mean) -> Mean:
        """Adds the sums of another `Mean` to this one."""
        self.images += other.images
        for figure, sums in other.sums.items():
            mine = self.sums[figure]
            self.sums[figure] = mine[0] + sums[0], mine[1] + sums[1]
        return self

    def result(self) -> dict:
        """Returns the mean of each figure over the images that have it.

        `lacking` has the number of images without each figure, such as those too small
        for MS-SSIM.
        """
        means = {
            figure: total / count if count else None
            for figure, (total, count) in self.sums.items()
        }
        lacking = {
            figure: self.images - count
            for figure, (_, count) in self.sums.items()
            if count < self.images
        }
        return {"images": self.images, **means, "lacking": lacking}


def summary(row: dict) -> str:
    """Describes a job in words, given the counters of `beam` and `seconds`."""
    return (
        f"{row['files']} files, {row['pixels'] / 1e6:.1f} megapixels, "
        f"{row['bytes_in']} B -> {row['bytes_out']} B  {row['failed']} failed, "
        f"{row['skipped']} skipped  {row['seconds']:.1f} s"
    )


def summary_of_mean(mean: dict) -> str:
    """Describes the result of `Mean.result` in words."""
    words = {
        "bpp": "{:.3f} bpp",
        "psnr": "PSNR {:.2f} dB",
        "ms_ssim_db": "MS-SSIM {:.2f} dB",
        "ssimulacra2": "SSIMULACRA2 {:.2f}",
    }
    parts = [form.format(mean[k]) for k, form in words.items() if mean[k] is not None]
    left = [
        f"{words[k].split()[0]} of {n}"
        for k, n in mean["lacking"].items()
        if k in words
    ]
    text = f"means over {mean['images']} images: " + "  ".join(parts)
    return f"{text}  left out: {', '.join(left)}" if left else text
