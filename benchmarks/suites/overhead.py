"""ABSGD over SGD: the same model and program otherwise, over sizes and batches.

`sgd` is a hand-written step of Optax's SGD; `sgd_again` the same in another process.
The multilayer perceptrons use the library without the trainer. ResNet-32 runs in the
trainer's step, where plain SGD is ABSGD at λ = ∞. So it is compared with hand-written
SGD: `plain`, and `masked`, which also has the padding mask that batches of fixed size
need. The trainer's cost beyond `masked` is that of attention and metrics.

The value route multiplies every parameter's gradient by one number, 1 / (6 batch) of
the operations where every parameter is used once an example, and more than 0.1% below
batches of some 170. In a convolution, whose parameters are used at every pixel, it is
next to nothing.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks import mlp, trainer_step
from benchmarks.interleave import Runner, call
from benchmarks.summary import Group

# Floating point operations of a step above which it is not run on a CPU.
CPU_LIMIT = 1e12

ROUTES = {"sgd": "sgd", "sgd_again": "sgd", "pullback": "pullback", "value": "value"}
NETWORKS: dict[str, dict[str, Any]] = {
    "masked": {"form": "masked"},
    "masked_again": {"form": "masked"},
    "plain": {"form": "plain"},
    "trainer_sgd": {"method": "sgd"},
    "trainer_absgd": {"method": "absgd"},
    "trainer_value": {"method": "absgd", "changes": {"method.route": "value"}},
}
SMALL = {"model.blocks": (1, 1), "model.widths": (4, 8)}


def measure(runner: Runner) -> Iterator[Group]:
    """Yields a group for each size and batch, then the networks."""
    config = runner.config
    for parameters in config.sizes:
        for batch in config.batches:
            size = {"parameters": parameters, "batch": batch}
            yield runner.group(
                f"MLP, {parameters:,} parameters, batch {batch}",
                {
                    name: call(mlp.build, route=route, **size)
                    for name, route in ROUTES.items()
                },
                size,
                why_not=_too_long,
            )
    batch = 8 if config.quick else 128
    variants = {}
    for name in ("masked", "trainer_absgd") if config.quick else NETWORKS:
        changes = NETWORKS[name].get("changes", {}) | (SMALL if config.quick else {})
        arguments = NETWORKS[name] | {"batch": batch, "changes": changes}
        variants[name] = call(trainer_step.build, **arguments)
    yield runner.group(f"ResNet-32, batch {batch}", variants)


def _too_long(facts: dict[str, Any]) -> str:
    if facts["platform"] != "cpu" or facts["flops"] <= CPU_LIMIT:
        return ""
    return f"A step is {facts['flops']:.1e} operations: not run on a CPU."
