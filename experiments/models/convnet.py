"""The demo's small convolutional network."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import heads
from experiments.models.network import ImageNetwork
from experiments.models.norm import BatchNorm, Norm


class Convolution(nnx.Module):
    """3 × 3 convolution without bias, one pixel of padding, as a matrix product.

    The same function as `nnx.Conv`. XLA's convolutions are slow on a CPU where images
    are this small: so training takes a half to two thirds of the time.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        self.stride = stride
        self.product = nnx.Linear(9 * inputs, outputs, use_bias=False, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, inputs]` to `[..., outputs]`."""
        _, height, width, _ = images.shape
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        neighbours = [
            padded[:, i : i + height : self.stride, j : j + width : self.stride]
            for i in range(3)
            for j in range(3)
        ]
        return self.product(jnp.concatenate(neighbours, axis=-1))


class Stage(nnx.Module):
    """A convolution, a norm, ReLU."""

    def __init__(self, convolution: nnx.Module, norm: nnx.Module) -> None:
        self.convolution = convolution
        self.norm = norm

    def __call__(self, x: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        return nnx.relu(self.norm(self.convolution(x), present))


class ConvNet(ImageNetwork):
    """A small convolutional network for 8 × 8 images; not one of the paper's.

    3 × 3 convolutions, each with BatchNorm and ReLU, the second and later ones of
    stride 2; the mean over what is left of the image; one linear layer.
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        widths: Sequence[int] = (16, 32, 64),
        channels: int = 1,
        norm: Norm = BatchNorm,
        head: str = "linear",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        inputs = (channels, *widths)
        convolutions = [
            Convolution(inputs[i], width, stride=1 if i == 0 else 2, rngs=rngs)
            for i, width in enumerate(widths)
        ]
        self.blocks = nnx.List(
            Stage(convolution, norm(width, rngs=rngs))
            for convolution, width in zip(convolutions, widths, strict=True)
        )
        self.head = heads.head(
            head,
            widths[-1],
            classes,
            kernel_init=nnx.initializers.lecun_normal(),
            bias_init=nnx.initializers.zeros,
            rngs=rngs,
        )
        self.dropout = dropout
