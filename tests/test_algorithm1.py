"""The three routes are one, Algorithm 1 in float64, and SGD where λ is ±∞.

Compiled as users' programs are, see the Makefile.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle, problems
from tests.problems import ROUTES, compiled, per_example_losses, route_step, transform

LAMS = (0.05, 1.0, 10.0, np.inf, -0.5, -np.inf)
GAMMAS = (0.1, 0.5, 1.0)
params, x, labels, _ = problems.start()


# Guarantee 1: Algorithm 1, for hundreds of steps.


@functools.cache
def algorithm_1(init_s):
    """Settings (λ, γ) and the oracle's parameters for each after every step."""
    data, w = problems.batches(300), problems.initial_params()["w"]
    settings = list(itertools.product(LAMS, GAMMAS))
    histories = [
        oracle.algorithm1(
            w, zip(*data, strict=True), *setting, eta=1e-3, alpha=1e-3, beta=0.9,
            init_s=init_s,
        )
        for setting in settings
    ]  # fmt: skip
    return settings, np.stack([[w_t for w_t, _ in history] for history in histories])


@pytest.mark.parametrize("route", ROUTES)
def test_training_equals_algorithm_1_in_numpy(route):
    data, start = problems.batches(300), problems.initial_params()

    @jax.jit
    def trained(lams, gammas, init_s):
        train = lambda lam, gamma: problems.train(
            route, lam, gamma, data, start, init_s
        )
        return jax.vmap(train)(lams, gammas)["w"]

    with jax.enable_x64(True):
        # None is another program, whose routes are compared below.
        without = (None,) if route == "pullback" else ()
        for init_s in (0.0, 1.0, 1e3, *without):
            settings, expected = algorithm_1(init_s)
            got = trained(*np.array(settings).T, init_s)
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


# The three routes are one.


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.float64, 1e-12)]
)
def test_three_routes_agree_step_by_step(dtype, tolerance):
    """Over 300 steps, each of which starts all routes from the same point."""

    def updates_of_all(lam, gamma, data, params):
        makers = {route: transform(route, lam, gamma) for route in ROUTES}

        def body(carry, batch):
            params, state = carry
            steps = [
                route_step(
                    route, tx, params, state, *batch[:2], sample_weights=batch[2]
                )
                for route, tx in makers.items()
            ]
            _, state, updates = steps[0]
            params = jax.tree.map(lambda p, u: p - 1e-2 * u, params, updates)
            return (params, state), [updates["w"] for _, _, updates in steps]

        start = params, makers["pullback"].init(params)
        return jax.lax.scan(body, start, data)[1]

    with jax.enable_x64(dtype == jnp.float64):
        data = problems.as_dtype(problems.batches(300), dtype)
        start = problems.as_dtype(problems.initial_params(), dtype)
        lams, gammas = jnp.array(list(itertools.product(LAMS, GAMMAS)), dtype).T
        of_settings = jax.jit(jax.vmap(updates_of_all, (0, 0, None, None)))
        first, *others = of_settings(lams, gammas, data, start)
        largest = np.abs(first).max(axis=(2, 3), keepdims=True)
        for other in others:
            assert (np.abs(other - first) / largest).max() < tolerance


# Guarantee 2: λ = ±∞ is plain SGD.


@pytest.mark.parametrize(
    ("route", "lam"),
    [
        ("pullback", np.inf),
        ("pullback", -np.inf),
        ("dense", -np.inf),
        ("value", np.inf),
    ],
)
def test_infinite_lam_is_plain_sgd(route, lam):
    mean_loss = lambda p, x, labels: per_example_losses(p, x, labels).mean()
    expected = jax.jit(jax.grad(mean_loss))(params, x, labels)
    tx, step = compiled(route, lam, init_s=None)
    _, state, updates = step(params, tx.init(params), x, labels)
    tolerance = 1e-7 if route == "dense" else 0.0  # sums are in another order
    chex.assert_trees_all_close(updates, expected, rtol=0, atol=tolerance)
    mean = per_example_losses(params, x, labels).mean()
    assert float(state.tilted_loss) == pytest.approx(float(mean), rel=1e-6)
