"""A λ that follows a radius: the constrained problem that it solves, and its edges."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import absgd_jax
from tests import problems

PIECE = 50  # batches of a compiled program; states carry on from one to the next


@functools.partial(jax.jit, static_argnames=("sign", "begin", "unbounded"))
def _followed(rho, gamma, bound, batches, state, masks, *, sign, begin, unbounded):
    attention = absgd_jax.attention(
        absgd_jax.kl_radius(rho, sign)._replace(begin=begin),
        gamma,
        max_weight=jnp.inf if unbounded else bound,
    )

    def step(state, losses):
        weights, after = attention.weigh(losses, state, **masks)
        return after, (weights, state.lam)

    return jax.lax.scan(step, state, batches)


def follow(radius, batches, *, gamma=0.1, max_weight=jnp.inf, state=None, **masks):
    """Weights of every batch, λ before each, and the state after all.

    One compiled program has every bound, none among them; with `max_weight=None` it has
    no bound at all.
    """
    if state is None:
        bound = jnp.inf if max_weight is None else jnp.float32(max_weight)
        state = absgd_jax.attention(radius, gamma, max_weight=bound).init()
    pieces = np.split(np.float32(batches), len(batches) // PIECE)
    masks = {"where": True, "sample_weights": 1.0} | masks
    masks = {name: np.full(pieces[0].shape[1:], mask) for name, mask in masks.items()}
    static = {"sign": radius.sign, "begin": radius.begin}
    static["unbounded"] = max_weight is None
    found = []
    for piece in pieces:
        state, both = _followed(
            radius.rho, gamma, max_weight, piece, state, masks, **static
        )
        found.append(jax.device_get(both))
    weights, lams = map(np.concatenate, zip(*found, strict=True))
    return weights, lams, jax.device_get(state)


def exponential(steps, size=64, seed=0):
    return np.random.default_rng(seed).exponential(size=(steps, size))


# The problem that is solved.


def divergence(p):
    return np.mean(p * np.log(np.maximum(p, 1e-12)))


def solved(losses, sign, *, lam=0.0, largest=50.0, constraints=()):
    """The p of largest (smallest) Σ p L / n − λ KL(p ‖ uniform), by SLSQP."""
    result = optimize.minimize(
        lambda p: -sign * (p @ losses / len(losses) - lam * divergence(p)),
        np.ones(len(losses)),
        jac=lambda p: -sign * (losses - lam * (np.log(p) + 1)) / len(losses),
        bounds=[(1e-9, largest)] * len(losses),
        constraints=[{"type": "eq", "fun": lambda p: p.mean() - 1}, *constraints],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert result.success, result.message
    return result.x


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rho", [0.1, 0.3])
def test_the_weights_solve_the_constrained_problem(rho, sign):
    """One batch again and again, so that all is at rest."""
    losses = exponential(1, size=24, seed=3)[0]
    weights, _, state = follow(
        absgd_jax.kl_radius(rho, sign), [losses] * 600, max_weight=None
    )
    ball = {"type": "ineq", "fun": lambda p: rho - divergence(p)}
    expected = solved(losses, sign, constraints=[ball])
    np.testing.assert_allclose(weights[-1], expected, rtol=5e-3, atol=5e-3)
    assert np.sign(float(state.lam)) == sign


@pytest.mark.parametrize(
    ("rho", "c", "sign"), [(0.3, 2.5, 1), (0.4, 2.0, -1), (1.5, 2.0, 1), (1.5, 2.0, -1)]
)
def test_bounded_weights_solve_the_penalised_problem_in_the_box(rho, c, sign):
    """At the λ of the constrained problem without a bound, whatever log c is."""
    losses = exponential(1, size=24, seed=3)[0]
    radius = absgd_jax.kl_radius(rho, sign)
    weights, _, state = follow(radius, [losses] * 600, max_weight=c)
    free = np.exp((losses - losses.mean()) / float(state.lam))
    assert divergence(free / free.mean()) == pytest.approx(rho, rel=0.01)
    expected = solved(losses, sign, lam=float(state.lam), largest=c)
    np.testing.assert_allclose(weights[-1], expected, rtol=5e-3, atol=5e-3)


def test_training_reaches_the_optimum_of_the_constrained_problem():
    """Least squares: min over w of max over the KL ball, as L-BFGS finds it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = x @ [1.0, -2.0, 0.5] + rng.standard_t(4, size=50)
    rho = 0.3

    def dual(both):
        w, lam = both[:3], np.exp(both[3])
        losses = (x @ w - y) ** 2
        top = losses.max()
        return lam * rho + top + lam * np.log(np.mean(np.exp((losses - top) / lam)))

    expected = optimize.minimize(dual, np.zeros(4), tol=1e-12)
    tx = absgd_jax.absgd(
        optax.piecewise_constant_schedule(0.02, {2000: 0.1}),
        absgd_jax.kl_radius(rho),
        max_weight=np.inf,
    )
    losses_of = lambda w: (jnp.asarray(x, jnp.float32) @ w - y) ** 2

    def step(carry, _):
        w, state = carry
        losses, pullback = jax.vjp(losses_of, w)
        updates, state = tx.update(pullback, state, w, losses=losses)
        return (optax.apply_updates(w, updates), state), None

    w = jnp.zeros(3)
    (w, state), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=3000))(
        (w, tx.init(w))
    )
    np.testing.assert_allclose(w, expected.x[:3], atol=2e-3)
    lam = float(absgd_jax.attention_state(state).lam)
    assert lam == pytest.approx(np.exp(expected.x[3]), rel=0.02)


