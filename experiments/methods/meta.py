"""META: to the weight of its class, each example has what a meta batch adds.

From the class weights w_y, by a virtual step along the sum,

    w' = w − η Σ_i w_{y_i} ∇L_i(w),    ε_i = ρ η ⟨∇L_i(w), ∇C(w')⟩,

with C the mean loss of the meta batch and η the learning rate; then the direction is
`mean_i (w_{y_i} + ε_i) ∇L_i(w)`. Jamal, Brown, Yang, Wang and Gong, `Rethinking
Class-Balanced Methods for Long-Tailed Visual Recognition from a Domain Adaptation
Perspective <https://arxiv.org/abs/2003.10780>`_, as their code has it: ε is −ρ times
the derivative of `C(w'(ε))` at 0, with ρ = 0.01 (`step_size`), and is neither clipped
nor scaled afterwards, so that weights may be negative.

Before it is switched on, the weight of an example is that of its class.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments import configs
from experiments.methods import _meta_gradient, weighting
from experiments.methods.weighting import WeightingInput, WeightingResult


def rule(run: configs.Run) -> weighting.Rule:
    """Class weights, and what is added to them. The rule has no state."""
    return weighting.Rule(weighting.stateless, gradient, before)


def before(weighting_input: WeightingInput, state: Any) -> WeightingResult:
    """The gradient of the mean loss under class weights."""

    def weigh(_: WeightingInput, state: Any, losses: jax.Array) -> Any:
        p = weighting_input.class_weights[weighting_input.labels]
        return p, state, weighting.mean(p * losses, weighting_input.present)

    return weighting.weighted(weigh, _unweighted(weighting_input), state)


def gradient(weighting_input: WeightingInput, state: Any) -> WeightingResult:
    """Result by three backward passes, one on the meta set, and a tangent product."""
    at_w = _meta_gradient.linearized(_unweighted(weighting_input))
    of_class = weighting_input.class_weights[weighting_input.labels]
    virtual = jnp.where(weighting_input.present, of_class, 0.0)
    slope, C = _meta_gradient.derivative(weighting_input, at_w, virtual)
    p = of_class - weighting_input.hyperparams.step_size * slope
    return _meta_gradient.weighted_by(weighting_input, at_w, p, state, C)


def _unweighted(weighting_input: WeightingInput) -> WeightingInput:
    """The same with losses that leave the class weights to the rule."""
    ones = jnp.ones_like(weighting_input.class_weights)
    return weighting_input._replace(class_weights=ones)
