"""Properties that every architecture has: trained for a moment, exported, used."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

from tests import tiny
from tfcodec import (
    architectures,
    bitstream,
    codec,
    compression,
    export,
    metrics,
    registry,
    tiling,
    training,
    weights,
)
from tfcodec.losses import Distortion
from tfcodec.quality import fraction


def batch_of(count=4, side=64, seed=0):
    rng = np.random.default_rng(seed)
    pixels = tiny.photograph(512, 512)
    corners = rng.integers(0, 512 - side, [count, 2])
    return {
        "image": np.stack([pixels[r : r + side, c : c + side] for r, c in corners]),
        "quality": rng.uniform(0, 1, count).astype(np.float32),
        "seed": rng.integers(0, 2**31, [count, 2]).astype(np.int32),
    }


@pytest.fixture(scope="module", params=list(tiny.OPTIONS))
def trained(request, tmp_path_factory):
    """(model, exported directory, losses) of an architecture."""
    arch = request.param
    config = training.TrainConfig(**tiny.flags(arch, images="-", steps=120))
    model = training.build(config)
    dataset = tf.data.Dataset.range(120).map(
        lambda i: {
            k: tf.ensure_shape(v, s)
            for (k, s), v in zip(
                (("image", [4, 64, 64, 3]), ("quality", [4]), ("seed", [4, 2])),
                tf.numpy_function(
                    lambda n: tuple(batch_of(seed=n).values()),
                    [i],
                    [tf.uint8, tf.float32, tf.int32],
                ),
            )
        }
    )
    losses = []

    class Losses(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            losses.append(logs["loss"])
            self.model.reset_metrics()

    with tiny.unoptimised():
        model.fit(dataset, verbose=0, callbacks=[Losses()])
    directory = tmp_path_factory.mktemp(arch) / "model"
    export.export(model, directory, arch, config.builder_options())
    return model, directory, losses


def forward(model, directory, image, level):
    """The forward pass of the trained model, as pixels and as bits.

    From the latents of the exported analysis: another order of sums in it rounds one
    latent in a million to another integer, which is no error.
    """
    padded = tf.constant(tiling.pad(image, model.stride))
    y = codec.load(directory, "tensorflow").engine.analysis(padded)
    quality = tf.constant([fraction(level)], tf.float32)
    y_hat, bits = model.coder(model.scaled_latents(y, quality))
    x_hat = model.synthesise(y_hat, quality)[0]
    pixels = tf.cast(tf.clip_by_value(tf.round(x_hat), 0, 255), tf.uint8).numpy()
    return pixels[: image.shape[0], : image.shape[1]], float(bits[0])


def test_training_lowers_the_loss(trained):
    model, _, losses = trained
    assert len(losses) == 120
    # Ours starts as a cosine transform, not at noise, and so has less far to fall.
    assert np.mean(losses[-20:]) < (0.85 if model.variable_rate else 0.7) * np.mean(
        losses[:20]
    )


@pytest.mark.parametrize("size", [(64, 128), (1, 1), (37, 101), (200, 3)])
@pytest.mark.parametrize("level", [0, 63.21, 100])
def test_decompressed_image_is_the_forward_pass(trained, size, level):
    model, directory, _ = trained
    image = tiny.photograph(*size)
    data = codec.compress(image, level, directory)
    decoded = codec.decompress(data, directory)
    expected, _ = forward(model, directory, image, level)
    assert decoded.shape == image.shape
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_file_is_as_long_as_the_model_says(trained):
    model, directory, _ = trained
    image = tiny.photograph(512, 512)
    _, bits = forward(model, directory, image, 30)
    # Lanes, header and the escapes of so short a training weigh more than in a
    # photograph's file.
    size = len(codec.compress(image, 30, directory))
    assert bits / 8 < size < 1.06 * bits / 8 + 100


def test_effort_lowers_the_cost_and_leaves_the_decoder_alone(trained):
    model, directory, _ = trained
    image = tiny.photograph(192, 192)
    level = 60 if model.variable_rate else 50
    lmbda = float(model.lmbda_at(tf.constant(fraction(level))))
    told, costs = [], []
    for effort in (0, 4):
        data = codec.compress(
            image, level, directory, effort, lambda *done: told.append(done)
        )
        mse = 255**2 / 10 ** (
            metrics.psnr(image, codec.decompress(data, directory)) / 10
        )
        costs.append(8 * len(data) + lmbda * mse * image.shape[0] * image.shape[1])
    assert costs[1] < costs[0]
    # The analysis, and the cost at first and after each step.
    total = 1 + 1 + compression.EFFORTS[4]
    assert told == [(1, 1)] + [(done, total) for done in range(1, total + 1)]
    with pytest.raises(ValueError, match="effort"):
        codec.compress(image, level, directory, 10)


@pytest.mark.parametrize("text", ["ms-ssim", "mse:0.3,ssimulacra2:0.7,masked-mse"])
def test_improving_lowers_the_cost_that_a_model_is_trained_for(
    trained, monkeypatch, text
):
    model, _, _ = trained
    if not model.variable_rate:
        pytest.skip("one architecture is enough")
    distortion = Distortion.parse(text)
    monkeypatch.setattr(model, "distortion", distortion)
    image = tf.constant(tiny.photograph(192, 192)[None])
    quality = tf.constant([fraction(60)], tf.float32)
    first = y = model.analyse(image)
    costs = []
    for step in range(3):
        y, cost = model.improve(image, y, quality, compression.damping(step))
        costs.append(float(cost[0]))
    y_hat, bits = model.coder(model.scaled_latents(first, quality))
    x = tf.cast(image, tf.float32)
    lost = distortion(x, model.synthesise(y_hat, quality)) * 192 * 192
    whole = bits + model.lmbda_at(quality) * lost
    assert costs[0] == pytest.approx(float(whole[0]), rel=1e-4)
    assert min(costs) < 0.99 * costs[0]


def test_calibration_fits_the_rate_to_the_latents(trained):
    model, _, _ = trained
    before = model.coder.quantiser
    if before is None:
        pytest.skip("has no tables of deviations")
    batches = [batch_of(8, seed=seed) for seed in range(1000, 1003)]

    def bits():
        return sum(
            float(tf.reduce_sum(model.outcome(inputs)["bpp"])) for inputs in batches
        )

    costs = [bits()]
    model.calibrate(batches)
    costs.append(bits())
    rows = model.coder.table_rows()
    model.coder.quantiser = before
    assert costs[1] < costs[0]
    assert all(frequency.sum() == 4096 for frequency, _ in rows)
    assert [len(f) for f, _ in rows] == [len(f) for f, _ in model.coder.table_rows()]


def test_card_tells_what_the_model_is(trained):
    model, directory, _ = trained
    card = json.loads((directory / "card.json").read_text())
    found = registry.Model.at(directory)
    assert found.stride == model.stride
    assert found.single_rate != model.variable_rate
    assert len(bytes.fromhex(card["fingerprint"])) == 32
    assert card["exactness"]["largest_sum"] < 2**24
    assert card["exactness"]["convolutions"] == len(model.exact_layers())
    assert set(card["kmac_per_pixel"]) >= {"analysis", "synthesis", "coder"}


@pytest.mark.parametrize("trained", ["bmshj2018-hyperprior"], indirect=True)
def test_a_model_built_anew_takes_all_the_weights_of_an_exported_one(trained):
    """Those of exact networks are stored as integers."""
    model, directory, _ = trained
    card = registry.Model.at(directory).card
    again = architectures.from_card(card)
    weights.load_model(again, directory)
    for layer in again.exact_layers():
        layer.freeze()
    for a, b in zip(weights.stored(model), weights.stored(again)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("trained", ["bls2017"], indirect=True)
def test_fingerprint_follows_the_weights(trained, tmp_path, monkeypatch):
    model, directory, _ = trained
    first = registry.Model.at(directory)
    monkeypatch.setattr(model, "graphs", tiny.decoder_alone(model))
    again = export.export(model, tmp_path / "again", first.name)
    assert registry.Model.at(again).fingerprint == first.fingerprint
    kernel = model.synthesis.trainable_variables[0]
    before = kernel.numpy()
    kernel.assign_add(tf.ones_like(kernel))
    other = export.export(model, tmp_path / "other", first.name)
    kernel.assign(before)
    assert registry.Model.at(other).fingerprint != first.fingerprint


def test_damaged_payload_is_refused(trained):
    _, directory, _ = trained
    image = tiny.photograph(64, 64)
    header, (chunk,) = bitstream.unpack(codec.compress(image, 50, directory))
    for payload in (b"", chunk.data[:-2], chunk.data + b"\0\0", b"\xff" * 99):
        forged = bitstream.pack(header, [bitstream.Chunk(chunk.type, payload)])
        # The last says of itself that it has four thousand million escapes.
        over = payload.startswith(b"\xff")
        kind = bitstream.UnsupportedStream if over else bitstream.CorruptStream
        with pytest.raises(kind):
            codec.decompress(forged, directory)


# Decodes the file of each folder that a line names, with a model, and compares.
ELSEWHERE = """
import json, pathlib, sys
sys.modules["tensorflow_compression"] = sys.modules["keras"] = None
import numpy as np, tfcodec
for line in sys.stdin:
    folder, model = map(pathlib.Path, json.loads(line))
    decoded = tfcodec.decompress((folder / "a.tfc").read_bytes(), model)
    np.testing.assert_array_equal(decoded, np.load(folder / "a.npy"))
    print("equal", flush=True)
