"""What is done to each of very many files: names, work on bytes, whole files.

`beam` has it done by Apache Beam; nothing here needs Beam. What is called a store is
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
import math
import os
import pathlib
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tfcodec import codec, engine, evaluation, images, quality, registry
from tfcodec import pixels as pixels_
from tfcodec.litert_engine import LiteRTEngine

RAW = "uncompressed"  # Beam's word: bytes are stored as they are, whatever the suffix
WILDCARD = re.compile(r"[*?[]")
SCHEME = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")  # as of gs://, s3://, hdfs://
FIGURES = ("bytes", *evaluation.FIGURES)  # of a row


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Files to look for.

    Args:
        text: what a store matches: `*` is any name, `**` any path, as Beam has it.
        prefix: the folder down to which names say nothing of an output's place.
        start: what all names that count begin with.
        suffixes: of the names that count, in lower case; None for any.
    """

    text: str
    prefix: str
    start: str
    suffixes: frozenset[str] | None = None

    @classmethod
    def of(cls, text: str, suffixes: Iterable[str]) -> Pattern:
        """Reads a pattern, the name of a file, or that of a folder.

        Args:
            text: as of the command line; a folder elsewhere than on this machine ends
                in a slash.
            suffixes: what is taken of a folder, to any depth.

        Raises:
            ValueError: it is empty.
        """
        if not text:
            raise ValueError("an empty file name")
        folder = text.endswith("/")
        if not SCHEME.match(text):
            folder, text = os.path.isdir(text), os.path.normpath(text)
            if not os.path.dirname(text) and not folder:
                text = os.path.join(".", text)  # of which Beam wants to see the folder
        if folder:
            # A bracket of the folder's name would begin a class of letters.
            prefix = text.rstrip("/") + "/"
            plain = prefix.replace("[", "?")
            return cls(f"{plain}**", prefix, prefix, frozenset(suffixes))
        wild = WILDCARD.search(text)
        if wild and not SCHEME.match(text) and os.path.lexists(text):
            wild, plain = None, text.replace("[", "?")  # a file's own name
        else:
            plain = text
        fixed = text[: wild.start()] if wild else text
        prefix = fixed[: max(fixed.rfind("/"), fixed.rfind(os.sep)) + 1]
        return cls(plain, prefix, text if not wild else prefix)

    def takes(self, name: str) -> bool:
        """Whether a name that was found counts."""
        suffix = os.path.splitext(name)[1].lower()
        wanted = self.suffixes is None or suffix in self.suffixes
        return wanted and name.startswith(self.start)

    def target(self, name: str, out_dir: str, suffix: str) -> str:
        """Returns where the result of a file goes.

        Raises:
            ValueError: it would leave `out_dir`; or the name cannot be passed on.
        """
        rest = name[len(self.prefix) :]
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError("a name that is no text (UTF-8)") from None
        if ".." in re.split(r"[/\\]", rest):
            raise ValueError("a name with .. in it, which may lead out of --out_dir")
        return f"{out_dir}/{os.path.splitext(rest)[0]}{suffix}"


def out_dir_of(text: str) -> str:
    """Returns the folder to write to, without a slash at its end.

    Raises:
        ValueError: it has a wildcard, by which it could not be searched.
    """
    if not text or WILDCARD.search(text):
        raise ValueError(f"--out_dir may not be empty nor have any of * ? [: {text!r}")
    return text.rstrip("/") if SCHEME.match(text) else os.path.normpath(text)


def read(store, path: str) -> bytes:
    """Returns a file's bytes."""
    with store.open(path, compression_type=RAW) as file:
        return file.read()


