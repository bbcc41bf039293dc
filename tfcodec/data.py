"""Training and validation data: image folders, globs, TFDS; every example repeatable.

Example `i` of a training set, counted from the start of the training, depends only on
the seed and `i`: its image, crop, quality and noise.  So a training that resumes at
example `i` continues as if it had not been interrupted.
"""

from __future__ import annotations

import atexit
import dataclasses
import difflib
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

from tfcodec import console, held_out, images
from tfcodec.pixels import rgb_of
from tfcodec.tiff import Unfit

VALIDATION_SIDE = 256  # pixels, of a validation crop at most
VALIDATION_QUALITIES = (0.1, 0.3, 0.5, 0.7, 0.9)  # on the scale of 0 to 1
# If so many files in a row fail, the folder is taken to be gone or useless.
TRIES = 20


@atexit.register
def _release():
    """Frees the iterators of a training that failed, before Python shuts down.

    The frames of the exception refer to them. Threads of an iterator wait for our
    Python functions to return, and once the interpreter shuts down they never do.
    """
    sys.last_value = sys.last_traceback = None
    gc.collect()


def usable(paths: Sequence[Path], side: int) -> list[Path]:
    """Returns the files that open as images with sides of at least `side` pixels.

    The log counts the others, and names the first unreadable one.

    Raises:
        ValueError: there is no such file.
    """
    good, small, broken = [], 0, []
    for path in paths:
        try:
            size = images.size_of(path)
        except Exception as error:  # Pillow may raise anything on a damaged file.
            broken.append(console.named(path, error))
            continue
        if min(size) < side:
            small += 1
        else:
            good.append(path)
    first = f" ({broken[0]})" if broken else ""
    if small or broken:
        logging.warning(
            "%d images; left out: %d smaller than %d pixels, %d unreadable%s",
            len(good), small, side, len(broken), first,
        )  # fmt: skip
    if not good:
        raise ValueError(
            f"no readable image of at least {side} pixels a side among "
            f"{len(paths)}{first}"
        )
    return good


