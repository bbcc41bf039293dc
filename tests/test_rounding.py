"""Kernels of integers: what rounding to 8 bits keeps, and how they are stored."""

import pathlib

import numpy as np
import pytest

from tests import tiny
from tfcodec import kernels, litert_files, registry

GOLDEN = pathlib.Path(__file__).parent / "golden"

RNG = np.random.default_rng(0)
SHAPES = [(1, 1, 40, 64), (3, 3, 5, 300), (4, 4, 2, 7)]


def kernel(shape):
    """Random weights whose channels are of very different sizes."""
    sizes = np.exp(RNG.normal(-3, 2, shape[-1]))
    return (RNG.standard_normal(shape) * sizes).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rounded_kernel_is_integers_times_scales(shape):
    for array in (kernel(shape) for _ in range(20)):
        found = kernels.rounded(array)
        whole, scales = kernels.split(found)
        assert whole.dtype == np.int8
        assert scales.dtype == np.float32
        assert np.array_equal(whole * scales, found)
        assert np.abs(whole).max() <= 127
        step = np.abs(array).max((0, 1, 2)) / 127
        assert np.all(np.abs(found - array).max((0, 1, 2)) <= step * 0.5626)
        assert np.array_equal(kernels.rounded(found), found)
        # Half precision, in which files of LiteRT have it, keeps all of it.
        half = found.astype(np.float16)
        assert np.array_equal(half, found)
        first = kernels.outputs_first(half)
        again, own_scales = kernels.integers(first)
        assert np.array_equal(again, kernels.outputs_first(whole))
        assert np.array_equal(own_scales, scales)


@pytest.mark.parametrize("shape", SHAPES)
def test_other_kernels_are_not_split(shape):
    array = kernel(shape)
    assert kernels.split(array) is None
    found = kernels.rounded(array)
    found[0, 0, 0, 0] += np.abs(found[..., 0]).max() / 500
    assert kernels.split(found) is None
    # As long as no channel has them, LiteRT's scales are the finest that suit.
    first = kernels.outputs_first(array)
    whole, scales = kernels.integers(first)
    assert np.all(np.abs(whole).reshape(len(first), -1).max(1) == 127)
    for found, expected in zip(kernels.int8(first), (whole, scales)):
        assert np.array_equal(found, expected)
    assert np.abs(whole * scales[:, None, None, None] - first).max() < scales.max()


def test_equal_integers_of_several_kernels_keep_their_own_scales(tmp_path):
    whole = RNG.integers(-127, 128, (16, 24)).astype(np.int8)
    scales = np.exp2(-RNG.integers(3, 9, (2, 24))).astype(np.float16)
    (tmp_path / "variables").write_bytes(whole.tobytes() + scales.tobytes())
    data = RNG.bytes(64)
    for scale in scales:
        product = (whole * scale).astype(np.float16)
        made = litert_files.int8_layouts(product)
        data += made["int8"].tobytes() + made["int8_scales"].tobytes()
    compact = litert_files.Compact(
        tmp_path, {"variables": [(whole, scale) for scale in scales]}
    )
    compact.add_network("net", data)
    compact.write(tmp_path)
    layouts = [part["layout"] for part in compact.parts["net"]["arrays"]]
    assert layouts == ["int8", "int8_scales", "int8_scales"]
    assert litert_files.Files(tmp_path, tmp_path).network("net") == data


def test_channels_of_zeros_are_kept():
    array = kernel((3, 3, 4, 6))
    array[..., 2] = 0
    found = kernels.rounded(array)
    assert not found[..., 2].any()
    assert np.array_equal(np.multiply(*kernels.split(found)), found)


def smooth(count, side):
    """Smooth colour patches [count, side, side, 3], with some noise."""
    y, x = np.mgrid[:side, :side] / side
    waves = RNG.normal(0, 2, (count, 2))
    phase = RNG.uniform(0, 6, count)
    flat = np.cos(waves @ np.stack([y.ravel(), x.ravel()]) + phase[:, None])
    grey = flat.reshape(count, side, side, 1) * RNG.normal(0, 3, (count, 1, 1, 1))
    grey = grey + RNG.normal(0, 3, (count, 1, 1, 3))
    return grey + RNG.normal(0, 0.1, (count, side, side, 3))


