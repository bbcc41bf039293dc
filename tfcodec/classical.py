"""JPEG, WebP, AVIF and other codecs, by way of Pillow, with the same methods as ours.

`compress(image, quality)` returns a whole file, `decompress(data)` reads one. The
`settings` of each codec are good ones for ordinary use; some codecs take options in
their name: `avif:speed=0:tune=ssimulacra2`, `jxl:effort=9`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import io

import numpy as np

from tfcodec import plugins
from tfcodec.quality import plain


class Missing(ValueError):
    """A codec is not installed; the message says what to install."""


@dataclasses.dataclass(frozen=True)
class Pillow:
    """A format that Pillow writes, alone or with a plugin.

    Args:
        name: its name on the command line.
        form: Pillow's name of the format.
        settings: arguments of `Image.save` other than the quality.
        sweep: default qualities, from small files to large.
        key: the argument of `Image.save` for the quality; None for a lossless codec.
        limits: lowest and highest quality.
        feature: Pillow's name of what it must have been built with.
        library: Pillow's name of the library it uses, to find its version.
        plugin: package on PyPI that adds the format to Pillow.
        options: that may follow the name, such as `:speed=0`: option -> value ->
            arguments of `Image.save`.
    """

    name: str
    form: str
    settings: dict = dataclasses.field(default_factory=dict)
    sweep: tuple = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
    key: str | None = "quality"
    limits: tuple = (0, 100)
    feature: str | None = None
    library: str | None = None
    plugin: str | None = None
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def version(self) -> str:
        """Versions on which the bytes of a file depend: `Pillow 13.0.0, webp 1.6.0`."""
        import PIL
        from PIL import features

        found = [f"Pillow {PIL.__version__}"]
        if self.library:
            found.append(f"{self.library} {features.version(self.library)}")
        if self.form == "AVIF":
            found += _avif_encoder()
        if self.plugin:
            found.append(f"{self.plugin} {importlib.metadata.version(self.plugin)}")
        if self.form == "HEIF":
            about = plugins.load(self.plugin).libheif_info()
            found += [f"libheif {about['libheif']}", about["HEIF"]]
        return ", ".join(found)

    def known(self) -> str:
        """Returns what may follow the name, in words, with the values that it takes."""
        known = [f"{name}={'|'.join(values)}" for name, values in self.options.items()]
        if self.key:
            known.append("q={}..{}".format(*self.limits))
        return ", ".join(known) or "no options"

    def missing(self) -> str:
        """Returns why the codec cannot be used, and what to install; "" if it can."""
        try:
            import PIL  # noqa: F401
        except ImportError:
            return f"{self.name}: this needs Pillow: pip install pillow"
        need = self.feature or self.plugin
        if reason := need and plugins.missing(need):
            return f"{self.name}: {reason}"
        if self.form == "HEIF":
            if not plugins.load(self.plugin).libheif_info().get("HEIF"):
                return f"{self.name}: this {self.plugin} was built without an encoder"
        if "advanced" in self.settings:
            reason = _refusal(**self.settings["advanced"])
            return reason and f"{self.name}: {reason}"
        return ""

    def check(self, quality: float | None) -> float | None:
        """Returns a quality in the form that `compress` takes; None if lossless.

        Raises:
            ValueError: it is out of range, or not whole, and the codec needs that.
        """
        if self.key is None:
            if quality is not None:
                raise ValueError(f"{self.name} is lossless and takes no quality")
            return None
        low, high = self.limits
        if quality is None or not low <= quality <= high:
            given = quality if quality is None else f"{quality:g}"
            raise ValueError(
                f"quality of {self.name} must be from {low} to {high}, not {given}"
            )
        if self.key == "quality" and quality != int(quality):
            raise ValueError(f"quality of {self.name} must be whole, not {quality}")
        return plain(quality)

    def compress(self, image: np.ndarray, quality: float | None = None) -> bytes:
        """Compresses uint8 [height, width, 3]; returns a whole file.

        Raises:
            Missing: the codec is not installed.
            ValueError: it has no such quality.
        """
        from PIL import Image

        quality = self.check(quality)
        self._need()
        arguments = dict(self.settings)
        if self.key == "quality_layers":
            arguments[self.key] = [quality]
        elif self.key:
            arguments[self.key] = quality
        file = io.BytesIO()
        Image.fromarray(image).save(file, self.form, **arguments)
        return file.getvalue()

    def decompress(self, data: bytes) -> np.ndarray:
        """Decompresses a file to uint8 [height, width, 3].

        Raises:
            Missing: the codec is not installed.
            OSError: the file is of another format, or damaged.
        """
        from PIL import Image

        self._need()
        with Image.open(io.BytesIO(data), formats=[self.form]) as image:
            return np.array(image.convert("RGB"))

    def _need(self):
        reason = self.missing()
        if reason:
            raise Missing(reason)


def _avif_encoder() -> list[str]:
    """Name and version of the encoder that libavif uses, if Pillow tells them."""
    try:
        from PIL import _avif

        parts = _avif.codec_versions().split(", ")
    except (ImportError, AttributeError):
        return []
    return [part.replace(" [enc]:", " ") for part in parts if "[enc]" in part]


@functools.lru_cache
def _refusal(tune: str) -> str:
    """Returns why the AV1 encoder in Pillow does not take a `tune`; "" if it does."""
    from PIL import Image

    try:
        Image.new("RGB", (8, 8)).save(io.BytesIO(), "AVIF", advanced={"tune": tune})
    except ValueError:
        encoder = ", ".join(_avif_encoder()) or "its AV1 encoder"
        return f"no tune={tune} in {encoder}; pip install --upgrade pillow"
    return ""


_JPEG = {"form": "JPEG", "limits": (1, 100), "library": "libjpeg_turbo"}
_WEBP = {"form": "WEBP", "feature": "webp", "library": "webp"}
# `tune` is what libaom minimises. libavif asks for `ssim` by default, and from
# version 1.4 for `iq`. libaom has `iq` from 3.12 and `ssimulacra2` from 3.13.
_AVIF = {
    "form": "AVIF",
    "feature": "avif",
    "library": "avif",
    "options": {
        "speed": {str(speed): {"speed": speed} for speed in range(11)},
        "tune": {
            tune: {"advanced": {"tune": tune}}
            for tune in ("iq", "ssimulacra2", "ssim", "psnr")
        },
    },
}
_EFFORT = {str(effort): {"effort": effort} for effort in range(1, 11)}

CODECS = {
    codec.name: codec
    for codec in (
        Pillow("jpeg", settings={"subsampling": "4:2:0", "optimize": True}, **_JPEG),
        Pillow(
            "jpeg-444", settings={"subsampling": "4:4:4", "optimize": True}, **_JPEG
        ),
        Pillow(
            "jpeg2000",
            "JPEG2000",
            # Pillow's defaults, no colour transform and 5/3 wavelets, cost 3 dB.
            {"mct": 1, "irreversible": True, "quality_mode": "rates"},
            sweep=(240, 120, 80, 48, 32, 24, 16, 12, 8),  # compression ratios
            key="quality_layers",
            limits=(1, 10000),
            feature="jpg_2000",
            library="jpg_2000",
        ),
        Pillow("webp", settings={"method": 6}, **_WEBP),
        Pillow("avif", settings={"speed": 6, "subsampling": "4:2:0"}, **_AVIF),
        Pillow("avif-444", settings={"speed": 6, "subsampling": "4:4:4"}, **_AVIF),
        Pillow(
            "jxl",
            "JXL",
            {"effort": 7},
            plugin="pillow-jxl-plugin",
            options={"effort": _EFFORT},
        ),
        Pillow("heic", "HEIF", {"chroma": 444}, plugin="pillow-heif"),
        Pillow("png", "PNG", {"optimize": True}, sweep=(None,), key=None),
        Pillow(
            "webp-lossless",
            # Quality 100, the most effort, saves 0.1 % in 60 times the time.
            settings={"lossless": True, "method": 6},
            sweep=(None,),
            key=None,
            **_WEBP,
        ),
    )
}


def find(text: str) -> Pillow:
    """Returns a codec by name, which options may follow: `avif:speed=0:tune=iq`.

    Raises:
        ValueError: there is no such codec, or it has no such option.
        Missing: it is not installed; the message says what to install.
    """
    name, *words = text.split(":")
    if name not in CODECS:
        raise ValueError(f"no codec {name!r}; there are: {', '.join(CODECS)}")
    codec = CODECS[name]
    if words:
        settings = dict(codec.settings)
        for word in words:
            option, _, value = word.partition("=")
            found = codec.options.get(option, {}).get(value)
            if found is None:
                raise ValueError(f"{text!r}: {name} takes {codec.known()}")
            settings.update(found)
        codec = dataclasses.replace(codec, name=text, settings=settings)
    codec._need()
    return codec
