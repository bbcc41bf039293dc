"""The model: analysis, coder, synthesis; its loss, and its graphs for export."""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf

from tfcodec import losses, newton
from tfcodec.array_functions import of_tensorflow
from tfcodec.layers import ExactConv, QualityGain
from tfcodec.tracing import as_written, traced

# Networks see pixels as (x - CENTRE) / SCALE, in -5..5: so latents are large against
# the rounding from the start, and training need not learn that first.
CENTRE, SCALE = 127.5, 25.5
# At this lambda the best quantisation step of latents is about 1, so their gain is 1.
UNIT_LMBDA = 0.01
# Side, in latents, of the inputs on which the reach of networks is measured.
REACH_SIDE = 33


class CompressionModel(tf.keras.Model):
    """Analysis, coder and synthesis; `call` adds the rate-distortion loss.

    A model trained over a range of lambda multiplies its latents by gains that depend
    on the quality. The coder sees latents after the gain, so that no other part needs
    to know the quality.

    Args:
        analysis: images [b, h, w, 3] to y.
        coder: `entropy.Factorized` or `entropy.Conditional`.
        synthesis: y_hat to images.
        channels: channels of y.
        stride: in pixels; height and width must be multiples of it.
        lmbda: (lowest, highest) weight of the distortion; equal for a model of one
            rate.
        anchors: number of qualities at which the gains are learned; between these they
            are interpolated.

    Attributes:
        distortion: the `losses.Distortion` that training minimises; squared error
            unless another is set before any method is traced to a graph.
        sparsity: None, or in training the bits that each unit of a latent's magnitude
            after the gain costs in addition to its rate (an L1 penalty). As latents are
            rounded, training cannot avoid it by scaling latents down and the synthesis
            up.
        lowered: by how many anchors the gains of quality 0 lie below the lowest lambda:
            see `layers.QualityGain.extrapolate`. Between quality 0 and the next anchor
            lambda falls as they do.
    """

    distortion = losses.Distortion()
    sparsity: float | None = None
    lowered = 0.0

    def __init__(
        self, analysis, coder, synthesis, *, channels, stride, lmbda, anchors=8
    ):
        super().__init__(autocast=False)  # Quality and seeds keep their types.
        self.analysis, self.coder, self.synthesis = analysis, coder, synthesis
        self.channels, self.stride, self.lmbda = channels, stride, lmbda
        self.variable_rate = lmbda[0] != lmbda[1]
        if self.variable_rate:
            span = math.log(lmbda[1] / lmbda[0])
            start = 0.5 * math.log(lmbda[0] / UNIT_LMBDA)
            self.gain, self.inverse_gain = (
                QualityGain(channels, span, start, inverse, anchors)
                for inverse in (False, True)
            )

    def lmbda_at(self, quality):
        """Lambda at a quality, 0 to 1, of any shape.

        It grows exponentially, and below the second anchor faster if gains are lowered.
        """
        low, high = self.lmbda
        steps = self.gain.anchors - 1 if self.lowered else 1
        lowered = tf.nn.relu(1 - quality * steps) * self.lowered / steps
        return low * tf.exp((quality - lowered) * math.log(high / low))

    def lower(self, anchors: float) -> None:
        """Lets quality 0 reach so many anchors further below the rates trained for."""
        for gain in (self.gain, self.inverse_gain):
            gain.extrapolate(anchors)
        self.lowered += anchors * (1 + self.lowered)

    def scaled_latents(self, y, quality):
        """y [b, h, w, channels] times the gains of quality [b], both float32."""
        return self.gain(y, quality) if self.variable_rate else y

    def unscaled_latents(self, y_hat, quality):
        """About the inverse of `scaled_latents`: its gains are learned separately."""
        return self.inverse_gain(y_hat, quality) if self.variable_rate else y_hat

    def analyse(self, x):
        """Pixels [b, h, w, 3], 0 to 255, to latents before the gain, float32."""
        x = (tf.cast(x, tf.float32) - CENTRE) / SCALE
        return tf.cast(self.analysis(x), tf.float32)

    def synthesise(self, y_hat, quality):
        """y_hat [b, h, w, channels] to pixels [b, h, w, 3], float32, not clipped."""
        y_hat = self.unscaled_latents(y_hat, quality)
        return tf.cast(self.synthesis(y_hat), tf.float32) * SCALE + CENTRE

    def outcome(self, inputs, training=False) -> dict:
        """Runs the model on `call`'s inputs; returns results by name.

        `x_hat` [b, h, w, 3]; for each image, [b], `bpp`, `distortion` and `cost`, whose
        mean training minimises; with a sparsity also `zeros`, the share of its latents
        that are coded as zero.
        """
        x = tf.cast(inputs["image"], tf.float32)
        quality = inputs["quality"]
        y = self.scaled_latents(self.analyse(x), quality)
        y_hat, bits = self.coder(y, seeds=inputs["seed"] if training else None)
        x_hat = self.synthesise(y_hat, quality)
        pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        bpp, distortion = bits / pixels, self.distortion(x, x_hat)
        found = {"x_hat": x_hat, "bpp": bpp, "distortion": distortion}
        rate = bpp
        if self.sparsity is not None:
            magnitude = tf.reduce_sum(tf.abs(y), [1, 2, 3]) / pixels
            rate += self.sparsity * magnitude
            zeros = tf.cast(tf.equal(y_hat, 0.0), tf.float32)
            found["zeros"] = tf.reduce_mean(zeros, [1, 2, 3])
        return {**found, "cost": self.cost(rate, distortion, quality)}

    def cost(self, bpp, distortion, quality):
        """Combines rate and distortion to the cost [b]; all arguments are [b].

        Over a range of lambda, rate + lambda * distortion grows about as sqrt(lambda),
        so that high qualities would dominate the gradient: it is divided by that.
        """
        lmbda = self.lmbda_at(quality)
        cost = bpp + lmbda * distortion
        return cost / tf.sqrt(lmbda) if self.variable_rate else cost

    @as_written
    def train_step(self, data):
        return super().train_step(data)

    def call(self, inputs, training=False):
        """Returns x_hat [b, h, w, 3]; adds loss and metrics.

        Args:
            inputs: dict of `image`, uint8 [b, h, w, 3]; `quality`, float32 [b], 0 to 1;
                in training also `seed`, int32 [b, 2], or [2] for the whole batch.
            training: whether the rate is that of latents with noise, not rounded ones.
        """
        found = self.outcome(inputs, training)
        x_hat = found["x_hat"]
        self.add_loss(tf.reduce_mean(found["cost"]))
        mse = losses.mse(tf.cast(inputs["image"], tf.float32), x_hat)
        self.add_metric(found["bpp"], name="bpp")
        self.add_metric(losses.psnr(mse), name="psnr")
        self.add_metric(found["distortion"], name="distortion")
        if "zeros" in found:
            self.add_metric(found["zeros"], name="zeros")
        return x_hat

    def improve(self, x, y, quality, damping):
        """Takes a Newton step of the latents of images towards the least cost.

        The cost is bits + lambda * distortion * pixels, with the distortion that the
        model is trained for: see `newton`. The step is damped, as the rounding makes
        the cost rough and latents change each other's slopes.

        Args:
            x: pixels [b, h, w, 3], 0 to 255.
            y: latents before the gain, from `analyse` or a previous call.
            quality: [b], 0 to 1.
            damping: the part of a whole step to take, as `compression.damping` says.

        Returns:
            (y after the step, usually of lower cost; cost [b], in bits, of the y that
            was given).
        """
        y_gained = self.scaled_latents(y, quality)
        pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        y_hat, bits = self.coder(y_gained)
        with tf.GradientTape() as tape:
            tape.watch(y_hat)
            x_hat = self.synthesise(y_hat, quality)
            distortion = self.distortion(tf.cast(x, tf.float32), x_hat)
            error = distortion * pixels * self.lmbda_at(quality)
        slope = tape.gradient(error, y_hat)
        target = newton.target(of_tensorflow(), y_gained, y_hat, slope)
        gain = self.scaled_latents(tf.ones_like(y), quality)
        return y + damping * (target / gain - y), bits + error

    def calibrate(self, batches):
        """Fits the coder's tables and quantiser to batches of `call`'s inputs."""

        @traced(reduce_retracing=True)
        def latents(inputs):
            return self.scaled_latents(self.analyse(inputs["image"]), inputs["quality"])

        self.coder.calibrate(latents(inputs) for inputs in batches)

    def initialise(self):
        """Makes every variable, by one small forward pass."""
        for network in self.submodules:
            if isinstance(network, tf.keras.Sequential):
                # Otherwise Keras would build a graph of each network, again for each
                # new input shape, only to infer shapes: more than half of the time that
                # it takes to build a model.
                network._use_legacy_deferred_behavior = network.built = True
        side = self.stride
        self(
            {
                "image": tf.zeros([1, side, side, 3], tf.uint8),
                "quality": tf.zeros([1]),
                "seed": tf.zeros([1, 2], tf.int32),
            }
        )
        return self

    def exact_layers(self):
        """Returns all exact convolutions of the model."""
        return [x for x in self.submodules if isinstance(x, ExactConv)]

    def graphs(self, tables):
        """The functions of an exported model, each for one image, by name.

        Each is a pair (function, TensorSpecs of its arguments).  `analysis` (image to
        y) and `synthesis` (y_hat, quality to image) are ordinary floating point.
        `encode` (y, quality to string, y in sixteenths, y_hat) and `decode` (string,
        size to y, y_hat, sound) are exact integer arithmetic and run on the CPU, as a
        GPU's convolutions may use algorithms that round (such as Winograd's).
        `improve` is one step of the method of that name.
        """

        def analysis(image):
            return {"y": self.analyse(image[None])}

        def encode(y, quality):
            with tf.device("/CPU:0"):
                y = self.scaled_latents(y, quality[None])
                string, y, y_hat = self.coder.compress(y, tables)
            return {"string": string, "y": tf.cast(y, tf.int32), "y_hat": y_hat}

        def decode(string, size):
            with tf.device("/CPU:0"):
                y, y_hat, sound = self.coder.decompress(
                    string, size[0] // self.latent_stride, 
                    size[1] // self.latent_stride, tables,
                )  # fmt: skip
            return {"y": tf.cast(y, tf.int32), "y_hat": y_hat, "sound": sound}

        def improve(image, y, quality, damping):
            y, cost = self.improve(image[None], y, quality[None], damping)
            return {"y": y, "cost": cost[0]}

        def synthesis(y_hat, quality):
            return {"image": whole_levels(self.synthesise(y_hat, quality[None])[0])}

        specs = self.argument_specs()
        return {
            "analysis": (analysis, [specs["image"]]),
            "encode": (encode, [specs["y"], specs["quality"]]),
            "decode": (decode, [specs["string"], specs["size"]]),
            "improve": (
                improve,
                [specs[name] for name in ("image", "y", "quality", "damping")],
            ),
            "synthesis": (synthesis, [specs["y_hat"], specs["quality"]]),
        }

    def argument_specs(self) -> dict[str, tf.TensorSpec]:
        """Shape and type of each argument of `graphs`, by its name."""
        latents = [1, None, None, self.channels]
        shapes = {
            "image": ([None, None, 3], tf.uint8),
            "y": (latents, tf.float32),
            "y_hat": (latents, tf.float32),
            "quality": ([], tf.float32),  # 0 to 1
            "damping": ([], tf.float32),
            "string": ([], tf.string),
            "size": ([2], tf.int32),  # height and width in pixels
        }
        return {name: tf.TensorSpec(*of, name) for name, of in shapes.items()}

    @property
    def latent_stride(self):
        """Pixels per latent y, in each dimension."""
        return self.stride // self.coder.stride

    def reach(self):
        """How far away inputs affect outputs, in latents, of analysis and synthesis.

        Measured on random inputs of `REACH_SIDE` latents a side: see `farthest`.
        """
        side, stride = REACH_SIDE, self.latent_stride
        random = np.random.default_rng(0)
        image = random.uniform(0, 255, [side * stride, side * stride, 3])
        half = np.full([1], 0.5, np.float32)
        y = random.normal(0, 3, [side, side, self.channels])
        return {
            "analysis": farthest(lambda x: self.analyse(x).numpy(), image, stride),
            "synthesis": farthest(lambda x: self.synthesise(x, half).numpy(), y),
        }

    def kmac_per_pixel(self):
        """Thousands of multiply-adds per pixel of each part, counted in its graph."""
        return dict(self._counted)

    @functools.cached_property  # as tracing the parts takes seconds
    def _counted(self):
        side = 256
        latents = [1, side // self.latent_stride, side // self.latent_stride]
        y = tf.TensorSpec([*latents, self.channels])
        parts = {
            "analysis": (self.analyse, tf.TensorSpec([1, side, side, 3])),
            "synthesis": (self.synthesis, y),
            "coder": (lambda y: self.coder(y)[0], y),
        }
        if hasattr(self.coder, "hyper_analysis"):
            parts["of which hyper analysis"] = (self.coder.hyper_analysis, y)
        return {
            name: round(multiply_adds(function, spec) / side**2 / 1000, 2)
            for name, (function, spec) in parts.items()
        }


def farthest(function, value, size=1):
    """Measures how far an input of a network affects its outputs, in latents.

    The latent in the centre, or the pixels there, are set to zero; an output counts as
    affected if it changes by more than a thousandth of the largest change.

    Args:
        function: the network, for a batch of one.
        value: its input [side, side, channels], of an odd number of latents a side.
        size: positions of `value` per latent, in each dimension.
    """
    side = value.shape[0] // size
    middle, changed = side // 2, value.copy()
    changed[middle * size : (middle + 1) * size][
        :, middle * size : (middle + 1) * size
    ] = 0
    pair = [function(x[None].astype(np.float32)) for x in (value, changed)]
    change = np.abs(pair[0] - pair[1])[0].max(-1)
    rows, columns = np.nonzero(change > 1e-3 * change.max())
    # In latents, even if the outputs are pixels.
    cells = [x * side // pair[0].shape[1] for x in (rows, columns)]
    return int(max(np.abs(x - middle).max(initial=0) for x in cells))


def whole_levels(x):
    """Rounds and clips float32 pixels to uint8."""
    return tf.cast(tf.clip_by_value(tf.round(x), 0, 255), tf.uint8)


def multiply_adds(function, spec) -> int:
    """Multiply-adds of the convolutions and matrix products in a function's graph."""
    graph = traced(function).get_concrete_function(spec).graph
    total = 0
    for op in graph.get_operations():
        if op.type == "Conv2D":
            total += np.prod(op.outputs[0].shape) * np.prod(op.inputs[1].shape[:3])
        elif op.type == "DepthwiseConv2dNative":
            total += np.prod(op.outputs[0].shape) * np.prod(op.inputs[1].shape[:2])
        elif op.type == "Conv2DBackpropInput":
            total += np.prod(op.inputs[2].shape) * np.prod(op.inputs[1].shape[:3])
        elif op.type == "MatMul":
            total += np.prod(op.outputs[0].shape) * op.inputs[0].shape[1]
    return int(total)
