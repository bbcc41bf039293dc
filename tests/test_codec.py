"""The codec with a small model: tiles, layouts, targets, checks."""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

tf = pytest.importorskip("tensorflow")

import tfcodec  # noqa: E402
from tests import tiny  # noqa: E402
from tfcodec import (  # noqa: E402
    bitstream,
    codec,
    compression,
    metrics,
    pillow_plugin,
    planes,
    quality,
    ssimulacra2,
    tensorflow_engine,
    tiling,
)
from tfcodec.tiling import Box, boxes, cut  # noqa: E402

IMAGE = tiny.photograph(150, 330)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model directory: the golden model, as it is for TensorFlow alone."""
    golden = pathlib.Path(__file__).parent / "golden" / "model"
    directory = tmp_path_factory.mktemp("m") / "tiny"
    shutil.copytree(golden, directory, ignore=shutil.ignore_patterns("litert"))
    return str(directory)


@pytest.fixture
def one(model):
    return codec.load(model)


def layouts():
    alpha = np.zeros(IMAGE.shape[:2], np.uint8)
    alpha[20:90, 30:200] = np.arange(170) + 80
    grey = IMAGE[..., 1]
    return {
        "RGB": IMAGE,
        "L": grey,
        "RGBA": np.dstack([IMAGE, alpha]),
        "LA": np.dstack([grey, alpha]),
    }


def test_a_box_is_cut_as_if_the_image_were_larger():
    image = np.arange(12).reshape(3, 4)
    assert cut(image, Box(1, 2, 5, 6)).tolist() == [
        [6, 7, 7, 7], [10, 11, 11, 11], [10, 11, 11, 11], [10, 11, 11, 11]
    ]  # fmt: skip
    tiles = boxes(3, 4, 2)
    assert sum(box.height * box.width for box in tiles) == 12
    assert tiles[1] == Box(0, 2, 2, 4)
    assert not Box(0, 0, 2, 2) & Box(2, 0, 4, 2)


@pytest.mark.parametrize("side", [64, 128])
def test_tiles_have_the_latents_and_pixels_of_the_whole(one, side):
    """So there is no border to see."""
    whole, tiled = (
        bitstream.Header(one.model.fingerprint, 330, 150, 60.0, tile=tile)
        for tile in (0, tiling.tile_layout(150, 330, side))
    )
    work = compression.Compression(one, whole, IMAGE, [], 0, None, False)
    parts = compression.Compression(one, tiled, IMAGE, [], 0, None, False)
    work.tick = parts.tick = lambda: None
    y = work._analysed(work.boxes[0], 60.0)
    assert one.model.reach["analysis"] > 0
    found = []
    for box in parts.boxes:
        part = box.aligned(64).shrunk(16)
        rows, columns = part.inside(Box(0, 0, *y.shape[1:3]))
        found.append(y[:, rows, columns])
        np.testing.assert_allclose(parts._analysed(box, 60.0), found[-1], atol=0.2)
    pixels = dict(one.pixels(tiled, y_hat=found.__getitem__))
    ((_, reference),) = one.pixels(whole, y_hat=lambda k: y)
    assert len(pixels) == len(parts.boxes) > 4
    for box, part in pixels.items():
        difference = part.astype(int) - reference[box.inside(Box(0, 0, 150, 330))]
        assert np.abs(difference).max() <= 1  # of rounding


@pytest.mark.parametrize("tile", [0, 64])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_layouts_come_back_as_they_were(one, mode, tile):
    image = layouts()[mode]
    data = one.compress(image, 80, tile=tile, verify=True)
    header, chunks = bitstream.unpack(data)
    assert header.mode == mode
    assert header.tiles == (18 if tile else 1)
    back = one.decompress(header, chunks)
    assert back.shape == image.shape
    assert back.dtype == np.uint8
    visible = np.ones(IMAGE.shape[:2], bool)
    if "A" in mode:
        np.testing.assert_array_equal(back[..., -1], image[..., -1])
        visible = image[..., -1] > 0
    assert metrics.psnr(back[visible][None], image[visible][None]) > 21
    for crop in ((0, 0, 330, 150), (63, 60, 3, 9), (329, 149, 1, 1), (100, 1, 131, 70)):
        region = codec.region_of(header, crop)
        part = one.decompress(header, chunks, region)
        wanted = back[region.inside(Box(0, 0, 150, 330))]
        difference = part.astype(int) - wanted
        assert np.abs(difference).max() <= 1


def test_a_crop_decodes_the_tiles_it_needs_alone(one, monkeypatch):
    header, chunks = bitstream.unpack(one.compress(IMAGE, 50, tile=64))
    decoded = []
    decode = one.decode

    def counted(height, width, payload, limits):
        decoded.append(payload)
        return decode(height, width, payload, limits)

    monkeypatch.setattr(one, "decode", counted)
    one.decompress(header, chunks)
    assert len(decoded) == 18  # each once, though neighbours need it too
    decoded.clear()
    one.decompress(header, chunks, Box(0, 0, 10, 10))
    assert 1 <= len(decoded) <= 4


def test_grey_with_one_channel_is_grey(one):
    assert one.compress(IMAGE[..., :1], 50) == one.compress(IMAGE[..., 0], 50)


def test_alpha_may_lose_something(one):
    image = layouts()["RGBA"]
    sizes = []
    for level in (30, 90):
        data = one.compress(image, 50, alpha_quality=level, tile=64)
        header, chunks = bitstream.unpack(data)
        assert sum(c.type == bitstream.ALPHA_TILE for c in chunks) == header.tiles
        back = one.decompress(header, chunks)[..., 3]
        sizes.append(metrics.psnr(back, image[..., 3]))
    assert sizes[0] < sizes[1]


def test_what_no_one_sees_costs_nothing(one):
    hidden = layouts()["RGBA"]
    noisy = hidden.copy()
    out = hidden[..., 3] == 0
    noise = np.random.default_rng(0).integers(0, 256, (*out.shape, 3), np.uint8)
    noisy[..., :3] = np.where(out[..., None], noise, noisy[..., :3])
    assert one.compress(noisy, 50) == one.compress(hidden, 50)
    shown, masked = (
        sum(len(chunk.data) for chunk in chunks if chunk.type == bitstream.TILE)
        for _, chunks in (
            bitstream.unpack(one.compress(image, 50))
            for image in (noisy[..., :3], noisy)
        )
    )
    assert shown > 1.5 * masked
    nothing = np.zeros((40, 40, 4), np.uint8)
    assert planes.separated(nothing)[0].max() == 0


@pytest.fixture
def calls(one, monkeypatch):
    """Returns a list of the methods of the engine that are called, by name."""
    names = []

    def noted(name, method):
        def call(*args):
            names.append(name)
            return method(*args)

        return call

    for name in ("analysis", "encode", "synthesis"):
        method = noted(name, getattr(one.engine, name))
        monkeypatch.setattr(one.engine, name, method)
    return names


@pytest.mark.parametrize("tile", [0, 128])
def test_max_bytes_is_never_exceeded_and_nearly_reached(one, calls, tile):
    tiles = len(boxes(*IMAGE.shape[:2], tile))
    least, most = (len(one.compress(IMAGE, q, tile=tile)) for q in (0, 100))
    for part in (0.1, 0.5, 0.9):
        goal = int(least + part * (most - least))
        calls.clear()
        data = one.compress(IMAGE, tile=tile, target=quality.Target("bytes", goal))
        assert 0.98 * goal <= len(data) <= goal
        assert calls.count("analysis") == tiles
        assert calls.count("synthesis") == 0
        assert calls.count("encode") <= 8 * tiles
    with pytest.raises(quality.OutOfReach, match=f"nearest is {least} bytes, at qual"):
        one.compress(IMAGE, tile=tile, target=quality.Target("bytes", least - 1))


@pytest.mark.parametrize(
    ("level", "kind", "hint"),
    [
        (None, bitstream.ALPHA, "fewer with alpha_quality"),
        (50, bitstream.ALPHA_TILE, "fewer at a lower alpha_quality"),
    ],
)
def test_bytes_that_no_quality_changes_are_told(one, level, kind, hint):
    image = layouts()["RGBA"]
    given = {"metadata": {"exif": b"EXIF" * 9}, "alpha_quality": level}
    _, chunks = bitstream.unpack(one.compress(image, 0, **given))
    alone = sum(len(chunk.data) for chunk in chunks if chunk.type == kind)
    stored = sum(len(c.data) for c in chunks if c.type == bitstream.EXIF)
    words = (
        f"; alpha alone takes {alone} bytes, {hint}; metadata alone takes {stored} b"
    )
    with pytest.raises(quality.OutOfReach, match=f", at quality 0{words}"):
        one.compress(image, target=quality.Target("bytes", 50), **given)


def test_psnr_is_reached_by_the_smallest_file(calls, model):
    for goal in (27.3, 27.5):
        calls.clear()
        data = tfcodec.compress(IMAGE, model=model, target_psnr=goal)
        reached = metrics.psnr(tfcodec.decompress(data, model), IMAGE)
        assert goal <= reached < goal + 0.02
        assert calls.count("analysis") == 1
        coded = calls.count("encode")
        assert calls.count("synthesis") == 1 + coded <= 9  # one was ours
        level = bitstream.read_header(data).quality
        assert data == tfcodec.compress(IMAGE, level, model)
    with pytest.raises(tfcodec.OutOfReach, match="90.00 dB PSNR; the nearest is"):
        tfcodec.compress(IMAGE, model=model, target_psnr=90)


def test_ssimulacra2_is_reached_by_the_smallest_file(one, model):
    def score(data):
        return ssimulacra2.score(IMAGE, tfcodec.decompress(data, model))

    least, most = (score(one.compress(IMAGE, level)) for level in (0, 100))
    goal = (least + most) / 2
    assert goal > 0
    data = tfcodec.compress(IMAGE, model=model, target_ssimulacra2=goal)
    assert goal <= score(data) < goal + 1  # at so few pixels it moves in steps
    with pytest.raises(tfcodec.OutOfReach, match=r"99\.00 SSIMULACRA2; the nearest is"):
        tfcodec.compress(IMAGE, model=model, target_ssimulacra2=99)
    with pytest.raises(ValueError, match="above 0 and below 100, not 105"):
        tfcodec.compress(IMAGE, model=model, target_ssimulacra2=105)
    with pytest.raises(ValueError, match="SSIMULACRA2 needs 8 pixels a side, not 9x1"):
        tfcodec.compress(IMAGE[:1, :9], model=model, target_ssimulacra2=50)


def test_a_target_with_effort_is_met_too(one):
    image = IMAGE[:64, :128]
    goal = len(one.compress(image, 40))
    target = quality.Target("bytes", goal)
    data = one.compress(image, effort=2, target=target, tile=64)
    assert 0.9 * goal <= len(data) <= goal


@pytest.mark.parametrize(
    "settings",
    [
        {"max_bytes": 0}, {"target_bpp": -1}, {"target_psnr": float("nan")},
        {"target_msssim": 1.0}, {"max_bytes": 5, "target_psnr": 5},
        {"target_ssimulacra2": 100}, {"target_ssimulacra2": -5},
        {"alpha_quality": 101}, {"effort": 10}, {"quality": "high"},
    ],
)  # fmt: skip
def test_bad_settings_are_value_errors(model, settings):
    with pytest.raises(ValueError, match=r"above 0|one target|quality|effort"):
        tfcodec.compress(layouts()["RGBA"], model=model, **settings)


@pytest.mark.parametrize("name", quality.TARGETS)
def test_a_quality_beside_a_target_is_refused(model, name):
    settings = {"quality": codec.DEFAULT_QUALITY, name: 1, "model": model}
    if name == "target_msssim":
        settings[name] = 0.5
    words = f"a quality or one target, not quality and {name}$"
    with pytest.raises(ValueError, match=words):
        tfcodec.compress(IMAGE, **settings)
    with pytest.raises(ValueError, match=words):
        codec.check_settings(**settings)
    codec.check_settings(**{**settings, "quality": None})


def test_the_default_quality_is_a_number(model):
    default = tfcodec.compress(IMAGE, model=model)
    assert default == tfcodec.compress(IMAGE, codec.DEFAULT_QUALITY, model)


def test_exif_is_stored_from_its_tiff_header_on(model):
    data = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
    for given in (data, b"Exif\0\0" + data, bytearray(data), memoryview(data)):
        file = tfcodec.compress(IMAGE[:8, :8], model=model, exif=given)
        assert tfcodec.metadata(file) == {"exif": data}


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (IMAGE.astype(float), TypeError, "uint8, not float64"),
        (IMAGE[None], ValueError, r"\[1, 150, 330, 3\]"),
        (np.zeros((5, 5, 5), np.uint8), ValueError, r"1 to 4 channels"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "with pixels in it"),
        (np.uint8(5), ValueError, r"not \[\]"),
    ],
)
def test_bad_images_are_named(model, image, error, words):
    with pytest.raises(error, match=words):
        tfcodec.compress(image, model=model)


def test_verify_notices_what_does_not_decode(one, monkeypatch):
    decode = one.decode

    def wrong(*args):
        y, y_hat = decode(*args)
        return y + 1, y_hat

    monkeypatch.setattr(one, "decode", wrong)
    one.compress(IMAGE, 50)
    with pytest.raises(RuntimeError, match="does not decode"):
        one.compress(IMAGE, 50, verify=True)


@pytest.mark.parametrize("bad", ["short", "size", "mode", "several", "quality"])
def test_damaged_alpha_is_a_stream_error(one, bad):
    image = layouts()["RGBA"][:64, :128]
    lossy = bad in ("several", "quality")
    data = one.compress(image, 50, tile=64, alpha_quality=50 if lossy else None)
    header, chunks = bitstream.unpack(data)
    at = next(i for i, c in enumerate(chunks) if c.type != bitstream.TILE)
    content = {
        "short": lambda old: old[:30],
        "size": lambda old: planes.png(np.zeros((5, 5), np.uint8)),
        "mode": lambda old: planes.png(np.zeros((64, 128, 3), np.uint8)),
        "several": lambda old: b"\x01\x00" + old[2:],
        "quality": lambda old: b"\xff\xff" + old[2:],
    }[bad]
    every = range(at, at + header.tiles) if bad == "quality" else [at]
    for k in every:
        chunks[k] = dataclasses.replace(chunks[k], data=content(chunks[k].data))
    with pytest.raises(tfcodec.CorruptStream, match="alpha"):
        one.decompress(header, chunks)


def test_batches(model):
    images = [IMAGE[:70, :70], IMAGE[..., 0][:64, :90]]
    files = tfcodec.compress_batch(images, 60, model=model)
    assert files == [tfcodec.compress(image, 60, model) for image in images]
    back = tfcodec.decompress_batch(files, model)
    assert [x.shape for x in back] == [x.shape for x in images]
    stacked = tfcodec.compress_batch(np.stack([IMAGE[:64, :64]] * 2), model=model)
    assert stacked[0] == stacked[1]
    with pytest.raises(TypeError, match="image 1: an image must be uint8"):
        tfcodec.compress_batch([IMAGE, IMAGE / 2], model=model)
    with pytest.raises(tfcodec.CorruptStream, match="file 1: empty file"):
        tfcodec.decompress_batch([files[0], b""], model)


def test_another_encoder_in_place_of_a_model_is_loaded(model, tmp_path):
    """It has the same fingerprint, as the decoder is the same."""
    shutil.copytree(model, tmp_path / "model")
    first = codec.load(tmp_path / "model")
    assert codec.load(tmp_path / "model") is first
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    card["encoder"] = {"error_bits": 1.0}
    (tmp_path / "model" / "card.json").write_text(json.dumps(card))
    assert codec.load(tmp_path / "model") is not first


@pytest.fixture
def as_shipped(model, monkeypatch):
    """The tiny model is the one that is taken where none is named."""
    loaded = codec.load(model)
    monkeypatch.setattr(codec.registry, "models", lambda: [loaded.model])
    monkeypatch.setattr(codec, "load", lambda *_: loaded)
    monkeypatch.setattr(codec, "_loaded", lambda *_: loaded)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_in_a_tf_data_pipeline(as_shipped, mode, channels):
    image = layouts()[mode][:64, :80]
    image = image[..., None] if image.ndim == 2 else image
    data = tf.data.Dataset.from_tensors(image).map(tfcodec.encode_tensor)
    (back,) = data.map(lambda x: tfcodec.decode_tensor(x, channels))
    assert back.shape == (64, 80, channels)
    whole = tfcodec.decompress(tfcodec.compress(image))
    whole = whole[..., None] if whole.ndim == 2 else whole
    if channels == 4:
        alpha = whole[..., -1] if "A" in mode else 255
        assert np.all(back[..., 3] == alpha)
    if mode in ("RGB", "RGBA") and channels > 1:
        np.testing.assert_array_equal(back[..., :3], whole[..., :3])
    elif channels == 1:
        difference = np.float32(back[..., 0]) - whole[
            ..., : max(1, len(mode) // 3 * 3)
        ].mean(-1)
        assert np.abs(difference).max() <= 0.5
    with pytest.raises(ValueError, match="1, 3 or 4"):
        tfcodec.decode_tensor(b"", 2)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_pillow_reads_and_writes(as_shipped, mode, tmp_path):
    image = Image.fromarray(layouts()[mode])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    path = tmp_path / "x.tfc"
    image.save(path, quality=70, exif=exif)
    with Image.open(path) as back:
        assert (back.format, back.mode, back.size) == ("TFC", mode, image.size)
        assert back.get_format_mimetype() == "image/x-tfcodec"
        assert back.info["quality"] == 70
        assert back.getexif()[0x0112] == 6
        expected = tfcodec.decompress(path.read_bytes())
        np.testing.assert_array_equal(np.asarray(back), expected)
        back.copy().verify()
    data = io.BytesIO()
    image.save(data, "TFC", max_bytes=path.stat().st_size)
    assert len(data.getvalue()) <= path.stat().st_size
    Image.open(data).load()  # a file that stays open


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_pillow_does_not_take_the_bytes_of_a_file_for_pixels(
    as_shipped, mode, tmp_path
):
    image = Image.new(mode, (8, 8), "grey")  # fewer bytes than the file
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "x.tfc"
    image.save(path, icc_profile=profile)
    expected = tfcodec.decompress(path.read_bytes())
    with Image.open(path) as back:
        np.testing.assert_array_equal(np.asarray(back), expected)


def test_pillow_keeps_what_a_tiff_says_of_its_picture(as_shipped):
    whole, data = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    Image.fromarray(IMAGE[:64, :64]).save(whole, "TIFF", exif=exif)
    Image.open(whole).save(data, "TFC", xmp="<x:xmpmeta/>")
    back = Image.open(data)
    assert back.getexif()[0x010F] == "a maker"
    assert back.info["xmp"] == b"<x:xmpmeta/>"


def test_pillow_says_what_is_damaged(as_shipped):
    data = tfcodec.compress(IMAGE[:64, :64])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OSError, match="cannot identify"):
            Image.open(io.BytesIO(data[:-3]))
    header, chunks = bitstream.unpack(data)
    broken = [bitstream.Chunk(bitstream.TILE, chunks[-1].data[:-4])]
    image = Image.open(io.BytesIO(bitstream.pack(header, broken)))
    assert image.size == (64, 64)
    with pytest.raises(OSError, match="damaged"):
        image.load()
    assert pillow_plugin.FORMAT in Image.SAVE


@pytest.mark.parametrize("figure", ["bytes", "psnr", "ssimulacra2"])
@pytest.mark.parametrize("seed", range(20))
def test_search_meets_a_target_from_the_right_side(figure, seed):
    rng = np.random.default_rng(seed)
    slope, bend = rng.uniform(0.02, 0.12), rng.uniform(-0.004, 0.004)
    tried = []

    def measure(level):
        tried.append(level)
        value = 9 + slope * level * (1 + bend * (level - 100))
        if figure == "ssimulacra2":  # from below 0, in larger steps
            return 8 * (value - 11)
        return round(np.exp(value)) if figure == "bytes" else 20 + value

    target = quality.Target(figure, max(1, measure(rng.uniform(1, 99))))
    tried.clear()
    found = quality.search(target, measure)
    assert len(tried) <= 8
    assert target.met(measure(found))
    worse = found + (0.01 if figure == "bytes" else -0.01)
    near = target.scaled(measure(found)) - target.scaled(target.value)
    assert abs(near) <= quality.NEAR[figure] or not target.met(measure(worse))


def test_the_quality_after_a_change_follows_the_curve_from_before():
    target = quality.Target("ssimulacra2", 70)
    curve = {30.0: 55.0, 50.0: 71.0, 50.01: 70.0}
    # The curve rises by 0.8 a unit of quality; the nearest point is too near to tell.
    assert quality.nearer(target, 50.01, 74.0, curve) == pytest.approx(45.0, abs=0.5)
    # With a single point, or one that falls, it is the usual slope, 0.6.
    for alone in ({50.0: 71.0}, {50.0: 71.0, 60.0: 60.0}):
        assert quality.nearer(target, 50.0, 73.0, alone) == 45.0
    assert quality.nearer(target, 2.0, 99.0, {2.0: 98.0}) == 0.0
    fewer = quality.Target("bytes", 1000)
    assert quality.nearer(fewer, 50.0, 1050.0, {50.0: 1000, 40.0: 800}) < 50.0


def test_work_on_other_tiles_may_end_early_when_one_is_interrupted():
    ended = threading.Event()

    def work(item):
        if item == 0:
            raise KeyboardInterrupt
        assert ended.wait(20)

    with pytest.raises(KeyboardInterrupt):
        list(compression.side_by_side(work, range(3), ended))
    assert ended.is_set()


def test_search_says_what_comes_nearest():
    with pytest.raises(quality.OutOfReach, match="nearest is 59.00 dB PSNR, at quali"):
        # As with tiny pictures, the best is not at the highest quality.
        quality.search(
            quality.Target("psnr", 60), lambda level: 59 if level == 50 else 42
        )
    with pytest.raises(quality.OutOfReach, match="nearest is 50.00 dB PSNR, at quali"):
        quality.search(quality.Target("psnr", 60), lambda level: 40 + level / 10)
    assert quality.search(quality.Target("psnr", 30), lambda level: 40 + level) == 0
    assert quality.search(quality.Target("bytes", 9e9), lambda level: 5 + level) == 100


def test_graphs_are_rewritten_for_others_in_the_process_alone():
    from tensorflow.python.eager import context

    def rewriting():
        options = context.context().function_call_options
        config = tf.compat.v1.ConfigProto.FromString(options.config_proto_serialized)
        return not config.graph_options.rewrite_options.disable_meta_optimizer

    with tensorflow_engine.without_rewriting(tf):
        inside = rewriting()
    assert rewriting()
    assert inside == bool(tf.config.list_logical_devices("GPU"))


PROCESS = """
import multiprocessing, pathlib, sys
import numpy as np
import tfcodec, tfcodec.pillow_plugin
from PIL import Image
from tfcodec import registry

