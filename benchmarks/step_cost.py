"""The cost of a compiled step, known before it runs, and the time of steps that run."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks import collectives


class Ready(NamedTuple):
    """A compiled step that is ready to be timed.

    Attributes:
      facts: what is known without running it, for JSON.
      start: allocates its arrays, and returns a function of a number of steps that runs
        so many and returns the seconds that they took.
    """

    facts: dict[str, Any]
    start: Callable[[], Callable[[int], float]]


class Cost(NamedTuple):
    """Cost of a compiled program on one device, by the compiler's own account."""

    flops: float  # additions and multiplications; summed in float32
    transcendentals: float  # exponentials, logarithms, roots; summed in float32
    argument_bytes: int  # state and batch
    temporary_bytes: int  # activations, above all
    held_bytes: int  # arguments, results and temporary memory, donated buffers once
    heavy: int  # convolutions and matrix products
    collectives: list[collectives.Collective]


def of(compiled: Any) -> Cost:
    """The cost of a program, of `jax.jit(...).lower(...).compile()`."""
    operations, memory = compiled.cost_analysis(), compiled.memory_analysis()
    program = collectives.read(compiled.as_text())
    return Cost(
        flops=operations["flops"],
        transcendentals=operations.get("transcendentals", 0.0),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        held_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        heavy=program.heavy,
        collectives=program.collectives,
    )


def facts(compiled: Any, params: Any, examples: int) -> dict[str, Any]:
    """The facts about a compiled step, for JSON.

    Args:
      compiled: see `of`.
      params: parameters of the network, arrays or shapes.
      examples: of a batch.

    Returns:
      Size, cost and device; collectives in words.
    """
    cost = of(compiled)
    return {
        "examples": examples,
        "parameters": parameters(params),
        "flops": cost.flops,
        "temporary_bytes": cost.temporary_bytes,
        "held_bytes": cost.held_bytes,
        "collectives": [
            f"{each.kind} {', '.join(each.arrays)}" for each in cost.collectives
        ],
        **device(),
    }


def parameters(params: Any) -> int:
    """The total number of elements of a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def device() -> dict[str, Any]:
    """The device of this process."""
    first = jax.devices()[0]
    return {"platform": first.platform, "device": first.device_kind}


def updates_per_dispatch() -> int:
    """Updates per dispatch that suit the devices of this process."""
    # XLA's convolutions are slow inside a loop on a CPU, and launches cost little.
    return 1 if jax.default_backend() == "cpu" else 50


def abstract(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The shapes of a tree of arrays or shapes, with a sharding."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def timed(
    step: Callable[[Any], Any], state: Any, updates: int = 1
) -> Callable[[int], float]:
    """Runs steps one after the other, and waits for the last one.

    Args:
      step: dispatches one or several updates: state -> state after.
      state: before the first step.
      updates: that a call of `step` makes.

    Returns:
      A function from a number of updates to the seconds that they take. For a number
      that is no multiple of `updates` it times the next multiple, in proportion.
    """

    def run(count: int) -> float:
        nonlocal state
        dispatches = -(-count // updates)
        began = time.perf_counter()
        for _ in range(dispatches):
            state = step(state)
        jax.block_until_ready(state)
        return (time.perf_counter() - began) * count / (dispatches * updates)

    return run
