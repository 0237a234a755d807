"""Per-example gradients against the pullback.

All variants make the same update. `pullback` weights the cotangent of one backward
pass; `dense` computes the gradient of each example, which clipping or storing them
needs; `dense, microbatches` computes a few at a time, `tilted, microbatches` has a
backward pass for a few examples at a time. With microbatches temporary memory should be
flat in the batch; their FLOPs are those of one microbatch, since the compiler counts a
loop once.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.interleave import Setting
from benchmarks.summary import Group

PARAMETERS = 100_000


def measure(setting: Setting) -> Iterator[Group]:
    """Runs the suite.

    Args:
      setting: batches, number of rounds.

    Yields:
      A group for each batch.
    """
    batches = setting.config.batch_sizes
    micro = min(batches)
    parameters = 1_000 if setting.config.quick else PARAMETERS
    routes: dict[str, dict[str, Any]] = {
        "pullback": {"route": "pullback"},
        "dense": {"route": "dense"},
        "dense, microbatches": {"route": "dense", "microbatch": micro},
        "tilted, microbatches": {"route": "tilted", "microbatch": micro},
    }
    for batch in batches:
        common = {"kind": "mlp", "parameters": parameters, "batch": batch}
        yield setting.group(
            f"MLP, {parameters:,} parameters, batch {batch}",
            {name: common | route for name, route in routes.items()},
            {"parameters": parameters, "batch": batch, "microbatch": micro},
        )
