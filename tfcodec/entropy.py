"""Coders of latents: what is coded, in which order, under which distribution.

A coder has one walk over its latents in coding order.  The walk is handed an action,
`Estimate`, `Write` or `Read`, that says what coding means; so the rate that training
minimises, the bytes of a file, and what is read back cannot drift apart.

Whatever is computed from the coded integers to find the next table index is an integer
that float32 holds exactly; decoded latents are in units of 1/16 (2**-MEAN_BITS).
Rows 0..channels-1 of the tables are the channels of the factorised prior, the rows
after those the normal distributions, by standard deviation.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from tfcodec import rans
from tfcodec.constants import (
    ACTIVATION_MAX,
    CONTEXT_BITS,
    CROSS,
    LATENT_MAX,
    MEAN_BITS,
    PYRAMID,
    SKIPPED,
    UNIT,
    Z_MAX,
)
from tfcodec.densities import (
    BINS,
    CHOICE_BITS,
    TAIL_MASS,
    Density,
    finite,
    fitted,
    fitted_quantiser,
    flat_int,
    normal_bits,
    normal_histogram,
    normal_quantiser,
    normal_rows,
    rounded,
    rows_of,
    sum_bits,
    uniform_noise,
)
from tfcodec.layers import (
    ACTIVATION_BITS,
    ExactConv,
    both_halves,
    half_of_board,
    straight_through,
)
from tfcodec.tracing import traced
from tfcodec.transforms import TwoPassNet


class Estimate:
    """The action that codes nothing: it estimates the bits of each image, `bits` [b].

    With seeds, as in training, bits are those of latents plus uniform noise, while the
    latents returned are rounded, with straight-through gradients (mixed quantisation:
    Minnen, Singh 2020, arXiv:2007.08739).  Without seeds both are what `Write` codes;
    the gradient of the bits then also includes how each latent changes the predicted
    distributions of later ones.
    """

    def __init__(self, coder, side, slices, quantiser=None, seeds=None):
        self.coder, self.side_values, self.slices = coder, side, slices
        self.quantiser, self.seeds, self.bits = quantiser, seeds, 0.0

    def side(self):
        """Codes the side latents; returns them as decoded, integers."""
        z = self.side_values
        whole = rounded(z, self.coder.limit)
        coded = whole if self.seeds is None else z + uniform_noise(z, self.seeds, 0)
        decoded = straight_through(whole, z)
        nats = self.coder.prior.log_prob(self.coder.residuals(coded, decoded))
        self.bits += sum_bits(nats / -math.log(2))
        return decoded

    def slice(self, k, index, mean, where=1.0):
        """Codes slice k, where `where` is 1; returns it as decoded, in sixteenths."""
        y = self.slices[k]
        residual = y - mean / UNIT
        coded = tf.cast(index > SKIPPED, tf.float32) * where
        if self.seeds is None:
            whole = self.quantiser.quantise(residual, index) * coded
            bits = self.quantiser.bits(whole, index)
            others = straight_through(whole, tf.stop_gradient(y) - mean / UNIT)
            bits = straight_through(bits, normal_bits(others, index))
            self.bits += sum_bits(bits * coded)
        else:
            # Plain rounding: models trained with the encoder's quantiser were worse.
            whole = rounded(residual, LATENT_MAX) * coded
            noisy = residual + uniform_noise(residual, self.seeds, 1 + k)
            self.bits += sum_bits(normal_bits(noisy, index) * where)
        return straight_through(whole * UNIT + mean, y * UNIT)


class Record(Estimate):
    """An `Estimate` that also counts residuals, for the histograms of a quantiser."""

    counts = 0.0  # before the first slice

    def slice(self, k, index, mean, where=1.0):
        residual = tf.abs(self.slices[k] - mean / UNIT)
        column = tf.minimum(residual * BINS, float(normal_histogram().shape[1] - 1))
        coded = tf.cast(index > SKIPPED, tf.float32) * where
        row = tf.cast(index, tf.int32) * normal_histogram().shape[1]
        cells = tf.boolean_mask(row + tf.cast(column, tf.int32), coded > 0)
        counts = tf.math.bincount(
            cells, minlength=normal_histogram().size, dtype=tf.float32
        )
        self.counts += counts
        return super().slice(k, index, mean, where)


class Write:
    """The action that writes one image's latents [1, h, w, c] to a `rans.Writer`."""

    def __init__(self, coder, writer, side, slices, quantiser=None):
        self.coder, self.writer = coder, writer
        self.side_values, self.slices, self.quantiser = side, slices, quantiser

    def side(self):
        z = rounded(finite(self.side_values), self.coder.limit)
        residuals = flat_int(self.coder.residuals(z, z))
        self.writer.write(self.coder.side_rows(tf.shape(z)), residuals)
        return z

    def slice(self, k, index, mean, where=1.0):
        residual = finite(self.slices[k]) - mean / UNIT
        residual = self.quantiser.quantise(residual, index)
        coded = index * where > SKIPPED
        rows = self.coder.scale_rows(tf.boolean_mask(index, coded))
        self.writer.write(rows, flat_int(tf.boolean_mask(residual, coded)))
        return tf.where(coded, residual, 0.0) * UNIT + mean


