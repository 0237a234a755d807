"""The two Optax transforms: the same state, the same mathematics, two places to stand.

`attentional_aggregate` turns per-example gradients into one gradient.
`scale_by_attention` rescales the gradient of `tilted_loss`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from absgd_jax import _attention, _check, _devices
from absgd_jax._check import ScalarOrSchedule
from absgd_jax._devices import AxisName
from absgd_jax._gradient import contract


class AttentionState(NamedTuple):
    """State of `attentional_aggregate` and `scale_by_attention`: four scalars.

    The floats are float32, or float64 for float64 parameters; they are set by `init`
    and keep their dtype.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    # int32 []: updates so far, the step of every schedule
    tilted_loss: jax.Array  # float32 []: F_t, running robust loss, in units of loss
    log_discount: jax.Array  # float32 []: log d_t, the share that s_0 still has in s_t
    lam: jax.Array  # float32 []: λ of the next update

    @property
    def discount(self) -> jax.Array:
        """d_t, shape `[]`: the share that s_0 still has in s_t."""
        return jnp.exp(self.log_discount)


def _at(value: ScalarOrSchedule, count: ArrayLike, dtype: Any) -> jax.Array:
    """The value of a scalar or schedule at a step."""
    return jnp.asarray(value(count) if callable(value) else value).astype(dtype)


def _increment(count: jax.Array) -> jax.Array:
    return jnp.asarray(optax.safe_increment(count))


def _init_fn(lam: ScalarOrSchedule) -> Callable[[Any], AttentionState]:
    """State before the first step."""

    def init_fn(params: Any) -> AttentionState:
        floats = [
            jnp.finfo(p.dtype).dtype
            for p in jax.tree.leaves(params)
            if hasattr(p, "dtype") and jnp.issubdtype(p.dtype, jnp.inexact)
        ]
        dtype = jnp.promote_types(jnp.float32, jnp.result_type(jnp.float32, *floats))
        count = jnp.zeros([], jnp.int32)
        first_lam = lam(count) if callable(lam) else lam
        _check.lam(first_lam)
        return AttentionState(
            count=count,
            tilted_loss=jnp.zeros([], dtype),
            log_discount=jnp.zeros([], dtype),
            lam=jnp.asarray(first_lam).astype(dtype),
        )

    return init_fn


class _Step(NamedTuple):
    """What one batch does to the state, and the factor on the gradient of T."""

    state: AttentionState
    scale: jax.Array  # exp(T/λ) / s_{t+1}, shape []


def _step(
    state: AttentionState,
    batch_tilt: jax.Array,
    lam: jax.Array,
    gamma: jax.Array,
    init_s: ArrayLike | None,
    next_lam: jax.Array,
) -> _Step:
    """Algorithm 1's normaliser, over whichever route the batch's T came."""
    dtype = batch_tilt.dtype
    tilted_loss, log_discount, scale = _attention.advance(
        state.tilted_loss.astype(dtype),
        state.log_discount.astype(dtype),
        batch_tilt,
        lam,
        gamma,
        None if init_s is None else jnp.asarray(init_s).astype(dtype),
    )
    # A batch without a finite loss teaches nothing: as if it had not been.
    usable = jnp.isfinite(batch_tilt)
    new_state = AttentionState(
        count=_increment(state.count),
        tilted_loss=jnp.where(
            usable, tilted_loss.astype(state.tilted_loss.dtype), state.tilted_loss
        ),
        log_discount=jnp.where(
            usable, log_discount.astype(state.log_discount.dtype), state.log_discount
        ),
        lam=next_lam.astype(state.lam.dtype),
    )
    return _Step(new_state, scale)


