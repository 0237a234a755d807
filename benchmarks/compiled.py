"""What a worker has built: facts, and steps that can be timed."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks import collectives


class Ready(NamedTuple):
    """Something to measure.

    Attributes:
      facts: what is known without running it, for JSON.
      start: allocates what it needs, and gives a function of a number of steps that
        runs so many and returns the seconds that they took.
    """

    facts: dict[str, Any]
    start: Callable[[], Callable[[int], float]]


def timed(step: Callable[[], Any], at_once: int = 1) -> Callable[[int], float]:
    """Runs steps one after the other, and waits for the last one.

    Args:
      step: dispatches one, or some; what it returns can be waited for.
      at_once: how many it dispatches.

    Returns:
      A function of their number: the seconds that they take. If it is no multiple of
      what is dispatched, that of the next one, in proportion.
    """

    def run(count: int) -> float:
        dispatches = -(-count // at_once)
        began = time.perf_counter()
        last = None
        for _ in range(dispatches):
            last = step()
        jax.block_until_ready(last)
        took = time.perf_counter() - began
        return took * count / (dispatches * at_once)

    return run


def at_once() -> int:
    """Updates that a dispatch is to make on the devices of this process."""
    # XLA's convolutions are slow inside a loop on a CPU, and launches cost little.
    return 1 if jax.default_backend() == "cpu" else 50


def cost(compiled: Any) -> dict[str, Any]:
    """What a compiled program needs, by the compiler's own account.

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
    """Their number."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def device() -> dict[str, Any]:
    """What this process computes on."""
    first = jax.devices()[0]
    return {"platform": first.platform, "device": first.device_kind}
