"""Per-example gradients against the pullback.

All variants make the same update. `pullback` weights the cotangent of one backward
pass; `dense` computes the gradient of each example, which clipping or storing them
needs; `dense, microbatches` computes a few at a time, `tilted, microbatches` has a
backward pass for a few examples at a time. With microbatches temporary memory should be
flat in the batch; their FLOPs are those of one microbatch, since the compiler counts a
loop once.
"""

from collections.abc import Iterator

from benchmarks import mlp
from benchmarks.interleave import Runner, call
from benchmarks.summary import Group

PARAMETERS = 100_000


def measure(runner: Runner) -> Iterator[Group]:
    """Yields a group for each batch."""
    batches = runner.config.batches
    micro = min(batches)
    parameters = 1_000 if runner.config.quick else PARAMETERS
    routes = {
        "pullback": ("pullback", None),
        "dense": ("dense", None),
        "dense, microbatches": ("dense", micro),
        "tilted, microbatches": ("tilted", micro),
    }
    for batch in batches:
        size = {"parameters": parameters, "batch": batch}
        yield runner.group(
            f"MLP, {parameters:,} parameters, batch {batch}",
            {
                name: call(mlp.build, route=route, microbatch=microbatch, **size)
                for name, (route, microbatch) in routes.items()
            },
            {**size, "microbatch": micro},
        )
