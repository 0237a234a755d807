"""Cost of a step beyond SGD's on many devices, from compiled programs.

Run as `python -m benchmarks.scaling`. Nothing is executed: all arrays are abstract. The
devices are virtual ones of the CPU; XLA partitions the program for them as it would for
real ones.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import sys
import time
import typing
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from benchmarks import library_step, step_cost
from experiments.fields import Checked, Size, refuse
from experiments.models import resnet
from experiments.report import formatting
from experiments.results import run_log
from experiments.train import sharding

Name = Literal[
    "sgd",
    "pullback",
    "value",
    "bounded",
    "mapped-sgd",
    "mapped-pullback",
    "mapped-bounded",
    "mapped-local",
]
STEPS: dict[Name, str] = {
    "sgd": "`jit`: SGD",
    "pullback": "`jit`: ABSGD, pullback",
    "value": "`jit`: ABSGD, value",
    "bounded": "`jit`: ABSGD, pullback, `max_weight`",
    "mapped-sgd": "`shard_map`: SGD",
    "mapped-pullback": "`shard_map`: ABSGD, pullback",
    "mapped-bounded": "`shard_map`: ABSGD, pullback, `max_weight`",
    "mapped-local": "`shard_map`: ABSGD, local value",
}
LEARNING_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Scaling(Checked):
    """Compiles a bottleneck ResNet's training step for many devices, and analyses it.

    Prints two Markdown tables, of costs and of collectives, and writes all costs to the
    run directory as JSON. Nothing is run and no array is allocated.

    Attributes:
      devices: number of virtual devices D.
      batch_per_device: examples on each.
      image: height and width, pixels.
      blocks: bottlenecks in each stage; 3 4 6 3 is ResNet-50, 3 8 36 3 ResNet-152.
      width: channels of the first stage.
      classes: number of outputs.
      steps: names of the steps to compile, among them the SGD of the same kind (`sgd`
        under jit, `mapped-sgd` under shard_map).
      out: run directory.
    """

    devices: Size = 256
    batch_per_device: Size = 32
    image: Size = 224
    blocks: tuple[Size, ...] = (3, 4, 6, 3)
    width: Size = 64
    classes: Size = 1000
    steps: tuple[Name, ...] = typing.get_args(Name)
    out: pathlib.Path = pathlib.Path("runs/scaling")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(not self.blocks, "blocks must have one stage at least, got none.")
        missing = {_baseline(step) for step in self.steps} - {*self.steps}
        refuse(missing, f"Nothing to compare with: add {', '.join(missing)}.")


def _baseline(step: Name) -> Name:
    return "mapped-sgd" if step.startswith("mapped-") else "sgd"


def main(config: Scaling) -> int:
    """Compiles the steps, prints the tables and writes the costs; exit status 0."""
    # Before JAX looks for devices.
    jax.config.update("jax_platforms", "cpu")
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={config.devices}"
    )
    layout = sharding.layout(config.devices)
    costs: dict[Name, Any] = {
        name: _compiled(name, config, layout) for name in STEPS if name in config.steps
    }
    print(formatting.blocks(_cost_table(costs), _message_table(costs)))
    record = {
        "config": config,
        "versions": run_log.versions(),
        "parameters": step_cost.parameters(network(config)[1]),
        "costs": costs,
    }
    blocks = "-".join(map(str, config.blocks))
    size = f"{config.devices}x{config.batch_per_device}_{config.image}px_{blocks}"
    run_log.save(config.out / f"{size}.json", record)
    return 0


def network(config: Scaling) -> tuple[nnx.GraphDef[Any], Any, Any]:
    """The graph, the abstract parameters and the abstract statistics."""
    widths = [config.width << stage for stage in range(len(config.blocks))]
    make = functools.partial(
        resnet.ResNet, resnet.IMAGENET, config.blocks, config.classes, widths=widths
    )
    model: Any = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param, ...)


def _compiled(name: Name, config: Scaling, layout: sharding.Layout) -> dict[str, Any]:
    """The cost of a step, compiled for all devices, and the seconds that took."""
    route: Any = name.removeprefix("mapped-")
    mapped = name != route
    graph, params, statistics = network(config)
    tx = library_step.optimizer(route, LEARNING_RATE, mapped=mapped)
    losses_of = library_step.losses_of_network(graph)
    step = library_step.step(route, tx, losses_of, mapped=mapped)
    batch = config.devices * config.batch_per_device
    arrays = (
        jax.ShapeDtypeStruct((batch, config.image, config.image, 3), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    state = library_step.State(params, statistics, jax.eval_shape(tx.init, params))
    jitted = library_step.jitted(step, layout, len(arrays), mapped=mapped)
    began = time.monotonic()
    lowered = jitted.lower(state, *arrays)
    lowered_at = time.monotonic()
    compiled = lowered.compile()
    took = lowered_at - began, time.monotonic() - lowered_at
    said = "{}: lowered in {:.1f} s, compiled in {:.1f} s"
    print(said.format(name, *took), file=sys.stderr)
    cost = step_cost.of(compiled)
    return cost | {
        "collectives": [each._asdict() for each in cost["collectives"]],
        "lower_seconds": took[0],
        "compile_seconds": took[1],
    }


def _cost_table(costs: dict[Name, Any]) -> list[str]:
    """Costs on one device: a row per step, compared with the SGD of its kind."""
    flops_head = ["FLOPs, 10⁹", "more FLOPs than SGD", "times SGD's"]
    memory_head = ["temporary, MB", "times SGD's", "more bytes of arguments"]
    rows = [["step", *flops_head, *memory_head, "collectives", "bytes of all"]]
    for name, cost in costs.items():
        sgd = costs[_baseline(name)]
        flops, temporary = cost["flops"], cost["temporary_bytes"]
        row = [
            STEPS[name],
            f"{flops / 1e9:.3f}",
            f"{flops - sgd['flops']:,.0f}",
            f"{flops / sgd['flops']:.6f}",
            f"{temporary / 1e6:.3f}",
            f"{temporary / sgd['temporary_bytes']:.6f}",
            f"{cost['argument_bytes'] - sgd['argument_bytes']}",
            f"{len(cost['collectives'])}",
            f"{sum(each['bytes'] for each in cost['collectives']):,}",
        ]
        rows.append(row)
    return formatting.markdown(rows)


def _message_table(costs: dict[Name, Any]) -> list[str]:
    """The collectives of each step that the SGD of its kind does not have."""
    waiting = "convolutions and products that wait for it"
    rows = [["step", "beyond SGD's", "bytes", waiting]]
    for name, cost in costs.items():
        own, sgd = cost["collectives"], costs[_baseline(name)]["collectives"]
        for sign, some in (("", _missing(own, sgd)), ("− ", _missing(sgd, own))):
            for each in some:
                message = f"{sign}{each['kind']} {', '.join(each['arrays'])}"
                waits = f"{each['waiting']} of {cost['heavy']}"
                rows.append([STEPS[name], message, f"{each['bytes']:,}", waits])
    return formatting.markdown(rows)


def _missing(some: list[Any], others: list[Any]) -> list[Any]:
    """The collectives that are not among others, whatever waits for them."""
    rest = collections.Counter((each["kind"], each["arrays"]) for each in others)
    left = []
    for each in some:
        kind = each["kind"], each["arrays"]
        rest[kind] -= 1
        if rest[kind] < 0:
            left.append(each)
    return left


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Scaling, prog="python -m benchmarks.scaling")))
