"""Cost of a step of each method, relative to a step of plain SGD."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from experiments import configs, methods
from experiments.data.task import load_task
from experiments.studies.method_grid import MethodGrid
from experiments.train import loop, losses, sharding, steps
from experiments.train.session import Session

STEPS = 12  # timed, of each


class _Ready(NamedTuple):
    """A compiled step with its arguments."""

    step: Callable[[], None]
    bytes: int  # that the program holds: arguments, results and what is between
    flops: float


def measure(
    methods: Sequence[MethodGrid], plain: configs.Run, session: Session
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Times the step of each method, in turn with a step of plain SGD.

    Args:
      methods: which; those that train nothing are left out.
      plain: the run that they change.
      session: directory of the data.

    Yields:
      Name, and: `time` and `memory` and `flops` relative to plain SGD's; the
      `quartiles` of the first; its `seconds` and `bytes`; the number of `steps`.
    """
    trained = [one for one in methods if one.classifier is None]
    if not trained:
        return
    sgd = _ready(plain, session)
    for method in trained:
        own = _ready(method.runs(plain)[0], session)
        for ready in (sgd, own):  # the first steps are slower
            ready.step()
        ratios, seconds = [], []
        for _ in range(STEPS):
            of_sgd, of_own = _timed(sgd.step), _timed(own.step)
            ratios.append(of_own / of_sgd)
            seconds.append(of_own)
        low, middle, high = statistics.quantiles(ratios, n=4)
        yield (
            method.name,
            {
                "time": middle,
                "quartiles": [low, high],
                "memory": own.bytes / sgd.bytes,
                "flops": own.flops / sgd.flops,
                "seconds": statistics.median(seconds),
                "bytes": own.bytes,
                "steps": STEPS,
            },
        )


def _timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _ready(run: configs.Run, session: Session) -> _Ready:
    """The step of the last epoch, where everything is switched on; on one device."""
    layout = sharding.layout(1)
    program = steps.program(run, layout)
    task = load_task(run.data, run.seed, session.data_dir)
    per_epoch = loop.steps_per_epoch(run, task)
    hyperparams = methods.step_hyperparams(run, per_epoch, run.epochs * per_epoch - 1)
    with contextlib.closing(
        loop.batches_from(loop.Position(0, 0, {}), run, task, layout, session)
    ) as batches:
        batch = layout.shard(next(batches))
    class_weights = losses.class_weights(run, task.class_counts, run.epochs)
    stats = loop.dataset_stats(run, task, layout)._replace(class_weights=class_weights)
    kept = [
        program.init(
            steps.init_network(run, run.seed), run.seed, len(task.train.labels)
        )
    ]
    compiled = (
        program.train(hyperparams).lower(kept[0], batch, stats, hyperparams).compile()
    )
    held = compiled.memory_analysis()

    def step() -> None:
        kept[0], step_metrics = compiled(kept[0], batch, stats, hyperparams)
        jax.block_until_ready(step_metrics)

    return _Ready(
        step,
        held.argument_size_in_bytes
        + held.output_size_in_bytes
        + held.temp_size_in_bytes
        - held.alias_size_in_bytes,
        compiled.cost_analysis()["flops"],
    )
