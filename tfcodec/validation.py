"""Figures of a model on the validation crops, for logs and for its card."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfcodec import data, losses, ssimulacra2
from tfcodec.tracing import traced

# Digits after the point of each figure in a card.
DIGITS = {
    "bpp": 4, "psnr": 3, "distortion": 4, "zeros": 4, "ms_ssim": 5, "ssimulacra2": 2,
}  # fmt: skip


@traced(input_signature=[tf.TensorSpec([None, None, None, 3])] * 2)
def compared(x, x_hat):
    """Compares reconstructions by `psnr`, `ms_ssim` and `ssimulacra2`, each [b].

    The last is a distance, which `ssimulacra2.score_of` turns into a score. This graph
    is traced once for all models, as it is larger than that of a small model.

    Args:
        x, x_hat: pixels [b, h, w, 3], float32, those of `x_hat` not clipped.
    """
    decoded = tf.clip_by_value(tf.round(x_hat), 0, 255)  # as in an image file
    return {
        "psnr": losses.psnr(losses.mse(x, x_hat)),
        "ms_ssim": losses.ms_ssim(x, decoded),
        "ssimulacra2": ssimulacra2.distance(x, decoded),
    }


class Validation:
    """Measures a model on validation crops.

    Args:
        model: a `CompressionModel`, whose weights may change between measurements.
        crops: dataset of `data.validation_set`.
    """

    def __init__(self, model, crops):
        self.model, self.crops = model, crops
        # One graph, for crops of all sizes.
        self.outcome = traced(model.outcome, [crops.element_spec])

    def _measured(self, inputs):
        found = dict(self.outcome(inputs))
        x_hat, cost = found.pop("x_hat"), found.pop("cost")
        x = tf.cast(inputs["image"], tf.float32)
        return {"loss": cost, **found, **compared(x, x_hat)}

    def figures(self) -> dict[str, np.ndarray]:
        """Returns means over the crops by name, one for each of VALIDATION_QUALITIES.

        Names are `loss`, `bpp` (estimated), `psnr` (the mean of decibels), `distortion`
        (that which the model is trained for), `ms_ssim` and `ssimulacra2` (the mean of
        scores); for a model with a sparsity `zeros`, the share of latents that are
        zero.
        """
        results = []
        for inputs in self.crops:
            values = {key: v.numpy() for key, v in self._measured(inputs).items()}
            values["ssimulacra2"] = ssimulacra2.score_of(values["ssimulacra2"])
            results.append(values)
        return {key: np.mean([r[key] for r in results], 0) for key in results[0]}

    def rows(self) -> list[dict]:
        """Returns `figures` in the form of a card, a row for each quality, no loss.

        A model of one rate has one row, whose quality is None.
        """
        figures, variable = self.figures(), self.model.variable_rate
        qualities = data.VALIDATION_QUALITIES if variable else [None]
        return [
            {"quality": quality if quality is None else round(100 * quality)}
            | {
                k: round(float(figures[k][i]), digits)
                for k, digits in DIGITS.items()
                if k in figures
            }
            for i, quality in enumerate(qualities)
        ]
