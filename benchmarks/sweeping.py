"""Updates of vmapped runs, on data that stay on the device."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import compiled
from benchmarks.compiled import Ready
from experiments import configs, presets
from experiments.data.task import load_task
from experiments.train import sharding, vmapped


def build(preset: str, members: int, changes: dict[str, Any] | None = None) -> Ready:
    """Vmapped runs that differ in seed, λ and γ, on the same examples.

    Args:
      preset: its name; weights are switched on from the first step on.
      members: number of runs.
      changes: of the run.

    Returns:
      A step is an update of one member: the time of a dispatch over its updates.
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
    per_dispatch = compiled.per_dispatch()
    task = load_task(run.data, run.seed)

    def start() -> Callable[[int], float]:
        together = vmapped.VmappedRuns(
            [dataclasses.replace(run, seed=seed) for seed in range(members)],
            [task] * members,
            sharding.layout(1),
            per_dispatch,
        )
        done = 0

        def timed(updates: int) -> float:
            nonlocal done
            begun, began = done, time.perf_counter()
            step_metrics: Any = None
            while (done - begun) * members < updates:
                epoch, number = divmod(done, together.per_epoch)
                if number == 0:
                    together.begin_epoch(epoch)
                step_metrics, hyperparams = together.advance(number)
                done += len(hyperparams)
            jax.block_until_ready(step_metrics)
            took = time.perf_counter() - began
            return took * updates / ((done - begun) * members)

        return timed

    facts = {
        "members": members,
        "updates_per_dispatch": per_dispatch,
        **compiled.device(),
    }
    return Ready(facts, start)
