import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
tfc = pytest.importorskip("tensorflow_compression")

from tfcodec import densities, entropy, rans
from tfcodec.constants import CROSS, LEVELS, PYRAMID, SKIPPED


def test_bits_are_those_of_tfc():
    rng = np.random.default_rng(0)
    value = tf.constant(rng.uniform(-40, 40, 5000), tf.float32)
    index = tf.constant(rng.integers(0, densities.SCALES, 5000), tf.float32)
    prior = tfc.NoisyNormal(loc=0.0, scale=densities.scale_fn(index))
    wanted = prior.log_prob(value).numpy() / -np.log(2)
    bits = densities.normal_bits(value, index).numpy()
    near = wanted < 9
    assert near.sum() > 1000
    np.testing.assert_allclose(bits[near], wanted[near], atol=0.05)
    # What an outlier costs is bounded, about as an escape in a file is.
    assert bits.max() < 14 + 40 / 8 * 1.5


def test_bits_have_finite_gradients_far_out():
    value = tf.constant([0.0, 0.3, 7.0, 1e3, -1e5])
    for level in (0.0, 20.0, 63.0):
        index = tf.fill([5], level)
        with tf.GradientTape() as tape:
            tape.watch([value, index])
            bits = densities.normal_bits(value, index)
        gradients = tape.gradient(bits, [value, index])
        assert all(np.all(np.isfinite(g)) for g in gradients)
        assert gradients[0][2] > 0


def test_noise_of_an_image_does_not_depend_on_its_batch():
    seeds = tf.constant([[1, 2], [3, 4], [5, 6]])
    whole = densities.uniform_noise(tf.zeros([3, 4, 4, 2]), seeds, 1)
    part = densities.uniform_noise(tf.zeros([1, 4, 4, 2]), seeds[1:2], 1)
    np.testing.assert_array_equal(whole[1:2], part)
    assert float(tf.reduce_max(tf.abs(whole))) <= 0.5
    other = densities.uniform_noise(tf.zeros([3, 4, 4, 2]), seeds, 2)
    assert np.any(other.numpy() != whole.numpy())


def test_one_seed_gives_each_image_of_a_batch_noise_of_its_own():
    noise = densities.uniform_noise(tf.zeros([3, 8, 8, 2]), tf.constant([1, 2]), 1)
    assert noise.shape == [3, 8, 8, 2]
    assert float(tf.reduce_max(tf.abs(noise))) <= 0.5
    assert np.any(noise[0].numpy() != noise[1].numpy())
    other = densities.uniform_noise(tf.zeros([3, 8, 8, 2]), tf.constant([1, 2]), 2)
    assert np.any(other.numpy() != noise.numpy())


def test_tables_are_those_of_tfc_and_code_as_well_as_its_range_coder():
    model = densities.scale_model()
    rows = densities.rows_of(model)
    assert len(rows) == densities.SCALES
    tables = rans.Tables.from_rows(rows)
    rng = np.random.default_rng(1)
    index = rng.integers(5, 45, 40_000).astype(np.int32)
    scale = densities.scale_fn(tf.constant(index, tf.float32)).numpy()
    values = np.round(rng.normal(size=index.size) * scale).astype(np.int32)
    writer = rans.Writer(tables)
    writer.write(index, values)
    ours = len(writer.finish().numpy())
    shaped = [1, 40, 1000]
    theirs = model.compress(
        tf.constant(values.reshape(shaped), tf.float32), index.reshape(shaped)
    )
    theirs = sum(map(len, np.ravel(theirs.numpy())))
    assert ours < 1.01 * theirs


def test_tables_leave_out_the_tails_of_a_density_wherever_it_lies():
    density, mass = densities.Density(batch_shape=[3]), densities.TAIL_MASS
    moved = tf.constant([0.0, -700.0, 3000.0])
    cumulative = density.base._logits_cumulative
    density.base._logits_cumulative = lambda x: cumulative(x - moved)
    low, high = density._lower_tail(mass), density._upper_tail(mass)
    np.testing.assert_allclose(density.base.cdf(low), mass / 2, rtol=0.01)
    np.testing.assert_allclose(density.base.cdf(high), 1 - mass / 2, rtol=1e-6)
    assert np.all((low < moved) & (moved < high) & (high - low < 300))


