"""The state of attention, and how to find it in an optimizer state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from absgd_jax import _check


class WeightBound(NamedTuple):
    """The bound on the weights of the next batch, in `AttentionState.bound`.

    Examples:
      >>> import absgd_jax
      >>> bound = absgd_jax.attention(lam=2.0, max_weight=4.0).init().bound
      >>> isinstance(bound, absgd_jax.WeightBound), float(bound.max_weight)
      (True, 4.0)
    """

    max_weight: jax.Array  #: float32 []: c, the largest weight
    gamma: jax.Array  #: float32 []: γ of the next update
    #: float32 []: F_t of the weights without bound, which a radius follows; else None
    unbounded: jax.Array | None = None


class AttentionState(NamedTuple):
    """State of `attention`, `attentional_aggregate` and `scale_by_attention`.

    The floats are float32, or float64 for float64 parameters; they are set by `init`
    and keep their dtype. Every leaf has a buffer of its own, so that the state can be
    donated to a compiled step.

    Examples:
      >>> import absgd_jax, jax.numpy as jnp
      >>> attention = absgd_jax.attention(lam=2.0, gamma=0.5)
      >>> _, state = attention.weigh(jnp.array([1.0, 1.0]), attention.init())
      >>> int(state.count), float(state.tilted_loss), float(state.lam)
      (1, 1.0, 2.0)

      Half of s_0 is left in s after one step with γ = 0.5:

      >>> float(state.discount)
      0.5
    """

    #: int32 []: updates so far, the step of every schedule
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    tilted_loss: jax.Array  #: float32 []: F_t, running robust loss, in units of loss
    log_discount: jax.Array  #: float32 []: log d_t, the share that s_0 still has in s_t
    lam: jax.Array  #: float32 []: λ of the next update
    bound: WeightBound | None = None  #: without `max_weight` it holds no arrays

    @property
    def discount(self) -> jax.Array:
        """The share d_t that s_0 still has in s_t, shape `[]`."""
        return jnp.exp(self.log_discount)


def attention_state(opt_state: Any) -> AttentionState:
    """Finds the `AttentionState` in a whole optimizer state.

    `.lam` is the λ of the next update, `.tilted_loss` the running estimate of the
    robust objective, in units of loss.

    Args:
      opt_state: state of an optimizer, however deeply chained or wrapped, or its
        shapes, of `jax.eval_shape`; an `AttentionState` is its own.

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
        paths = ", ".join(jax.tree_util.keystr(path) or "the root" for path, _ in found)
        raise ValueError(
            f"Expected one AttentionState in the optimizer state, found {len(found)}"
            + (
                f": {paths}. Attend once, at the head of an optax.chain, and give "
                "parameters different optimizers after it (optax.partition)."
                if found
                else f" in {type(opt_state).__name__}. It is what `init` and `update` "
                "return. A checkpoint that was restored without a target has "
                "dictionaries in its place: restore it into tx.init(params)."
            )
        )
    ((_, state),) = found
    # Frameworks wrap arrays in variables of their own.
    is_array = lambda x: not isinstance(x, AttentionState | WeightBound | None)
    as_array = lambda x: x if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x)
    return jax.tree.map(as_array, state, is_leaf=is_array)


def normalizer(
    opt_state: Any, *, init_s: ArrayLike | None = None, lam: ArrayLike | None = None
) -> jax.Array:
    """Algorithm 1's s_t, from a whole optimizer state.

    `s_t = d_t s_0 + (1 − d_t) exp(F_t/λ)`. It is kept as F_t because s_t itself may
    exceed every float; then this is inf (or 0), which does not affect training.

    Args:
      opt_state: state of an optimizer, however deeply chained or wrapped.
      init_s: s_0, as given to the transform; None is `exp(F_t/λ)`.
      lam: λ of the update that made s_t, nonzero; None is that of the next one, which
        is the same where λ is fixed. Where it moves, read `attention_state(opt_state)
        .lam` before the update.

    Returns:
      s_t, shape `[]`.

    Raises:
      ValueError: there is no `AttentionState` in it, or more than one.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp
      >>> tx = absgd_jax.absgd(0.1, lam=1.0, gamma=0.5, init_s=0.0)
      >>> state = tx.init(jnp.zeros(()))
      >>> losses, grads = jnp.log(jnp.array([1.0, 3.0])), jnp.ones(2)
      >>> _, state = tx.update(grads, state, jnp.zeros(()), losses=losses)

      One half of s_0 = 0 and one half of the batch's mean, (1 + 3) / 2:

      >>> round(float(absgd_jax.normalizer(state, init_s=0.0)), 6)
      1.0

      And without s_0 that mean itself:

      >>> round(float(absgd_jax.normalizer(state)), 6)
      2.0
    """
    _check.init_s(init_s)
    state = attention_state(opt_state)
    if lam is None:
        lam = state.lam
    _check.number_lam("normalizer", lam)
    seen = jnp.exp(state.tilted_loss / jnp.asarray(lam).astype(state.lam.dtype))
    if init_s is None:
        return seen
    # Before the first batch F_0 has no meaning, and no share.
    seen = -jnp.expm1(state.log_discount) * seen
    return state.discount * jnp.asarray(init_s).astype(seen.dtype) + seen