def random_crop(image: Image.Image, side: int, rng) -> np.ndarray:
    """Returns uint8 [side, side, 3]: reduced by 0.5 to 1, cropped, mirrored at random.

    Reduction removes artifacts of JPEG, and adds variety of scale.
    """
    window = min(side / rng.uniform(0.5, 1.0), *image.size)
    left, top = (rng.uniform(0, extent - window) for extent in image.size)
    if window < side * 1.02:  # So small a reduction would only blur.
        left, top, window = int(left), int(top), side
    box = (left, top, left + window, top + window)
    crop = image.resize((side, side), Image.Resampling.LANCZOS, box)
    pixels = np.asarray(crop)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def centre_crop(image: Image.Image, multiple: int) -> np.ndarray:
    """Returns the centre, uint8 [h, w, 3]; h, w: multiples of `multiple`, up to 256."""
    width, height = (min(x, VALIDATION_SIDE) // multiple * multiple for x in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


@dataclasses.dataclass(frozen=True)
class Share:
    """Which examples of each batch a worker reads, if several workers train one model.

    Worker 0 reads the first examples of a batch, worker 1 those after them, and so on,
    so that together they see the same batches as a single worker would.

    Args:
        worker: number of the worker, from 0 on.
        workers: number of workers.
        replicas: of the model on each worker; a worker's part of a batch is divided
            equally among them.
    """

    worker: int = 0
    workers: int = 1
    replicas: int = 1

    def batch(self, batch: int) -> int:
        """Returns how many examples of a whole batch one replica takes."""
        return batch // (self.workers * self.replicas)

    def of(self, examples: tf.data.Dataset, batch: int, first: int) -> tf.data.Dataset:
        """Removes the examples of other workers from a dataset.

        Args:
            examples: of numbers from `first` on, or of tuples that begin with these.
            batch: number of examples in a whole batch.
            first: number of the first example.
        """
        if self.workers == 1:
            return examples
        own = batch // self.workers

        def mine(number, *_):
            return tf.equal((number - first) % batch // own, self.worker)

        return examples.filter(mine)


WHOLE = Share()


def _labels(rng):
    return np.float32(rng.random()), rng.integers(0, 2**31 - 1, 2, dtype=np.int32)


def _dataset(indexes, function, side, batch):
    """Maps example numbers to batches of {image, quality, seed}, in order.

    `function` makes (image, quality, seed) of a number, in Python.
    """

    def example(*inputs):
        kinds = (tf.uint8, tf.float32, tf.int32)
        image, quality, seed = tf.numpy_function(function, inputs, kinds)
        return {
            "image": tf.ensure_shape(image, [side, side, 3]),
            "quality": tf.ensure_shape(quality, []),
            "seed": tf.ensure_shape(seed, [2]),
        }

    examples = indexes.map(example, num_parallel_calls=2, deterministic=True)
    return examples.batch(batch, drop_remainder=True).prefetch(4)


def training_set(
    paths: Sequence[Path],
    side: int,
    batch: int,
    seed: int,
    first: int = 0,
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Endless batches of random crops of files, from example number `first` on.

    Yields dicts of `image` uint8 [batch, side, side, 3], `quality` float32 [batch],
    0 to 1, `seed` int32 [batch, 2]; with a `share`, the part of each batch that one
    replica takes. A file that fails to decode is replaced by the next one of the epoch,
    and named once in the log; after `TRIES` failures in a row the iterator raises a
    ValueError, which names the last file.
    """
    failed: set[str] = set()
    orders: dict[int, np.ndarray] = {}

    def order(epoch):
        if epoch not in orders:
            orders.clear()  # Examples come nearly in order, so one epoch is enough.
            orders[epoch] = np.random.default_rng((seed, 0, epoch)).permutation(
                len(paths)
            )
        return orders[epoch]

    def load(number):
        rng = np.random.default_rng((seed, 1, number))
        quality, noise = _labels(rng)
        shuffled = order(number // len(paths))
        tries = min(TRIES, len(paths))
        for attempt in range(tries):
            path = paths[shuffled[(number + attempt) % len(paths)]]
            try:
                image = Image.fromarray(images.read_rgb(path))
                return random_crop(image, side, rng), quality, noise
            except Exception as error:  # Pillow may raise anything on a damaged file.
                failure = console.named(path, error)
                if path not in failed:
                    failed.add(path)
                    logging.warning("left out: %s", failure)
        raise ValueError(f"{tries} images in a row are unreadable, the last: {failure}")

    numbers = share.of(tf.data.Dataset.range(first, 2**62), batch, first)
    return _dataset(numbers, load, side, share.batch(batch))


def validation_set(pictures: Callable, side: int) -> tf.data.Dataset:
    """Batches of one centre crop at each of `VALIDATION_QUALITIES`.

    The images are read here, once, so that all validations are of the same images, even
    if the files change.

    Args:
        pictures: function that returns an iterator of Pillow images, RGB.
        side: in pixels; sides of a crop are multiples of it.

    Raises:
        ValueError: no image could be read that is large enough.
    """
    crops = {
        number: centre_crop(image, side)
        for number, image in enumerate(pictures())
        if min(image.size) >= side
    }
    if not crops:
        raise ValueError(
            f"no image to validate on could be read that has {side} pixels a side "
            f"(as many as --patch, and at most {held_out.MULTIPLE})"
        )

    def examples():
        for number, pixels in crops.items():
            count = len(VALIDATION_QUALITIES)
            yield {
                "image": np.stack([pixels] * count),
                "quality": np.asarray(VALIDATION_QUALITIES, np.float32),
                "seed": np.full([count, 2], number, np.int32),
            }

    return tf.data.Dataset.from_generator(
        examples,
        output_signature={
            "image": tf.TensorSpec([None, None, None, 3], tf.uint8),
            "quality": tf.TensorSpec([None], tf.float32),
            "seed": tf.TensorSpec([None, 2], tf.int32),
        },
    )


def open_images(paths: Sequence[Path], count: int) -> Callable:
    """Returns a function that reads up to `count` of the files, evenly spread.

    It yields Pillow images, RGB. A file that fails to decode is named in the log, and
    replaced by the next one, unless that is yielded anyway.
    """
    step = max(1, len(paths) // count)

    def pictures():
        for start in range(0, min(len(paths), count * step), step):
            for path in paths[start : start + step]:
                try:
                    whole = Image.fromarray(images.read_rgb(path))
                except Exception as error:  # Pillow may raise anything on damage.
                    logging.warning("left out: %s", console.named(path, error))
                    continue
                yield whole
                break

    return pictures


def _tfds_builder(name, data_dir):
    """Returns the builder of a TFDS data set.

    Raises:
        ValueError: there is none of that name; the message names the most similar ones.
    """
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except ValueError as error:
        if os.path.isdir(name):
            message = f"{name} is a folder, not the name of a data set: use --images"
            raise ValueError(message) from None
        if not isinstance(error, tfds.core.DatasetNotFoundError):
            raise
        # Its own message lists some hundred data sets.
        near = difflib.get_close_matches(name, tfds.list_builders())
        hint = f"; similar ones: {', '.join(near)}" if near else ""
        raise ValueError(f"no TensorFlow Datasets data set {name!r}{hint}") from None


def tfds_sets(name: str, data_dir: str | None, count: int):
    """Returns (training images, validation images) of the TFDS data set `name`.

    The first is a function of a seed that returns an endless, shuffled dataset of
    images, uint8, uint16 or bool [height, width, 1 to 4]. The second is a function that
    returns an iterator of up to `count` Pillow images, RGB. They are the data set's
    validation split, or its test split if it has none, or else the last hundredth of
    the training split, which is then not trained on.

    Raises:
        ValueError: there is no such data set, it has no images, or their values for
            black and white are not known.
    """
    builder = _tfds_builder(name, data_dir)
    if "image" not in (builder.info.features or ()):
        raise ValueError(f"{name}: its examples have no image")
    kind = tf.as_dtype(builder.info.features["image"].dtype).as_numpy_dtype
    try:
        rgb_of(np.zeros([1, 1, 1], kind))
    except Unfit as error:
        raise ValueError(f"{name}: {error}") from None
    builder.download_and_prepare()
    splits = [s for s in ("validation", "test") if s in builder.info.splits]
    train, valid = ("train", splits[0]) if splits else ("train[:99%]", "train[99%:]")

    def load(split):
        return builder.as_dataset(split=split).map(lambda example: example["image"])

    def training(seed):
        shuffled = load(train).shuffle(512, seed=seed, reshuffle_each_iteration=True)
        return shuffled.repeat()

    def validation():
        for pixels in load(valid).take(count).as_numpy_iterator():
            yield Image.fromarray(rgb_of(pixels))

    return training, validation


def tfds_training_set(
    pictures: Callable,
    side: int,
    batch: int,
    seed: int,
    first: int = 0,
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """As `training_set`, for TFDS images; to resume, it reads all earlier images again.

    `pictures` is the first result of `tfds_sets`.
    """

    def load(number, pixels):
        rng = np.random.default_rng((seed, 1, number))
        quality, noise = _labels(rng)
        image = Image.fromarray(rgb_of(pixels))
        return random_crop(image, side, rng), quality, noise

    def large(pixels):
        return tf.reduce_min(tf.shape(pixels)[:2]) >= side

    numbered = pictures(seed).filter(large).enumerate().skip(first)
    numbered = share.of(numbered, batch, first)
    return _dataset(numbered, load, side, share.batch(batch))
