import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
tfc = pytest.importorskip("tensorflow_compression")

from tfcodec import entropy, rans


def test_bits_are_those_of_tfc():
    rng = np.random.default_rng(0)
    value = tf.constant(rng.uniform(-40, 40, 5000), tf.float32)
    index = tf.constant(rng.integers(0, entropy.SCALES, 5000), tf.float32)
    prior = tfc.NoisyNormal(loc=0.0, scale=entropy.scale_fn(index))
    wanted = prior.log_prob(value).numpy() / -np.log(2)
    bits = entropy.normal_bits(value, index).numpy()
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
            bits = entropy.normal_bits(value, index)
        gradients = tape.gradient(bits, [value, index])
        assert all(np.all(np.isfinite(g)) for g in gradients)
        assert gradients[0][2] > 0


def test_noise_of_an_image_does_not_depend_on_its_batch():
    seeds = tf.constant([[1, 2], [3, 4], [5, 6]])
    whole = entropy.uniform_noise(tf.zeros([3, 4, 4, 2]), seeds, 1)
    part = entropy.uniform_noise(tf.zeros([1, 4, 4, 2]), seeds[1:2], 1)
    np.testing.assert_array_equal(whole[1:2], part)
    assert float(tf.reduce_max(tf.abs(whole))) <= 0.5
    other = entropy.uniform_noise(tf.zeros([3, 4, 4, 2]), seeds, 2)
    assert np.any(other.numpy() != whole.numpy())


def test_tables_are_those_of_tfc_and_code_as_well_as_its_range_coder():
    model = entropy.scale_model()
    rows = entropy.rows_of(model)
    assert len(rows) == entropy.SCALES
    tables = rans.Tables.from_rows(rows)
    rng = np.random.default_rng(1)
    index = rng.integers(5, 45, 40_000).astype(np.int32)
    scale = entropy.scale_fn(tf.constant(index, tf.float32)).numpy()
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


def test_quantising_costs_least_of_the_integers_on_either_side():
    rng = np.random.default_rng(0)
    residual = tf.constant(rng.normal(size=20_000) * 3, tf.float32)
    index = tf.constant(rng.integers(0, entropy.SCALES, 20_000), tf.float32)

    def cost(value):
        error = tf.square(residual - value)
        return entropy.normal_bits(value, index) + entropy.ERROR_BITS * error

    chosen = entropy.quantised(residual, index)
    low, high = tf.floor(residual), tf.math.ceil(residual)
    assert np.all((chosen == low) | (chosen == high))
    best = np.minimum(cost(low), cost(high))
    near = np.abs(residual) < entropy.THRESHOLDS
    np.testing.assert_allclose(cost(chosen)[near], best[near], atol=1e-3)
    assert np.mean(chosen != np.round(residual)) > 0.01
    assert not np.any(entropy.quantised(tf.constant([0.4, -0.4]), index[:2]))
    far = tf.constant([1e9, -1e9])
    assert list(entropy.quantised(far, index[:2])) == [8191, -8191]
