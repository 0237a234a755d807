"""The loop over epochs: of one run here, of vmapped runs in `vmapped`."""

import abc
import collections
import contextlib
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import configs, methods
from experiments.data import loader
from experiments.data.task import Task
from experiments.data.types import Examples
from experiments.report import formatting
from experiments.results import metrics
from experiments.train import device_loop, steps
from experiments.train.losses import class_weights
from experiments.train.session import Session
from experiments.train.sharding import Layout

SPLITS = ("validation", "test")  # that are evaluated, in this order
EVAL_BATCH = 256  # examples at most; a set smaller than that is padded to it


class Position(NamedTuple):
    """The position of a training in its data: the batch that is trained on next."""

    epoch: int  # from 0
    batch: int  # within that epoch, from 0
    totals: dict[str, Any]  # of the epoch's batches so far; see `_add`
    seconds: float = 0.0  # that the epoch has taken so far
    waited: float = 0.0  # seconds of those in which the loop waited for batches


FIRST = Position(0, 0, {})


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
    position: Position = FIRST


class Stepper(abc.ABC):
    """Makes the updates of runs of one schedule of epochs and evaluations.

    It makes many in a dispatch, from indices of examples on the device; one run can be
    given batches instead. The metrics of a single run have no axis of runs, and those
    of a single update none at all.
    """

    runs: Sequence[configs.Run]
    rows: Sequence[np.ndarray | None]  # of each run, as `Task.rows`
    per_epoch: int  # updates of each run in an epoch
    state: steps.TrainState  # of all runs
    waited: float = 0.0  # seconds that the loop has waited for batches
    _layout: Layout
    _size: int  # updates of a dispatch
    _examples: device_loop.DeviceDataset
    _stats: steps.DatasetStats
    _epoch: int
    _indices: tuple[np.ndarray, np.ndarray]  # of the epoch's batches, and `present`
    _vmapped: bool = False

    @abc.abstractmethod
    def begin_epoch(self, epoch: int, first: int = 0) -> None:
        """Prepares an epoch, which goes on at the batch `first`."""

    @abc.abstractmethod
    def evaluate(self) -> list[dict[str, dict[str, Any] | None]]:
        """The `summaries` of each run."""

    def advance(
        self, number: int
    ) -> tuple[steps.StepMetrics, list[methods.StepHyperparams]]:
        """Makes one dispatch of updates, from a batch of the epoch on.

        Returns the metrics of each, followed by those of padding; and hyperparameters.
        """
        end = min(number + self._size, self.per_epoch)
        hyperparams = [self._hyperparams(batch) for batch in range(number, end)]
        index, present = (part[number:end] for part in self._indices)
        step_inputs = device_loop.step_inputs(index, present, hyperparams, self._size)
        on = bool(np.any(hyperparams[0].on))
        update = device_loop.compiled(
            self.runs[0], self._layout, on=on, vmapped=self._vmapped
        )
        self.state, step_metrics = update(
            self.state, self._examples, self._stats, step_inputs
        )
        return step_metrics, hyperparams

    def _hyperparams(self, batch: int) -> methods.StepHyperparams:
        """The hyperparameters of the update from a batch of the epoch."""
        step = self._epoch * self.per_epoch + batch
        return methods.step_hyperparams(self.runs[0], self.per_epoch, step)


def fit(
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: Session,
    start: Start,
    callbacks: Callbacks,
    *,
    until: int | None = None,
) -> steps.TrainState:
    """Trains one run, and writes one event per epoch.

    Steps are dispatched from Python, one by one unless the session asks for many per
    dispatch: inside `lax.scan` XLA's convolutions are tens of times slower on a CPU.
    The metrics of a step are read while the next one runs, so that the device does not
    wait for them.

    Starts from `begin` or from a checkpoint, and stops before the epoch `until`, from
    0, or at the end. Returns the state after the last epoch that was trained.

    Raises:
      FloatingPointError: a loss is not finite; names the step and the examples.
      BadConfiguration: the session asks for many steps per dispatch, which the run does
        not support.
    """
    with contextlib.ExitStack() as stack:
        batches = None
        if session.steps_per_dispatch == 1:
            ahead = batches_from(start.position, run, task, layout, session)
            prefetched = loader.Prefetched(ahead, session.prefetch, layout.shard)
            batches = stack.enter_context(prefetched)
        stepper = _OneRun(run, task, layout, session, start.state, batches)
        (failure,) = fit_all(stepper, [callbacks], start.position, until)
    if failure is not None:
        raise FloatingPointError(failure)
    return stepper.state


