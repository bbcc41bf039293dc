"""Sums of exact layers by LiteRT are those by NumPy, or LiteRT's are not used."""

import pathlib

import numpy as np
import pytest

from tests import tiny
from tfcodec import exact_layers, exact_products, registry
from tfcodec.constants import ACTIVATION_MAX
from tfcodec.exact_layers import Layer
from tfcodec.litert_engine import LiteRTEngine, Network

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
GOLDEN = pathlib.Path(__file__).parent / "golden"
RNG = np.random.default_rng(0)


def layer(side, inputs, outputs, extreme=False):
    """A layer with random weights, or one whose sums come near 2**24."""
    shape = [side, side, inputs, outputs]
    kernel = RNG.integers(-127, 128, shape)
    if extreme:
        assert side**2 * inputs * 127 * ACTIVATION_MAX < 2**24
        kernel[..., ::2] = 127
    kernel = kernel.astype(np.int8)
    return Layer(kernel, np.tile([[0], [0], [0], [ACTIVATION_MAX]], outputs))


class Coder:
    """Layers as `walk.Coder` has them."""

    def __init__(self, extreme=False):
        hidden = [layer(3, 9, 32, extreme), layer(5, 8, 24, extreme)]
        self.networks = {
            "hyper_synthesis": [*hidden, layer(3, 24, 40, extreme)],
            "slice/0": [layer(3, 53, 16, extreme), layer(1, 16, 6, extreme)],
            "slice/1/second": [layer(1, 52, 16, extreme), layer(1, 16, 6, extreme)],
        }

    def inputs(self, name, unsigned, shape):
        network, number = name.rsplit("/", 1)
        channels = self.networks[network][int(number)].integers.shape[2]
        x = RNG.integers(-ACTIVATION_MAX, ACTIVATION_MAX + 1, [*shape, channels])
        x[..., :unsigned] = np.abs(x[..., :unsigned])
        return x.astype(exact_layers.exact_dtype())


@pytest.fixture
def all_layers(monkeypatch):
    """LiteRT computes layers of any size."""
    monkeypatch.setattr(exact_layers, "DIVIDED_FROM", 0)
    monkeypatch.setattr(exact_products, "LEAST_WEIGHTS", 0)


def runner(coder, threads=1):
    pytest.importorskip("tensorflow")
    from tfcodec import litert_exact

    network = Network(litert_exact.written(coder), threads)
    return lambda signature, x: network(signature, x=x)["y"]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("extreme", [False, True])
def test_litert_sums_up_what_numpy_does(all_layers, extreme, threads):
    coder = Coder(extreme)
    suited = exact_products.suited(coder)
    assert [unsigned for _, unsigned in suited.values()] == [0, 8, 24, 40, 16, 0, 16]
    products = exact_products.Products(runner(coder, threads))
    assert products.exact
    for name, (own, unsigned) in suited.items():
        for shape in [(1, 1), (1, 9), (4, 3), (17, 30)]:
            x = coder.inputs(name, unsigned, shape)
            if extreme:
                x[0] = np.where(x[0] < 0, -ACTIVATION_MAX, ACTIVATION_MAX)
            found = products.sums(name, unsigned, x)
            assert found.dtype == x.dtype
            assert np.array_equal(found, own.sums(x))


def test_values_of_one_sign_and_small_ones_are_not_rounded(all_layers):
    coder = Coder()
    products = exact_products.Products(runner(coder))
    for name, (own, unsigned) in exact_products.suited(coder).items():
        some = np.abs(coder.inputs(name, unsigned, (6, 5)))
        for x in (0 * some, 1 + 0 * some, some // 8, np.minimum(some, 3)):
            assert np.array_equal(products.sums(name, unsigned, x), own.sums(x))


def test_a_machine_whose_sums_are_wrong_keeps_to_numpy(all_layers):
    coder, calls = Coder(), []
    tried, _ = exact_products.trial()

    def rounded(signature, x):
        calls.append(signature)
        return 2 * np.rint(tried.sums(x[0, ..., :-1])[None] / 2)

    exact_products.Products(rounded).serve(coder)
    for name, (own, unsigned) in exact_products.suited(coder).items():
        x = coder.inputs(name, unsigned, (8, 8))
        found = own(x), own.sums(x)
        own.product = None
        assert np.array_equal(found[0], own(x))
        assert np.array_equal(found[1], own.sums(x))
    assert calls == [exact_products.TRIAL]


def test_a_version_of_litert_that_cannot_run_it_keeps_to_numpy(all_layers):
    """As one for whose convolutions these weights are of too new a version."""
    pytest.importorskip("tensorflow")
    from tensorflow.lite.tools import flatbuffer_utils

    from tfcodec import litert_exact

    coder = Coder()
    file = bytearray(litert_exact.written(coder))
    model = flatbuffer_utils.convert_bytearray_to_object(file)
    for code in model.operatorCodes:
        code.version = 99
    data = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    exact_products.Products(
        lambda signature, x: Network(data)(signature, x=x)["y"]
    ).serve(coder)
    own = coder.networks["slice/0"][0]
    x = coder.inputs("slice/0/0", 40, (8, 8))
    found, own.product = own(x), None
    assert np.array_equal(found, own(x))


def test_every_layer_of_a_model_sees_what_litert_takes_for_granted(all_layers):
    """As if all layers were large: those of the first slice's steps are, too."""
    engine = LiteRTEngine(registry.Model.at(GOLDEN / "model"))
    image = tiny.photograph(128, 192)
    y = engine.analysis(image)
    expected = engine.encode(y, np.float32(0.9))
    coder = engine.coder
    layers = [layer for network in coder.networks.values() for layer in network]
    exact_products.Products(runner(coder)).serve(coder)
    served = [each for each in layers if each.product]
    assert len(served) >= len(layers) - 2
    found = engine.encode(y, np.float32(0.9))
    assert found[0] == expected[0]
    for one, other in zip(found[1:], engine.decode(found[0], image.shape[:2])):
        assert np.array_equal(one, other)


def test_small_inputs_stay_in_numpy():
    own = layer(3, 64, 64)
    own.product = pytest.fail
    own(np.zeros([4, 4, 64], exact_layers.exact_dtype()))


@pytest.mark.parametrize("name", ["tfcodec", "tfcodec-mse"])
def test_shipped_models_code_the_same_with_and_without(name, monkeypatch):
    monkeypatch.setattr(exact_layers, "DIVIDED_FROM", 0)
    engine = LiteRTEngine(registry.resolve(name))
    calls, sums = [], exact_products.Products.sums

    def counted(self, signature, *args):
        calls.append(signature)
        return sums(self, signature, *args)

    monkeypatch.setattr(exact_products.Products, "sums", counted)
    image = tiny.photograph(128, 192)
    y = engine.analysis(image)
    written = engine.encode(y, np.float32(0.6))
    read = engine.decode(written[0], image.shape[:2])
    suited = exact_products.suited(engine.coder)
    assert len(calls) == 2 * len(suited) == 2 * len(set(calls))
    for own, _ in suited.values():
        own.product = None
    again = engine.encode(y, np.float32(0.6))
    assert written[0] == again[0]
    for one, other, third in zip(written[1:], read, again[1:]):
        assert np.array_equal(one, other)
        assert np.array_equal(one, third)


def test_a_model_without_the_file_is_coded_by_numpy():
    engine = LiteRTEngine(registry.resolve("tfcodec"))
    engine.files.parts.pop(exact_products.NAME)
    suited = exact_products.suited(engine.coder)
    assert suited
    assert all(own.product is None for own, _ in suited.values())
