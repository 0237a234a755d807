"""Vmapped runs in one program, against the same runs one after the other.

A step is an update of one run, so the ratio to `1 run` is the time of a run in a sweep
relative to that of a run by itself. All have their data on the device; on an
accelerator a dispatch makes 50 updates, on a CPU one.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from benchmarks import step_cost
from benchmarks.interleave import Runner, call
from benchmarks.step_cost import Ready
from benchmarks.summary import Group
from experiments import configs, presets
from experiments.data.task import load_task
from experiments.train import sharding, vmapped


def measure(runner: Runner) -> Iterator[Group]:
    """Yields one group: the digits with 1, 4 and 16 runs at a time."""
    several = (1, 2) if runner.config.quick else (1, 4, 16)
    variants = {
        "1 run" if members == 1 else f"{members} vmapped runs": call(
            vmapped_runs, preset="digits_long_tail", members=members
        )
        for members in several
    }
    # All samples have the same number of updates, enough for every member to make some.
    steps = dict.fromkeys(variants, max(several) * (1 if runner.config.quick else 20))
    yield runner.group("digits, convnet", variants, steps=steps)


def vmapped_runs(
    preset: str, members: int, changes: dict[str, Any] | None = None
) -> Ready:
    """Vmapped runs of a preset that differ in seed, on the same examples.

    Weights are switched on from the first step on. A step is an update of one member:
    the time of a dispatch over its updates.
    """
    run = configs.replace(
        presets.get(preset).run,
        {
            "method.start_at": 0.0,
            "data.augment_on": "device",
            "epochs": 1_000_000,  # nobody comes to their end
            **(changes or {}),
        },
    )
    updates = step_cost.updates_per_dispatch()
    task = load_task(run.data, run.seed)

    def start() -> Callable[[int], float]:
        together = vmapped.VmappedRuns(
            [dataclasses.replace(run, seed=seed) for seed in range(members)],
            [task] * members,
            sharding.layout(1),
            updates,
        )
        done = 0

        def timed(count: int) -> float:
            nonlocal done
            before, began = done, time.perf_counter()
            step_metrics: Any = None
            while (done - before) * members < count:
                epoch, number = divmod(done, together.per_epoch)
                if number == 0:
                    together.begin_epoch(epoch)
                step_metrics, hyperparams = together.advance(number)
                done += len(hyperparams)
            jax.block_until_ready(step_metrics)
            took = time.perf_counter() - began
            return took * count / ((done - before) * members)

        return timed

    facts = {"members": members, "updates_per_dispatch": updates}
    return Ready(facts | step_cost.device(), start)
