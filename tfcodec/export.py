"""From a trained model to a SavedModel of stock TensorFlow ops, with its card.

The exported functions are those of `CompressionModel.graphs`.  Their weights are
constants first, so that nothing of Keras or TFC is left; then large ones become
variables that the functions share, each in the smallest type that holds its values to
the bit.  The coder's tables stay constants, as TensorFlow prepares them once that way.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.grappler import tf_optimizer

from tfcodec import files, rans, weights
from tfcodec.layers import EXACT_LIMIT
from tfcodec.model import CENTRE, SCALE, whole_levels
from tfcodec.tracing import traced

LICENCE = "Apache-2.0"
# Float constants of fewer elements stay in the graph.
STORED_FROM = 1024


def export(
    model, directory, architecture, options=None, record=None, name=None
) -> pathlib.Path:
    """Writes `model` to `directory`, replacing what is there only when all is well.

    The weights of `model` are rounded to half precision on the way, so that the model
    in memory and the exported one stay the same function.

    Args:
        model: a `CompressionModel`, trained, averages in place.
        directory: becomes a SavedModel directory with `card.json`.
        architecture: name of the builder, for the card.
        options: the builder's arguments, for the card.
        record: how it was trained, for the card.
        name: of the model; by default that of the architecture.

    Returns:
        `directory`.

    Raises:
        ValueError: a convolution is not exact, or an op is not stock.
        OSError: `directory` could not be written, and is as it was.
    """
    directory = pathlib.Path(directory)
    round_weights(model)
    sums = [x.freeze() for x in model.exact_layers()]
    tables = rans.Tables.from_rows(model.coder.table_rows())
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
        "licence": LICENCE,
        **described(model),
        "exactness": exactness(sums),
        "training": record or {},
        "made_with": {"tensorflow": tf.__version__},
    }
    module = Store()
    signatures = {key: module.function(graph) for key, graph in frozen.items()}
    # For trainings that begin from this model; what functions hold too is stored once.
    module.weights = [module.value(array) for array in weights.stored(model)]
    module.decoder = {
        name: module.value(array)
        for name, array in decoder_numbers(model, tables).items()
    }
    with files.new_directory(directory) as part:
        tf.saved_model.save(module, str(part), signatures=signatures)
        drop_shapes(part)
        (part / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return directory


def described(model) -> dict:
    """Returns the entries of a model's card that follow from the model alone.

    Its reach in latents and its multiply-adds per pixel are measured here.
    """
    lmbda = model.lmbda
    variable = model.variable_rate
    return {
        "quality": {"lmbda_min": lmbda[0], "lmbda_max": lmbda[1]} if variable else None,
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
    """Returns what a card says of the sums that float32 must hold exactly.

    Args:
        sums: of each exact convolution, the largest that each channel can reach, as
            `ExactConv.freeze` has them.
    """
    return {
        "convolutions": len(sums),
        "channels": int(sum(map(len, sums))),
        "largest_sum": int(max((s.max() for s in sums), default=0)),
        "limit": EXACT_LIMIT,
    }


def export_realism(model, second, directory):
    """Writes the second synthesis of a model, a SavedModel with one signature.

    `synthesis` takes y_hat and quality as the model's own, and `origin`, int32 [2], the
    row and column of the first latent in the image. It lies in a directory of its own,
    so that the model's files and functions stay as they are, and is loaded only where
    pictures with grain are asked for.

    Args:
        model: the `CompressionModel`, whose inverse gains it uses.
        second: `transforms.RealisticSynthesis`; its weights are rounded to half
            precision.
        directory: to make.
    """
    round_weights(second)

    def synthesis(y_hat, quality, origin):
        y_hat = model.unscaled_latents(y_hat, quality[None])
        return {"image": whole_levels(second(y_hat, origin)[0] * SCALE + CENTRE)}

    latents, quality = model.graphs(None)["synthesis"][1]
    origin = tf.TensorSpec([2], tf.int32, "origin")
    frozen = Frozen(synthesis, [latents, quality, origin])
    check_stock([frozen])
    module = Store()
    signatures = {"synthesis": module.function(frozen)}
    module.weights = [module.value(v.numpy()) for v in second.trainable_variables]
    tf.saved_model.save(module, str(directory), signatures=signatures)
    drop_shapes(directory)


def drop_shapes(directory):
    """Takes out of a SavedModel what a loader infers again: 0.4 MB, a tenth of loading.

    And TensorFlow's checksum of the file, which no loader needs.
    """
    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        functions = (function.node_def for function in graph.library.function)
        for node in itertools.chain(graph.node, *functions):
            node.attr.pop("_output_shapes", None)
    path.write_bytes(saved.SerializeToString(deterministic=True))
    (directory / "fingerprint.pb").unlink(missing_ok=True)


def decoder_numbers(model, tables) -> dict[str, np.ndarray]:
    """Returns all the numbers between a file's bytes and the latents, by name.

    For readers of their own: `tf.saved_model.load(DIR).decoder` has them, and
    docs/format.md says what each is.
    """
    numbers = {
        "tables/frequency": tables.frequency[:-1],  # without the row that pads
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


def round_weights(model):
    """Rounds every weight to float16: 7 MB less, and no difference to be seen."""
    for variable in model.trainable_variables:
        variable.assign(tf.cast(tf.cast(variable, tf.float16), variable.dtype))


class Frozen:
    """A function's graph, with every variable a constant.

    Attributes:
        graph: GraphDef, simplified.
        constants: (tensor name, array) of the numeric ones before it was.
        inputs: TensorSpecs, named as the arguments are.
        outputs: names of its tensors, by key of the dictionary it returns.
    """

    def __init__(self, function, signature):
        function = traced(function, input_signature=signature)
        concrete = function.get_concrete_function()
        keys = sorted(concrete.structured_outputs)
        self.outputs = {k: t.name for k, t in zip(keys, concrete.outputs)}
        # The two steps of `convert_variables_to_constants_v2` that make the graph. Its
        # third wraps it in a function once more, which takes as long as both.
        self.graph, _ = convert_to_constants._replace_variables_by_constants(
            convert_to_constants._FunctionConverterDataInEager(
                concrete, lower_control_flow=False, aggressive_inlining=False
            )
        )
        inputs = concrete.inputs[: len(signature)]  # the rest were variables
        bodies = [self.graph.node, *(f.node_def for f in self.graph.library.function)]
        for node in (node for body in bodies for node in body):
            node.attr.pop("_gradient_op_type", None)  # Of custom gradients, not here.
        self.inputs = [
            tf.TensorSpec(t.shape, t.dtype, t.name.split(":")[0]) for t in inputs
        ]
        # What the numbers of a model are must not depend on how well this tidies up.
        self.constants = list(constants(self.graph))
        self.graph = simplified(self.graph, [*inputs, *concrete.outputs])


def simplified(graph, kept):
    """Returns an equal GraphDef without what is constant or there twice.

    Nearly half of the operations go, and with them a third of the time to load.

    Args:
        graph: GraphDef.
        kept: its inputs and outputs, tensors.
    """
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    # None that makes ops of its own, or changes the arithmetic.
    rewrite.optimizers.extend(
        ["pruning", "constfold", "dependency", "common_subgraph_elimination"]
    )
    rewrite.min_graph_nodes = -1
    meta = meta_graph_pb2.MetaGraphDef(graph_def=graph)
    nodes = meta.collection_def["train_op"].node_list
    nodes.value.extend(tensor.name for tensor in kept)
    simple = tf_optimizer.OptimizeGraph(config, meta)
    # Inner functions are no longer those of the same name that others have.
    names = {f.signature.name for f in simple.library.function}
    tag = hashlib.sha256(simple.SerializeToString(deterministic=True)).hexdigest()[:8]

    def rename(holder, field):
        if getattr(holder, field) in names:
            setattr(holder, field, f"{getattr(holder, field)}_{tag}")

    for function in simple.library.function:
        rename(function.signature, "name")
    for body in [simple.node, *(f.node_def for f in simple.library.function)]:
        for node in body:
            rename(node, "op")
            for attribute in node.attr.values():
                for value in [attribute.func, *attribute.list.func]:
                    rename(value, "name")
    shorten(simple.node, {tensor.op.name for tensor in kept})
    for function in simple.library.function:
        short = shorten(
            function.node_def, {a.name for a in function.signature.input_arg}
        )
        for returned in (function.ret, function.control_ret):
            for key, reference in list(returned.items()):
                returned[key] = short(reference)
    return simple


def shorten(nodes, kept):
    """Gives the nodes of a graph or function short names: a third less to load.

    Args:
        nodes: NodeDefs.
        kept: names that stay, or are those of a function's arguments.

    Returns:
        A function from an old reference to a node, as an input is, to the new one.
    """
    numbers = (f"n{k}" for k in itertools.count() if f"n{k}" not in kept)
    names = {n.name: next(numbers) for n in nodes if n.name not in kept}

    def short(reference):
        mark = "^" if reference.startswith("^") else ""
        name, colon, output = reference[len(mark) :].partition(":")
        return f"{mark}{names.get(name, name)}{colon}{output}"

    for node in nodes:
        node.name = names.get(node.name, node.name)
        node.input[:] = [short(reference) for reference in node.input]
        node.attr.pop("_class", None)  # names a node that it is to be near
    return short


def check_stock(functions):
    """Raises ValueError unless TensorFlow alone has every op of the functions."""
    used = set()
    for function in functions:
        graph = function.graph
        bodies = [graph.node, *(f.node_def for f in graph.library.function)]
        library = {f.signature.name for f in graph.library.function}
        used |= {node.op for body in bodies for node in body} - library
    foreign = {op for op in used if not hasattr(tf.raw_ops, op)}
    if foreign or used & {"PyFunc", "EagerPyFunc", "XlaLaunch"}:
        raise ValueError(f"not stock ops: {sorted(foreign)}")


def constants(graph):
    """Yields (tensor name, array) of the numeric constants of a GraphDef."""
    for node in graph.node:
        if node.op == "Const" and node.attr["dtype"].type != tf.string.as_datatype_enum:
            yield f"{node.name}:0", tf.make_ndarray(node.attr["value"].tensor)


def fingerprint(*functions) -> str:
    """SHA-256 of all the numbers in the functions: what decoding depends on.

    Of their own digests, sorted, as the order of a graph's nodes is an accident.
    """
    digests = [
        hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        for function in functions
        for _, array in function.constants
    ]
    whole = b"".join(sorted(digest.digest() for digest in digests))
    return hashlib.sha256(whole).hexdigest()


def compact(array: np.ndarray) -> np.ndarray:
    """Returns an array in the smallest type that holds each of its values."""
    for kind in (np.int8, np.float16 if array.dtype.kind == "f" else np.int16):
        with np.errstate(over="ignore", invalid="ignore"):
            smaller = array.astype(kind)
        if np.array_equal(smaller.astype(array.dtype), array):
            return smaller
    return array


class Store(tf.Module):
    """Holds the large constants of several functions, each array once."""

    def __init__(self):
        super().__init__()
        self.arrays = {}

    def value(self, array):
        key = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        variable = self.arrays.get(key.hexdigest())
        if variable is None:
            with tf.device("/CPU:0"):
                variable = tf.Variable(compact(array), trainable=False)
            self.arrays = {**self.arrays, key.hexdigest(): variable}
        return variable

    def function(self, frozen: Frozen):
        """Returns a tf.function equal to `frozen`, its large constants read from here.

        It returns the dictionary that the original function returned.
        """
        stored = {
            tensor: (self.value(array), array.dtype)
            for tensor, array in constants(frozen.graph)
            if array.size >= STORED_FROM and array.dtype.kind == "f"
        }
        graph = tf.compat.v1.GraphDef()
        graph.CopyFrom(frozen.graph)
        kept = [node for node in graph.node if f"{node.name}:0" not in stored]
        del graph.node[:]
        graph.node.extend(kept)

        def call(*arguments):
            mapped = {f"{s.name}:0": a for s, a in zip(frozen.inputs, arguments)}
            for tensor, (variable, dtype) in stored.items():
                mapped[tensor] = tf.cast(tf.convert_to_tensor(variable), dtype)
            results = tf.graph_util.import_graph_def(
                graph,
                input_map=mapped,
                return_elements=list(frozen.outputs.values()),
                name="",
            )
            return dict(zip(frozen.outputs, results))

        return traced(call, input_signature=frozen.inputs)
