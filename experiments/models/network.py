"""What all networks share: features, dropout, a head."""

import abc
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import configs
from experiments.models.attention import Attention


class Network(nnx.Module):
    """A body that makes features, dropout, and a head that makes logits of them.

    A network's own file has its `body`.

    Attributes:
      blocks: residual blocks in order, or stages where there are none.
      head: features to logits.
      dropout: share of the features that is dropped in training.
    """

    blocks: nnx.List
    head: nnx.Module
    dropout: float

    @abc.abstractmethod
    def body(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Features before dropout."""

    def features(
        self,
        inputs: jax.Array,
        present: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """What enters the head, float32 `[batch, n]`; arguments as for a call."""
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
            words, int32 `[batch, length]`.
          present: bool `[batch]`, False for padding, which BatchNorm's statistics then
            leave out; None if every example is present.
          keys: a key of `jax.random` for each example, `[batch]`, so that dropout is
            the same however the batch lies on devices; None for no dropout.

        Returns:
          Logits, float32 `[batch, classes]`.
        """
        return self.head(self.features(inputs, present, keys))


class ImageNetwork(Network):
    """A network whose features are the means of its last maps over the image.

    A network's own file has its `maps`.

    Attributes:
      attention: what is done to the maps before; None for nothing.
    """

    attention: Attention | None = None

    @abc.abstractmethod
    def maps(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """The last maps, float32 `[batch, height, width, channels]`."""

    def body(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, height, width, channels]` to `[batch, features]`."""
        x = self.maps(inputs, present)
        if self.attention is not None:
            x = self.attention(x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def dropout(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Sets a share of the numbers to zero and divides the others by what is kept.

    Args:
      x: float `[batch, ...]`.
      rate: probability of zero, in [0, 1).
      keys: a key for each example, `[batch]`; None changes nothing.

    Returns:
      Like `x`, with the same expectation.
    """
    if keys is None or rate == 0.0:
        return x
    keep = lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:])
    return jnp.where(jax.vmap(keep)(keys), x / (1.0 - rate), 0.0)


def check_stages(blocks: Sequence[int], widths: Sequence[int]) -> None:
    """Refuses numbers of blocks and of channels that are not of the same stages.

    Raises:
      configs.BadConfiguration: they differ in length, or are empty.
    """
    if len(blocks) != len(widths) or not blocks:
        raise configs.BadConfiguration(
            "blocks and widths must have one number for each stage, got "
            f"{tuple(blocks)} and {tuple(widths)}."
        )
