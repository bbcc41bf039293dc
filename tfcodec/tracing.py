"""How functions become graphs."""

from __future__ import annotations

import functools

import tensorflow as tf

# AutoGraph rewrites each Python function that a graph is made of, so that loops over
# tensors may be written as those of Python. Ours are `tf.while_loop`, and without it a
# graph is made in half the time.
traced = functools.partial(tf.function, autograph=False)
as_written = tf.autograph.experimental.do_not_convert
