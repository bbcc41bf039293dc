"""What a server would load and call, without the server: files, errors, loaders."""

import base64
import concurrent.futures
import ctypes
import dataclasses
import http.server
import io
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from PIL import Image

tf = pytest.importorskip("tensorflow")

import tfcodec
from benchmarks.serving import loopback
from tests import fuzz, made
from tfcodec import (
    bitstream,
    cli,
    codec,
    graph_files,
    graph_images,
    images,
    predict,
    registry,
    serving,
    tracing,
)

MODEL = fuzz.GOLDEN / "model"
ROWS = json.loads((fuzz.GOLDEN / "golden.json").read_text())
NAMES = [name for name, row in ROWS.items() if row["model"] == "model"]
SIGNATURES = {
    "compress": ({"image_bytes", "quality"}, {"compressed_bytes", "bpp", "error"}),
    "compress_pixels": ({"image", "quality"}, {"compressed_bytes", "bpp", "error"}),
    "decompress": ({"compressed_bytes"}, {"image_bytes", "error"}),
    "decompress_pixels": ({"compressed_bytes"}, {"image", "error"}),
}


def golden(name):
    return (fuzz.GOLDEN / f"{name}.tfc").read_bytes()


def image_of(name):
    return opened(golden(name))


def encoded(image, form="PNG", **settings):
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **settings)
    return file.getvalue()


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def opened(data):
    """The image of a file, by TensorFlow, as a server is.

    LiteRT may differ by a level, and alpha that is nearly opaque is made opaque.
    """
    return tfcodec.decompress(data, MODEL, engine="tensorflow")


