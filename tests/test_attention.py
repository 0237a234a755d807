"""The mathematics: tilted mean, running normaliser, bounded weights."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import absgd_jax
from absgd_jax import _attention
from tests import oracle

LAMS = [sign * 10.0**k for k in range(-3, 9) for sign in (1, -1)] + [np.inf, -np.inf]


# Compiled once per shape; hypothesis calls it with thousands of values.
@jax.jit
def tilt(losses, lam, v):
    """T, r and V."""
    result = _attention.tilt(losses, lam, v)
    return result.T, result.r, result.V


whole_tilt = jax.jit(_attention.tilt)
gradient_of_tilt = jax.jit(jax.grad(lambda *args: tilt(*args)[0]))


@jax.jit
def advance(F, log_d, mean, lam, gamma, init_s):
    """F, log d and the scale after a batch."""
    before = _attention.Normalizer(F, log_d)
    after, scale = _attention.update_normalizer(
        before, mean, lam, gamma=gamma, init_s=init_s
    )
    return *after, scale


@jax.jit
def bound_losses(losses, *numbers):
    """`numbers` are λ, v, F, log d, γ and c."""
    lam, v, F, log_d, gamma, c = map(jnp.float32, numbers)
    corrected = _attention.bias_corrected(log_d, gamma)
    return _attention.bound_losses(
        losses, lam, v, tilted_loss=F, gamma=corrected, max_weight=c
    )


bound_gradient = jax.jit(jax.grad(lambda *args: bound_losses(*args).sum()))


B = 7
a_batch = hnp.arrays(
    np.float32, B, elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)
some_weights = hnp.arrays(np.float32, B, elements=st.floats(0.125, 8.0, width=32))
finite = lambda sign, k: sign * 10.0**k
a_lam = st.one_of(
    st.sampled_from([np.inf, -np.inf]),
    st.builds(finite, st.sampled_from([1, -1]), st.floats(-3, 8)),
)


def tilted(losses, lam, v=None):
    v = np.ones_like(losses) if v is None else v
    return float(tilt(jnp.asarray(losses), jnp.float32(lam), jnp.asarray(v))[0])


@pytest.mark.parametrize("lam", LAMS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_tilted_mean_is_accurate_to_a_millionth(lam, scale):
    rng = np.random.default_rng(0)
    losses = (scale * rng.exponential(size=257)).astype(np.float32)
    v = rng.uniform(0, 2, size=257).astype(np.float32)
    expected = oracle.tilted_mean(losses, float(np.float32(lam)), v)
    assert tilted(losses, lam, v) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("lam", [1e-3, -1e-3, 0.1, 3.0, -1e5, 1e8])
def test_a_tiny_weight_on_the_extreme_loss_keeps_its_digits(lam):
    """All but 1e-10 of the sum is gone: log1p alone would return -inf."""
    losses = np.array([0.0, 0.5, 1.0], np.float32)
    v = np.array([1e-10, 1.0, 1e-10], np.float32)
    expected = oracle.tilted_mean(losses, float(np.float32(lam)), v)
    assert tilted(losses, lam, v) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("lam", [0.5, 10.0, 100.0, -100.0, 1e3])
def test_the_divergence_is_accurate_also_where_weights_hardly_differ(lam):
    losses = np.float32(np.random.default_rng(0).exponential(size=64))
    p = np.exp(losses.astype(np.float64) / lam)
    p /= p.mean()
    found = whole_tilt(jnp.asarray(losses), jnp.float32(lam), jnp.ones(64))
    assert float(found.kl) == pytest.approx(np.mean(p * np.log(p)), rel=2e-3)


def test_large_weights_of_losses_far_apart_do_not_overflow():
    losses = np.linspace(0, 50, 9, dtype=np.float32)
    mean, r, _ = tilt(losses, jnp.float32(0.7), np.full(9, 1e10, np.float32))
    assert float(mean) == pytest.approx(tilted(losses, 0.7), rel=1e-6)
    assert float(jnp.sum(1e10 * r)) == pytest.approx(1.0, rel=1e-6)


@given(a_batch, a_lam, some_weights)
def test_tilted_mean_lies_between_the_losses(losses, lam, v):
    assert losses.min() <= tilted(losses, lam, v) <= losses.max()


@given(a_batch, a_lam, st.floats(-100, 100))
def test_a_constant_added_to_losses_is_added_to_their_tilted_mean(losses, lam, c):
    shifted = losses + np.float32(c)
    np.testing.assert_allclose(tilted(shifted, lam), tilted(losses, lam) + c, atol=2e-3)


@given(a_batch, a_lam)
def test_a_scale_of_losses_and_lam_scales_the_tilted_mean(losses, lam):
    """Units of loss cancel; a power of two does so exactly."""
    assert tilted(4 * losses, 4 * lam) == pytest.approx(
        4 * tilted(losses, lam), rel=1e-6, abs=1e-6
    )


@given(a_batch, st.floats(0.01, 1e4), st.floats(1.0, 100.0))
def test_a_smaller_positive_lam_never_lowers_the_tilted_mean(losses, lam, factor):
    rounding = 1e-5 * np.abs(losses).max() + 1e-6
    assert tilted(losses, lam) >= tilted(losses, lam * factor) - rounding


@given(a_batch, a_lam, some_weights, st.integers(1, B - 1))
def test_parts_combine_by_the_same_function(losses, lam, v, cut):
    first = np.arange(B) < cut
    of = lambda v: tilt(losses, jnp.float32(lam), v)
    means, _, totals = zip(of(v * first), of(v * ~first), strict=True)
    means, totals = np.array(means), np.array(totals)
    rounding = 3e-7 * np.abs(losses).max()  # some units in the last place of float32
    np.testing.assert_allclose(
        tilted(means, lam, totals), tilted(losses, lam, v), rtol=0, atol=rounding
    )


@given(a_batch, a_lam, some_weights)
def test_the_second_output_is_the_gradient(losses, lam, v):
    args = jnp.asarray(losses), jnp.float32(lam), jnp.asarray(v)
    _, r, _ = tilt(*args)
    gradient = gradient_of_tilt(*args)
    chex.assert_trees_all_close(gradient, v * r, rtol=1e-6)
    assert float(jnp.sum(gradient)) == pytest.approx(1.0, rel=1e-5)


def test_derivatives_of_two_orders_in_losses_lam_and_weights():
    """Forwards and backwards, against central differences."""
    rng = np.random.default_rng(1)
    losses, v, cotangent = (rng.uniform(0.5, 2, size=n) for n in (6, 6, 8))

    def outputs(z):
        T, r, V = tilt(z[:6], z[6], z[7:])
        return cotangent @ jnp.concatenate([T[None], r, V[None]])

    @jax.jit
    def derivatives(z):
        steps = 1e-5 * jnp.diag(jnp.maximum(jnp.abs(z), 1.0))
        sizes = 2 * jnp.diag(steps)
        slopes = lambda f: jax.vmap(lambda h: f(z + h) - f(z - h))(steps).T / sizes
        gradient = jax.grad(outputs)
        return (
            (slopes(outputs), gradient(z), jax.jacfwd(outputs)(z)),
            (slopes(gradient), jax.jacfwd(gradient)(z), jax.jacrev(gradient)(z)),
        )

    with jax.enable_x64(True):
        for lam in (0.3, -2.0, 1e3):
            for expected, *found in derivatives(np.concatenate([losses, [lam], v])):
                for got in found:
                    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_derivatives_at_infinity_are_those_of_the_mean():
    losses, v = jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 1.0, 2.0])
    by_loss, by_lam, by_weight = jax.jit(
        jax.grad(lambda *args: tilt(*args)[0], argnums=(0, 1, 2))
    )(losses, jnp.float32(jnp.inf), v)
    chex.assert_trees_all_close(by_loss, v / 4)
    assert by_lam == 0
    chex.assert_trees_all_close(by_weight, (losses - 3.75) / 4)


@pytest.mark.parametrize(
    "lam", [1.2e-38, -1.2e-38, 1e-3, 1.0, -1.0, 1e38, -1e38, np.inf]
)
@pytest.mark.parametrize(
    "losses",
    [[3e38, -3e38, 0.0], [0.0, 0.0, 0.0], [1.2e-38, 1.0, 88.0], [1e30, 1e30, 0.0]],
)
def test_extreme_losses_and_lams_stay_finite(losses, lam):
    losses = np.array(losses, np.float32)
    mean, r, total = tilt(jnp.asarray(losses), jnp.float32(lam), jnp.ones(3))
    chex.assert_tree_all_finite((mean, r, total))
    assert jnp.isfinite(
        whole_tilt(jnp.asarray(losses), jnp.float32(lam), jnp.ones(3)).kl
    )
    assert losses.min() <= mean <= losses.max()
    assert float(jnp.sum(r)) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lam", [1.0, -1.0, np.inf])
def test_a_loss_that_is_not_finite_makes_the_mean_nan(bad, lam):
    assert np.isnan(tilted(np.array([1.0, bad, 2.0], np.float32), lam))


def test_absent_examples_may_hold_anything():
    losses = jnp.array([1.0, jnp.nan, 2.0, jnp.inf])
    mask = jnp.array([True, False, True, False])
    tilted_loss = jax.jit(jax.value_and_grad(absgd_jax.tilted_loss))
    value, gradient = tilted_loss(losses, 0.7, where=mask)
    alone, alone_gradient = tilted_loss(losses[::2], 0.7)
    chex.assert_trees_all_close(value, alone)
    chex.assert_trees_all_close(gradient[::2], alone_gradient)
    chex.assert_trees_all_equal(gradient[1::2], jnp.zeros(2))


def test_a_weight_of_zero_has_a_derivative_of_zero():
    """It cannot be told from padding, whose loss may be anything."""
    of = lambda v: tilt(jnp.array([0.0, 1.0, 2.0]), jnp.float32(0.7), v)[0]
    assert jax.grad(of)(jnp.array([1.0, 1.0, 0.0]))[2] == 0.0
    assert jax.grad(of)(jnp.array([1.0, 1.0, 1e-6]))[2] > 1.0
    shares = lambda v: absgd_jax.attentional_weights(
        jnp.array([0.0, 1.0, 2.0]), 0.7, sample_weights=v
    )
    by_weight = jax.jit(jax.jacrev(shares))(jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(by_weight[:, 2], 0.0)


def test_no_example_at_all_gives_nan_with_a_gradient_of_zero():
    nobody = jnp.zeros(3, bool)
    value, gradient = jax.jit(jax.value_and_grad(absgd_jax.tilted_loss))(
        jnp.arange(3.0), 1.0, where=nobody
    )
    assert jnp.isnan(value)
    chex.assert_trees_all_equal(gradient, jnp.zeros(3))
    weights = jax.jit(absgd_jax.attentional_weights)(jnp.arange(3.0), 1.0, where=nobody)
    chex.assert_trees_all_equal(weights, jnp.zeros(3))


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4)])
def test_a_batch_of_any_shape_is_its_flat_batch(shape):
    losses = jnp.asarray(np.random.default_rng(3).exponential(size=shape), jnp.float32)
    mask = jnp.asarray(np.random.default_rng(4).uniform(size=shape) < 0.7)

    @jax.jit
    def loss_and_weights(losses, mask):
        return (
            absgd_jax.tilted_loss(losses, 0.5, where=mask),
            absgd_jax.attentional_weights(losses, 0.5, where=mask),
        )

    loss, weights = loss_and_weights(losses, mask)
    flat_loss, flat_weights = loss_and_weights(losses.ravel(), mask.ravel())
    assert loss == pytest.approx(float(flat_loss))
    chex.assert_trees_all_close(weights, flat_weights.reshape(shape), rtol=1e-6)
    assert float(weights.sum()) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_half_precision_is_computed_in_float32(dtype):
    losses = jnp.asarray([0.5, 1.5, 4.0], dtype)  # exact in every dtype
    value, gradient = jax.jit(jax.value_and_grad(absgd_jax.tilted_loss))(losses, 1e5)
    assert value.dtype == jnp.float32
    expected = oracle.tilted_mean(np.array([0.5, 1.5, 4.0]), 1e5, np.ones(3))
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert gradient.dtype == dtype


# The running normaliser.


@jax.jit
def run_normaliser(batches, lam, gammas, init_s):
    """s, F, the scale and the batch's tilted mean after each batch; by the library."""

    def step(carry, batch):
        losses, gamma = batch
        mean, _, _ = tilt(losses, lam, jnp.ones_like(losses))
        F, log_d, scale = advance(*carry, mean, lam, gamma, init_s)
        state = absgd_jax.AttentionState(jnp.int32(1), F, log_d, lam)
        return (F, log_d), (absgd_jax.normalizer(state, init_s=init_s), F, scale, mean)

    return jax.lax.scan(step, (jnp.zeros([]), jnp.zeros([])), (batches, gammas))[1]