def write(store, path: str, chunks: Iterable[bytes], parts: str) -> None:
    """Writes a file that is whole or not there, however often this is tried.

    Two that write the same at a time do not meet: each has a file of its own, which in
    the end takes the place of what is there.

    Args:
        store: see above.
        path: of the file; its folder is made if it is not there.
        chunks: what is written.
        parts: folder of the same store, for files that are not whole yet.

    Raises:
        OSError: it could not be written; what was at `path` is as it was.
    """
    part = f"{parts}/{secrets.token_hex(16)}.part"
    try:
        with store.create(part, compression_type=RAW) as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            # What is not a file of this machine has no number.
            with contextlib.suppress(io.UnsupportedOperation, AttributeError):
                os.fsync(file.fileno())
        try:
            store.rename([part], [path])
        except OSError:
            with contextlib.suppress(OSError):  # It is there, or the next line fails.
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
        effort: of `tfcodec.compress`.
        threads: cores that LiteRT takes; all of them if None.
    """

    def __init__(self, wanted: str, effort: int, threads: int | None):
        self.wanted, self.effort, self.threads = wanted, effort, threads
        self.found: dict[tuple[str, bytes], engine.Codec] = {}

    def load(self, path: str, fingerprint: bytes) -> engine.Codec:
        """Returns a codec; `codec` calls it, one thread at a time."""
        if (path, fingerprint) not in self.found:
            model = registry.Model.at(path)
            kind = engine.ENGINES[engine.chosen(model, self.wanted, self.effort)]
            if kind is LiteRTEngine:
                kind = functools.partial(LiteRTEngine, threads=self.threads)
            self.found[path, fingerprint] = engine.Codec(model, kind)
        return self.found[path, fingerprint]

    @contextlib.contextmanager
    def used(self):
        """Has `codec` code, within here, by these models."""
        token = codec.loader.set(self.load)
        try:
            yield
        finally:
            codec.loader.reset(token)


class Made(NamedTuple):
    """What came of a file.

    Args:
        result: bytes of another file, or a row of figures.
        size: bytes of the file made.
        pixels: width times height.
        notes: what was not kept, or changed, in words.
    """

    result: bytes | dict
    size: int
    pixels: int
    notes: list[str]


def _load(options):
    names = {name: options[name] for name in ("engine", "effort") if name in options}
    codec.load(options.get("model") or codec.DEFAULT_MODEL, **names)


@dataclasses.dataclass(frozen=True)
class Compressing:
    """Makes a `.tfc` file of an image file.

    Args:
        options: of `tfcodec.compress`.
        strip: whether metadata are left out.

    Raises:
        TypeError, ValueError: as `codec.check_settings`.
    """

    options: dict
    strip: bool = False

    def __post_init__(self):
        codec.check_settings(**self.options)

    def load(self):
        """Loads the model, before there is a file, if it can be run at all."""
        _load(self.options)

    def __call__(self, name: str, data: bytes) -> Made:
        picture = images.read(
            io.BytesIO(data), name, self.options.get("max_pixels"), self.strip
        )
        made = codec.compress(picture.pixels, **self.options, **picture.metadata)
        height, width = picture.pixels.shape[:2]
        return Made(made, len(made), height * width, picture.notes)


@dataclasses.dataclass(frozen=True)
class Decompressing:
    """Makes an image file of a `.tfc` file.

    Args:
        options: of `tfcodec.decompress`.
        suffix: of the format, as `.png`.
        strip: whether metadata are left out.

    Raises:
        TypeError, ValueError: an option is none, or the format cannot be written.
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

    def load(self):
        """Loads a model, as `Compressing.load`; a file may need another."""
        _load(self.options)

    def form(self) -> str:
        return images.form_of(pathlib.Path(f"*{self.suffix}"))

    def __call__(self, name: str, data: bytes) -> Made:
        pixels = codec.decompress(data, **self.options)
        metadata = codec.metadata(data, max_pixels=self.options.get("max_pixels"))
        picture, file = images.Picture(pixels, metadata), io.BytesIO()
        notes = images.write(file, self.form(), picture, self.strip)
        height, width = pixels.shape[:2]
        return Made(file.getvalue(), len(file.getvalue()), height * width, notes)


@dataclasses.dataclass(frozen=True)
class Evaluating:
    """Measures what compression does to an image file, without its alpha.

    Args:
        options: of `tfcodec.compress`.
        realism: of `tfcodec.decompress`.

    Raises:
        TypeError, ValueError: as `codec.check_settings`; the realism is out of range.
    """

    options: dict
    realism: float | None = None

    def __post_init__(self):
        codec.check_settings(**self.options)
        if self.realism is not None:
            quality.check_realism(self.realism)

    def load(self):
        """Loads the model: see `Compressing.load`."""
        _load(self.options)

    def compress(self, image, _) -> bytes:
        return codec.compress(image, **self.options)

    def decompress(self, data: bytes):
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
    """Sums of figures that can be added up in any order, and their means at the end.

    Attributes:
        images: how many there are.
        sums: by figure, (sum, number of images that have it).
    """

    def __init__(self):
        self.images, self.sums = 0, {figure: (0.0, 0) for figure in FIGURES}

    def add(self, row: dict) -> Mean:
        """Adds the figures of one image; None where it lacks one."""
        self.images += 1
        for figure, (total, count) in self.sums.items():
            if row[figure] is not None:
                self.sums[figure] = total + row[figure], count + 1
        return self

    def merge(self, other: Mean) -> Mean:
        self.images += other.images
        for figure, sums in other.sums.items():
            mine = self.sums[figure]
            self.sums[figure] = mine[0] + sums[0], mine[1] + sums[1]
        return self

    def result(self) -> dict:
        """Returns the mean of each figure over the images that have it.

        `lacking` says how many do not, such as those too small for MS-SSIM.
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
    """Returns what was done, in words, from the counters of `beam` and `seconds`."""
    return (
        f"{row['files']} files, {row['pixels'] / 1e6:.1f} megapixels, "
        f"{row['bytes_in']} B -> {row['bytes_out']} B  {row['failed']} failed, "
        f"{row['skipped']} skipped  {row['seconds']:.1f} s"
    )


def summary_of_mean(mean: dict) -> str:
    """Returns what `Mean.result` found, in words."""
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


def finite(row: dict) -> dict:
    """Returns a row for JSON, which has no infinity."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
