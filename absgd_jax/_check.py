"""Refusals: every check that quotes a value and the rule it breaks.

Python and NumPy values are checked when a transform is built, shapes and dtypes when
it is traced. A traced value has no value yet and passes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from absgd_jax._devices import AxisName, already_summed

ScalarOrSchedule = ArrayLike | Callable[[Any], Any]


def _concrete(name: str, value: Any) -> float | None:
    """The scalar as a float, or None where it is a schedule or traced."""
    if callable(value) or isinstance(value, Tracer):
        return None
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar or a schedule, got shape {jnp.shape(value)}."
        )
    return float(value)


def lam(value: ScalarOrSchedule) -> None:
    """λ: a nonzero number, ±inf included."""
    number = _concrete("lam", value)
    if number is not None and not abs(number) >= np.finfo(np.float32).tiny:
        raise ValueError(
            f"lam must be nonzero (at least 1.2e-38 in size; ±inf is plain SGD), "
            f"got {number}."
        )


def gamma(value: ScalarOrSchedule) -> None:
    """γ: a share, in (0, 1]."""
    number = _concrete("gamma", value)
    if number is not None and not 0.0 < number <= 1.0:
        raise ValueError(f"gamma must lie in (0, 1], got {number}.")


def init_s(value: ArrayLike | None) -> None:
    """s_0: not negative; None leaves it out."""
    number = None if value is None else _concrete("init_s", value)
    if number is not None and not 0.0 <= number < math.inf:
        raise ValueError(
            f"init_s must be a finite number that is not negative, or None, "
            f"got {number}."
        )


def max_weight(value: ArrayLike | None) -> None:
    """The bound on p_i: positive; None is no bound."""
    number = None if value is None else _concrete("max_weight", value)
    if number is not None and not number > 0.0:
        raise ValueError(f"max_weight must be positive or None, got {number}.")


def scalar(name: str, value: ArrayLike) -> jax.Array:
    """A floating-point scalar that an update is given."""
    array = jnp.asarray(value)
    if array.ndim != 0:
        raise ValueError(f"{name} must be a scalar, got shape {array.shape}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got dtype {array.dtype}.")
    return array


def losses(value: ArrayLike, *, scalar: str) -> jax.Array:
    """Per-example losses: a floating-point array with a batch axis."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"losses must be floating point, got dtype {array.dtype}.")
    if array.ndim == 0:
        raise ValueError(f"losses must have a batch axis, got a scalar. {scalar}")
    return array


def example_weights(
    losses: jax.Array,
    where: ArrayLike | None,
    sample_weights: ArrayLike | None,
    dtype: Any,
) -> jax.Array:
    """v_i: `sample_weights` (default 1), and 0 where `where` is False."""
    if sample_weights is None:
        weights = jnp.ones_like(losses, dtype)
    else:
        weights = jnp.asarray(sample_weights)
        if weights.shape != losses.shape:
            raise ValueError(
                f"sample_weights must have the shape of losses, {losses.shape}, "
                f"got {weights.shape}."
            )
        if not isinstance(sample_weights, jax.Array) and (weights < 0).any():
            smallest = np.min(np.asarray(sample_weights))
            raise ValueError(f"sample_weights must not be negative, got {smallest}.")
        weights = weights.astype(dtype)
    if where is None:
        return weights
    mask = jnp.asarray(where)
    if mask.shape != losses.shape:
        raise ValueError(
            f"where must have the shape of losses, {losses.shape}, got {mask.shape}."
        )
    if mask.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got dtype {mask.dtype}.")
    return jnp.where(mask, weights, 0.0)


def whole_tree(name: str, updates: Any) -> None:
    """The updates of every parameter, not those that a mask has left over."""
    leaves = jax.tree.leaves(updates, is_leaf=_is_masked)
    if any(_is_masked(leaf) for leaf in leaves):
        raise ValueError(
            f"{name} was given a tree with masked leaves. Inside optax.masked or "
            "optax.partition it would aggregate some parameters and leave the others "
            "with a batch axis. Mask after aggregating: "
            f"optax.chain({name}(...), optax.partition(...))."
        )


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def dense_gradients(gradients: Any, losses: jax.Array, params: Any) -> None:
    """Per-example gradients: in each leaf the batch axes come before the parameter."""
    if params is not None and jax.tree.structure(params) != jax.tree.structure(
        gradients
    ):
        raise ValueError(
            "Per-example gradients must have the structure of params, "
            f"{jax.tree.structure(params)}, got {jax.tree.structure(gradients)}."
        )
    shapes = None if params is None else [jnp.shape(p) for p in jax.tree.leaves(params)]
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(gradients)):
        shape = jnp.shape(leaf)
        name = jax.tree_util.keystr(path) or "gradients"
        if shape[: losses.ndim] != losses.shape:
            raise ValueError(
                f"attentional_aggregate takes one gradient per loss: {name} has shape "
                f"{shape}, which does not begin with the losses' shape {losses.shape}. "
                "Pass the pullback that jax.vjp returns or the gradients of "
                "jax.vmap(jax.grad(...)); for an ordinary gradient use "
                "scale_by_attention."
            )
        if shapes is not None and shape != losses.shape + shapes[i]:
            raise ValueError(
                f"The per-example gradient {name} must have shape "
                f"{losses.shape + shapes[i]} (losses, then parameter), got {shape}."
            )


def local_gradients(gradients: Any, like: jax.Array, axis_name: AxisName) -> None:
    """Gradients of this device's examples, which shard_map has not summed."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        if already_summed(leaf, like, axis_name):
            raise ValueError(
                f"{jax.tree_util.keystr(path) or 'The gradient'} is summed over "
                f"{axis_name!r} already, so its parts can no longer be weighted: "
                "shard_map sums the gradients of parameters that do not vary. Pass the "
                "pullback of jax.vjp to attentional_aggregate; or the gradient of "
                f"tilted_loss(..., axis_name={axis_name!r}) to scale_by_attention("
                "axis_name=None); or differentiate with respect to "
                f"jax.lax.pcast(params, {axis_name!r}, to='varying')."
            )


def is_pullback(updates: Any, params: Any) -> bool:
    """Whether these are a function of the weights rather than a tree of arrays.

    A tree of arrays may be callable too: an Equinox module holds its own gradients.
    """
    if not callable(updates):
        return False
    leaves, structure = jax.tree.flatten(updates)
    is_leaf = len(leaves) == 1 and leaves[0] is updates
    return params is None or is_leaf or structure != jax.tree.structure(params)


def ordinary_gradients(gradients: Any, params: Any) -> None:
    """Gradients of `tilted_loss`: each leaf has its parameter's shape."""
    if is_pullback(gradients, params):
        raise TypeError(
            "scale_by_attention takes a gradient, not a function; give pullbacks to "
            "attentional_aggregate."
        )
    if params is None:
        return
    shapes = [jnp.shape(p) for p in jax.tree.leaves(params)]
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    for (path, leaf), shape in zip(leaves, shapes, strict=True):
        if jnp.shape(leaf) != shape:
            raise ValueError(
                "scale_by_attention takes the gradient of tilted_loss: "
                f"{jax.tree_util.keystr(path) or 'gradients'} has shape "
                f"{jnp.shape(leaf)} and its parameter {shape}. Give per-example "
                "gradients to attentional_aggregate."
            )
