"""The LiteRT files of a model, whose weights lie in the SavedModel beside them.

`litert_export` makes both kinds of directory that are read here:

- whole: `analysis.tflite`, ..., and `coder.npz`, which need nothing else;
- compact: `parts.json` lists which arrays of those files are variables of the
  SavedModel, and where in its files; `rest.npz` holds all other bytes. So a model for
  both engines stores its weights once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import pathlib
from collections.abc import Iterable

import numpy as np

from tfcodec import archives, kernels

REST, PARTS, CODER = "rest.npz", "parts.json", "coder.npz"

# How a LiteRT file may store an array of the SavedModel. Each part in `parts.json` says
# where such an array is (file, offset, type, shape) and has one of these names as its
# `layout`, for some with an integer after a space. Before the array is laid out, it may
# have to be multiplied: by the array of the SavedModel that the part describes as its
# `scale`, and the input channels by powers of two. The exponents of these are an array
# in `rest.npz`, which `channels` names.
LAYOUTS = {
    "same": lambda array: array,
    "first": lambda array: array[0],
    "kernel": kernels.outputs_first,
    "blocks": lambda array, n: kernels.outputs_first(kernels.blocks(array, n)),
    "phases": lambda array, n: kernels.outputs_first(kernels.phases(array, n)),
    "turned": lambda array: kernels.outputs_first(kernels.turned(array)),
    "turned_back": lambda array: np.moveaxis(kernels.turned(array), -2, 0),
    "int8_blocks": lambda array, n: int8_layouts(kernels.blocks(array, n))["int8"],
    "without_signs": kernels.without_signs,
}
# Two more, of a kernel [..., out]: its weights as integers, and their scales.
INTEGERS = "int8", "int8_scales"
# What of a part says which array it is made of, and by what this is multiplied.
SOURCE = "from", "offset", "dtype", "shape", "scale", "channels"
STRIDES = (2, 4, 8, 16)


def laid_out(array, layout: str):
    """Returns an array in a layout, named as in `parts.json`."""
    if layout in INTEGERS:
        return int8_layouts(array)[layout]
    name, *numbers = layout.split()
    return LAYOUTS[name](array, *map(int, numbers))


def int8_layouts(array) -> dict[str, np.ndarray]:
    """Returns a kernel [..., out] in the layouts of `INTEGERS`."""
    return dict(zip(INTEGERS, kernels.int8(kernels.outputs_first(array))))


class Files:
    """Reads a directory of LiteRT files, of either kind.

    Args:
        directory: of the LiteRT files.
        model: directory of the SavedModel, which a compact one needs.

    Raises:
        ValueError: (also from each method) a file is missing or damaged.
    """

    def __init__(self, directory: pathlib.Path, model: pathlib.Path):
        self.directory, self.model = directory, model
        self.sources: dict[str, np.ndarray] = {}
        self.compact = (directory / PARTS).is_file()
        if self.compact:
            with self._explained(PARTS):
                self.parts = json.loads((directory / PARTS).read_text("utf-8"))

    def __contains__(self, name: str) -> bool:
        """Whether there is a network of this name."""
        if self.compact:
            return name in self.parts
        return (self.directory / f"{name}.tflite").is_file()

    def network(self, name: str) -> bytes:
        """Returns the whole `.tflite` file of a network."""
        if not self.compact:
            with self._explained(f"{name}.tflite") as path:
                return path.read_bytes()
        rest = self._rest
        with self._explained(PARTS):
            parts = self.parts[name]
            rest, pieces, at, rounded = rest[name], [], 0, {}
            for part in parts["arrays"]:
                between = part["at"] - at
                pieces += [rest[:between], self._array(part, rounded)]
                rest, at = rest[between:], part["at"] + pieces[-1].nbytes
            if at + len(rest) != parts["size"]:
                raise ValueError(f"{name} is of another size")
            return b"".join([*pieces, rest])

    def numbers(self) -> dict[str, np.ndarray]:
        """Returns the numbers of the coder by name, and the model's `fingerprint`."""
        if not self.compact:
            return self._loaded(CODER)
        numbers = {
            name[len("coder/") :]: array
            for name, array in self._rest.items()
            if name.startswith("coder/")
        }
        with self._explained(PARTS):
            for name, part in self.parts["coder"].items():
                numbers[name] = self._array(part, {})
        return numbers

    @functools.cached_property
    def _rest(self) -> dict[str, np.ndarray]:
        return self._loaded(REST)

    def _array(self, part, rounded: dict):
        """Returns a variable of the SavedModel, as a LiteRT file stores it.

        Args:
            part: of `parts.json`.
            rounded: the `int8_layouts` of kernels by their `SOURCE`, to which those of
                the part are added. A kernel's integers and its scales are two parts;
                so it is rounded once for both.
        """
        layout = part["layout"]
        if layout in INTEGERS:
            source = json.dumps([part.get(key) for key in SOURCE])
            if source not in rounded:
                rounded[source] = int8_layouts(self._multiplied(part))
            array = rounded[source][layout]
        else:
            array = laid_out(self._multiplied(part), layout)
        return np.ascontiguousarray(array, part.get("as", array.dtype))

    def _multiplied(self, part):
        """Returns a variable of the SavedModel, multiplied as a part says."""
        array = self._stored(part)
        if "scale" in part:
            scale = self._stored({**part, **part["scale"]})
            array = (array * scale).astype(np.float16)
        if "channels" in part:
            exponents = self._rest[part["channels"]]
            array = array * np.ldexp(np.float32(1), exponents)[:, None]
        return array

    def _stored(self, where):
        """Returns a variable of the SavedModel."""
        name, dtype = where["from"], np.dtype(where["dtype"])
        if name not in self.sources:
            self.sources[name] = np.memmap(self.model / name, np.uint8, "r")
        count = math.prod(where["shape"])
        values = np.frombuffer(self.sources[name], dtype, count, where["offset"])
        return values.reshape(where["shape"])

    def _loaded(self, name) -> dict[str, np.ndarray]:
        with self._explained(name) as path, np.load(path) as found:
            return {name: found[name] for name in found.files}

    @contextlib.contextmanager
    def _explained(self, name):
        """Turns every error that a damaged or missing file causes into a ValueError."""
        path = self.directory / name
        try:
            yield path
        except FileNotFoundError as error:
            raise ValueError(
                f"not a whole model directory: no {error.filename}"
            ) from None
        except (
            *archives.DAMAGED, TypeError, IndexError, AttributeError, ArithmeticError
        ) as error:  # fmt: skip
            raise ValueError(f"damaged LiteRT files: {path}: {error}") from None


