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
from experiments.methods.hyperparams import StepHyperparams, step_hyperparams
from experiments.methods.weighting import Rule, WeightingInput, WeightingResult


def rule(run: configs.Run) -> Rule:
    """The rule of attention, on the run's route."""
    by_pullback = run.method.route == "pullback"

    def init(params: Any, examples: int, classes: int) -> absgd_jax.AttentionState:
        # Those of any run: `begin` sets what depends on them.
        hyperparams = step_hyperparams(configs.Run(), 1, 0)
        return attention(run, hyperparams).init()

    def gradient(
        weighting_input: WeightingInput, state: absgd_jax.AttentionState
    ) -> WeightingResult:
        state = begin(run, weighting_input.hyperparams, state)
        result = (_pullback if by_pullback else _value)(run, weighting_input, state)
        direction, weights, state, losses, statistics = result
        p = weights * _share_present(weighting_input)
        return WeightingResult(
            direction, state, losses, statistics, p, state.tilted_loss
        )

    return Rule(init, gradient)


def _pullback(
    run: configs.Run, weighting_input: WeightingInput, state: Any
) -> tuple[Any, ...]:
    """Result by one backward pass, whose cotangent is the weights."""
    losses_of = weighting_input.losses_of
    if run.loss.class_weights_in == "base":  # and not in the losses
        ones = jnp.ones_like(weighting_input.class_weights)
        losses_of = weighting_input._replace(class_weights=ones).losses_of
    losses, pullback, statistics = jax.vjp(
        losses_of, weighting_input.params, has_aux=True
    )
    weights, after = _weigh(run, weighting_input, state, losses)
    (direction,) = pullback(weights / weights.size)  # ∇ of the weighted losses' mean
    if weighting_input.axis_name is not None:
        direction = jax.lax.pmean(direction, weighting_input.axis_name)
    return direction, weights, after, losses, statistics


def _value(
    run: configs.Run, weighting_input: WeightingInput, state: Any
) -> tuple[Any, ...]:
    """Result by the gradient of the tilted loss, of the batch or per example."""

    def per_example_losses(params: Any, *examples: Any) -> Any:
        losses, statistics = weighting_input.losses_of(params, *examples)
        return losses, (losses, statistics)

    hyperparams, method = weighting_input.hyperparams, run.method
    (value, (losses, statistics)), direction = absgd_jax.tilted_value_and_grad(
        per_example_losses,
        state,
        has_aux=True,
        microbatch_size=method.microbatch_size,
        dense=method.route == "dense",
        axis_name=weighting_input.axis_name,
    )(weighting_input.params, *weighting_input.examples, where=weighting_input.present)
    direction, _ = absgd_jax.scale_by_attention(**_settings(run, hyperparams)).update(
        direction, state, weighting_input.params, value=value
    )
    # This route's gradient needs no p; here it is for the metrics alone. The state is
    # that of `weigh`; that of `update` differs in rounding at most.
    weights, after = _weigh(run, weighting_input, state, losses)
    direction = optax.tree.scale(hyperparams.scale, direction)
    return direction, weights, after, losses, statistics


def _weigh(
    run: configs.Run, weighting_input: WeightingInput, state: Any, losses: jax.Array
) -> tuple[jax.Array, Any]:
    """Weights for the mean over the padded batch of all devices; and the state.

    They are those of the library over `alpha`, plus one for each example that is
    present if the method is `uniform`.
    """
    hyperparams, present = weighting_input.hyperparams, weighting_input.present
    base = None
    if run.loss.class_weights_in == "base":
        base = weighting_input.class_weights[weighting_input.labels]
    weights, after = attention(run, hyperparams, weighting_input.axis_name).weigh(
        losses, state, where=present, sample_weights=base
    )
    added = hyperparams.uniform * present / _share_present(weighting_input)
    return weights * hyperparams.scale + added, after


def _share_present(weighting_input: WeightingInput) -> jax.Array:
    """The fraction of the whole batch's rows that are not padding."""
    share = jnp.sum(weighting_input.present) / weighting_input.present.size
    if weighting_input.axis_name is None:
        return share
    return jax.lax.pmean(share, weighting_input.axis_name)


def attention(
    run: configs.Run, hyperparams: StepHyperparams, axis_name: str | None = None
) -> absgd_jax.Attention:
    """The library's weights for an update, whose hyperparameters may be traced."""
    return absgd_jax.attention(**_settings(run, hyperparams), axis_name=axis_name)


def _settings(run: configs.Run, hyperparams: StepHyperparams) -> dict[str, Any]:
    """The arguments of the library's functions, the same on every route."""
    method = run.method
    has_init_s = method.init_s is not None and method.attends
    lam = hyperparams.lam
    if method.rho is not None:
        lam = absgd_jax.kl_radius(method.rho, -1 if method.lam < 0 else 1)
    return {
        "lam": lam,
        "gamma": hyperparams.gamma,
        "init_s": hyperparams.init_s if has_init_s else None,
        "max_weight": method.max_weight,
    }


def begin(
    run: configs.Run, hyperparams: StepHyperparams, state: absgd_jax.AttentionState
) -> absgd_jax.AttentionState:
    """Sets λ, γ and the bound of this update in the state.

    A λ that follows a radius is carried on. A restart resets the discount to d = 1, so
    that s starts from s_0 and the former F no longer counts; also where a run of fewer
    epochs, resumed, is past its switch before it has a λ.
    """
    fresh = attention(run, hyperparams).init()
    if run.method.rho is not None:  # λ is ±∞ until the method is switched on
        return state._replace(lam=jnp.where(hyperparams.on, state.lam, fresh.lam))
    restart = hyperparams.restart
    if run.method.init_s is not None:
        restart |= jnp.isinf(state.lam) & jnp.isfinite(fresh.lam)
    return fresh._replace(
        count=state.count,
        tilted_loss=state.tilted_loss,
        log_discount=jnp.where(restart, 0.0, state.log_discount),
    )
