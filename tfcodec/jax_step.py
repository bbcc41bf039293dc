"""The step of a program as a function of JAX, and a whole step of a training around it.

The HLO that TensorFlow wrote is converted to StableHLO. To JAX it is one operation with
a lowering of its own, so it is compiled together with what draws the batch and with
what refuses a step that is not finite.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

try:
    from jax.extend.mlir import hlo_to_stablehlo, ir
    from jax.extend.mlir.dialects import func
except ImportError as error:
    raise ImportError(
        f"this needs a newer JAX than {jax.__version__}: one whose jax.extend.mlir "
        "converts HLO, as 0.11 has it"
    ) from error

from tfcodec.programs import Program
from tfcodec.training_tiles import BLOCK

PRODUCTS = {f"stablehlo.{name}" for name in ("convolution", "dot", "dot_general")}
VERSION = jax.__version__
# Tiles of one array on the device; a batch is drawn from one array.
CHUNK = 16 * BLOCK


def _products(operation):
    """Yields the convolutions and matrix products within an operation of MLIR."""
    for region in operation.regions:
        for block in region:
            for inner in block.operations:
                if inner.operation.name in PRODUCTS:
                    yield inner.operation
                yield from _products(inner.operation)


def _module(hlo: bytes, tf32: bool):
    """Parses HLO as a module of StableHLO, in the context of JAX's lowering."""
    module = ir.Module.parse(hlo_to_stablehlo(hlo))
    if tf32:
        default = ir.Attribute.parse("#stablehlo<precision DEFAULT>")
        for operation in _products(module.operation):
            operation.attributes["precision_config"] = ir.ArrayAttr.get([default] * 2)
    main = ir.SymbolTable(module.operation)["main"]
    # Which results may overwrite arguments belongs to a whole program; here the step
    # becomes a function within another one, so that is removed.
    main.attributes["arg_attrs"] = ir.ArrayAttr.get(
        [ir.DictAttr.get({}) for _ in main.type.inputs]
    )
    return module, main.type.results


def function_of(program: Program, tf32: bool = False):
    """Returns the step as a function that JAX can trace but not differentiate.

    It takes the state and the inputs, dicts by name, and returns the next state and the
    metrics, dicts likewise.

    Args:
        program: what was exported.
        tf32: let products of float32 have the precision that the device has by
            default: TF32 on GPUs of NVIDIA, bfloat16 on TPUs. Else they are float32.
    """
    manifest, hlo = program.manifest, program.step()
    arguments, metrics = manifest["arguments"], manifest["metrics"]
    results = {k: ((), "float32") for k in range(len(metrics))}
    for argument in arguments:
        if argument["output"] is not None:
            results[argument["output"]] = argument["shape"], argument["dtype"]
    avals = [
        jax.core.ShapedArray(tuple(shape), np.dtype(dtype))
        for _, (shape, dtype) in sorted(results.items())
    ]
    primitive = Primitive("tfcodec_step")
    primitive.multiple_results = True
    primitive.def_abstract_eval(lambda *_: avals)

    def lower(context, *operands):
        module, types = _module(hlo, tf32)
        name = mlir.merge_mlir_modules(
            context.module_context.module, "tfcodec_step", module,
            dst_symtab=context.module_context.symbol_table,
        )  # fmt: skip
        return func.CallOp(types, ir.FlatSymbolRefAttr.get(name), operands).results

    mlir.register_lowering(primitive, lower)

    def step(state, inputs):
        given = [inputs[x["name"]] for x in manifest["inputs"]]
        found = primitive.bind(*given, *[state[x["name"]] for x in arguments])
        after = {
            x["name"]: state[x["name"]] if x["output"] is None else found[x["output"]]
            for x in arguments
        }
        return after, dict(zip(metrics, found))

    return step


def finite_or_before(step):
    """Wraps a step: one whose loss or gradient is not finite changes nothing.

    What it returns has a third part, whether the step counted.
    """

    def guarded(state, inputs):
        after, metrics = step(state, inputs)
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["norm"])
        kept = {name: jnp.where(good, after[name], state[name]) for name in state}
        return kept, metrics, good

    return guarded


