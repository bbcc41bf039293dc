"""Writes a LiteRT file of the exact coder's large layers: see `exact_products`."""

from __future__ import annotations

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from tfcodec import exact_products, kernels, litert_int8

INPUT, WEIGHTS, BIAS, OUTPUT = range(4)  # tensors of each subgraph


def written(coder) -> bytes:
    """Returns the file for a coder.

    Args:
        coder: a `walk.Coder`.

    Returns:
        A LiteRT file with a signature for each layer of `exact_products.suited`, by
        its name, and one for `exact_products.trial`. Each is a convolution without bias
        of x, float32 [1, h, w, in], for any h and w; beyond its edges x is zero. It
        returns y, float32 [1, h, w, out].
    """
    layer, x = exact_products.trial()
    layers = exact_products.suited(coder)
    layers[exact_products.TRIAL] = layer, x.shape[-1]
    return convolutions(
        {
            name: kernels.without_signs(layer.integers, unsigned)
            for name, (layer, unsigned) in layers.items()
        }
    )


def layouts(coder) -> list[str]:
    """Returns how the file stores kernels, in the terms of `litert_files.LAYOUTS`."""
    suited = exact_products.suited(coder).values()
    return sorted({f"without_signs {unsigned}" for _, unsigned in suited})


def convolutions(weights: dict[str, np.ndarray]) -> bytes:
    """Returns a LiteRT file of convolutions without bias.

    Args:
        weights: by name of the signature, int8 [out, k, k, in].
    """
    code = litert_int8.operator_code(
        schema.BuiltinOperator.CONV_2D, litert_int8.BY_CHANNEL
    )
    model = schema.ModelT()
    model.version, model.operatorCodes = 3, [code]
    model.buffers = [schema.BufferT()]
    model.subgraphs = [_graph(array, model.buffers) for array in weights.values()]
    model.signatureDefs = [_signature(*pair) for pair in enumerate(weights)]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _signature(number, name):
    """Returns the names of the input and the output of subgraph `number`."""
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = name, number
    places = []
    for own, tensor in (("x", INPUT), ("y", OUTPUT)):
        place = schema.TensorMapT()
        place.name, place.tensorIndex = own, tensor
        places.append([place])
    signature.inputs, signature.outputs = places
    return signature


def _graph(weights, buffers):
    """Returns a subgraph of one convolution; adds its constants to `buffers`."""
    outputs, _, _, inputs = weights.shape
    graph = schema.SubGraphT()
    graph.inputs, graph.outputs, graph.operators = [INPUT], [OUTPUT], [_convolution()]
    graph.tensors = [
        _variable("x", inputs),
        _constant("weights", weights, schema.TensorType.INT8, buffers),
        _constant("bias", np.zeros(outputs, "<f4"), schema.TensorType.FLOAT32, buffers),
        _variable("y", outputs),
    ]
    scales = np.ones(outputs, np.float32)
    graph.tensors[WEIGHTS].quantization = litert_int8.by_output(scales)
    return graph


def _variable(name, channels):
    tensor = schema.TensorT()
    tensor.name, tensor.type = name, schema.TensorType.FLOAT32
    tensor.shape, tensor.shapeSignature = [1, 1, 1, channels], [1, -1, -1, channels]
    return tensor


def _constant(name, array, kind, buffers):
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape = name, kind, list(array.shape)
    tensor.buffer = litert_int8.added(buffers, array)
    return tensor


def _convolution():
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.outputs = 0, [OUTPUT]
    operator.inputs = [INPUT, WEIGHTS, BIAS]
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = options = schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = 1
    options.dilationHFactor = options.dilationWFactor = 1
    return operator
