"""From a trained model to a SavedModel of stock TensorFlow operations, with its card.

The exported functions are those of `CompressionModel.graphs`.  First all weights become
constants, so that nothing of Keras or TFC is left in the graphs.  Then large ones
become variables that the functions share, each in the smallest type that represents its
values exactly.  The coder's tables stay constants, as TensorFlow then computes what
depends on them only once.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from tfcodec import files, graph_size, kernels, rans, rounding, weights
from tfcodec.constants import EXACT_LIMIT
from tfcodec.model import CENTRE, SCALE, whole_levels
from tfcodec.tracing import traced

# Float constants of fewer elements stay in the graph.
STORED_FROM = 1024


def export(
    model, directory, architecture, options=None, record=None, name=None, tables=None,
    licence="",
) -> pathlib.Path:  # fmt: skip
    """Writes `model` to `directory`, which is replaced only if all succeeds.

    The weights of `model` itself are rounded, see `rounding`, so that it and the
    exported model compute the same.

    Args:
        model: a trained `CompressionModel`, with averaged weights if they are used.
        directory: becomes a SavedModel directory with `card.json`.
        architecture: name in `architectures.ARCHITECTURES`, for the card.
        options: arguments of its function there, for the card.
        record: how the model was trained, for the card.
        name: of the model; by default that of the architecture.
        tables: the coder's `rans.Tables`; by default those that fit its densities.
        licence: SPDX identifier of the model's licence; empty if none was chosen.

    Returns:
        `directory`.

    Raises:
        ValueError: a sum in an exact convolution may be too large to be exact, or an
            operation is not one of stock TensorFlow.
        OSError: `directory` could not be written; it is unchanged.
    """
    directory = pathlib.Path(directory)
    rounding.round_weights(model)
    sums = [x.freeze() for x in model.exact_layers()]
    tables = tables or rans.Tables.from_rows(model.coder.table_rows())
    frozen = {
        key: Frozen(function, signature)
        for key, (function, signature) in model.graphs(tables).items()
    }
    check_stock(frozen.values())
    card = {
        "name": name or architecture,
        "fingerprint": fingerprint(frozen["decode"], frozen["synthesis"]),
        "architecture": architecture,
        "options": options or {},
        "licence": licence,
        **described(model),
        "exactness": exactness(sums),
        "training": record or {},
        "made_with": {"tensorflow": tf.__version__},
    }
    module = Store()
    signatures = {key: module.function(graph) for key, graph in frozen.items()}
    # For trainings that start from this model. Arrays that functions use are shared.
    module.keep_weights(weights.stored(model))
    module.decoder = {
        name: module.value(array).variable
        for name, array in decoder_numbers(model, tables).items()
    }
    with files.new_directory(directory) as part:
        tf.saved_model.save(module, str(part), signatures=signatures)
        graph_size.drop_unneeded(part)
        (part / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return directory


def described(model) -> dict:
    """Returns the entries of a model's card that follow from the model alone.

    Its reach in latents and its multiply-adds per pixel are measured here.
    """
    lmbda, variable = model.lmbda, model.variable_rate
    qualities = dict(zip(("lmbda_min", "lmbda_max"), lmbda))
    if model.lowered:
        qualities["lowered"] = model.lowered
    return {
        "quality": qualities if variable else None,
        "lmbda": None if variable else lmbda[0],
        "distortion": str(model.distortion),
        "stride": model.stride,
        "latents": {
            "channels": model.channels,
            "stride": model.latent_stride,
            "reach": model.reach(),
        },
        "parameters": int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        "kmac_per_pixel": model.kmac_per_pixel(),
    }


def exactness(sums: list[np.ndarray]) -> dict:
    """Returns the card's entry on the sums that float32 must represent exactly.

    Args:
        sums: for each exact convolution, the largest sum that each of its channels can
            reach, as `ExactConv.freeze` returns them.
    """
    return {
        "convolutions": len(sums),
        "channels": int(sum(map(len, sums))),
        "largest_sum": int(max((s.max() for s in sums), default=0)),
        "limit": EXACT_LIMIT,
    }


def export_realism(model, second, directory):
    """Writes the second synthesis of a model, a SavedModel with one signature.

    Its signature `synthesis` takes y_hat and quality, as that of the model itself, and
    `origin`, int32 [2], the row and column of the first latent in the image. It is a
    SavedModel of its own, so that the files of the model stay unchanged, and is loaded
    only for a realism above 0.

    Args:
        model: the `CompressionModel`, whose inverse gains it uses.
        second: a `transforms.RealisticSynthesis`; its weights are rounded, see
            `rounding`.
        directory: the one to make.
    """
    rounding.round_synthesis(second)

    def synthesis(y_hat, quality, origin):
        y_hat = model.unscaled_latents(y_hat, quality[None])
        return {"image": whole_levels(second(y_hat, origin)[0] * SCALE + CENTRE)}

    specs = model.argument_specs()
    origin = tf.TensorSpec([2], tf.int32, "origin")
    frozen = Frozen(synthesis, [specs["y_hat"], specs["quality"], origin])
    check_stock([frozen])
    module = Store()
    signatures = {"synthesis": module.function(frozen)}
    module.keep_weights([v.numpy() for v in second.trainable_variables])
    tf.saved_model.save(module, str(directory), signatures=signatures)
    graph_size.drop_unneeded(directory)


def decoder_numbers(model, tables) -> dict[str, np.ndarray]:
    """Returns all numbers that decoding a file to latents needs, by name.

    They are for other implementations of the decoder, which find them at
    `tf.saved_model.load(DIR).decoder`; docs/format.md says what each is.
    """
    numbers = {
        "tables/frequency": tables.frequency[:-1],  # without the row for padding
        "tables/size": tables.size[:-1],
        "tables/offset": tables.offset[:-1],
    }
    if model.coder.predicted:
        numbers["predicted"] = np.array(model.coder.predicted)
    if model.coder.quantiser:
        numbers["points"] = model.coder.quantiser.shift
    for name, layers in model.coder.exact_networks().items():
        for k, layer in enumerate(layers):
            kernel, bias = layer.frozen
            numbers[f"{name}/{k}/kernel"] = kernel[:, :, layer.part]
            rest = np.stack([bias, layer.shift, layer.low, layer.high])
            numbers[f"{name}/{k}/numbers"] = rest.astype(np.int32)
    return numbers


class Frozen:
    """The graph of a function, with every variable made a constant.

    Args:
        function: returns a dictionary of tensors.
        signature: TensorSpecs of its arguments.

    Attributes:
        graph: GraphDef, simplified.
        constants: (tensor name, array) of the numeric constants before simplification.
        inputs: TensorSpecs, with the names of the arguments.
        outputs: names of tensors, by key of the dictionary that `function` returns.
    """

    def __init__(self, function, signature):
        function = traced(function, input_signature=signature)
        concrete = function.get_concrete_function()
        keys = sorted(concrete.structured_outputs)
        self.outputs = {k: t.name for k, t in zip(keys, concrete.outputs)}
        # These are the first two steps of `convert_variables_to_constants_v2`. Its
        # third wraps the graph in a function again, which takes as long as both.
        self.graph, _ = convert_to_constants._replace_variables_by_constants(
            convert_to_constants._FunctionConverterDataInEager(
                concrete, lower_control_flow=False, aggressive_inlining=False
            )
        )
        inputs = concrete.inputs[: len(signature)]  # the rest were variables
        bodies = [self.graph.node, *(f.node_def for f in self.graph.library.function)]
        for node in (node for body in bodies for node in body):
            node.attr.pop("_gradient_op_type", None)  # Names a custom gradient.
        self.inputs = [
            tf.TensorSpec(t.shape, t.dtype, t.name.split(":")[0]) for t in inputs
        ]
        # Taken before simplification, which TensorFlow may change: the fingerprint is
        # made of these.
        self.constants = list(constants(self.graph))
        self.graph = graph_size.simplified(self.graph, [*inputs, *concrete.outputs])


def check_stock(functions):
    """Raises ValueError if a function has an operation that stock TensorFlow lacks."""
    used = set()
    for function in functions:
        graph = function.graph
        bodies = [graph.node, *(f.node_def for f in graph.library.function)]
        library = {f.signature.name for f in graph.library.function}
        used |= {node.op for body in bodies for node in body} - library
    foreign = {op for op in used if not hasattr(tf.raw_ops, op)}
    foreign |= used & {"PyFunc", "EagerPyFunc", "XlaLaunch"}
    if foreign:
        raise ValueError(f"not operations of stock TensorFlow: {sorted(foreign)}")


def constants(graph):
    """Yields (tensor name, array) of the numeric constants of a GraphDef."""
    for node in graph.node:
        if node.op == "Const" and node.attr["dtype"].type != tf.string.as_datatype_enum:
            yield f"{node.name}:0", tf.make_ndarray(node.attr["value"].tensor)


def fingerprint(*functions) -> str:
    """SHA-256 of all numbers in the functions, on which decoding depends, in hex.

    It is made of the sorted digests of the arrays, as the order of the nodes in a graph
    may change.
    """
    digests = [
        hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        for function in functions
        for _, array in function.constants
    ]
    whole = b"".join(sorted(digest.digest() for digest in digests))
    return hashlib.sha256(whole).hexdigest()


def compact(array: np.ndarray):
    """Returns a number array in the smallest form that represents it exactly.

    Returns:
        (array, scales): one of a smaller type and None; or integers of 8 bits
        [..., out] and float32 [out], whose product is the array: see `kernels.split`.
    """
    is_float = array.dtype.kind == "f"
    whole = _exactly(array, np.int8)
    if whole is None and is_float and array.ndim > 1 and array.size >= STORED_FROM:
        parts = kernels.split(array)
        if parts:
            return parts
    if whole is None:
        whole = _exactly(array, np.float16 if is_float else np.int16)
    return array if whole is None else whole, None


def _exactly(array, kind):
    """Returns an array in a smaller type, or None if that would change a value."""
    with np.errstate(over="ignore", invalid="ignore"):
        smaller = array.astype(kind)
    return smaller if np.array_equal(smaller.astype(array.dtype), array) else None


class Stored(NamedTuple):
    """An array as variables: its values, or those and what to multiply them by."""

    variable: tf.Variable
    scale: tf.Variable | None

    def restored(self, dtype):
        """Returns the array as a tensor."""
        values = tf.cast(tf.convert_to_tensor(self.variable), dtype)
        return values if self.scale is None else values * self.scale


class Store(tf.Module):
    """The module to save: it holds large constants of functions, each array once."""

    def __init__(self):
        super().__init__()
        self.arrays, self.scales = {}, {}

    def value(self, array) -> Stored:
        """Returns the variables for an array, which equal arrays share."""
        about = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        # 48 bits are enough to tell a few hundred arrays apart, and a SavedModel stores
        # each name in four places.
        key = hashlib.sha256(about).hexdigest()[:12]
        if key not in self.arrays:
            values, scale = compact(array)
            with tf.device("/CPU:0"):
                variable = tf.Variable(values, trainable=False)
                self.arrays[key] = variable
                if scale is not None:
                    variable = tf.Variable(scale, trainable=False)
                    self.scales[key] = variable
        return Stored(self.arrays[key], self.scales.get(key))

    def keep_weights(self, arrays):
        """Keeps trained weights in their order: `weights.trained` reads them."""
        stored = [self.value(array) for array in arrays]
        self.weights = [each.variable for each in stored]
        self.weight_scales = {
            str(k): each.scale
            for k, each in enumerate(stored)
            if each.scale is not None
        }

    def function(self, frozen: Frozen):
        """Returns a tf.function that computes `frozen`, its large constants variables.

        It returns the same dictionary as the original function.
        """
        stored = {
            tensor: (self.value(array), array.dtype)
            for tensor, array in constants(frozen.graph)
            if array.size >= STORED_FROM and array.dtype.kind == "f"
        }
        graph = tf.compat.v1.GraphDef()
        graph.CopyFrom(frozen.graph)
        kept = [node for node in graph.node if f"{node.name}:0" not in stored]
        graph_size.keep(graph.node, kept)

        def call(*arguments):
            mapped = {f"{s.name}:0": a for s, a in zip(frozen.inputs, arguments)}
            for tensor, (value, dtype) in stored.items():
                mapped[tensor] = value.restored(dtype)
            results = tf.graph_util.import_graph_def(
                graph,
                input_map=mapped,
                return_elements=list(frozen.outputs.values()),
                name="",
            )
            return dict(zip(frozen.outputs, results))

        return traced(call, input_signature=frozen.inputs)