def near(a, b):
    """Equal but for a level here and there, as floats may round."""
    return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The directory of a version, as the command line writes it."""
    directory = tmp_path_factory.mktemp("serving") / "tiny"
    (directory / "9").mkdir(parents=True)
    some = {"pixels": 2**20, "side": 4000, "escapes": 380}
    limits = bitstream.Limits(**{**vars(fuzz.LIMITS), **some})
    return serving.export(registry.Model.at(MODEL), directory, limits)


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def served(loaded):
    return loaded.signatures


def call(served, name, **inputs):
    inputs = {key: tf.constant(value) for key, value in inputs.items()}
    return {k: v.numpy() for k, v in served[name](**inputs).items()}


def test_versions_count_up_and_none_is_left_half(exported):
    assert sorted(x.name for x in exported.parent.iterdir()) == ["10", "9"]
    card = json.loads((exported / "card.json").read_text())
    assert card["limits"]["pixels"] == 2**20


def test_signatures(served):
    found = {
        name: (set(f.structured_input_signature[1]), set(f.structured_outputs))
        for name, f in served.items()
    }
    assert found.pop("serving_default") == SIGNATURES["decompress"]
    assert found == SIGNATURES


def test_operations_are_those_of_a_stock_server(exported):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(
        (exported / "saved_model.pb").read_bytes()
    )
    graph = saved.meta_graphs[0].graph_def
    functions = graph.library.function
    used = {n.op for f in functions for n in f.node_def} | {n.op for n in graph.node}
    used -= {f.signature.name for f in functions}
    assert all(hasattr(tf.raw_ops, op) for op in used)
    assert not used & {"PyFunc", "EagerPyFunc", "NumpyFunction", "XlaLaunch"}


def test_dense_functions_compile_and_agree(loaded):
    assert len(loaded.buckets) == 2 * len(serving.BUCKETS)
    images = np.stack([image_of("face_100"), image_of("face_0")] * 2)
    images = np.pad(images, [(0, 0), (0, 56), (0, 56), (0, 0)], "reflect")
    own = codec.load(MODEL, "tensorflow").engine
    y = [own.parts["analysis"](image=tf.constant(x))["y"][0] for x in images]
    y_hat, quality = np.round(y), np.float32([0.1, 0.4, 0.7, 1])
    x_hat = [
        own.parts["synthesis"](y_hat=tf.constant(v[None]), quality=tf.constant(q))
        for v, q in zip(y_hat, quality)
    ]
    x_hat = np.stack([x["image"] for x in x_hat])
    for compiled in (False, True):
        analysis, synthesis = (
            tf.function(loaded.buckets[f"{name}_256"], jit_compile=compiled)
            for name in ("analysis", "synthesis")
        )
        assert np.allclose(analysis(images), y, atol=1e-3)
        assert near(synthesis(y_hat, quality).numpy(), x_hat)


def test_golden_files_of_all_sizes_in_one_request(served):
    files = [golden(name) for name in NAMES if name not in ("lanes", "face_100")]
    result = call(served, "decompress", compressed_bytes=files)
    assert not any(result["error"])
    for file, png in zip(files, result["image_bytes"]):
        assert near(decoded(png), opened(file))


def test_bad_items_leave_the_others_alone(served):
    good = golden("prime_30")
    items = [b"", good, b"\x89PNG", good[:-1], good, golden("shipped_cup_10")]
    result = call(served, "decompress", compressed_bytes=items)
    assert [bool(error) for error in result["error"]] == [1, 0, 1, 1, 0, 1]
    assert [bool(png) for png in result["image_bytes"]] == [0, 1, 0, 0, 1, 0]
    assert b"another model" in result["error"][-1]
    assert b"truncated" in result["error"][3]


@pytest.mark.parametrize("name", ["face_50", "grey_30", "pixel_30", "row_30"])
def test_compress_writes_what_the_library_does(served, name):
    image = image_of(name)
    pixels = image if image.ndim == 3 else image[..., None]
    ours = tfcodec.compress(image, 42.42, MODEL)
    quality = np.float32(42.42)
    result = call(served, "compress_pixels", image=pixels, quality=quality)
    assert result["error"] == b""
    theirs = result["compressed_bytes"]
    assert bitstream.read_header(theirs).quality == 42.42
    # Floats of the analysis may round otherwise, but hardly.
    assert abs(len(theirs) - len(ours)) <= 0.01 * len(ours) + 2
    back = opened(theirs)
    assert near(back, opened(ours)) or theirs != ours
    bits = 8 * len(theirs) / (image.shape[0] * image.shape[1])
    assert result["bpp"] == pytest.approx(bits)


def test_compress_takes_pngs_and_jpegs_of_every_kind(served):
    face = image_of("face_100")
    grey = image_of("grey_30")
    palette = io.BytesIO()
    Image.fromarray(face).quantize(16).save(palette, "PNG")
    items = [
        encoded(face), encoded(grey), encoded(image_of("alpha_30")),
        encoded(image_of("grey_alpha_30")), palette.getvalue(),
        encoded(face, "JPEG", quality=95), encoded(grey, "JPEG"),
    ]  # fmt: skip
    expected = [
        (face.shape, "RGB"), ((*grey.shape,), "L"), ((100, 100, 4), "RGBA"),
        ((100, 100, 2), "LA"), (face.shape, "RGB"), (face.shape, "RGB"),
        (grey.shape, "L"),
    ]  # fmt: skip
    result = call(served, "compress", image_bytes=items, quality=[60.0])
    assert not any(result["error"])
    for file, (shape, mode) in zip(result["compressed_bytes"], expected):
        assert opened(file).shape == shape
        assert bitstream.read_header(file).mode == mode
    alpha = opened(result["compressed_bytes"][2])[..., 3]
    assert np.array_equal(alpha, image_of("alpha_30")[..., 3])


def bomb():
    """A PNG of a few bytes that says it is 30,000 x 30,000."""
    data = bytearray(encoded(np.zeros((1, 1, 3), np.uint8)))
    data[16:24] = (30000).to_bytes(4, "big") * 2
    return bytes(data)


@pytest.fixture(scope="module")
def decode_png():
    signature = [tf.TensorSpec([], tf.string)]
    return tracing.traced(graph_images.decode_png, input_signature=signature)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(
    ("bits", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)]
)
def test_a_png_is_decoded_as_by_the_command_line(decode_png, bits, colour, transparent):
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 2**bits, (9, 11, 3) if colour else (9, 11))
    key = np.atleast_1d(samples[3, 4]).astype(">u2").tobytes()
    data = made.png(samples, bits, colour, *[(b"tRNS", key)] * transparent)
    wanted = images.read(io.BytesIO(data), "it").pixels
    assert (wanted.ndim == 3 and wanted.shape[2] in (2, 4)) == transparent
    found = decode_png(data).numpy()
    wanted = wanted[..., None] if wanted.ndim == 2 else wanted
    assert near(found, wanted)
    if transparent:
        assert np.array_equal(found[..., -1], wanted[..., -1])


def test_compress_refuses_item_by_item(served):
    good = encoded(image_of("prime_30"))
    jpeg = encoded(image_of("prime_30"), "JPEG")
    large = encoded(np.zeros((1200, 1000), np.uint8), "JPEG")
    items = [good, b"", b"GIF89a", good[:60], jpeg[:30], bomb(), large, jpeg]
    levels = [50.0] * len(items)
    result = call(served, "compress", image_bytes=items, quality=levels)
    words = [b"", b"neither", b"neither", b"damaged", b"damaged", b"limit", b"limit"]
    for error, word in zip(result["error"], [*words, b""]):
        assert bool(error) == bool(word)
        assert word in error
    assert [bool(x) for x in result["compressed_bytes"]] == [1, *[0] * 6, 1]


@pytest.mark.parametrize("level", [-1.0, 100.1, float("nan"), float("inf")])
def test_quality_out_of_range_is_an_error(served, level):
    good = encoded(image_of("pixel_30"))
    result = call(served, "compress", image_bytes=[good] * 2, quality=[level, 50.0])
    assert [bool(error) for error in result["error"]] == [1, 0]
    result = call(served, "compress", image_bytes=[good] * 3, quality=[50.0, 50.0])
    assert [bool(error) for error in result["error"]] == [0, 0, 1]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((0, 5, 3), b"no pixels"), ((4, 4, 5), b"1 to 4 channels"),
        ((4, 4, 0), b"1 to 4 channels"), ((1, 4001, 3), b"a side"),
        ((1025, 1024, 1), b"pixels"),
    ],
)  # fmt: skip
def test_pixels_that_are_no_image(served, shape, words):
    image = np.zeros(shape, np.uint8)
    result = call(served, "compress_pixels", image=image, quality=np.float32(50))
    assert words in result["error"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"pixels": 100}, b"pixels"), ({"side": 60}, b"a side"),
        ({"decoded_bytes": 999}, b"bytes"), ({"tiles": 3}, b"tiles"),
        ({"tile_pixels": 999}, b"pixels a tile"), ({"chunks": 3}, b"chunks"),
        ({"file_bytes": 99}, b"bytes"),
    ],
)  # fmt: skip
def test_limits_inside_the_graph(limits, words):
    model = registry.Model.at(MODEL)
    given = bitstream.Limits(**{**vars(fuzz.LIMITS), **limits})

    @tracing.traced
    def error(data):
        return graph_files.parse(data, model.fingerprint, model.stride, given).error

    assert words in error(tf.constant(golden("tiles_64"))).numpy()


@pytest.mark.parametrize("tile", [2, 8, 15])
def test_tiles_larger_than_the_image_take_no_more_memory(served, tile):
    header, chunks = bitstream.unpack(golden("pixel_30"))
    data = bitstream.pack(dataclasses.replace(header, tile=tile), chunks)
    result = call(served, "decompress_pixels", compressed_bytes=data)
    assert not result["error"]
    assert near(result["image"], opened(data))


def test_escapes_over_the_limit_are_refused(served):
    result = call(served, "decompress_pixels", compressed_bytes=golden("face_100"))
    assert b"damaged" in result["error"]


def test_warm_up_requests_can_be_served(exported, served):
    path = exported / serving.WARM_UP
    seen = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = predict.messages()["PredictionLog"].FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "tiny"
        signature = request.model_spec.signature_name
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        assert not np.any(call(served, signature, **inputs)["error"] != b"")
        seen.add(signature)
    assert seen == set(SIGNATURES)


def test_messages_are_those_of_the_stubs():
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    ours = predict.messages()["PredictionLog"]()
    request = predict.request("m", "compress", quality=[1.0], image_bytes=[b"x"])
    ours.predict_log.request.CopyFrom(request)
    theirs = apis.PredictionLog.FromString(ours.SerializeToString())
    assert theirs.predict_log.request.model_spec.name == "m"
    assert theirs.predict_log.request.model_spec.signature_name == "compress"
    inputs = theirs.predict_log.request.inputs
    assert tf.make_ndarray(inputs["image_bytes"]).tolist() == [b"x"]
    assert theirs.SerializeToString(deterministic=True) == ours.SerializeToString(
        deterministic=True
    )


LOADER = """
    import ctypes, glob, pathlib, sys
    library, directory = sys.argv[1:]
    tf = ctypes.CDLL(library)
    for name in ("TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions",
                 "TF_LoadSessionFromSavedModel", "TF_Message"):
        getattr(tf, name).restype = ctypes.c_void_p
    tf.TF_Message.restype = ctypes.c_char_p
    pointer = ctypes.c_void_p
    status = pointer(tf.TF_NewStatus())
    graph, options = pointer(tf.TF_NewGraph()), pointer(tf.TF_NewSessionOptions())
    tags = (ctypes.c_char_p * 1)(b"serve")
    session = tf.TF_LoadSessionFromSavedModel(
        options, None, directory.encode(), tags, 1, graph, None, status
    )
    assert "tensorflow" not in sys.modules
    print("code", tf.TF_GetCode(status), tf.TF_Message(status).decode())
    sys.exit(not session)
