"""An exported model run by LiteRT and NumPy: a small installation that starts at once.

LiteRT (`ai-edge-litert` on PyPI, TensorFlow Lite's successor) runs the networks of
floating point, and `walk` the exact coder. `litert_export` makes the files.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading

import numpy as np

from tfcodec import litert_files, registry, walk
from tfcodec.compression import WORKERS

# Pixels of the image after which the noise of the second synthesis repeats.
PERIOD = 256


def installed() -> bool:
    return importlib.util.find_spec("ai_edge_litert") is not None


def cores() -> int:
    """Returns on how many processor cores this process may run."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Network:
    """A LiteRT file, for inputs of any height and width.

    An interpreter has memory for one call at a time. So two calls at once, as when
    tiles are coded side by side, have one each, and more calls wait for those.

    Args:
        data: the file.
        threads: processor cores to use; by default all that this process may.
    """

    def __init__(self, data: bytes, threads: int | None = None):
        self.data, self.idle, self.made = data, [], 0
        self.threads = threads or cores()
        self.free, self.lock = threading.Semaphore(WORKERS), threading.Lock()
        self.idle.append(self._runner())

    def _runner(self):
        """Returns a new interpreter's; the second has the half of the cores."""
        from ai_edge_litert.interpreter import Interpreter

        self.made += 1
        threads = max(1, self.threads // self.made)
        interpreter = Interpreter(model_content=self.data, num_threads=threads)
        return interpreter.get_signature_runner()

    def __call__(self, **inputs) -> dict[str, np.ndarray]:
        """Runs it on arrays, by the names that its inputs have."""
        with self.free:
            with self.lock:
                runner = self.idle.pop() if self.idle else self._runner()
            try:
                return runner(**inputs)
            finally:
                with self.lock:
                    self.idle.append(runner)


class LiteRTEngine:
    """A model, loaded: see `engine.Engine` for what each method means.

    Args:
        model: what to run.
        threads: as of `Network`.

    Raises:
        ValueError: its LiteRT files are missing, damaged, or of another model.
    """

    name = "litert"
    can_improve = False

    def __init__(self, model: registry.Model, threads: int | None = None):
        if model.litert is None:
            raise ValueError(f"model {model.name} has no LiteRT files: {model.path}")
        self.model, self.threads = model, threads
        self.files = litert_files.Files(model.litert, model.path)
        self.process, self.loaded = os.getpid(), {}
        self.loading = threading.Lock()

    def check(self) -> None:
        """Nothing: a forked process loads its own networks."""

    @functools.cached_property
    def numbers(self) -> dict[str, np.ndarray]:
        numbers = self.files.numbers()
        of = numbers.get("fingerprint")
        if of is None or of.tobytes() != self.model.fingerprint:
            raise ValueError(
                f"LiteRT files of another model than its card's: {self.model.litert}"
            )
        return numbers

    @functools.cached_property
    def coder(self) -> walk.Factorized:
        return walk.coder_of(self.numbers)

    def network(self, name: str) -> Network:
        """Returns a network, loaded when it is first asked for.

        The threads of one do not survive a fork, so a forked process loads its own.
        """
        with self.loading:
            if self.process != os.getpid():
                self.process, self.loaded = os.getpid(), {}
            if name not in self.loaded:
                self.loaded[name] = Network(self.files.network(name), self.threads)
            return self.loaded[name]

    def analysis(self, image: np.ndarray) -> np.ndarray:
        return self.network("analysis")(image=np.ascontiguousarray(image[None]))["y"]

    def encode(self, y: np.ndarray, quality: np.float32):
        hyperprior = isinstance(self.coder, walk.Coder)
        if self.model.single_rate and not hyperprior:
            return self.coder.encode(y[0])
        found = self.network("hyper_analysis" if hyperprior else "gain")(
            y=np.ascontiguousarray(y), quality=np.float32(quality)
        )
        z = found["z"][0] if hyperprior else None
        return self.coder.encode(found["y"][0], z)

    def decode(self, string: bytes, size: tuple[int, int]):
        height, width = (side // self.model.latent_stride for side in size)
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
        """Returns [1, h, w, n]: periodic noise where latents of a size lie."""
        scale = len(values) * self.model.latent_stride // PERIOD  # places to a latent
        rows, columns = (
            (np.arange(length * scale) + start * scale) % len(values)
            for length, start in zip(size, origin)
        )
        return values[rows[:, None], columns][None]
