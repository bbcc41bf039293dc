"""Architectures by name: functions that assemble a model, each citing its paper.

Each can be trained for one lambda or for a range. The argument `lmbda` is (lowest,
highest). Hyper synthesis is exact integer arithmetic here, unlike in the papers, as a
file must decode on every machine.
"""

from __future__ import annotations

import inspect
import math

import tensorflow as tf

from tfcodec import transforms as t
from tfcodec.constants import PYRAMID
from tfcodec.densities import SCALES
from tfcodec.entropy import Conditional, Factorized, Predicted
from tfcodec.losses import Distortion
from tfcodec.model import CompressionModel


def cnn(lmbda, n=128, m=128, layers=4, kernel=5, pooled=False):
    """A plain convolutional autoencoder, strided or pooled, and a factorised prior.

    It has only what all compressive autoencoders have in common (Theis, Shi,
    Cunningham, Huszar 2017, arXiv:1703.00395, and many since): convolutions, ReLU, and
    rounding to integers. Fewer layers suit small pictures: with `layers=2` the stride
    is 4, so that pictures of 28x28 and 32x32 pixels need no padding.
    """
    return CompressionModel(
        t.analysis_cnn(n, m, layers, kernel, pooled), Factorized(m),
        t.synthesis_cnn(n, layers, kernel, pooled),
        channels=m, stride=2**layers, lmbda=lmbda,
    )  # fmt: skip


def sparse(lmbda, sparsity=0.1, **options):
    """`cnn` whose training penalises the magnitude of latents, so that many are zero.

    This is the penalty of sparse coding (Olshausen and Field 1996,
    doi:10.1038/381607a0), in addition to the rate. `sparsity` becomes the attribute of
    `CompressionModel`; at 0 there is only the rate. Logs and cards tell the share of
    latents that are zero.

    Raises:
        ValueError: the sparsity is negative.
    """
    if not sparsity >= 0:
        raise ValueError(f"sparsity must be at least 0, not {sparsity}")
    model = cnn(lmbda, **options)
    model.sparsity = sparsity
    return model


def mlp(lmbda, m=64, block=8, activation="tanh", predict=False):
    """A perceptron with one hidden layer, applied to each block of the image alone.

    The m outputs of the hidden layer are coded, and the output layer, which is linear,
    turns them into a block: Cottrell, Munro and Zipser 1987 ("Image compression by back
    propagation", ICS report 8702, University of California, San Diego), there with 64
    grey pixels and 16 hidden units.

    With `predict` the mean luma and chroma of a block are coded too, minus their
    prediction from neighbouring blocks. The exact coder predicts integers from integers
    (`entropy.Predicted`), not pixels from decoded pixels as in classical predictive
    coding: those are floating point here, and an encoder and a decoder on two machines
    would drift apart from block to block.

    Raises:
        ValueError: `block` is not 4, 8 or 16.
    """
    if block not in (4, 8, 16):
        raise ValueError(f"block must be 4, 8 or 16, not {block}")
    means = 3 if predict else 0
    coder = Predicted(m + means, means) if predict else Factorized(m)
    return CompressionModel(
        t.analysis_mlp(m, block, activation, means), coder,
        t.synthesis_mlp(block, means), channels=m + means, stride=block, lmbda=lmbda,
    )  # fmt: skip


def bls2017(lmbda, n=128):
    """Three layers and a factorised prior. Balle et al. 2017, arXiv:1611.01704."""
    return CompressionModel(
        t.analysis_bls2017(n), Factorized(n), t.synthesis_bls2017(n),
        channels=n, stride=16, lmbda=lmbda,
    )  # fmt: skip


def bmshj2018_factorized(lmbda, n=192, m=192):
    """Four layers and a factorised prior. Balle et al. 2018, arXiv:1802.01436."""
    return CompressionModel(
        t.analysis_bmshj2018(n, m), Factorized(m), t.synthesis_bmshj2018(n),
        channels=m, stride=16, lmbda=lmbda,
    )  # fmt: skip


def _hyperprior(lmbda, n, m, features, means):
    net = t.parameters(m, scales=SCALES, kernel=3, means=means)
    coder = Conditional(
        t.hyper_analysis(n), t.hyper_synthesis(features), n, [m], [net],
        magnitudes=not means,
    )  # fmt: skip
    return CompressionModel(
        t.analysis_bmshj2018(n, m), coder, t.synthesis_bmshj2018(n),
        channels=m, stride=64, lmbda=lmbda,
    )  # fmt: skip


