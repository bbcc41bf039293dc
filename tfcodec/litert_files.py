"""The LiteRT files of a model, whose weights lie in the SavedModel beside them.

`litert_export` makes both kinds of directory that are read here:

- whole: `analysis.tflite`, ..., and `coder.npz`, which need nothing else;
- compact: `rest.npz`, which holds what of those files is in none of the model's
  variables, and `parts.json`, which says where the SavedModel has the others. A model
  with both engines then stores its weights once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import zipfile

import numpy as np

REST, PARTS, CODER = "rest.npz", "parts.json", "coder.npz"


def kernel(array):
    """[h, w, in, out], or [in, out], as LiteRT holds it: [out, h, w, in]."""
    return np.moveaxis(array, -1, 0)


def blocks(array, stride: int):
    """The kernel of a convolution as that of one over blocks of its stride.

    After "space to depth" a block of s x s pixels is one place of s^2 times as many
    channels, and a kernel of k s pixels a side sees k places a side.

    [side, side, in, out] to [taps, taps, stride^2 in, out].
    """
    side, _, n_in, n_out = array.shape
    taps = side // stride
    array = array.reshape(taps, stride, taps, stride, n_in, n_out)
    return array.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, -1, n_out)


def phases(array, stride: int):
    """The kernel of a transposed convolution as that of an ordinary one.

    Output r of stride s, counted from the first that the padding cuts off, takes from
    input i the tap r - s i of the kernel. So all s outputs from s i on see the same
    inputs, from i back, and are the channels of one place of a convolution; "depth to
    space" puts them in a row.

    [side, side, out, in] to [taps, taps, in, stride^2 out].
    """
    side, _, n_out, n_in = array.shape
    taps = -(-side // stride)
    whole = np.zeros((taps * stride, taps * stride, n_out, n_in), array.dtype)
    whole[:side, :side] = array
    whole = whole.reshape(taps, stride, taps, stride, n_out, n_in)
    # The first input of a place is the furthest back, so has the last tap.
    whole = whole[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
    return whole.reshape(taps, taps, n_in, stride * stride * n_out)


# How a file holds an array of the SavedModel, by the name that `parts.json` has.
LAYOUTS = {"same": lambda array: array, "kernel": kernel}
for _change in (blocks, phases):
    for _stride in (2, 4, 8, 16):
        LAYOUTS[f"{_change.__name__} {_stride}"] = functools.partial(
            lambda change, stride, array: kernel(change(array, stride)),
            _change,
            _stride,
        )


class Files:
    """Reads what a directory of either kind holds.

    Args:
        directory: of the LiteRT files.
        model: directory of the SavedModel, which a compact one needs.

    Raises:
        ValueError: here and from each method: a file is missing or damaged.
    """

    def __init__(self, directory: pathlib.Path, model: pathlib.Path):
        self.directory, self.model = directory, model
        self.sources: dict[str, np.ndarray] = {}
        self.compact = (directory / PARTS).is_file()
        if self.compact:
            with self._explained(PARTS):
                self.parts = json.loads((directory / PARTS).read_text("utf-8"))

    def network(self, name: str) -> bytes:
        """Returns the whole `.tflite` file of a network."""
        if not self.compact:
            with self._explained(f"{name}.tflite") as path:
                return path.read_bytes()
        rest = self._rest
        with self._explained(PARTS):
            parts = self.parts[name]
            rest, pieces, at = rest[name], [], 0
            for part in parts["arrays"]:
                between = part["at"] - at
                pieces += [rest[:between], self._array(part)]
                rest, at = rest[between:], part["at"] + pieces[-1].nbytes
            if at + len(rest) != parts["size"]:
                raise ValueError(f"{name} is of another size")
            return b"".join([*pieces, rest])

    def numbers(self) -> dict[str, np.ndarray]:
        """Returns the numbers of the coder, and `fingerprint`, that of its model."""
        if not self.compact:
            return self._loaded(CODER)
        numbers = {
            name[len("coder/") :]: array
            for name, array in self._rest.items()
            if name.startswith("coder/")
        }
        with self._explained(PARTS):
            for name, part in self.parts["coder"].items():
                numbers[name] = self._array(part)
        return numbers

    @functools.cached_property
    def _rest(self) -> dict[str, np.ndarray]:
        return self._loaded(REST)

    def _array(self, part):
        """Returns an array of the SavedModel's variables, as a file holds it."""
        name = part["from"]
        if name not in self.sources:
            self.sources[name] = np.memmap(self.model / name, np.uint8, "r")
        dtype = np.dtype(part["dtype"])
        size = int(np.prod(part["shape"])) * dtype.itemsize
        values = self.sources[name][part["offset"] :][:size]
        array = np.frombuffer(values, dtype).reshape(part["shape"])
        array = LAYOUTS[part["layout"]](array)
        return np.ascontiguousarray(array, part.get("as", dtype))

    def _loaded(self, name) -> dict[str, np.ndarray]:
        with self._explained(name) as path, np.load(path) as found:
            return {name: found[name] for name in found.files}

    @contextlib.contextmanager
    def _explained(self, name):
        """Makes one kind of error of all that a damaged or missing file leads to."""
        path = self.directory / name
        try:
            yield path
        except FileNotFoundError as error:
            raise ValueError(
                f"not a whole model directory: no {error.filename}"
            ) from None
        except (
            OSError, ValueError, KeyError, TypeError, EOFError, IndexError,
            zipfile.BadZipFile,
        ) as error:  # fmt: skip
            raise ValueError(f"damaged LiteRT files: {path}: {error}") from None


