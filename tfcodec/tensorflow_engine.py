"""An exported model run by TensorFlow: the signatures of its SavedModel."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable

import numpy as np

from tfcodec import forks, memory, registry
from tfcodec.bitstream import CorruptStream


def rewrite_nothing(tf, config) -> None:
    """Switches Grappler off in a ConfigProto of TensorFlow, unless there is a GPU."""
    if not tf.config.list_logical_devices("GPU"):
        config.graph_options.rewrite_options.disable_meta_optimizer = True


@contextlib.contextmanager
def without_rewriting(tf):
    """Has this thread call TensorFlow's functions without Grappler's optimizations.

    Grappler rewrites the graph of each function before its first call. For the shipped
    model this takes 6 s of `improve`, and 1 s each of `encode` and `decode`, which then
    run no faster: exporting has simplified them already (see `graph_size`). On a GPU it
    still does, because there it also chooses the layout of arrays.

    Args:
        tf: the module `tensorflow`.
    """
    module = sys.modules.get("tensorflow.python.eager.context")
    options = getattr(module, "FunctionCallOptions", None)  # not public
    if options is None:
        yield
        return
    context = module.context()
    before = context.function_call_options
    config = tf.compat.v1.ConfigProto.FromString(before.config_proto_serialized)
    rewrite_nothing(tf, config)
    context.function_call_options = options(before.executor_type, config)
    try:
        yield
    finally:
        context.function_call_options = before


class TensorFlowEngine:
    """A model run by TensorFlow: see `engine.Engine` for what each method does.

    Attributes:
        tf: the module `tensorflow`.
        parts: the signatures of the SavedModel by name, functions of tensors.
    """

    name = "tensorflow"

    def __init__(self, model: registry.Model):
        import tensorflow as tf

        self.check()
        memory.keep_freed()
        self.model, self.tf = model, tf
        self.parts = self._parts(str(model.path))

    def _parts(self, path):
        tf = self.tf

        def part(signature):
            def call(**inputs):
                with without_rewriting(tf):
                    return signature(**inputs)

            return call

        signatures = tf.saved_model.load(path).signatures
        return {name: part(signature) for name, signature in signatures.items()}

    @functools.cached_property
    def second(self) -> Callable:
        """The second synthesis, loaded when it is first used."""
        return self._parts(str(self.model.realism))["synthesis"]

    @property
    def without_effort(self) -> str:
        has = "improve" in self.parts
        return "" if has else f"model {self.model.name} has no effort above 0"

    def check(self) -> None:
        forks.check()

    def analysis(self, image: np.ndarray) -> np.ndarray:
        return self.parts["analysis"](image=self.tf.constant(image))["y"].numpy()

    def improver(self, image, quality):
        tf = self.tf
        image, quality = tf.constant(image), tf.constant(quality, tf.float32)

        def step(y, damping):
            result = self.parts["improve"](
                image=image, y=tf.constant(y), quality=quality,
                damping=tf.constant(damping, tf.float32),
            )  # fmt: skip
            return result["y"].numpy(), float(result["cost"])

        return step

    def encode(self, y, quality) -> tuple[bytes, np.ndarray, np.ndarray]:
        tf = self.tf
        result = self.parts["encode"](
            y=tf.constant(y), quality=tf.constant(quality, tf.float32)
        )
        return tuple(result[name].numpy() for name in ("string", "y", "y_hat"))

    def decode(self, string, size) -> tuple[np.ndarray, np.ndarray]:
        tf = self.tf
        result = self.parts["decode"](
            string=tf.constant(string), size=tf.constant(size, tf.int32)
        )
        if not result["sound"]:
            raise CorruptStream("the coded pixels are damaged")
        return result["y"].numpy(), result["y_hat"].numpy()

    def synthesis(self, y_hat, quality) -> np.ndarray:
        return self._drawn(self.parts["synthesis"], y_hat, quality)

    def realistic(self, y_hat, quality, origin) -> np.ndarray:
        origin = self.tf.constant(origin)
        return self._drawn(self.second, y_hat, quality, origin=origin)

    def _drawn(self, synthesis, y_hat, quality, **more):
        tf = self.tf
        quality = tf.constant(quality, tf.float32)
        given = {"y_hat": tf.constant(y_hat), "quality": quality, **more}
        return synthesis(**given)["image"].numpy()
