"""He et al.'s residual networks, in the three variants of the paper's experiments."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import configs
from experiments.models import heads
from experiments.models.network import ImageNetwork
from experiments.models.norm import BatchNorm, Norm

Initializer = nnx.initializers.Initializer
Shortcut = Callable[..., nnx.Module | None]  # (inputs, outputs, stride, **made)


class ConvNorm(nnx.Module):
    """A convolution without bias, and a norm, which has one."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        *,
        norm: Norm,
        kernel_init: Initializer,
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
        """Float `[batch, height, width, inputs]` to `[..., outputs]`, by the stride."""
        return self.norm(self.convolution(x), present)


def relu(x: jax.Array) -> jax.Array:
    """`max(x, 0)`, and derivative 0 at 0, in a form that XLA computes once.

    What comes out of a ReLU enters the next convolution, is added at the end of the
    block, and is copied with its axes in another order for the gradient of a kernel.
    XLA treats a maximum with a constant as cheap, and recomputes it for that copy, with
    all normalisations and sums back to the first block of the stage, in an order that
    suits no cache. This selection is a function of two arrays, which XLA does not
    recompute: a step of ResNet-32 takes 40% less time on a CPU. It is an element-wise
    function like the maximum, so it is used everywhere; on an accelerator the two were
    not compared. NaN stays NaN.
    """
    return jnp.where(x <= 0.0, 0.0, x)


class Subsample(nnx.Module):
    """He et al.'s option A: every stride-th pixel, and zeros as further channels."""

    def __init__(self, inputs: int, outputs: int, stride: int, **_: Any) -> None:
        self.stride = stride
        self.before = (outputs - inputs) // 2  # channels of zeros on either side
        self.after = outputs - inputs - self.before

    def __call__(self, x: jax.Array, present: jax.Array | None = None) -> jax.Array:
        """Float `[batch, height, width, inputs]` to `[..., outputs]`, by the stride."""
        del present
        around = ((0, 0), (0, 0), (0, 0), (self.before, self.after))
        return jnp.pad(x[:, :: self.stride, :: self.stride], around)


def project(inputs: int, outputs: int, stride: int, **made: Any) -> ConvNorm | None:
    """He et al.'s option B: a 1 × 1 convolution where sizes change, else nothing."""
    if stride == 1 and inputs == outputs:
        return None
    return ConvNorm(inputs, outputs, 1, stride, **made)


