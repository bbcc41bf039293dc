"""Settings of trainings: fields that are flags of `train.py`, and their checks.

TensorFlow is imported only by `check`, so that `train.py` answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import operator
import os
import pathlib

from tfcodec import archives, registry

# Side in pixels: MS-SSIM, which every validation measures, has a window of 11.
SMALLEST_PATCH = 11
LARGEST_SEED = 2**32 - 1  # of NumPy
# Devices to train on: see `strategies`.
STRATEGIES = ("none", "mirrored", "multi_worker", "tpu")


# Limits of a number by their names in `setting`: what must hold, and how to say so.
LIMITS = {
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "most": (operator.le, "at most"),
}


class WrongSetting(ValueError):
    """A setting that no training can have; the message is for the command line."""


@contextlib.contextmanager
def as_wrong_setting():
    """Turns a ValueError within this context into a `WrongSetting`."""
    try:
        yield
    except ValueError as error:
        raise WrongSetting(str(error)) from None


def setting(default, help, **limits):
    """Returns a field of a config.

    Args:
        default: its value, unless another is given; the flag has the same type.
        help: for its flag.
        **limits: of a number `least`, `above` and `most`; of a text `choices`.
    """
    return dataclasses.field(default=default, metadata={"help": help, **limits})


def check_limits(config):
    """Raises `WrongSetting` if a field of a config is beyond its limits.

    Numbers that are not finite are always beyond them.
    """
    for field in dataclasses.fields(config):
        value, limits = getattr(config, field.name), field.metadata
        if isinstance(value, str):
            choices = limits.get("choices", (value,))
            good, words = value in choices, f"one of {', '.join(choices)}"
        else:
            good, wanted = math.isfinite(value), []
            for kind, (within, name) in LIMITS.items():
                if kind in limits:
                    good = good and within(value, limits[kind])
                    wanted.append(f"{name} {limits[kind]}")
            words = " and ".join(wanted) or "finite"
        if not good:
            raise WrongSetting(f"--{field.name} must be {words}, not {value}")


def check_folder(flag: str, path: str, writing: bool = True):
    """Raises `WrongSetting` if there can be no folder at a path, to write to.

    Args:
        flag: the name of the flag that names it.
        path: of the folder, which need not be there yet.
        writing: whether this process is to write to it.
    """
    whole = pathlib.Path(path)
    there = next(p for p in (whole, *whole.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise WrongSetting(f"--{flag}={path}: {there} is no folder")
    if writing and not os.access(there, os.W_OK | os.X_OK):
        raise WrongSetting(f"--{flag}={path}: {there} cannot be written to")


def check_images(config):
    """Raises `WrongSetting` unless a config names images in one of the two ways."""
    if bool(config.images) == bool(config.dataset):
        raise WrongSetting("give either --images or --dataset")


def check_patch(patch: int, stride: int):
    """Raises `WrongSetting` if patches of this side are too small or fit no stride.

    Args:
        patch, stride: in pixels.
    """
    least = -(-SMALLEST_PATCH // stride) * stride
    if patch % stride or patch < least:
        raise WrongSetting(
            f"--patch must be a multiple of {stride}, at least {least}, not {patch}"
        )


def check_strategy(kind: str, replicas: int, tpu: str):
    """Raises `WrongSetting` if these flags of a training do not go together."""
    if kind not in STRATEGIES:
        raise WrongSetting(f"--strategy={kind}: it is one of {', '.join(STRATEGIES)}")
    if replicas < 0 or (kind != "mirrored" and replicas > 1):
        raise WrongSetting(f"--replicas={replicas} goes with --strategy=mirrored")
    if kind != "tpu" and tpu != "local":
        raise WrongSetting(f"--tpu={tpu} goes with --strategy=tpu")


@dataclasses.dataclass(frozen=True)
class Common:
    """Settings that are the same in every kind of training."""

    images: str = setting("", "Folders or globs of images, separated by commas.")
    dataset: str = setting("", "In place of --images: a TFDS name, e.g. clic.")
    data_dir: str = setting("", "Where TFDS keeps its data; empty for its default.")
    clip: float = setting(
        1.0, "Largest global norm of the gradient; 0 for any.", least=0
    )
    note: str = setting("", "For the model card: what the images are, the hardware.")
    checkpoint_minutes: float = setting(5.0, "Minutes between checkpoints.", least=0)


@dataclasses.dataclass(frozen=True)
class TrainConfig(Common):
    """All settings of a training. Each field is a flag of `train.py`."""

    arch: str = setting("tfcodec", "Architecture, a name in tfcodec.architectures.")
    options: str = setting("{}", 'Arguments of the architecture as JSON: {"n": 128}.')
    validation: str = setting(
        "",
        "Folders or globs of images to validate on; by default one file in fifty of "
        "--images, which is then not trained on.",
    )
    validation_images: int = setting(
        24, "Images validated on, at five qualities each.", least=1
    )
    distortion: str = setting(
        "mse",
        "What to train for: mse, ssim, ms-ssim, ssimulacra2, masked-mse, or a mixture "
        "with weights, e.g. mse:0.3,ssimulacra2:0.7.",
    )
    lmbda: float = setting(
        0.0, "Weight of the distortion, for a model of one rate.", least=0
    )
    lmbda_min: float = setting(
        0.001, "Lambda at quality 0, unless --lmbda is given.", above=0
    )
    lmbda_max: float = setting(
        0.512, "Lambda at quality 100, unless --lmbda is given.", above=0
    )
    steps: int = setting(
        1_000_000,
        "Optimizer steps in all, resumed ones included; 0 with --init only "
        "fits tables and exports.",
        least=0,
    )
    batch: int = setting(8, "Patches per step.", least=1)
    patch: int = setting(
        256,
        "Side of a patch in pixels, a multiple of the architecture's stride: 64, or 16 "
        "without a hyperprior; for cnn 2 to the power of its number of layers.",
        least=SMALLEST_PATCH,
    )
    init: str = setting(
        "",
        "Initial weights: the name of a shipped model, a model directory, or a file of "
        "arrays (.npz, .npy; see tfcodec/weights.py).",
    )
    record: str = setting(
        "",
        "JSON file that describes how the arrays of --init were made, for the card.",
    )
    extrapolate: float = setting(
        0.0,
        "Lower the rate of --init at quality 0 without training: extrapolate its gains "
        "by this many anchors.",
        least=0,
    )
    learning_rate: float = setting(5e-4, "Peak learning rate of Adam.", above=0)
    warmup: int = setting(200, "Steps of linear warm-up.", least=0)
    hold: float = setting(
        0.3, "Part of the steps before the cosine fall begins.", least=0, most=1
    )
    average: float = setting(
        0.999, "Momentum of the moving average of weights.", least=0, most=1
    )
    precision: str = setting(
        "float32",
        "Of transforms: float32, mixed_bfloat16 or mixed_float16.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    strategy: str = setting(
        "none",
        "Devices to train on: none for one device; mirrored for several of this "
        "machine; multi_worker for the machines that TF_CONFIG names; or tpu.",
        choices=STRATEGIES,
    )
    replicas: int = setting(
        0, "Devices of --strategy=mirrored; 0 for every GPU.", least=0
    )
    tpu: str = setting(
        "local", "TPU of --strategy=tpu: local, its name or address in Google's cloud."
    )
    licence: str = setting(
        "", "SPDX identifier of the model's licence, such as CC-BY-4.0, for its card."
    )
    name: str = setting("", "Name of the model; by default that of the run directory.")
    seed: int = setting(
        0, "Seed of initial weights, data order and noise.", least=0, most=LARGEST_SEED
    )
    log_steps: int = setting(
        100, "Steps between entries in the log and TensorBoard.", least=1
    )
    validate_steps: int = setting(1000, "Steps between validations.", least=1)

    def lmbda_range(self) -> tuple[float, float]:
        """Returns (lowest, highest) lambda, equal for a model of one rate."""
        if self.lmbda:
            return self.lmbda, self.lmbda
        return self.lmbda_min, self.lmbda_max

    def check_values(self):
        """Raises `WrongSetting` for what is wrong without a look at any file."""
        check_limits(self)
        check_images(self)
        low, high = self.lmbda_range()
        if not low <= high:
            raise WrongSetting(f"lambda must be positive and ordered: {low}, {high}")
        check_strategy(self.strategy, self.replicas, self.tpu)
        if not (self.steps or self.init):
            raise WrongSetting("--steps must be at least 1, or --init be given")
        if self.extrapolate and (not self.init or low == high):
            raise WrongSetting("--extrapolate needs --init and a range of lambda")
        if self.record and not archives.is_arrays(self.init):
            raise WrongSetting("--record needs a file of arrays as --init")
        self.builder_options()

    def check(self):
        """Checks all settings, and the files that they name but for the images.

        Raises:
            WrongSetting: a value is invalid.
            ValueError: the initial weights are not there, or do not fit.
        """
        from tfcodec import architectures, losses

        self.check_values()
        low, high = self.lmbda_range()
        options = self.builder_options()
        with as_wrong_setting():
            losses.Distortion.parse(self.distortion)
            assembled = architectures.assembled(self.arch, (low, high), **options)
        check_patch(self.patch, assembled.stride)
        self.began_from()
        if archives.is_arrays(self.init) and not os.path.isfile(self.init):
            raise ValueError(f"--init={self.init}: no such file")
        start = self.start()
        both = [options, start.card["options"] if start else {}]
        # A model may have residual blocks that its initial model lacks.
        blocks = ("blocks", "synthesis_blocks")
        rest = [{k: v for k, v in x.items() if k not in blocks} for x in both]
        if start and (
            start.card["architecture"] != self.arch
            or rest[0] != rest[1]
            or start.single_rate != (low == high)
        ):
            raise ValueError(f"--init={self.init} is a model of another architecture")

    def start(self) -> registry.Model | None:
        """Returns the exported model of `init`; None if that is arrays or empty."""
        if not self.init or archives.is_arrays(self.init):
            return None
        return registry.resolve(self.init)

    def began_from(self) -> dict | None:
        """Returns the card's entry on the initial weights.

        Raises:
            ValueError: the file `record` is not a JSON object.
        """
        start = self.start()
        if start:
            return {key: start.card[key] for key in ("fingerprint", "training")}
        if not self.init:
            return None
        if not self.record:
            return {"training": {}}
        try:
            training = json.loads(pathlib.Path(self.record).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"--record={self.record}: {error}") from None
        if not isinstance(training, dict):
            raise ValueError(f"--record={self.record}: not a JSON object")
        return {"training": training}

    def builder_options(self) -> dict:
        """Returns `options`, parsed; raises `WrongSetting` if they are no JSON."""
        try:
            options = json.loads(self.options)
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise WrongSetting(f"--options must be a JSON object: {self.options}")
        return options


@dataclasses.dataclass(frozen=True)
class RealismConfig(Common):
    """All settings of a training of the second synthesis: flags of `train.py`."""

    init: str = setting("tfcodec", "Model to train a second synthesis for.")
    second: str = setting(
        "", "Arrays to start from (.npz, .npy); by default the model's own."
    )
    validation: str = setting("", "Folders or globs of images to validate on.")
    validation_images: int = setting(
        8, "Images validated on, at five qualities each.", least=1
    )
    patches: int = setting(4000, "Patches of which latents are kept.", least=1)
    text: float = setting(
        0.15, "Part of the patches that text is drawn on.", least=0, most=1
    )
    steps: int = setting(
        6000, "Steps in all, resumed ones included; 0 only exports.", least=0
    )
    batch: int = setting(6, "Patches per step.", least=1)
    patch: int = setting(
        192, "Side of a patch in pixels, a multiple of 64.", least=SMALLEST_PATCH
    )
    learning_rate: float = setting(1.5e-4, "Peak learning rate of Adam.", above=0)
    warmup: int = setting(100, "Steps of linear warm-up.", least=0)
    critic_warmup: int = setting(
        300, "Steps over which the critics' weight rises.", least=0
    )
    hold: float = setting(
        0.6, "Part of the steps before the cosine fall begins.", least=0, most=1
    )
    average: float = setting(
        0.998, "Momentum of the moving average of weights.", least=0, most=1
    )
    precision: str = setting(
        "float32",
        "Of the synthesis; or mixed_bfloat16.",
        choices=("float32", "mixed_bfloat16"),
    )
    noise: str = setting("8,8,16", "Noise channels at 1/16, 1/8 and 1/4.")
    opened: str = setting(
        "",
        "The default realism by quality, as QUALITY:REALISM,..., interpolated between "
        "these, such as 40:1,50:0; empty for 0.",
    )
    name: str = setting("", "Name of the model; by default that of --init.")
    seed: int = setting(
        0, "Seed of patches, their order, and the critics.", least=0, most=LARGEST_SEED
    )
    log_steps: int = setting(
        50, "Steps between entries in the log and TensorBoard.", least=1
    )
    validate_steps: int = setting(500, "Steps between validations.", least=1)

    def check_values(self):
        """Raises `WrongSetting` for what is wrong without a look at any file."""
        check_limits(self)
        check_images(self)
        check_patch(self.patch, 64)
        if archives.is_arrays(self.init):
            raise WrongSetting(
                "--realism needs a model, not a file of arrays: export it first, by "
                "train.py --init with --steps=0"
            )
        if self.second and not archives.is_arrays(self.second):
            raise WrongSetting(f"--second={self.second}: not a .npz or .npy file")
        self.counts()
        self.default()

    def check(self):
        """Checks all settings, and the files that they name but for the images.

        Raises:
            WrongSetting: a value is invalid.
            ValueError: the model or the arrays are not there, or do not fit.
        """
        from tfcodec.transforms import RealisticSynthesis

        self.check_values()
        if self.second and not os.path.isfile(self.second):
            raise ValueError(f"--second={self.second}: no such file")
        stride = registry.resolve(self.init).latent_stride
        needed = RealisticSynthesis.STRIDE
        if stride != needed:
            raise ValueError(
                f"--realism needs a model with a latent for {needed}x{needed} pixels; "
                f"{self.init} has one for {stride}x{stride}"
            )

    def default(self) -> list[list[float]]:
        """Returns the (quality, realism) of `opened`, in rising order of quality."""
        parts = filter(None, self.opened.split(","))
        try:
            points = [[float(number) for number in part.split(":")] for part in parts]
            given = [quality for quality, _ in points]
            valid = all(0 <= q <= 100 and 0 <= realism <= 1 for q, realism in points)
        except ValueError:
            valid = False
        if not valid or sorted(set(given)) != given:
            raise WrongSetting(
                f"--opened must be QUALITY:REALISM,... in rising order of quality, 0 "
                f"to 100, with realism from 0 to 1, not {self.opened!r}"
            )
        return points

    def counts(self) -> tuple[int, ...]:
        """Returns the numbers of noise channels in `noise`."""
        try:
            counts = tuple(int(part) for part in self.noise.split(","))
        except ValueError:
            counts = (0,)
        if min(counts) < 1:
            raise WrongSetting(
                f"--noise must be numbers of channels above 0, separated by commas, "
                f"not {self.noise!r}"
            )
        return counts
