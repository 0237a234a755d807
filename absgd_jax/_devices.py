"""Sums over mapped axes, whether or not JAX has made them already.

`jax.shard_map` by default (`check_vma=True`) keeps in the type of every array the axes
over which it varies from device to device, and *sums the gradient of whatever does not
vary*: inside it the gradient of replicated parameters is the global one. With
`check_vma=False`, and under `jax.pmap`, nothing varies by type and nothing is summed.
The functions here read the types, so that each gradient is summed over each axis once.
"""

from typing import Any

import jax
from jax import lax
from jax.typing import ArrayLike

AxisName = str | tuple[str, ...] | None


def _names(axis_name: AxisName) -> frozenset[str]:
    if axis_name is None:
        return frozenset()
    return frozenset([axis_name] if isinstance(axis_name, str) else axis_name)


def _varying(x: ArrayLike) -> frozenset[str]:
    """The axes over which an array varies by its type, if types are kept."""
    kind: Any = getattr(jax.typeof(x), "mat", None)
    return frozenset() if kind is None else frozenset(kind.varying)


def already_summed(gradient: ArrayLike, like: ArrayLike, axis_name: AxisName) -> bool:
    """Whether a gradient lacks an axis over which the losses behind it vary."""
    return bool(_names(axis_name) & _varying(like) - _varying(gradient))


def sum_gradients(gradients: Any, like: ArrayLike, axis_name: AxisName) -> Any:
    """The sum over every mapped axis, less those that are already summed.

    Args:
      gradients: tree of arrays.
      like: the losses or the value that the gradients are of.
      axis_name: the mapped axes.
    """
    if axis_name is None:
        return gradients

    def total(gradient: jax.Array) -> jax.Array:
        axes = _names(axis_name) - (_varying(like) - _varying(gradient))
        return lax.psum(gradient, tuple(sorted(axes))) if axes else gradient

    return jax.tree.map(total, gradients)


def vary(params: Any, like: ArrayLike) -> Any:
    """The parameters with the type of what varies, so that gradients stay local."""

    def cast(param: jax.Array) -> jax.Array:
        missing = _varying(like) - _varying(param)
        return (
            lax.pcast(param, tuple(sorted(missing)), to="varying") if missing else param
        )

    return jax.tree.map(cast, params)


def gather(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """The whole of a batch, on every device.

    Args:
      x: this device's part, shape `[local batch, ...]`; or the whole of it, on a mesh
        with Explicit axes perhaps spread over them.
      axis_name: the mapped axes.
    """
    if axis_name is not None:
        return lax.all_gather(x, axis_name, tiled=True)
    if _is_spread_explicitly(x):
        return jax.sharding.reshard(x, jax.P())
    return x


def _is_spread_explicitly(x: jax.Array) -> bool:
    spec: Any = getattr(jax.typeof(x).sharding, "spec", ())
    return any(axis is not None for axis in spec)
