"""Exponentiated gradient within the batch: what ABSGD is without a running normaliser.

`p_i = B exp(L_i/λ) / Σ_j exp(L_j/λ)` over the B examples of the batch: one step of
exponentiated gradient from uniform weights (Majidi et al., `Exponentiated Gradient
Reweighting <https://arxiv.org/abs/2104.01493>`_), as the papers on ABSGD compare with
it. λ > 0 attends to large losses, λ < 0 distrusts them, ±inf weighs all alike.
"""

from typing import Any

import jax
import jax.numpy as jnp

import absgd_jax
from experiments import configs
from experiments.methods import weighting
from experiments.methods.weighting import WeightingInput


def rule(run: configs.Run) -> weighting.Rule:
    """Weights from the losses of the batch. The rule has no state."""
    return weighting.by_losses(weigh)


def weigh(weighting_input: WeightingInput, state: tuple[()], losses: jax.Array) -> Any:
    """The weights whose gradient is that of the batch's tilted loss."""
    present, lam = weighting_input.present, weighting_input.hyperparams.lam
    p = absgd_jax.attentional_weights(losses, lam, where=present)
    objective = absgd_jax.tilted_loss(losses, lam, where=present)
    return jnp.sum(present) * p, state, objective
