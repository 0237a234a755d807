"""`jax.debug_nans` and `jax.debug_infs` look at every operation and find nothing.

Without compilation, branches that are not taken are looked at as well.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import absgd_jax
from tests import problems

params, *_ = problems.start()
BATCHES = list(
    zip(*problems.as_dtype(problems.batches(2)[:2], jnp.float32), strict=True)
)


@pytest.fixture(autouse=True)
def debug_flags():
    with jax.debug_nans(True), jax.debug_infs(True):
        yield


@pytest.mark.parametrize(
    ("lam", "gamma", "kwargs"),
    [
        (1e-3, 0.3, {}),
        (-0.5, 1.0, {"max_weight": 3.0}),
        (1e8, 0.3, {"max_weight": 1.0}),
        (1e-3, 1.0, {"init_s": 0.0}),
    ],
)
def test_no_route_makes_a_nan_or_an_infinity(lam, gamma, kwargs):
    tx = absgd_jax.absgd(0.1, lam, gamma, **kwargs)
    routes = ("pullback", {}), ("dense", {}), ("tilted", {}), ("tilted", {"micro": 7})
    for route, micro in routes:
        step = problems.stepper(route, tx, **micro)
        w, state = params, tx.init(params)
        for batch in BATCHES:
            w, state = step(w, state, *batch)
        attention = absgd_jax.attention_state(state)._replace(lam=1.0)  # may be inf
        chex.assert_tree_all_finite((w, attention))


def test_plain_sgd_makes_no_nan():
    """λ = ∞ is a number that `jax.debug_infs` would find."""
    with jax.debug_infs(False):
        test_no_route_makes_a_nan_or_an_infinity(np.inf, 1.0, {"init_s": 0.0})


MASKS = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]], bool)


@pytest.mark.parametrize(
    ("lam", "kwargs"),
    [(0.3, {}), (-0.3, {}), (0.3, {"max_weight": 1.0}), (-0.3, {"max_weight": 3.0})],
)
def test_weights_make_no_nan_or_infinity(lam, kwargs):
    attention = absgd_jax.attention(lam, 0.1, **kwargs)
    for values in ([0.0, 1.0, 50.0], [2.0, 2.0, 2.0], [-5.0, 1e4, 3.0]):
        state = attention.init()
        for where in MASKS:
            weights, state = attention.weigh(jnp.array(values), state, where=where)
            chex.assert_tree_all_finite((weights, state))


@pytest.mark.parametrize(
    ("sign", "bound"),
    [(1, {}), (-1, {"max_weight": np.inf}), (1, {"max_weight": jnp.float32(np.inf)})],
)
def test_a_radius_makes_no_nan(sign, bound):
    """`jax.debug_infs` would find the infinite λ that a radius starts from."""
    radius = absgd_jax.kl_radius(0.4, sign)
    with jax.debug_infs(False):
        attention = absgd_jax.attention(radius, **bound)
        state = attention.init()
        test_no_route_makes_a_nan_or_an_infinity(radius, None, bound)
        for values in ([2.0, 2.0], [0.0, 1.0], [-5.0, 1e4], [7.0, 7.1], [1.0, 0.9]):
            for where in (True, np.array([True, False]), False):
                where = jnp.broadcast_to(jnp.asarray(where), (2,))
                weights, state = attention.weigh(jnp.array(values), state, where=where)
                chex.assert_tree_all_finite((weights, state._replace(lam=1.0)))
    assert np.isfinite(state.lam)


@pytest.mark.parametrize("lam", [1e-3, -0.5, 1e8])
def test_the_tilted_loss_and_its_weights_make_no_nan_or_infinity(lam):
    losses = jnp.array([0.0, 1.0, 30.0])
    value, gradient = jax.value_and_grad(absgd_jax.tilted_loss)(losses, lam)
    weights = absgd_jax.attentional_weights(losses, lam)
    chex.assert_tree_all_finite((value, gradient, weights))


def test_an_annealed_lam_of_one_sign_makes_no_infinity():
    schedule = absgd_jax.anneal(-1.0, 0, 4, first=-2.0)
    assert all(np.isfinite(float(schedule(step))) for step in range(6))
