"""Vmapped runs: one program trains many, with an axis of runs through all arrays.

The runs differ in seed, λ, γ and whatever else is an argument of the compiled step, and
in their examples; all shapes are the same. Each run's numbers are those of `loop.fit`,
on its own batches in its own order. Inputs that several runs share are stored on the
device once.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments import configs, fields, methods
from experiments.data.packed import Distinct
from experiments.data.task import Task
from experiments.data.types import Examples
from experiments.results import metrics
from experiments.train import device_loop, loop, steps
from experiments.train.device_loop import DeviceDataset
from experiments.train.losses import class_weights
from experiments.train.sharding import Layout

_SPLITS = ("train", *loop.SPLITS)


def require(runs: Sequence[configs.Run], tasks: Sequence[Task]) -> None:
    """Refuses runs that cannot be vmapped.

    They cannot where the device loop does not support one, where it starts from other
    parameters or prunes examples, or where they differ in more than numbers.
    """
    for run in runs:
        device_loop.require(run)
        if run.start_from is not None or run.model.pretrained is not None:
            raise configs.BadConfiguration(
                "Vmapped runs start from random parameters, got "
                f"{run.start_from or run.model.pretrained}."
            )
        if run.loss.name == "truncated" and run.loss.prune_from < 1.0:
            raise configs.BadConfiguration(
                "Vmapped runs do not prune examples: set loss.prune_from to 1, got "
                f"{run.loss.prune_from}."
            )
    if len({_shape(run) for run in runs}) > 1:
        raise configs.BadConfiguration(
            "Vmapped runs differ only in seed, λ, γ and other numbers that their "
            "program takes as arguments."
        )
    for name in _SPLITS:
        sizes = {_size(getattr(task, name)) for task in tasks}
        if len(sizes) > 1:
            raise configs.BadConfiguration(
                f"The {name} sets of vmapped runs must be of one size, got "
                f"{', '.join(map(str, sorted(sizes)))}: fix them with "
                "--data.corruption-seed, or train each seed with `train`."
            )


def _shape(run: configs.Run) -> Any:
    """What vmapped runs must share: the program and the schedule of evaluations."""
    return (
        fields.compiled(run),
        run.epochs,
        run.eval_every,
        run.epoch_at(run.method.start_at),
    )


def _size(examples: Examples | None) -> int:
    return 0 if examples is None else len(examples.labels)


class VmappedRuns(loop.Stepper):
    """The training state of vmapped runs, on one device; `loop.fit_all` trains them.

    Runs that share a task are given one object. `most` bounds the updates of a
    dispatch, of each run. Runs that cannot be vmapped are a BadConfiguration; see
    `require`. The first axis of every array of the state is that of the runs, and of
    metrics the one after that of the updates.
    """

    _vmapped = True

    def __init__(
        self,
        runs: Sequence[configs.Run],
        tasks: Sequence[Task],
        layout: Layout,
        most: int = 1,
    ) -> None:
        require(runs, tasks)
        self.runs, self.rows, self._layout = runs, [t.rows for t in tasks], layout
        self._each = list(zip(runs, tasks, strict=True))
        self.per_epoch = loop.steps_per_epoch(runs[0], tasks[0])
        self._size = device_loop.dispatch_size(self.per_epoch, most)
        self._splits = _to_device(tasks, layout)
        self._examples = self._splits["train"]
        # One after the other to the host: the device has to hold all of them only once.
        begun = [
            jax.device_get(
                (loop.begin(*each, layout).state, loop.dataset_stats(*each, layout))
            )
            for each in self._each
        ]
        self.state, self._stats = layout.replicate(device_loop.stacked(begun))
        # Hyperparameters do not depend on the seed.
        alike = [dataclasses.replace(run, seed=0) for run in runs]
        self._different = list(dict.fromkeys(alike))
        self._which = np.array([self._different.index(run) for run in alike])

    def begin_epoch(self, epoch: int, first: int = 0) -> None:
        """Draws the batches of an epoch and sets its class weights."""
        self._epoch = epoch
        drawn: dict[Any, Any] = {}  # runs of one seed and sampler share their order
        keys = [(run.seed, run.data, id(task)) for run, task in self._each]
        for key, (run, task) in zip(keys, self._each, strict=True):
            if key not in drawn:
                labels = task.train.labels
                drawn[key] = device_loop.epoch_indices(run, labels, epoch)
        batches = [drawn[key] for key in keys]
        index, present = (np.stack(each, axis=1) for each in zip(*batches, strict=True))
        self._indices = index, present
        weights = [
            class_weights(run, task.class_counts, epoch) for run, task in self._each
        ]
        self._stats = self._stats._replace(class_weights=np.stack(weights))

    def _hyperparams(self, batch: int) -> methods.StepHyperparams:
        """The hyperparameters of an update, `[runs]`."""
        step = self._epoch * self.per_epoch + batch
        each = [
            methods.step_hyperparams(run, self.per_epoch, step)
            for run in self._different
        ]
        return jax.tree.map(lambda x: x[self._which], device_loop.stacked(each))

    def counts(self, name: str) -> metrics.Counts | None:
        """Counts all runs on a split, each `[runs, ...]`; None without such a split."""
        examples = self._splits[name]
        if examples is None:
            return None
        run, count = self.runs[0], examples.rows.shape[1]
        size = loop.eval_batch_size(run)
        evaluate = _evaluation(fields.compiled(run), self._layout)
        # Without the fields that only training needs.
        state = self.state._replace(step=None, key=None, optimizer=None, kept=None)

        def counted(first: int) -> metrics.Counts:
            indices = first + np.arange(size, dtype=np.int32)
            present = indices < count
            return evaluate(state, examples, np.where(present, indices, 0), present)

        batches = map(counted, range(0, count, size))
        return jax.device_get(functools.reduce(metrics.add, batches))

    def evaluate(self) -> list[dict[str, dict[str, Any] | None]]:
        """The `loop.summaries` of each run."""
        counts = {split: self.counts(split) for split in loop.SPLITS}

        def of_run(index: int, split: str) -> metrics.Counts | None:
            return jax.tree.map(lambda column: column[index], counts[split])

        return [
            loop.summaries(run, task, functools.partial(of_run, index))
            for index, (run, task) in enumerate(self._each)
        ]


@functools.cache
def _evaluation(run: configs.Run, layout: Layout) -> Callable[..., metrics.Counts]:
    """Compiles the evaluation of vmapped runs."""
    count = steps.counts_of(run)

    def one(
        state: steps.TrainState, examples: DeviceDataset, index: Any, present: Any
    ) -> metrics.Counts:
        return count(state, device_loop.batch(examples, index, present))

    return jax.jit(
        jax.vmap(one, in_axes=(0, DeviceDataset(None, 0, 0), None, None)),
        in_shardings=layout.replicated,
        out_shardings=layout.replicated,
    )


def _to_device(
    tasks: Sequence[Task], layout: Layout
) -> dict[str, DeviceDataset | None]:
    """Copies all splits to the device: distinct inputs once, rows for each run."""
    distinct = Distinct()
    known: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
    for task in {id(task): task for task in tasks}.values():
        for name in _SPLITS:
            if (examples := getattr(task, name)) is not None:
                rows = distinct.add(examples.inputs)
                known[id(task), name] = rows, examples.labels.astype(np.int32)
    inputs = layout.replicate(distinct.stacked())

    def of_all(name: str) -> DeviceDataset | None:
        if getattr(tasks[0], name) is None:
            return None
        of_tasks = [known[id(task), name] for task in tasks]
        rows_and_labels = tuple(np.stack(each) for each in zip(*of_tasks, strict=True))
        return DeviceDataset(inputs, *layout.replicate(rows_and_labels))

    return {name: of_all(name) for name in _SPLITS}
