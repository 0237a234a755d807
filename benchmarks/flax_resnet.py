"""ResNet-32 as one would write it in Flax, and its step in Optax; none of our code."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import step_cost
from benchmarks.step_cost import Ready

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of CIFAR-10


class Block(nnx.Module):
    """Two 3 × 3 convolutions, and a shortcut without parameters (option A)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs
    ) -> None:
        self.first = _convolution(inputs, outputs, stride, rngs)
        self.first_norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.second = _convolution(outputs, outputs, 1, rngs)
        self.second_norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.stride, self.more = stride, outputs - inputs

    def __call__(self, x: jax.Array) -> jax.Array:
        """Float `[batch, height, width, channels]` to the same with other sizes."""
        y = nnx.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        x = x[:, :: self.stride, :: self.stride]
        before = self.more // 2
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, self.more - before)))
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    """He et al.'s for CIFAR; 464,154 parameters as ResNet-32 for 10 classes."""

    def __init__(
        self,
        blocks: Sequence[int] = (5, 5, 5),
        widths: Sequence[int] = (16, 32, 64),
        classes: int = 10,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = _convolution(3, widths[0], 1, rngs)
        self.stem_norm = nnx.BatchNorm(widths[0], momentum=0.9, rngs=rngs)
        made, inputs = [], widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for index in range(count):
                stride = 2 if stage and not index else 1
                made.append(Block(inputs, width, stride, rngs=rngs))
                inputs = width
        self.blocks = nnx.List(made)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Float `[batch, 32, 32, 3]` to logits `[batch, classes]`."""
        x = nnx.relu(self.stem_norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


def _convolution(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    he = nnx.initializers.he_normal()
    options: Any = {"padding": 1, "use_bias": False, "kernel_init": he, "rngs": rngs}
    return nnx.Conv(inputs, outputs, (3, 3), strides=stride, **options)


def build(
    batch: int = 128,
    blocks: Sequence[int] = (5, 5, 5),
    widths: Sequence[int] = (16, 32, 64),
) -> Ready:
    """Compiles a step of SGD with momentum and weight decay, and nothing else.

    `blocks` and `widths`, in channels, are those of each stage.
    """
    graph, params, statistics = nnx.split(
        ResNet(blocks, widths, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    tx = optax.chain(optax.add_decayed_weights(2e-4), optax.sgd(1e-4, momentum=0.9))

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, statistics, optimizer = state

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            model = nnx.merge(graph, params, statistics, copy=True)
            model.train()
            inputs = (images / 255.0 - jnp.array(MEAN)) / jnp.array(STD)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                model(inputs), labels
            )
            return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

        grads, statistics = jax.grad(loss_of, has_aux=True)(params)
        updates, optimizer = tx.update(grads, optimizer, params)
        return optax.apply_updates(params, updates), statistics, optimizer

    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (batch, 32, 32, 3), np.uint8))
    labels = jnp.asarray(np.arange(batch, dtype=np.int32) % 10)
    state = (params, statistics, tx.init(params))
    compiled = train_step.lower(state, images, labels).compile()
    return Ready(
        step_cost.facts(compiled, params, batch),
        lambda: step_cost.timed(lambda state: compiled(state, images, labels), state),
    )