def test_s_of_algorithm_1_is_recovered():
    """200 steps in float32 against the printed recursion in float64."""
    batches = np.random.default_rng(0).exponential(size=(200, 8)).astype(np.float32)
    settings = itertools.product(
        (0.3, 5.0, -0.5, -7.0, 1e6), (1e-6, 1e-3, 0.1, 0.5, 1.0), (0, 1e-12, 1, 1e5)
    )
    lam, gamma, init_s = np.array(list(settings), np.float32).T
    gammas = np.broadcast_to(gamma[:, None], (len(gamma), 200))
    got, _, scales, means = jax.jit(jax.vmap(run_normaliser, (None, 0, 0, 0)))(
        batches, lam, gammas, init_s
    )
    lam, gamma, s = (a.astype(np.float64) for a in (lam, gamma, init_s))
    for t, losses in enumerate(batches.astype(np.float64)):
        s = (1 - gamma) * s + gamma * np.exp(losses / lam[:, None]).mean(axis=1)
        np.testing.assert_allclose(got[:, t], s, rtol=2e-5)
        expected = np.exp(np.float64(means[:, t]) / lam) / s
        np.testing.assert_allclose(scales[:, t], expected, rtol=2e-5)


def test_gamma_may_follow_a_schedule():
    rng = np.random.default_rng(5)
    batches = rng.exponential(size=(50, 8))
    gammas = 1 / np.sqrt(1.0 + np.arange(50))
    gammas[0] = 0.3
    s, share = 0.0, 1.0
    as_float32 = (jnp.asarray(a, jnp.float32) for a in (batches, 0.5, gammas))
    _, F, scales, means = run_normaliser(*as_float32, None)
    for t, (losses, gamma) in enumerate(zip(batches, gammas, strict=True)):
        s = (1 - gamma) * s + gamma * np.exp(losses / 0.5).mean()
        share *= 1 - gamma
        assert float(F[t]) == pytest.approx(0.5 * np.log(s / (1 - share)), abs=1e-5)
        expected = np.exp(float(means[t]) / 0.5) / (s / (1 - share))
        assert float(scales[t]) == pytest.approx(expected, rel=1e-4)


