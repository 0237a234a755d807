"""SGD and ABSGD, Adam and ABAdam: one program, plain training being λ = ∞.

Plain training is the case λ = ∞ without s_0, to the last bit: weights are one. So one
compiled program serves all λ, and up to the switch all methods train alike.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import absgd_jax
from experiments import configs
from experiments.methods.moments import Moment, moment
from experiments.methods.rule import Found, Problem, Rule


def rule(run: configs.Run) -> Rule:
    """Attention, on the route that the run takes."""
    by_pullback = run.method.route == "pullback"

    def init(params: Any, examples: int, classes: int) -> absgd_jax.AttentionState:
        return transform(run, moment(run, 1, 0)).init(params)  # the same for any moment

    def gradient(problem: Problem, state: absgd_jax.AttentionState) -> Found:
        state = begin(state, problem.moment)
        found = (_pullback if by_pullback else _value)(run, problem, state)
        direction, state, losses, statistics = found
        p = weights(run, problem.moment, state, losses)
        return Found(direction, state, losses, statistics, p, state.tilted_loss)

    return Rule(init, gradient)


def _pullback(run: configs.Run, problem: Problem, state: Any) -> tuple[Any, ...]:
    """One backward pass: the weights are its cotangent."""
    moment, present = problem.moment, problem.present
    losses, pullback, statistics = jax.vjp(
        problem.losses_of, problem.params, has_aux=True
    )
    total = jnp.sum(present)
    if problem.axis_name is not None:
        total = jax.lax.psum(total, problem.axis_name)
    added = moment.uniform / total * present
    direction, state = transform(run, moment, problem.axis_name).update(
        # What is done to the weights is done to the cotangent.
        lambda cotangent: pullback(cotangent * moment.scale + added),
        state,
        problem.params,
        losses=losses,
        where=present,
    )
    return direction, state, losses, statistics


def _value(run: configs.Run, problem: Problem, state: Any) -> tuple[Any, ...]:
    """The gradient of the tilted loss, of the batch or one by one."""

    def per_example_losses(params: Any, *examples: Any) -> Any:
        losses, statistics = problem.per_example_losses(params, *examples)
        return losses, (losses, statistics)

    moment, method = problem.moment, run.method
    (value, (losses, statistics)), direction = absgd_jax.tilted_value_and_grad(
        per_example_losses,
        moment.lam,
        has_aux=True,
        microbatch_size=method.microbatch_size,
        dense=method.route == "dense",
        axis_name=problem.axis_name,
    )(problem.params, *problem.examples, where=problem.present)
    direction, state = transform(run, moment).update(
        direction, state, problem.params, value=value
    )
    return optax.tree.scale(moment.scale, direction), state, losses, statistics


def transform(
    run: configs.Run, moment: Moment, axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """The library's transformation for an update.

    Args:
      run: method.
      moment: what is set for this update; may be traced.
      axis_name: axis of `jax.pmap` that the batch is spread over.

    Returns:
      Attention, which makes one gradient.
    """
    method = run.method
    init_s = None if method.init_s is None or not method.attends else moment.init_s
    if method.route != "pullback":  # whose gradients are global
        return absgd_jax.scale_by_attention(moment.lam, moment.gamma, init_s=init_s)
    bound = {} if method.max_weight is None else {"max_weight": method.max_weight}
    return absgd_jax.attentional_aggregate(
        moment.lam, moment.gamma, init_s=init_s, axis_name=axis_name, **bound
    )


def begin(state: absgd_jax.AttentionState, moment: Moment) -> absgd_jax.AttentionState:
    """The state as the update is to find it: with its λ, and s anew at a restart.

    Args:
      state: of attention.
      moment: what is set for this update.

    Returns:
      The state. A restart gives s_0 its whole share in s again, d = 1, and then what F
      was no longer counts.
    """
    return state._replace(
        lam=jnp.asarray(moment.lam, state.lam.dtype),
        log_discount=jnp.where(moment.restart, 0.0, state.log_discount),
    )


def weights(
    run: configs.Run,
    moment: Moment,
    state: absgd_jax.AttentionState,
    losses: jax.Array,
) -> jax.Array:
    """The weight p that an update gave each example, Eq. (2).

    Args:
      run: method.
      moment: what was set for it.
      state: of attention, after it.
      losses: float32 `[batch]`.

    Returns:
      float32 `[batch]`: p = exp((L − F)/λ) exp(F/λ)/s, over `alpha`, plus one where the
      method is uniform.
    """
    p = jnp.exp((losses - state.tilted_loss) / moment.lam)
    if run.method.init_s is not None and run.method.attends:
        share = jnp.exp(state.log_discount)
        reference = jnp.exp(-state.tilted_loss / moment.lam)
        p = p / ((1.0 - share) + share * moment.init_s * reference)
    if run.method.max_weight is not None:
        p = jnp.minimum(p, run.method.max_weight)
    return p * moment.scale + moment.uniform
