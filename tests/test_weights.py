"""`attention`: weights for any loop, held against Algorithm 1 in NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import absgd_jax
from tests import oracle, problems
from tests.problems import per_example_losses

X, LABELS, V = problems.batches(60)
W = problems.initial_params()["w"]


def weighted_gradient(attention, params, state, x, labels, v, decay=0.0):
    """Of the mean of weighted losses plus a penalty, and the state after."""

    def loss_fn(params):
        losses = per_example_losses(params, x, labels)
        weights, after = attention.weigh(losses, state, sample_weights=v)
        penalty = decay / 2 * jnp.sum(params["w"] ** 2)
        return jnp.mean(weights * losses) + penalty, after

    return jax.grad(loss_fn, has_aux=True)(params)


@jax.jit
def train(lam, gamma, init_s, batches, decay=0.0):
    """Plain gradient descent: w after each step, and s."""
    attention = absgd_jax.attention(lam, gamma, init_s=init_s)

    def step(carry, batch):
        grads, state = weighted_gradient(attention, *carry, *batch, decay)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, carry[0], grads)
        return (params, state), params["w"]

    start = {"w": jnp.asarray(W)}, attention.init()
    (_, state), history = jax.lax.scan(step, start, batches)
    return history, absgd_jax.normalizer(state, init_s=init_s)


def oracle_of(lam, gamma, **kwargs):
    """w and s after each step."""
    batches = zip(X, LABELS, V, strict=True)
    return zip(
        *oracle.algorithm1(W, batches, lam, gamma, eta=0.05, **kwargs), strict=True
    )


@pytest.mark.parametrize("init_s", [None, 0.0, 2.0])
def test_the_gradient_of_the_weighted_mean_is_equation_2(init_s):
    if init_s is not None:
        begun = absgd_jax.attention(0.7, init_s=init_s).init()
        assert float(absgd_jax.normalizer(begun, init_s=init_s)) == init_s
    for lam, gamma in ((0.7, 0.3), (-0.5, 0.9), (5.0, 1.0)):
        with jax.enable_x64(True):
            got, s = train(lam, gamma, init_s, (X, LABELS, V))
        expected, expected_s = oracle_of(lam, gamma, init_s=init_s)
        # The state is float32: each step's s is off by 1e-7, relatively.
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
        assert float(s) == pytest.approx(expected_s[-1], rel=1e-5)


def test_a_penalty_beside_the_mean_is_not_weighted():
    """It acts as weight decay does, whatever the weights."""
    with jax.enable_x64(True):
        got, _ = train(0.7, 0.3, None, (X, LABELS, V), 0.1)
    expected, _ = oracle_of(0.7, 0.3, alpha=0.1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


@functools.partial(jax.jit, static_argnames="bounded")
def _weigh(losses, bound, bounded, **kwargs):
    attention = absgd_jax.attention(0.7, 0.5, max_weight=bound if bounded else None)
    return attention.weigh(losses, attention.init(), **kwargs)


def weigh(losses, max_weight=None, **kwargs):
    """Weights of the first batch at λ = 0.7, and the state after it."""
    losses = jnp.asarray(losses, jnp.float32)
    return _weigh(losses, max_weight, max_weight is not None, **kwargs)


def test_weights_are_scaled_to_the_mean_over_all_entries_of_the_batch():
    """p_i v_i n / Σ v: the plain mean is Eq. (2) with padding and base weights too."""
    losses = np.array([0.1, 2.0, 0.4, 7.0, 1.0])
    v = np.array([1.0, 0.5, 2.0, 3.0, 1.0])
    mask = np.array([True, True, True, False, True])
    weights, state = weigh(losses, where=mask, sample_weights=v)
    v = v * mask
    p = np.exp(losses / 0.7) / np.average(np.exp(losses / 0.7), weights=v)
    np.testing.assert_allclose(weights, p * v * 5 / v.sum(), rtol=1e-5)
    assert np.mean(weights * losses) == pytest.approx(
        np.sum(v * p * losses) / v.sum(), rel=1e-5
    )
    # And without either they are p.
    plain, _ = weigh(losses)
    p = np.exp(losses / 0.7) / np.exp(losses / 0.7).mean()
    np.testing.assert_allclose(plain, p, rtol=1e-5)
    assert state.tilted_loss.dtype == jnp.float32


def test_a_state_for_float64_parameters_is_float64():
    """As that of a transform, so that the weights are the same to rounding."""
    attention = absgd_jax.attention(0.1, 0.3)
    tx = absgd_jax.attentional_aggregate(0.1, 0.3)
    with jax.enable_x64(True):
        losses = jnp.asarray(np.random.default_rng(0).exponential(size=(20, 8)))
        state, of_tx = attention.init(jnp.zeros(8)), tx.init(jnp.zeros(8))
        weigh, aggregate = jax.jit(attention.weigh), jax.jit(tx.update)
        for batch in losses:
            weights, state = weigh(batch, state)
            update, of_tx = aggregate(jnp.eye(8), of_tx, losses=batch)
            np.testing.assert_allclose(weights / 8, update, rtol=1e-12)
    assert attention.init().tilted_loss.dtype == jnp.float32


def test_no_gradient_flows_through_weights_or_state():
    attention = absgd_jax.attention(0.7)

    def of(losses):
        weights, state = attention.weigh(losses, attention.init())
        return weights.sum() + state.tilted_loss

    chex.assert_trees_all_equal(jax.jit(jax.grad(of))(jnp.arange(3.0)), jnp.zeros(3))

    def of_settings(lam, gamma, max_weight):
        attention = absgd_jax.attention(lam, gamma, max_weight=max_weight)
        weights, state = attention.weigh(jnp.arange(3.0), attention.init())
        return weights[0] + state.tilted_loss + state.lam

    derivatives = jax.jit(jax.grad(of_settings, (0, 1, 2)))(0.7, 0.3, 1.5)
    chex.assert_trees_all_equal(derivatives, (0.0, 0.0, 0.0))


@pytest.mark.parametrize("max_weight", [None, 1.2])
@pytest.mark.parametrize("scale", [1e-20, 1e10])
def test_only_ratios_of_sample_weights_matter(scale, max_weight):
    losses, v = jnp.linspace(0.0, 1.0, 1000), jnp.linspace(0.5, 1.0, 1000)
    expected, state = weigh(losses, max_weight=max_weight, sample_weights=v)
    got, other = weigh(losses, max_weight=max_weight, sample_weights=v * scale)
    chex.assert_trees_all_close((got, other), (expected, state), rtol=1e-5)


@pytest.mark.parametrize("max_weight", [None, 1.5])
def test_weights_are_those_of_the_aggregation(max_weight):
    """Unit gradients along the axes make an aggregation return p v / Σv.

    A batch of padding alone weighs nothing; a loss that is not finite makes all weights
    NaN, unless it is of padding. Neither changes s.
    """

    @jax.jit
    def both(lam, *batches):
        tx = absgd_jax.attentional_aggregate(lam, 0.3, max_weight=max_weight)
        attention = absgd_jax.attention(lam, 0.3, max_weight=max_weight)

        def step(states, batch):
            losses, mask, v = batch
            given = {"where": mask, "sample_weights": v}
            updates, aggregation = tx.update(
                jnp.eye(8), states[0], losses=losses, **given
            )
            weights, state = attention.weigh(losses, states[1], **given)
            return (aggregation, state), (updates * 8, weights, state)

        start = tx.init(jnp.zeros(8)), attention.init()
        return jax.lax.scan(step, start, batches)

    rng = np.random.default_rng(0)
    losses = rng.exponential(size=(9, 8)).astype(np.float32)
    masks, v = rng.uniform(size=(9, 8)) < 0.8, np.float32(rng.uniform(1, 2, (9, 8)))
    masks[:2] = masks[4:7] = True
    masks[3] = masks[7, 5] = False
    losses[4:8, 5] = np.nan, np.inf, -np.inf, np.nan
    for lam in (0.3, -0.3, np.inf):
        (expected_state, state), (expected, weights, states) = both(
            lam, losses, masks, v
        )
        chex.assert_trees_all_close(weights, expected, rtol=1e-6)
        chex.assert_trees_all_close(state, expected_state, rtol=1e-6)
        np.testing.assert_array_equal(weights[3], 0.0)
        bad = np.isnan(weights).all(axis=1)
        np.testing.assert_array_equal(bad, np.arange(9) // 4 * (np.arange(9) < 7) == 1)
        assert np.isfinite(weights[~bad]).all()
        unchanged = np.diff(states.tilted_loss) == 0, np.diff(states.log_discount) == 0
        np.testing.assert_array_equal(unchanged, [[*2 * [0], *4 * [1], *2 * [0]]] * 2)
        np.testing.assert_array_equal(states.count, np.arange(9) + 1)


def test_one_step_is_compiled_although_lam_follows_a_schedule():
    attention = absgd_jax.attention(absgd_jax.two_stage(0.5, 2))
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def step(losses, state):
        return attention.weigh(losses, state)

    state, weights = attention.init(), []
    for _ in range(4):
        w, state = step(jnp.array([0.0, 1.0]), state)
        weights.append(float(w[1] / w[0]))
    np.testing.assert_allclose(weights, [1, 1, np.exp(2), np.exp(2)], rtol=1e-5)


# Bounds on the weights.


def test_an_array_of_inf_is_no_bound():
    """As `inject_hyperparams` makes it of a number; padding keeps its weight of 0."""
    mask = np.arange(5) < 3
    losses = [0.1, 2.0, 0.4, 7.0, 1.0]
    expected, _ = weigh(losses, where=mask)
    got, _ = weigh(losses, max_weight=np.inf, where=mask)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)
    np.testing.assert_array_equal(got[3:], 0.0)


@pytest.mark.parametrize("lam", [0.7, -0.7])
def test_padding_under_a_bound_is_as_if_it_were_not_there(lam):
    losses, mask = np.float32([9.0, 0.1, 2.0, -9.0, 0.4]), np.arange(5) % 3 > 0
    attention = absgd_jax.attention(lam, max_weight=1.5)
    weights, state = attention.weigh(losses, attention.init(), where=mask)
    expected, expected_state = attention.weigh(losses[mask], attention.init())
    np.testing.assert_allclose(weights[mask] * mask.mean(), expected, rtol=1e-6)
    assert expected.max() == pytest.approx(1.5)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-6)


@pytest.mark.parametrize("lam", [0.1, -0.1])
def test_weights_average_one_at_the_first_step_for_every_gamma(lam):
    """γ / (1 − d) is not always 1 to the last digit, and F_0 is 50 λ away."""
    losses = jnp.full(4, -50.0 * lam)

    def first(gamma):
        attention = absgd_jax.attention(lam, gamma)
        weights, state = attention.weigh(losses, attention.init())
        return weights, state.tilted_loss

    weights, robust = jax.jit(jax.vmap(first))(jnp.linspace(0.01, 0.99, 99))
    np.testing.assert_allclose(weights, 1.0, rtol=1e-6)
    np.testing.assert_allclose(robust, losses[0], rtol=1e-6)


def test_padding_beside_tiny_sample_weights_keeps_its_weight_of_zero():
    got, _ = weigh(jnp.arange(2.0), max_weight=np.inf, sample_weights=[1e-9, 0.0])
    np.testing.assert_allclose(got, [2.0, 0.0], rtol=1e-6)


def test_a_bound_that_the_losses_do_not_know_is_refused():
    tx = absgd_jax.absgd(0.1, 0.3, max_weight=2.0)
    params, x, labels, _ = problems.start()
    state = tx.init(params)
    unbounded = jax.jit(absgd_jax.tilted_value_and_grad(per_example_losses, 0.3))
    value, grads = unbounded(params, x, labels)
    with pytest.raises(TypeError, match=r"absgd has a max_weight.*opt_state"):
        tx.update(grads, state, params, value=value)
    rescale = absgd_jax.scale_by_attention(0.3, max_weight=2.0)
    with pytest.raises(TypeError, match=r"scale_by_attention has a max_weight"):
        rescale.update(grads, rescale.init(params), params, value=value.tilted_loss)
    with pytest.raises(ValueError, match=r"max_weight=2\.0 .* needs init_s=None"):
        absgd_jax.scale_by_attention(0.3, init_s=0.0, max_weight=2.0)

    part, grads = absgd_jax.tilted_value_and_grad(per_example_losses, state)(
        params, x, labels
    )
    spread = absgd_jax.scale_by_attention(0.3, max_weight=2.0, axis_name="devices")
    with pytest.raises(TypeError, match=r"must be that of the whole batch, of tilted"):
        spread.update(grads, spread.init(params), params, value=part)
    with_init_s = absgd_jax.absgd(0.1, 0.3, max_weight=2.0, init_s=0.0)
    with pytest.raises(ValueError, match=r"max_weight=2\.0 .* needs init_s=None"):
        with_init_s.update(grads, with_init_s.init(params), params, value=part)


@pytest.mark.parametrize("make", [absgd_jax.absgd, absgd_jax.abadam])
def test_the_aliases_take_either_route(make):
    tx = make(0.01, 0.3, weight_decay=1e-2)
    params, x, labels, _ = problems.start()
    routes = [problems.stepper(route, tx) for route in ("tilted", "pullback")]
    by_value, by_pullback = jax.jit(lambda *args: [step(*args) for step in routes])(
        params, tx.init(params), x, labels
    )
    chex.assert_trees_all_close(by_value, by_pullback, rtol=1e-5, atol=1e-6)
    message = (
        rf"{make.__name__}\.update needs .*'value', .*value=value\); or 'losses'.*=los"
    )
    with pytest.raises(TypeError, match=message):
        tx.update(params, tx.init(params), params)
    # It may be `losses.mean()`, whose gradient is that of plain SGD.
    with pytest.raises(TypeError, match=f"{make.__name__} takes .* the TiltedValue"):
        tx.update(params, tx.init(params), params, value=jnp.float32(1.0))


def test_base_weights_may_be_a_constant_of_a_compiled_function():
    constant = jnp.array([1.0, 2.0, 0.5])
    losses = jnp.array([0.3, 0.1, 2.0])
    of = lambda losses: weigh(losses, sample_weights=constant)
    chex.assert_trees_all_close(jax.jit(of)(losses), of(losses), rtol=1e-6)
