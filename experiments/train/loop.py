"""The loop over the epochs of one run."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import configs, methods
from experiments.data import loader
from experiments.data.task import Task
from experiments.data.types import Examples
from experiments.results import metrics
from experiments.train import device_loop, steps
from experiments.train.losses import class_weights
from experiments.train.session import Session
from experiments.train.sharding import Layout

EVAL_BATCH = 256  # examples at most; a set smaller than that is padded to it


class Position(NamedTuple):
    """The position of a training in its data: the batch that is trained on next."""

    epoch: int  # from 0
    batch: int  # within that epoch, from 0
    totals: dict[str, Any]  # of the epoch's batches so far; see `_add`


class Callbacks(NamedTuple):
    """Callbacks of the training loop.

    Attributes:
      write: logs an event, given as keywords.
      stepped: called after every update with the step and its metrics by name.
      due: called after every dispatch with the step; returns whether to save a
        checkpoint within the epoch.
      save: saves a checkpoint: takes the step, the state and the position, after an
        update for which `due` was true and at the end of every epoch. All losses until
        then are finite.
    """

    write: Callable[..., None]
    stepped: Callable[[int, dict[str, float]], None] = lambda step, shown: None
    due: Callable[[int], bool] = lambda step: False
    save: Callable[[int, steps.TrainState, Position], None] = (
        lambda step, state, position: None
    )


class Start(NamedTuple):
    """The state and the position that a loop starts from."""

    state: steps.TrainState
    position: Position = Position(0, 0, {})


def fit(
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: Session,
    start: Start,
    callbacks: Callbacks,
    *,
    test_last: bool = False,
    until: int | None = None,
) -> steps.TrainState:
    """Trains, and writes one event per epoch.

    Steps are dispatched from Python, one by one unless the session asks for many per
    dispatch: inside `lax.scan` XLA's convolutions are tens of times slower on a CPU.
    The metrics of a step are read while the next one runs, so that the device does not
    wait for them.

    Args:
      run: what to train.
      task: training, validation and test examples.
      layout: devices.
      session: how batches are loaded and the step is run.
      start: state and position, from `begin` or from a checkpoint.
      callbacks: called with metrics and events, and to save checkpoints.
      test_last: whether the test set is evaluated only after the last epoch.
      until: epoch to stop before, from 0; None trains to the end.

    Returns:
      The state after the last epoch that was trained.

    Raises:
      FloatingPointError: a loss is not finite; names the step and the examples.
      BadConfiguration: the session asks for many steps per dispatch, which the run does
        not support.
    """
    program = steps.program(run, layout, session.parallel)
    per_epoch = steps_per_epoch(run, task)
    state, position = start
    stats = dataset_stats(run, task, layout)
    with _updates(program, position, run, task, layout, session) as update:
        for epoch in range(position.epoch, run.epochs if until is None else until):
            began, waited = time.monotonic(), update.waited
            first = position.batch if epoch == position.epoch else 0
            totals = dict(position.totals) if first else {}
            if first == 0 and _prunes(run, epoch):
                state = _prune(program, layout, state, task.train, run, session)
            stats = stats._replace(
                class_weights=class_weights(run, task.class_counts, epoch)
            )
            unread: collections.deque[tuple[int, int, steps.StepMetrics]] = (
                collections.deque()
            )
            number = first
            while number < per_epoch:
                step = epoch * per_epoch + number
                state, step_metrics, hyperparams = update(state, stats, epoch, number)
                unread.append((step, len(hyperparams), step_metrics))
                number, step = number + len(hyperparams), step + len(hyperparams)
                due, whole = callbacks.due(step), number == per_epoch
                # Metrics are read before a checkpoint, so that its totals are complete.
                while len(unread) > (0 if due or whole else 1):
                    _read_all(run, unread.popleft(), totals, callbacks)
                if due and not whole:
                    callbacks.save(step, state, Position(epoch, number, totals))
            last = epoch + 1 == run.epochs
            waited, seconds = update.waited - waited, time.monotonic() - began
            event = event_of(epoch, per_epoch, hyperparams[-1], totals, waited, seconds)
            if last or (epoch + 1) % run.eval_every == 0:
                for name in ("validation", "test"):
                    examples = getattr(task, name)
                    if examples is not None and (
                        last or name == "validation" or not test_last
                    ):
                        event[name] = evaluate(
                            program, layout, state, examples, run, task, session
                        )
            callbacks.write(**event)
            callbacks.save((epoch + 1) * per_epoch, state, Position(epoch + 1, 0, {}))
    return state


class _HostLoop:
    """Makes the updates of a training batch by batch; see `device_loop.DeviceLoop`."""

    def __init__(
        self,
        program: steps.Program,
        run: configs.Run,
        batches: loader.Prefetched,
        per_epoch: int,
    ) -> None:
        self._program, self._run = program, run
        self._batches, self._per_epoch = batches, per_epoch

    @property
    def waited(self) -> float:
        """Seconds that the loop has waited for batches."""
        return self._batches.waited

    def __call__(
        self,
        state: steps.TrainState,
        stats: steps.DatasetStats,
        epoch: int,
        number: int,
    ) -> tuple[steps.TrainState, steps.StepMetrics, list[methods.StepHyperparams]]:
        """Makes the next update, on the loader's next batch."""
        step = epoch * self._per_epoch + number
        hyperparams = methods.step_hyperparams(self._run, self._per_epoch, step)
        update = self._program.train(hyperparams)
        state, step_metrics = update(state, next(self._batches), stats, hyperparams)
        return state, step_metrics, [hyperparams]