class Block(nnx.Module):
    """Layers with ReLU between them, the shortcut, and ReLU after the addition."""

    names: tuple[str, ...]  # attributes that are the layers, in order
    expansion: int  # channels that come out for each of the width of the stage
    # `Subsample`, a 1 × 1 convolution, or None for the input itself
    shortcut: nnx.Module | None

    def layers(self) -> list[ConvNorm]:
        """What the shortcut goes round, in order."""
        return [getattr(self, name) for name in self.names]

    def __call__(self, x: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        shortcut = x if self.shortcut is None else self.shortcut(x, present)
        *before, last = self.layers()
        for layer in before:
            x = relu(layer(x, present))
        return relu(last(x, present) + shortcut)


class Basic(Block):
    """Two 3 × 3 convolutions."""

    names, expansion = ("first", "second"), 1

    def __init__(
        self, inputs: int, width: int, stride: int, shortcut: Shortcut, **made: Any
    ) -> None:
        self.first = ConvNorm(inputs, width, 3, stride, **made)
        self.second = ConvNorm(width, width, 3, 1, **made)
        self.shortcut = shortcut(inputs, width, stride, **made)


class Bottleneck(Block):
    """1 × 1 down, 3 × 3, and 1 × 1 up to four times the width.

    The stride sits on the 3 × 3 convolution and not on the 1 × 1 before it, as He et
    al. have it: the variant "v1.5" of torchvision.
    """

    names, expansion = ("down", "middle", "up"), 4

    def __init__(
        self, inputs: int, width: int, stride: int, shortcut: Shortcut, **made: Any
    ) -> None:
        self.down = ConvNorm(inputs, width, 1, 1, **made)
        self.middle = ConvNorm(width, width, 3, stride, **made)
        self.up = ConvNorm(width, 4 * width, 1, 1, **made)
        self.shortcut = shortcut(inputs, 4 * width, stride, **made)


class Variant(NamedTuple):
    """What the published residual networks differ in, but for the number of blocks."""

    block: type[Basic] | type[Bottleneck]
    shortcut: Shortcut
    stem: Literal["3x3", "7x7"]  # without pooling; of stride 2, and pooling after it
    widths: tuple[int, ...]  # of the stages
    kernel_init: Initializer  # of convolutions
    head_init: Initializer | None = None  # of a linear head's kernel; None: PyTorch's


# He et al.'s for CIFAR, whose shortcuts have no parameters. ResNet-32 has 464,154
# parameters for 10 classes and 470,004 for 100. Convolutions and linear kernels start
# as He et al. draw them, by what comes in, as in LDAM's code.
_he_normal_in = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
CIFAR = Variant(Basic, Subsample, "3x3", (16, 32, 64), _he_normal_in, _he_normal_in)

# He et al.'s for ImageNet in the form that is usual for CIFAR, with a 3 × 3 stem: four
# stages, so that 4 × 4 of 32 × 32 pixels are left. ResNet-18 and -34 have 11,220,132
# and 21,328,292 parameters for 100 classes. Initial values are PyTorch's defaults,
# uniform in ±1/√(k k in), as in the code that ABSGD's experiments on noisy labels
# derive from; the papers name none.
_uniform_in = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
WIDE_CIFAR = Variant(Basic, project, "3x3", (64, 128, 256, 512), _uniform_in)

# He et al.'s for ImageNet, which torchvision calls `resnet50` and `resnet152`, with
# 25,557,032 and 60,192,808 parameters for 1000 classes. Kaiming's initialisation is by
# what goes out.
_he_normal_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
IMAGENET = Variant(Bottleneck, project, "7x7", (64, 128, 256, 512), _he_normal_out)

# By name: the variant, and blocks in each stage.
NETWORKS = {
    "resnet20": (CIFAR, (3, 3, 3)),
    "resnet32": (CIFAR, (5, 5, 5)),
    "resnet18": (WIDE_CIFAR, (2, 2, 2, 2)),
    "resnet34": (WIDE_CIFAR, (3, 4, 6, 3)),
    "resnet50": (IMAGENET, (3, 4, 6, 3)),
    "resnet152": (IMAGENET, (3, 8, 36, 3)),
}


class ResNet(ImageNetwork):
    """A stem, stages of blocks, the mean over what is left of the image, and a head.

    Every stage but the first begins with a block of stride 2.

    References:
      He et al., `Deep residual learning for image recognition
      <https://arxiv.org/abs/1512.03385>`_.
    """

    def __init__(
        self,
        variant: Variant,
        blocks: Sequence[int],
        classes: int,
        *,
        widths: Sequence[int] = (),
        channels: int = 3,
        norm: Norm = BatchNorm,
        head: str = "linear",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        """`blocks` of each stage, and its `widths`; empty for the variant's.

        BadConfiguration if there is not a width for each number of blocks, or widths
        fall where shortcuts are subsampled; it quotes them.
        """
        widths = tuple(widths or variant.widths)
        if len(blocks) != len(widths) or not blocks:
            raise configs.BadConfiguration(
                "blocks and widths must have one number for each stage, got "
                f"{tuple(blocks)} and {widths}."
            )
        if variant.shortcut is Subsample and sorted(widths) != list(widths):
            raise configs.BadConfiguration(
                "Shortcuts add channels and take none away: widths must not fall, got "
                f"{widths}."
            )
        made = {"norm": norm, "kernel_init": variant.kernel_init, "rngs": rngs}
        self.pools = variant.stem == "7x7"
        inputs = widths[0]
        self.stem = ConvNorm(
            channels, inputs, *((7, 2) if self.pools else (3, 1)), **made
        )
        self.blocks = nnx.List()
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                self.blocks.append(
                    variant.block(inputs, width, stride, variant.shortcut, **made)
                )
                inputs = variant.block.expansion * width
        self.stages = tuple(blocks)
        self.head = heads.head(
            head, inputs, classes, kernel_init=variant.head_init, rngs=rngs
        )
        self.dropout = dropout

    def maps(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Float32 `[batch, height, width, channels]` to the maps of the last block."""
        x = relu(self.stem(inputs, present))
        if self.pools:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return super().maps(x, present)