def fit_all(
    stepper: Stepper,
    callbacks: Sequence[Callbacks],
    position: Position = FIRST,
    until: int | None = None,
) -> list[str | None]:
    """Trains all runs of a stepper, and writes one event per run and epoch.

    A run whose loss is not finite writes nothing from then on; the others go on.
    Returns for each run the message about such a loss, or None.

    Args:
      stepper: makes the updates of its `runs`. The seconds of an epoch are those of all
        runs together.
      callbacks: of each run; `due` and `save` are those of the first.
      position: to continue from.
      until: epoch to stop before, from 0; None trains to the end.
    """
    runs = stepper.runs
    run, per_epoch = runs[0], stepper.per_epoch
    due, save = callbacks[0].due, callbacks[0].save
    failures: list[str | None] = [None] * len(runs)
    for epoch in range(position.epoch, run.epochs if until is None else until):
        begun = position if epoch == position.epoch else FIRST
        began = time.monotonic() - begun.seconds
        waited = stepper.waited - begun.waited
        number, totals = begun.batch, [dict(begun.totals) for _ in runs]
        stepper.begin_epoch(epoch, number)
        unread = collections.deque()  # of arguments of `_read`
        hyperparams: list[methods.StepHyperparams] = []
        while number < per_epoch:
            step = epoch * per_epoch + number
            step_metrics, hyperparams = stepper.advance(number)
            unread.append((step, len(hyperparams), step_metrics))
            number, step = number + len(hyperparams), step + len(hyperparams)
            stop, whole = due(step), number == per_epoch
            # Metrics are read before a checkpoint, so that its totals are complete.
            while len(unread) > (0 if stop or whole else 1):
                _read(stepper, unread.popleft(), totals, callbacks, failures)
            if None not in failures:
                return failures
            if stop and not whole:
                times = time.monotonic() - began, stepper.waited - waited
                save(step, stepper.state, Position(epoch, number, totals[0], *times))
        seconds, waited = time.monotonic() - began, stepper.waited - waited
        evaluates = epoch + 1 == run.epochs or (epoch + 1) % run.eval_every == 0
        evaluated = (
            stepper.evaluate() if evaluates else [dict.fromkeys(SPLITS)] * len(runs)
        )
        rates = np.broadcast_to(hyperparams[-1].learning_rate, len(runs))
        for index, callback in enumerate(callbacks):
            if failures[index] is None:
                callback.write(
                    event="epoch",
                    epoch=epoch + 1,
                    step=(epoch + 1) * per_epoch,
                    learning_rate=rates[index],
                    **_summary(totals[index]),
                    waited=waited,
                    seconds=seconds,
                    **evaluated[index],
                )
        save((epoch + 1) * per_epoch, stepper.state, Position(epoch + 1, 0, {}))
    return failures


