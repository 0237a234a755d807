"""OLTR's modulated attention between the positions of an image."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import heads

# Kaiming's, by what comes in: standard deviation sqrt(2 / in).
_he_normal_in = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class Attention(nnx.Module):
    """Self-attention between the positions of the last maps, with a weight for each.

    With positions as rows, X `[height · width, channels]`:

        M = softmax(θ(X) φ(X)ᵀ) g(X) W
        a = softmax(A vec(X) + b), over the positions
        X + a ⊙ M

    g, θ and φ are linear with bias, to half of the channels. W starts as zeros, so that
    at the start attention does not change the maps. As in the code of Liu et al.
    (2019), g, θ and φ have He's initialisation by fan-in and biases of zero, and A and
    b PyTorch's of linear layers.

    References:
      Liu et al., `Large-scale long-tailed recognition in an open world
      <https://arxiv.org/abs/1904.05160>`_.
    """

    def __init__(
        self, height: int, width: int, channels: int, *, rngs: nnx.Rngs
    ) -> None:
        positions, half = height * width, max(channels // 2, 1)
        self.g, self.theta, self.phi = (
            nnx.Linear(channels, half, kernel_init=_he_normal_in, rngs=rngs)
            for _ in range(3)
        )
        self.mask = nnx.Linear(
            half,
            channels,
            use_bias=False,
            kernel_init=nnx.initializers.zeros,
            rngs=rngs,
        )
        drawn = heads.within(1.0 / math.sqrt(positions * channels))
        self.spatial = nnx.Linear(
            positions * channels,
            positions,
            kernel_init=drawn,
            bias_init=drawn,
            rngs=rngs,
        )

    def __call__(self, maps: jax.Array) -> jax.Array:
        """Float32 `[batch, height, width, channels]` to the same."""
        batch, height, width, channels = maps.shape
        x = maps.reshape(batch, height * width, channels)
        alike = self.theta(x) @ jnp.swapaxes(self.phi(x), 1, 2)
        mask = self.mask(jax.nn.softmax(alike) @ self.g(x))
        spatial = jax.nn.softmax(self.spatial(x.reshape(batch, -1)))
        return (x + spatial[..., None] * mask).reshape(maps.shape)
