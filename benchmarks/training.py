"""Whole trainings by the trainer's loop, and the same steps without the loop."""

import pathlib
import time
from collections.abc import Callable
from typing import Any, Literal

import jax

from benchmarks import compiled, network
from benchmarks.compiled import Ready
from experiments import configs, methods, presets
from experiments.data.task import Task, load_task
from experiments.train import loop, sharding, steps
from experiments.train.session import Session

Part = Literal["steps", "epochs", "training"]
# Weights from the first step on, of almost one: what is timed is not to diverge.
CALM = {"method.lam": 100.0, "method.start_at": 0.0, "optimizer.learning_rate": 0.01}


def build(
    part: Part,
    preset: str,
    epochs: int,
    data_dir: str | None = None,
    changes: dict[str, Any] | None = None,
) -> Ready:
    """Trainings of ABSGD on a preset's data, or parts of them, to be timed.

    Args:
      part: what is timed: the `steps`, on one batch on the device; the `epochs` as the
        loop counts them, which also load batches and log metrics; or the whole
        `training`, which also initialises the network and evaluates it.
      preset: its name; weights are switched on from the first step on.
      epochs: of a training.
      data_dir: directory of its data.
      changes: of the run.

    Returns:
      A training is a step; the facts say how many `updates` it has. Compiled before
      anything is timed.
    """
    made = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in (changes or {}).items()
    }
    run = configs.replace(
        presets.get(preset).run,
        {
            "method.name": "absgd",
            "epochs": epochs,
            **CALM,
            **made,
        },
    )
    folder = None if data_dir is None else pathlib.Path(data_dir)
    task = load_task(run.data, run.seed, folder)
    layout, session = sharding.layout(1), Session(data_dir=folder)
    per_epoch = loop.steps_per_epoch(run, task)
    updates = epochs * per_epoch
    facts = {
        "examples": len(task.train.labels) / per_epoch,
        "updates": updates,
        "epochs": epochs,
        **compiled.device(),
    }

    def start() -> Callable[[int], float]:
        if part == "steps":
            return _steps(run, task, layout, session, updates)

        def one() -> float:
            seconds: list[float] = []

            def write(**event: Any) -> None:
                seconds.append(event["seconds"])

            began = time.perf_counter()
            first = loop.begin(run, task, layout, session)
            state = loop.fit(run, task, layout, session, first, loop.Callbacks(write))
            jax.block_until_ready(state)
            whole = time.perf_counter() - began
            return sum(seconds) if part == "epochs" else whole

        one()  # compiles
        return lambda count: sum(one() for _ in range(count))

    return Ready(facts, start)


def _steps(
    run: configs.Run,
    task: Task,
    layout: sharding.Layout,
    session: Session,
    updates: int,
) -> Callable[[int], float]:
    """The steps of a training, one after the other, on one batch."""
    program = steps.program(run, layout)
    first = loop.begin(run, task, layout, session)
    loader = loop.batches_from(first.position, run, task, layout, session)
    batch = layout.shard(next(loader))
    loader.close()
    stats = network.dataset_stats(task, layout)
    per_epoch = loop.steps_per_epoch(run, task)
    kept = [first.state]

    def step() -> Any:
        hyperparams = methods.step_hyperparams(run, per_epoch, 0)
        kept[0], step_metrics = program.train(hyperparams)(
            kept[0], batch, stats, hyperparams
        )
        return step_metrics

    timed = compiled.timed(step)
    timed(2)  # compiles
    return lambda count: timed(count * updates)
