"""ResNet-18 and ResNet-34 for 32 × 32 images."""

from collections.abc import Sequence

import jax
from flax import nnx

from experiments.models import heads
from experiments.models.network import ImageNetwork, check_stages
from experiments.models.norm import BatchNorm, Norm
from experiments.models.normalized import Normalized, relu

RESNET_18 = (2, 2, 2, 2)  # blocks in each stage
RESNET_34 = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)

# PyTorch's default of a convolution: uniform in ±1/√(k k in).
_uniform_in = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Basic(nnx.Module):
    """Two 3 × 3 convolutions and a shortcut, by a 1 × 1 one where sizes change."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, *, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        made = {"norm": norm, "kernel_init": _uniform_in, "rngs": rngs}
        self.first = Normalized(inputs, outputs, 3, stride, **made)
        self.second = Normalized(outputs, outputs, 3, 1, **made)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else Normalized(inputs, outputs, 1, stride, **made)

    def __call__(self, x: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        shortcut = x if self.shortcut is None else self.shortcut(x, present)
        x = relu(self.first(x, present))
        return relu(self.second(x, present) + shortcut)


class BasicResNet(ImageNetwork):
    """He et al.'s ResNet-18 and ResNet-34 in the form that is usual for CIFAR.

    The stem is a 3 × 3 convolution of stride 1 with no maximum after it; then four
    stages of basic blocks, the mean over what is left of the image (4 × 4 of 32 × 32),
    one linear layer with bias. ReLU follows the addition. 11,220,132 and 21,328,292
    parameters for 100 classes. Initial values are PyTorch's defaults, as in the code
    that ABSGD's experiments on noisy labels derive from; the papers name none.
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
            channels, inputs, 3, 1, norm=norm, kernel_init=_uniform_in, rngs=rngs
        )
        made = []
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                made.append(Basic(inputs, width, stride, norm=norm, rngs=rngs))
                inputs = width
        self.blocks = nnx.List(made)
        self.stages = tuple(blocks)
        self.head = heads.head(head, inputs, classes, rngs=rngs)
        self.dropout = dropout

    def maps(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, height, width, channels]` to `[..., widths[-1]]`."""
        x = relu(self.stem(inputs, present))
        for block in self.blocks:
            x = block(x, present)
        return x
