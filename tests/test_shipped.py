"""The model that ships: on a photograph that no training saw."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow")

import tensorflow as tf

import tfcodec
from tfcodec import codec, compression, metrics, registry, ssimulacra2

if not registry.models():
    pytest.skip("no shipped model in this checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def photograph():
    with Image.open(pathlib.Path(__file__).parent / "photograph.png") as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def curve(photograph):
    """(quality, bytes, PSNR) over all qualities."""
    rows = []
    for quality in (0, 10, 25, 40, 50, 60, 75, 90, 100):
        data = tfcodec.compress(photograph, quality)
        rows.append(
            (quality, len(data), metrics.psnr(photograph, tfcodec.decompress(data)))
        )
    return np.array(rows)


def test_more_quality_is_more_bytes_and_more_psnr(curve):
    assert np.all(np.diff(curve[:, 1]) > 0)
    assert np.all(np.diff(curve[:, 2]) > 0)


def test_a_hundredth_of_quality_is_a_step_of_its_own(photograph):
    sizes = [len(tfcodec.compress(photograph, q)) for q in (50, 50.4, 50.8)]
    assert sizes[0] < sizes[1] < sizes[2] < 1.05 * sizes[0]


def test_better_than_jpeg_at_any_size_from_a_fifth_to_one_bit_per_pixel(
    photograph, curve
):
    jpeg = []
    for quality in range(4, 90, 3):
        file = io.BytesIO()
        image = Image.fromarray(photograph)
        image.save(file, "JPEG", quality=quality, optimize=True)
        with Image.open(file) as back:
            jpeg.append(
                (len(file.getvalue()), metrics.psnr(photograph, np.asarray(back)))
            )
    sizes, psnrs = np.array(jpeg).T
    pixels = photograph.shape[0] * photograph.shape[1]
    inside = [row for row in curve if 0.2 < row[1] * 8 / pixels < 1.0]
    assert len(inside) >= 3
    for _, size, psnr in inside:
        assert psnr > np.interp(np.log(size), np.log(sizes), psnrs)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (65, 3), (127, 129)])
def test_any_size_comes_back_at_its_size(photograph, size):
    image = photograph[: size[0], : size[1]]
    back = tfcodec.decompress(tfcodec.compress(image, 90))
    assert back.shape == image.shape
    assert metrics.psnr(image, back) > 20


def test_files_are_the_same_every_time(photograph):
    assert tfcodec.compress(photograph, 37) == tfcodec.compress(photograph, 37)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros([8, 8, 3], np.float32), TypeError),
        (np.zeros([8], np.uint8), ValueError),
        (np.zeros([8, 8, 5], np.uint8), ValueError),
        (np.zeros([0, 8, 3], np.uint8), ValueError),
    ],
)
def test_what_is_no_image_is_refused(image, error):
    with pytest.raises(error):
        tfcodec.compress(image)


@pytest.mark.parametrize("quality", [-1, 101, float("nan"), "high"])
def test_what_is_no_quality_is_refused(photograph, quality):
    with pytest.raises(ValueError, match="quality"):
        tfcodec.compress(photograph, quality)


def test_flipped_bits_are_refused(photograph):
    data = bytearray(tfcodec.compress(photograph[:64, :64], 20))
    for position in range(0, len(data), 7):
        data[position] ^= 1 << position % 8
        with pytest.raises(tfcodec.StreamError):
            tfcodec.decompress(bytes(data))
        data[position] ^= 1 << position % 8


def test_read_only_and_strided_arrays_are_taken(photograph):
    view = photograph[::2, ::-2]
    view.flags.writeable = False
    contiguous = np.ascontiguousarray(view)
    assert tfcodec.compress(view, 50) == tfcodec.compress(contiguous, 50)


def test_opaque_stays_opaque_where_alpha_loses_something(photograph):
    alpha = np.full(photograph.shape[:2], 255, np.uint8)
    rows, columns = np.ogrid[: alpha.shape[0], : alpha.shape[1]]
    alpha[(rows - 128) ** 2 + (columns - 128) ** 2 > 90**2] = 0
    image = np.dstack([photograph, alpha])
    data = tfcodec.compress(image, 60, alpha_quality=70)
    back = tfcodec.decompress(data)[..., 3]
    assert np.all(back[:16] == 0)
    assert np.mean(back[100:156, 100:156] == 255) > 0.99
    assert metrics.psnr(back, alpha) > 30


@pytest.mark.parametrize(
    ("target", "figure"),
    [
        ("target_psnr", metrics.psnr), ("target_msssim", metrics.ms_ssim),
        ("target_ssimulacra2", ssimulacra2.score),
    ],
)  # fmt: skip
def test_a_picture_as_good_as_asked_for(photograph, target, figure):
    wanted, near = {
        "target_psnr": (33.0, 0.02),
        "target_msssim": (0.97, 0.001),
        # From one hundredth of quality to the next it moves by 0.1 either way.
        "target_ssimulacra2": (60.0, 0.2),
    }[target]
    data = tfcodec.compress(photograph, **{target: wanted})
    reached = figure(photograph, tfcodec.decompress(data))
    assert wanted <= reached < wanted + near


def test_the_best_picture_of_so_many_bytes(photograph, curve):
    size = int(curve[4][1])
    assert 0.98 * size <= len(tfcodec.compress(photograph, max_bytes=size)) <= size


def test_two_steps_of_effort_lower_the_cost(photograph):
    model = registry.resolve(registry.DEFAULT)
    engine = codec.loaded(model, "tensorflow", effort=2).engine
    image = np.ascontiguousarray(photograph[64:320, 128:384])
    y, costs, improver = engine.analysis(image), [], engine.improver(image, 0.8)
    for step in range(3):
        y, cost = improver(y, compression.damping(step))
        costs.append(cost)
    assert costs[1] < costs[0]
    assert costs[2] < 0.98 * costs[0]


def test_the_models_take_at_most_60_megabytes():
    found = [file for model in registry.models() for file in model.path.rglob("*")]
    assert 0 < sum(file.stat().st_size for file in found if file.is_file()) <= 60e6


def test_a_loaded_model_can_be_saved_again(photograph, tmp_path):
    """Exporting removes TensorFlow's function for that, which saving makes anew."""
    path = str(registry.models()[0].path)
    first = tf.saved_model.load(path)
    tf.saved_model.save(first, str(tmp_path), signatures=first.signatures)
    image = tf.constant(photograph[:64, :64])
    latents = [
        tf.saved_model.load(each).signatures["analysis"](image=image)["y"]
        for each in (path, str(tmp_path))
    ]
    assert np.array_equal(*latents)
