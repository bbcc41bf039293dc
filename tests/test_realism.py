"""The second synthesis: noise, critics, training, and how files are opened with it."""

import filecmp
import json
import pathlib
import shutil

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

import tfcodec  # noqa: E402
from tests import tiny  # noqa: E402
from tfcodec import (  # noqa: E402
    adversarial,
    architectures,
    bitstream,
    captions,
    checkpoints,
    codec,
    contestants,
    critics,
    layers,
    locks,
    metrics,
    realism,
    registry,
    serving,
    textures,
    transforms,
    weights,
)

ORIGIN = tf.zeros([2], tf.int32)
IMAGE = tiny.photograph(150, 330)


def noisy(arch):
    """A second synthesis of a tiny architecture, whose noise does something."""
    model = architectures.build(arch, tiny.lmbda_of(arch), **tiny.OPTIONS[arch])
    second = transforms.RealisticSynthesis(model.synthesis)
    second(tf.zeros([1, 4, 4, model.channels]), ORIGIN)
    return model, second


def stir(second, seed=0):
    """Gives the noise layers random weights."""
    rng = np.random.default_rng(seed)
    for layer in second.noise:
        layer.project.assign(rng.normal(0, 0.5, layer.project.shape))
        layer.gate.assign(rng.normal(0, 0.1, layer.gate.shape))


@pytest.mark.parametrize("arch", ["tfcodec", "mbt2018-mean", "bls2017"])
def test_it_starts_as_the_faithful_synthesis(arch):
    model, second = noisy(arch)
    y = tf.random.stateless_normal([1, 6, 5, model.channels], (0, 1))
    np.testing.assert_allclose(second(y, ORIGIN), model.synthesis(y), atol=1e-5)
    own = model.synthesis.trainable_variables
    found = second.trainable_variables
    assert [v.ref() for v in found[: len(own)]] == [v.ref() for v in own]
    assert len(found) == len(own) + 3 * len(second.noise)


def test_noise_enters_at_every_resolution_with_one_period():
    second = noisy("mbt2018-mean")[1]
    assert [layer.period for layer in second.noise] == [16, 32, 64, 128]
    assert [layer.count for layer in second.noise] == [8, 8, 16, 16]


def test_a_part_of_an_image_sees_the_noise_of_the_whole():
    layer = layers.Noise(8, 4, seed=3)
    x = tf.random.stateless_normal([1, 20, 25, 6], (0, 1))
    np.testing.assert_array_equal(layer(x, ORIGIN), x)  # at first
    layer.project.assign(tf.ones_like(layer.project))
    whole = layer(x, ORIGIN)
    part = layer(x[:, 5:, 9:], tf.constant([5, 9]))
    np.testing.assert_allclose(part, whole[:, 5:, 9:], atol=1e-6)
    noise = (whole - x)[0, :, :, 0]
    np.testing.assert_allclose(noise[:8], noise[8:16], atol=1e-5)
    assert np.std(noise) > 0.5


def test_spectral_convolutions_do_not_amplify():
    # Where the two largest singular values of a random kernel are nearly equal, the
    # power iteration is slow: for one kernel in ten, 30 steps were too few.
    tf.keras.utils.set_random_seed(0)
    layer = critics.SpectralConv(12, 1)
    x = tf.random.stateless_normal([1, 8, 8, 6], (0, 1))
    for _ in range(100):  # The power iteration has converged.
        y = layer(x)
    singular = np.linalg.svd(layer.kernel[0, 0].numpy(), compute_uv=False)[0]
    np.testing.assert_allclose(y, tf.nn.conv2d(x, layer.kernel / singular, 1, "SAME"),
                               rtol=1e-3, atol=1e-4)  # fmt: skip


def test_features_have_their_strides_and_tell_pictures_apart():
    features = critics.Features()
    maps, _ = features.both(tf.constant(IMAGE[None, :128, :192], tf.float32))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 96, 16), (32, 48, 24), (16, 24, 40), (8, 12, 112),
    ]  # fmt: skip
    blurred = tf.nn.avg_pool2d(IMAGE[None, :128, :192].astype("f4"), 5, 1, "SAME")
    assert adversarial.unit_distance(maps[1], features.both(blurred)[0][1]) > 0.05
    assert adversarial.unit_distance(maps[1], maps[1]) == 0


def test_what_repeats_every_16_pixels_is_found_and_grain_is_not():
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 4, [1, 128, 128, 3]).astype("f4")
    cell = np.tile(grain[:, :16, :16], (1, 8, 8, 1))
    assert textures.repeated(cell) > 20 * textures.repeated(grain)


