"""bfloat16 for convolutions, matrix products and the maps between them.

Parameters stay float32 and are rounded where they are used, so that small updates are
not lost. Norms compute their moments in float32, and return the dtype of their input.
Features that enter the head are float32 again (see `Network.features`), as are logits
and losses.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import norm as norms


def _in_float32(normalize: Any, x: jax.Array, *more: Any, **named: Any) -> jax.Array:
    """Applies a float32 norm to maps of another dtype, and casts back."""
    raised = jax.tree.map(
        lambda value: (
            value.astype(jnp.float32)
            if jnp.issubdtype(jnp.result_type(value), jnp.floating)
            else value
        ),
        (x, more, named),
    )
    return normalize(raised[0], *raised[1], **raised[2]).astype(x.dtype)


class BatchNorm(norms.BatchNorm):
    """BatchNorm in float32 of maps in any float."""

    def __call__(self, x: jax.Array, *more: Any, **named: Any) -> jax.Array:
        """As `norm.BatchNorm`; returns like `x`."""
        return _in_float32(super().__call__, x, *more, **named)


class GroupNorm(norms.GroupNorm):
    """GroupNorm in float32 of maps in any float."""

    def __call__(self, x: jax.Array, *more: Any, **named: Any) -> jax.Array:
        """As `norm.GroupNorm`; returns like `x`."""
        return _in_float32(super().__call__, x, *more, **named)


def norm(
    kind: Literal["batch", "group"],
    channels: int,
    momentum: float = 0.9,
    axis_name: str | None = None,
    *,
    rngs: nnx.Rngs,
) -> BatchNorm | GroupNorm:
    """`norm.norm` for maps in bfloat16."""
    if kind == "group":
        return GroupNorm(channels, rngs=rngs)
    return BatchNorm(channels, momentum=momentum, axis_name=axis_name, rngs=rngs)


def compute_in_bfloat16(network: nnx.Module) -> None:
    """Makes a network's layers compute in bfloat16, except its head and attention.

    Args:
      network: changed in place; its parameters stay float32.
    """
    for path, module in nnx.iter_modules(network):
        apart = bool(path) and path[0] in ("head", "attention")
        if isinstance(module, nnx.Conv | nnx.Linear) and not apart:
            module.dtype = jnp.bfloat16
