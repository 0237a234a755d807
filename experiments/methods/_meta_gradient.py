"""The derivative of the loss on the meta set with respect to the weights.

It needs no second-order derivatives.

Weights a lead to parameters `w'(a) = w − η Σ_i a_i ∇L_i(w)`, and those to the
mean loss C of the meta batch. Its derivative, by the chain rule,

    dC(w'(a)) / da_i = −η ⟨∇L_i(w), ∇C(w')⟩,

is for all i together the change of the batch's losses at w in the direction ∇C(w'): one
tangent product. The published programs differentiate the step itself and go back
through its backward pass. That is linear in a, so compiled by JAX it is this product
too; but they need a virtual step where a = 0, whose backward pass is left out here, a
fifth of L2RW's update.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.methods import weighting
from experiments.methods.weighting import WeightingInput, WeightingResult


class LinearizedLosses(NamedTuple):
    """The losses of a batch, linearised at w."""

    losses: jax.Array  # float32 [batch]
    statistics: Any  # of the network after the forward pass
    jvp: Callable[[Any], jax.Array]  # v -> ⟨∇L_i, v⟩, [batch]
    vjp: Callable[[jax.Array], Any]  # a [batch] -> Σ_i a_i ∇L_i, a backward pass


def linearized(weighting_input: WeightingInput) -> LinearizedLosses:
    """Linearises the losses of a batch, by one forward pass."""
    losses, jvp, statistics = jax.linearize(
        weighting_input.losses_of, weighting_input.params, has_aux=True
    )
    transposed = jax.linear_transpose(jvp, weighting_input.params)
    return LinearizedLosses(losses, statistics, jvp, lambda a: transposed(a)[0])


def derivative(
    weighting_input: WeightingInput, at_w: LinearizedLosses, weights: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The derivative of the meta loss after a virtual step, by each weight in it.

    The weights a `[batch]` of the virtual step are 0 at padding; None stands for no
    step, w' = w. Returns `−η ⟨∇L_i(w), ∇C(w')⟩` `[batch]`, 0 at padding, and `C(w')`.
    """
    down = functools.partial(
        optax.tree.scale, -weighting_input.hyperparams.learning_rate
    )
    there = weighting_input.params
    if weights is not None:
        there = optax.apply_updates(there, down(at_w.vjp(weights)))
    C, gradient = jax.value_and_grad(weighting_input.meta_loss_of)(there)
    # Scaled before the product, not after it: on a CPU XLA then keeps a seventh less.
    slope = at_w.jvp(down(gradient))
    return jnp.where(weighting_input.present, slope, 0.0), C


def weighted_by(
    weighting_input: WeightingInput,
    at_w: LinearizedLosses,
    p: jax.Array,
    state: Any,
    objective: Any,
) -> WeightingResult:
    """The result for weights p: the gradient `mean_i p_i ∇L_i` and the metrics."""
    gradient = at_w.vjp(weighting.cotangent(p, weighting_input.present))
    return WeightingResult(gradient, state, at_w.losses, at_w.statistics, p, objective)
