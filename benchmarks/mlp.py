"""Multilayer perceptrons of any size, trained on every route."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import absgd_jax
from benchmarks import aot_step, compiled
from benchmarks.compiled import Ready

INPUTS, CLASSES, HIDDEN = 64, 10, 3  # numbers of an example; of classes; of layers
# Small, since examples have no structure and steps are many: nothing is to overflow.
LEARNING_RATE, MOMENTUM = 1e-4, 0.9

Params = Any  # list: weights [in, out] and biases [out] of each layer


class State(NamedTuple):
    """Training state: everything that a step changes."""

    params: Params
    optimizer: Any


def width(parameters: int) -> int:
    """Width of the hidden layers, for about so many parameters.

    Examples:
      >>> [width(10**size) for size in (4, 6, 8)]
      [54, 688, 7052]
    """
    linear = INPUTS + CLASSES + HIDDEN
    square = HIDDEN - 1
    root = math.sqrt(linear**2 + 4 * square * parameters)
    return max(1, round((root - linear) / (2 * square)))


def shapes(parameters: int) -> list[tuple[int, int]]:
    """Inputs and outputs of every layer."""
    sizes = [INPUTS, *[width(parameters)] * HIDDEN, CLASSES]
    return list(itertools.pairwise(sizes))


def losses_of(params: Params, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy, float32 `[batch]`."""
    x = inputs
    for index, (weights, bias) in enumerate(params):
        x = (jax.nn.relu(x) if index else x) @ weights + bias
    return absgd_jax.losses.softmax_cross_entropy_with_integer_labels(x, labels)


def step(
    route: str, microbatch: int | None = None
) -> tuple[Callable[..., State], Callable[[Params], Any]]:
    """A hand-written update, without the trainer.

    Args:
      route: `sgd`, `pullback` or `value`, as in `aot_step`; or `tilted` and `dense`,
        which are `absgd_jax.tilted_value_and_grad` without and with per-example
        gradients.
      microbatch: examples at a time on the last two; None for all.

    Returns:
      A pure function of state, inputs and labels; and what makes the optimizer's state.
    """
    absgd = absgd_jax.absgd(
        LEARNING_RATE, aot_step.LAM, aot_step.GAMMA, momentum=MOMENTUM
    )
    if route in ("tilted", "dense"):

        def by_value(state: State, inputs: jax.Array, labels: jax.Array) -> State:
            value, grads = absgd_jax.tilted_value_and_grad(
                losses_of,
                state.optimizer,
                microbatch_size=microbatch,
                dense=route == "dense",
            )(state.params, inputs, labels)
            updates, optimizer = absgd.update(
                grads, state.optimizer, state.params, value=value
            )
            return State(optax.apply_updates(state.params, updates), optimizer)

        return by_value, absgd.init

    tx = optax.sgd(LEARNING_RATE, MOMENTUM) if route == "sgd" else absgd
    made = aot_step.steps()[route]

    def by_route(state: State, inputs: jax.Array, labels: jax.Array) -> State:
        updates, optimizer, _ = made.route(
            tx,
            lambda params: (losses_of(params, inputs, labels), None),
            aot_step.State(state.params, None, state.optimizer),
            made.mapped,
        )
        return State(optax.apply_updates(state.params, updates), optimizer)

    return by_route, tx.init


def build(
    route: str, parameters: int, batch: int, microbatch: int | None = None
) -> Ready:
    """Compiles a step; arrays are allocated when it starts.

    Args:
      route: see `step`.
      parameters: about how many.
      batch: examples.
      microbatch: see `step`.

    Returns:
      The step.
    """
    update, init = step(route, microbatch)
    jitted = jax.jit(update, donate_argnums=0)
    like = jax.ShapeDtypeStruct
    params = [
        (like((inputs, outputs), jnp.float32), like((outputs,), jnp.float32))
        for inputs, outputs in shapes(parameters)
    ]
    abstract = State(params, jax.eval_shape(init, params))
    examples = (like((batch, INPUTS), jnp.float32), like((batch,), jnp.int32))
    lowered = jitted.lower(abstract, *examples).compile()

    def start() -> Callable[[int], float]:
        rng = np.random.default_rng(0)
        drawn = [
            (
                jnp.asarray(
                    rng.standard_normal(weights.shape, np.float32)
                    * math.sqrt(2.0 / weights.shape[0])
                ),
                jnp.zeros(bias.shape),
            )
            for weights, bias in params
        ]
        kept = [State(drawn, jax.jit(init)(drawn))]
        inputs = jnp.asarray(rng.standard_normal((batch, INPUTS), np.float32))
        labels = jnp.asarray(rng.integers(0, CLASSES, batch), jnp.int32)

        def one() -> State:
            kept[0] = jitted(kept[0], inputs, labels)
            return kept[0]

        return compiled.timed(one)

    facts = {
        "parameters": compiled.parameters(params),
        "examples": batch,
        **compiled.cost(lowered),
        **compiled.device(),
    }
    return Ready(facts, start)