def bmshj2018_hyperprior(lmbda, n=192, m=192):
    """Scale hyperprior. Balle et al. 2018, arXiv:1802.01436."""
    return _hyperprior(lmbda, n, m, (n, n, n), means=False)


def mbt2018_mean(lmbda, n=192, m=320):
    """Mean-scale hyperprior, no context model. Minnen et al. 2018, arXiv:1809.02736."""
    return _hyperprior(lmbda, n, m, (m, m, m * 3 // 2), means=True)


def _slices(widths, kernels, slices):
    return [
        t.slice_net(widths, kernels, c, scales=SCALES, index=k)
        for k, c in enumerate(slices)
    ]


def ms2020(
    lmbda, n=192, m=320, slices=10, support=5, h=320, features=(192, 256),
    hidden=(224, 128),
):  # fmt: skip
    """Channel-conditional. Minnen, Singh 2020, arXiv:2007.08739.

    Unlike in the paper, one network per slice gives both index and mean. It sees the
    earlier slices without latent residual prediction, which is floating point, and
    which only the synthesis sees.

    Raises:
        ValueError: `m` is not a multiple of `slices`.
    """
    if m % slices:
        raise ValueError(f"m must be a multiple of slices, {slices}, not {m}")
    sizes = [m // slices] * slices
    coder = Conditional(
        t.hyper_analysis(h, n), t.hyper_synthesis((*features, m)), n, sizes,
        _slices(hidden, (5, 5, 3), sizes),
        [t.residual_prediction(hidden, c, k) for k, c in enumerate(sizes)],
        support=support,
    )  # fmt: skip
    return CompressionModel(
        t.analysis_bmshj2018(n, m), coder, t.synthesis_bmshj2018(n),
        channels=m, stride=64, lmbda=lmbda,
    )  # fmt: skip


def tfcodec(
    lmbda, widths=(96, 192, 320), blocks=(4, 4), synthesis_blocks=(4, 4), n=128, z=128,
    features=224, hidden=160, slices=(3, 13, 24, 40, 80, 160), pyramid=48, window=32,
    anchors=10,
):  # fmt: skip
    """Ours: linear transform plus cheap convolutions, mean-scale hyperprior, slices.

    The first slice, the mean luma and chroma of blocks, is coded from coarse to fine,
    each of the others in two passes.

    Args:
        lmbda: (lowest, highest); a range makes one model for every quality.
        widths: channels at 1/4, 1/8 and of the latents at 1/16.
        blocks: residual blocks of the analysis at 1/8 and 1/16.
        synthesis_blocks: those of the synthesis; fewer make a faster decoder.
        n, z: channels of the hyper analysis and of z.
        features, hidden: channels of the hyper synthesis and of the slice networks.
        slices: channels of each slice, in coding order.
        pyramid: channels of the networks that code the first slice.
        window: side in pixels of the linear transform's blocks, which begin every 16.
        anchors: number of qualities at which the gains are learned.

    Raises:
        ValueError: the slices do not add up to the latents, or the window is not a
            multiple of 16.
    """
    if sum(slices) != widths[-1]:
        raise ValueError(
            f"slices add up to {sum(slices)}, and widths end with {widths[-1]}"
        )
    if window % 16:
        raise ValueError(f"window must be a multiple of 16, not {window}")
    means, *rest = slices
    first = t.slice_net((hidden, hidden), (3, 1, 1), means, scales=SCALES, index=0)
    coder = Conditional(
        t.hyper_analysis(n, z), t.hyper_synthesis((n, features, features)), z, slices,
        [first]
        + [
            t.TwoPassNet(hidden, c, scales=SCALES, index=k)
            for k, c in enumerate(rest, 1)
        ],
        pyramid_nets=[
            t.slice_net((pyramid,), (1, 1), means, scales=SCALES, index=f"0_{k}")
            for k in range(len(PYRAMID))
        ],
    )  # fmt: skip
    return CompressionModel(
        t.analysis_tfcodec(widths, blocks, window), coder,
        t.synthesis_tfcodec(widths, synthesis_blocks, window),
        channels=widths[-1], stride=64, lmbda=lmbda, anchors=anchors,
    )  # fmt: skip


ARCHITECTURES = {
    "mlp": mlp,
    "cnn": cnn,
    "sparse": sparse,
    "bls2017": bls2017,
    "bmshj2018-factorized": bmshj2018_factorized,
    "bmshj2018-hyperprior": bmshj2018_hyperprior,
    "mbt2018-mean": mbt2018_mean,
    "ms2020": ms2020,
    "tfcodec": tfcodec,
}


# Options of which 0 is a value, and those that are lists of any length.
MAY_BE_0 = {"blocks", "synthesis_blocks", "support"}
OF_ANY_LENGTH = {"slices", "hidden"}


def assembled(name: str, lmbda: tuple[float, float], **options) -> CompressionModel:
    """Returns a model of the architecture `name`, whose layers have no variables yet.

    Args:
        name: a key of `ARCHITECTURES`.
        lmbda: (lowest, highest), equal for a model of one rate.
        **options: arguments of the builder, such as `n=128`.

    Raises:
        ValueError: unknown name, or an unknown or invalid option.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"no architecture {name!r}; there are {known}")
    known = defaults(name)
    if unknown := set(options) - set(known):
        raise ValueError(
            f"architecture {name} has no option {min(unknown)!r}, only "
            f"{', '.join(known)}"
        )
    for option, value in options.items():
        if wanted := _wanted(option, value, known[option]):
            raise ValueError(f"architecture {name}: {option} must be {wanted}")
    try:
        return ARCHITECTURES[name](lmbda, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"architecture {name}: {error}") from None


def defaults(name: str) -> dict:
    """Returns the options of the architecture `name`, with their defaults."""
    _, *known = inspect.signature(ARCHITECTURES[name]).parameters.values()
    own = {each.name: each.default for each in known if each.default is not each.empty}
    # The other options of `sparse` are those of `cnn`.
    return {**own, **defaults("cnn")} if len(own) < len(known) else own


def _wanted(option, value, default) -> str:
    """Returns what an option of the type of `default` must be, or "" if it is that."""
    least = 0 if option in MAY_BE_0 else 1

    def counts(number):
        return type(number) is int and number >= least

    if isinstance(default, tuple):
        size = None if option in OF_ANY_LENGTH else len(default)
        good = isinstance(value, (list, tuple)) and all(map(counts, value))
        good = good and (len(value) == size if size else len(value) > 0)
        wanted = f"a list of {f'{size} ' if size else ''}whole numbers from {least} on"
    elif type(default) is int:
        good, wanted = counts(value), f"a whole number from {least} on"
    elif isinstance(default, float):
        good = type(value) in (int, float) and math.isfinite(value)
        wanted = "a number"
    else:
        good = isinstance(value, type(default))
        wanted = "true or false" if isinstance(default, bool) else "a text"
    return "" if good else f"{wanted}, not {value!r}"


def build(
    name: str,
    lmbda: tuple[float, float],
    distortion: Distortion = CompressionModel.distortion,
    **options,
) -> CompressionModel:
    """Returns a model of the architecture `name`, with its variables initialised.

    Args:
        name, lmbda, **options: as for `assembled`.
        distortion: the one that training minimises, by default squared error.

    Raises:
        ValueError: unknown name, or an unknown or invalid option.
    """
    model = assembled(name, lmbda, **options)
    model.distortion = distortion
    return model.initialise()


def from_card(card: dict, make=build) -> CompressionModel:
    """Returns a model of the architecture of an exported one, with initial weights.

    Args:
        card: the `card.json` of the exported model, see `export.export`.
        make: `build`, or `assembled` for a model without variables.
    """
    low = high = card["lmbda"]
    if card.get("quality"):
        low, high = (card["quality"][key] for key in ("lmbda_min", "lmbda_max"))
    model = make(card["architecture"], (low, high), **card["options"])
    model.lowered = lowered(card)
    return model


def realistic(card: dict, counts, precision: str = "float32"):
    """Returns a `RealisticSynthesis` of an exported model, with initial weights.

    Args:
        card: the `card.json` of the exported model.
        counts: its numbers of noise channels.
        precision: the Keras policy of the layers that it shares with the synthesis.
    """
    tf.keras.mixed_precision.set_global_policy(precision)
    own = from_card(card, assembled)
    tf.keras.mixed_precision.set_global_policy("float32")
    second = t.RealisticSynthesis(own.synthesis, counts)
    second(tf.zeros([1, 4, 4, own.channels]), tf.zeros([2], tf.int32))
    return second


def lowered(card: dict) -> float:
    """Returns `CompressionModel.lowered` of an exported model, by its card.

    Cards of version 0.2.0 tell it among the settings of the training alone.
    """
    settings = card.get("training", {}).get("settings", {})
    return (card.get("quality") or {}).get("lowered", settings.get("extrapolate", 0.0))
