"""OLTR's modulated attention: which places of an image the network looks at again."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import heads

# Kaiming's, by what comes in: standard deviation sqrt(2 / in).
_he_normal_in = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class Attention(nnx.Module):
    """Self-attention between the places of the last maps, weighted place by place.

    With places as rows, X `[height · width, channels]`:

        M = softmax(θ(X) φ(X)ᵀ) g(X) W
        a = softmax(A vec(X) + b), over the places
        X + a ⊙ M

    g, θ and φ are linear with bias, to half of the channels. W starts as zeros, so that
    at the start the maps are what they were without it. As in the code of Liu et al.
    (2019), which draws g, θ and φ as He et al. do, by what comes in, with biases of
    zero, and A and b as PyTorch draws linear layers.

    References:
      Liu et al., `Large-scale long-tailed recognition in an open world
      <https://arxiv.org/abs/1904.05160>`_.
    """

    def __init__(
        self, height: int, width: int, channels: int, *, rngs: nnx.Rngs
    ) -> None:
        places, half = height * width, max(channels // 2, 1)
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
        drawn = heads.within(1.0 / math.sqrt(places * channels))
        self.spatial = nnx.Linear(
            places * channels, places, kernel_init=drawn, bias_init=drawn, rngs=rngs
        )

    def __call__(self, maps: jax.Array) -> jax.Array:
        """Float32 `[batch, height, width, channels]` to the same."""
        batch, height, width, channels = maps.shape
        x = maps.reshape(batch, height * width, channels)
        alike = self.theta(x) @ jnp.swapaxes(self.phi(x), 1, 2)
        mask = self.mask(jax.nn.softmax(alike) @ self.g(x))
        spatial = jax.nn.softmax(self.spatial(x.reshape(batch, -1)))
        return (x + spatial[..., None] * mask).reshape(maps.shape)