small_and_large = pytest.mark.parametrize(("size", "sign"), [(2, 1), (2, -1), (256, 1)])


@small_and_large
def test_lam_is_that_of_the_population_whatever_the_size_of_the_batch(size, sign):
    """Exponential losses: p ∝ exp(L/λ) makes them exponential of rate r = 1 − 1/λ.

    And `KL = log r + 1/r − 1`.
    """
    rho = 0.2
    between = (1e-3, 1.0) if sign > 0 else (1.0, 50.0)
    r = optimize.brentq(lambda r: np.log(r) + 1 / r - 1 - rho, *between)
    radius = absgd_jax.kl_radius(rho, sign)
    batches = exponential(6000, size)
    _, lams, _ = follow(radius, batches, gamma=0.05, max_weight=2.0)
    assert np.mean(lams[1000:]) == pytest.approx(1 / (1 - r), rel=0.07)


@small_and_large
def test_the_divergence_is_reached_whatever_the_size_of_the_batch(size, sign):
    """E[p log p − p + 1] over the stream, small batches included."""
    batches = np.random.default_rng(0).uniform(size=(6000, size))
    weights, _, _ = follow(absgd_jax.kl_radius(0.2, sign), batches, gamma=0.05)
    p = weights[1000:]
    reached = np.mean(p * np.log(np.maximum(p, 1e-30)) - p + 1)
    assert reached == pytest.approx(0.2, rel=0.1)
    assert np.mean(p) == pytest.approx(1.0, abs=0.1)


def test_lam_does_not_depend_on_the_bound():
    batches = np.exp(-np.arange(400) / 200)[:, None] * exponential(400, size=16)
    radius = absgd_jax.kl_radius(0.6)
    _, expected, _ = follow(radius, batches, max_weight=None)
    for bound in (1.5, 2.0, 5.0, jnp.inf):
        _, lams, _ = follow(radius, batches, max_weight=bound)
        np.testing.assert_allclose(lams, expected, rtol=1e-5)


