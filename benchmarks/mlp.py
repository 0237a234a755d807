"""Multilayer perceptrons of any size, trained by the library's own routes."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import absgd_jax
from benchmarks import library_step, step_cost
from benchmarks.library_step import Route, State
from benchmarks.step_cost import Ready
from experiments.train import sharding

INPUTS, CLASSES, HIDDEN = 64, 10, 3  # numbers of an example; of classes; of layers
# Small, since examples have no structure and steps are many: nothing is to overflow.
LEARNING_RATE = 1e-4


def shapes(parameters: int) -> list[tuple[int, int]]:
    """Inputs and outputs of every layer, for about so many parameters.

    Examples:
      >>> [shapes(10**size)[1] for size in (4, 6, 8)]
      [(54, 54), (688, 688), (7052, 7052)]
    """
    linear = INPUTS + CLASSES + HIDDEN
    square = HIDDEN - 1
    root = math.sqrt(linear**2 + 4 * square * parameters)
    width = max(1, round((root - linear) / (2 * square)))
    return list(itertools.pairwise([INPUTS, *[width] * HIDDEN, CLASSES]))


def losses_of(
    params: Any, statistics: None, inputs: jax.Array, labels: jax.Array
) -> tuple[jax.Array, None]:
    """Cross-entropy, float32 `[batch]`, of weights `[in, out]` and biases `[out]`."""
    x = inputs
    for index, (weights, bias) in enumerate(params):
        x = (jax.nn.relu(x) if index else x) @ weights + bias
    losses = absgd_jax.losses.softmax_cross_entropy_with_integer_labels(x, labels)
    return losses, statistics


def build(
    route: Route, parameters: int, batch: int, microbatch: int | None = None
) -> Ready:
    """Compiles a step from shapes; arrays are allocated when it starts.

    `parameters` are about how many; `microbatch` is that of `library_step.step`.
    """
    layout = sharding.layout(1)
    tx = library_step.optimizer(route, LEARNING_RATE)
    update = library_step.step(route, tx, losses_of, microbatch=microbatch)

    def init() -> tuple[State, jax.Array, jax.Array]:
        keys = iter(jax.random.split(jax.random.key(0), HIDDEN + 3))
        normal = lambda *shape: jax.random.normal(next(keys), shape)
        params = [
            (normal(inputs, outputs) * math.sqrt(2.0 / inputs), jnp.zeros(outputs))
            for inputs, outputs in shapes(parameters)
        ]
        labels = jax.random.randint(next(keys), (batch,), 0, CLASSES)
        return State(params, None, tx.init(params)), normal(batch, INPUTS), labels

    like = jax.eval_shape(init)
    compiled = library_step.jitted(update, layout, 2).lower(*like).compile()

    def start() -> Callable[[int], float]:
        state, *arrays = jax.jit(init, out_shardings=layout.replicated)()
        return step_cost.timed(lambda state: compiled(state, *arrays), state)

    return Ready(step_cost.facts(compiled, like[0].params, batch), start)
