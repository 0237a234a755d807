"""The Optax transforms, with one state and one mathematics.

`attentional_aggregate` turns per-example gradients into one gradient.
`scale_by_attention` rescales the gradient of `tilted_loss`.
"""

import functools
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from absgd_jax import _attention, _check, _devices, _weights
from absgd_jax._devices import AxisName
from absgd_jax._gradient import TiltedValue, contract
from absgd_jax._radius import DEFAULT, KLRadius
from absgd_jax._schedules import ScalarOrSchedule
from absgd_jax._state import AttentionState
from absgd_jax._weights import Settings


def attentional_aggregate(
    lam: ScalarOrSchedule | KLRadius = DEFAULT,
    gamma: ScalarOrSchedule | None = None,
    *,
    init_s: ArrayLike | None = None,
    max_weight: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Aggregates per-example gradients, weighted by attention to their losses.

    With L_i the loss, v_i the sample weight and g_i the gradient of example i::

        s_{t+1} = (1 − γ) s_t + γ Σ v_i exp(L_i/λ) / Σ v_i
        p_i     = exp(L_i/λ) / s_{t+1}
        update  = Σ v_i p_i g_i / Σ v_i

    λ > 0 attends to large losses (few examples, hard groups), λ < 0 to small ones
    (noisy labels), λ = ±∞ is the mean gradient. It comes first in a chain.

    The gradients may come in two forms; the second is almost always the better:

    1. *dense*: the tree that `jax.vmap(jax.grad(...))` makes, each leaf of shape
       `losses.shape + parameter.shape`;
    2. *as a pullback*: the function that `jax.vjp` returns for `params -> losses`. The
       weights are its cotangent, so that a step costs one forward and one backward
       pass and the memory of plain SGD; and it is exact under BatchNorm, where `vmap`
       would normalise every example as a batch of its own.

    ======================  ==========================================================
    Edge                    What happens
    ======================  ==========================================================
    λ → 0+ (0−)             the example of largest (smallest) loss takes the step
    λ = ±∞                  mean gradient, exactly, unless `init_s` is given
    one example             p = 1 at the first step, and at all steps if γ = 1
    all masked              update of zeros; s stays as it was
    a loss is not finite,   s stays as it was; the update is NaN, for
    or a sample weight NaN  `optax.apply_if_finite` *around the rest of the chain*
    first step              weights average one; with `init_s=0.0` they are 1/γ times
                            larger, as in the earlier version of the paper
    ======================  ==========================================================

    Args:
      lam: `kl_radius`, after which λ follows by itself; or λ, nonzero scalar in units
        of loss, or a schedule of the step. The default is a radius of 0.4.
      gamma: γ, share of the newest batch in s, in (0, 1], or a schedule of the step.
        None is 0.1 with a radius and 0.5 with a λ.
      init_s: s_0. None leaves it out (as Adam's bias correction does), so that weights
        average about one from the first step on. The earlier version of the paper has
        0.0; the later one leaves s_0 open.
      max_weight: upper bound c on every p_i, at least 1. The bound acts on s too: an
        outlier counts in it as one of weight c, and training goes on after it. None
        is no bound, and 2 with `kl_radius`.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.
        Under `jax.jit` with sharded arrays none is needed.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` takes, by keyword,
      `losses` (floating, any shape `[*batch]`), `where` (bool `[*batch]`, False for
      padding, at which a pullback needs finite derivatives, as of a copy of an example)
      and `sample_weights` (`[*batch]`, not negative), and ignores others. The
      update has the shapes and dtypes of the parameters.

    Raises:
      ValueError: λ is 0 or NaN, γ outside (0, 1], `init_s` negative, `max_weight` below
        1; or shapes that do not fit, when `update` is traced.
      TypeError: `losses` are missing or not floating point, `where` is not boolean.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp, optax
      >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 6.0])
      >>> per_example_losses = lambda w: (w * x - y) ** 2
      >>> tx = optax.chain(
      ...     absgd_jax.attentional_aggregate(lam=5.0), optax.sgd(0.01))
      >>> w = jnp.array(1.0)
      >>> state = tx.init(w)
      >>> losses, pullback = jax.vjp(per_example_losses, w)
      >>> updates, state = tx.update(pullback, state, w, losses=losses)

      The third example, with a loss of 9 against 0 and 0 and a gradient of −18, takes
      75% of the weight:

      >>> p = absgd_jax.attentional_weights(losses, lam=5.0)
      >>> [round(float(p_i), 3) for p_i in p]
      [0.124, 0.124, 0.752]
      >>> bool(jnp.allclose(updates, -0.01 * p[2] * -18.0))
      True

      In a training step, `jax.vjp` and `update` belong in *one* compiled function (an
      uncompiled `vjp` makes a new function at every step, and a compiled `update`
      is compiled again for each). Auxiliary output makes a third result:

      >>> @jax.jit
      ... def train_step(w, state):
      ...     def loss_fn(w):
      ...         losses = per_example_losses(w)
      ...         return losses, {"mean loss": losses.mean()}
      ...     losses, pullback, aux = jax.vjp(loss_fn, w, has_aux=True)
      ...     updates, state = tx.update(pullback, state, w, losses=losses)
      ...     return optax.apply_updates(w, updates), state, aux
      >>> w, state, aux = train_step(w, state)
      >>> float(aux["mean loss"])
      3.0

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Algorithm 1 and Eq. (2).
    """
    settings = Settings(lam, gamma, init_s, max_weight, axis_name).checked()
    return _transformation(_aggregate, "attentional_aggregate", settings)


def scale_by_attention(
    lam: ScalarOrSchedule | KLRadius = DEFAULT,
    gamma: ScalarOrSchedule | None = None,
    *,
    init_s: ArrayLike | None = None,
    max_weight: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales the gradient of `tilted_loss` to ABSGD's direction.

    For training loops that own the gradient of a scalar: take value and gradient of
    `tilted_value_and_grad(loss_fn, opt_state)` and pass the value as `value`. (Optax's
    value-dependent transforms want a number of the same name: with them take the
    pullback with `losses=`, and `value=losses.mean()` for them.) Then ::

        Σ v_i p_i ∇L_i / Σ v_i  =  ∇T_λ(L) exp(T_λ(L)/λ) / s_{t+1}

    is the update of `attentional_aggregate`, without per-example gradients.

    `value` may also be that of `tilted_loss`, differentiated by hand. λ must then be
    the one that the state carries for this update, `attention_state(opt_state).lam`.
    (Under `optax.inject_hyperparams` a change of λ therefore arrives one step later
    than in `attentional_aggregate`.) With a fixed λ and no bound a number cannot be
    told from `losses.mean()`: given that and its gradient, this multiplies the plain
    gradient by noise. `absgd` and `abadam` take a `TiltedValue` only.

    A `value` that is not finite leaves the state as it was and the gradient unscaled:
    the gradient of `tilted_loss` is then NaN, or zero if every example was masked.

    With `axis_name` each device tilts its own part of the batch and the parts are
    rescaled here, after the backward pass. A device whose part is all padding has a
    `value` of NaN: if it is a number, give `total_weight`, which is 0 there; without it
    the update is NaN. Rescaling parts cannot be right where the network mixes examples
    of several devices: under a BatchNorm whose moments are averaged over the mapped
    axis use `tilted_value_and_grad(axis_name=)`, `tilted_loss(axis_name=)`, the
    pullback or `attention`.

    Args:
      lam: `kl_radius`, after which λ follows by itself; or λ, nonzero scalar in units
        of loss, or a schedule of the step. The default is a radius of 0.4.
      gamma: γ, share of the newest batch in s, in (0, 1], or a schedule of the step.
        None is 0.1 with a radius and 0.5 with a λ.
      init_s: s_0; see `attentional_aggregate`.
      max_weight: upper bound c on every p_i, at least 1; see `attentional_aggregate`.
        `value` must then be that of `tilted_value_and_grad(loss_fn, opt_state)`, which
        limits the losses, of the whole batch (`axis_name=` there, if it is spread), and
        `init_s` None. With `kl_radius` it is 2 if not given.
      axis_name: axis of `jax.pmap` or `jax.shard_map`, if `value` and gradients are
        those of this device's part of the batch. None if they are global already; a
        value of `tilted_value_and_grad(axis_name=)` is, and says so.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` takes, by keyword,
      `value` (a `TiltedValue`; or a scalar, T_λ of the batch, or of this device's part
      with `axis_name`) and `total_weight` (scalar, Σ v_i behind it; the default is that
      of a `TiltedValue`, and 1 for a number, for parts of equal size), and ignores
      others.

    Raises:
      ValueError: λ is 0 or NaN, γ outside (0, 1], `init_s` negative, `max_weight` below
        1 or together with `init_s`, `value` not a scalar, or per-example gradients.
      TypeError: a pullback instead of a gradient, no `value`, or one whose losses were
        not limited although there is a `max_weight`.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp, optax
      >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 9.0])
      >>> per_example_losses = lambda w: (w * x - y) ** 2
      >>> tx = optax.chain(
      ...     absgd_jax.scale_by_attention(absgd_jax.two_stage(10.0, 100)),
      ...     optax.sgd(0.01))
      >>> w = jnp.array(1.0)
      >>> state = tx.init(w)
      >>> value, grads = absgd_jax.tilted_value_and_grad(per_example_losses, state)(w)
      >>> updates, state = tx.update(grads, state, w, value=value)

      λ is still infinite, so this was the mean gradient:

      >>> mean_grad = jax.grad(lambda w: per_example_losses(w).mean())(w)
      >>> bool(jnp.allclose(updates, -0.01 * mean_grad))
      True

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Algorithm 1 and Eq. (2).
    """
    settings = Settings(lam, gamma, init_s, max_weight, axis_name).checked()
    _check.bound_of_values(settings.init_s, settings.max_weight)
    return _transformation(_rescale, "scale_by_attention", settings)


def attend(settings: Settings, name: str) -> optax.GradientTransformationExtraArgs:
    """`attentional_aggregate` with `losses`, `scale_by_attention` with `value`."""
    return _transformation(_aggregate_or_rescale, name, settings.checked())


def _transformation(
    update: Callable[..., tuple[Any, AttentionState]], name: str, settings: Settings
) -> optax.GradientTransformationExtraArgs:
    return optax.GradientTransformationExtraArgs(
        functools.partial(_weights.initial_state, settings),  # pyright: ignore[reportArgumentType]
        functools.partial(update, name, settings),  # pyright: ignore[reportArgumentType]
    )


def _aggregate_or_rescale(
    name: str,
    settings: Settings,
    /,
    updates: Any,
    state: AttentionState,
    params: Any = None,
    **extra_args: Any,
) -> tuple[Any, AttentionState]:
    """Chooses the form of `update` by its keyword arguments."""
    value = extra_args.get("value")
    if extra_args.get("losses") is None and value is not None:
        if not isinstance(value, TiltedValue):
            raise _check.plain_value(name, value)
        _check.bound_of_values(settings.init_s, settings.max_weight)
        _check.value_of_axes(name, value.axis_name, settings.axis_name)
        return _rescale(name, settings, updates, state, params, **extra_args)
    return _aggregate(name, settings, updates, state, params, **extra_args)


def _aggregate(
    name: str,
    settings: Settings,
    /,
    updates: Any,
    state: AttentionState,
    params: Any = None,
    *,
    losses: ArrayLike | None = None,
    where: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    **extra_args: Any,
) -> tuple[Any, AttentionState]:
    """Per-example gradients, dense or as a pullback, to one gradient."""
    _check.attention_state(f"{name}.update(updates, state)", state)
    _check.not_empty(name, updates, params)
    if losses is None:
        raise _check.missing_losses(name, extra_args.get("value"))
    _check.whole_params(name, params, settings.axis_name)
    batch = _weights.checked_batch(
        losses,
        where,
        sample_weights,
        reason=f"{name} needs one loss per example.",
        at_least=state.tilted_loss.dtype,
    )
    shares, new_state = _weights.step(settings, state, batch)

    L = batch.losses
    if _is_pullback(updates):
        direction = _pull_back(updates, shares, jnp.asarray(losses).dtype)
        _check.differentiable(name, direction)
    else:
        _check.whole_tree(name, updates)
        _check.differentiable(name, updates)
        _check.dense_gradients(name, updates, L, params)
        _check.local_gradients(updates, L, settings.axis_name)
        padded = where is not None or sample_weights is not None
        direction = contract(updates, shares, batch.weights != 0 if padded else None)
    return _devices.sum_gradients(direction, L, settings.axis_name), new_state


@functools.cache
def _functions() -> tuple[type, ...]:
    """Functions, compiled ones, and what `jax.vjp` returns, a class of its own.

    It is not called on import, which must not start JAX's backends.
    """
    _, pullback = jax.vjp(lambda x: x, np.float32(0.0))
    partials = functools.partial, jax.tree_util.Partial
    compiled = type(jax.jit(lambda x: x))
    return FunctionType, MethodType, *partials, compiled, type(pullback)


def _is_pullback(updates: Any) -> bool:
    """Whether these are a function of the weights rather than a tree of arrays.

    A tree of arrays may be callable too: an Equinox module holds its own gradients.
    """
    return isinstance(updates, _functions())


def _pull_back(
    pullback: Callable[[jax.Array], Any], cotangent: jax.Array, dtype: Any
) -> Any:
    """`Σ_i cotangent_i ∇L_i`, by one backward pass."""
    biggest = float(jnp.finfo(dtype).max)  # weights of 1/γ must survive float16
    outputs = pullback(jnp.minimum(cotangent, biggest).astype(dtype))
    if not (isinstance(outputs, tuple) and len(outputs) == 1):
        count = len(outputs) if isinstance(outputs, tuple) else type(outputs).__name__
        raise ValueError(
            "The pullback must be of a function of the parameters only, "
            f"`jax.vjp(lambda params: losses, params)`; it returned {count} "
            "cotangents instead of 1."
        )
    (direction,) = outputs
    _check.whole_tree("attentional_aggregate", direction)
    return direction


def _rescale(
    name: str,
    settings: Settings,
    /,
    updates: Any,
    state: AttentionState,
    params: Any = None,
    *,
    value: ArrayLike | TiltedValue | None = None,
    total_weight: ArrayLike | None = None,
    where: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    **extra_args: Any,
) -> tuple[Any, AttentionState]:
    """∇T of a batch, or of this device's part of it, to the direction of Eq. (2)."""
    _check.attention_state(f"{name}.update(updates, state)", state)
    _check.not_empty(name, updates, params)
    if value is None:
        raise _check.missing_value(name, extra_args.get("losses"))
    _check.weighted_before(name, where=where, sample_weights=sample_weights)
    tilted = value if isinstance(value, TiltedValue) else None
    if tilted is not None and tilted.axis_name is not None:
        # Over these axes value and gradient are those of the whole batch already.
        made = _devices.axis_names(tilted.axis_name)
        rest = _devices.axis_names(settings.axis_name) - made
        settings = settings._replace(axis_name=tuple(sorted(rest)) or None)
    _check.whole_params(name, params, settings.axis_name)
    limited = tilted is not None and tilted.max_weight is not None
    if settings.max_weight is not None and not limited:
        raise _check.unlimited_value(name)
    followed = tilted is not None and settings.axis_name is None
    if isinstance(settings.lam, KLRadius) and not followed:
        raise _check.unfollowed_value(name)
    if limited and settings.axis_name is not None:
        raise _check.value_of_part(name)
    if _is_pullback(updates):
        raise _check.function_with_value(name)
    _check.ordinary_gradients(name, updates, params)
    part = jnp.asarray(value if tilted is None else tilted.tilted_loss)
    _check.scalar("value", part)
    dtype = _attention.wider_dtype(part.dtype, state.tilted_loss.dtype)
    wide = lambda x: jnp.asarray(x).astype(dtype)
    if total_weight is None:
        of_part = None if settings.axis_name is None else tilted
        total_weight = 1.0 if of_part is None else of_part.total_weight
    V_d = wide(total_weight)
    _check.scalar("total_weight", V_d)
    lam, stale = wide(state.lam), jnp.bool_(False)
    if tilted is not None:  # the one that `value` was made with
        lam, stale = wide(tilted.lam), _check.value_of_state(name, tilted, state)
    _check.mapped(settings.axis_name)

    V_d = V_d[None]
    whole = _attention.tilt(wide(part)[None], lam, V_d, settings.axis_name)
    if tilted is not None:  # what a radius follows
        kl, high, low, unbounded = jax.tree.map(
            wide, (tilted.kl, tilted.high, tilted.low, tilted.unbounded)
        )
        whole = whole._replace(kl=kl, high=high, low=low, unbounded=unbounded)
    # A bound holds only with the γ for which the losses were limited.
    gamma = wide(state.bound.gamma) if limited and state.bound is not None else None
    after, scale, usable = _weights.next_state(settings, state, whole, lam, gamma)
    # A part without examples, or with a loss that is not finite: the sum over devices
    # of the others' gradients, unscaled, would pass for an update.
    otherwise = 1.0 if settings.axis_name is None else jnp.nan
    factor = jnp.where(usable, V_d * whole.r * scale, otherwise)[0]
    factor = jnp.where(stale, jnp.nan, factor)  # it is traced, and cannot be refused

    _check.local_gradients(updates, part, settings.axis_name)

    def rescale(g: jax.Array) -> jax.Array:
        widest = _attention.wider_dtype(g.dtype, dtype)
        scaled = (factor.astype(widest) * g.astype(widest)).astype(g.dtype)
        # Zeros where all is padding, also under a factor of NaN.
        return scaled if settings.axis_name is None else jnp.where(g == 0, g, scaled)

    rescaled = jax.tree.map(rescale, updates)
    return _devices.sum_gradients(rescaled, part, settings.axis_name), after
