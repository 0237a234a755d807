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


def of(compiled: Any) -> dict[str, Any]:
    """The cost on one device of a compiled program, by the compiler's own account.

    FLOPs are additions and multiplications, transcendentals exponentials, logarithms
    and roots; both are summed in float32. Arguments are state and batch, temporary
    memory is that of activations above all; `held_bytes` are arguments, results and
    temporary memory, donated buffers once. `heavy` and `collectives` are those of
    `collectives.Program`.
    """
    operations, memory = compiled.cost_analysis(), compiled.memory_analysis()
    program = collectives.read(compiled.as_text())
    return {
        "flops": operations["flops"],
        "transcendentals": operations.get("transcendentals", 0.0),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "held_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        "heavy": program.heavy,
        "collectives": program.collectives,
    }


def facts(compiled: Any, params: Any, examples: int) -> dict[str, Any]:
    """Size, cost and device of a step of so many examples; collectives in words.

    `params` are the parameters of the network, arrays or shapes.
    """
    cost = of(compiled)
    return {
        "examples": examples,
        "parameters": parameters(params),
        **{name: cost[name] for name in ("flops", "temporary_bytes", "held_bytes")},
        "collectives": [
            f"{each.kind} {', '.join(each.arrays)}" for each in cost["collectives"]
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


def timed(
    step: Callable[[Any], Any], state: Any, updates: int = 1
) -> Callable[[int], float]:
    """From a number of updates to the seconds that they take, one after the other.

    `step` dispatches `updates` of them, from a state to the state after. A number that
    is no multiple of `updates` is timed as the next multiple, in proportion.
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
