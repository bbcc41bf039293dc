"""Writes an exported model for LiteRT, the engine that needs no TensorFlow.

    python -m tfcodec.litert_export MODEL [DIR [--int8]]

takes a shipped model, or one that `train.py` exported. Without DIR it adds a folder
`litert` to the model, which shares the SavedModel's weights (see `litert_files`) and
has two more networks: `exact` for the coder's largest layers, and `slope`, which an
effort above 0 needs. With DIR it writes a model for LiteRT alone, without these two,
whose weights would be stored twice.

Both have LiteRT (TensorFlow Lite) files of the floating-point networks, for images of
any height and width, which use only operations that are built into LiteRT; and the
numbers of the exact coder, which `walk` runs in NumPy. The fingerprint is the same, as
all integers are: each engine opens the files of the other.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import, or is not installed
    from tfcodec import tools

    tools.begin(tools.litert_export(__doc__))

import contextlib
import functools
import json
import pathlib

import numpy as np
import tensorflow as tf

from tfcodec import (
    architectures,
    channel_scales,
    exact_products,
    files,
    litert_exact,
    litert_files,
    litert_int8,
    litert_slope,
    registry,
    same_decoder,
    tools,
    walk,
    weights,
)
from tfcodec.constants import NOISE_PERIOD
from tfcodec.entropy import Conditional
from tfcodec.layers import Noise
from tfcodec.litert_engine import SLOPE
from tfcodec.litert_layers import lite
from tfcodec.model import CENTRE, SCALE, whole_levels
from tfcodec.tracing import traced


class Unsuited(ValueError):
    """LiteRT cannot run a model of this architecture."""


def export(directory, target=None, int8: bool = False) -> pathlib.Path:
    """Writes the LiteRT files of one model.

    Args:
        directory: an exported model, or the name of a shipped one.
        target: model directory to make, for LiteRT alone; by default `litert` is added
            to that of the model, and shares the SavedModel's weights.
        int8: whether to round weights of the floating-point networks to 8 bits, for
            smaller files; only with `target`. In networks with residual blocks these
            are the dense layers, as they are without `target`; in others all. Such
            layers round their inputs to 8 bits, too. The exact coder stays the same, so
            that files decode to the same integers.

    Returns:
        The directory that was written.

    Raises:
        Unsuited: the coder has networks that are not exact.
        ValueError: there is no such model, or `int8` and no `target`; or `target`
            exists, and is no model.
        OSError: the directory could not be written.
    """
    source = registry.resolve(directory)
    if int8 and not target:
        raise ValueError("weights of 8 bits need a directory to write them to")
    if target:
        registry.check_replaceable(pathlib.Path(target))
    model = architectures.from_card(source.card)
    weights.load_model(model, source.path)
    if getattr(model.coder, "residual_nets", None):
        raise Unsuited(
            f"no LiteRT files for the architecture {source.card['architecture']}: its "
            f"coder has networks of floating point"
        )
    numbers = coder_numbers(source.path, model)
    numbers["fingerprint"] = np.frombuffer(source.fingerprint, np.uint8)
    inputs = None
    if int8 or not target:
        inputs = functools.cache(functools.partial(example, model))
    made = converted_networks(model, int8, inputs)
    if source.realism:
        second = realistic(model, source)
        # As an example, one period of the noise: it is as large as the picture.
        noise = {f"noise_{k}": layer.noise for k, layer in enumerate(second.noise)}
        part = realistic_network(model, second)
        made["realism"] = written(part, int8, inputs and (lambda: inputs() | noise))
        for k, layer in enumerate(second.noise):
            numbers[f"noise/{k}"] = layer.noise[0].astype(np.float16)
    if target:
        target = pathlib.Path(target)
        with files.new_directory(target) as part:
            (part / registry.LITERT).mkdir(parents=True)
            litert_files.write_whole(part / registry.LITERT, made, numbers)
            (part / "card.json").write_text(json.dumps(source.card, indent=1) + "\n")
        return target
    with contextlib.suppress(litert_slope.Unknown):
        made[SLOPE] = written(slope_network(model), False)
    return _added(source, made, numbers)


def _added(source, made, numbers) -> pathlib.Path:
    """Adds `litert` to the directory of a model; returns its path."""
    compact = litert_files.Compact(source.path, stored_arrays(source))
    coder = walk.coder_of(numbers)
    for name, data in made.items():
        compact.add_network(name, data, scales=litert_int8.channel_scales_in(data))
    if exact_products.suited(coder):
        data = made[exact_products.NAME] = litert_exact.written(coder)
        compact.add_network(exact_products.NAME, data, litert_exact.layouts(coder))
    compact.add_numbers(numbers)
    with files.new_directory(source.path / registry.LITERT) as part:
        part.mkdir(exist_ok=True)
        compact.write(part)
        check_whole(litert_files.Files(part, source.path), made, numbers)
    return source.path / registry.LITERT


def stored_arrays(source: registry.Model) -> dict[str, list]:
    """Returns what a model's SavedModels store.

    For each file (path relative to the model's directory), its variables as (array,
    scales). `scales` is None, or the factors that restore the values.
    """
    arrays = {}
    for directory in filter(
        None, [pathlib.Path(), source.realism and registry.REALISM]
    ):
        prefix = pathlib.PurePosixPath(directory, "variables", "variables")
        reader = tf.train.load_checkpoint(str(source.path / prefix))
        kinds = reader.get_variable_to_dtype_map()
        found = arrays[f"{prefix}.data-00000-of-00001"] = []
        for name, kind in sorted(kinds.items()):
            if kind != tf.string:
                scale = name.replace("arrays/", "scales/", 1)
                has_scale = scale != name and scale in kinds
                scales = reader.get_tensor(scale) if has_scale else None
                found.append((reader.get_tensor(name), scales))
    return arrays


def check_whole(found: litert_files.Files, networks, numbers):
    """Raises ValueError if files read back differ from what was to be written."""
    read = found.numbers()
    if not all(
        np.array_equal(read[name], array) and read[name].dtype == array.dtype
        for name, array in numbers.items()
    ) or not all(found.network(name) == data for name, data in networks.items()):
        raise ValueError("the LiteRT files read back differently from what was written")


def realistic(model, source: registry.Model):
    """Returns the second synthesis of a model, with its weights."""
    found = weights.trained(source.realism)
    # After the variables of the synthesis come three for each place where noise enters:
    # gate [channels, n], its bias [n], projection.
    gates = range(len(model.synthesis.trainable_variables), len(found), 3)
    counts = [found[k].shape[1] for k in gates]
    second = architectures.realistic(source.card, counts)
    weights.load_plain(second, source.realism)
    return second


def coder_numbers(directory, model) -> dict[str, np.ndarray]:
    """Returns the numbers that `walk.Coder` takes, each array in a small type.

    Args:
        directory: of the SavedModel.
        model: the same model as a `CompressionModel`, which tells the parts of its
            coder.
    """
    numbers = weights.held(directory, "decoder")
    if not isinstance(model.coder, Conditional):
        return numbers
    numbers["extra"] = same_decoder.quantiser_starts(directory, numbers["points"])
    numbers["slices"] = np.array(model.coder.slices)
    numbers["support"] = np.array(model.coder.support)
    return numbers


def networks(model) -> dict:
    """Returns the floating-point networks: name -> (function, specs of its inputs)."""

    def analysis(image):
        x = (tf.cast(image, tf.float32) - CENTRE) / SCALE
        return {"y": lite(model.analysis, x)}

    def gain(y, quality):
        return {"y": model.scaled_latents(y, quality[None])}

    def hyper_analysis(y, quality):
        y = model.scaled_latents(y, quality[None])
        seen = tf.abs(y) if model.coder.magnitudes else y
        return {"y": y, "z": lite(model.coder.hyper_analysis, seen)}

    def synthesis(y_hat, quality):
        y_hat = model.unscaled_latents(y_hat, quality[None])
        return {"image": levels(lite(model.synthesis, y_hat))}

    image = tf.TensorSpec([1, None, None, 3], tf.uint8, "image")
    specs = model.argument_specs()
    y, y_hat, quality = (specs[name] for name in ("y", "y_hat", "quality"))
    found = {
        "analysis": (analysis, [image]),
        "synthesis": (synthesis, [y_hat, quality]),
    }
    if isinstance(model.coder, Conditional):
        found["hyper_analysis"] = hyper_analysis, [y, quality]
    elif model.variable_rate:
        found["gain"] = gain, [y, quality]
    return found


def slope_network(model):
    """Returns the slope of the synthesis, in the form of `networks`.

    From the slope of the distortion with respect to the image it computes that with
    respect to y_hat; beside it, it tells lambda at the quality.

    Raises:
        litert_slope.Unknown: the synthesis has a layer without a way back.
    """

    def slope(y_hat, quality, image_slope):
        gained = model.unscaled_latents(y_hat, quality[None])
        _, back = litert_slope.both_ways(model.synthesis, gained)
        # The gains multiply both y_hat and, on the way back, the slope.
        found = model.unscaled_latents(back(image_slope * SCALE), quality[None])
        return {"slope": found, "lmbda": tf.identity(model.lmbda_at(quality))}

    inputs = networks(model)["synthesis"][1] + [
        tf.TensorSpec([1, None, None, 3], tf.float32, "image_slope")
    ]
    return slope, inputs


def converted_networks(model, int8: bool, inputs=None) -> dict[str, bytes]:
    """Returns the LiteRT file of each of `networks`.

    Args:
        model: a `CompressionModel`.
        int8: as for `export`.
        inputs: as for `written`, of the synthesis.
    """
    found = networks(model)
    made = {"analysis": written(found.pop("analysis"), int8, of_pixels=True)}
    made["synthesis"] = written(found.pop("synthesis"), int8, inputs)
    return made | {name: written(part, int8) for name, part in found.items()}


def written(part, int8: bool, inputs=None, of_pixels: bool = False) -> bytes:
    """Returns the LiteRT file of one of `networks`.

    Args:
        part: the function, and the specs of its inputs.
        int8: as for `export`.
        inputs: function that returns examples of its inputs by name, called if it has
            dense layers; these then have weights of 8 bits in any case.
        of_pixels: whether it is an analysis.
    """
    graph = traced(part[0], input_signature=part[1]).get_concrete_function()
    if not has_dense(graph):  # Of such a network, the converter rounds all layers.
        return from_graph(graph, int8)
    half = from_graph(graph)
    if of_pixels:
        return litert_int8.with_int8(half)
    if not (int8 or inputs):
        return half
    return litert_int8.with_dense_int8(half, inputs() if inputs else None)


def example(model) -> dict[str, np.ndarray]:
    """Returns example inputs of a synthesis by name: of a picture of made discs."""
    picture = channel_scales.picture(NOISE_PERIOD)
    quality = np.float32(0.5)
    y = model.scaled_latents(model.analyse(picture[None]), quality[None])
    return {"y_hat": np.rint(y), "quality": quality}


def has_dense(graph) -> bool:
    """Whether a function has dense layers of pictures, as `dense` makes them."""
    return any(
        op.type.startswith("BatchMatMul") and op.inputs[0].shape.rank == 4
        for op in graph.graph.get_operations()
    )


def realistic_network(model, second):
    """Returns the second synthesis in the form of `networks`: (function, TensorSpecs).

    The noise of each place is an input, [1, h, w, n], which the engine cuts out of one
    period of the noise by the position within the image.
    """

    def synthesis(y_hat, quality, *noises):
        y_hat = x = model.unscaled_latents(y_hat, quality[None])
        left = iter(noises)
        for layer in second.path:
            if isinstance(layer, Noise):
                x = x + with_noise(layer, x, next(left))
            else:
                x = lite(layer, x)
        if second.linear:
            x += lite(second.linear, y_hat)
        return {"image": levels(x)}

    inputs = networks(model)["synthesis"][1] + [
        tf.TensorSpec([1, None, None, layer.count], tf.float32, f"noise_{k}")
        for k, layer in enumerate(second.noise)
    ]
    return synthesis, inputs


def with_noise(layer, x, noise):
    """Returns what a `Noise` layer adds to x, computed by convolutions."""
    gate = tf.nn.conv2d(x, layer.gate[None, None], 1, "VALID") + layer.gate_bias
    # Softplus, made of operations that LiteRT has, and without overflow.
    gate = tf.nn.relu(gate) + tf.math.log(1 + tf.exp(-tf.abs(gate)))
    return tf.nn.conv2d(noise * gate, layer.project[None, None], 1, "VALID")


def levels(x):
    """Turns the output of a synthesis into pixels, uint8."""
    return whole_levels(x * SCALE + CENTRE)


def from_graph(concrete, int8: bool = False) -> bytes:
    """Returns a concrete function as a LiteRT file, with weights of half precision.

    With `int8`, they have 8 bits.
    """
    holder = tf.Module()  # of variables: without it the file has no signature
    holder.held = list(concrete.graph.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if not int8:
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def main(argv=None):
    parser = tools.litert_export(__doc__)
    args = parser.parse_args(argv)
    tools.print_made(parser, lambda: export(args.model, args.directory, args.int8))


if __name__ == "__main__":
    main()
