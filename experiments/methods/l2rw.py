"""Learning to reweight: examples weigh as their gradients agree with the meta set's.

With C the mean loss of the meta batch, `p̃_i = max(⟨∇L_i(w), ∇C(w)⟩, 0)` and
`p_i = B p̃_i / Σ_j p̃_j`, or all zero where that sum is. Ren, Zeng, Yang and Urtasun,
`Learning to Reweight Examples for Robust Deep Learning
<https://arxiv.org/abs/1803.09050>`_, Eq. (7) to (9) and (12): a virtual step from
weights ε = 0, which ends where it began, so its step size falls out of p.

Weights are never negative, and average one over the batch.
"""

from typing import Any

import jax.numpy as jnp

from experiments import configs
from experiments.methods import _meta_gradient, weighting
from experiments.methods.weighting import WeightingInput, WeightingResult


def rule(run: configs.Run) -> weighting.Rule:
    """Weights from the gradient on the meta set at w. The rule has no state."""
    return weighting.Rule(weighting.stateless, gradient, before=weighting.plain)


def gradient(weighting_input: WeightingInput, state: Any) -> WeightingResult:
    """Result by two backward passes, batch and meta batch, and one tangent product."""
    at_w = _meta_gradient.linearized(weighting_input)
    slope, C = _meta_gradient.derivative(weighting_input, at_w, None)
    p = jnp.maximum(-slope, 0.0)  # η p̃
    total = jnp.sum(p)
    scale = jnp.sum(weighting_input.present) / jnp.where(total > 0.0, total, 1.0)
    return _meta_gradient.weighted_by(weighting_input, at_w, p * scale, state, C)