def attentional_aggregate(
    lam: ScalarOrSchedule,
    gamma: ScalarOrSchedule = 0.5,
    *,
    init_s: ArrayLike | None = 0.0,
    max_weight: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Aggregates per-example gradients, weighted by attention to their losses.

    With L_i the loss, v_i the base weight and g_i the gradient of example i::

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
       would normalise every example alone.

    ======================  ==========================================================
    Edge                    What happens
    ======================  ==========================================================
    λ → 0+ (0−)             the example of largest (smallest) loss takes the step
    λ = ±∞                  mean gradient; exactly so with `init_s=None`
    one example             p = 1 if γ = 1 or, with `init_s=None`, at the first step
    all masked              update of zeros; s stays as it was
    a loss is not finite    s stays as it was; the update is NaN, for
                            `optax.apply_if_finite` *around the rest of the chain*
    first step              with s_0 = 0 the update is 1/γ times larger, as printed
    ======================  ==========================================================

    Args:
      lam: λ, nonzero scalar in units of loss, or a schedule of the step.
      gamma: γ, share of the newest batch in s, in (0, 1], or a schedule of the step.
      init_s: s_0. The paper's is 0; None leaves s_0 out (as Adam's bias correction
        does), so that weights average about one from the first step on.
      max_weight: upper bound c on every p_i. The bound acts on s too: an absurd loss
        counts in it as one of weight c, and training goes on after it.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.
        Under `jax.jit` with sharded arrays none is needed.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` takes, by keyword,
      `losses` (floating, any shape `[*batch]`), `where` (bool `[*batch]`, False for
      padding) and `sample_weights` (`[*batch]`, not negative), and ignores others. The
      update has the shapes and dtypes of the parameters.

    Raises:
      ValueError: λ is 0 or NaN, γ outside (0, 1], `init_s` negative, `max_weight` not
        positive; or shapes that do not fit, when `update` is traced.
      TypeError: `losses` are not floating point or `where` is not boolean.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp, optax
      >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 9.0])
      >>> per_example_losses = lambda w: (w * x - y) ** 2
      >>> tx = optax.chain(
      ...     absgd_jax.attentional_aggregate(lam=10.0, init_s=None), optax.sgd(0.01))
      >>> w = jnp.array(1.0)
      >>> state = tx.init(w)
      >>> losses, pullback = jax.vjp(per_example_losses, w)
      >>> updates, state = tx.update(pullback, state, w, losses=losses)

      The third example, with a loss of 36 against 0 and 0, takes 95% of the weight:

      >>> p = absgd_jax.attentional_weights(losses, lam=10.0)
      >>> [round(float(p_i), 3) for p_i in p]
      [0.026, 0.026, 0.948]
      >>> bool(jnp.allclose(updates, 0.01 * p[2] * 36.0))
      True

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Algorithm 1 and Eq. (2).
    """
    _check.lam(lam)
    _check.gamma(gamma)
    _check.init_s(init_s)
    _check.max_weight(max_weight)

    def update_fn(
        updates: Any,
        state: AttentionState,
        params: Any = None,
        *,
        losses: ArrayLike,
        where: ArrayLike | None = None,
        sample_weights: ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[Any, AttentionState]:
        del extra_args
        given = _check.losses(
            losses, scalar="attentional_aggregate needs one loss per example."
        )
        dtype = jnp.promote_types(given.dtype, state.tilted_loss.dtype)
        v = _check.example_weights(given, where, sample_weights, dtype)
        seen = given.astype(dtype)
        lam_t, gamma_t = _at(lam, state.count, dtype), _at(gamma, state.count, dtype)
        next_lam = _at(lam, _increment(state.count), dtype)

        bound = jnp.asarray(jnp.inf if max_weight is None else max_weight).astype(dtype)
        if max_weight is not None:
            seen = _attention.bound_losses(
                seen,
                lam_t,
                v,
                state.tilted_loss.astype(dtype),
                state.log_discount.astype(dtype),
                gamma_t,
                bound,
                axis_name,
            )
        T, r, V = _attention.tilt(seen, lam_t, v, axis_name)
        step = _step(state, T, lam_t, gamma_t, init_s, next_lam)
        cotangent = jnp.where(v > 0, v * jnp.minimum(r * step.scale, bound / V), 0.0)

        if _check.is_pullback(updates, params):
            direction = _pull_back(updates, cotangent, given.dtype)
        else:
            _check.whole_tree("attentional_aggregate", updates)
            _check.dense_gradients(updates, given, params)
            _check.local_gradients(updates, given, axis_name)
            padded = where is not None or sample_weights is not None
            direction = contract(updates, cotangent, v > 0 if padded else None)
        return _devices.sum_gradients(direction, given, axis_name), step.state

    return optax.GradientTransformationExtraArgs(_init_fn(lam), update_fn)  # pyright: ignore[reportArgumentType]


def _pull_back(
    pullback: Callable[[jax.Array], Any], cotangent: jax.Array, dtype: Any
) -> Any:
    """`Σ_i cotangent_i ∇L_i`, by one backward pass."""
    biggest = jnp.finfo(dtype).max  # weights of 1/γ must survive float16
    outputs = pullback(jnp.minimum(cotangent, biggest).astype(dtype))
    if not (isinstance(outputs, tuple) and len(outputs) == 1):
        count = len(outputs) if isinstance(outputs, tuple) else type(outputs).__name__
        raise ValueError(
            "The pullback must be of a function of the parameters alone, "
            f"`jax.vjp(lambda params: losses, params)`; it returned {count} "
            "cotangents instead of 1."
        )
    (direction,) = outputs
    _check.whole_tree("attentional_aggregate", direction)
    return direction


def scale_by_attention(
    lam: ScalarOrSchedule,
    gamma: ScalarOrSchedule = 0.5,
    *,
    init_s: ArrayLike | None = 0.0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales the gradient of `tilted_loss` to ABSGD's direction.

    For training loops that already take the gradient of a scalar: replace
    `losses.mean()` by `tilted_loss(losses, lam)` and pass its value as `value`, as
    Optax's value-dependent transforms take it. Then ::

        Σ v_i p_i ∇L_i / Σ v_i  =  ∇T_λ(L) exp(T_λ(L)/λ) / s_{t+1}

    is the update of `attentional_aggregate`, without per-example gradients.

    λ must be the same in both places. The state carries the λ of the next update and
    the transform uses that one, so a schedule is followed by reading it before the
    step: `lam = attention_state(opt_state).lam`. (Under `optax.inject_hyperparams` a
    change of λ therefore arrives one step later than in `attentional_aggregate`.)

    A `value` that is not finite leaves the state as it was and the gradient unscaled:
    the gradient of `tilted_loss` is then NaN, or zero if every example was masked.

    Args:
      lam: λ, nonzero scalar in units of loss, or a schedule of the step.
      gamma: γ, share of the newest batch in s, in (0, 1], or a schedule of the step.
      init_s: s_0; see `attentional_aggregate`.
      axis_name: axis of `jax.pmap` or `jax.shard_map`, if `value` and gradients are
        those of this device's part of the batch. None if they are global already.

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` takes, by keyword,
      `value` (scalar, T_λ of the batch, or of this device's part with `axis_name`) and
      `total_weight` (scalar, Σ v_i behind it; default 1, for parts of equal size), and
      ignores others.

    Raises:
      ValueError: λ is 0 or NaN, γ outside (0, 1], `init_s` negative, `value` not a
        scalar, or per-example gradients.
      TypeError: a pullback in place of a gradient.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp, optax
      >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 9.0])
      >>> per_example_losses = lambda w: (w * x - y) ** 2
      >>> tx = optax.chain(
      ...     absgd_jax.scale_by_attention(absgd_jax.two_stage(10.0, 100)),
      ...     optax.sgd(0.01))
      >>> w = jnp.array(1.0)
      >>> state = tx.init(w)
      >>> lam = absgd_jax.attention_state(state).lam
      >>> value, grads = jax.value_and_grad(
      ...     lambda w: absgd_jax.tilted_loss(per_example_losses(w), lam))(w)
      >>> updates, state = tx.update(grads, state, w, value=value)

      λ is still infinite, so this was the mean gradient, and 1/γ = 2 times that since
      s_0 = 0:

      >>> mean_grad = jax.grad(lambda w: per_example_losses(w).mean())(w)
      >>> bool(jnp.allclose(updates, -0.01 * 2.0 * mean_grad))
      True

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Algorithm 1 and Eq. (2).
    """
    _check.lam(lam)
    _check.gamma(gamma)
    _check.init_s(init_s)

    def update_fn(
        updates: Any,
        state: AttentionState,
        params: Any = None,
        *,
        value: ArrayLike,
        total_weight: ArrayLike = 1.0,
        **extra_args: Any,
    ) -> tuple[Any, AttentionState]:
        del extra_args
        _check.ordinary_gradients(updates, params)
        part = _check.scalar("value", value)
        dtype = jnp.promote_types(part.dtype, state.tilted_loss.dtype)
        part_tilt = part.astype(dtype)[None]
        V_d = _check.scalar("total_weight", total_weight).astype(dtype)[None]
        lam_t = state.lam.astype(dtype)  # the one that `value` was made with
        next_lam = _at(lam, _increment(state.count), dtype)

        T, r, _ = _attention.tilt(part_tilt, lam_t, V_d, axis_name)
        gamma_t = _at(gamma, state.count, dtype)
        step = _step(state, T, lam_t, gamma_t, init_s, next_lam)
        factor = jnp.where(jnp.isfinite(T), V_d * r * step.scale, 1.0)[0]

        _check.local_gradients(updates, part, axis_name)

        def rescale(g: jax.Array) -> jax.Array:
            wide = jnp.promote_types(g.dtype, dtype)
            return (factor.astype(wide) * g.astype(wide)).astype(g.dtype)

        rescaled = jax.tree.map(rescale, updates)
        return _devices.sum_gradients(rescaled, part, axis_name), step.state

    return optax.GradientTransformationExtraArgs(_init_fn(lam), update_fn)  # pyright: ignore[reportArgumentType]


def attention_state(opt_state: Any) -> AttentionState:
    """Finds the `AttentionState` in a whole optimizer state.

    `.lam` is the λ of the next update, `.tilted_loss` the running estimate of the
    robust objective, in units of loss.

    Args:
      opt_state: state of an optimizer, however deeply chained or wrapped.

    Returns:
      The one `AttentionState` in it.

    Raises:
      ValueError: there is none, or more than one.

    Examples:
      >>> import absgd_jax, jax.numpy as jnp
      >>> tx = absgd_jax.absgd(0.1, lam=2.0)
      >>> float(absgd_jax.attention_state(tx.init(jnp.zeros(3))).lam)
      2.0
    """

    def is_state(node: Any) -> bool:
        return isinstance(node, AttentionState)

    leaves = jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_state)
    found = [(path, leaf) for path, leaf in leaves if is_state(leaf)]
    if len(found) != 1:
        places = ", ".join(
            jax.tree_util.keystr(path) or "the root" for path, _ in found
        )
        raise ValueError(
            f"Expected one AttentionState in the optimizer state, found {len(found)}"
            + (f": {places}." if found else ".")
        )
    return AttentionState(*map(jnp.asarray, found[0][1]))


def normalizer(opt_state: Any, init_s: ArrayLike | None = 0.0) -> jax.Array:
    """Algorithm 1's s_t, from a whole optimizer state.

    `s_t = d_t s_0 + (1 − d_t) exp(F_t/λ)`. It is kept as F_t because s_t itself may
    exceed every float; then this is inf (or 0), and training is none the worse for it.

    Args:
      opt_state: state of an optimizer, however deeply chained or wrapped.
      init_s: s_0, as given to the transform.

    Returns:
      s_t, shape `[]`.

    Raises:
      ValueError: there is no `AttentionState` in it, or more than one.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp
      >>> tx = absgd_jax.absgd(0.1, lam=1.0, gamma=0.5)
      >>> state = tx.init(jnp.zeros(()))
      >>> losses, grads = jnp.log(jnp.array([1.0, 3.0])), jnp.ones(2)
      >>> _, state = tx.update(grads, state, jnp.zeros(()), losses=losses)

      One half of s_0 = 0 and one half of the batch's mean, (1 + 3) / 2:

      >>> round(float(absgd_jax.normalizer(state)), 6)
      1.0
    """
    _check.init_s(init_s)
    state = attention_state(opt_state)
    seen = jnp.exp(state.tilted_loss / state.lam)
    if init_s is None:
        return seen
    # No batch yet: F_0 means nothing and s is s_0.
    seen = jnp.where(state.log_discount < 0, -jnp.expm1(state.log_discount) * seen, 0.0)
    return state.discount * jnp.asarray(init_s).astype(seen.dtype) + seen
