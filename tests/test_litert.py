"""The engine without TensorFlow codes what the other does: integers, files, pixels."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import threadpoolctl

from benchmarks.exactness import strings_of
from tests import tiny
from tfcodec import (
    bitstream,
    blas,
    engine,
    exact_layers,
    kernels,
    lanes,
    litert_files,
    metrics,
    registry,
)
from tfcodec.bitstream import CorruptStream

GOLDEN = pathlib.Path(__file__).parent / "golden"
ROWS = json.loads((GOLDEN / "golden.json").read_text())
OURS = [name for name, row in ROWS.items() if row["model"] == "model"]
# Frequencies of two rows, and the values that their first symbols stand for.
TABLES = lanes.Tables([4000, 95, 1, 96, 2000, 2000], [3, 3], [-1, 5])


def coded(rows, values):
    writer = lanes.Writer(TABLES)
    writer.write(rows, values)
    return writer.finish()


@pytest.mark.parametrize("count", [0, 1, 7, 5000, 20000])
def test_a_string_reads_back(count):
    rng = np.random.default_rng(count)
    rows = rng.integers(0, 2, count)
    values = rng.integers(-3, 9, count)
    values[::50] = rng.choice([-8191, 8191, 300, -300], len(values[::50]))
    string = coded(rows, values)
    reader = lanes.Reader(TABLES, string)
    found = reader.read(rows)
    reader.finish()
    assert np.array_equal(found, values)
    assert string[:2] == lanes.lanes_for(count).to_bytes(2, "little")


def read(data, rows):
    reader = lanes.Reader(TABLES, data)
    reader.read(rows)
    reader.finish()


def test_a_damaged_string_is_refused():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, 300)
    string = coded(rows, rng.integers(-3, 9, 300))
    bad = [string[:k] for k in range(0, len(string), 3)] + [string + b"\0\0"]
    bad += [bytes(b ^ (k == at) for k, b in enumerate(string)) for at in range(40)]
    bad += [rng.bytes(60) for _ in range(50)]
    for data in bad:
        with pytest.raises(CorruptStream):
            read(data, rows)


def test_fewer_lanes_than_an_encoder_chooses_are_refused_before_any_work():
    reader = lanes.Reader(TABLES, coded(np.zeros(10, int), np.zeros(10, int)))
    with pytest.raises(CorruptStream):
        reader.read(np.zeros(10**6, int))
    assert reader.words_read == 0


@pytest.mark.parametrize("side", [1, 3, 5])
def test_a_convolution_sums_as_its_definition_says(side):
    rng = np.random.default_rng(0)
    kernel = rng.integers(-9, 10, (side, side, 2, 3))
    x = rng.integers(-9, 10, (5, 4, 2)).astype(exact_layers.exact_dtype())
    found = exact_layers.Layer(kernel, np.zeros((4, 3))).sums(x)
    edge = side // 2
    padded = np.pad(x, ((edge, edge), (edge, edge), (0, 0)))
    for i, j in np.ndindex(5, 4):
        seen = padded[i : i + side, j : j + side]
        assert np.array_equal(found[i, j], np.einsum("abc,abcd->d", seen, kernel))


def test_auto_takes_litert_where_it_can(tmp_path, monkeypatch):
    model = registry.Model(tmp_path, {"name": "small"})
    monkeypatch.setattr(engine, "litert_installed", lambda: True)
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=r"no LiteRT files.*no SavedModel"):
        engine.chosen(model)
    (tmp_path / "saved_model.pb").touch()
    assert engine.chosen(model) == "tensorflow"
    with pytest.raises(ValueError, match="no LiteRT files"):
        engine.chosen(model, "litert")
    (tmp_path / "litert").mkdir()
    assert engine.chosen(model) == "litert"
    assert engine.chosen(model, effort=1) == "tensorflow"
    with pytest.raises(ValueError, match="effort above 0 needs the TensorFlow engine"):
        engine.chosen(model, "litert", effort=1)
    monkeypatch.setattr(engine, "litert_installed", lambda: False)
    assert engine.chosen(model) == "tensorflow"
    with pytest.raises(ValueError, match="pip install ai-edge-litert"):
        engine.chosen(model, "litert")
    with pytest.raises(ValueError, match="engine must be auto, litert or tensorflow"):
        engine.chosen(model, "onnx")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The golden model, with grain, by each engine: (TensorFlow's codec, LiteRT's)."""
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from tfcodec import architectures, export, litert_export, transforms, weights

    directory = tmp_path_factory.mktemp("model") / "golden"
    shutil.copytree(GOLDEN / "model", directory)
    source = registry.Model.at(directory)
    model = architectures.from_card(source.card)
    weights.load_model(model, directory)
    second = transforms.RealisticSynthesis(model.synthesis, (2, 3, 4))
    second(tf.zeros([1, 4, 4, source.channels]), tf.zeros([2], tf.int32))
    rng = np.random.default_rng(0)
    for layer in second.noise:
        layer.project.assign(rng.normal(0, 0.5, layer.project.shape))
        layer.gate.assign(rng.normal(0, 0.1, layer.gate.shape))
    export.export_realism(model, second, directory / registry.REALISM)
    card = {**source.card, "realism": {"reach": 4, "default": []}}
    (directory / "card.json").write_text(json.dumps(card))
    litert_export.export(directory)
    litert_export.export(directory, directory.with_name("alone"))
    model = registry.Model.at(directory)
    return engine.Codec(model), engine.Codec(model, engine.LiteRTEngine)


