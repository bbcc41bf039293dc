"""Writes the training step as a program that needs no TensorFlow, and reads its state.

TensorFlow Compression needs TensorFlow 2.14, which recent accelerators do not support.
The step, forward pass to moving averages, is traced here on the CPU to one module of
XLA; `accelerate` runs it with JAX, and the training goes on here from what that wrote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from tfcodec import files, losses, programs
from tfcodec.optimizers import inner_optimizer, steps_taken
from tfcodec.tracing import traced
from tfcodec.transposed import Transposed

METRICS = ("loss", "bpp", "psnr", "distortion", "norm")


class Given(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is an argument of the step, `rate`, while it is traced."""

    rate = 0.0

    def __call__(self, step):
        return tf.convert_to_tensor(self.rate, tf.float32)

    def get_config(self):
        return {}


def variables_of(model) -> dict[str, tf.Variable]:
    """Returns what a step may change, by the names of `programs`."""
    optimizer = inner_optimizer(model)
    lists = optimizer.slots(model.trainable_variables)
    named = {
        f"{name}/{number:04d}": variable
        for name, variables in lists.items()
        for number, variable in enumerate(variables)
    }
    rate = optimizer._current_learning_rate
    return {**named, "iterations": optimizer.iterations, "rate": rate}


def step_of(model, given: Given):
    """Returns the step as a function of tensors, which returns the `METRICS`.

    Args:
        model: compiled with an optimizer whose learning rate is `given`.
    """
    optimizer, variables = model.optimizer, model.trainable_variables

    def step(images, quality, seed, learning_rate):
        """One step.

        Args:
            images: uint8 [batch, patch, patch, 3].
            quality: float32 [batch], 0 to 1.
            seed: int32 [2], of the noise of the whole batch.
            learning_rate: float32 [].
        """
        given.rate = learning_rate
        inputs = {"image": images, "quality": quality, "seed": seed}
        with tf.GradientTape() as tape:
            found = model.outcome(inputs, training=True)
            loss = tf.reduce_mean(found["cost"])
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables))
        error = losses.mse(tf.cast(images, tf.float32), found["x_hat"])
        norm = tf.linalg.global_norm(gradients)
        values = [loss, found["bpp"], losses.psnr(error), found["distortion"], norm]
        return [tf.reduce_mean(tf.cast(value, tf.float32)) for value in values]

    return step


@contextlib.contextmanager
def full_precision():
    """Within this context XLA programs ask for matrix products in full float32."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


def compiled_step(step, inputs: dict[str, tf.TensorSpec]):
    """Compiles a step: (HLO as bytes, captured tensors, results that replace them).

    The HLO takes the inputs, then the captured tensors. The third part maps the number
    of each argument that the step updates to the number of the result with its new
    value.
    """
    function = traced(step, jit_compile=True)
    specs = list(inputs.values())
    graph = function.get_concrete_function(*specs).graph
    captured = [tensor for tensor, _ in graph.captures]
    with full_precision():
        compiler = function.experimental_get_compiler_ir(*specs)
        module = hlo_pb2.HloModuleProto.FromString(compiler(stage="hlo_serialized"))
    for computation in module.computations:
        for instruction in computation.instructions:
            instruction.ClearField("metadata")  # Names in TensorFlow's graph.
            # JAX's plugin for NVIDIA's GPUs has no StableHLO for a copy (0.11.2). To
            # reshape an array to the shape that it has is the same.
            if instruction.opcode == "copy":
                instruction.opcode = "reshape"
    results = {
        alias.parameter_number: alias.output_shape_index[0]
        for alias in module.input_output_alias.entries
    }
    # Whether memory is used again is for JAX to say, of the program around it.
    module.ClearField("input_output_alias")
    return module.SerializeToString(), captured, results


def suit_accelerators(model) -> None:
    """Has a model compute transposed convolutions `by_phases`, which XLA does fast."""
    for module in model.submodules:
        if isinstance(module, Transposed):
            module.phased = True


def _manifest(inputs, arguments, config):
    return {
        "version": programs.VERSION,
        "inputs": [
            {"name": name, "shape": spec.shape.as_list(), "dtype": spec.dtype.name}
            for name, spec in inputs.items()
        ],
        "metrics": METRICS,
        "arguments": arguments,
        "config": dataclasses.asdict(config),
    }


def write(model, given: Given, config, directory) -> pathlib.Path:
    """Writes the program of a training to a folder, as `programs` describes it.

    Args:
        model: compiled with an optimizer whose learning rate is `given`.
        given: that learning rate.
        config: the `TrainConfig`.
        directory: the folder, which is made.

    Returns:
        The folder.

    Raises:
        ValueError: the step changes a variable that is no known state.
        OSError: the folder cannot be written.
    """
    batch, patch = config.batch, config.patch
    inputs = {
        "images": tf.TensorSpec([batch, patch, patch, 3], tf.uint8),
        "quality": tf.TensorSpec([batch], tf.float32),
        "seed": tf.TensorSpec([2], tf.int32),
        "learning_rate": tf.TensorSpec([], tf.float32),
    }
    suit_accelerators(model)
    # It makes the variable of the rate, which is no part of the step.
    inner_optimizer(model)._compute_current_learning_rate()
    module, captured, updates = compiled_step(step_of(model, given), inputs)
    names = {id(v.handle): name for name, v in variables_of(model).items()}
    arguments, arrays = [], {}
    for number, tensor in enumerate(captured):
        name = names.get(id(tensor), f"constant/{number:04d}")
        value = _value(tensor)
        result = updates.get(len(inputs) + number)
        if result is not None and name.startswith("constant/"):
            raise ValueError(f"the step changes {tensor.name}, which is no known state")
        arguments.append(
            {"name": name, "shape": list(value.shape), "dtype": value.dtype.name,
             "output": result}
        )  # fmt: skip
        if value.any():
            arrays[name] = value
    manifest = _manifest(inputs, arguments, config)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with files.new_file(directory / programs.STEP) as file:
        file.write(module)
    programs.write_arrays(directory / programs.STATE, arrays)
    with files.new_file(directory / programs.MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode() + b"\n")
    return directory


def _value(tensor) -> np.ndarray:
    """The value of a captured tensor, or of the variable whose handle it is."""
    if tensor.dtype != tf.resource:
        return tensor.numpy()
    (kind,) = tensor._handle_data.shape_and_type
    return tf.raw_ops.ReadVariableOp(
        resource=tensor, dtype=tf.as_dtype(kind.dtype)
    ).numpy()


def resume(model, directory) -> dict | None:
    """Gives a model and its optimizer the state that a program's run left, if newer.

    Args:
        model: compiled; perhaps restored from a checkpoint.
        directory: of the run.

    Returns:
        The record of that run; None if there is no state, or one of fewer steps.

    Raises:
        ValueError: the state is damaged, or of another model.
    """
    record = programs.record_of(directory)
    if record is None:
        return None
    path = pathlib.Path(directory) / programs.STATE
    arrays, optimizer = programs.read_arrays(path), inner_optimizer(model)
    if int(arrays.get("iterations", 0)) <= steps_taken(model):
        return None
    optimizer._compute_current_learning_rate()
    variables = variables_of(model)
    found = {k: v.shape for k, v in arrays.items() if k != programs.RECORD}
    if found != {name: tuple(v.shape) for name, v in variables.items()}:
        raise ValueError(f"{path} is the state of another model")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return record
