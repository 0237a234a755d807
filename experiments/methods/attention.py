"""SGD and ABSGD, Adam and ABAdam: one program, plain training being λ = ∞.

Plain training is the case λ = ∞ without s_0: weights are one. So one compiled program
serves all λ, and up to the switch all methods train alike.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import absgd_jax
from experiments import configs
from experiments.methods.moments import StepHyperparams, moment
from experiments.methods.rule import Rule, WeightingInput, WeightingResult


def rule(run: configs.Run) -> Rule:
    """Attention, on the route that the run takes."""
    by_pullback = run.method.route == "pullback"

    def init(params: Any, examples: int, classes: int) -> absgd_jax.AttentionState:
        return attention(run, moment(run, 1, 0)).init()  # the same for any moment

    def gradient(
        problem: WeightingInput, state: absgd_jax.AttentionState
    ) -> WeightingResult:
        state = begin(run, problem.moment, state)
        found = (_pullback if by_pullback else _value)(run, problem, state)
        direction, weights, state, losses, statistics = found
        p = weights * _share_present(problem)
        return WeightingResult(
            direction, state, losses, statistics, p, state.tilted_loss
        )

    return Rule(init, gradient)


def _pullback(run: configs.Run, problem: WeightingInput, state: Any) -> tuple[Any, ...]:
    """One backward pass: the weights are its cotangent."""
    losses, pullback, statistics = jax.vjp(
        problem.losses_of, problem.params, has_aux=True
    )
    weights, after = _weigh(run, problem, state, losses)
    (direction,) = pullback(weights / weights.size)  # ∇ of the weighted losses' mean
    if problem.axis_name is not None:
        direction = jax.lax.pmean(direction, problem.axis_name)
    return direction, weights, after, losses, statistics


def _value(run: configs.Run, problem: WeightingInput, state: Any) -> tuple[Any, ...]:
    """The gradient of the tilted loss, of the batch or one by one."""

    def per_example_losses(params: Any, *examples: Any) -> Any:
        losses, statistics = problem.per_example_losses(params, *examples)
        return losses, (losses, statistics)

    moment, method = problem.moment, run.method
    (value, (losses, statistics)), direction = absgd_jax.tilted_value_and_grad(
        per_example_losses,
        state,
        has_aux=True,
        microbatch_size=method.microbatch_size,
        dense=method.route == "dense",
        axis_name=problem.axis_name,
    )(problem.params, *problem.examples, where=problem.present)
    direction, _ = absgd_jax.scale_by_attention(**_settings(run, moment)).update(
        direction, state, problem.params, value=value
    )
    # The state comes with the weights; by the gradient it differs in rounding at most.
    weights, after = _weigh(run, problem, state, losses)
    direction = optax.tree.scale(moment.scale, direction)
    return direction, weights, after, losses, statistics


def _weigh(
    run: configs.Run, problem: WeightingInput, state: Any, losses: jax.Array
) -> tuple[jax.Array, Any]:
    """Weights of the whole batch's mean, padding and all devices included; the state.

    Those of the library, over `alpha`, plus one for each example that is there where
    the method is uniform.
    """
    moment, present = problem.moment, problem.present
    weights, after = attention(run, moment, problem.axis_name).weigh(
        losses, state, where=present
    )
    added = moment.uniform * present / _share_present(problem)
    return weights * moment.scale + added, after


def _share_present(problem: WeightingInput) -> jax.Array:
    """Of the places of the whole batch, the share that is no padding."""
    share = jnp.sum(problem.present) / problem.present.size
    if problem.axis_name is None:
        return share
    return jax.lax.pmean(share, problem.axis_name)


def attention(
    run: configs.Run, moment: StepHyperparams, axis_name: str | None = None
) -> absgd_jax.Attention:
    """The library's weights for an update.

    Args:
      run: method.
      moment: what is set for this update; may be traced.
      axis_name: axis of `jax.pmap` that the batch is spread over.

    Returns:
      What makes a state, and weights from losses.
    """
    return absgd_jax.attention(**_settings(run, moment), axis_name=axis_name)


def _settings(run: configs.Run, moment: StepHyperparams) -> dict[str, Any]:
    """The arguments of the library, on every route."""
    method = run.method
    has_init_s = method.init_s is not None and method.attends
    return {
        "lam": moment.lam if method.rho is None else _radius(method),
        "gamma": moment.gamma,
        "init_s": moment.init_s if has_init_s else None,
        "max_weight": method.max_weight,
    }


def _radius(method: configs.Method) -> Any:
    assert method.rho is not None
    return absgd_jax.kl_radius(method.rho, -1 if method.lam < 0 else 1)


def begin(
    run: configs.Run, moment: StepHyperparams, state: absgd_jax.AttentionState
) -> absgd_jax.AttentionState:
    """The state as the update is to find it: of its λ, γ and bound, not those before.

    Args:
      run: method.
      moment: what is set for this update.
      state: of attention.

    Returns:
      The state. A λ that follows a radius is carried on. A restart gives s_0 its whole
      share in s again, d = 1, and then what F was no longer counts.
    """
    fresh = attention(run, moment).init()
    if run.method.rho is not None:  # λ is ±∞ until the method is switched on
        return state._replace(lam=jnp.where(moment.on, state.lam, fresh.lam))
    return fresh._replace(
        count=state.count,
        tilted_loss=state.tilted_loss,
        log_discount=jnp.where(moment.restart, 0.0, state.log_discount),
    )