def close(pictures, realism=0):
    """Whether pictures with dense layers in floats and in 8 bits differ as they may."""
    difference = np.abs(np.subtract(*[each.astype(int) for each in pictures]))
    if realism:  # grain makes some differences larger
        return difference.mean() < 0.2 and np.mean(difference > 2) < 0.002
    return difference.max() <= 2 and np.mean(difference > 1) < 0.001


def test_a_directory_for_litert_alone_codes_the_same(both):
    together = both[1].model
    alone = registry.Model.at(together.path.with_name("alone"))
    assert not alone.tensorflow
    assert engine.chosen(alone) == "litert"
    one = engine.Codec(alone, engine.LiteRTEngine)
    image = tiny.photograph(130, 200)
    data = one.compress(image, 60)
    assert data == both[1].compress(image, 60)
    for realism in (0, 1):
        pictures = [
            each.decompress(*bitstream.unpack(data), realism=realism)
            for each in (one, both[1])
        ]
        assert close(pictures, realism)


def golden(name):
    return bitstream.unpack((GOLDEN / f"{name}.tfc").read_bytes())


def test_golden_files_hold_the_same_integers(both):
    _, ours = both
    for name in OURS:
        found = []
        data = (GOLDEN / f"{name}.tfc").read_bytes()
        for box, string in strings_of(data, ours):
            y, _ = ours.decode(box.height, box.width, string)
            found.append(hashlib.sha256(y.astype("<i4").tobytes()).hexdigest())
        assert found == ROWS[name]["integers"], name


def test_both_draw_nearly_the_same_pixels(both):
    for name in ("face_50", "alpha_tiles", "grey_30", "pixel_30", "prime_30"):
        assert close([each.decompress(*golden(name)) for each in both]), name


@pytest.mark.parametrize(("side", "stride"), [(32, 16), (16, 16), (4, 2)])
def test_blocks_and_phases_are_the_convolutions_they_stand_for(side, stride):
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    from tfcodec import layers, litert_layers

    x = tf.random.stateless_normal([1, 64, 96, 3], (1, 2))
    conv = layers.conv(5, side, stride)
    expected = conv(x)
    assert litert_layers.blockwise(conv.strides[0], conv.kernel.shape)
    np.testing.assert_allclose(litert_layers.lite(conv, x), expected, atol=1e-4)
    up = layers.up(3, side, stride)
    expected = up(conv(x))
    np.testing.assert_allclose(litert_layers.lite(up, conv(x)), expected, atol=1e-4)


@pytest.mark.parametrize("realism", [0.5, 1])
def test_both_draw_nearly_the_same_grain_in_tiles_too(both, realism):
    for name in ("face_50", "tiles_128"):
        pictures = [
            each.decompress(*golden(name), realism=realism).astype(int) for each in both
        ]
        assert close(pictures, realism), name
    faithful = both[0].decompress(*golden("tiles_128"))
    assert np.abs(faithful - pictures[0]).mean() > 1


def test_a_file_of_one_engine_opens_with_the_other(both):
    image = tiny.photograph(130, 200)
    for writer in both:
        data = writer.compress(image, 60, verify=True)
        assert close([each.decompress(*bitstream.unpack(data)) for each in both])


def test_of_the_same_latents_both_write_the_same_bytes(both):
    theirs, ours = both
    y = theirs.engine.analysis(tiny.photograph(128, 192))
    results = [each.engine.encode(y, 0.7) for each in (theirs, ours)]
    assert results[0][0] == results[1][0]
    for first, second in list(zip(*results))[1:]:
        assert np.array_equal(first, second)


def test_latents_that_are_no_numbers_code_and_decode(both):
    _, ours = both
    y = np.zeros((1, 8, 4, ours.model.channels), np.float32)
    y[0, 3, 1], y[0, 5, :, 0], y[0, 6, 2, 1] = np.nan, np.inf, -1e30
    string, whole, _ = ours.engine.encode(y, 0.5)
    assert np.array_equal(ours.decode(128, 64, string)[0], whole)