@pytest.mark.parametrize(("rho", "steps"), [(0.4, 100), (0.8, 300)])
def test_bounded_weights_average_one_also_while_losses_fall(rho, steps):
    """A λ that follows the bounded weights shrinks where ρ is near log c or above.

    The normaliser then lags behind by many λ: the means of 50 steps fell to 0.80 and
    to 0.54 here.
    """
    radius, batches = absgd_jax.kl_radius(rho), exponential(2000)
    weights, _, _ = follow(radius, batches, max_weight=2.0)
    assert np.mean(weights) == pytest.approx(1.0, abs=0.02)
    falls = np.exp(-np.arange(2000) / steps)[:, None]
    weights, _, _ = follow(radius, falls * batches, max_weight=2.0)
    means = np.convolve(weights.mean(axis=1), np.full(50, 1 / 50), "valid")
    assert means.min() > 0.9


def test_an_effective_fraction_is_a_radius():
    assert absgd_jax.effective_fraction(0.5) == absgd_jax.kl_radius(np.log(2))
    traced = jax.jit(lambda fraction: absgd_jax.effective_fraction(fraction).rho)(0.5)
    assert float(traced) == pytest.approx(np.log(2))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rho", [0.1, 1.0])
def test_lam_moves_as_the_documentation_says(rho, sign):
    """(max L − min L) / √(8ρ) first; then by 0.05 clip(K/ρ − 1, −1, 20)."""
    radius = absgd_jax.kl_radius(rho, sign)
    losses = np.array([0.0, 0.2, 0.5, 3.0])
    _, lams, state = follow(radius, [losses] * PIECE)
    assert lams[1] == pytest.approx(sign * 3.0 / np.sqrt(8 * rho), rel=1e-5)
    F, lam = float(state.bound.unbounded), float(state.lam)
    gamma = 0.1 / (1 - 0.9 ** (PIECE + 1))
    for shift in (-0.3, 0.1, 2.0, 100.0):
        batch = losses + shift * lam
        own = np.exp((batch - batch.mean()) / lam)
        T = batch.mean() + lam * np.log(own.mean())
        batches = np.exp(min((T - F) / lam, np.log(20.0)))  # average ones
        p = own / own.mean() * batches / (1 - gamma + gamma * batches)
        error = np.mean(p * np.log(p) - p + 1) / rho - 1
        _, lams, _ = follow(radius, [batch] * PIECE, state=state)
        expected = lam * np.exp(0.05 * np.clip(error, -1, 20))
        assert lams[1] == pytest.approx(expected, rel=1e-4), shift


# Units.


