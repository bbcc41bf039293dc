import numpy as np
from PIL import Image

from benchmarks import red
from tfcodec import codec, quality


def test_the_square_with_most_red_detail_is_found():
    rng = np.random.default_rng(0)
    pixels = np.repeat(rng.integers(0, 256, [300, 400, 1], np.uint8), 3, 2)  # no red
    assert red.reddest(pixels)[0] == 0
    pixels[80:200, 160:280] = 0
    pixels[80:200, 160:280:2, 0] = 200  # stripes
    found, (rows, columns) = red.reddest(pixels)
    assert found > red.LEAST
    assert 80 <= rows.start < rows.stop <= 200
    assert 160 <= columns.start < columns.stop <= 280


def test_figures_tell_lost_detail_from_noise():
    rng = np.random.default_rng(1)
    original = rng.integers(0, 256, [red.SIDE, red.SIDE, 3]).astype(np.uint8)
    assert red.figures(original, original) == (0, 1)
    other = rng.integers(0, 256, original.shape).astype(np.uint8)
    error, kept = red.figures(original, other)
    assert error > 1000
    assert abs(kept) < 0.1


def test_a_rate_that_no_image_reaches_is_said(tmp_path, capsys, monkeypatch):
    def compress(pixels, target_bpp):
        raise quality.OutOfReach("too large")

    monkeypatch.setattr(codec, "compress", compress)
    stripes = np.zeros([200, 200, 3], np.uint8)
    Image.fromarray(stripes).save(tmp_path / "grey.png")
    stripes[:, ::2, 0] = 200
    Image.fromarray(stripes).save(tmp_path / "red.png")
    for name, count in (("grey", 0), ("red", 1)):
        red.main([str(tmp_path / f"{name}.png"), "--bpp", "0.1"])
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"{count} images have red detail"
        assert said[1] == "0.1 bpp, 0 images: nothing to compare"
