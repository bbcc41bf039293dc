"""An exported model run by LiteRT and NumPy: a small installation that starts at once.

LiteRT (`ai-edge-litert` on PyPI, TensorFlow Lite's successor) runs the floating-point
networks, and `walk` the exact coder. `litert_export` makes the files.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading

import numpy as np

from tfcodec import (
    distortion_slopes,
    exact_products,
    forks,
    helpers,
    litert_files,
    newton,
    registry,
    walk,
)
from tfcodec.array_functions import NUMPY
from tfcodec.compression import WORKERS
from tfcodec.constants import NOISE_PERIOD

DEFAULT = "serving_default"  # the signature of a file that has only one
SLOPE = "slope"  # the file of the network that an effort needs: see `litert_slope`
# Networks that a parent process loaded before this one was forked from it.
_of_parents: list[dict] = []


def installed() -> bool:
    """Returns whether LiteRT is installed."""
    return importlib.util.find_spec("ai_edge_litert") is not None


def without_effort(model: registry.Model, found=None) -> str:
    """Returns why LiteRT has no effort above 0 for a model, or "".

    Args:
        model: one that has LiteRT files.
        found: these, as `litert_files.Files`, if they have been read already.

    Raises:
        ValueError: they are damaged.
    """
    if SLOPE in (found or litert_files.Files(model.litert, model.path)):
        return ""
    return (
        f"effort above 0 needs the TensorFlow engine for model {model.name}, whose "
        "LiteRT files have no slopes"
    )


class Network:
    """The networks in a LiteRT file, for inputs of any height and width.

    An interpreter has memory for one call at a time. As `WORKERS` tiles are coded at a
    time, there are up to as many interpreters; further calls wait for one of them.

    Args:
        data: the file.
        threads: processor cores to use; by default all that this process may use.
    """

    def __init__(self, data: bytes, threads: int | None = None):
        self.data, self.idle, self.made = data, [], 0
        self.threads = threads or helpers.cores()
        self.free, self.lock = threading.Semaphore(WORKERS), threading.Lock()
        self.idle.append(self._runners())

    def _runners(self):
        """Returns the signatures of a new interpreter; a second has half the threads.

        They are functions by name.
        """
        from ai_edge_litert.interpreter import Interpreter

        self.made += 1
        threads = max(1, self.threads // self.made)
        interpreter = Interpreter(model_content=self.data, num_threads=threads)
        names = interpreter.get_signature_list()
        return {name: interpreter.get_signature_runner(name) for name in names}

    def __call__(self, signature: str = DEFAULT, /, **inputs) -> dict[str, np.ndarray]:
        """Runs a network; inputs and outputs are arrays by name."""
        with self.free:
            with self.lock:
                runners = self.idle.pop() if self.idle else self._runners()
            try:
                return runners[signature](**inputs)
            finally:
                with self.lock:
                    self.idle.append(runners)


class LiteRTEngine:
    """A model run by LiteRT: see `engine.Engine` for what each method does.

    Args:
        model: the model to run.
        threads: as for `Network`.

    Raises:
        ValueError: (here or from a method) its LiteRT files are missing, damaged, or of
            another model.
    """

    name = "litert"

    def __init__(self, model: registry.Model, threads: int | None = None):
        if model.litert is None:
            raise ValueError(f"model {model.name} has no LiteRT files: {model.path}")
        self.model, self.threads = model, threads
        self.files = litert_files.Files(model.litert, model.path)
        self.process, self.loaded = os.getpid(), {}
        self.loading = threading.Lock()
        forks.renew(self, "loading")

    def check(self) -> None:
        """Does nothing: in a forked process `network` loads new interpreters."""

    @functools.cached_property
    def numbers(self) -> dict[str, np.ndarray]:
        """The numbers of the exact coder, and the noise, by name."""
        numbers = self.files.numbers()
        of = numbers.get("fingerprint")
        if of is None or of.tobytes() != self.model.fingerprint:
            raise ValueError(
                f"LiteRT files of another model than its card's: {self.model.litert}"
            )
        return numbers

    @functools.cached_property
    def coder(self) -> walk.Factorized:
        coder = walk.coder_of(self.numbers)
        if exact_products.NAME in self.files:
            exact_products.Products(self._sums).serve(coder)
        return coder

    def _sums(self, signature: str, x):
        return self.network(exact_products.NAME)(signature, x=x)["y"]

    def network(self, name: str) -> Network:
        """Returns a network, which is loaded when first asked for.

        An interpreter's threads do not survive a fork, so a forked process loads its
        own.
        """
        with self.loading:
            if self.process != os.getpid():
                # To free an interpreter whose threads are gone would crash.
                _of_parents.append(self.loaded)
                self.process, self.loaded = os.getpid(), {}
            if name not in self.loaded:
                self.loaded[name] = Network(self.files.network(name), self.threads)
            return self.loaded[name]

    def analysis(self, image: np.ndarray) -> np.ndarray:
        return self.network("analysis")(image=np.ascontiguousarray(image[None]))["y"]

    @property
    def without_effort(self) -> str:
        return without_effort(self.model, self.files)

    def improver(self, image, quality):
        distortion = distortion_slopes.Distortion(self.model.distortion, image)
        gain, lmbda = self._at(quality)
        weight = lmbda * np.float32(image.shape[0] * image.shape[1])

        def step(y, damping):
            gained = self._gained(y, quality)
            string, _, y_hat = self._coded(gained)
            decoded = self.synthesis(y_hat, quality)
            with helpers.limited(self.threads):
                error, slope = distortion.compare(decoded)
                cost = 8 * len(string) + float(weight * error)
                if damping == 0:
                    return y, cost
                slope = self._slope(y_hat, quality, weight * slope())["slope"]
                target = newton.target(NUMPY, gained["y"], y_hat, slope)
            return y + np.float32(damping) * (target - gained["y"]) / gain, cost

        return step

    def _at(self, quality):
        """Returns (gain of each channel, lambda) at a quality."""
        side, stride = self.coder.stride, self.model.latent_stride
        y = np.ones((1, side, side, self.model.channels), np.float32)
        nothing = np.zeros([side * stride, side * stride, 3], np.float32)
        gained = self._gained(y, quality)["y"]
        return gained[0, 0, 0], self._slope(y, quality, nothing)["lmbda"]

    def _slope(self, y_hat, quality, image_slope):
        return self.network(SLOPE)(
            y_hat=y_hat, quality=np.float32(quality), image_slope=image_slope[None]
        )

    def encode(self, y: np.ndarray, quality: np.float32):
        return self._coded(self._gained(y, quality))

    def _gained(self, y, quality):
        """Returns {"y": y times the gains}, and "z", the side latents if there are any.

        All are [1, rows, columns, channels].
        """
        hyperprior = isinstance(self.coder, walk.Coder)
        if not hyperprior and self.model.single_rate:
            return {"y": y}
        return self.network("hyper_analysis" if hyperprior else "gain")(
            y=np.ascontiguousarray(y), quality=np.float32(quality)
        )

    def _coded(self, gained):
        """Returns what `encode` does, of latents as `_gained` returns them."""
        z = gained["z"][0] if "z" in gained else None
        with helpers.limited(self.threads):
            return self.coder.encode(gained["y"][0], z)

    def decode(self, string: bytes, size: tuple[int, int]):
        height, width = (side // self.model.latent_stride for side in size)
        with helpers.limited(self.threads):
            return self.coder.decode(string, height, width)

    def synthesis(self, y_hat: np.ndarray, quality: np.float32) -> np.ndarray:
        return self._drawn("synthesis", y_hat, quality)

    def realistic(self, y_hat, quality, origin) -> np.ndarray:
        noise = {}
        while f"noise/{len(noise)}" in self.numbers:
            values = self.numbers[f"noise/{len(noise)}"].astype(np.float32)
            noise[f"noise_{len(noise)}"] = self._cut(values, y_hat.shape[1:3], origin)
        return self._drawn("realism", y_hat, quality, **noise)

    def _drawn(self, name, y_hat, quality, **noise):
        found = self.network(name)(y_hat=y_hat, quality=np.float32(quality), **noise)
        return found["image"][0]

    def _cut(self, values, size, origin):
        """Returns the periodic noise at a box of latents: [1, h, w, n].

        Args:
            values: one period of the noise, [side, side, n].
            size: (rows, columns) of the box, in latents.
            origin: (row, column) of its first latent in the image.
        """
        scale = len(values) * self.model.latent_stride // NOISE_PERIOD  # per latent
        rows, columns = (
            (np.arange(length * scale) + start * scale) % len(values)
            for length, start in zip(size, origin)
        )
        return values[rows[:, None], columns][None]
