"""Exponentiated gradient with a weight for every training example, kept over epochs.

`w_i ← w_i exp(−η L_i)` for each example of the batch, then scaled so that the mean of
w over all N training examples is one; `p_i = w_i` after that. Majidi et al.,
`Exponentiated Gradient Reweighting <https://arxiv.org/abs/2104.01493>`_, whose η here
is `step_size`: positive distrusts large losses, negative attends to them.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import configs
from experiments.methods import weighting
from experiments.methods.weighting import WeightingInput


class ExamplesState(NamedTuple):
    """The weights of all training examples."""

    log_weights: jax.Array  # float32 [examples]: log w, whose w average one


def rule(run: configs.Run) -> weighting.Rule:
    """Weights from all losses of an example so far."""

    def init(params: Any, examples: int, classes: int) -> ExamplesState:
        return ExamplesState(jnp.zeros(examples, jnp.float32))

    return weighting.by_losses(weigh, init)


def weigh(
    weighting_input: WeightingInput, state: ExamplesState, losses: jax.Array
) -> Any:
    """The examples' weights, updated by this batch."""
    present, step_size = weighting_input.present, weighting_input.hyperparams.step_size
    outside = state.log_weights.size  # where padding is dropped
    rows = jnp.where(present, weighting_input.index, outside)
    # An example that is drawn twice counts twice.
    log_weights = state.log_weights.at[rows].add(-step_size * losses, mode="drop")
    log_sum = jax.nn.logsumexp(log_weights)
    log_weights = log_weights - (log_sum - math.log(outside))
    p = jnp.exp(log_weights[weighting_input.index])
    return p, ExamplesState(log_weights), weighting.mean(p * losses, present)