"""


def test_the_loader_of_servers_takes_it(exported):
    """In C++, where nothing has imported TensorFlow's Python, as in a server."""
    root = pathlib.Path(tf.__file__).parent
    found = sorted(root.glob("libtensorflow_cc.so*")) + sorted(
        root.glob("python/_pywrap_tensorflow_internal.so")
    )
    found = [path for path in found if has_symbol(path)]
    if not found:
        pytest.skip("this TensorFlow has no C++ library with the loader")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOADER), str(found[0]), str(exported)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "code 0" in done.stdout


def has_symbol(path):
    try:
        return hasattr(ctypes.CDLL(str(path)), "TF_LoadSessionFromSavedModel")
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(served):
    """HOST:PORT/NAME of a PredictionService on loopback."""
    with loopback(served, "tiny") as address:
        yield address


def test_clients_of_mixed_sizes_at_once(server):
    names = ["face_50", "pixel_30", "alpha_30", "grey_30", "row_30", "grey_alpha_30"]

    def there_and_back(name):
        client = predict.Server(server)
        image = image_of(name)
        metadata = {"exif": b"MM\0*\0\0\0\x08\0\0\0\0\0\0"}
        data = client.compress(image, 70, metadata)
        assert codec.metadata(data) == metadata
        assert near(client.decompress(data), opened(data))
        local = codec.load(MODEL, "tensorflow")
        return data == local.compress(image, 70, metadata=metadata)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        same = list(pool.map(there_and_back, names))
    assert sum(same) >= len(same) - 1


