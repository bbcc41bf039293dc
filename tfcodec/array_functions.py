"""Functions on arrays that NumPy and TensorFlow both have, under one set of names.

A formula written with `NUMPY` or with `of_tensorflow()` as its argument `xp` is written
once, and is the same in training as on a machine without TensorFlow.
"""

from __future__ import annotations

import functools
import types

import numpy as np

NUMPY = types.SimpleNamespace(
    cast=np.float32,
    maximum=np.maximum,
    minimum=np.minimum,
    where=np.where,
    abs=np.abs,
    sum=np.sum,
    shape=np.shape,
    concat=np.concatenate,
    stack=np.stack,
    reshape=np.reshape,
    transpose=np.transpose,
)


@functools.lru_cache(1)
def of_tensorflow():
    """Returns the functions in `NUMPY`, from TensorFlow."""
    import tensorflow as tf

    return types.SimpleNamespace(
        cast=lambda x: tf.cast(x, tf.float32),
        maximum=tf.maximum,
        minimum=tf.minimum,
        where=tf.where,
        abs=tf.abs,
        sum=tf.reduce_sum,
        shape=lambda x: tuple(
            known if known is not None else tf.shape(x)[axis]
            for axis, known in enumerate(x.shape)
        ),
        concat=tf.concat,
        stack=tf.stack,
        reshape=tf.reshape,
        transpose=tf.transpose,
    )
