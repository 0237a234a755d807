"""META: to the weight of its class, each example has what a clean batch adds.

From the class weights w_y, by a virtual step along the sum,

    w' = w − η Σ_i w_{y_i} ∇L_i(w),    ε_i = ρ η ⟨∇L_i(w), ∇C(w')⟩,

with C the mean loss of the clean batch and η the learning rate; then the direction is
`mean_i (w_{y_i} + ε_i) ∇L_i(w)`. Jamal, Brown, Yang, Wang and Gong, `Rethinking
Class-Balanced Methods for Long-Tailed Visual Recognition from a Domain Adaptation
Perspective <https://arxiv.org/abs/2003.10780>`_, as their code has it: ε is −ρ times
the derivative of `C(w'(ε))` at 0, with ρ = 0.01 (`rate`), and is neither clipped nor
scaled afterwards, so that weights may be negative.

Before it is switched on, examples have the weights of their classes alone.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments import configs
from experiments.methods import _clean
from experiments.methods.rule import (
    Rule,
    WeightingInput,
    WeightingResult,
    mean,
    weighted,
)


def rule(run: configs.Run) -> Rule:
    """Class weights, and what is learned beside them. It keeps nothing."""
    return Rule(_clean.none, gradient, before, weighs_classes=True)


def before(problem: WeightingInput, state: Any) -> WeightingResult:
    """That of the mean loss under class weights."""

    def weigh(losses: jax.Array) -> Any:
        p = problem.class_weights[problem.labels]
        return p, state, mean(p * losses, problem.present)

    return weighted(problem, weigh)


def gradient(problem: WeightingInput, state: Any) -> WeightingResult:
    """Two backward passes of the batch, one of the clean batch, one tangent product."""
    line = _clean.linearized(problem)
    of_class = problem.class_weights[problem.labels]
    virtual = jnp.where(problem.present, of_class, 0.0)
    slope, clean = _clean.derivative(problem, line, virtual)
    p = of_class - problem.moment.rate * slope
    return _clean.found(problem, line, p, state, clean)