def test_a_client_says_what_is_wrong(server):
    client = predict.Server(server)
    with pytest.raises(bitstream.StreamError, match="checksum"):
        client.decompress(golden("flat_30")[:-1] + b"?")
    with pytest.raises(ValueError, match="limit"):
        client.compress(np.zeros((1025, 1024), np.uint8))
    with pytest.raises(ValueError, match="no model 'nothing'.*not_found"):
        predict.Server(server.replace("tiny", "nothing")).decompress(golden("flat_30"))
    with pytest.raises(ConnectionError, match="no server at 127.0.0.1:9"):
        predict.Server("127.0.0.1:9").decompress(golden("flat_30"))
    with pytest.raises(TimeoutError, match="took over"):
        predict.Server(server, seconds=1e-4).decompress(golden("face_100"))
    with pytest.raises(ValueError, match="HOST:PORT"):
        predict.Server("localhost")


def test_an_http_port_is_told_from_no_server_and_tensorflow_keeps_quiet(tmp_path):
    source = tmp_path / "a.png"
    source.write_bytes(encoded(np.zeros((9, 7, 3), np.uint8)))
    handler = http.server.BaseHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as rest:
        threading.Thread(target=rest.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{rest.server_port}"
        program = pathlib.Path(__file__).parents[1] / "compress.py"
        done = subprocess.run(
            [sys.executable, program, "compress", source, "--server", place],
            env={k: v for k, v in os.environ.items() if "LOG_LEVEL" not in k},
            capture_output=True, text=True,
        )  # fmt: skip
        rest.shutdown()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{place} answers, but not by gRPC" in line
    assert "REST port" in line
    assert "--debug" not in line


def test_the_command_line_by_a_server(server, tmp_path):
    source, file = tmp_path / "a.png", tmp_path / "a.tfc"
    source.write_bytes(encoded(image_of("prime_30")))
    back = tmp_path / "b.png"
    for line in (
        ["compress", str(source), str(file), "-q", "61", "--server", server],
        ["decompress", str(file), str(back), "--server", server],
    ):
        assert not cli.main(cli.parse(["tfcodec", *line]))
    data = tfcodec.compress(image_of("prime_30"), 61, MODEL, engine="tensorflow")
    assert file.read_bytes() == data
    expected = opened(file.read_bytes())
    assert near(decoded(back.read_bytes()), expected)
    line = ["compress", str(source), "-f", "--server", server]
    assert not cli.main(cli.parse(["tfcodec", *line]))
    header = bitstream.read_header(file.read_bytes())
    assert header.quality == codec.DEFAULT_QUALITY


def test_rest_speaks_base64(served):
    """The JSON that a server's REST takes and gives, as docs/serving.md has it."""
    file = golden("flat_30")
    body = {"instances": [{"b64": base64.b64encode(file).decode()}]}
    sent = json.loads(json.dumps(body))["instances"]
    items = [base64.b64decode(instance["b64"]) for instance in sent]
    result = call(served, "decompress", compressed_bytes=items)
    # Outputs whose names end in _bytes are given as {"b64": ...}.
    answer = {
        "predictions": [
            {
                "image_bytes": {"b64": base64.b64encode(png).decode()},
                "error": e.decode(),
            }
            for png, e in zip(result["image_bytes"], result["error"])
        ]
    }
    found = json.loads(json.dumps(answer))["predictions"][0]
    image = decoded(base64.b64decode(found["image_bytes"]["b64"]))
    assert near(image, opened(file))
