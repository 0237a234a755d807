"""Heads of networks: from features to logits."""

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
    """Normalises to length one along an axis; zeros stay zeros with zero gradient."""
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


class Scaled(nnx.Linear):
    """A linear layer whose logits each have a factor: `s_c (w_c · x + b_c)`.

    The head of learnable weight scaling (LWS), whose second stage trains only s. It has
    the parameters of a linear head under the same names, so that it can start from one.

    References:
      Kang et al., `Decoupling representation and classifier for long-tailed recognition
      <https://arxiv.org/abs/1910.09217>`_. As in its code, s starts as ones.
    """

    def __init__(self, features: int, classes: int, **made: Any) -> None:
        super().__init__(features, classes, **made)
        self.scale = nnx.Param(jnp.ones(classes))

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Float32 `[batch, features]` to logits `[batch, classes]`."""
        return self.scale[...] * super().__call__(inputs)


class Memory(nnx.Module):
    """OLTR's head: cosines of features that are enriched by a memory of the classes.

    With the direct feature v, a centroid m_c of each class, d_min the distance of v to
    the nearest of them, and class vectors w_c:

        x = (10 / d_min) (v + tanh(W_sel v + b) ⊙ Σ_c softmax(W_hal v + b')_c m_c)
        logits_c = 16 ‖x‖ / (1 + ‖x‖) · cos(x, w_c)

    d_min counts as 1e-6 at least, so that a feature on a centroid has finite gradients.
    As in the published code logits have no gradient with respect to centroids: these
    learn only through the penalty of the loss `oltr`, and stay under any other loss.

    Centroids start as zeros: they are to be set to the class means of the features of
    a first stage, and `recalls` to its linear head, if it has one. What is drawn is
    drawn as in the code of Liu et al. (2019): uniformly from ±1/√features.

    Attributes:
      kernel: class vectors w, float32 `[features, classes]`, of any length.
      centroids: m, float32 `[classes, features]`.
      recalls: W_hal and b', by which centroids are mixed.
      selects: W_sel and b, by which features of the mixture are let through.

    References:
      Liu et al., `Large-scale long-tailed recognition in an open world
      <https://arxiv.org/abs/1904.05160>`_, and its code.
    """

    def __init__(self, features: int, classes: int, *, rngs: nnx.Rngs) -> None:
        drawn = within(1.0 / math.sqrt(features))
        self.kernel = nnx.Param(drawn(rngs.params(), (features, classes)))
        self.centroids = nnx.Param(jnp.zeros((classes, features)))
        self.recalls, self.selects = (
            nnx.Linear(features, n, kernel_init=drawn, bias_init=drawn, rngs=rngs)
            for n in (classes, features)
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        """Float32 `[batch, features]` to logits `[batch, classes]`."""
        v, m = features, lax.stop_gradient(self.centroids[...])
        remembered = jax.nn.softmax(self.recalls(v)) @ m
        reach = _REACH / _to_nearest(v, m)
        x = reach * (v + jnp.tanh(self.selects(v)) * remembered)
        square = jnp.sum(x * x, axis=1, keepdims=True)
        is_zero = square == 0.0
        length = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))
        return (_SCALE * x / (1.0 + length)) @ _normalized(self.kernel[...], axis=0)


_REACH, _SCALE, _NEAREST = 10.0, 16.0, 1e-6


def _to_nearest(v: jax.Array, centroids: jax.Array) -> jax.Array:
    """Distance of each feature to the nearest centroid, `[batch, 1]`."""
    # Which it is needs no gradient, and so no array of batch × classes × features.
    squares = jnp.sum(centroids * centroids, axis=1)
    nearest = jnp.argmin(squares - 2.0 * v @ centroids.T, axis=1)
    square = jnp.sum(jnp.square(v - centroids[nearest]), axis=1, keepdims=True)
    return jnp.sqrt(jnp.maximum(square, _NEAREST**2))


def head(
    kind: Literal["linear", "cosine", "scaled", "memory"],
    features: int,
    classes: int,
    *,
    kernel_init: nnx.initializers.Initializer | None = None,
    bias_init: nnx.initializers.Initializer | None = None,
    rngs: nnx.Rngs,
) -> nnx.Linear | Cosine | Memory:
    """The head of a config, float32 `[batch, features]` to `[batch, classes]`.

    A linear layer with bias, `Cosine`, `Scaled` or `Memory`. Initial values that are
    None are PyTorch's, of a linear layer uniform in ±1/√features.
    """
    if kind == "cosine":
        return Cosine(features, classes, rngs=rngs)
    if kind == "memory":
        return Memory(features, classes, rngs=rngs)
    default = within(1.0 / math.sqrt(features))
    linear = Scaled if kind == "scaled" else nnx.Linear
    return linear(
        features,
        classes,
        kernel_init=kernel_init or default,
        bias_init=bias_init or default,
        rngs=rngs,
    )