class _OneRun(Stepper):
    """The stepper of one run: batch by batch, or many per dispatch without batches."""

    def __init__(
        self,
        run: configs.Run,
        task: Task,
        layout: Layout,
        session: Session,
        state: steps.TrainState,
        batches: loader.Prefetched | None,
    ) -> None:
        self.runs, self.rows = [run], [task.rows]
        self.per_epoch, self.state = steps_per_epoch(run, task), state
        self._run, self._task, self._layout, self._session = run, task, layout, session
        self._program = steps.program(run, layout, session.parallel)
        self._stats = dataset_stats(run, task, layout)
        self._batches, self._epoch = batches, 0
        if batches is None:
            device_loop.require(run)
            self._examples = device_loop.to_device(task.train, layout)
            most = session.steps_per_dispatch
            self._size = device_loop.dispatch_size(self.per_epoch, most)

    def begin_epoch(self, epoch: int, first: int = 0) -> None:
        """Prunes examples if it is time, sets class weights and draws the batches."""
        run, self._epoch = self._run, epoch
        if first == 0 and _prunes(run, epoch):
            for batch in in_order(self._task.train, run, self._layout, self._session):
                self.state = self._program.prune(self.state, batch)
        weights = class_weights(run, self._task.class_counts, epoch)
        self._stats = self._stats._replace(class_weights=weights)
        if self._batches is None:
            labels = self._task.train.labels
            self._indices = device_loop.epoch_indices(run, labels, epoch)

    def advance(
        self, number: int
    ) -> tuple[steps.StepMetrics, list[methods.StepHyperparams]]:
        """Makes one update, or one dispatch of many without batches."""
        if self._batches is None:
            return super().advance(number)
        hyperparams, batch = self._hyperparams(number), next(self._batches)
        self.waited = self._batches.waited
        update = self._program.train(hyperparams)
        self.state, step_metrics = update(self.state, batch, self._stats, hyperparams)
        return step_metrics, [hyperparams]

    def evaluate(self) -> list[dict[str, dict[str, Any] | None]]:
        """The `summaries` of the run."""
        how = self._run, self._task, self._layout, self._session
        return [evaluate(self.state, *how)]


