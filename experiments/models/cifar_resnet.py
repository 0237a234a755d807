"""ResNet-20 and ResNet-32 for 32 × 32 images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import configs
from experiments.models import heads
from experiments.models.network import ImageNetwork, check_stages
from experiments.models.norm import BatchNorm, Norm
from experiments.models.normalized import Normalized, relu

RESNET_20 = (3, 3, 3)  # blocks in each stage
RESNET_32 = (5, 5, 5)
WIDTHS = (16, 32, 64)

# Kaiming's, by what comes in: standard deviation sqrt(2 / (k k in)).
_he_normal_in = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class Block(nnx.Module):
    """Two 3 × 3 convolutions and a shortcut without parameters (option A)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, *, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        made = {"norm": norm, "kernel_init": _he_normal_in, "rngs": rngs}
        self.first = Normalized(inputs, outputs, 3, stride, **made)
        self.second = Normalized(outputs, outputs, 3, 1, **made)
        self.stride = stride
        self.more = outputs - inputs

    def shortcut(self, x: jax.Array) -> jax.Array:
        """Every stride-th pixel, and as many channels of zeros on either side."""
        before = self.more // 2
        around = ((0, 0), (0, 0), (0, 0), (before, self.more - before))
        return jnp.pad(x[:, :: self.stride, :: self.stride], around)

    def __call__(self, x: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        y = relu(self.first(x, present))
        return relu(self.second(y, present) + self.shortcut(x))


class CifarResNet(ImageNetwork):
    """He et al.'s ResNet for CIFAR, with the shortcuts that have no parameters.

    A 3 × 3 convolution, three stages of basic blocks, the mean over what is left of the
    image, one linear layer with bias. ReLU follows the addition. ResNet-32 has 464,154
    parameters for 10 classes and 470,004 for 100. Convolutions and linear weights start
    as He et al. draw them, by what comes in, as in LDAM's code.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int] = WIDTHS,
        channels: int = 3,
        norm: Norm = BatchNorm,
        head: str = "linear",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        check_stages(blocks, widths)
        if sorted(widths) != list(widths):
            raise configs.BadConfiguration(
                "Shortcuts add channels and take none away: widths must not fall, got "
                f"{tuple(widths)}."
            )
        inputs = widths[0]
        self.stem = Normalized(
            channels, inputs, 3, 1, norm=norm, kernel_init=_he_normal_in, rngs=rngs
        )
        made = []
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                made.append(Block(inputs, width, stride, norm=norm, rngs=rngs))
                inputs = width
        self.blocks = nnx.List(made)
        self.head = heads.head(
            head, inputs, classes, kernel_init=_he_normal_in, rngs=rngs
        )
        self.dropout = dropout

    def maps(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, height, width, channels]` to `[..., widths[-1]]`."""
        x = relu(self.stem(inputs, present))
        for block in self.blocks:
            x = block(x, present)
        return x
