"""The architectures that the field grew from: what each of them has of its own."""

import json

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

from tests import tiny
from tests.test_data import made_set
from tfcodec import (
    architectures,
    codec,
    constants,
    engine,
    entropy,
    litert_export,
    registry,
    training,
    walk,
    weights,
)


def trained(arch, run, **settings):
    """The exported model of a training of a few steps, with its LiteRT files."""
    settings = {"steps": 3, "batch": 4, "lmbda": 0.01, **settings}
    with tiny.unoptimised(), tiny.without_effort():
        exported = training.train(training.TrainConfig(arch=arch, **settings), run)
    litert_export.export(exported)
    return registry.Model.at(exported)


def both_engines(model):
    names = ["tensorflow"]
    if engine.litert_installed():
        names.append("litert")
    return [codec.load(model.path, name) for name in names]


def check_files(model, images, level=None):
    """Each engine reads what each has written: integers to the bit, pixels to 1."""
    engines = both_engines(model)
    for image in images:
        for writer in engines:
            data = writer.compress(image, level or 50, verify=True)
            parts = codec.bitstream.unpack(data)
            decoded = [each.decompress(*parts).astype(int) for each in engines]
            assert decoded[0].shape == image.shape
            assert np.abs(decoded[0] - decoded[-1]).max() <= 1
    y = engines[0].engine.analysis(tiny.photograph(model.stride, 2 * model.stride))
    strings = [each.engine.encode(y, np.float32(0.7)) for each in engines]
    assert strings[0][0] == strings[-1][0]
    for first, last in zip(strings[0][1:], strings[-1][1:]):
        np.testing.assert_array_equal(first, last)
    for each in engines[1:]:
        check_slope(model, each.engine)
        image = images[0]
        data = each.compress(image, level or 50, effort=1)
        assert each.decompress(*codec.bitstream.unpack(data)).shape == image.shape