def steps_per_epoch(run: configs.Run, task: Task) -> int:
    """Updates in an epoch; the last may have fewer examples than the others."""
    return -(-len(task.train.labels) // run.batch_size)


def begin(run: configs.Run, task: Task, layout: Layout, network: Any = None) -> Start:
    """The state before the first step, and the position before the first batch.

    It has the arrays of `network`; None initialises them by the run's seed.
    """
    program = steps.program(run, layout)
    drawn = steps.init_network(run, run.seed) if network is None else network
    return Start(program.init(drawn, run.seed, len(task.train.labels)))


def evaluate(
    state: steps.TrainState,
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: Session,
) -> dict[str, dict[str, Any] | None]:
    """Evaluates a network on validation and test set; see `summaries`."""
    count = functools.partial(steps.program(run, layout).evaluate, state)

    def counts(split: str) -> metrics.Counts | None:
        if (examples := getattr(task, split)) is None:
            return None
        batches = in_order(examples, run, layout, session)
        return functools.reduce(metrics.add, map(count, batches))

    return summaries(run, task, counts)


def summaries(
    run: configs.Run, task: Task, counts: Callable[[str], metrics.Counts | None]
) -> dict[str, dict[str, Any] | None]:
    """The metrics of `metrics.summary` by split; None for one that is not there.

    Of two classes the threshold is chosen on the validation set; it is 0.5 without one,
    and where one has examples of a single class.
    """
    by_split: dict[str, dict[str, Any] | None] = {}
    threshold = None
    for split in SPLITS:
        summary: dict[str, Any] | None = None
        if (of_split := counts(split)) is not None:
            summary = metrics.summary(
                of_split,
                task.class_counts,
                tail_classes=run.data.tail_classes,
                labels=getattr(task, split).labels,
                threshold=threshold,
            )
        by_split[split], threshold = summary, (summary or {}).get("threshold", 0.5)
        threshold = 0.5 if math.isnan(threshold) else threshold
    return by_split


def eval_batch_size(run: configs.Run) -> int:
    """The examples of a batch of an evaluation."""
    return min(EVAL_BATCH, 2 * run.batch_size)


def in_order(
    examples: Examples, run: configs.Run, layout: Layout, session: Session
) -> Iterator[loader.Batch]:
    """Batches of the examples in order and without augmentation, on the devices.

    The last one is padded.
    """
    size = eval_batch_size(run)
    size = -(-size // layout.devices) * layout.devices
    batches = loader.batches(
        examples,
        run.data,
        size,
        rows=layout.rows(size),
        workers=session.workers,
    )
    with loader.Prefetched(batches, session.prefetch, layout.shard) as placed:
        yield from placed


def batches_from(
    position: Position,
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: Session,
) -> Generator[loader.Batch, None, None]:
    """The batches of a training from a position on, in host memory.

    They have this host's rows; for a method that uses the meta set each comes with a
    batch of it. Closing the generator ends its processes.
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
    if not run.method.info.uses_meta_set:
        return batches
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


def _read(
    stepper: Stepper,
    unread: tuple[int, int, steps.StepMetrics],
    totals: Sequence[dict[str, Any]],
    callbacks: Sequence[Callbacks],
    failures: list[str | None],
) -> None:
    """Waits for the metrics of a dispatch and logs them, update by update.

    `unread` has the number of updates before the dispatch, their number in it, and
    their metrics; `failures` gets the message of a run whose loss is not finite.
    """
    step, count, step_metrics = unread[0], unread[1], jax.device_get(unread[2])
    axes = step_metrics.loss.ndim  # of updates and runs, or of updates, or none
    for update in range(count):
        for index, run in enumerate(stepper.runs):
            if failures[index] is None:
                one = (values[(update, index)[:axes]] for values in step_metrics)
                failures[index] = _log_step(
                    run,
                    stepper.rows[index],
                    step + update + 1,
                    steps.StepMetrics(*one),
                    totals[index],
                    callbacks[index],
                )


def _log_step(
    run: configs.Run,
    rows: np.ndarray | None,
    step: int,
    step_metrics: steps.StepMetrics,
    totals: dict[str, Any],
    callbacks: Callbacks,
) -> str | None:
    """Adds a step's metrics to the epoch's totals and logs them.

    Returns instead a message, which names step and examples, if a loss is not finite:
    by their index in the data set's training split, of which `rows` are trained on.
    """
    bad = step_metrics.not_finite[step_metrics.not_finite >= 0]
    if bad.size:
        bad = bad if rows is None else rows[bad]
        more = " and perhaps others" if bad.size == steps.NAMED else ""
        return (
            f"A loss is not finite at step {step}: training examples "
            f"{', '.join(map(str, sorted({*bad.tolist()})))}{more} "
            f"({formatting.method(run.method)}, seed {run.seed})."
        )
    _add(totals, step_metrics)
    examples = max(int(step_metrics.examples), 1)
    callbacks.stepped(
        step,
        {
            "loss": float(step_metrics.loss) / examples,
            "effective": float(step_metrics.effective),
            "largest": float(step_metrics.largest),
        },
    )
    return None


_SUMS = (
    "examples", "loss", "weight", "effective", "weight_mislabelled",
    "examples_mislabelled", "weight_of_class", "examples_of_class",
)  # fmt: skip


def _add(totals: dict[str, Any], step_metrics: steps.StepMetrics) -> None:
    """Adds a step to an epoch's totals: numbers, and arrays `[classes]`."""
    totals["tilted_loss"] = float(step_metrics.tilted_loss)
    totals["lam"] = float(step_metrics.lam)
    totals["largest"] = max(totals.get("largest", 0.0), float(step_metrics.largest))
    totals["steps"] = totals.get("steps", 0) + 1
    sums = {name: np.float64(getattr(step_metrics, name)) for name in _SUMS}
    sums["total"] = sums["weight"] / max(sums["examples"], 1.0)
    for name, value in sums.items():
        totals[name] = np.asarray(totals.get(name, 0.0)) + value


def _summary(totals: dict[str, Any]) -> dict[str, Any]:
    """Metrics of an epoch, from its totals. Losses are those before each update."""
    counts = np.array(totals["examples_of_class"])
    of_class = np.array(totals["weight_of_class"])
    wrong = totals["examples_mislabelled"]
    clean = totals["examples"] - wrong
    return {
        "lam": totals["lam"],
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