def test_weights_of_8_bits_hardly_change_the_latents(both):
    image = tiny.photograph(128, 192)
    theirs, ours = (each.engine.analysis(image) for each in both)
    assert 0 < np.std(theirs - ours) < 0.02 * np.std(theirs)
    parts = json.loads((both[1].model.litert / "parts.json").read_text())
    layouts = {
        name: {part["layout"].split()[0] for part in parts[name]["arrays"]}
        for name in ("analysis", "synthesis")
    }
    assert "int8" in layouts["analysis"]
    assert "int8_blocks" in layouts["analysis"]
    # Only dense layers of the synthesis have weights of 8 bits.
    assert {"int8", "int8_scales"} <= layouts["synthesis"]
    assert "phases" in layouts["synthesis"]


def test_a_directory_of_8_bits_draws_as_the_model_does(both, tmp_path):
    from tfcodec import litert_export

    source = both[1].model
    litert_export.export(source.path, tmp_path / "small", int8=True)
    alone = source.path.with_name("alone")
    models = [source, *map(registry.Model.at, (tmp_path / "small", alone))]
    engines = [engine.LiteRTEngine(each) for each in models]
    y = engines[0].analysis(tiny.photograph(128, 192))
    for level in np.float32([0.2, 0.9]):
        _, _, y_hat = engines[0].encode(y, level)
        faithful = [each.synthesis(y_hat, level) for each in engines]
        grained = [each.realistic(y_hat, level, (0, 0)) for each in engines]
        for first, second, floats in (faithful, grained):
            assert np.array_equal(first, second)
            assert 55 < metrics.psnr(first, floats) < np.inf


@pytest.mark.parametrize("int8", [False, True])
def test_each_network_is_converted_once_and_examples_made_if_needed(int8, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    from tfcodec import architectures, litert_export

    calls, convert = [], tf.lite.TFLiteConverter.from_concrete_functions
    monkeypatch.setattr(
        tf.lite.TFLiteConverter, "from_concrete_functions",
        lambda *given: calls.append(1) or convert(*given),
    )  # fmt: skip
    for arch in ("cnn", "tfcodec"):  # without and with dense layers
        model = architectures.build(arch, tiny.lmbda_of(arch), **tiny.OPTIONS[arch])
        calls.clear()
        examples = []

        def inputs(model=model, examples=examples):
            examples.append(litert_export.example(model))
            return examples[0]

        made = litert_export.converted_networks(model, int8, inputs if int8 else None)
        assert len(calls) == len(made)
        # Only dense layers need examples of their inputs, which take time to make.
        assert len(examples) == (int8 and arch == "tfcodec")


def test_only_analyses_with_dense_layers_get_weights_of_8_bits():
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_compression")
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from tfcodec import litert_engine, litert_export, litert_int8

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 36, 28, 3)).astype(np.uint8)
    image[0, 0, 0], image[0, 0, 1] = 0, 255
    kernel, weights = (
        tf.constant(rng.normal(0, 0.1, size), tf.float32)
        for size in ((3, 3, 48, 64), (64, 64))
    )

    def networks(with_dense):
        """A network as a LiteRT file, before and after its layers are rounded."""

        def run(image):
            x = (tf.cast(image, tf.float32) - 127.5) / 25.5
            x = tf.nn.conv2d(tf.nn.space_to_depth(x, 4), kernel, 1, "SAME")
            return {"y": x @ weights + tf.range(64.0) if with_dense else x}

        image = tf.TensorSpec([1, None, None, 3], tf.uint8, "image")
        concrete = tf.function(run).get_concrete_function(image)
        data = litert_export.from_graph(concrete)
        return data, litert_int8.with_int8(data)

    def outputs(files):
        return [litert_engine.Network(data, 1)(image=image)["y"] for data in files]

    assert networks(with_dense=False)[1] is None
    before, after = networks(with_dense=True)
    # A byte less for each weight.
    assert len(after) < len(before) - (3 * 3 * 48 + 64) * 64 * 0.9
    expected, found = outputs([before, after])
    assert 0 < np.std(found - expected) < 0.02 * np.std(expected)


def test_weights_lie_in_the_model_once(both):
    model = both[1].model
    sizes = {
        path.name: path.stat().st_size for path in model.path.glob("variables/*.data*")
    }
    ours = sum(path.stat().st_size for path in model.litert.iterdir())
    assert ours < sum(sizes.values())
    parts = json.loads((model.litert / "parts.json").read_text())
    assert len(parts["synthesis"]["arrays"]) >= 5


