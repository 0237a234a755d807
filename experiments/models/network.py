"""The interface of all networks: features, dropout, a head."""

import abc

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.attention import Attention


class Network(nnx.Module):
    """A body that computes features, dropout, and a head that maps them to logits.

    Subclasses define `body`.
    """

    blocks: nnx.List  # residual blocks in order, or stages where there are none
    head: nnx.Module  # features to logits
    dropout: float  # rate, of the features

    @abc.abstractmethod
    def body(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Features before dropout."""

    def features(
        self,
        inputs: jax.Array,
        present: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Features that enter the head, float32 `[batch, n]`; arguments of `__call__`.

        They are after dropout.
        """
        features = self.body(inputs, present).astype(jnp.float32)
        return dropout(features, self.dropout, keys)

    def __call__(
        self,
        inputs: jax.Array,
        present: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Classifies.

        Args:
          inputs: images, float32 `[batch, height, width, channels]`, normalised; or
            token ids, int32 `[batch, length]`.
          present: bool `[batch]`, False for padding, which BatchNorm's statistics then
            leave out; None if every example is present.
          keys: a key of `jax.random` for each example, `[batch]`, so that dropout does
            not depend on the sharding of the batch; None for no dropout.

        Returns:
          Logits, float32 `[batch, classes]`.
        """
        return self.head(self.features(inputs, present, keys))


class ImageNetwork(Network):
    """A network whose features are the means of its last maps over the image."""

    attention: Attention | None = None  # of the maps before the mean

    def maps(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """The last maps: the blocks' of float32 `[batch, height, width, channels]`."""
        x = inputs
        for block in self.blocks:
            x = block(x, present)
        return x

    def body(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, height, width, channels]` to `[batch, features]`."""
        x = self.maps(inputs, present)
        if self.attention is not None:
            x = self.attention(x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def dropout(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Sets numbers of float `[batch, ...]` to zero with probability `rate`, in [0, 1).

    The others are rescaled, so that the expectation stays. There is a key for each
    example, `[batch]`; None changes nothing.
    """
    if keys is None or rate == 0.0:
        return x
    keep = lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:])
    return jnp.where(jax.vmap(keep)(keys), x / (1.0 - rate), 0.0)


def compute_in_bfloat16(network: nnx.Module) -> None:
    """Makes convolutions and linear layers compute in bfloat16, and the maps be that.

    Except the head and attention. Parameters stay float32 and are rounded where they
    are used, so that small updates are not lost. Norms compute in float32 and return
    the dtype of their input. Features that enter the head are float32 again, as are
    logits and losses. The network is changed in place.
    """
    for path, module in nnx.iter_modules(network):
        apart = bool(path) and path[0] in ("head", "attention")
        if isinstance(module, nnx.Conv | nnx.Linear) and not apart:
            module.dtype = jnp.bfloat16
