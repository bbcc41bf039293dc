import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
tfc = pytest.importorskip("tensorflow_compression")

from tfcodec import layers, shuffles
from tfcodec.constants import EXACT_LIMIT
from tfcodec.tracing import traced


def convolve(x, kernel):
    """Convolution in int64, zero padding. x [h, w, c], kernel [k, k, c, n]."""
    side = kernel.shape[0]
    half = side // 2
    padded = np.pad(x, ((half, half), (half, half), (0, 0)))
    height, width = x.shape[:2]
    return sum(
        padded[r : r + height, c : c + width] @ kernel[r, c]
        for r in range(side)
        for c in range(side)
    )


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_exact_conv_is_integer_arithmetic(kernel):
    rng = np.random.default_rng(kernel)
    layer = layers.ExactConv(7, kernel)
    x = rng.integers(0, 256, [1, 9, 11, 40])
    y = layer(tf.constant(x, tf.float32)).numpy()
    weights, bias = (w.numpy().astype(np.int64) for w in layer.integer_weights())
    sums = convolve(x[0].astype(np.int64), weights) + bias
    np.testing.assert_array_equal(y[0], np.clip(sums >> layer.shift, 0, 255))
    assert len(np.unique(y)) > 20


def test_largest_weights_are_shrunk_until_sums_are_exact():
    layer = layers.ExactConv(3, 5)
    layer.build([None, None, None, 512])
    layer.kernel.assign(tf.fill(layer.kernel.shape, 100.0))
    layer.bias.assign(tf.fill(layer.bias.shape, 1e9))
    largest = layer.freeze()
    assert 2**23 < largest.max() < 2**24


def test_freezing_refuses_what_float32_would_not_add_exactly():
    layer = layers.ExactConv(3, 5)
    layer.build([None, None, None, 512])
    layer.kernel.assign(tf.fill(layer.kernel.shape, 100.0))
    layer.budget *= 4  # As if the bound had been forgotten.
    with pytest.raises(ValueError, match="over 2\\*\\*24"):
        layer.freeze()


def test_frozen_layer_ignores_later_weights():
    layer = layers.ExactConv(4, 3)
    x = tf.constant(np.random.default_rng(0).integers(0, 256, [1, 8, 8, 4]), tf.float32)
    before = layer(x)
    layer.freeze()
    layer.kernel.assign(-layer.kernel)
    np.testing.assert_array_equal(layer(x), before)


def test_exact_conv_learns():
    layer = layers.ExactConv(
        1, 1, output_range=(-500, 500), rectify=False, kernel_initializer="zeros"
    )
    x = tf.constant(np.random.default_rng(0).integers(0, 256, [1, 8, 8, 4]), tf.float32)
    target = tf.reduce_sum(x * [0.25, -0.25, 0.125, 0.0], -1, keepdims=True)
    optimizer = tf.keras.optimizers.Adam(0.001)
    layer(x)  # creates its variables
    optimizer.build(layer.trainable_variables)

    @traced
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.abs(layer(x) - target))
        optimizer.minimize(loss, layer.trainable_variables, tape)
        return loss

    losses = [float(step()) for _ in range(400)]
    assert losses[-1] < 0.4 * losses[0]


def test_straight_through_returns_the_value_to_the_bit():
    value, surrogate = tf.constant([3.0, 1e-8]), tf.constant([1e9, 0.1])
    with tf.GradientTape() as tape:
        tape.watch(surrogate)
        out = layers.straight_through(value, surrogate)
    np.testing.assert_array_equal(out, value)
    np.testing.assert_array_equal(tape.gradient(out, surrogate), [1, 1])


def test_inverse_gdn_nearly_inverts_a_gentle_gdn():
    x = tf.random.stateless_normal([1, 8, 8, 6], [1, 2], stddev=0.1)
    y = layers.igdn()(layers.gdn()(x))
    assert float(tf.reduce_max(tf.abs(y - x))) < 0.01


def test_gains_are_continuous_and_start_as_inverses():
    gain = layers.QualityGain(3, 4.0, -1.0)
    inverse = layers.QualityGain(3, 4.0, -1.0, inverse=True)
    quality = tf.linspace(0.0, 1.0, 201)
    ones = tf.ones([201, 1, 1, 3])
    up, down = gain(ones, quality), inverse(ones, quality)
    np.testing.assert_allclose(up * down, ones, rtol=1e-5)
    values = up[:, 0, 0, 0].numpy()
    np.testing.assert_allclose(values[[0, -1]], np.exp([-1.0, 1.0]), rtol=1e-5)
    ratios = values[1:] / values[:-1]
    assert ratios.min() > 1
    assert ratios.max() < 1.02


def test_gains_are_extrapolated_below_the_second_anchor_only():
    plain, moved = (layers.QualityGain(3, 4.0, -1.0, anchors=5) for _ in range(2))
    rng = np.random.default_rng(0)
    plain.log_gain.assign_add(rng.normal(0, 0.1, [5, 3]))
    moved.log_gain.assign(plain.log_gain)
    moved.extrapolate(2)

    def gains(layer, quality):
        return layer(tf.ones([1, 1, 1, 3]), tf.constant([quality]))[0, 0, 0].numpy()

    for quality in (0.25, 0.3, 0.8, 1.0):
        np.testing.assert_allclose(gains(moved, quality), gains(plain, quality))
    step = gains(plain, 0.0) / gains(plain, 0.25)
    np.testing.assert_allclose(
        gains(moved, 0.0), gains(plain, 0.0) * step**2, rtol=1e-5
    )
    assert np.all(gains(moved, 0.1) < gains(plain, 0.1))


