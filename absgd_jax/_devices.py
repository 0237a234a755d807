"""Sums over mapped axes, whether or not JAX has made them already.

`jax.shard_map` by default (`check_vma=True`) keeps in the type of every array the axes
over which it varies from device to device, and *sums the gradient of whatever does not
vary*: inside it the gradient of replicated parameters is the global one. With
`check_vma=False`, and under `jax.pmap`, nothing varies by type and nothing is summed.
The functions here read the types, so that each gradient is summed over each axis once.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

AxisName = str | tuple[str, ...] | None


def axis_names(axis_name: AxisName) -> frozenset[str]:
    """The mapped axes, none for None."""
    if axis_name is None:
        return frozenset()
    return frozenset([axis_name] if isinstance(axis_name, str) else axis_name)


def _varying(x: ArrayLike) -> frozenset[str]:
    """The axes over which an array varies by its type, if types are kept."""
    kind: Any = jax.typeof(x)
    if hasattr(kind, "vma"):  # before JAX 0.10
        return frozenset(kind.vma)
    if hasattr(kind, "mat"):
        return frozenset(kind.mat.varying)
    # Without the types, gradients would be summed once for every device.
    raise RuntimeError(
        f"absgd_jax cannot read from JAX {jax.__version__} over which mapped axes an "
        f"array varies: jax.typeof(x) is {kind!r}, without `vma` and without `mat`. "
        "Use a JAX version that this release of absgd_jax supports."
    )


def varies(x: ArrayLike, axis_name: AxisName) -> bool:
    """Whether an array is another one on each device of the axes, by its type."""
    return bool(axis_names(axis_name) & _varying(x))


def already_summed(gradient: ArrayLike, like: ArrayLike, axis_name: AxisName) -> bool:
    """Whether a gradient lacks an axis over which the losses behind it vary."""
    return bool(axis_names(axis_name) & _varying(like) - _varying(gradient))


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
        axes = axis_names(axis_name) - (_varying(like) - _varying(gradient))
        return lax.psum(gradient, tuple(sorted(axes))) if axes else gradient

    return jax.tree.map(total, gradients)


def vary(params: Any, like: ArrayLike) -> Any:
    """The parameters as arrays that vary like `like`, so that gradients stay local."""

    def cast(param: Any) -> Any:
        if callable(param):  # an activation in a module of Equinox
            return param
        missing = _varying(like) - _varying(param)
        return _to_varying(param, tuple(sorted(missing))) if missing else param

    return jax.tree.map(cast, params)


def zeros_like(shape: jax.ShapeDtypeStruct, dtype: Any) -> jax.Array:
    """Zeros that vary and are sharded as a result of `jax.eval_shape` is."""
    zeros = jnp.zeros(shape.shape, dtype)
    if _has_explicit_axes(shape.sharding):
        zeros = jax.sharding.reshard(zeros, shape.sharding.spec)
    # `vma` before JAX 0.10; neither where types are not kept.
    kind: Any = getattr(shape, "manual_axis_type", None)
    axes = getattr(shape, "vma", None) if kind is None else kind.varying
    missing = frozenset(axes or ()) - _varying(zeros)
    return _to_varying(zeros, tuple(sorted(missing))) if missing else zeros


def _to_varying(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The array, varying over `axes` by its type."""
    if hasattr(lax, "pcast"):
        return lax.pcast(x, axes, to="varying")
    # Its name before JAX 0.8.2.
    return lax.pvary(x, axes)  # pyright: ignore[reportAttributeAccessIssue]


def gather(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """The whole of a batch, on every device.

    It is a sum of arrays that are zero outside each device's own part, because
    `shard_map` then infers that all devices have the same array. The batch is a few
    thousand numbers.

    Args:
      x: this device's part, shape `[...]`; or the whole of it, on a mesh with Explicit
        axes perhaps spread over them.
      axis_name: the mapped axes.

    Returns:
      Shape `[devices, ...]` with mapped axes, else that of x.
    """
    if is_spread_explicitly(x):
        x = jax.sharding.reshard(x, jax.P())
    if axis_name is None:
        return x
    parts = jnp.zeros([devices(axis_name), *x.shape], x.dtype)
    return lax.psum(parts.at[lax.axis_index(axis_name)].set(x), axis_name)


def own_part(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """This device's part of an array made by `gather`."""
    return x if axis_name is None else x[lax.axis_index(axis_name)]


def devices(axis_name: AxisName) -> int:
    """The number of parts that the mapped axes cut a batch into."""
    return 1 if axis_name is None else lax.psum(1, axis_name)


def spread_as(x: jax.Array, like: jax.Array) -> jax.Array:
    """An array of the same shape, sharded as another one on an Explicit mesh."""
    spread = is_spread_explicitly(like)
    return jax.sharding.reshard(x, jax.typeof(like).sharding.spec) if spread else x


def is_spread_explicitly(x: jax.Array) -> bool:
    """Whether an array is sharded over an axis of a mesh that is Explicit."""
    return _has_explicit_axes(jax.typeof(x).sharding)


def _has_explicit_axes(sharding: Any) -> bool:
    """Whether the sharding that a type has, if any, names an axis."""
    return any(axis is not None for axis in getattr(sharding, "spec", ()))
