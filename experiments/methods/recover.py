"""RECOVER: ABSGD's objective by variance reduction, at two gradients a step.

`F(w) = λ log g(w)` with `g(w) = E exp(L(w)/λ)`. On the same batch ξ_t, at w_t and at
w_{t−1}, with `d(w; ξ) = mean_i exp(L_i(w)/λ) ∇L_i(w)`::

    u_t = g(w_t; ξ_t)       + (1 − a) (u_{t−1} − g(w_{t−1}; ξ_t))
    v_t = d(w_t; ξ_t) / u_t + (1 − a) (v_{t−1} − d(w_{t−1}; ξ_t) / u_{t−1})

and `w_{t+1} = w_t − η v_t`; it begins with the batch's own `u = g` and `v = d/u`. Qi,
Guo, Xu, Jin and Yang, `An Online Method for A Class of Distributionally Robust
Optimization with Non-Convex Objectives <https://arxiv.org/abs/2006.10138>`_ (NeurIPS
2021). a is the method's γ; v is a momentum, so that the run's optimizer has none.

Where it differs, the first against an explosion where batches differ wildly:

* u is a difference, and may fall to zero or below. Here `u_t ≥ a g(w_t; ξ_t)`, so
  that an example weighs at most 1/a times what it weighs within the batch (`eg`). What
  is taken off v at w_{t−1}, its factor 1 − a included, has the same bound. The paper
  projects its estimates for this. The authors' code has another guard: the factor
  exp(max L/λ), by which it multiplies the gradient of the newest batch's
  mean exp((L − max L)/λ), is `min(exp(max L/λ), λ)` there; u and what is taken off have
  no bound.
* The authors' code estimates d, not d/u, and divides by the newest u. Here it is as
  in the paper.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import absgd_jax
from experiments import configs
from experiments.methods import weighting
from experiments.methods.weighting import WeightingInput, WeightingResult


class RecoverState(NamedTuple):
    """The two estimates, and the parameters at which they were made."""

    started: jax.Array  # bool []: whether a batch has been weighted
    # The parameters of the previous update, and no other: what both estimates take off
    # belongs to where they were made.
    params: Any  # w_{t−1}, like the parameters
    direction: Any  # v_{t−1}, like the parameters
    tilted_loss: jax.Array  # float32 []: λ log u_{t−1}, which cannot overflow as u can


def rule(run: configs.Run) -> weighting.Rule:
    """A direction from the batch's gradients at two points."""

    def init(params: Any, examples: int, classes: int) -> RecoverState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RecoverState(jnp.bool_(False), params, zeros, jnp.float32(0.0))

    return weighting.Rule(init, gradient, before=weighting.plain)


def gradient(weighting_input: WeightingInput, state: RecoverState) -> WeightingResult:
    """v_t; the network's statistics are those of the pass at w_t."""
    hyperparams, present = weighting_input.hyperparams, weighting_input.present
    # At λ = ±inf, λ log u is ∞ · 0. This λ weighs all by one too, to the last bit.
    lam = jnp.clip(hyperparams.lam, -1e30, 1e30)
    losses, pullback, statistics = jax.vjp(
        weighting_input.losses_of, weighting_input.params, has_aux=True
    )
    losses_before, pullback_before, _ = jax.vjp(
        weighting_input.losses_of, state.params, has_aux=True
    )
    T, T_before = (
        absgd_jax.tilted_loss(x, lam, where=present) for x in (losses, losses_before)
    )
    a = jnp.where(state.started, hyperparams.gamma, 1.0)  # at first all is new
    log_ratio = _log_ratio(state.tilted_loss, T_before, T, lam, a)  # log u_t/g(w_t)

    log_correction = jnp.log1p(-a) + (T_before - state.tilted_loss) / lam
    log_correction = jnp.minimum(log_correction, -jnp.log(a))

    def weigh(losses: jax.Array, log_factor: jax.Array) -> jax.Array:
        of_batch = absgd_jax.attentional_weights(losses, lam, where=present)
        return jnp.sum(present) * of_batch * jnp.exp(log_factor)

    p = weigh(losses, -log_ratio)
    (new,) = pullback(weighting.cotangent(p, present))
    (correction,) = pullback_before(
        weighting.cotangent(weigh(losses_before, log_correction), present)
    )
    direction = jax.tree.map(
        lambda new, v, correction: new + ((1.0 - a) * v - correction),
        new,
        state.direction,
        correction,
    )
    objective = T + lam * log_ratio
    state = RecoverState(jnp.bool_(True), weighting_input.params, direction, objective)
    return WeightingResult(direction, state, losses, statistics, p, objective)


def _log_ratio(
    tilted_loss: jax.Array,
    before: jax.Array,
    now: jax.Array,
    lam: jax.Array,
    a: jax.Array,
) -> jax.Array:
    """`log( 1 + (1 − a) (u_{t−1} − g(w_{t−1})) / g(w_t) )`, at least log a.

    From the logarithm of what is added to one, which neither overflows nor, for large
    λ, loses its digits.
    """
    gap = (tilted_loss - before) / lam
    larger = jnp.maximum((tilted_loss - now) / lam, (before - now) / lam)
    change = jnp.log1p(-a) + larger + jnp.log(-jnp.expm1(-jnp.abs(gap)))
    log_ratio = jnp.where(
        gap > 0.0,
        jnp.logaddexp(0.0, change),
        jnp.log1p(-jnp.exp(jnp.minimum(change, 0.0))),
    )
    return jnp.maximum(log_ratio, jnp.log(a))
