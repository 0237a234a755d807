"""A convolution and its norm, of which residual networks are made."""

import jax
from flax import nnx

from experiments.models.norm import Norm


class Normalized(nnx.Module):
    """A convolution without bias, and a norm, which has one."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        *,
        norm: Norm,
        kernel_init: nnx.initializers.Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        self.convolution = nnx.Conv(
            inputs,
            outputs,
            kernel_size=(size, size),
            strides=stride,
            padding=size // 2,  # both sides alike; "SAME" is lopsided for stride 2
            use_bias=False,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.norm = norm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        return self.norm(self.convolution(x), present)
