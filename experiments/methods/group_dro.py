"""Group DRO with the classes as groups: the worse a class is, the more it weighs.

With `L_g` the mean loss of the batch's `n_g` examples of class g,
`q_g ← q_g exp(η L_g)` for the classes that are there, scaled so that `Σ_g q_g = 1`, and
the direction is `Σ_g q_g ∇L_g`, so `p_i = B q_{y_i} / n_{y_i}`. Sagawa, Koh, Hashimoto
and Liang, `Distributionally Robust Neural Networks for Group Shifts
<https://arxiv.org/abs/1911.08731>`_, Algorithm 1; their η_q is `step_size`.

Algorithm 1 draws a group at every step, and the authors' code batches with as many
examples of each on average: so does `compare`, by `data.sampling` of `balanced`. On
shuffled batches a class loses q for being rare, since one that the batch lacks has a
loss of zero, and its q goes unused: the weights average one only where all classes are
present.

Two options of the authors' code, off by default there, are not here: the adjustment,
which adds C/√n_g to the loss of a group of n_g training examples where q is updated,
and `normalize_loss`, which there divides the losses by their sum over the groups.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import configs
from experiments.methods import weighting
from experiments.methods.weighting import WeightingInput


class GroupState(NamedTuple):
    """The distribution over classes."""

    log_q: jax.Array  # float32 [classes]: its exponentials sum to one


def rule(run: configs.Run) -> weighting.Rule:
    """Weights from the mean loss of each class."""

    def init(params: Any, examples: int, classes: int) -> GroupState:
        return GroupState(jax.nn.log_softmax(jnp.zeros(classes, jnp.float32)))

    return weighting.by_losses(weigh, init)


def weigh(weighting_input: WeightingInput, state: GroupState, losses: jax.Array) -> Any:
    """The weights whose gradient is that of `Σ_g q_g L_g`, with the updated q."""
    present, labels = weighting_input.present, weighting_input.labels
    step_size = weighting_input.hyperparams.step_size
    zeros = jnp.zeros_like(state.log_q)
    numbers = jnp.maximum(zeros.at[labels].add(present), 1.0)
    sums = zeros.at[labels].add(jnp.where(present, losses, 0.0))
    of_class = sums / numbers  # 0 for classes that are not there
    log_q = jax.nn.log_softmax(state.log_q + step_size * of_class)
    q = jnp.exp(log_q)
    p = jnp.sum(present) * q[labels] / numbers[labels]
    return p, GroupState(log_q), jnp.sum(q * of_class)
