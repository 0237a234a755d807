"""ResNet-50 and ResNet-152."""

from collections.abc import Sequence

import jax
from flax import nnx

from experiments.models import heads
from experiments.models.network import ImageNetwork, check_stages
from experiments.models.norm import BatchNorm, Norm
from experiments.models.normalized import Normalized, relu

RESNET_50 = (3, 4, 6, 3)  # bottlenecks in each stage
RESNET_152 = (3, 8, 36, 3)
WIDTHS = (64, 128, 256, 512)

# Kaiming's, by what goes out: standard deviation sqrt(2 / (k k out)).
_he_normal_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Bottleneck(nnx.Module):
    """1 × 1 down, 3 × 3, 1 × 1 up to four times the width, and a shortcut."""

    def __init__(
        self, inputs: int, width: int, stride: int, *, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        outputs = 4 * width
        made = {"norm": norm, "kernel_init": _he_normal_out, "rngs": rngs}
        self.down = Normalized(inputs, width, 1, 1, **made)
        self.middle = Normalized(width, width, 3, stride, **made)
        self.up = Normalized(width, outputs, 1, 1, **made)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else Normalized(inputs, outputs, 1, stride, **made)

    def __call__(self, x: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        shortcut = x if self.shortcut is None else self.shortcut(x, present)
        x = relu(self.down(x, present))
        x = relu(self.middle(x, present))
        return relu(self.up(x, present) + shortcut)


class ResNet(ImageNetwork):
    """He et al.'s bottleneck ResNet for images of about 224 pixels, variant "v1.5".

    As published but for the stride, which sits on the 3 × 3 convolution and not on the
    1 × 1 before it: the network that torchvision calls `resnet50` and `resnet152`,
    with 25,557,032 and 60,192,808 parameters for 1000 classes. A 7 × 7 convolution of
    stride 2, a maximum over 3 × 3 of stride 2, four stages, the mean over what is left
    of the image, one linear layer with bias. ReLU follows the addition.
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
        inputs = widths[0]
        self.stem = Normalized(
            channels, inputs, 7, 2, norm=norm, kernel_init=_he_normal_out, rngs=rngs
        )
        made = []
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                made.append(Bottleneck(inputs, width, stride, norm=norm, rngs=rngs))
                inputs = 4 * width
        self.blocks = nnx.List(made)
        self.stages = tuple(blocks)
        self.head = heads.head(head, inputs, classes, rngs=rngs)
        self.dropout = dropout

    def maps(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, height, width, channels]` to `[..., 4 widths[-1]]`."""
        x = relu(self.stem(inputs, present))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x, present)
        return x
