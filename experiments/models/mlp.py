"""A multilayer perceptron for tables."""

from collections.abc import Sequence

import jax
from flax import nnx

from experiments.models import heads
from experiments.models.network import Network


class Mlp(Network):
    """Hidden layers with ReLU, and a linear layer; none of the paper's networks."""

    def __init__(
        self,
        classes: int,
        *,
        inputs: int,
        widths: Sequence[int] = (128, 64),
        head: str = "linear",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        """`inputs` numbers of an example, and the widths of the hidden layers."""
        sizes = (inputs, *widths)
        he = nnx.initializers.he_normal()
        self.blocks = nnx.List(
            nnx.Linear(sizes[i], width, kernel_init=he, rngs=rngs)
            for i, width in enumerate(widths)
        )
        self.head = heads.head(head, sizes[-1], classes, rngs=rngs)
        self.dropout = dropout

    def body(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, inputs]` to `[batch, widths[-1]]`."""
        del present  # examples do not meet
        x = inputs
        for layer in self.blocks:
            x = nnx.relu(layer(x))
        return x