"""


@pytest.fixture(scope="module")
def elsewhere():
    """A process that cannot import Keras or TensorFlow Compression."""
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE], env=environment, text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield process
        process.stdin.close()
        assert process.wait() == 0


@pytest.mark.parametrize("trained", ["bls2017", "ms2020", "tfcodec"], indirect=True)
def test_exported_model_runs_without_keras_and_tfc(trained, elsewhere, tmp_path):
    """A file made here decodes in a process that cannot import either."""
    _, directory, _ = trained
    image = tiny.photograph(70, 90)
    data = codec.compress(image, 50, directory)
    (tmp_path / "a.tfc").write_bytes(data)
    np.save(tmp_path / "a.npy", codec.decompress(data, directory))
    print(json.dumps([str(tmp_path), str(directory)]), file=elsewhere.stdin)
    assert elsewhere.stdout.readline() == "equal\n"


def test_unknown_names_and_options_are_explained():
    with pytest.raises(ValueError, match="there are mlp, cnn"):
        architectures.build("bls2018", (0.01, 0.01))
    with pytest.raises(ValueError, match="width"):
        architectures.build("bls2017", (0.01, 0.01), width=8)


@pytest.mark.parametrize(
    ("arch", "options", "words"),
    [
        ("cnn", {"n": 2.5}, "n must be a whole number from 1 on, not 2.5"),
        ("cnn", {"layers": 0}, "layers must be a whole number from 1 on, not 0"),
        ("cnn", {"pooled": 1}, "pooled must be true or false, not 1"),
        ("sparse", {"m": True}, "m must be a whole number from 1 on, not True"),
        ("sparse", {"sparsity": float("inf")}, "sparsity must be a number, not inf"),
        ("sparse", {"q": 1}, "no option 'q', only sparsity, n, m,"),
        ("mlp", {"activation": 3}, "activation must be a text, not 3"),
        ("ms2020", {"features": [8]}, "features must be a list of 2 whole numbers"),
        ("ms2020", {"m": 32, "slices": 3}, "m must be a multiple of slices, 3, not 32"),
        ("tfcodec", {"widths": [8, 12, 16.0]}, "widths must be a list of 3 whole"),
        ("tfcodec", {"blocks": [-1, 2]}, "blocks must be a list of 2 whole numbers f"),
        ("tfcodec", {"slices": []}, "slices must be a list of whole numbers from 1 on"),
        ("tfcodec", {"window": 33}, "window must be a multiple of 16, not 33"),
    ],
)
def test_an_option_of_another_kind_is_refused_by_its_name(arch, options, words):
    with pytest.raises(
        ValueError, match=f"^architecture {arch}:? .*{re.escape(words)}"
    ):
        architectures.assembled(arch, (0.01, 0.1), **options)


def test_every_default_is_a_value_that_is_taken():
    for arch in architectures.ARCHITECTURES:
        architectures.assembled(arch, (0.01, 0.1), **architectures.defaults(arch))


def test_lambda_falls_with_the_gains_that_are_lowered(tmp_path):
    """Twice by one anchor is once by three: each doubles what lies below the second."""
    arch = "tfcodec"
    models = [
        architectures.build(arch, (0.001, 0.032), **tiny.OPTIONS[arch])
        for _ in range(3)
    ]
    plain, twice, once = models
    anchors = plain.gain.anchors
    twice.lower(1)
    twice.lower(1)
    once.lower(3)
    assert plain.lowered == 0
    assert once.lowered == twice.lowered == 3
    qualities = tf.constant(np.linspace(0, 1, 4 * (anchors - 1) + 1), tf.float32)
    lmbdas = [model.lmbda_at(qualities).numpy() for model in models]
    np.testing.assert_allclose(lmbdas[1], lmbdas[2], rtol=1e-5)
    np.testing.assert_allclose(lmbdas[1][4:], lmbdas[0][4:], rtol=1e-5)
    y = tf.ones([len(qualities), 1, 1, plain.channels])
    gains = [model.scaled_latents(y, qualities)[:, 0, 0] for model in models]
    np.testing.assert_allclose(gains[1], gains[2], rtol=1e-5)
    # Gains are proportional to the square root of lambda before training.
    ratio = gains[1][:, 0].numpy() ** 2 / lmbdas[1]
    np.testing.assert_allclose(ratio, ratio[-1], rtol=1e-4)
    directory = export.export(twice, tmp_path / "model", arch, tiny.OPTIONS[arch])
    card = registry.Model.at(directory).card
    assert card["quality"]["lowered"] == 3
    again = architectures.from_card(card)
    np.testing.assert_allclose(again.lmbda_at(qualities), lmbdas[1], rtol=1e-6)
    # As a model of version 0.2.0 tells it.
    del card["quality"]["lowered"]
    assert architectures.lowered(card) == 0
    card["training"] = {"settings": {"extrapolate": 2.0}}
    assert architectures.lowered(card) == 2