def test_a_kernel_is_rounded_once_for_its_integers_and_its_scales(monkeypatch):
    model = registry.resolve(registry.DEFAULT)
    files, rounded = litert_files.Files(model.litert, model.path), []
    int8 = kernels.int8
    monkeypatch.setattr(kernels, "int8", lambda x: rounded.append(x.shape) or int8(x))
    files.network("synthesis")
    layouts = [part["layout"] for part in files.parts["synthesis"]["arrays"]]
    assert len(rounded) == layouts.count("int8") == layouts.count("int8_scales") > 0


def test_an_array_is_found_where_it_lies_in_a_file():
    data = np.random.default_rng(0).bytes(4003)
    words = np.unique(litert_files.whole_words(data))
    for start, end in ((0, 4003), (400, 1400), (4, 7), (3900, 4003)):
        part = data[start:end]
        assert litert_files.place_of(part, data, words) == start
        assert litert_files.place_of(part[:-1] + b"\0", data, words) == -1
    assert litert_files.place_of(bytes(400), data, words) == -1


FORKED = """
import contextlib, os, signal, sys
import numpy as np, tfcodec
image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
model = sys.argv[1]
data = tfcodec.compress(image, 50, model, engine="litert")
if "before" in sys.argv:
    tfcodec.decompress(data, model, engine="litert")
if "locked" in sys.argv:  # As by threads, which the new process does not have.
    from tfcodec import blas, codec, plugins
    engine = codec.load(model, "litert").engine
    for lock in (
        blas.one_thread.lock, codec._loading, plugins.QUIET.lock, engine.loading
    ):
        lock.acquire()
if not os.fork():
    signal.alarm(20)
    with plugins.QUIET.up_to(1) if "locked" in sys.argv else contextlib.nullcontext():
        pass
    assert tfcodec.compress(image, 50, model, engine="litert") == data
    tfcodec.decompress(data, model, engine="litert")
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("when", ["before", "after", "locked"])
def test_a_forked_process_loads_networks_of_its_own(when):
    line = [sys.executable, "-c", FORKED, str(GOLDEN / "model"), when]
    done = subprocess.run(
        line, cwd=GOLDEN.parents[1], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "7\n", done.stderr


def test_nothing_but_a_model_is_replaced_by_an_export(tmp_path):
    pytest.importorskip("tensorflow_compression")
    from tfcodec import litert_export, reencode

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "diary.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("folder", "file"):
        for make in (litert_export.export, reencode.reencode):
            with pytest.raises(ValueError, match="exists, and is no model"):
                make(GOLDEN / "model", tmp_path / name)
    assert (tmp_path / "folder" / "diary.txt").read_text() == "dear"
    assert (tmp_path / "file").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    registry.check_replaceable(tmp_path / "empty")
    registry.check_replaceable(GOLDEN / "model")


@pytest.mark.parametrize("name", ["parts.json", "rest.npz"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_damaged_litert_files_are_a_value_error(both, tmp_path, name, content):
    shutil.copytree(both[1].model.path, tmp_path / "model")
    path = tmp_path / "model" / "litert" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match="LiteRT files|whole model directory"):
        engine.LiteRTEngine(registry.Model.at(tmp_path / "model")).network("synthesis")


def test_a_damaged_byte_of_a_litert_file_is_nothing_or_a_value_error(both, tmp_path):
    shutil.copytree(both[1].model.path, tmp_path / "model")
    path, rng = tmp_path / "model" / "litert" / "rest.npz", np.random.default_rng(0)
    whole, refused = path.read_bytes(), 0
    for at in rng.integers(0, len(whole), 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            files = litert_files.Files(path.parent, tmp_path / "model")
            files.numbers(), files.network("synthesis")
        except ValueError:
            refused += 1
    assert refused > 50


def test_litert_files_of_another_model_are_refused(both, tmp_path):
    source = both[1].model
    shutil.copytree(source.path, tmp_path / "model")
    card = {**source.card, "fingerprint": "00" * 32}
    (tmp_path / "model" / "card.json").write_text(json.dumps(card))
    other = engine.LiteRTEngine(registry.Model.at(tmp_path / "model"))
    with pytest.raises(ValueError, match="LiteRT files of another model"):
        other.decode(b"", (64, 64))


def test_blas_is_held_to_one_thread_until_the_last_leaves():
    def threads():
        found = threadpoolctl.threadpool_info()
        return [each["num_threads"] for each in found if each["user_api"] == "blas"]

    before = threads()
    if not before:
        pytest.skip("NumPy's BLAS is none that threadpoolctl knows")
    inside, leave = threading.Event(), threading.Event()

    def other():
        with blas.one_thread:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with blas.one_thread:
        thread.start()
        inside.wait()
        assert set(threads()) == {1}
    assert set(threads()) == {1}
    leave.set()
    thread.join()
    assert threads() == before