def test_second_pass_is_the_convolution_of_all_inputs():
    """What it adds to the sums is what was zero before, at every other place."""
    pair = layers.SecondPass(layers.ExactConv(7, 3), own=4)
    rng = np.random.default_rng(3)
    seen = rng.integers(-255, 256, [2, 5, 6, 9]).astype(np.float32)
    own = rng.integers(-255, 256, [2, 5, 3, 4]).astype(np.float32)
    first, sums = pair(seen)
    pair.bias.assign(rng.normal(size=7))
    for layer in (pair.first, pair):
        assert layer.freeze().max() < EXACT_LIMIT
    np.testing.assert_array_equal(pair.frozen[0], pair.first.frozen[0])
    known = layers.both_halves(tf.constant(own), tf.zeros_like(own))
    second = pair(seen, own, sums)
    for output, layer, last, odd in (
        (first, pair.first, tf.zeros_like(known), False),
        (second, pair, known, True),
    ):
        kernel, bias = layer.frozen
        whole = layers.convolve(tf.concat([seen, last], -1), kernel) + bias
        expected = layers.half_of_board(layer.activate(whole), odd)
        np.testing.assert_array_equal(output, expected)


def test_exactness_is_proven_over_both_kernels_of_a_second_pass():
    pair = layers.SecondPass(layers.ExactConv(3, 5), own=400)
    pair(np.zeros([1, 8, 8, 112], np.float32))
    pair.kernel.assign(tf.fill(pair.kernel.shape, 100.0))
    assert 2**23 < pair.freeze().max() < 2**24
    pair.first.budget *= 4  # As if the bound had been forgotten.
    with pytest.raises(ValueError, match="over 2\\*\\*24"):
        pair.freeze()


def test_halves_of_a_board_have_every_second_place_in_reading_order():
    x = np.arange(1, 61, dtype=np.float32).reshape(1, 5, 6, 2)
    halves = [layers.half_of_board(x, odd) for odd in (False, True)]
    row, column = np.indices([5, 6])
    for odd, half in enumerate(halves):
        mask = (row + column) % 2 == odd
        np.testing.assert_array_equal(half.numpy().reshape(-1, 2), x[0][mask])
    np.testing.assert_array_equal(layers.both_halves(*halves), x)


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_that_of_tensorflow_compression(inverse):
    ours = layers.igdn() if inverse else layers.gdn()
    theirs = tfc.GDN(inverse=inverse, alpha_parameter=1, epsilon_parameter=1)
    x = tf.constant(np.random.default_rng(0).normal(0, 9, [2, 5, 7, 6]), tf.float32)
    results = []
    for layer in (ours, theirs):
        layer.build(x.shape)
        shapes = [(v.shape, v.name.split("/")[-1]) for v in layer.trainable_variables]
        for k, v in enumerate(layer.trainable_variables):
            v.assign_add(tf.random.stateless_uniform(v.shape, [k, 1]))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        slopes = tape.gradient(y, [x, *layer.trainable_variables])
        results.append([y, *slopes])
    assert shapes == [
        (v.shape, v.name.split("/")[-1]) for v in ours.trainable_variables
    ]
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "stride"), [(2, 2), (3, 3), (16, 16), (5, 2), (4, 2), (9, 4), (32, 16)]
)
@pytest.mark.parametrize("size", [(1, 1), (5, 6), (4, 7)])
def test_phases_are_the_transposed_convolution_of_keras(side, stride, size):
    ours = layers.up(5, side, stride, bias_initializer="ones")
    assert ours.phased == (side == stride)
    theirs = tf.keras.layers.Conv2DTranspose(5, side, stride, padding="same")
    x = tf.random.stateless_normal([2, *size, 3], [side, 1])
    for layer in (theirs, ours):
        layer.build(x.shape)
    theirs.set_weights(ours.get_weights())
    ours.phased = True
    height, width = (extent * stride for extent in size)
    weight = tf.random.stateless_normal([2, height, width, 5], [1, 1])
    results = []
    for layer in (theirs, ours):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            total = tf.reduce_sum(y * weight)
        results.append([y, *tape.gradient(total, [x, *layer.trainable_variables])])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_residual_block_starts_as_the_identity():
    x = tf.random.stateless_normal([1, 8, 8, 6], [1, 2])
    np.testing.assert_array_equal(layers.Block(6)(x), x)


def test_cosines_are_orthonormal_and_begin_with_the_mean():
    kernel = layers.cosines([16, 16, 3, 768]).numpy().reshape(768, 768)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(768), atol=1e-5)
    np.testing.assert_allclose(kernel[:, 0], 1 / np.sqrt(768), rtol=1e-5)


def test_linear_path_starts_as_a_transform_and_its_inverse():
    from tfcodec import architectures

    model = architectures.build(
        "tfcodec", (0.001, 0.1), widths=[8, 8, 192], slices=[192]
    )
    ramp = np.linspace(0, 255, 64)[:, None, None] + np.zeros([64, 64, 3])
    image = tf.constant(ramp[None], tf.float32)
    quality = tf.ones([1])
    y = model.scaled_latents(model.analyse(image), quality)
    back = model.synthesise(y, quality)
    assert float(tf.reduce_mean(tf.abs(back - image))) < 3


def test_repeated_values_are_those_of_keras_and_have_a_gradient_in_xla():
    x = tf.constant(np.random.default_rng(0).normal(size=[2, 3, 5, 4]), tf.float32)
    expected = tf.keras.layers.UpSampling2D(2)(x)
    np.testing.assert_array_equal(shuffles.Repeat(2)(x), expected)

    @tf.function(jit_compile=True)
    def gradient(x):
        return tf.gradients(tf.reduce_sum(shuffles.Repeat(2)(x) ** 2), x)[0]

    np.testing.assert_allclose(gradient(x), 8 * x, rtol=1e-6)
