"""A second oracle: the minimiser of F_λ that L-BFGS finds, with no ABSGD in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import absgd_jax

N, FEATURES, BATCH, STEPS = 40, 2, 4, 100_000
RIDGE = 0.05
rng = np.random.default_rng(0)
X = np.concatenate([rng.normal(size=(N, FEATURES)), np.ones((N, 1))], axis=1)
Y = np.where(X @ [1.0, -0.7, 0.4] + rng.logistic(size=N) > 0, 1.0, -1.0)


def logistic_losses(w, x, y):
    return jax.nn.softplus(-y * (x @ w))


def stationary_point(lam):
    """argmin of λ log mean exp(L/λ) + ridge, in float64 by L-BFGS from zero."""

    def objective(w):
        margins = -Y * (X @ w)
        losses = np.logaddexp(0, margins)
        weights = np.exp((losses - losses.max()) / lam)
        value = losses.max() + lam * np.log(weights.mean())
        slopes = -Y / (1 + np.exp(-margins)) * weights / weights.sum()
        return value + RIDGE / 2 * w @ w, slopes @ X + RIDGE * w

    result = optimize.minimize(
        objective, np.zeros(FEATURES + 1), jac=True, method="L-BFGS-B", tol=1e-14
    )
    assert np.abs(result.jac).max() < 1e-6
    return result.x


# (λ, γ): a running and a per-batch normaliser, and plain SGD.
SETTINGS = ((0.5, 0.01), (-0.5, 0.01), (0.5, 1.0), (-0.5, 1.0), (np.inf, 1.0))


def absgd_from_zero(lam, gamma):
    """ABSGD at batch size 4 with a step that decays to nothing."""
    schedule = optax.linear_schedule(0.02, 0.0, STEPS)
    tx = absgd_jax.absgd(
        schedule, lam, gamma, momentum=None, weight_decay=RIDGE, init_s=None
    )
    w = jnp.zeros(FEATURES + 1)
    x_all, y_all = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)

    def body(carry, key):
        w, state = carry
        chosen = jax.random.choice(key, N, (BATCH,), replace=False)
        losses, pullback = jax.vjp(
            lambda w: logistic_losses(w, x_all[chosen], y_all[chosen]), w
        )
        updates, state = tx.update(pullback, state, w, losses=losses)
        return (optax.apply_updates(w, updates), state), None

    keys = jax.random.split(jax.random.key(0), STEPS)
    (w, _), _ = jax.lax.scan(body, (w, tx.init(w)), keys)
    return w


@functools.cache
def trained():
    """Where every setting ends; they train side by side."""
    lams, gammas = jnp.array(SETTINGS).T
    ends = jax.jit(jax.vmap(absgd_from_zero))(lams, gammas)
    return dict(zip(SETTINGS, np.asarray(ends), strict=True))


@pytest.mark.parametrize("lam", [0.5, -0.5])
def test_small_gamma_reaches_the_stationary_point_and_gamma_1_does_not(lam):
    target = stationary_point(lam)
    running = np.linalg.norm(trained()[lam, 0.01] - target)
    per_batch = np.linalg.norm(trained()[lam, 1.0] - target)
    mean = np.linalg.norm(trained()[np.inf, 1.0] - target)
    size = np.linalg.norm(target)
    assert running < 0.04 * size, (running, size)
    assert per_batch > 0.1 * size, (per_batch, size)
    assert per_batch > 4 * running, (per_batch, running)
    assert mean > per_batch  # plain SGD is further still
