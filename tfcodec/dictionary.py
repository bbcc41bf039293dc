"""A codec by sparse coding over a dictionary: blocks as sums of a few atoms each.

Historically this came between cosine transforms and networks. There are more atoms than
a block has pixels, and a pursuit takes as few as a block needs (Aharon, Elad and
Bruckstein 2006, K-SVD, doi:10.1109/TSP.2006.881199; as a codec Bryt and Elad 2008,
doi:10.1016/j.jvcir.2008.03.001). It has the two methods of every codec, for
comparisons. The atoms of `dictionary` are cosines of fractional frequencies, those of
`dictionary:FILE.npy` are in a file, learned by

    python -m tfcodec.dictionary PHOTOGRAPHS... FILE.npy

Compressing and learning need scikit-learn, decompressing only NumPy. A compressed file
opens only with the atoms that it was made with.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import struct
import warnings
import zlib

import numpy as np

from tfcodec import tiling
from tfcodec.bitstream import CorruptStream
from tfcodec.classical import Missing
from tfcodec.metrics import YCBCR
from tfcodec.quality import check, plain

NAME = "dictionary"
SIDE = 8  # of a block, in pixels
SWEEP = (10, 20, 30, 40, 50, 60, 70, 80)  # default qualities
# Squared error per pixel at which a pursuit stops, in squared steps of the quantiser.
LEFT = 0.2
COSINES = 16
ATOMS = COSINES**2 - 1  # made of cosines or learned; a byte numbers them
PASSES = 4  # over all blocks, in learning
COARSER = 2.0  # quantiser step of the two chroma planes, in steps of luma
# Magic, CRC-32 of the atoms, width, height, quality.
HEADER = struct.Struct("<4sIHHH")
MAGIC, QUALITIES = b"tfd1", 100  # a file stores quality times QUALITIES, rounded


def cosine_atoms() -> np.ndarray:
    """Returns `ATOMS` atoms [n, 64]: products of `COSINES` cosines in each dimension.

    Their frequencies are closer than in an orthogonal transform, which has 8 cosines.
    Each has a mean of zero and a norm of one; the constant is not among them.
    """
    phase = np.pi / COSINES * np.arange(COSINES)[:, None] * (np.arange(SIDE) + 0.5)
    lines = np.cos(phase)
    lines[1:] -= lines[1:].mean(1, keepdims=True)
    atoms = np.einsum("ax,by->abxy", lines, lines).reshape(COSINES**2, -1)[1:]
    return normalised(atoms)


def normalised(atoms: np.ndarray) -> np.ndarray:
    """Returns atoms with means of zero and norms of one, float32."""
    atoms = atoms - atoms.mean(1, keepdims=True)
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return (atoms / np.maximum(norms, 1e-9)).astype(np.float32)


def blocks_of(planes: np.ndarray) -> np.ndarray:
    """[h, w, c], sides multiples of 8, to blocks [c, h / 8, w / 8, 64]."""
    height, width, count = planes.shape
    parts = planes.reshape(height // SIDE, SIDE, width // SIDE, SIDE, count)
    return parts.transpose(4, 0, 2, 1, 3).reshape(
        count, height // SIDE, width // SIDE, SIDE**2
    )


def planes_of(blocks: np.ndarray) -> np.ndarray:
    """The inverse of `blocks_of`."""
    count, rows, columns, _ = blocks.shape
    parts = blocks.reshape(count, rows, columns, SIDE, SIDE)
    return parts.transpose(1, 3, 2, 4, 0).reshape(rows * SIDE, columns * SIDE, count)


def pursued(blocks: np.ndarray, atoms: np.ndarray, left: float) -> np.ndarray:
    """Returns coefficients [n, atoms] of blocks [n, 64] by orthogonal matching pursuit.

    Pati, Rezaiifar and Krishnaprasad 1993, doi:10.1109/ACSSC.1993.342465. It stops when
    the squared error of a block, summed over its pixels, is at most `left`.
    """
    from sklearn.linear_model import orthogonal_mp_gram

    energy = (blocks**2).sum(1)
    found = np.zeros((len(blocks), len(atoms)))
    some = energy > left
    if some.any():
        with warnings.catch_warnings():
            # It warns when it ends early, as some atoms are linearly dependent.
            warnings.simplefilter("ignore")
            coefficients = orthogonal_mp_gram(
                atoms @ atoms.T, atoms @ blocks[some].T, tol=left,
                norms_squared=energy[some],
            )  # fmt: skip
        found[some] = coefficients.reshape(len(atoms), -1).T
    return found


def learned(blocks: np.ndarray) -> np.ndarray:
    """Learns `ATOMS` atoms [n, 64] of which few represent each block.

    Online dictionary learning (Mairal, Bach, Ponce and Sapiro 2009,
    doi:10.1145/1553374.1553463), starting from cosines.

    Args:
        blocks: [n, 64], values of 0 to 255.

    Raises:
        ValueError: all blocks are flat.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning

    blocks = (blocks - blocks.mean(1, keepdims=True)) / 25.5
    blocks = blocks[(blocks**2).sum(1) > 1]  # without flat ones
    if not len(blocks):
        raise ValueError("all blocks are flat: there is nothing to learn from")
    learning = MiniBatchDictionaryLearning(
        ATOMS, alpha=0.5, max_iter=PASSES, batch_size=256, random_state=0,
        fit_algorithm="cd", dict_init=cosine_atoms().astype(np.float64),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about not having converged
        return normalised(learning.fit(blocks).components_)


class Dictionary:
    """The codec, with `compress` and `decompress`.

    Args:
        name: its name on the command line.
        atoms: float32 [n, 64], n at most 255.
    """

    sweep = SWEEP

    def __init__(self, name: str, atoms: np.ndarray):
        self.name, self.atoms = name, atoms
        self.identity = zlib.crc32(np.ascontiguousarray(atoms, "<f4").tobytes())
        self.settings = {"atoms": f"{len(atoms)}, {self.identity:08x}"}

    @property
    def version(self) -> str:
        return f"scikit-learn {importlib.metadata.version('scikit-learn')}"

    def check(self, quality: float | None) -> float:
        """Returns a quality in the form that `compress` takes.

        Raises:
            ValueError: it is not from 0 to 100.
        """
        return plain(check(quality, f"quality of {self.name}"))

    def compress(self, image: np.ndarray, quality: float) -> bytes:
        """Compresses uint8 [height, width, 3], sides up to 65535, to a whole file."""
        part = round(self.check(quality) * QUALITIES)
        height, width = image.shape[:2]
        planes = tiling.pad(image, SIDE) @ YCBCR.T
        blocks, body = blocks_of(planes), []
        for own, step in zip(blocks, steps_of(part / QUALITIES)):
            # Eight times the mean is the coefficient of a constant of norm one.
            means = np.rint(own.mean(-1) * SIDE / step).astype(np.int64)
            body.append(packed(bytes_of(np.diff(np.diff(means, 1, 0, 0), 1, 1, 0))))
            rest = (own - own.mean(-1, keepdims=True)).reshape(-1, SIDE**2)
            atoms = self.atoms.astype(np.float64)
            found = pursued(rest, atoms, LEFT * step**2 * SIDE**2)
            body += streams_of(np.rint(found / step).astype(np.int64))
        header = HEADER.pack(MAGIC, self.identity, width, height, part)
        whole = b"".join([header, *body])
        return whole + struct.pack("<I", zlib.crc32(whole))

    def decompress(self, data: bytes) -> np.ndarray:
        """Decompresses a file to uint8 [height, width, 3].

        Raises:
            CorruptStream: it is damaged, or was made with other atoms.
        """
        if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
            raise CorruptStream("not a file of the codec dictionary")
        _, identity, width, height, part = HEADER.unpack_from(data)
        if identity != self.identity:
            raise CorruptStream("made with the atoms of another dictionary")
        checksum = int.from_bytes(data[-4:], "little")
        if zlib.crc32(data[:-4]) != checksum or not width * height:
            raise CorruptStream("damaged: wrong checksum")
        rows, columns = (x // SIDE for x in tiling.padded_size(height, width, SIDE))
        reader, planes = Reader(data[HEADER.size : -4]), []
        for step in steps_of(part / QUALITIES):
            means = numbers_of(reader.take(2 * rows * columns)).reshape(rows, columns)
            own = self._sums(reader, rows * columns) * step
            own = own.reshape(rows, columns, -1)
            means = means.cumsum(0).cumsum(1) * step / SIDE
            planes.append(own + means[..., None])
        reader.end()
        pixels = planes_of(np.stack(planes)) @ np.linalg.inv(YCBCR).T
        pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        return tiling.crop(pixels, height, width)

    def _sums(self, reader, count):
        """Reads blocks [count, 64] as sums of atoms, in steps of the quantiser."""
        counts = np.frombuffer(reader.take(count), np.uint8).astype(np.int64)
        gaps = np.frombuffer(reader.take(counts.sum()), np.uint8).astype(np.int64)
        amounts = numbers_of(reader.take(2 * counts.sum()))
        block = np.arange(count).repeat(counts)
        # Gaps count from the previous atom of the same block.
        ends = (gaps + 1).cumsum()
        before = np.concatenate([[0], ends])[counts.cumsum() - counts]
        atom = ends - before[block] - 1
        if atom.max(initial=0) >= len(self.atoms):
            raise CorruptStream("damaged blocks")
        sums = np.zeros((count, SIDE**2))
        np.add.at(sums, block, amounts[:, None] * self.atoms[atom].astype(np.float64))
        return sums


def steps_of(quality: float) -> list[float]:
    """Returns the quantiser's steps, in levels, for luma and the two chroma planes."""
    step = 96.0 * 2.0 ** (-quality / 18)
    return [step, COARSER * step, COARSER * step]


def streams_of(whole: np.ndarray) -> list[bytes]:
    """Packs coefficients [n, atoms], integers, into three strings.

    They have the number of nonzero coefficients of each block; for each of these, the
    number of atoms between it and the one before; and their values.
    """
    block, atom = np.nonzero(whole)
    counts = np.bincount(block, minlength=len(whole))
    first = np.append(True, block[1:] != block[:-1])[: len(block)]
    gaps = np.where(first, atom, np.append(0, np.diff(atom) - 1)[: len(atom)])
    small = [x.astype(np.uint8).tobytes() for x in (counts, gaps)]
    return [packed(part) for part in (*small, bytes_of(whole[block, atom]))]


def bytes_of(whole: np.ndarray) -> bytes:
    """Integers of 16 bits as bytes: all the low bytes, then all the high ones.

    The sign becomes the lowest bit, so that the high byte of a small number is zero.
    """
    whole = np.clip(whole.ravel(), -(2**15), 2**15 - 1)
    folded = np.where(whole < 0, -2 * whole - 1, 2 * whole)
    return np.concatenate([folded & 255, folded >> 8]).astype(np.uint8).tobytes()


def numbers_of(data: bytes) -> np.ndarray:
    """The inverse of `bytes_of`, flat."""
    low, high = np.frombuffer(data, np.uint8).reshape(2, -1).astype(np.int64)
    folded = low + 256 * high
    return np.where(folded & 1, -(folded + 1) // 2, folded // 2)


def packed(data: bytes) -> bytes:
    """Returns bytes compressed by zlib, after their compressed length (4 bytes)."""
    small = zlib.compress(data, 9)
    return struct.pack("<I", len(small)) + small


class Reader:
    """Reads strings of `packed` in order; the caller knows their sizes.

    Raises:
        CorruptStream: (from each method) the data are damaged.
    """

    def __init__(self, data: bytes):
        self.data = data

    def take(self, size: int) -> bytes:
        """Returns the next string, which has `size` bytes when decompressed."""
        length = int.from_bytes(self.data[:4], "little")
        part, self.data = self.data[4 : 4 + length], self.data[4 + length :]
        inflating = zlib.decompressobj()
        try:
            found = inflating.decompress(part, int(size) + 1)
        except zlib.error as error:
            raise CorruptStream(f"damaged blocks: {error}") from None
        if len(part) != length or len(found) != size or not inflating.eof:
            raise CorruptStream("damaged blocks: wrong length")
        return found

    def end(self):
        """Checks that all data were read."""
        if self.data:
            raise CorruptStream("damaged: bytes after the last block")


def need_scikit_learn():
    """Raises Missing, which says what to install, if scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise Missing(f"{NAME}: this needs scikit-learn: pip install scikit-learn")


def find(text: str) -> Dictionary:
    """Returns the codec that `dictionary` or `dictionary:FILE.npy` names.

    Raises:
        Missing: scikit-learn is not installed.
        ValueError: the file cannot be read, or holds no atoms.
    """
    need_scikit_learn()
    path = text.partition(":")[2]
    if not path:
        return Dictionary(text, cosine_atoms())
    try:
        atoms = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read atoms from {path}: {error}") from None
    sound = isinstance(atoms, np.ndarray) and atoms.dtype == np.float32
    if not sound or atoms.shape[1:] != (SIDE**2,) or not 0 < len(atoms) < 256:
        raise ValueError(f"{path} holds no atoms: float32 [1 to 255, {SIDE**2}]")
    return Dictionary(text, atoms)


def main(argv=None):
    from tfcodec import files, images, inputs

    parser = argparse.ArgumentParser(
        prog="python -m tfcodec.dictionary",
        description="Learns the atoms of the codec dictionary:FILE.npy.",
    )
    parser.add_argument("images", nargs="+", help="folders, globs or photographs")
    parser.add_argument("file", help="where the atoms go, FILE.npy")
    parser.add_argument(
        "--blocks", type=int, default=20_000, help="blocks of 8x8 pixels to learn from"
    )
    args = parser.parse_args(argv)
    try:
        need_scikit_learn()
        paths = inputs.find_images(args.images)
        each, rng, blocks = -(-args.blocks // len(paths)), np.random.default_rng(0), []
        for path in paths:
            planes = tiling.pad(images.read_rgb(path), SIDE) @ YCBCR.T
            own = blocks_of(planes)[0].reshape(-1, SIDE**2)
            blocks.append(rng.permutation(own)[:each])
        atoms = learned(np.concatenate(blocks))
        with files.new_file(args.file) as file:
            np.save(file, atoms)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
