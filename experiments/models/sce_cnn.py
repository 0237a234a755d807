"""The CIFAR-10 network of symmetric cross-entropy."""

import math
from collections.abc import Sequence

import jax
from flax import nnx

from experiments import configs
from experiments.models import heads
from experiments.models.network import Network
from experiments.models.norm import BatchNorm, Norm

WIDTHS = (64, 128, 196, 256)  # of three stages, and of the hidden layer

# He's of convolutions and Glorot's of dense layers, both uniform.
_he, _glorot = nnx.initializers.he_uniform(), nnx.initializers.glorot_uniform()


def _bias_init(inputs: int) -> nnx.initializers.Initializer:
    """PyTorch's bias initialisation of a layer with so many inputs."""
    return heads.within(1.0 / math.sqrt(inputs))


class Stage(nnx.Module):
    """Twice a 3 × 3 convolution with bias, a norm and ReLU; a maximum over 2 × 2."""

    def __init__(
        self, inputs: int, outputs: int, *, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        self.convolutions = nnx.List(
            nnx.Conv(
                i,
                outputs,
                kernel_size=(3, 3),
                kernel_init=_he,
                bias_init=_bias_init(3 * 3 * i),
                rngs=rngs,
            )
            for i in (inputs, outputs)
        )
        self.norms = nnx.List(norm(outputs, rngs=rngs) for _ in range(2))

    def __call__(self, x: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, height, width, inputs]` to half as high and wide."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nnx.relu(norm(convolution(x), present))
        return nnx.max_pool(x, (2, 2), strides=(2, 2))


class SceCnn(Network):
    """Wang et al.'s network for CIFAR-10: six convolutions and two dense layers.

    Three stages; all that is left of the image as a vector; a dense layer of 256 with
    BatchNorm and ReLU, which are called `hidden` and `hidden_norm` because they have a
    weight decay of their own; a linear layer. 1,639,794 parameters for 10 classes and
    32 × 32 × 3 pixels.

    Initial values are those of the PyTorch code that ABSGD's experiments derive from
    (`HanxunH/SCELoss-Reproduce`): kernels uniform with He's variance in convolutions
    and Glorot's in dense layers, biases uniform in ±1/√inputs. SCE's own Keras code has
    He normal kernels and biases of zero.
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        size: int = 32,
        widths: Sequence[int] = WIDTHS,
        channels: int = 3,
        norm: Norm = BatchNorm,
        head: str = "linear",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        *stages, hidden = widths
        left = size >> len(stages)  # pixels a side
        if not stages or left < 1:
            raise configs.BadConfiguration(
                "widths must have a number for each stage, of which there is one at "
                "least and each halves the image, and one for the hidden layer; got "
                f"{tuple(widths)} for {size} pixels."
            )
        inputs = (channels, *stages)
        self.blocks = nnx.List(
            Stage(inputs[i], width, norm=norm, rngs=rngs)
            for i, width in enumerate(stages)
        )
        pixels = left * left * stages[-1]
        self.hidden = nnx.Linear(
            pixels,
            hidden,
            kernel_init=_glorot,
            bias_init=_bias_init(pixels),
            rngs=rngs,
        )
        self.hidden_norm = norm(hidden, rngs=rngs)
        self.head = heads.head(
            head,
            hidden,
            classes,
            kernel_init=_glorot,
            rngs=rngs,
        )
        self.dropout = dropout

    def body(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, size, size, channels]` to `[batch, widths[-1]]`."""
        x = inputs
        for block in self.blocks:
            x = block(x, present)
        x = x.reshape(x.shape[0], -1)
        return nnx.relu(self.hidden_norm(self.hidden(x), present))