class Compact:
    """Parts whole files into arrays that a SavedModel has, and the rest.

    Args:
        model: directory of the SavedModel.
        arrays: by file, relative to `model`, the variables that it holds.
    """

    # Bytes; of shorter arrays a file is likely to hold the values by chance.
    SHORTEST = 256

    def __init__(self, model: pathlib.Path, arrays: dict[str, list[np.ndarray]]):
        self.candidates = []
        for name, values in arrays.items():
            data = (model / name).read_bytes()
            for array in (a for a in values if a.nbytes >= self.SHORTEST):
                where = {
                    "from": name,
                    "offset": data.index(array.tobytes()),
                    "dtype": array.dtype.name,
                    "shape": list(array.shape),
                }
                self.candidates.append((where, array))
        self.rest: dict[str, np.ndarray] = {}
        self.parts: dict = {"coder": {}}

    def add_network(self, name: str, data: bytes):
        found, begins = [], set()
        for where, array in self.candidates:
            for layout, made in self._layouts(array):
                at = data.find(made.tobytes())
                if at >= 0 and at not in begins:
                    begins.add(at)
                    part = {"at": at, **where, "layout": layout}
                    if made.dtype != array.dtype:
                        part["as"] = made.dtype.name
                    found.append((at, made.nbytes, part))
                    break
        found.sort(key=lambda each: each[0])
        arrays, rest, end = [], [], 0
        for at, size, part in found:
            if at >= end:  # One array may hold another.
                rest.append(data[end:at])
                arrays.append(part)
                end = at + size
        rest.append(data[end:])
        self.rest[name] = np.frombuffer(b"".join(rest), np.uint8)
        self.parts[name] = {"size": len(data), "arrays": arrays}

    @staticmethod
    def _layouts(array):
        """Yields (name, array) of each way in which a LiteRT file may hold it."""
        for layout, change in LAYOUTS.items():
            name, *strides = layout.split()
            if strides:
                stride = int(strides[0])
                if array.ndim != 4 or array.shape[0] < stride:
                    continue
                if name == "blocks" and array.shape[0] % stride:
                    continue
            made = np.ascontiguousarray(change(array))
            yield layout, made
            if made.dtype == np.float32:
                yield layout, made.astype(np.float16)

    def add_numbers(self, numbers: dict[str, np.ndarray]):
        known = {(a.dtype, a.shape, a.tobytes()): where for where, a in self.candidates}
        for name, array in numbers.items():
            where = known.get((array.dtype, array.shape, array.tobytes()))
            if where:
                self.parts["coder"][name] = {**where, "layout": "same"}
            else:
                self.rest[f"coder/{name}"] = array

    def write(self, directory: pathlib.Path):
        np.savez_compressed(directory / REST, **self.rest)
        (directory / PARTS).write_text(json.dumps(self.parts) + "\n")


def write_whole(directory: pathlib.Path, networks: dict[str, bytes], numbers):
    """Writes a directory of LiteRT files that needs no SavedModel."""
    for name, data in networks.items():
        (directory / f"{name}.tflite").write_bytes(data)
    np.savez(directory / CODER, **numbers)
