"""Cost of a step beyond SGD's on many devices, from compiled programs.

Run as `python -m benchmarks.scaling`. Nothing is executed. The devices are virtual ones
of the CPU: XLA partitions the program for them as it would for real ones.
"""

import collections
import dataclasses
import json
import os
import pathlib
import sys
import typing
from importlib import metadata
from typing import Any, Literal

import tyro

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


@dataclasses.dataclass(frozen=True)
class Scaling:
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

    devices: int = 256
    batch_per_device: int = 32
    image: int = 224
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    classes: int = 1000
    steps: tuple[Name, ...] = typing.get_args(Name)
    out: pathlib.Path = pathlib.Path("runs/scaling")

    def __post_init__(self) -> None:
        sizes = (self.devices, self.batch_per_device, self.image, self.width)
        if not self.blocks or min(*sizes, self.classes, *self.blocks) < 1:
            raise ValueError(f"Every size must be positive, got {self}.")
        missing = {_baseline(step) for step in self.steps} - {*self.steps}
        if missing:
            raise ValueError(f"Nothing to compare with: add {', '.join(missing)}.")

    @property
    def name(self) -> str:
        """File name of the record, without its suffix."""
        blocks = "-".join(map(str, self.blocks))
        return f"{self.devices}x{self.batch_per_device}_{self.image}px_{blocks}"


def _baseline(step: Name) -> Name:
    return "mapped-sgd" if step.startswith("mapped-") else "sgd"


def main(config: Scaling) -> int:
    """Compiles the steps, prints the tables and writes the costs.

    Args:
      config: steps, network and devices.

    Returns:
      Exit status, 0.
    """
    # Before JAX is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={config.devices}"
    )
    from benchmarks import aot_step

    network = aot_step.network(config.blocks, config.classes, config.width)
    mesh = aot_step.mesh(config.devices)
    known = aot_step.steps()
    costs = {}
    for name in STEPS:
        if name in config.steps:
            costs[name] = aot_step.compile_step(
                known[name],
                network,
                mesh,
                config.devices * config.batch_per_device,
                config.image,
            )
            print(
                f"{name}: lowered in {costs[name].lower_seconds:.1f} s, "
                f"compiled in {costs[name].compile_seconds:.1f} s",
                file=sys.stderr,
            )

    print(_cost_table(costs), _message_table(costs), sep="\n\n")
    record = {
        "config": dataclasses.asdict(config) | {"out": str(config.out)},
        "versions": {
            package: metadata.version(package)
            for package in ("jax", "jaxlib", "flax", "optax")
        },
        "parameters": aot_step.size(network),
        "costs": {
            name: cost._asdict()
            | {"collectives": [each._asdict() for each in cost.collectives]}
            for name, cost in costs.items()
        },
    }
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / f"{config.name}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return 0


def _cost_table(costs: dict[Name, Any]) -> str:
    """Costs on one device: a row per step, compared with the SGD of its kind."""
    rows = [
        "| step | FLOPs, 10⁹ | − SGD's, 1 | / SGD's | temporary, MB | / SGD's "
        "| arguments − SGD's, B | collectives | bytes of all |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, cost in costs.items():
        sgd = costs[_baseline(name)]
        rows.append(
            f"| {STEPS[name]} "
            f"| {cost.flops / 1e9:.3f} | {cost.flops - sgd.flops:,.0f} "
            f"| {cost.flops / sgd.flops:.6f} "
            f"| {cost.temporary_bytes / 1e6:.3f} "
            f"| {cost.temporary_bytes / sgd.temporary_bytes:.6f} "
            f"| {cost.argument_bytes - sgd.argument_bytes} "
            f"| {len(cost.collectives)} "
            f"| {sum(each.bytes for each in cost.collectives):,} |"
        )
    return "\n".join(rows)


def _message_table(costs: dict[Name, Any]) -> str:
    """The collectives of each step that the SGD of its kind does not have."""
    rows = [
        "| step | beyond SGD's | bytes | convolutions and products that wait for it |",
        "|---|---|--:|--:|",
    ]
    for name, cost in costs.items():
        more, fewer = _difference(cost.collectives, costs[_baseline(name)].collectives)
        for sign, some in (("", more), ("− ", fewer)):
            rows += [
                f"| {STEPS[name]} | {sign}{each.kind} {', '.join(each.arrays)} "
                f"| {each.bytes:,} | {each.waiting} of {cost.heavy} |"
                for each in some
            ]
    return "\n".join(rows)


def _difference(ours: list[Any], theirs: list[Any]) -> tuple[list[Any], list[Any]]:
    """The collectives that only one of two lists has, whatever waits for them."""

    def less(some: list[Any], others: list[Any]) -> list[Any]:
        rest = collections.Counter((each.kind, each.arrays) for each in others)
        left = []
        for each in some:
            if rest[each.kind, each.arrays]:
                rest[each.kind, each.arrays] -= 1
            else:
                left.append(each)
        return left

    return less(ours, theirs), less(theirs, ours)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Scaling, prog="python -m benchmarks.scaling")))
