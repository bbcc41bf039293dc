"""Adam with averaged weights, and the schedule of its learning rate."""

from __future__ import annotations

import tensorflow as tf

from tfcodec import programs


class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """`programs.Schedule` for Keras, where a training has a known number of steps.

    Args:
        peak: the highest learning rate.
        warmup: steps of linear warm-up.
        hold: part of `steps` after which the cosine begins.
        steps: number of steps in all.
    """

    def __init__(self, peak, warmup, hold, steps):
        self.peak, self.warmup, self.hold, self.steps = peak, warmup, hold, steps

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        schedule = programs.Schedule(self.peak, self.warmup, self.hold)
        return schedule.rate(step, step / max(1, self.steps), tf)

    def get_config(self):
        return dict(vars(self))


class Adam(tf.keras.optimizers.Adam):
    """Adam that averages weights, but does not replace them when `fit` ends.

    The arithmetic is that of Keras. But Keras uses about 40 operations per variable,
    which take a third of the time until the first step. Here values that all variables
    share are computed once per step, and one TensorFlow operation updates a variable.
    """

    _shared = None  # (powers of both betas, momentum of averages) during a step

    def __init__(self, *args, **kwargs):
        # No XLA: it would compile the update of each variable separately.
        super().__init__(*args, jit_compile=False, **kwargs)

    def apply_gradients(self, *args, **kwargs):
        step = tf.cast(self.iterations + 1, tf.float32)
        powers = [tf.pow(beta, step) for beta in (self.beta_1, self.beta_2)]
        shared = (*powers, self.ema_momentum)
        # Bypasses Keras, which tracks attributes for checkpoints: this is no state.
        object.__setattr__(self, "_shared", shared)
        try:
            return super().apply_gradients(*args, **kwargs)
        finally:
            object.__setattr__(self, "_shared", None)

    def update_step(self, gradient, variable):
        place = self._index_dict[self._var_key(variable)]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[place].handle,
            v=self._velocities[place].handle,
            beta1_power=self._shared[0],
            beta2_power=self._shared[1],
            lr=self.learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    @property
    def ema_momentum(self):
        """Momentum of the averages, lower in the first steps, to forget the start."""
        if self._shared:
            return self._shared[2]
        step = tf.cast(self.iterations, tf.float32)
        return tf.minimum(self._ema_momentum, (1 + step) / (10 + step))

    @ema_momentum.setter
    def ema_momentum(self, value):
        self._ema_momentum = value

    def finalize_variable_values(self, var_list):
        pass

    def slots(self, variables) -> dict[str, list]:
        """Returns the weights and their optimizer state, lists in the same order."""
        return {
            "weights": list(variables),
            "momentum": self._momentums,
            "velocity": self._velocities,
            "average": self._model_variables_moving_average,
        }

    def swap_averages(self, variables):
        """Swaps the weights with their moving averages."""
        for variable, average in zip(variables, self._model_variables_moving_average):
            value = variable.numpy()
            variable.assign(average)
            average.assign(value)


def averaging(config, schedule=None, **moments) -> Adam:
    """Returns the optimizer that a config describes.

    Args:
        config: has `learning_rate`, `warmup`, `hold`, `steps`, `clip` and `average`.
        schedule: of the learning rate, to use in place of the config's.
        **moments: `beta_1` and `beta_2`, by default those of Keras.
    """
    return Adam(
        schedule
        or Schedule(config.learning_rate, config.warmup, config.hold, config.steps),
        global_clipnorm=config.clip,
        use_ema=True,
        ema_momentum=config.average,
        ema_overwrite_frequency=None,
        **moments,
    )


def inner_optimizer(model) -> Adam:
    """Returns a model's optimizer, without a wrapper that scales the loss."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def steps_taken(model) -> int:
    """Returns the number of optimizer steps that a model was trained for."""
    return int(inner_optimizer(model).iterations.numpy())
