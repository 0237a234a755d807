"""The interface of weighting rules: input, result, and `Rule`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.methods.hyperparams import StepHyperparams


class WeightingInput(NamedTuple):
    """The input of a rule for one update: parameters, batch and hyperparameters."""

    params: Any  # w_t, float32 leaves
    # w, examples, class weights -> losses, float32 [batch], and statistics
    per_example_losses: Callable[..., tuple[jax.Array, Any]]
    examples: tuple[Any, ...]  # pytrees with the leading axis of the batch
    present: jax.Array  # bool [batch], False for padding
    labels: jax.Array  # int32 [batch]
    index: jax.Array  # int32 [batch], index of the training example
    class_weights: jax.Array  # float32 [classes]
    hyperparams: StepHyperparams
    meta_loss_of: Callable[[Any], jax.Array] | None = None  # w -> C(w) of a meta batch
    axis_name: str | None = None  # of `jax.pmap`, over which the batch is spread

    def losses_of(self, params: Any, *examples: Any) -> tuple[jax.Array, Any]:
        """Losses L_i(w) `[batch]`, and the network's statistics after the pass.

        Of the whole batch, unless other examples are given.
        """
        examples = examples or self.examples
        return self.per_example_losses(params, *examples, self.class_weights)


class WeightingResult(NamedTuple):
    """The result of a rule for one update: gradient, state and weights."""

    gradient: Any  # like the parameters
    state: Any  # of the rule, after the update
    losses: jax.Array  # float32 [batch], at w_t; at padding anything
    statistics: Any  # of the network after w_t's forward pass
    weights: jax.Array  # float32 [batch]: p_i of mean_i p_i ∇L_i; at padding anything
    objective: jax.Array  # float32 []: what the rule makes small, as it estimates it


class Rule(NamedTuple):
    """A way of weighting examples.

    Attributes:
      init: parameters, number of training examples, of classes -> state, a pytree.
      gradient: `WeightingInput` and state -> `WeightingResult`. Pure.
      before: the same before the rule is switched on, where that is another program;
        None where `gradient` serves, because it has an argument for that.
    """

    init: Callable[[Any, int, int], Any]
    gradient: Callable[[WeightingInput, Any], WeightingResult]
    before: Callable[[WeightingInput, Any], WeightingResult] | None = None


def stateless(params: Any, examples: int, classes: int) -> tuple[()]:
    """The state of a rule that has none."""
    return ()


def mean(values: jax.Array, present: jax.Array) -> jax.Array:
    """The mean over the examples that are present."""
    return jnp.sum(values, where=present) / jnp.sum(present)


# `WeightingInput`, state, losses [batch] -> weights p [batch], state after, objective.
Weigh = Callable[[WeightingInput, Any, jax.Array], tuple[jax.Array, Any, jax.Array]]


def by_losses(weigh: Weigh, init: Callable[..., Any] = stateless) -> Rule:
    """A rule whose weights follow from the losses; plain before it is switched on."""
    return Rule(init, functools.partial(weighted, weigh), before=plain)


def weighted(
    weigh: Weigh, weighting_input: WeightingInput, state: Any
) -> WeightingResult:
    """One forward and one backward pass: `mean_i p_i ∇L_i`, no gradient through p."""
    losses, pullback, statistics = jax.vjp(
        weighting_input.losses_of, weighting_input.params, has_aux=True
    )
    p, state, objective = weigh(weighting_input, state, losses)
    (gradient,) = pullback(cotangent(p, weighting_input.present))
    return WeightingResult(gradient, state, losses, statistics, p, objective)


def cotangent(weights: jax.Array, present: jax.Array) -> jax.Array:
    """The cotangent of the losses for `mean_i p_i ∇L_i`."""
    return jnp.where(present, weights, 0.0) / jnp.sum(present)


def plain(weighting_input: WeightingInput, state: Any) -> WeightingResult:
    """Plain training before a rule is switched on: equal weights, unchanged state."""

    def equally(_: WeightingInput, state: Any, losses: jax.Array) -> Any:
        return jnp.ones_like(losses), state, mean(losses, weighting_input.present)

    return weighted(equally, weighting_input, state)