class Read:
    """The action that reads what `Write` wrote; `shape` [4] is of the side latents."""

    def __init__(self, coder, reader, shape):
        self.coder, self.reader, self.shape = coder, reader, shape

    def side(self):
        z = self.reader.read(self.coder.side_rows(self.shape))
        z = self.coder.restored(tf.reshape(tf.cast(z, tf.float32), self.shape))
        return tf.clip_by_value(z, -self.coder.limit, self.coder.limit)

    def slice(self, k, index, mean, where=1.0):
        coded = tf.where(index * where > SKIPPED)
        values = self.reader.read(self.coder.scale_rows(tf.gather_nd(index, coded)))
        values = tf.clip_by_value(values, -LATENT_MAX, LATENT_MAX)
        residual = tf.scatter_nd(coded, values, tf.shape(index, tf.int64))
        return tf.cast(residual, tf.float32) * UNIT + mean


class Coder(tf.keras.layers.Layer):
    """Base of the coders: rate, write and read, each an action on the one walk.

    A subclass gives `encoder_inputs`, `walk`, `side_coder` and `table_rows`.
    """

    stride = 1  # latents y per side latent, in each dimension
    quantiser = None  # of normally distributed latents
    predicted = 0  # how many channels, the first ones, neighbours predict

    def refine(self, y, known, quantiser):
        """Turns what `walk` returned into y_hat [b, h, w, c], for the synthesis."""
        return y / UNIT

    def call(self, y, seeds=None):
        """Returns (y_hat, bits [b]) of y [b, h, w, c]; with `seeds`, as in training."""
        quantiser = self.quantiser if seeds is None else normal_quantiser()
        inputs = self.encoder_inputs(y)
        action = Estimate(self.side_coder, *inputs, quantiser, seeds)
        y_hat = self.refine(*self.walk(action), quantiser)
        return y_hat, action.bits

    def exact_networks(self):
        """Returns the networks that decoding runs: lists of `ExactConv`, by name."""
        return {}

    def calibrate(self, latents):
        """Fits tables and quantiser to an iterable of y [b, h, w, channels]."""

    def compress(self, y, tables):
        """Codes y [1, h, w, c] with `rans.Tables`: (string, y in sixteenths, y_hat)."""
        writer = rans.Writer(tables)
        inputs = self.encoder_inputs(y)
        y, known = self.walk(Write(self.side_coder, writer, *inputs, self.quantiser))
        return writer.finish(), y, self.refine(y, known, self.quantiser)

    def decompress(self, string, height, width, tables):
        """Returns (y in sixteenths, y_hat, whether the string was intact, bool []).

        Height and width are those of y, in latents.
        """
        reader = rans.Reader(tables, string)
        side = self.side_coder
        shape = [1, height // self.stride, width // self.stride, side.channels]
        y, known = self.walk(Read(side, reader, tf.stack(shape)))
        return y, self.refine(y, known, self.quantiser), reader.finish()


class Factorized(Coder):
    """A learned distribution per channel: the whole coder, or the side part of one.

    Balle, Laparra, Simoncelli 2017, arXiv:1611.01704, with the densities of Balle et
    al. 2018, arXiv:1802.01436, section 6.1.
    """

    def __init__(self, channels: int, limit: int = LATENT_MAX, **kwargs):
        super().__init__(dtype=tf.float32, **kwargs)
        self.channels, self.limit = channels, limit
        self.prior = Density(batch_shape=[channels])

    @property
    def side_coder(self):
        return self

    def encoder_inputs(self, y):
        """Returns the side latents, and a list of the latents of each further pass."""
        return y, []

    def walk(self, code):
        """Visits all latents; returns y in sixteenths, and what `refine` needs."""
        return code.side() * UNIT, None

    def residuals(self, z, decoded):
        """Returns z minus its prediction from `decoded` latents; here there is none."""
        return z

    def restored(self, residuals):
        """The inverse of `residuals`, for integers."""
        return residuals

    def side_rows(self, shape):
        """Rows of the tables, one per channel, for latents of `shape`, flat."""
        return tf.reshape(tf.broadcast_to(tf.range(self.channels), shape), [-1])

    def scale_rows(self, index):
        """Rows of the tables for the normal distributions of `index`."""
        return tf.cast(index, tf.int32) + self.channels

    def table_rows(self):
        """Returns the quantised tables, as `rans.Tables.from_rows` takes them."""
        model = tfc.ContinuousBatchedEntropyModel(
            self.prior, coding_rank=3, compression=True, tail_mass=TAIL_MASS,
            offset_heuristic=False,
        )  # fmt: skip
        return rows_of(model)


class Predicted(Factorized):
    """A factorised prior whose first channels are predicted from neighbours.

    The guess of a latent of the first `predicted` channels is left + above - above left
    of those decoded, zero beyond the edges (predictor 4 of lossless JPEG, ITU-T T.81,
    table H.1); the prior is of the difference. All are integers, so results are the
    same on every machine; and the inverse is two cumulative sums, over rows and
    columns, without a loop over latents.
    """

    def __init__(self, channels: int, predicted: int, **kwargs):
        # A residual is a sum of four latents; so it stays within LATENT_MAX.
        super().__init__(channels, LATENT_MAX // 4, **kwargs)
        self.predicted = predicted

    def residuals(self, z, decoded):
        known = tf.pad(decoded[..., : self.predicted], [[0, 0], [1, 0], [1, 0], [0, 0]])
        guess = known[:, 1:, :-1] + known[:, :-1, 1:] - known[:, :-1, :-1]
        own, rest = z[..., : self.predicted], z[..., self.predicted :]
        return tf.concat([own - guess, rest], -1)

    def restored(self, residuals):
        own, rest = residuals[..., : self.predicted], residuals[..., self.predicted :]
        # In int32, so that even a forged file has the same sums on every machine.
        sums = tf.cumsum(tf.cumsum(tf.cast(own, tf.int32), 1), 2)
        return tf.concat([tf.cast(sums, tf.float32), rest], -1)


class Conditional(Coder):
    """Codes y slice by slice; z and the slices before give each slice's distribution.

    One slice and no means: the scale hyperprior of Balle et al. 2018, arXiv:1802.01436.
    With means: Minnen, Balle, Toderici 2018, arXiv:1809.02736. Several slices: Minnen,
    Singh 2020, arXiv:2007.08739.

    With `pyramid_nets` the first slice, of the lowest frequencies, is coded from coarse
    to fine, as in interlaced lossless coders: first one latent of each 4x4, then each
    other latent once four neighbours are known, which predict it.  (Given the
    hyperprior alone, neighbours in this slice have a correlation of 0.7.)

    A slice whose network is a `TwoPassNet` is coded in two passes, as on a
    checkerboard: first the latents whose row plus column is even.

    Args:
        hyper_analysis, hyper_synthesis: networks; the second an exact one.
        z_channels: channels of z.
        slices: channels of each slice of y.
        slice_nets: per slice an exact network, or a `TwoPassNet`, from features and
            earlier slices to (index, mean).
        residual_nets: float networks of the latent residual prediction, or none.
        support: how many earlier slices a network sees at most.
        magnitudes: whether the hyper analysis sees |y| (scale hyperprior).
        pyramid_nets: none, or one for each step of `PYRAMID`, from features and
            differences to neighbours to (index, what to add to the neighbours' mean).
    """

    stride = 4

    def __init__(
        self, hyper_analysis, hyper_synthesis, z_channels, slices, slice_nets,
        residual_nets=(), support=None, magnitudes=False, pyramid_nets=(), **kwargs,
    ):  # fmt: skip
        super().__init__(dtype=tf.float32, **kwargs)
        self.z_coder = Factorized(z_channels, Z_MAX, name="z")
        self.hyper_analysis = hyper_analysis
        self.hyper_synthesis = hyper_synthesis
        self.slices = tuple(slices)
        self.slice_nets = list(slice_nets)
        self.residual_nets = list(residual_nets)
        self.pyramid_nets = list(pyramid_nets)
        self.support = len(self.slices) if support is None else support
        self.magnitudes = magnitudes
        self.quantiser = normal_quantiser(CHOICE_BITS)

    @property
    def side_coder(self):
        return self.z_coder

    def exact_networks(self):
        networks = {"hyper_synthesis": exact_layers(self.hyper_synthesis)}
        for k, net in enumerate(self.slice_nets):
            if isinstance(net, TwoPassNet):
                first, second = net.passes()
                networks |= {f"slice/{k}/first": first, f"slice/{k}/second": second}
            else:
                networks[f"slice/{k}"] = exact_layers(net)
        steps = enumerate(self.pyramid_nets)
        return networks | {f"step/{k}": exact_layers(net) for k, net in steps}

    def encoder_inputs(self, y):
        z = self.hyper_analysis(tf.abs(y) if self.magnitudes else y)
        parts = []
        for net, own in zip(self.slice_nets, tf.split(y, self.slices, -1)):
            if isinstance(net, TwoPassNet):
                parts += [half_of_board(own, odd) for odd in (False, True)]
            else:
                parts.append(own)
        return tf.cast(z, tf.float32), parts

    def walk(self, code):
        features = self.hyper_synthesis(code.side())
        done, contexts, number = [], [], 0
        for k, net in enumerate(self.slice_nets):
            seen = tf.concat([features, *contexts[: self.support]], -1)
            if isinstance(net, TwoPassNet):
                y, index, mean = self.two_passes(code, number, k, net, seen)
                contexts.append(exact_context(y))
                number += 2
            else:
                index, mean = self.parameters(net(seen), k)
                if k == 0 and self.pyramid_nets:
                    y, index, mean = self.pyramid(code, features, index, mean)
                    contexts.append(differences(y, y, 1, CROSS))
                else:
                    y = code.slice(number, index, mean)
                    contexts.append(exact_context(y))
                number += 1
            done.append((y, index, mean))
        y, index, mean = (tf.concat(parts, -1) for parts in zip(*done))
        return y, (features, index, mean)

    def parameters(self, output, k):
        """Takes a network's output apart: (table index, mean in sixteenths)."""
        if output.shape[-1] == self.slices[k]:
            return output, tf.zeros_like(output)
        return tf.split(output, 2, -1)

    def two_passes(self, code, number, k, net, seen):
        """Codes slice k as passes `number` and the next; returns (y, index, mean)."""
        output, sums = net(seen)
        index, mean = self.parameters(output, k)
        first = code.slice(number, index, mean), index, mean
        index, mean = self.parameters(net(seen, exact_context(first[0]), sums), k)
        second = code.slice(number + 1, index, mean), index, mean
        return [both_halves(even, odd) for even, odd in zip(first, second)]

    def pyramid(self, code, features, index, mean):
        """Codes slice 0 from coarse to fine; returns (y, index, mean).

        `index` and `mean` are used for the coarsest latents only.
        """
        rows, columns = (tf.range(n)[:, None] for n in tf.unstack(tf.shape(mean)[1:3]))
        columns = tf.transpose(columns)
        where = lattice((rows % 4 == 0) & (columns % 4 == 0))
        y = code.slice(0, index, mean, where) * where
        index, mean = index * where, mean * where
        for net, (distance, around) in zip(self.pyramid_nets, PYRAMID):
            odd = [x % (2 * distance) == distance for x in (rows, columns)]
            if around is CROSS:
                grid = (rows % distance == 0) & (columns % distance == 0)
                where = lattice(grid & (odd[0] ^ odd[1]))
            else:
                where = lattice(odd[0] & odd[1])
            guess = neighbour_mean(y, distance, around)
            seen = differences(y, guess, distance, around)
            own, more = self.parameters(net(tf.concat([features, seen], -1)), 0)
            own_mean = guess + more
            y += code.slice(0, own, own_mean, where) * where
            index += own * where
            mean += own_mean * where
        return y, index, mean

    def refine(self, y, known, quantiser):
        features, index, mean = known
        whole = tf.stop_gradient((y - mean) / UNIT)
        y_hat = y / UNIT + (quantiser.dequantise(whole, index) - whole)
        if not self.residual_nets:
            return y_hat
        features /= 2.0**ACTIVATION_BITS
        slices = tf.split(y_hat, self.slices, -1)
        refined = []
        for k, (net, own) in enumerate(zip(self.residual_nets, slices)):
            support = [features, *slices[: min(k, self.support)], own]
            refined.append(own + 0.5 * tf.cast(net(tf.concat(support, -1)), tf.float32))
        return tf.concat(refined, -1)

    def calibrate(self, latents):
        @traced(reduce_retracing=True)
        def record(y):
            action = Record(self.side_coder, *self.encoder_inputs(y), self.quantiser)
            self.walk(action)
            return action.counts

        normal = normal_histogram()
        counts = sum((record(y).numpy().astype(np.float64) for y in latents), 0.0)
        # The normal distributions are added, each with the weight of 200 latents.
        histogram = np.reshape(counts, normal.shape) + 200 * normal
        self.quantiser = fitted_quantiser(histogram, CHOICE_BITS)

    def table_rows(self):
        rows = zip(normal_rows(), self.quantiser.share)
        return self.z_coder.table_rows() + [
            (fitted(frequency, offset, share), offset)
            for (frequency, offset), share in rows
        ]


def exact_layers(network):
    """Returns the exact convolutions of a network: a single one, or a stack."""
    layers = getattr(network, "layers", [network])
    return [layer for layer in layers if isinstance(layer, ExactConv)]


def lattice(mask):
    """[h, w] boolean to [1, h, w, 1] of ones and zeros."""
    return tf.cast(mask, tf.float32)[None, :, :, None]


def neighbours(value, distance, around):
    """The four neighbours of each latent [b, h, w, c], zero beyond the edges."""
    d = distance
    padded = tf.pad(value, [[0, 0], [d, d], [d, d], [0, 0]])
    size = tf.shape(value)
    return [tf.slice(padded, [0, d + d * i, d + d * j, 0], size) for i, j in around]


def neighbour_mean(y, distance, around):
    """Mean of the neighbours inside the image, rounded down to an integer."""
    inside = tf.add_n(neighbours(tf.ones_like(y[:1, :, :, :1]), distance, around))
    total = tf.add_n(neighbours(y, distance, around))
    # In int32, as a float32 quotient may differ between machines.
    whole = tf.cast(total, tf.int32) // tf.cast(tf.maximum(inside, 1), tf.int32)
    return straight_through(tf.cast(whole, tf.float32), total / tf.maximum(inside, 1))


def differences(y, centre, distance, around):
    """Contexts: the four neighbours minus `centre`, [b, h, w, 4c]."""
    inside = neighbours(tf.ones_like(y[:1, :, :, :1]), distance, around)
    values = neighbours(y, distance, around)
    return exact_context(
        tf.concat([(v - centre) * i for v, i in zip(values, inside)], -1)
    )


def exact_context(y):
    """Latents, in sixteenths, to the input of an exact network: in eighths, clipped."""
    coarse = y * 2.0 ** (CONTEXT_BITS - MEAN_BITS)
    whole = tf.clip_by_value(tf.floor(coarse), -ACTIVATION_MAX, ACTIVATION_MAX)
    inside = tfc.lower_bound(coarse, -float(ACTIVATION_MAX))
    return straight_through(whole, tfc.upper_bound(inside, float(ACTIVATION_MAX)))