model = registry.Model.at(sys.argv[1])
registry.models = lambda: [model]
image = np.asarray(Image.open("in.png"))
settings = {"model": sys.argv[1]}

def tried(function):
    try:
        function()
    except RuntimeError as error:
        print(error, flush=True)

def fork(function):
    process = multiprocessing.get_context("fork").Process(target=tried, args=[function])
    process.start()
    process.join(120)
    assert process.exitcode == 0, process.exitcode

import tensorflow as tf  # importing it starts nothing
fork(lambda: print("before:", tfcodec.compress(image, **settings)[:4], flush=True))
data = tfcodec.compress(image, **settings)
pathlib.Path("a.tfc").write_bytes(data)
fork(lambda: tfcodec.compress(image, **settings))
fork(lambda: tfcodec.decompress(data))
fork(lambda: Image.open("a.tfc").load())
fork(lambda: print("info:", tfcodec.info(data)["width"], flush=True))

# More calls at a time than TensorFlow has threads for operations of Python's.
many = {"num_parallel_calls": 40}
pixels = tf.data.Dataset.from_tensors(image).repeat(80)
files = pixels.map(lambda x: tfcodec.encode_tensor(x, **settings), **many)
file = files.batch(40).take(1).get_single_element().numpy()[7]
assert file == data
files = tf.data.Dataset.from_tensors(data).repeat(80)
back = files.map(tfcodec.decode_tensor, **many).batch(40).take(1).get_single_element()
assert np.array_equal(back[3], tfcodec.decompress(data))
print("pipelines: done", flush=True)
"""


@pytest.fixture(scope="module")
def process(model, tmp_path_factory):
    """What a process prints in which TensorFlow runs: it forks, and has pipelines."""
    place = tmp_path_factory.mktemp("process")
    Image.fromarray(IMAGE[:64, :64]).save(place / "in.png")
    root = str(pathlib.Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, model],
        cwd=place, env={**os.environ, "PYTHONPATH": root}, timeout=300,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout + done.stderr[-3000:]


@pytest.mark.slow
def test_a_forked_process_says_spawn_and_does_not_hang(process):
    assert "before: b'\\x89tfc'" in process
    assert process.count('start workers by "spawn"') == 3
    assert "info: 64" in process


@pytest.mark.slow
def test_a_pipeline_with_more_calls_than_threads_gives_its_single_element(process):
    assert "pipelines: done" in process