def test_losses_times_a_thousand_scale_lam_and_leave_weights():
    batches = exponential(400)
    for bound in (np.inf, 2.0):
        radius = absgd_jax.kl_radius(0.2)
        weights, lams, _ = follow(radius, batches, max_weight=bound)
        scaled, scaled_lams, _ = follow(radius, 1000 * batches, max_weight=bound)
        np.testing.assert_allclose(scaled, weights, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(scaled_lams[1:], 1000 * lams[1:], rtol=1e-3)


def test_a_constant_added_to_losses_changes_nothing():
    batches = exponential(400)
    radius = absgd_jax.kl_radius(0.2)
    weights, lams, _ = follow(radius, batches)
    shifted, shifted_lams, _ = follow(radius, batches + 10.0)
    np.testing.assert_allclose(shifted, weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(shifted_lams, lams, rtol=1e-3)


def test_lam_follows_losses_that_fall():
    falls = np.exp(-np.arange(2000) / 300)[:, None]
    weights, lams, _ = follow(absgd_jax.kl_radius(0.2), falls * exponential(2000))
    p = weights[500:]
    assert np.mean(p * np.log(p) - p + 1) == pytest.approx(0.2, rel=0.25)
    assert lams[-1] / lams[500] == pytest.approx(np.exp(-1500 / 300), rel=0.3)


# Edges.


def test_equal_losses_leave_lam_alone():
    radius = absgd_jax.kl_radius(0.2)
    _, lams, _ = follow(radius, np.full((50, 64), 2.3))
    assert np.isinf(lams).all()
    _, _, state = follow(radius, exponential(400))
    almost = np.resize(np.float32([2.3, np.nextafter(np.float32(2.3), 3)]), (50, 64))
    _, lams, _ = follow(radius, almost)  # but for rounding
    assert np.isinf(lams).all()
    weights, after, _ = follow(radius, np.full((200, 64), 0.7), state=state)
    assert (after == after[0]).all()
    np.testing.assert_allclose(weights[-1], 1.0, rtol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_radius_out_of_reach_stops_at_the_worst_share(sign):
    """n examples stray no farther than log n; λ does not go to 0."""
    losses = exponential(1, size=8)[0]
    radius = absgd_jax.kl_radius(3.0, sign)
    weights, _, state = follow(radius, [losses] * 800, max_weight=4.0)
    chosen = np.argsort(-sign * losses)[:2]  # n / c of them
    assert weights[-1][chosen] == pytest.approx(4.0, rel=1e-3)
    assert abs(float(state.lam)) > np.ptp(losses) / 100
    weights, _, state = follow(absgd_jax.kl_radius(9.0, sign), [losses] * 800)
    assert weights[-1].argmax() == chosen[0]
    assert abs(float(state.lam)) > np.ptp(losses) / 100


def test_one_outlier_is_forgotten():
    batches = exponential(400)
    radius = absgd_jax.kl_radius(0.2)
    batches[200, 5] = 1e4
    weights, lams, _ = follow(radius, batches, max_weight=2.0)
    assert weights[200].max() <= 2.0 * (1 + 1e-5)
    assert weights[201:].mean(axis=1).min() > 0.8
    assert lams[230:].max() < 2 * lams[150:200].max()


def test_vanished_losses_keep_weights_finite():
    batches = 1e-30 * exponential(400)
    weights, lams, _ = follow(absgd_jax.kl_radius(0.2), batches, max_weight=2.0)
    assert np.isfinite(weights).all()
    assert (lams[1:] > 0).all()
    zeros, _, _ = follow(absgd_jax.kl_radius(0.2), np.zeros((50, 64)))
    np.testing.assert_allclose(zeros, 1.0)


@pytest.mark.parametrize("bound", [np.inf, 2.0])
@pytest.mark.parametrize("bad", ["masked", np.nan, np.inf])
def test_a_batch_that_says_nothing_leaves_lam_alone(bad, bound):
    radius = absgd_jax.kl_radius(0.2)
    _, _, state = follow(radius, exponential(100), max_weight=bound)
    losses = exponential(PIECE)
    masked = {"where": False} if bad == "masked" else {}
    losses[:, 3] = losses[:, 3] if masked else bad
    _, _, after = follow(radius, losses, state=state, max_weight=bound, **masked)
    assert after == state._replace(count=state.count + PIECE)


def test_a_radius_takes_over_the_robust_loss_of_a_fixed_lam():
    """Far from 0, where a normaliser of its own would have begun."""
    fixed, radius = absgd_jax.attention(2.0), absgd_jax.attention()
    state, lams = fixed.init(), []
    by_fixed, by_radius = jax.jit(fixed.weigh), jax.jit(radius.weigh)
    for index, losses in enumerate(100.0 + exponential(20)):
        _, state = (by_fixed if index < 10 else by_radius)(losses, state)
        lams.append(float(state.lam))
    assert lams[9] == 2.0
    assert min(lams[10:]) > 0.2
    assert max(lams[10:]) < 4.0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_radius_begins_at_the_switch_of_two_stages(sign):
    radius = absgd_jax.two_stage(absgd_jax.kl_radius(0.2, sign), 30)
    weights, lams, _ = follow(radius, exponential(100))
    assert np.isinf(lams[:30]).all()
    assert np.isfinite(lams[30:]).all()
    assert (np.sign(lams[30:]) == sign).all()
    np.testing.assert_allclose(weights[:30], 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match=r"first must be inf.*got 3\.0"):
        absgd_jax.two_stage(absgd_jax.kl_radius(0.2), 30, first=3.0)


@pytest.mark.parametrize("bound", [np.inf, 2.0])
def test_padding_counts_for_nothing_and_base_weights_as_copies(bound):
    batches = exponential(50, size=4)
    radius = absgd_jax.kl_radius(0.3)
    _, expected, _ = follow(radius, np.repeat(batches, 2, axis=1), max_weight=bound)
    padded = np.concatenate([batches, 1e3 + batches], axis=1)
    weighed = {"where": np.arange(8) < 4, "sample_weights": 2.0}
    _, lams, _ = follow(radius, padded, max_weight=bound, **weighed)
    np.testing.assert_allclose(lams, expected, rtol=1e-4)


def test_a_radius_in_float64():
    with jax.enable_x64(True):
        tx = absgd_jax.absgd(0.1)
        state = tx.init(jnp.zeros(2, jnp.float64))
        losses = jnp.asarray(exponential(1)[0])
        update = jax.jit(tx.update)
        for _ in range(3):
            _, state = update(jnp.ones((64, 2)), state, jnp.zeros(2), losses=losses)
        floats = jax.tree.leaves(absgd_jax.attention_state(state))[1:]
        assert {leaf.dtype for leaf in floats} == {jnp.dtype("float64")}


# Routes.


def test_the_default_is_a_radius_of_two_fifths_and_weights_of_at_most_two():
    """A radius of 0.4 with γ = 0.1 and c = 2; γ = 0.5 where λ is given."""

    def weights(*args, **kwargs):
        attention = absgd_jax.attention(*args, **kwargs)
        state = attention.init()
        return str(jax.make_jaxpr(attention.weigh)(jnp.ones(8), state)), state

    def step(tx):
        start = fresh(tx)
        return str(jax.make_jaxpr(problems.stepper("pullback", tx))(*start)), start[1]

    whole = absgd_jax.kl_radius(0.4, sign=1)
    expected = weights(whole, 0.1, max_weight=2.0)
    assert weights() == weights(absgd_jax.kl_radius()) == expected
    assert weights(0.7) == weights(0.7, 0.5)
    for make in (absgd_jax.absgd, absgd_jax.abadam):
        (short, state), (full, expected) = (
            step(make(0.1)), step(make(0.1, whole, 0.1, max_weight=2.0))
        )  # fmt: skip
        assert short == full
        chex.assert_trees_all_equal(state, expected)


def fresh(tx):
    """Parameters, state and a batch."""
    params, x, labels, _ = problems.start()
    return params, tx.init(params), x, labels


def test_a_value_that_does_not_say_how_weights_spread_is_refused():
    radius = absgd_jax.kl_radius(0.1)
    tx = absgd_jax.scale_by_attention(radius, max_weight=np.inf)
    with pytest.raises(TypeError, match="follows a radius, so `value` must be that of"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), value=1.0)
    # Each device would follow its own part of the batch.
    tx = absgd_jax.scale_by_attention(radius, max_weight=np.inf, axis_name="devices")
    state, w = tx.init(jnp.ones(2)), jnp.ones(2)
    part, grads = absgd_jax.tilted_value_and_grad(lambda w: w**2, state)(w)
    with pytest.raises(TypeError, match="With axis_name too: the value of the whole"):
        tx.update(grads, state, w, value=part)


def test_to_a_derivative_the_lam_that_follows_is_a_constant():
    losses, w = jnp.array([0.1, 0.5, 3.0]), jnp.zeros(3)
    tx = absgd_jax.attentional_aggregate()

    @jax.jit
    def gradients(losses):
        _, state = tx.update(jnp.eye(3), tx.init(w), w, losses=losses)

        def after(losses):
            _, after = tx.update(jnp.eye(3), state, w, losses=losses)
            return after.lam, after.tilted_loss

        return jax.jacrev(after)(losses)

    of_lam, of_tilted_loss = gradients(losses)
    np.testing.assert_array_equal(of_lam, 0.0)
    assert (of_tilted_loss > 0.0).any()
