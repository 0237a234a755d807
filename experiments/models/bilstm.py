"""A bidirectional LSTM for text."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import heads
from experiments.models.network import Network

WIDTHS = (128, 128)
EMBEDDING = 128


class BiLstm(Network):
    """Two bidirectional LSTM layers, and the mean of their outputs over the words.

    The papers give no more of their IMDB network than that it is a bidirectional LSTM,
    and LDAM's that it has two layers: vocabulary, length, widths, the mean and the
    initial values (Flax's) are ours.

    Token 0 is padding, in front of the text; the layers do not process it.
    """

    def __init__(
        self,
        classes: int = 2,
        *,
        words: int,
        widths: Sequence[int] = WIDTHS,
        head: str = "linear",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        """`words` token ids, with padding; `widths` of LSTM states a direction."""
        self.embedding = nnx.Embed(words, EMBEDDING, rngs=rngs)
        layers, inputs = [], EMBEDDING
        for width in widths:
            # Their carries start at zero: no random numbers are kept in the network.
            forth, back = (
                nnx.RNN(nnx.OptimizedLSTMCell(inputs, width, rngs=rngs), rngs=False)
                for _ in range(2)
            )
            layers.append(nnx.Bidirectional(forth, back, rngs=False))
            inputs = 2 * width
        self.blocks = nnx.List(layers)
        self.widths = tuple(widths)
        self.head = heads.head(head, inputs, classes, rngs=rngs)
        self.dropout = dropout

    def body(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Int32 `[batch, length]` to float32 `[batch, 2 widths[-1]]`."""
        del present  # examples do not meet
        # Backward, so that padding is behind, as the layers expect it. They read in
        # both directions: backward is as good as forward.
        words = inputs[:, ::-1]
        is_word = words > 0
        lengths = jnp.sum(is_word, axis=1)
        x = self.embedding(words)
        for layer, width in zip(self.blocks, self.widths, strict=True):
            zeros = jnp.zeros_like(x, shape=(x.shape[0], width))
            x = layer(
                x, initial_carry=((zeros, zeros), (zeros, zeros)), seq_lengths=lengths
            )
        x = jnp.sum(x, axis=1, where=is_word[..., None])
        return x / jnp.maximum(lengths, 1)[:, None]
