"""How Python functions are traced to graphs."""

from __future__ import annotations

import functools

import tensorflow as tf

# AutoGraph rewrites every Python function that is traced, so that loops over tensors
# may be written in Python. Ours use `tf.while_loop`, and without AutoGraph tracing
# takes half the time.
traced = functools.partial(tf.function, autograph=False)
as_written = tf.autograph.experimental.do_not_convert
