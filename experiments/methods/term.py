"""Tilted empirical risk minimisation, over the batch or with a running normaliser.

`s ← (1 − γ) s + γ mean_i exp(L_i/λ)`, beginning with the first batch's own mean, and
`p_i = exp(L_i/λ) / s`: Li, Beirami, Sanjabi and Smith, `Tilted Empirical Risk
Minimization <https://arxiv.org/abs/2007.01162>`_, whose t is 1/λ. With γ = 1 this is
the tilted batch, `p = B softmax(L/λ)`; their code for stochastic training has γ = 0.2.

The weights are ABSGD's but for how s begins: ABSGD without s_0 averages over what it
has seen, each batch with the share that γ leaves it, here the first one keeps
`(1 − γ)^t`. The difference that is meant is another: TERM descends without momentum,
which is for the run's optimizer to say.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import absgd_jax
from experiments import configs
from experiments.methods import weighting
from experiments.methods.weighting import WeightingInput


class TermState(NamedTuple):
    """The running exponential moment s, in units of loss."""

    started: jax.Array  # bool []: whether a batch has been seen
    tilted_loss: jax.Array  # float32 []: R = λ log s, which cannot overflow as s can


def rule(run: configs.Run) -> weighting.Rule:
    """Weights from the losses of the batch and a running normaliser."""

    def init(params: Any, examples: int, classes: int) -> TermState:
        return TermState(jnp.bool_(False), jnp.float32(0.0))

    return weighting.by_losses(weigh, init)


def weigh(weighting_input: WeightingInput, state: TermState, losses: jax.Array) -> Any:
    """The weights of the batch's tilted loss T, times `exp(T/λ)/s`, at most 1/γ."""
    present, hyperparams = weighting_input.present, weighting_input.hyperparams
    lam, gamma = hyperparams.lam, hyperparams.gamma
    T = absgd_jax.tilted_loss(losses, lam, where=present)
    share = jnp.where(state.started, gamma, 1.0)
    R = absgd_jax.tilted_loss(
        jnp.stack([state.tilted_loss, T]),
        lam,
        sample_weights=jnp.stack([1.0 - share, share]),
    )
    of_batch = absgd_jax.attentional_weights(losses, lam, where=present)
    # Over T and not over R at once: where γ = 1 the factor is exactly one.
    p = jnp.sum(present) * of_batch * jnp.exp((T - R) / lam)
    return p, TermState(jnp.bool_(True), R), R
