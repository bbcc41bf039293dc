"""An exported model built anew, to change its encoder and keep its decoder.

Files of both models then open with either. Besides its weights, a model has two things
that were fitted when it was exported, and are read from its graphs here: the coder's
tables, and the quantiser.
"""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfcodec import architectures, losses, rans, registry, weights
from tfcodec.constants import LEVELS
from tfcodec.densities import SCALES, Quantiser


def rebuilt(source: registry.Model):
    """Returns an exported model as a `CompressionModel`, with its own quantiser.

    Raises:
        ValueError: it lacks weights, or the quantiser of its coder.
    """
    model = architectures.from_card(source.card)
    weights.load_model(model, source.path)
    model.distortion = losses.Distortion.parse(source.distortion)
    if model.coder.quantiser:
        points = weights.held(source.path, "decoder")["points"].astype(np.float32)
        starts = quantiser_starts(source.path, points)
        known = {points.tobytes(), starts.tobytes()}
        cost = _table(source.path, "improve", known)
        model.coder.quantiser = Quantiser(cost, points, starts)
    return model


def encoder_variables(model) -> list:
    """Returns the variables of a `CompressionModel` that only its encoder uses."""
    parts = [model.analysis, getattr(model.coder, "hyper_analysis", None)]
    parts.append(model.gain if model.variable_rate else None)
    return [v for part in parts if part is not None for v in part.trainable_variables]


def check(directory, other, model):
    """Raises ValueError unless two exported models have the same decoder.

    Args:
        directory, other: of the models, the first one made from the second.
        model: either as a `CompressionModel`, which tells what only an encoder uses.
    """
    encoder = {variable.ref() for variable in encoder_variables(model)}
    decoders = []
    for each in (directory, other):
        numbers = weights.held(each, "decoder")
        trained = zip(weights.owners(model), weights.trained(each))
        arrays = (array for owner, array in trained if owner.ref() not in encoder)
        decoders.append({**numbers, **dict(enumerate(arrays))})
    ours, others = decoders
    if ours.keys() != others.keys() or not all(
        np.array_equal(array, others[name]) for name, array in ours.items()
    ):
        raise ValueError(f"{directory} has another decoder than {other}")


def tables(directory) -> rans.Tables:
    """Returns the coder's tables of an exported model."""
    numbers = weights.held(directory, "decoder")
    frequency, size, offset = (
        numbers[f"tables/{name}"].astype(np.int32)
        for name in ("frequency", "size", "offset")
    )
    rows = np.split(frequency, np.cumsum(size)[:-1])
    return rans.Tables.from_rows(list(zip(rows, offset)))


def quantiser_starts(directory, points) -> np.ndarray:
    """Returns `Quantiser.extra` [64, 9] of an exported model.

    It is a constant of the encoder, found by size and type, which only `points` shares.

    Raises:
        ValueError: there is no such constant, or several.
    """
    known = {points.astype(np.float32).tobytes()}
    return _table(directory, "encode", known)


def _table(directory, signature, known) -> np.ndarray:
    """Returns the one constant of a quantiser's size that is not `known`.

    Args:
        directory: of the exported model.
        signature: of the function whose constants are searched.
        known: the bytes of other such constants.

    Raises:
        ValueError: there is no such constant, or several.
    """
    found = {}
    for node in operations(directory, signature):
        is_constant = node.op == "Const"
        if is_constant and node.attr["dtype"].type == tf.float32.as_datatype_enum:
            value = tf.make_ndarray(node.attr["value"].tensor)
            if value.size == SCALES * (LEVELS + 1) and value.tobytes() not in known:
                found[value.tobytes()] = value.reshape(SCALES, LEVELS + 1)
    if len(found) != 1:
        raise ValueError(f"{len(found)} tables of the quantiser in the model, not one")
    return next(iter(found.values()))


def operations(directory, signature: str):
    """Yields the NodeDefs of the operations that a signature of a SavedModel runs."""
    content = pathlib.Path(directory, "saved_model.pb").read_bytes()
    (meta,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    library = {f.signature.name: f.node_def for f in meta.graph_def.library.function}
    outputs = meta.signature_def[signature].outputs.values()
    names = {output.name.split(":")[0] for output in outputs}
    bodies = [[node for node in meta.graph_def.node if node.name in names]]
    for body in bodies:
        yield from body
        called = {value.func.name for node in body for value in node.attr.values()}
        bodies += [library.pop(name) for name in called & library.keys()]