@given(
    st.floats(-1e6, 1e6, width=32),
    st.floats(-1e6, 1e6, width=32),
    a_lam,
    st.floats(np.float32(1e-6).item(), 1.0, width=32),
    st.floats(-20, 0),
    st.sampled_from([None, 0.0, 1.0, 1e30]),
)
def test_the_scale_never_exceeds_one_over_gamma(old, mean, lam, gamma, log_d, init_s):
    args = [jnp.float32(x) for x in (old, log_d, mean, lam, gamma)]
    s_0 = None if init_s is None else jnp.float32(init_s)
    new_F, new_log_d, scale = advance(*args, s_0)
    assert np.isfinite(float(new_F))
    assert float(new_log_d) <= float(jnp.float32(log_d))
    assert 0.0 <= float(scale) <= (1.0 + 1e-6) / gamma
    if float(args[1]) != 0.0:
        assert min(old, mean) <= float(new_F) <= max(old, mean)


# Bounded weights.


def bounded_normaliser(losses, v, lam, old_s, gamma, c):
    """s solving s = (1-γ) old + γ mean min(e, c s), by bisection in float64."""
    top = losses.max() if lam > 0 else losses.min()
    exponentials = np.exp((losses - top) / lam)
    low, high = -600.0, 600.0
    for _ in range(70):
        middle = (low + high) / 2
        s = np.exp(middle)
        bounded = np.average(np.minimum(exponentials, c * s), weights=v)
        larger = (1 - gamma) * old_s + gamma * bounded > s
        low, high = (middle, high) if larger else (low, middle)
    return np.exp(low)