@pytest.mark.parametrize("shape", ["normal", "peaked"])
def test_quantising_costs_least_of_the_nearest_integer_and_the_one_below(shape):
    rng = np.random.default_rng(0)
    index = rng.integers(0, densities.SCALES, 400_000).astype(np.float32)
    scale = densities.scale_fn(tf.constant(index)).numpy()
    draw = rng.normal if shape == "normal" else rng.laplace
    residual = (draw(size=index.size) * scale).astype(np.float32)
    histogram = densities.normal_histogram()
    if shape == "peaked":
        size = histogram.shape[1]
        column = np.minimum(np.abs(residual) * densities.BINS, size - 1)
        cells = index.astype(int) * size + column.astype(int)
        histogram = np.bincount(cells, minlength=histogram.size).astype(float)
        histogram = histogram.reshape(-1, size)
    quantiser = densities.fitted_quantiser(histogram, densities.ERROR_BITS)

    def cost(value):
        error = np.square(residual - quantiser.dequantise(value, index))
        return (quantiser.bits(value, index) + densities.ERROR_BITS * error).numpy()

    chosen = quantiser.quantise(residual, index).numpy()
    nearest = np.round(residual)
    assert np.all(np.abs(chosen) <= np.abs(nearest))
    # As fine as the histogram is, and where it has counted much.
    sure = (np.abs(residual) < 3) & (index > SKIPPED)
    others = [nearest - np.sign(residual) * down for down in (0, 1)]
    best = np.minimum(*map(cost, others))
    loss = (cost(chosen) - best)[sure]
    assert np.mean(loss) < 0.002
    assert np.mean((cost(np.round(residual)) - best)[sure]) > 10 * np.mean(loss)
    far = tf.constant([1e9, -1e9])
    assert list(quantiser.quantise(far, index[:2])) == [8191, -8191]


def test_points_are_the_means_of_their_intervals():
    rng = np.random.default_rng(0)
    quantiser = densities.normal_quantiser(densities.ERROR_BITS)
    for level in (14.0, 18.0, 25.0):
        index = tf.fill([400_000], level)
        residual = rng.normal(size=400_000) * densities.scale_fn(level).numpy()
        residual = tf.constant(residual, tf.float32)
        whole = quantiser.quantise(residual, index)
        error = residual - quantiser.dequantise(whole, index)
        for magnitude in (1.0, 2.0):
            inside = tf.abs(whole) == magnitude
            bias = tf.reduce_mean(tf.boolean_mask(error * tf.sign(whole), inside))
            assert abs(float(bias)) < 0.02
        assert np.var(error) < np.var(residual - whole)


def test_rows_follow_what_was_counted():
    rows = densities.rows_of(densities.scale_model())
    for frequency, offset in rows[10:40]:
        share = np.linspace(0.2, 0.02, LEVELS + 1)
        fitted = densities.fitted(frequency, offset, share)
        assert fitted.sum() == 4096
        assert fitted.min() >= 1
        assert len(fitted) == len(frequency)
        if offset <= -LEVELS:
            centre = -offset
            assert fitted[centre] == pytest.approx(0.2 * 4096, rel=0.05)
            assert fitted[centre + 1] == pytest.approx(share[1] / 2 * 4096, rel=0.05)


def test_guess_of_a_ramp_is_the_ramp():
    row, column = np.mgrid[0:8, 0:12]
    y = tf.constant((32 * row - 16 * column)[None, :, :, None], tf.float32)
    for distance, around in PYRAMID:
        guess = entropy.neighbour_mean(y, distance, around)
        d = distance
        np.testing.assert_array_equal(guess[:, d:-d, d:-d], y[:, d:-d, d:-d])
    # At the edges, the mean of those that there are.
    corner = entropy.neighbour_mean(y, 1, CROSS)[0, 0, 0, 0]
    assert float(corner) == (32 - 16) // 2
