"""The entropy coder of an exported model in NumPy: latents to a string, and back.

docs/format.md, "Segments", says what is coded, in which order, and under which
distribution; `entropy` has the same in TensorFlow, with what training needs. As there,
one walk over the latents is handed an action, `Write` or `Read`, that says what coding
means.

Arrays are [rows, columns, channels]; latents are in units of 1/16. Whatever is computed
from the decoded integers to find the distribution of the next latent is an integer that
float32 holds exactly: no sum in an exact network reaches 2**24, whatever the order of
the additions. So all machines decode alike.
"""

from __future__ import annotations

import numpy as np

from tfcodec import blas, lanes
from tfcodec.constants import (
    ACTIVATION_MAX,
    BESIDE,
    CONTEXT_BITS,
    CROSS,
    LATENT_MAX,
    LEVELS,
    MEAN_BITS,
    PYRAMID,
    SKIPPED,
    UNIT,
    Z_MAX,
)
from tfcodec.exact_layers import Layer, exact_dtype


def depth_to_space(x):
    """[h, w, 4c] to [2h, 2w, c], as `tf.nn.depth_to_space` with blocks of 2."""
    height, width, channels = x.shape
    x = x.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return x.reshape(2 * height, 2 * width, channels // 4)


def context(y):
    """Latents, in sixteenths, to the input of an exact network: in eighths, clipped."""
    coarse = y * y.dtype.type(2.0 ** (CONTEXT_BITS - MEAN_BITS))
    return np.clip(np.floor(coarse), -ACTIVATION_MAX, ACTIVATION_MAX)


def half_of_board(x, odd: bool):
    """Takes the positions whose row plus column is even, or odd.

    [h, w, c], h and w even, to [h, w / 2, c].
    """
    half = np.empty((x.shape[0], x.shape[1] // 2, x.shape[2]), x.dtype)
    half[::2], half[1::2] = x[::2, int(odd) :: 2], x[1::2, 1 - odd :: 2]
    return half


def both_halves(even, odd):
    """The inverse of `half_of_board`: its even and odd positions to [h, w, c]."""
    height, width, channels = even.shape
    x = np.empty((height, 2 * width, channels), even.dtype)
    x[::2, ::2], x[1::2, 1::2] = even[::2], even[1::2]
    x[::2, 1::2], x[1::2, ::2] = odd[::2], odd[1::2]
    return x


def beside(even):
    """Gathers the four neighbours of each odd position, in the order of `BESIDE`.

    All four are even positions. [h, w / 2, c], the even half of `half_of_board`, to
    [h, w / 2, 4c], at the odd half; zero beyond the edges.
    """
    board = np.pad(both_halves(even, np.zeros_like(even)), ((1, 1), (1, 1), (0, 0)))
    height, width = len(even), 2 * even.shape[1]
    parts = [board[i : i + height, j : j + width] for i, j in BESIDE]
    return np.concatenate([half_of_board(part, True) for part in parts], -1)


def neighbours(y, places, distance, around):
    """Gathers the four neighbours of some latents.

    Args:
        y: latents [h, w, c].
        places: (rows, columns) of n latents.
        distance: to the neighbours, in latents.
        around: `CROSS` or `DIAGONAL`.

    Returns:
        (values [4, n, c], zero beyond the edges; whether each is inside, [4, n, 1]).
    """
    height, width, _ = y.shape
    rows, columns = places
    values, inside = [], []
    for i, j in around:
        row, column = rows + distance * i, columns + distance * j
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        value = y[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        inside.append(there[:, None])
        values.append(value * there[:, None])
    return np.stack(values), np.stack(inside)


class Write:
    """The action that writes latents to a string.

    Args:
        coder: a `Factorized` or `Coder`.
        z: the side latents [h / 4, w / 4, cz]; without a hyperprior y itself.
        parts: the slices of y, each [h, w, c], after the gain.
    """

    def __init__(self, coder, z, parts=()):
        self.coder, self.z, self.parts = coder, z, parts
        self.writer = lanes.Writer(coder.tables)

    def side(self):
        """Codes the side latents; returns them as decoded, integers."""
        limit = self.coder.side_limit
        z = np.clip(np.rint(finite(self.z)), -limit, limit)
        residuals = self.coder.residuals(z).reshape(-1)
        self.writer.write(self.coder.side_rows(z.shape), residuals)
        return z

    def residuals(self, k, pick, places, index, mean):
        """Codes n latents of slice k; returns their residuals, integers [n].

        Args:
            k: number of the slice.
            pick: function that takes these latents, and more that are not coded, out of
                an array of the whole slice.
            places: [n], where the n are in what `pick` returns, flattened.
            index: [n], the table of each of the n.
            mean: of all that `pick` takes, in sixteenths.
        """
        value = pick(self.parts[k]).reshape(-1).take(places)
        mean = mean.reshape(-1).take(places)
        value = finite(value) - mean / mean.dtype.type(UNIT)
        whole = self.coder.quantised(value, index)
        self.writer.write(self.coder.scale_rows(index), whole)
        return whole


class Read:
    """The action that reads what `Write` wrote; `shape` is that of the side latents."""

    def __init__(self, coder, string, shape):
        self.coder, self.shape = coder, shape
        self.reader = lanes.Reader(coder.tables, string)

    def side(self):
        """Decodes the side latents."""
        z = self.reader.read(self.coder.side_rows(self.shape)).reshape(self.shape)
        z = self.coder.restored(z)
        limit = self.coder.side_limit
        return np.clip(z, -limit, limit).astype(exact_dtype())

    def residuals(self, k, pick, places, index, mean):
        """Decodes residuals, as `Write.residuals` returns them; uses only the index."""
        values = self.reader.read(self.coder.scale_rows(index))
        return np.clip(values, -LATENT_MAX, LATENT_MAX)


def finite(value):
    """Replaces infinities and NaN by 0."""
    return np.where(np.isfinite(value), value, value.dtype.type(0))


def coder_of(numbers) -> Factorized:
    """Returns the coder of a model: `Coder` if it has a hyperprior, or `Factorized`.

    Args:
        numbers: arrays by name, as listed in docs/format.md, and those that only an
            encoder needs, as listed at `Coder`.
    """
    kind = Coder if "hyper_synthesis/0/kernel" in numbers else Factorized
    return kind(numbers)


class Factorized:
    """The coder of a model without a hyperprior: a row of the tables per channel.

    Args:
        numbers: arrays by name, as listed in docs/format.md.
    """

    stride = 1  # latents y per side latent, in each dimension; here both are the same

    def __init__(self, numbers):
        # How many channels, the first ones, are predicted from neighbours.
        self.predicted = int(numbers.get("predicted", 0))
        self.side_limit = LATENT_MAX // 4 if self.predicted else LATENT_MAX
        self.tables = lanes.Tables(
            *(numbers[f"tables/{name}"] for name in ("frequency", "size", "offset"))
        )
        self.z_channels = len(self.tables.size) - 1  # without the row for padding

    def encode(self, y: np.ndarray, z: None = None):
        """As `Coder.encode`; z is not used."""
        action = Write(self, y)
        y, y_hat = self.walk(action)
        return action.writer.finish(), y, y_hat

    def decode(self, string: bytes, height: int, width: int):
        """Returns (y, y_hat) as `encode` does.

        Args:
            string: what `encode` returned.
            height, width: of y, in latents.

        Raises:
            CorruptStream: no encoder wrote the string.
        """
        shape = (height // self.stride, width // self.stride, self.z_channels)
        action = Read(self, string, shape)
        y, y_hat = self.walk(action)
        action.reader.finish()
        return y, y_hat

    def walk(self, code):
        """Visits the latents in coding order; returns (y, y_hat), with a batch axis."""
        y = code.side()[None]
        return (y * UNIT).astype(np.int32), y.astype(np.float32)

    def residuals(self, z):
        """Returns z minus its prediction from neighbours: see `entropy.Predicted`."""
        count = self.predicted
        known = np.pad(z[..., :count], ((1, 0), (1, 0), (0, 0)))
        guess = known[1:, :-1] + known[:-1, 1:] - known[:-1, :-1]
        return np.concatenate([z[..., :count] - guess, z[..., count:]], -1)

    def restored(self, residuals):
        """The inverse of `residuals`, for integers [h, w, c]."""
        own = residuals[..., : self.predicted].cumsum(0).cumsum(1).astype(np.int32)
        return np.concatenate([own, residuals[..., self.predicted :]], -1)

    def side_rows(self, shape):
        """Rows of the tables, one per channel, for side latents of `shape`, flat."""
        return np.tile(np.arange(self.z_channels), shape[0] * shape[1])


class Coder(Factorized):
    """The coder of a model with a hyperprior.

    Args:
        numbers: arrays by name, as listed in docs/format.md; and those that only an
            encoder needs. `extra` [64, 9]: by table and magnitude k, how far above
            k - 1/2 the interval of residuals begins that become k. `slices`: the
            channels of each slice. `support`: how many earlier slices a network sees at
            most.
    """

    stride = 4  # latents y per side latent z, in each dimension

    def __init__(self, numbers):
        super().__init__(numbers)
        self.side_limit = Z_MAX
        self.points = numbers["points"].astype(np.float32).ravel()
        self.extra = numbers["extra"].astype(np.float32).ravel()
        self.slices = [int(count) for count in numbers["slices"]]
        self.support = int(numbers["support"])
        names = sorted(name[: -len("/0/kernel")] for name in numbers if "/0/k" in name)
        self.networks = {name: self._layers(numbers, name) for name in names}
        self.z_channels = self.networks["hyper_synthesis"][0].integers.shape[2]

    def _layers(self, numbers, name):
        """Returns the layers of a network.

        The first layer of a second pass is a 1x1 kernel for what `beside` gathers, as
        the first pass has summed up all else that it sees.
        """
        layers = []
        while f"{name}/{len(layers)}/kernel" in numbers:
            at = f"{name}/{len(layers)}"
            kernel = numbers[f"{at}/kernel"]
            if name.endswith("/second") and not layers:
                kernel = np.concatenate([kernel[place] for place in BESIDE])[None, None]
            layers.append(Layer(kernel, numbers[f"{at}/numbers"]))
        return layers

    def encode(self, y: np.ndarray, z: np.ndarray):
        """Codes y [h, w, c] and z [h / 4, w / 4, cz].

        Returns:
            (string; y as decoded, int32 [1, h, w, c], in sixteenths; y_hat, what the
            synthesis takes, float32 of the same shape).
        """
        parts = np.split(y.astype(exact_dtype()), np.cumsum(self.slices)[:-1], -1)
        action = Write(self, z.astype(exact_dtype()), parts)
        y, y_hat = self.walk(action)
        return action.writer.finish(), y, y_hat

    @blas.one_thread
    def walk(self, code):
        """Visits the latents in coding order; returns (y, y_hat), with a batch axis."""
        features = self.features(code.side())
        done, contexts = [], []
        for k in range(len(self.slices)):
            seen = np.concatenate([features, *contexts[: self.support]], -1)
            if f"slice/{k}/first" in self.networks:
                y, y_hat = self.two_passes(code, k, seen)
            elif k == 0 and "step/0" in self.networks:
                y, y_hat = self.pyramid(code, features)
            else:
                index, mean = self.parameters(f"slice/{k}", seen, k)
                y, y_hat = self.coded(code, k, lambda own: own, index, mean)
            done.append((y, y_hat))
            if k == 0 and "step/0" in self.networks:
                contexts.append(differences(y))
            else:
                contexts.append(context(y))
        y, y_hat = (np.concatenate(parts, -1)[None] for parts in zip(*done))
        return y.astype(np.int32), y_hat

    def features(self, z):
        """Runs the hyper synthesis: z [h / 4, w / 4, cz] to [h, w, c]."""
        for number, layer in enumerate(self.networks["hyper_synthesis"]):
            z = layer(z)
            z = depth_to_space(z) if number < 2 else z
        return z

    def parameters(self, name, x, k, first=0):
        """Runs a network of slice k from layer `first` on; returns (index, mean)."""
        for layer in self.networks[name][first:]:
            x = layer(x)
        own = self.slices[k]
        return (x, np.zeros_like(x)) if x.shape[-1] == own else np.split(x, 2, -1)

    def coded(self, code, k, pick, index, mean):
        """Codes the latents that `pick` takes out of slice k; returns (y, y_hat)."""
        places = np.flatnonzero(index > SKIPPED)
        index = index.reshape(-1).take(places)
        whole = code.residuals(k, pick, places, index, mean)
        # Most residuals are zero and change nothing, so only the others are added.
        some = np.flatnonzero(whole)
        places, index, y = places.take(some), index.take(some), mean.flatten()
        whole = whole.take(some).astype(y.dtype)
        y[places] += whole * y.dtype.type(UNIT)
        y_hat = (y / y.dtype.type(UNIT)).astype(np.float32)
        value = whole.astype(np.float32)
        shift = self.entry(self.points, np.abs(value), index)
        # Summed in the same order as in `entropy`, so that both agree to the last bit.
        y_hat[places] += (value + np.sign(value) * shift) - value
        return y.reshape(mean.shape), y_hat.reshape(mean.shape)

    def two_passes(self, code, k, seen):
        """Codes slice k in two passes, as on a checkerboard: even positions first.

        `seen` [h, w, c] is what the networks see besides the first pass.
        """
        first, second = (self.networks[f"slice/{k}/{x}"] for x in ("first", "second"))
        sums = first[0].sums(seen)
        x = first[0].activate(half_of_board(sums, False))
        index, mean = self.parameters(f"slice/{k}/first", x, k, 1)
        even = self.coded(code, k, lambda y: half_of_board(y, False), index, mean)
        own = second[0].sums(beside(context(even[0])))
        x = second[0].activate(half_of_board(sums, True) + own)
        index, mean = self.parameters(f"slice/{k}/second", x, k, 1)
        odd = self.coded(code, k, lambda y: half_of_board(y, True), index, mean)
        return [both_halves(*parts) for parts in zip(even, odd)]

    def pyramid(self, code, features):
        """Codes slice 0 from coarse to fine: one latent of each 4x4, then the others.

        See `entropy.Conditional`; each step of `PYRAMID` doubles the known latents.
        """
        height, width, _ = features.shape
        y = np.zeros((height, width, self.slices[0]), features.dtype)
        y_hat = np.zeros(y.shape, np.float32)
        row, column = np.indices((height, width), sparse=True)
        index, mean = self.parameters("slice/0", features, 0)

        def code_at(places, index, mean):
            def pick(own):
                return own[places]

            y[places], y_hat[places] = self.coded(code, 0, pick, index, mean)

        coarse = np.nonzero((row % 4 == 0) & (column % 4 == 0))
        code_at(coarse, index[coarse], mean[coarse])
        for step, (distance, around) in enumerate(PYRAMID):
            grid = (row % distance == 0) & (column % distance == 0)
            odd = [x % (2 * distance) == distance for x in (row, column)]
            chosen = odd[0] ^ odd[1] if around is CROSS else odd[0] & odd[1]
            places = np.nonzero(grid & chosen)
            values, inside = neighbours(y, places, distance, around)
            guess = np.floor_divide(
                values.sum(0).astype(np.int64), np.maximum(inside.sum(0), 1)
            ).astype(y.dtype)
            seen = context((values - guess) * inside)
            seen = np.concatenate([features[places], *seen], -1)
            index, mean = self.parameters(f"step/{step}", seen[None], 0)
            code_at(places, index[0], guess + mean[0])
        return y, y_hat

    def scale_rows(self, index):
        """Rows of the tables for the normal distributions of `index`."""
        return index.astype(np.int64) + self.z_channels

    def entry(self, table, magnitude, index):
        """Looks up magnitudes and indexes in a table of the quantiser, [64 * 9]."""
        column = np.minimum(magnitude, LEVELS).astype(np.int64)
        return table.take(index.astype(np.int64) * (LEVELS + 1) + column)

    def quantised(self, residual, index):
        """Rounds residuals to integers: see `densities.Quantiser`."""
        magnitude = np.abs(residual)
        whole = np.minimum(np.rint(magnitude), LATENT_MAX)
        half = whole.dtype.type(0.5)
        whole -= magnitude < whole - half + self.entry(self.extra, whole, index)
        return np.sign(residual) * np.maximum(whole, 0)


def differences(y):
    """Contexts of slice 0: each of the four neighbours minus the latent, see `context`.

    [h, w, c] to [h, w, 4c], zero beyond the edges.
    """
    height, width, _ = y.shape
    padded = np.pad(y, ((1, 1), (1, 1), (0, 0)))
    inside = np.pad(np.ones((height, width, 1), y.dtype), ((1, 1), (1, 1), (0, 0)))
    parts = []
    for i, j in CROSS:
        there = slice(1 + i, 1 + i + height), slice(1 + j, 1 + j + width)
        parts.append(context((padded[there] - y) * inside[there]))
    return np.concatenate(parts, -1)
