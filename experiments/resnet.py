"""ResNet-50 and ResNet-152, on a page."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

RESNET_50 = (3, 4, 6, 3)  # bottlenecks in each stage
RESNET_152 = (3, 8, 36, 3)

# Kaiming's, by what goes out: standard deviation sqrt(2 / (k k out)).
_he_normal_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Normalized(nnx.Module):
    """A convolution without bias, and BatchNorm, which has one."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        self.convolution = nnx.Conv(
            inputs,
            outputs,
            kernel_size=(size, size),
            strides=stride,
            padding=size // 2,  # both sides alike; "SAME" is lopsided for stride 2
            use_bias=False,
            kernel_init=_he_normal_out,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        return self.norm(self.convolution(x), mask=mask)


class Bottleneck(nnx.Module):
    """1 × 1 down, 3 × 3, 1 × 1 up to four times the width; and what came in."""

    def __init__(self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs) -> None:
        outputs = 4 * width
        self.down = Normalized(inputs, width, 1, 1, rngs=rngs)
        self.middle = Normalized(width, width, 3, stride, rngs=rngs)
        self.up = Normalized(width, outputs, 1, 1, rngs=rngs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            None if same else Normalized(inputs, outputs, 1, stride, rngs=rngs)
        )

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        shortcut = x if self.shortcut is None else self.shortcut(x, mask)
        x = nnx.relu(self.down(x, mask))
        x = nnx.relu(self.middle(x, mask))
        return nnx.relu(self.up(x, mask) + shortcut)


class ResNet(nnx.Module):
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
        width: int = 64,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = Normalized(3, width, 7, 2, rngs=rngs)
        stages, inputs = [], width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(Bottleneck(inputs, width << stage, stride, rngs=rngs))
                inputs = 4 * (width << stage)
        self.blocks = nnx.List(stages)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(
        self, images: jax.Array, present: jax.Array | None = None
    ) -> jax.Array:
        """Classifies.

        Args:
          images: float `[batch, height, width, 3]`.
          present: bool `[batch]`, False for padding, which BatchNorm's statistics then
            leave out; None if every example is present.

        Returns:
          Logits, float `[batch, classes]`.
        """
        mask = None if present is None else present[:, None, None, None]
        x = nnx.relu(self.stem(images, mask))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(jnp.mean(x, axis=(1, 2)))
