"""Compiled steps of a worker: facts about them, and how to time them."""

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


def timed(step: Callable[[], Any], per_dispatch: int = 1) -> Callable[[int], float]:
    """Runs steps one after the other, and waits for the last one.

    Args:
      step: dispatches one or several updates; returns arrays to wait for.
      per_dispatch: updates that a call of `step` makes.

    Returns:
      A function from a number of updates to the seconds that they take. For a number
      that is no multiple of `per_dispatch` it times the next multiple, in proportion.
    """

    def run(count: int) -> float:
        dispatches = -(-count // per_dispatch)
        began = time.perf_counter()
        last = None
        for _ in range(dispatches):
            last = step()
        jax.block_until_ready(last)
        took = time.perf_counter() - began
        return took * count / (dispatches * per_dispatch)

    return run


def per_dispatch() -> int:
    """Updates per dispatch on the devices of this process."""
    # XLA's convolutions are slow inside a loop on a CPU, and launches cost little.
    return 1 if jax.default_backend() == "cpu" else 50


def cost(compiled: Any) -> dict[str, Any]:
    """Cost of a compiled program, by the compiler's own account.

    Args:
      compiled: of `jax.jit(...).lower(...).compile()`.

    Returns:
      FLOPs (additions and multiplications); bytes of activations and the like, and all
      that the program holds; and its collectives, in words.
    """
    memory = compiled.memory_analysis()
    return {
        "flops": compiled.cost_analysis()["flops"],
        "temporary_bytes": memory.temp_size_in_bytes,
        "held_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        "collectives": [
            f"{each.kind} {', '.join(each.arrays)}"
            for each in collectives.read(compiled.as_text()).collectives
        ],
    }


def parameters(params: Any) -> int:
    """Their total number of elements."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def device() -> dict[str, Any]:
    """The device of this process."""
    first = jax.devices()[0]
    return {"platform": first.platform, "device": first.device_kind}