def check_slope(model, litert):
    """LiteRT's slope of the synthesis is the gradient that TensorFlow derives."""
    built, quality = architectures.from_card(model.card), np.float32(0.7)
    weights.load_model(built, model.path)
    y_hat = 3 * tf.random.stateless_normal([1, 16, 12, model.channels], (3, 4))
    with tf.GradientTape() as tape:
        tape.watch(y_hat)
        image = built.synthesise(y_hat, quality[None])
        slope = tf.random.stateless_normal(image.shape, (1, 2))
        total = tf.reduce_sum(image * slope)
    expected = tape.gradient(total, y_hat).numpy()
    found = litert._slope(y_hat.numpy(), quality, slope[0].numpy())
    # The file has constants in half precision. With these, a unit that is near zero may
    # be on its other side.
    lmbda = float(built.lmbda_at(quality))
    assert float(found["lmbda"]) == pytest.approx(lmbda, rel=2e-3)
    error = np.linalg.norm(found["slope"] - expected)
    assert error < 0.05 * np.linalg.norm(expected)


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """TFDS's own reader of CIFAR-10, over files of its format with a few pictures.

    Of each picture a byte of its label, then 3 x 32 x 32 of pixels, red first.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path / "files" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    pixels = tiny.photograph(256, 256)
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    for number, name in enumerate(names):
        whole = b""
        for k in range(4):
            corner = 32 * number, 32 * k
            crop = pixels[corner[0] :, corner[1] :][:32, :32]
            whole += bytes([k]) + crop.transpose(2, 0, 1).tobytes()
        (folder / name).write_bytes(whole)
    labels = "\n".join(
        "airplane automobile bird cat deer dog frog horse ship truck".split()
    )
    (folder / "batches.meta.txt").write_text(labels + "\n")
    monkeypatch.setattr(
        tfds.download.DownloadManager,
        "download_and_extract",
        lambda self, url: str(folder.parent),
    )
    return {"dataset": "cifar10", "data_dir": str(tmp_path / "data")}


def test_pictures_of_32_pixels_train_and_code_by_the_data_set_of_that_name(
    cifar10, tmp_path
):
    options = json.dumps({"n": 8, "m": 8, "layers": 2, "pooled": True})
    model = trained(
        "cnn", tmp_path / "run", options=options, patch=32, lmbda=0.0, **cifar10
    )
    assert model.stride == 4
    assert model.card["training"]["figures"][0]["psnr"] > 5
    image = tiny.photograph(32, 32)
    check_files(model, [image, tiny.photograph(37, 50)])
    size = len(codec.compress(image, 50, model.path))
    # As many latents as pixels ask for: none of a picture that was padded to 64.
    assert size < len(codec.compress(tiny.photograph(64, 64), 50, model.path))


def test_grey_digits_of_28_pixels_train_and_code_without_padding(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    grey = tiny.photograph(28, 28).mean(-1).astype(np.uint8)
    name, folder = made_set(tfds, tmp_path, "digits", grey[..., None])
    options = json.dumps({"n": 8, "m": 8, "layers": 2})
    model = trained(
        "cnn", tmp_path / "run", options=options, patch=28, dataset=name,
        data_dir=folder,
    )  # fmt: skip
    check_files(model, [grey, tiny.photograph(28, 28)])
    y = codec.load(model.path, "tensorflow").engine.analysis(tiny.photograph(28, 28))
    assert y.shape == (1, 7, 7, 8)
    config = training.TrainConfig(arch="cnn", dataset=name, data_dir=folder)
    with pytest.raises(ValueError, match="has 64 pixels a side .as many as --patch"):
        training.datasets(config)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_plain_autoencoder_begins_with_grey_and_with_no_layer_that_mutes(pooled):
    lmbda = (0.01, 0.01)
    model = architectures.build("cnn", lmbda, n=16, m=16, layers=3, pooled=pooled)
    image = tiny.photograph(64, 64)[None]
    y = model.analyse(image)
    latents = tf.random.stateless_normal(y.shape, (1, 2))
    for network, start in (
        (model.analysis, image / 25.5 - 5),
        (model.synthesis, latents),
    ):
        x, powers = start, []
        for layer in network.layers:
            x = layer(x)
            if isinstance(layer, tf.keras.layers.ReLU):
                powers.append(float(tf.reduce_mean(x**2)))
        assert max(powers) < 8 * min(powers)
    assert 0 < np.std(model.synthesise(y, tf.zeros([1]))) < 25


def test_a_patch_that_the_stride_does_not_divide_is_refused_with_the_stride():
    def config(**settings):
        return training.TrainConfig(arch="cnn", images="x", **settings)

    config(patch=48).check()
    with pytest.raises(ValueError, match="multiple of 16"):
        config(patch=28).check()
    with pytest.raises(ValueError, match="at least 11"):
        config(patch=8, options='{"layers": 2}').check()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return str(tiny.images(tmp_path_factory.mktemp("images")))


def test_predicted_integers_come_back_in_both_coders_and_planes_cost_nothing():
    coder = entropy.Predicted(3, 2)
    z = np.random.default_rng(0).integers(-2047, 2048, (1, 5, 7, 3)).astype("f4")
    row, column = np.indices((5, 7))
    z[0, ..., 0] = 3 * row - 2 * column + 40
    residuals = coder.residuals(z, z)
    np.testing.assert_array_equal(coder.restored(residuals), z)
    assert not np.any(residuals[0, 1:, 1:, 0])
    assert np.abs(residuals).max() <= constants.LATENT_MAX
    np.testing.assert_array_equal(residuals[..., 2], z[..., 2])
    tables = {"frequency": [4096] * 3, "size": [1] * 3, "offset": [0] * 3}
    numbers = {f"tables/{k}": np.array(v) for k, v in tables.items()}
    plain = walk.coder_of({**numbers, "predicted": np.array(2)})
    np.testing.assert_array_equal(plain.residuals(z[0]), residuals[0])
    np.testing.assert_array_equal(plain.restored(plain.residuals(z[0])), z[0])
    # Forged residuals: the sums wrap, in both alike.
    forged = np.full((1, 40, 50, 3), 65000, "f4")
    np.testing.assert_array_equal(
        coder.restored(forged)[0], plain.restored(forged[0].astype(np.int64))
    )


def test_a_perceptron_sees_its_own_block_alone_and_predicts_in_every_engine(
    images, tmp_path
):
    options = json.dumps({"m": 12, "predict": True})
    model = trained(
        "mlp", tmp_path, options=options, patch=64, images=images, lmbda=0.0
    )
    assert model.reach == {"analysis": 0, "synthesis": 0}
    check_files(model, [tiny.photograph(50, 70)])


@tiny.unoptimised()
@tiny.without_effort()
def test_l1_makes_zeros_which_the_card_counts(images, tmp_path):
    shares = {}
    for sparsity in (0, 20):
        options = {"n": 8, "m": 8, "layers": 2, "sparsity": sparsity}
        config = training.TrainConfig(
            arch="sparse", options=json.dumps(options), images=images, patch=64,
            steps=40, batch=2, warmup=1, learning_rate=3e-3, average=0.5, lmbda=0.01,
            validation_images=1,
        )  # fmt: skip
        card = registry.Model.at(training.train(config, tmp_path / str(sparsity))).card
        (row,) = card["training"]["figures"]
        shares[sparsity] = row["zeros"]
    assert shares[0] < 0.8
    assert shares[20] > shares[0] + 0.1


def test_options_that_no_network_has_are_refused():
    for arch, options, words in (
        ("sparse", {"sparsity": -1}, "at least 0"),
        ("mlp", {"block": 7}, "4, 8 or 16"),
        ("mlp", {"activation": "soft"}, "soft"),
    ):
        with pytest.raises(ValueError, match=words):
            architectures.assembled(arch, (0.01, 0.01), **options)