class Compact:
    """Splits whole LiteRT files into arrays that a SavedModel has, and the rest.

    Args:
        model: directory of the SavedModel.
        arrays: for each file of the SavedModel (path relative to `model`), its
            variables as (array, scales). `scales` is None, or the factors that restore
            the values.
    """

    # In bytes. Shorter arrays stay in the rest: their values may occur in a file by
    # chance, and little space would be saved.
    SHORTEST = 256

    def __init__(self, model: pathlib.Path, arrays: dict[str, list]):
        # What a LiteRT file may share: (its place, as a part of `parts.json` describes
        # it, the array). Arrays with scales are there twice, without and multiplied.
        self.candidates = []
        for name, values in arrays.items():
            data = (model / name).read_bytes()

            def where(array, data=data):
                return {
                    "offset": data.index(array.tobytes()),
                    "dtype": array.dtype.name,
                    "shape": list(array.shape),
                }

            for array, scale in (v for v in values if v[0].nbytes >= self.SHORTEST):
                place = {"from": name, **where(array)}
                self.candidates.append((place, array))
                if scale is not None:
                    place = {**place, "scale": where(scale)}
                    product = (array * scale).astype(np.float16)
                    self.candidates.append((place, product))
        self.rest: dict[str, np.ndarray] = {}
        self.parts: dict = {"coder": {}}

    def add_network(
        self, name: str, data: bytes, layouts: Iterable[str] = (), scales=()
    ):
        """Splits the `.tflite` file of a network.

        Args:
            name: of the network.
            data: the file.
            layouts: names of layouts to look for, besides the usual ones, of kernels
                that the SavedModel has as integers.
            scales: powers of two, each [in], by which the input channels of some
                kernels of integers were multiplied: see `channel_scales`.
        """
        exponents = {
            f"{name}/channels/{k}": (np.frexp(factors)[1] - 1).astype(np.int8)
            for k, factors in enumerate(scales)
        }
        self.rest.update(exponents)
        found, begins, words = [], set(), np.unique(whole_words(data))
        for where, array, known in self._places(layouts, exponents):
            for layout, made, cast in self._laid_out(array, known):
                at = place_of(made.tobytes(), data, words)
                if at >= 0 and at not in begins:
                    begins.add(at)
                    part = {"at": at, **where, "layout": layout, **cast}
                    found.append((at, made.nbytes, part))
        found.sort(key=lambda each: each[0])
        arrays, rest, end = [], [], 0
        for at, size, part in found:
            if at >= end:  # Else it lies within another array.
                rest.append(data[end:at])
                arrays.append(part)
                end = at + size
        rest.append(data[end:])
        self.rest[name] = np.frombuffer(b"".join(rest), np.uint8)
        self.parts[name] = {"size": len(data), "arrays": arrays}

    def _places(self, of_integers, exponents: dict):
        """Yields (place in the SavedModel, array, names of layouts to look for).

        Args:
            of_integers: as `layouts` of `add_network`.
            exponents: by name in `rest`, those of the powers of two by which the input
                channels of some kernels may have been multiplied.
        """
        for where, array in self.candidates:
            yield where, array, self._layouts(array, of_integers)
        for name, powers in exponents.items():
            factors = np.ldexp(np.float32(1), powers)[:, None]
            for where, array in self.candidates:
                if array.dtype == np.float16 and array.shape[-2:-1] == powers.shape:
                    yield {**where, "channels": name}, array * factors, INTEGERS

    @staticmethod
    def _layouts(array, of_integers):
        """Returns the names of the ways in which a LiteRT file may store an array."""
        known = ["same", "kernel"]
        if array.dtype == np.float16 and array.shape[-1] > 1:
            known += INTEGERS
        if array.dtype == np.int8 and array.ndim == 4:
            known += of_integers
        if array.ndim == 4:
            strides = [n for n in STRIDES if n <= len(array)]
            known += ["turned", "turned_back"] if len(array) > 1 else []
            known += [f"blocks {n}" for n in strides if len(array) % n == 0]
            if array.dtype == np.float16:
                known += [f"int8_{each}" for each in known if each.startswith("blocks")]
            known += [f"phases {n}" for n in strides]
        return known

    @staticmethod
    def _laid_out(array, layouts):
        """Yields (name, array, entry of its part that tells a cast) for each layout.

        Floats are there twice, as float32 and as float16.
        """
        for layout in layouts:
            made = np.ascontiguousarray(laid_out(array, layout))
            yield layout, made, {}
            if made.dtype == np.float32:
                yield layout, made.astype(np.float16), {"as": "float16"}
            if made.dtype == np.float16:
                yield layout, made.astype(np.float32), {"as": "float32"}

    def add_numbers(self, numbers: dict[str, np.ndarray]):
        """Adds the numbers of the coder; those in the SavedModel by reference."""
        known = {}
        for where, array in self.candidates:
            for layout in ("same", *(["first"] if len(array) == 1 else [])):
                made = laid_out(array, layout)
                key = made.dtype, made.shape, made.tobytes()
                known[key] = {**where, "layout": layout}
        for name, array in numbers.items():
            where = known.get((array.dtype, array.shape, array.tobytes()))
            if where:
                self.parts["coder"][name] = where
            else:
                self.rest[f"coder/{name}"] = array

    def write(self, directory: pathlib.Path):
        """Writes the compact directory."""
        np.savez_compressed(directory / REST, **self.rest)
        (directory / PARTS).write_text(json.dumps(self.parts) + "\n")


def whole_words(data: bytes) -> np.ndarray:
    """Returns the 32-bit numbers that data consist of, but for what is left over."""
    return np.frombuffer(data, "<u4", len(data) // 4)


def place_of(part: bytes, data: bytes, words: np.ndarray) -> int:
    """Returns where in a LiteRT file an array lies, or -1.

    In such a file every array of numbers begins at a multiple of four bytes. So if some
    words of the array are not among those of the file, it is not there; to find that
    out takes a hundredth of the time of a search.

    Args:
        part: the values of the array.
        data: the file.
        words: the different `whole_words` of the file, sorted.
    """
    some = whole_words(part)[:: max(1, len(part) // 64)]
    near = np.minimum(np.searchsorted(words, some), len(words) - 1)
    return data.find(part) if np.array_equal(words[near], some) else -1


def write_whole(directory: pathlib.Path, networks: dict[str, bytes], numbers):
    """Writes a directory of LiteRT files that needs no SavedModel."""
    for name, data in networks.items():
        (directory / f"{name}.tflite").write_bytes(data)
    np.savez(directory / CODER, **numbers)
