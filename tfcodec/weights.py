"""Initial weights of a training: those of an exported model, or arrays in a file.

Arrays are weights that were trained elsewhere, in the order of the
`trainable_variables` of the model that `architectures.build` returns:

- `.npz`: one array for each variable, in the order of the file;
- `.npy`: one vector of all weights, variable after variable.

They may be of any of NumPy's floating-point types.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfcodec import archives
from tfcodec.layers import Block, SecondPass


def held(directory, attribute: str) -> dict:
    """Returns the variables in a list or dictionary of a SavedModel, as arrays.

    They are read from the checkpoint inside: `tf.saved_model.load` would also build the
    functions, which takes seconds.

    Args:
        directory: of the SavedModel.
        attribute: name of the list or dictionary, such as `weights`.

    Returns:
        {number or key: array}, empty if there is no such attribute.

    Raises:
        ValueError: they cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(f"{directory}/variables/variables")
        text = reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(text).nodes

        def children(node):
            return {child.local_name: nodes[child.node_id] for child in node.children}

        holder = children(nodes[0]).get(attribute)
        return {
            int(name) if name.isdigit() else name: reader.get_tensor(
                node.attributes[0].checkpoint_key
            )
            for name, node in (children(holder) if holder is not None else {}).items()
        }
    except tf.errors.OpError as error:
        raise ValueError(f"cannot read {directory}: {error.message}") from None


def trained(directory) -> list[np.ndarray]:
    """Returns the trained weights of a SavedModel, in order; see `held`."""
    scales = held(directory, "weight_scales")
    return [
        array.astype(np.float32) * scales[k] if k in scales else array
        for k, array in sorted(held(directory, "weights").items())
    ]


def load_model(model, directory):
    """Gives `model` the weights of an exported model of the same architecture.

    If the exported model has no residual blocks, those of `model` keep their initial
    weights, with which they are the identity.

    Raises:
        ValueError: the architectures differ, or the exported model has no weights for
            training.
    """
    found = trained(directory)
    if not found:
        raise ValueError(f"{directory} has no weights from which to train")
    exact = {x.kernel.ref(): 2.0**x.weight_bits for x in model.exact_layers()}
    variables, own = model.trainable_variables, _own_channels(model)
    if len(found) < len(variables) + len(own):
        blocks = [x for x in model.submodules if isinstance(x, Block)]
        new = {v.ref() for block in blocks for v in block.trainable_variables}
        variables = [v for v in variables if v.ref() not in new]
    scales = [exact.get(v.ref(), 1.0) for v in variables]
    parts, arrays = iter(found), []
    for variable in variables:
        count = 2 if variable.ref() in own else 1
        pieces = list(itertools.islice(parts, count))
        with contextlib.suppress(ValueError):  # If shapes differ, `_assign` raises.
            arrays += [np.concatenate(pieces, 2)] if count == 2 else pieces
    arrays += parts
    _assign(variables, arrays, scales, directory)


def load_plain(network, directory):
    """Gives a network without exact layers the weights of an exported one.

    Raises:
        ValueError: it is another network.
    """
    arrays = trained(directory)
    variables = network.trainable_variables
    _assign(variables, arrays, [1.0] * len(variables), directory)


def load_arrays(variables, path):
    """Gives variables, in this order, the weights in a file of arrays.

    Raises:
        ValueError: the file cannot be read, or its arrays are those of another
            architecture, or not finite.
    """
    path = pathlib.Path(path)
    try:
        found = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with found:
                found = [found[name] for name in found.files]
    except archives.DAMAGED as error:
        raise ValueError(f"cannot read arrays from {path}: {error}") from None
    if path.suffix == ".npy":
        ends = np.cumsum([v.shape.num_elements() for v in variables])
        if found.shape != (ends[-1],):
            raise ValueError(
                f"{path} holds an array of shape {list(found.shape)}; this "
                f"architecture has {ends[-1]} weights"
            )
        parts = np.split(found, ends[:-1])
        found = [part.reshape(v.shape) for part, v in zip(parts, variables)]
    for array in found:
        if array.dtype.kind != "f" or not np.all(np.isfinite(array)):
            raise ValueError(f"{path} has arrays that are not finite floats")
    _assign(variables, found, [1.0] * len(variables), path)


def stored(model) -> list[np.ndarray]:
    """Returns the weights of a frozen model in order, exact kernels as integers.

    They are stored in an exported model, and read by `load_model`. A kernel that two
    passes share is in two parts, as in the exported functions, so that it is stored
    only once.
    """
    exact = {layer.kernel.ref(): layer.frozen[0] for layer in model.exact_layers()}
    own, arrays = _own_channels(model), []
    for variable in model.trainable_variables:
        array = exact.get(variable.ref(), variable.numpy())
        count = own.get(variable.ref())
        arrays += [array[:, :, :-count], array[:, :, -count:]] if count else [array]
    return arrays


def owners(model) -> list:
    """Returns the variable that each array of `stored` comes from."""
    own = _own_channels(model)
    return [v for v in model.trainable_variables for _ in range(1 + (v.ref() in own))]


def _own_channels(model) -> dict:
    """Returns kernel reference -> number of input channels of the second pass alone."""
    passes = (x for x in model.submodules if isinstance(x, SecondPass))
    return {layer.kernel.ref(): layer.own for layer in passes}


def _assign(variables, arrays, scales, source):
    """Sets variables to arrays divided by scales, if all shapes agree."""
    shapes = [tuple(array.shape) for array in arrays]
    if shapes != [tuple(v.shape) for v in variables]:
        pairs = enumerate(zip(shapes, variables))
        wrong = [
            f"number {k} is {list(s)}, not {list(v.shape)} ({v.name})"
            for k, (s, v) in pairs
            if s != tuple(v.shape)
        ]
        raise ValueError(
            f"{source} is a model of another architecture: {len(shapes)} arrays for "
            f"{len(variables)} variables" + (f"; {wrong[0]}" if wrong else "")
        )
    for variable, array, scale in zip(variables, arrays, scales):
        variable.assign(array.astype(np.float32) / scale)