@contextlib.contextmanager
def _updates(
    program: steps.Program,
    position: Position,
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: Session,
) -> Iterator[_HostLoop | device_loop.DeviceLoop]:
    """The host loop or the device loop, from a position on."""
    per_epoch, most = steps_per_epoch(run, task), session.steps_per_dispatch
    if most > 1:
        yield device_loop.DeviceLoop(run, task.train, layout, per_epoch, most)
        return
    ahead = batches_from(position, run, task, layout, session)
    with loader.prefetch(ahead, session.prefetch, layout.shard) as batches:
        yield _HostLoop(program, run, batches, per_epoch)


def steps_per_epoch(run: configs.Run, task: Task) -> int:
    """Updates in an epoch; the last may have fewer examples than the others."""
    return -(-len(task.train.labels) // run.batch_size)


def begin(
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: Session,
    network: Any = None,
) -> Start:
    """The state before the first step.

    Args:
      run: what to train.
      task: its examples.
      layout: devices.
      session: how the step is run.
      network: whose arrays to start from; None initialises them by the run's seed.

    Returns:
      The state, and the position before the first batch.
    """
    program = steps.program(run, layout, session.parallel)
    drawn = steps.init_network(run, run.seed) if network is None else network
    return Start(program.init(drawn, run.seed, len(task.train.labels)))


def evaluate(
    program: steps.Program,
    layout: Layout,
    state: steps.TrainState,
    examples: Examples,
    run: configs.Run,
    task: Task,
    session: Session,
) -> dict[str, Any]:
    """Evaluates a network on a split; returns the metrics of `metrics.summary`."""
    counts: Any = None
    for batch in in_order(examples, run, layout, session):
        found = program.evaluate(state, batch)
        counts = found if counts is None else metrics.add(counts, found)
    return metrics.summary(
        jax.device_get(counts),
        task.class_counts,
        tail_classes=run.data.tail_classes,
    )


def in_order(
    examples: Examples, run: configs.Run, layout: Layout, session: Session
) -> Iterator[loader.Batch]:
    """Batches of the examples in order and without augmentation, on the devices.

    Args:
      examples: of any split.
      run: data and batch size.
      layout: devices.
      session: how batches are loaded.

    Yields:
      Batches, the last one padded.
    """
    size = min(EVAL_BATCH, 2 * run.batch_size)
    size = -(-size // layout.devices) * layout.devices
    batches = loader.batches(
        examples,
        run.data,
        size,
        rows=layout.rows(size),
        workers=session.workers,
    )
    with loader.prefetch(batches, session.prefetch, layout.shard) as placed:
        yield from placed


def batches_from(
    position: Position,
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: Session,
) -> Generator[loader.Batch, None, None]:
    """The batches of a training from a position on.

    For a method that uses the meta set each batch comes with a batch of it.

    Args:
      position: epoch and batch to continue from.
      run: data, batch size, epochs and seed.
      task: its examples.
      layout: devices.
      session: how batches are loaded.

    Returns:
      Batches of this host's rows, in host memory. Closing it ends its processes.
    """
    batches = loader.training(
        task.train,
        run.data,
        run.batch_size,
        seed=run.seed,
        epochs=range(position.epoch, run.epochs),
        first=position.batch,
        rows=layout.rows(run.batch_size),
        workers=session.workers,
    )
    if not run.method.uses_meta_set:
        return batches
    assert task.meta is not None
    per_epoch = steps_per_epoch(run, task)
    size = min(run.method.meta_batch_size, len(task.meta.labels))
    padded = -(-size // layout.devices) * layout.devices
    meta = loader.meta_batches(
        task.meta,
        run.data,
        size,
        seed=run.seed,
        steps=range(
            position.epoch * per_epoch + position.batch, run.epochs * per_epoch
        ),
        size=padded,
        rows=layout.rows(padded),
        workers=session.workers,
    )
    return loader.with_meta_batches(batches, meta)


def dataset_stats(run: configs.Run, task: Task, layout: Layout) -> steps.DatasetStats:
    """Statistics of the training set, on the devices; class weights are ones."""
    counts = np.maximum(task.class_counts, 1).astype(np.float32)
    return layout.replicate(
        steps.DatasetStats(counts, np.ones_like(counts), task.mislabelled)
    )


def _prunes(run: configs.Run, epoch: int) -> bool:
    """Whether truncation prunes the training set before this epoch."""
    since = epoch - run.epoch_at(run.loss.prune_from)
    return (
        run.loss.name == "truncated"
        and run.loss.prune_from < 1.0
        and since >= 0
        and since % run.loss.prune_every == 0
    )


def _prune(
    program: steps.Program,
    layout: Layout,
    state: steps.TrainState,
    examples: Examples,
    run: configs.Run,
    session: Session,
) -> steps.TrainState:
    for batch in in_order(examples, run, layout, session):
        state = program.prune(state, batch)
    return state


def _read_all(
    run: configs.Run,
    unread: tuple[int, int, steps.StepMetrics],
    totals: dict[str, Any],
    callbacks: Callbacks,
) -> None:
    """Waits for the metrics of one or many updates and logs them one by one.

    `unread` has the number of updates before them, their number, and their metrics.
    """
    step, count, step_metrics = unread[0], unread[1], jax.device_get(unread[2])
    if step_metrics.loss.ndim == 0:  # a single update, without an axis of updates
        log_step(run, step + 1, step_metrics, totals, callbacks)
        return
    for update in range(count):
        one = steps.StepMetrics(*(values[update] for values in step_metrics))
        log_step(run, step + 1 + update, one, totals, callbacks)


def log_step(
    run: configs.Run,
    step: int,
    step_metrics: steps.StepMetrics,
    totals: dict[str, Any],
    callbacks: Callbacks,
) -> None:
    """Adds a step's metrics to the epoch's totals, and logs them.

    Args:
      run: the run that is trained.
      step: number of updates, including this one.
      step_metrics: of this update, on the host.
      totals: of the epoch; added to.
      callbacks: `stepped` is called with the step's metrics.

    Raises:
      FloatingPointError: a loss is not finite; names the step and the examples.
    """
    bad = step_metrics.not_finite[step_metrics.not_finite >= 0]
    if bad.size:
        more = " and perhaps others" if bad.size == steps.NAMED else ""
        raise FloatingPointError(
            f"A loss is not finite at step {step}: training examples "
            f"{', '.join(map(str, sorted(bad)))}{more} "
            f"({run.method.title}, λ = {run.method.lam}, seed {run.seed})."
        )
    _add(totals, step_metrics)
    examples = max(int(step_metrics.examples), 1)
    callbacks.stepped(
        step,
        {
            "loss": float(step_metrics.loss) / examples,
            "F": float(step_metrics.tilted_loss),
            "effective": float(step_metrics.effective),
            "largest": float(step_metrics.largest),
            "total": float(step_metrics.weight) / examples,
        },
    )


_SUMS = (
    "examples",
    "loss",
    "weight",
    "weight_mislabelled",
    "examples_mislabelled",
)
_SUMS_BY_CLASS = ("weight_of_class", "examples_of_class")


def _add(totals: dict[str, Any], step_metrics: steps.StepMetrics) -> None:
    """Adds a step to an epoch's totals: numbers, and arrays `[classes]`."""
    totals["tilted_loss"], totals["lam"] = (
        float(step_metrics.tilted_loss),
        float(step_metrics.lam),
    )
    totals["largest"] = max(totals.get("largest", 0.0), float(step_metrics.largest))
    totals["steps"] = totals.get("steps", 0) + 1
    sums = {name: float(getattr(step_metrics, name)) for name in _SUMS}
    sums["effective"] = float(step_metrics.effective)
    sums["total"] = sums["weight"] / max(sums["examples"], 1.0)
    for name, value in sums.items():
        totals[name] = totals.get(name, 0.0) + value
    for name in _SUMS_BY_CLASS:
        value = np.asarray(getattr(step_metrics, name), np.float64)
        totals[name] = np.asarray(totals.get(name, 0.0)) + value


def event_of(
    epoch: int,
    per_epoch: int,
    hyperparams: methods.StepHyperparams,
    totals: dict[str, Any],
    waited: float,
    seconds: float,
) -> dict[str, Any]:
    """The log event of an epoch, without evaluations.

    Args:
      epoch: from 0.
      per_epoch: updates per epoch.
      hyperparams: of the last update.
      totals: sums of the metrics over the updates.
      waited: seconds that the loop waited for batches.
      seconds: duration of the epoch.

    Returns:
      Keywords for `Callbacks.write`.
    """
    return {
        "event": "epoch",
        "epoch": epoch + 1,
        "step": (epoch + 1) * per_epoch,
        "learning_rate": hyperparams.learning_rate,
        "lam": totals["lam"],
        **_summary(totals),
        "waited": waited,
        "seconds": seconds,
        "validation": None,
        "test": None,
    }


def _summary(totals: dict[str, Any]) -> dict[str, Any]:
    """Metrics of an epoch, from its totals. Losses are those before each update."""
    counts = np.array(totals["examples_of_class"])
    of_class = np.array(totals["weight_of_class"])
    wrong = totals["examples_mislabelled"]
    clean = totals["examples"] - wrong
    return {
        "loss": totals["loss"] / totals["examples"],
        "tilted_loss": totals["tilted_loss"],
        "effective_sample_size": totals["effective"] / totals["steps"],
        "largest_weight": totals["largest"],
        "total_weight": totals["total"] / totals["steps"],
        "weight_by_class": np.divide(
            of_class, counts, out=np.full(len(counts), math.nan), where=counts > 0
        ),
        "weight_clean": (totals["weight"] - totals["weight_mislabelled"]) / clean
        if clean
        else None,
        "weight_mislabelled": totals["weight_mislabelled"] / wrong if wrong else None,
    }
