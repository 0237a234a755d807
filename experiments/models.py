"""Networks, each on a page."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import configs


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


class ConvNet(nnx.Module):
    """A small convolutional network for 8 × 8 images; not one of the paper's.

    3 × 3 convolutions, each with BatchNorm and ReLU, the second and later ones of
    stride 2; the mean over what is left of the image; one linear layer.
    """

    def __init__(self, config: configs.Model, *, rngs: nnx.Rngs) -> None:
        inputs = (1, *config.widths)
        self.convolutions = nnx.List(
            Convolution(inputs[i], width, stride=1 if i == 0 else 2, rngs=rngs)
            for i, width in enumerate(config.widths)
        )
        self.norms = nnx.List(
            nnx.BatchNorm(width, momentum=config.statistics_momentum, rngs=rngs)
            for width in config.widths
        )
        self.head = nnx.Linear(config.widths[-1], config.classes, rngs=rngs)

    def __call__(self, images: jax.Array, present: jax.Array) -> jax.Array:
        """Classifies.

        Args:
          images: float32 `[batch, height, width, 1]`.
          present: bool `[batch]`; False for padding, which BatchNorm's statistics then
            leave out.

        Returns:
          Logits, float32 `[batch, classes]`.
        """
        mask = present[:, None, None, None]
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nnx.relu(norm(convolution(x), mask=mask))
        return self.head(jnp.mean(x, axis=(1, 2)))
