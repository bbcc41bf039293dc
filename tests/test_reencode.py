"""Another encoder for an exported model: its files change, its decoder does not."""

import pathlib

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_compression")

import tfcodec  # noqa: E402
from benchmarks import exactness  # noqa: E402
from tests import tiny  # noqa: E402
from tfcodec import (  # noqa: E402
    architectures,
    constants,
    contestants,
    densities,
    export,
    metrics,
    reencode,
    registry,
    same_decoder,
    weights,
)

MODEL = exactness.GOLDEN / "model"
IMAGE = tiny.photograph(150, 200)


@pytest.fixture(scope="module")
def coarser(tmp_path_factory):
    directory = tmp_path_factory.mktemp("coarser") / "model"
    return reencode.reencode(MODEL, directory, 2.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model whose encoder has other weights, and the file that they came from."""
    folder = tmp_path_factory.mktemp("trained")
    variables = same_decoder.encoder_variables(
        same_decoder.rebuilt(registry.Model.at(MODEL))
    )
    arrays = [v.numpy() * np.float32(1.02) for v in variables]
    np.savez(folder / "encoder.npz", *arrays)
    made = reencode.reencode(MODEL, folder / "model", arrays=folder / "encoder.npz")
    return made, folder / "encoder.npz"


def test_the_quantiser_read_from_a_model_is_that_of_its_files():
    model = same_decoder.rebuilt(registry.Model.at(MODEL))
    quantiser = model.coder.quantiser
    points = quantiser.shift + np.arange(constants.LEVELS + 1)
    assert np.all(np.diff(points) > 0)
    assert np.all(np.diff(quantiser.cost[constants.SKIPPED + 1 :, :2]) > -8)
    again = quantiser.with_error_bits(densities.ERROR_BITS)
    np.testing.assert_allclose(again.extra, quantiser.extra, atol=1e-5)


def compressed(other, engine):
    """Returns files of `MODEL` and `other`, and the pictures that each shows of both.

    The pictures are those of `MODEL`, then those of `other`, of both files in turn.
    """
    if engine == "litert":
        pytest.importorskip("ai_edge_litert")
    models = [str(MODEL), str(other)]
    written = [tfcodec.compress(IMAGE, 50, model, engine=engine) for model in models]
    pictures = [
        [tfcodec.decompress(data, model, engine=engine) for data in written]
        for model in models
    ]
    if engine == "litert":
        np.testing.assert_array_equal(*pictures)
    # TensorFlow's graph of `MODEL` was exported by an older version, and may round a
    # sample in a hundred thousand otherwise.
    moved = np.abs(np.subtract(*pictures, dtype=np.int16))
    assert moved.max() <= 1
    assert np.count_nonzero(moved) <= 2
    return written, pictures


def test_models_with_one_decoder_draw_the_same_in_tensorflow(coarser, trained):
    models = [str(coarser), str(trained[0])]
    for maker in models:
        data = tfcodec.compress(IMAGE, 50, maker, engine="tensorflow")
        pictures = [
            tfcodec.decompress(data, model, engine="tensorflow") for model in models
        ]
        np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("engine", ["tensorflow", "litert"])
def test_files_are_smaller_and_worse_and_open_with_either(coarser, engine):
    (before, after), pictures = compressed(coarser, engine)
    assert len(after) < len(before)
    errors = [metrics.psnr(IMAGE, picture) for picture in pictures[0]]
    assert errors[1] < errors[0]


def test_the_fingerprint_and_the_record_of_training_stay(coarser):
    old, new = registry.Model.at(MODEL), registry.Model.at(coarser)
    assert new.card["fingerprint"] == old.card["fingerprint"]
    assert new.card["training"] == old.card["training"]
    assert new.card["encoder"] == {"error_bits": 2.0, "kernel_bits": 8}


@pytest.mark.parametrize("engine", ["tensorflow", "litert"])
def test_other_weights_make_other_files_that_open_with_either(trained, engine):
    (before, after), pictures = compressed(trained[0], engine)
    assert before != after
    assert metrics.psnr(IMAGE, pictures[0][1]) > 20


def test_a_card_tells_encoders_of_one_decoder_apart(trained, coarser):
    old, new = registry.Model.at(MODEL), registry.Model.at(trained[0])
    assert new.card["fingerprint"] == old.card["fingerprint"]
    assert len(new.card["encoder"]["weights"]) == 64
    assert new.card["encoder"] != registry.Model.at(coarser).card["encoder"]


def test_arrays_of_another_encoder_are_refused(trained, tmp_path):
    with np.load(trained[1]) as file:
        arrays = [file[name] for name in file.files]
    np.savez(tmp_path / "fewer.npz", *arrays[:-1])
    with pytest.raises(ValueError, match="another architecture"):
        reencode.reencode(MODEL, tmp_path / "out", arrays=tmp_path / "fewer.npz")
    with pytest.raises(ValueError, match="cannot read arrays"):
        reencode.reencode(MODEL, tmp_path / "out", arrays=tmp_path / "missing.npz")
    assert not (tmp_path / "out").exists()


def test_more_error_bits_make_fewer_zeros():
    quantiser = same_decoder.rebuilt(registry.Model.at(MODEL)).coder.quantiser
    extras = [quantiser.with_error_bits(bits).extra for bits in (4.0, 11.0, 30.0)]
    assert np.all(extras[0] >= extras[1])
    assert np.all(extras[1] >= extras[2])
    assert np.sum(extras[0]) > np.sum(extras[1]) > np.sum(extras[2])


@pytest.mark.parametrize(
    ("model", "directory", "bits", "words"),
    [
        (MODEL, "out", 0.0, "above 0"),
        (MODEL, "out", float("nan"), "above 0"),
        (MODEL, MODEL, 11.0, "name another directory"),
        ("missing", "out", 11.0, "no model 'missing'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    model, directory, bits, words, tmp_path, capsys
):
    if not isinstance(directory, pathlib.Path):
        directory = tmp_path / directory
    before = sorted(MODEL.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        reencode.main([str(model), str(directory), f"--error_bits={bits}"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert sorted(MODEL.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_figures_of_one_encoder_are_not_taken_for_those_of_another(coarser):
    settings = [
        contestants.contestant(f"{model}").codec.settings for model in (MODEL, coarser)
    ]
    assert settings[0]["fingerprint"] == settings[1]["fingerprint"]
    assert settings[0] != settings[1]


def test_a_model_of_rounded_latents_takes_weights_alone(tmp_path):
    arch = "bmshj2018-factorized"
    model = architectures.build(arch, tiny.lmbda_of(arch), **tiny.OPTIONS[arch])
    source = export.export(model, tmp_path / "source", arch, tiny.OPTIONS[arch])
    with pytest.raises(ValueError, match="without a quantiser"):
        reencode.reencode(source, tmp_path / "out")
    arrays = [v.numpy() * 1.1 for v in same_decoder.encoder_variables(model)]
    np.savez(tmp_path / "encoder.npz", *arrays)
    made = reencode.reencode(source, tmp_path / "out", arrays=tmp_path / "encoder.npz")
    entry = registry.Model.at(made)
    assert entry.card["encoder"].keys() == {"weights", "note"}
    assert entry.fingerprint == registry.Model.at(source).fingerprint
    assert np.array_equal(weights.trained(made)[0], np.float16(arrays[0]))