def test_deviations_see_lost_texture_and_not_moved_texture():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(128, 9, [1, 64, 64, 3]).astype("f4") for _ in range(2))
    flat = np.full_like(a, 128)

    def distance(x, y):
        pairs = zip(textures.deviations(x), textures.deviations(y))
        return sum(float(tf.reduce_mean((p - q) ** 2)) for p, q in pairs)

    assert distance(a, b) < 0.2 * distance(a, flat)


def moments(*pictures):
    """The distances of the moments of two pictures [h, w, 3], one for each map."""
    maps = []
    for x in pictures:
        x = tf.constant(x[None], tf.float32)
        maps.append(textures.texture_maps(x, critics.Features().both(x)[1]))
    return textures.moment_distances(*maps)[0].numpy()


def test_moments_see_lost_texture_and_not_moved_texture():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(128, 9, [96, 96, 3]).clip(0, 255) for _ in range(2))
    np.testing.assert_array_equal(moments(a, a), 0)
    assert np.all(moments(a, b) < 0.3 * moments(a, np.full_like(a, 128)))


def test_moments_grow_with_the_strength_of_a_blur():
    x = tiny.photograph(128, 192).astype(np.float32)
    blurred = [tf.nn.avg_pool2d(x[None], n, 1, "SAME")[0].numpy() for n in (3, 5, 7)]
    found = np.array([moments(x, each) for each in blurred])
    assert np.all(np.diff(found, axis=0) > 0)


def test_correlations_tell_a_lattice_from_grain_of_the_same_strength():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(128, 9, [1, 96, 96, 3]).astype("f4") for _ in range(2))
    rows, columns = np.indices((96, 96)) * 2 * np.pi / 3
    lattice = 128 + 18 * (np.sin(rows) * np.sin(columns))[None, :, :, None]
    lattice = np.repeat(lattice, 3, -1).astype("f4")

    def distance(x, y):
        p, q = textures.correlations(x), textures.correlations(y)
        return float(tf.reduce_mean((p - q) ** 2))

    assert distance(a, b) < 0.2 * distance(a, lattice)


def test_text_is_drawn_where_it_weighs_more():
    rng = np.random.default_rng(4)
    written, weight = captions.written_on(IMAGE[:128, :128], rng)
    changed = (written != IMAGE[:128, :128]).any(-1)
    assert changed.mean() > 0.01
    assert (weight[changed] == captions.WEIGHT).mean() > 0.98
    assert (weight == 0).any()


@pytest.fixture(scope="module")
def base():
    """A model directory: of a tiny `tfcodec`, trained for a minute."""
    return pathlib.Path(__file__).parent / "golden" / "model"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return str(tiny.images(tmp_path_factory.mktemp("images")))