def draw(key, tiles, extents, count, batch, patch):
    """Draws a batch: uint8 [batch, patch, patch, 3], and qualities [batch], 0 to 1.

    Args:
        key: of `jax.random`.
        tiles: uint8 [n, side, side, 3], of which the first `count` are there.
        extents: int32 [n, 2], how much of each is picture.
        count: int32.
        batch, patch: number of patches, and their side in pixels.
    """
    which, where, flip, level = jax.random.split(key, 4)
    index = jax.random.randint(which, (batch,), 0, count, jnp.int32)
    room = extents[index] - patch + 1
    share = jax.random.uniform(where, (batch, 2), jnp.float32)
    corner = jnp.minimum((share * room).astype(jnp.int32), room - 1)
    flipped = jax.random.bernoulli(flip, 0.5, (batch,))

    def crop(index, corner, flipped):
        start = (index, corner[0], corner[1], jnp.int32(0))
        pixels = jax.lax.dynamic_slice(tiles, start, (1, patch, patch, 3))[0]
        return jnp.where(flipped, pixels[:, ::-1], pixels)

    images = jax.vmap(crop)(index, corner, flipped)
    return images, jax.random.uniform(level, (batch,), jnp.float32)


def compiled(program: Program, state, side: int, tf32: bool = False):
    """Compiles a whole step of training, over a chunk of tiles of `side` pixels.

    Returns:
        A function of (state, sums, tiles, extents, count, seed, number, rate) that
        returns the next state and sums, and may use the memory of those it was given.
        `sums` are the metrics summed over the steps that counted, by name, and `good`,
        the number of those; `seed` and `number`, int32, decide the batch.
    """
    batch, patch = program.input_shape("images")[:2]
    step = finite_or_before(function_of(program, tf32))

    def advance(state, sums, tiles, extents, count, seed, number, rate):
        key = jax.random.fold_in(jax.random.key(seed), number)
        picks, noise = jax.random.split(key)
        images, quality = draw(picks, tiles, extents, count, batch, patch)
        seed = jax.random.randint(noise, (2,), 0, 2**31 - 1, jnp.int32)
        inputs = {
            "images": images, "quality": quality, "seed": seed, "learning_rate": rate,
        }  # fmt: skip
        state, metrics, good = step(state, inputs)
        metrics = {**metrics, "good": jnp.float32(1)}
        sums = {k: sums[k] + jnp.where(good, v, 0) for k, v in metrics.items()}
        return state, sums

    def shape(dims, dtype):
        return jax.ShapeDtypeStruct(dims, dtype)

    number, rate = shape((), jnp.int32), shape((), jnp.float32)
    return (
        jax.jit(advance, donate_argnums=(0, 1))
        .lower(
            {name: shape(x.shape, x.dtype) for name, x in state.items()},
            no_sums(program),
            shape((CHUNK, side, side, 3), jnp.uint8),
            shape((CHUNK, 2), jnp.int32),
            number, number, number, rate,
        )
        .compile()
    )  # fmt: skip


def no_sums(program: Program) -> dict:
    return {name: jnp.float32(0) for name in [*program.manifest["metrics"], "good"]}


@functools.partial(jax.jit, donate_argnums=(0,))
def _put(array, part, at):
    return jax.lax.dynamic_update_slice_in_dim(array, part, at, 0)


class Chunks:
    """Tiles on the device: arrays of `CHUNK` tiles, the oldest overwritten when full.

    Args:
        side: of a tile, in pixels.
        most: how many arrays there may be.
        seed: of the random choice of the array that a batch is drawn from.
    """

    def __init__(self, side: int, most: int, seed: int = 0):
        self.side, self.most = side, most
        self.chunks, self.filled, self.at = [], [], 0
        self.random = np.random.default_rng(seed)

    def put(self, tiles, extents) -> None:
        """Takes in a block: `BLOCK` tiles and their extents."""
        number, offset = divmod(self.at, CHUNK)
        if number == len(self.chunks):
            pixels = jnp.zeros((CHUNK, self.side, self.side, 3), jnp.uint8)
            self.chunks.append((pixels, jnp.zeros((CHUNK, 2), jnp.int32)))
            self.filled.append(0)
        pair = zip(self.chunks[number], (tiles, extents))
        at = jnp.int32(offset)
        self.chunks[number] = tuple(_put(array, part, at) for array, part in pair)
        self.filled[number] = max(self.filled[number], offset + BLOCK)
        self.at = (self.at + BLOCK) % (self.most * CHUNK)

    def choose(self):
        """Returns (tiles, extents, count) of one array, by chance."""
        share = np.array(self.filled) / sum(self.filled)
        number = self.random.choice(len(self.chunks), p=share)
        return *self.chunks[number], np.int32(self.filled[number])


copied = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
put = jax.device_put
start_trace, stop_trace = jax.profiler.start_trace, jax.profiler.stop_trace


def wait(values) -> None:
    """Returns when the device has computed them."""
    jax.block_until_ready(values)


def name() -> str:
    """What kind of device computes."""
    return jax.devices()[0].device_kind