@pytest.mark.parametrize("lam", [0.1, 1.0, -0.2])
@pytest.mark.parametrize("c", [1.5, 4.0, 30.0])
@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_bounded_losses_solve_their_equation(lam, c, gamma):
    rng = np.random.default_rng(0)
    for trial in range(20):
        losses = rng.exponential(size=9).astype(np.float32)
        losses[0] = 20.0 if trial % 2 else losses[0]
        v = rng.uniform(0.1, 2.0, size=9).astype(np.float32)
        # A running s in which gamma is the bias-corrected one: d is all but spent.
        F = jnp.float32(rng.uniform(0.2, 1.5))
        log_d = jnp.float32(-40.0 if gamma < 1 else 0.0)
        top = float(losses.max() if lam > 0 else losses.min())
        old_s = np.exp((float(F) - top) / lam) if gamma < 1 else 0.0
        s = bounded_normaliser(losses.astype(np.float64), v, lam, old_s, gamma, c)
        bound = top + lam * np.log(c * s)
        expected = np.minimum(losses, bound) if lam > 0 else np.maximum(losses, bound)
        got = bound_losses(losses, lam, v, F, log_d, gamma, c)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lam", [1e-3, 1e34, -1e34, 1e37, -1e37])
def test_bounded_losses_may_differ_by_more_than_the_largest_number(lam):
    losses = jnp.array([1e-3, -3.4e38, 3.4e38, -1.0, 1e30])
    for c in (1.0, 1.5, 3.0):
        got = bound_losses(losses, lam, jnp.ones(5), 0.0, 0.0, 0.5, c)
        assert jnp.isfinite(got).all()
        assert (jnp.sign(lam) * (losses - got) >= 0.0).all()
        gradient = bound_gradient(losses, lam, jnp.ones(5), 0.0, 0.0, 0.5, c)
        assert jnp.isfinite(gradient).all()


def test_an_ample_bound_changes_nothing():
    losses = jnp.asarray(np.random.default_rng(0).exponential(size=9), jnp.float32)
    for lam in (0.5, -0.5, jnp.inf):
        got = bound_losses(losses, lam, jnp.ones(9), 1.0, -1.0, 0.5, 1e6)
        chex.assert_trees_all_equal(got, losses)