@pytest.mark.parametrize("side", [12, 16])
def test_rounding_for_pixels_errs_less_on_smooth_pictures(side):
    pytest.importorskip("tensorflow_compression")
    from tfcodec import rounding

    array, patches = kernel((side, side, 3, 20)), smooth(200, side)

    def error(found):
        seen = patches.reshape(len(patches), -1)
        return np.abs(seen @ (found - array).reshape(-1, 20)).mean(0)

    found = rounding.for_pixels(array)
    assert kernels.split(found)
    assert np.mean(error(found) / error(kernels.rounded(array))) < 0.3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small model with residual blocks, exported: (model, values before, its entry).

    The values are those of the model's variables before the export rounded them.
    """
    pytest.importorskip("tensorflow_compression")
    from tfcodec import architectures, export

    about = registry.Model.at(GOLDEN / "model").card
    options = {**about["options"], "window": 32}
    model = architectures.build(about["architecture"], (0.001, 0.1), **options)
    for variable in model.analysis.trainable_variables:
        if variable.shape.rank == 4:
            noise = RNG.normal(0, 0.02, variable.shape)
            variable.assign_add(noise.astype(np.float32))
    before = [variable.numpy() for variable in model.trainable_variables]
    directory = tmp_path_factory.mktemp("rounded") / "model"
    export.export(model, directory, about["architecture"], options)
    return model, before, registry.Model.at(directory)


def test_an_exported_model_has_the_weights_that_it_computes_with(exported):
    from tfcodec import architectures, weights

    model, _, entry = exported
    again = architectures.from_card(entry.card)
    weights.load_model(again, entry.path)
    pairs = zip(again.trainable_variables, model.trainable_variables)
    exact = {layer.kernel.ref() for layer in model.exact_layers()}
    for own, variable in pairs:
        if variable.ref() not in exact:
            assert np.array_equal(own, variable), variable.name


def test_kernels_of_the_encoder_alone_are_integers(exported):
    from tfcodec import same_decoder

    model, before, _ = exported
    encoder = {v.ref() for v in same_decoder.encoder_variables(model)}
    changed = 0
    for variable, old in zip(model.trainable_variables, before):
        half = old.astype(np.float16).astype(np.float32)
        if not np.array_equal(half, variable):
            assert variable.ref() in encoder
            assert kernels.split(variable.numpy()), variable.name
            scales = kernels.whole_scales(old)
            assert np.all(np.abs(variable - old) < 20 * scales)
            changed += 1
    kinds = [v for v in model.analysis.trainable_variables if v.shape.rank == 4]
    assert changed >= len(kinds) // 2


def test_each_large_kernel_is_stored_in_8_bits(exported):
    tf = pytest.importorskip("tensorflow")
    model, _, entry = exported
    reader = tf.train.load_checkpoint(f"{entry.path}/variables/variables")
    stored = [
        (reader.get_tensor(name), shape)
        for name, shape in reader.get_variable_to_shape_map().items()
        if name.startswith("arrays/") and len(shape) == 4
    ]
    for kernel_ in (v.numpy() for v in model.analysis.trainable_variables):
        parts = kernel_.ndim == 4 and kernel_.size >= 1024 and kernels.split(kernel_)
        if parts:
            alike = [array for array, shape in stored if shape == list(kernel_.shape)]
            assert any(array.dtype == np.int8 for array in alike)
            assert any(np.array_equal(array, parts[0]) for array in alike)


def test_litert_sees_whole_levels_of_pixels(exported):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from tfcodec import litert_export
    from tfcodec.litert_engine import LiteRTEngine
    from tfcodec.tensorflow_engine import TensorFlowEngine

    entry = exported[2]
    litert_export.export(entry.path)
    entry = registry.Model.at(entry.path)
    small, whole = LiteRTEngine(entry), TensorFlowEngine(entry)

    def both(image):
        return small.analysis(image)[0], np.asarray(whole.analysis(image))[0]

    image = tiny.photograph(128, 128)
    image[0, 0], image[0, 1] = 0, 255
    found, expected = both(image)
    error = np.sqrt(np.mean((found - expected) ** 2))
    assert 0 < error < 0.03 * expected.std()
    # A flat picture: less than the effect of a third of a level, away from its edges.
    grey = [np.full((96, 96, 3), level, np.uint8) for level in (0, 254, 255)]
    for image in grey:
        image[0, 0], image[0, 1] = 0, 255
    (_, dark), (found, bright), (_, white) = map(both, grey)
    middle = slice(2, -2), slice(2, -2)
    level = np.abs((white - dark)[middle].mean((0, 1))).max() / 255
    error = np.abs((found - bright)[middle].mean((0, 1))).max()
    assert error < level / 3
