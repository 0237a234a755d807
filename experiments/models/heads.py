"""From features to logits."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


def within(bound: float) -> nnx.initializers.Initializer:
    """Draws uniformly from ±`bound`."""

    def draw(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def _normalized(x: jax.Array, axis: int) -> jax.Array:
    """Of length one along an axis; zeros stay zeros and have gradient zero."""
    square = jnp.sum(x * x, axis, keepdims=True)
    is_zero = square == 0.0
    # The root is taken of no zero: its gradient would be NaN though it is not used.
    return x * jnp.where(is_zero, 0.0, lax.rsqrt(jnp.where(is_zero, 1.0, square)))


class Cosine(nnx.Module):
    """LDAM's head: cosines between the features and a vector of each class; no bias."""

    def __init__(self, features: int, classes: int, *, rngs: nnx.Rngs) -> None:
        """Draws the class vectors uniformly from ±1 and gives them length one."""
        drawn = within(1.0)(rngs.params(), (features, classes))
        self.kernel = nnx.Param(_normalized(drawn, axis=0))

    def __call__(self, features: jax.Array) -> jax.Array:
        """Float32 `[batch, features]` to cosines `[batch, classes]`."""
        return _normalized(features, axis=1) @ _normalized(self.kernel[...], axis=0)


def head(
    kind: Literal["linear", "cosine"],
    features: int,
    classes: int,
    *,
    kernel_init: nnx.initializers.Initializer | None = None,
    bias_init: nnx.initializers.Initializer | None = None,
    rngs: nnx.Rngs,
) -> nnx.Linear | Cosine:
    """The head of a config.

    Args:
      kind: a linear layer with bias, or `Cosine`.
      features: what enters.
      classes: what leaves.
      kernel_init: of the linear layer; None is PyTorch's, uniform in ±1/√features.
      bias_init: likewise.
      rngs: initial values.

    Returns:
      A module, float32 `[batch, features]` to `[batch, classes]`.
    """
    if kind == "cosine":
        return Cosine(features, classes, rngs=rngs)
    default = within(1.0 / math.sqrt(features))
    return nnx.Linear(
        features,
        classes,
        kernel_init=kernel_init or default,
        bias_init=bias_init or default,
        rngs=rngs,
    )