def config_of(base, images, **settings):
    small = {"patches": 8, "patch": 64, "batch": 2, "steps": 6, "warmup": 2}
    logs = {"log_steps": 2, "validate_steps": 4, "validation_images": 1}
    settings = {**small, **logs, **settings}
    return realism.RealismConfig(init=str(base), images=images, **settings)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Becomes what the directory of `run` was after three of its six steps."""
    return tmp_path_factory.mktemp("half") / "run"


@pytest.fixture(scope="module")
def run(base, images, half, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    normal = realism.RealismProgress.on_train_batch_end

    def copied(self, batch, logs=None):
        normal(self, batch, logs)
        if self.step == 3:
            self.save()
            shutil.copytree(directory, half)

    with pytest.MonkeyPatch.context() as patch, tiny.unoptimised():
        patch.setattr(realism.RealismProgress, "on_train_batch_end", copied)
        realism.train(config_of(base, images, learning_rate=3e-3), directory)
    return directory


def test_files_stay_as_they_are(base, run):
    model = registry.Model.at(run / "model")
    assert model.fingerprint == registry.Model.at(base).fingerprint
    same = ["saved_model.pb", "variables/variables.data-00000-of-00001"]
    assert filecmp.cmpfiles(base, run / "model", same, shallow=False)[0] == same
    assert model.card["realism"]["steps"] == 6
    assert set(model.card["realism"]["weights"]) == set(
        adversarial.Weights.__dataclass_fields__
    )


@tiny.unoptimised()
def test_a_training_that_was_interrupted_ends_the_same(base, images, run, half):
    paths = [checkpoints.Checkpoints(x, _Nothing()).paths()[0] for x in (run, half)]
    assert [pathlib.Path(path).name for path in paths] == ["ckpt-6", "ckpt-3"]
    realism.train(config_of(base, images, learning_rate=3e-3), half)
    whole, again = (
        tf.train.load_checkpoint(checkpoints.Checkpoints(x, _Nothing()).paths()[0])
        for x in (run, half)
    )
    names = [n for n in whole.get_variable_to_shape_map() if "VARIABLE" in n]
    trained = [n for n in names if "seconds" not in n and "sums" not in n]
    assert len(trained) > 50
    for name in trained:
        a, b = whole.get_tensor(name), again.get_tensor(name)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


class _Nothing(tf.Module):
    optimizer = tf.Module()


def test_it_goes_on_from_its_own_weights(run):
    source = registry.Model.at(run / "model")
    config = realism.RealismConfig(init=str(source.path), images="x")
    second = realism.networks(config, source)[1]
    stored = weights.trained(source.realism)
    assert len(stored) == len(second.trainable_variables)
    for variable, value in zip(second.trainable_variables, stored):
        np.testing.assert_array_equal(variable, value.astype(np.float32))


@pytest.fixture(scope="module")
def grainy(run, tmp_path_factory):
    """The trained model, with so much noise that anyone would see it."""
    source = registry.Model.at(run / "model")
    config = realism.RealismConfig(
        init=str(source.path), images="x", opened="20:1,80:0"
    )
    model, second = realism.networks(config, source)
    stir(second)
    path = tmp_path_factory.mktemp("grainy") / "model"
    return realism._exported(config, source, model, second, {}, path)


def test_realism_is_chosen_when_a_file_is_opened(grainy):
    data = tfcodec.compress(IMAGE, 50, model=grainy)
    opened = {
        r: tfcodec.decompress(data, grainy, realism=r).astype(int)
        for r in (0, 0.25, 0.5, 1)
    }
    grain = opened[1] - opened[0]
    assert grain.std() > 3
    np.testing.assert_allclose(opened[0.25], opened[0] + grain / 4, atol=0.5)
    # The card says 1 at quality 20, and 0 at 80.
    np.testing.assert_array_equal(tfcodec.decompress(data, grainy), opened[0.5])
    np.testing.assert_array_equal(
        tfcodec.decompress(data, grainy, realism=1), opened[1]
    )


def test_a_target_is_met_by_the_picture_as_it_is_opened(grainy, base):
    def psnr(data):
        return metrics.psnr(IMAGE, tfcodec.decompress(data, grainy))

    faithful = tfcodec.compress(IMAGE, 20, model=base)
    target = metrics.psnr(IMAGE, tfcodec.decompress(faithful, base))
    data = tfcodec.compress(IMAGE, model=grainy, target_psnr=target)
    assert psnr(faithful) < target <= psnr(data)
    assert len(data) > len(faithful)


@tiny.unoptimised()
def test_a_server_draws_the_same_grain(grainy):
    one = codec.load(grainy, "tensorflow")
    data = one.compress(tiny.photograph(150, 330), 50, tile=64)
    served = serving.Served(registry.Model.at(grainy))
    for r in (0, 0.25, 1):
        result = served.decompress_pixels_realism(data, r)
        expected = one.decompress(*bitstream.unpack(data), realism=r).astype(int)
        assert result["error"] == b""
        assert np.abs(result["image"] - expected).max() <= 2
    for r in (-0.1, 1.1, float("nan")):
        result = served.decompress_pixels_realism(data, r)
        assert result["error"] == b"realism is not 0 to 1"
    for log in serving.warm_up(served, "grain"):
        request = log.predict_log.request
        assert request.model_spec.name == "grain"
    assert request.model_spec.signature_name == "decompress_pixels_realism"
    # Unless asked, what the card says: 1 at quality 20, and 0 at 80.
    for quality, expected in ((10, 1.0), (20, 1.0), (35, 0.75), (80, 0.0), (90, 0.0)):
        assert served.default_realism(tf.constant(quality, tf.float32)) == expected


def test_tiles_and_crops_show_the_grain_of_the_whole(grainy):
    one = codec.load(grainy)
    image = tiny.photograph(300, 420)
    coded = [one.compress(image, 50, tile=tile) for tile in (0, 64, 128)]
    for data in coded[1:]:
        # Faithful pictures differ, too: what is known around a latent differs in tiles,
        # so it may be rounded otherwise. With grain the difference is no larger.
        faithful, realistic = (
            np.abs(
                tfcodec.decompress(coded[0], grainy, realism=r).astype(int)
                - tfcodec.decompress(data, grainy, realism=r)
            )
            for r in (0, 1)
        )
        assert realistic.mean() < 1.2 * faithful.mean() + 0.2
        assert realistic.max() <= 1.5 * faithful.max() + 2
    data = one.compress(image, 50, tile=64)
    crop = tfcodec.decompress(data, grainy, crop=(101, 77, 150, 99), realism=1)
    whole = tfcodec.decompress(data, grainy, realism=1).astype(int)
    part = whole[77 : 77 + 99, 101 : 101 + 150]
    assert np.abs(crop - part).max() <= 1


def test_alpha_and_grey_have_no_grain_of_colour(grainy):
    alpha = np.zeros(IMAGE.shape[:2], np.uint8)
    alpha[20:100, 40:200] = 255
    data = tfcodec.compress(
        np.dstack([IMAGE, alpha]), 50, model=grainy, alpha_quality=60
    )
    pair = [tfcodec.decompress(data, grainy, realism=r)[..., 3] for r in (0, 1)]
    np.testing.assert_array_equal(*pair)
    grey = tfcodec.compress(IMAGE[..., 0], 50, model=grainy)
    assert tfcodec.decompress(grey, grainy, realism=1).shape == IMAGE.shape[:2]


def test_a_model_without_it_says_so(base, grainy):
    data = tfcodec.compress(IMAGE, 50, model=base)
    with pytest.raises(ValueError, match="no realism above 0"):
        tfcodec.decompress(data, base, realism=0.5)
    np.testing.assert_array_equal(
        tfcodec.decompress(data, base), tfcodec.decompress(data, base, realism=0)
    )
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="realism must be from 0 to 1"):
            tfcodec.decompress(data, grainy, realism=value)


def test_the_default_follows_the_quality(grainy, base):
    model = registry.Model.at(grainy)
    found = [model.default_realism(q) for q in (0, 20, 35, 50, 80, 100)]
    assert found == pytest.approx([1, 1, 0.75, 0.5, 0, 0])
    assert registry.Model.at(base).default_realism(20) == 0


def test_a_comparison_takes_a_model_at_a_realism(grainy, base):
    text = f"{grainy}:effort=1:realism=0.5"
    each = contestants.contestant(f"{text}:q=20:50")
    assert (each.name, each.codec.effort, each.codec.realism) == (text, 1, 0.5)
    assert each.qualities == (20, 50)
    plain = contestants.contestant(str(grainy)).codec
    assert plain.settings != each.codec.settings
    data = plain.compress(IMAGE, 35)  # by default opened at 0.75
    np.testing.assert_array_equal(
        plain.decompress(data), tfcodec.decompress(data, grainy, realism=0)
    )
    with pytest.raises(ValueError, match="no realism above 0"):
        contestants.contestant(f"{base}:realism=1")
    with pytest.raises(ValueError, match="realism 0 to 1"):
        contestants.contestant(f"{grainy}:realism=2")
    with pytest.raises(ValueError, match="realism=1 must stand before :q="):
        contestants.contestant(f"{grainy}:q=20:realism=1")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": ""}, "--images or --dataset"),
        ({"noise": "8,x"}, "--noise"),
        ({"opened": "40:1,30:0"}, "--opened"),
        ({"opened": "40:2"}, "--opened"),
        ({"opened": "40"}, "--opened"),
        ({"patch": 100}, "multiple of 64"),
        ({"steps": -1}, "--steps"),
        ({"precision": "mixed_float16"}, "mixed_bfloat16"),
        ({"init": "arrays.npz"}, "export it first"),
        ({"validation_images": 0}, "--validation_images must be at least 1"),
    ],
)
def test_bad_settings_are_named(base, settings, words):
    config = {"init": str(base), "images": "x", **settings}
    with pytest.raises(ValueError, match=words):
        realism.RealismConfig(**config).check()


def test_a_model_with_other_latents_than_for_16_pixels_is_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "model")
    path = tmp_path / "model" / "card.json"
    card = json.loads(path.read_text())
    card["latents"]["stride"] = 4
    path.write_text(json.dumps(card))
    config = realism.RealismConfig(init=str(tmp_path / "model"), images="x")
    with pytest.raises(ValueError, match="a latent for 16x16 pixels.*for 4x4"):
        config.check()


def test_a_damaged_run_directory_is_not_gone_on_with(base, images, run):
    config = json.loads((run / "config.json").read_text())
    assert config["patches"] == 8
    other = config_of(base, images, learning_rate=3e-3, patches=9)
    with pytest.raises(ValueError, match="other settings: patches=8, not 9"):
        realism.train(other, pathlib.Path(run))


def test_a_run_directory_that_another_training_writes_to_is_refused(
    base, images, tmp_path
):
    with locks.alone(tmp_path), pytest.raises(OSError, match="another training"):
        realism.train(config_of(base, images), tmp_path)
