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
from experiments.data import pipeline
from experiments.data.pipeline import Task
from experiments.data.sources import Examples
from experiments.results import metrics
from experiments.train import device_loop, objectives, steps
from experiments.train.sharding import Layout

EVAL_BATCH = 256  # examples at most; a set smaller than that is padded to it


class Place(NamedTuple):
    """Where a training stands: what is trained next."""

    epoch: int  # from 0
    batch: int  # of that epoch, from 0
    totals: dict[str, Any]  # of the epoch's batches so far; see `_add`


class Callbacks(NamedTuple):
    """What a loop tells those who run it.

    Attributes:
      write: takes an event as keywords.
      stepped: takes the step, and what is worth showing of it as numbers by name.
      due: takes the step after every update, or after many made at once, and says
        whether to save within the epoch.
      save: takes the step, the state and the place after an update that was due, or
        that ended an epoch. All that was trained on until then has finite losses.
    """

    write: Callable[..., None]
    stepped: Callable[[int, dict[str, float]], None] = lambda step, shown: None
    due: Callable[[int], bool] = lambda step: False
    save: Callable[[int, steps.TrainState, Place], None] = lambda step, state, place: (
        None
    )


class Start(NamedTuple):
    """Where a loop begins."""

    state: steps.TrainState
    place: Place = Place(0, 0, {})


def fit(
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: configs.Session,
    start: Start,
    hooks: Callbacks,
    *,
    test_last: bool = False,
    until: int | None = None,
) -> steps.TrainState:
    """Trains, and writes one event per epoch.

    Steps are dispatched from Python, one by one unless the session has many at once:
    inside `lax.scan` XLA's convolutions are tens of times slower on a CPU. What a step
    saw is read while the next one runs, so that the device does not wait for it.

    Args:
      run: what to run.
      task: what on.
      layout: devices.
      session: how batches are made ready and the step is run.
      start: state and place, of `begin` or of a checkpoint.
      hooks: who is told.
      test_last: whether the test set is looked at after the last epoch alone.
      until: epoch to stop before, from 0; None trains to the end.

    Returns:
      The state after the last epoch that was trained.

    Raises:
      FloatingPointError: a loss is not finite; names the step and the examples.
      BadConfiguration: many steps at once are asked for, and the run has it not.
    """
    program = steps.program(run, layout, session.parallel)
    per_epoch = steps_per_epoch(run, task)
    state, place = start
    given = about(run, task, layout)
    with _updates(program, place, run, task, layout, session) as update:
        for epoch in range(place.epoch, run.epochs if until is None else until):
            began, waited = time.monotonic(), update.waited
            first = place.batch if epoch == place.epoch else 0
            totals = dict(place.totals) if first else {}
            if first == 0 and _prunes(run, epoch):
                state = _prune(program, layout, state, task.train, run, session)
            given = given._replace(class_weights=class_weights(run, task, epoch))
            unread: collections.deque[tuple[int, int, steps.StepMetrics]] = (
                collections.deque()
            )
            number = first
            while number < per_epoch:
                step = epoch * per_epoch + number
                state, seen, moments = update(state, given, epoch, number)
                unread.append((step, len(moments), seen))
                number, step = number + len(moments), step + len(moments)
                due, whole = hooks.due(step), number == per_epoch
                # What is saved has been read: the totals are of all that was trained.
                while len(unread) > (0 if due or whole else 1):
                    _read_all(run, unread.popleft(), totals, hooks)
                if due and not whole:
                    hooks.save(step, state, Place(epoch, number, totals))
            last = epoch + 1 == run.epochs
            waited, seconds = update.waited - waited, time.monotonic() - began
            event = event_of(epoch, per_epoch, moments[-1], totals, waited, seconds)
            if last or (epoch + 1) % run.eval_every == 0:
                for name in ("validation", "test"):
                    examples = getattr(task, name)
                    if examples is not None and (
                        last or name == "validation" or not test_last
                    ):
                        event[name] = evaluate(
                            program, layout, state, examples, run, task, session
                        )
            hooks.write(**event)
            hooks.save((epoch + 1) * per_epoch, state, Place(epoch + 1, 0, {}))
    return state


class _OneByOne:
    """Makes the updates of a training batch by batch; see `resident.Dispatches`."""

    def __init__(
        self,
        program: steps.Program,
        run: configs.Run,
        batches: pipeline.Prefetched,
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
        given: steps.DatasetStats,
        epoch: int,
        number: int,
    ) -> tuple[steps.TrainState, steps.StepMetrics, list[methods.StepHyperparams]]:
        """The next update; that of the next batch."""
        step = epoch * self._per_epoch + number
        moment = methods.moment(self._run, self._per_epoch, step)
        update = self._program.train(moment)
        state, seen = update(state, next(self._batches), given, moment)
        return state, seen, [moment]


@contextlib.contextmanager
def _updates(
    program: steps.Program,
    place: Place,
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: configs.Session,
) -> Iterator[_OneByOne | device_loop.Dispatches]:
    """What makes the updates from a place on."""
    per_epoch, most = steps_per_epoch(run, task), session.steps_per_dispatch
    if most > 1:
        yield device_loop.Dispatches(run, task.train, layout, per_epoch, most)
        return
    loader = batches_from(place, run, task, layout, session)
    with pipeline.prefetch(loader, session.prefetch, layout.place) as batches:
        yield _OneByOne(program, run, batches, per_epoch)


def steps_per_epoch(run: configs.Run, task: Task) -> int:
    """Updates in an epoch; the last may have fewer examples than the others."""
    return -(-len(task.train.labels) // run.batch_size)


def begin(
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: configs.Session,
    network: Any = None,
) -> Start:
    """The state before the first step.

    Args:
      run: what to run.
      task: what on.
      layout: devices.
      session: how the step is run.
      network: whose arrays to start from; None draws them by the run's seed.

    Returns:
      Where the loop begins.
    """
    program = steps.program(run, layout, session.parallel)
    drawn = steps.draw(run, run.seed) if network is None else network
    return Start(program.init(drawn, run.seed, len(task.train.labels)))


def evaluate(
    program: steps.Program,
    layout: Layout,
    state: steps.TrainState,
    examples: Examples,
    run: configs.Run,
    task: Task,
    session: configs.Session,
) -> dict[str, Any]:
    """Accuracy and what else `metrics.summary` has."""
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
    examples: Examples, run: configs.Run, layout: Layout, session: configs.Session
) -> Iterator[pipeline.Batch]:
    """Batches of the examples as they are, on the devices.

    Args:
      examples: of any split.
      run: what they are like.
      layout: devices.
      session: how batches are made ready.

    Yields:
      Batches, the last one padded.
    """
    size = min(EVAL_BATCH, 2 * run.batch_size)
    size = -(-size // layout.devices) * layout.devices
    batches = pipeline.batches(
        examples,
        run.data,
        size,
        rows=layout.rows(size),
        workers=session.workers,
    )
    with pipeline.prefetch(batches, session.prefetch, layout.place) as placed:
        yield from placed


def batches_from(
    place: Place,
    run: configs.Run,
    task: Task,
    layout: Layout,
    session: configs.Session,
) -> Generator[pipeline.Batch, None, None]:
    """The batches of a training from a place on, clean ones beside them if need be.

    Args:
      place: where the training stands.
      run: what it is.
      task: what on.
      layout: devices.
      session: how batches are made ready.

    Returns:
      Batches of this host's rows, not yet placed. Closing it ends its processes.
    """
    batches = pipeline.training(
        task.train,
        run.data,
        run.batch_size,
        seed=run.seed,
        epochs=range(place.epoch, run.epochs),
        first=place.batch,
        rows=layout.rows(run.batch_size),
        workers=session.workers,
    )
    if not run.method.looks_at_clean:
        return batches
    assert task.clean is not None
    per_epoch = steps_per_epoch(run, task)
    size = min(run.method.clean_batch_size, len(task.clean.labels))
    padded = -(-size // layout.devices) * layout.devices
    clean = pipeline.clean(
        task.clean,
        run.data,
        size,
        seed=run.seed,
        steps=range(place.epoch * per_epoch + place.batch, run.epochs * per_epoch),
        size=padded,
        rows=layout.rows(padded),
        workers=session.workers,
    )
    return pipeline.beside(batches, clean)


def about(run: configs.Run, task: Task, layout: Layout) -> steps.DatasetStats:
    """What the training examples are like, on the devices; no class weights yet."""
    counts = np.maximum(task.class_counts, 1).astype(np.float32)
    return layout.replicate(
        steps.DatasetStats(counts, np.ones_like(counts), task.mislabelled)
    )


def class_weights(run: configs.Run, task: Task, epoch: int) -> np.ndarray:
    """The factor on each class in an epoch, float32 `[classes]`."""
    on = epoch >= run.epoch_at(run.loss.class_weights_from)
    return objectives.class_weights(run.loss, task.class_counts, on)


def _prunes(run: configs.Run, epoch: int) -> bool:
    """Whether truncation looks anew at what to drop before this epoch."""
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
    session: configs.Session,
) -> steps.TrainState:
    for batch in in_order(examples, run, layout, session):
        state = program.prune(state, batch)
    return state


def _read_all(
    run: configs.Run,
    unread: tuple[int, int, steps.StepMetrics],
    totals: dict[str, Any],
    hooks: Callbacks,
) -> None:
    """Waits for what steps saw, after so many before them, and reads each."""
    step, count, seen = unread[0], unread[1], jax.device_get(unread[2])
    if seen.loss.ndim == 0:  # of one that was made alone
        read(run, step + 1, seen, totals, hooks)
        return
    for place in range(count):
        one = steps.StepMetrics(*(values[place] for values in seen))
        read(run, step + 1 + place, one, totals, hooks)


def read(
    run: configs.Run,
    step: int,
    seen: steps.StepMetrics,
    totals: dict[str, Any],
    hooks: Callbacks,
) -> None:
    """Refuses what is not finite, adds up what a step saw, and tells of it.

    Args:
      run: that is trained.
      step: number of updates with this one.
      seen: by it, on the host.
      totals: of the epoch, to be added to.
      hooks: who is told.

    Raises:
      FloatingPointError: a loss is not finite; names the step and the examples.
    """
    bad = seen.not_finite[seen.not_finite >= 0]
    if bad.size:
        more = " and perhaps others" if bad.size == steps.NAMED else ""
        raise FloatingPointError(
            f"A loss is not finite at step {step}: training examples "
            f"{', '.join(map(str, sorted(bad)))}{more} "
            f"({run.method.title}, λ = {run.method.lam}, seed {run.seed})."
        )
    _add(totals, seen)
    examples = max(int(seen.examples), 1)
    hooks.stepped(
        step,
        {
            "loss": float(seen.loss) / examples,
            "F": float(seen.tilted_loss),
            "effective": float(seen.effective),
            "largest": float(seen.largest),
            "total": float(seen.weight) / examples,
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


def _add(totals: dict[str, Any], seen: steps.StepMetrics) -> None:
    """Adds a step to an epoch's totals: numbers, and arrays `[classes]`."""
    totals["tilted_loss"], totals["lam"] = float(seen.tilted_loss), float(seen.lam)
    totals["largest"] = max(totals.get("largest", 0.0), float(seen.largest))
    totals["steps"] = totals.get("steps", 0) + 1
    sums = {name: float(getattr(seen, name)) for name in _SUMS}
    sums["effective"] = float(seen.effective)
    sums["total"] = sums["weight"] / max(sums["examples"], 1.0)
    for name, value in sums.items():
        totals[name] = totals.get(name, 0.0) + value
    for name in _SUMS_BY_CLASS:
        value = np.asarray(getattr(seen, name), np.float64)
        totals[name] = np.asarray(totals.get(name, 0.0)) + value


def event_of(
    epoch: int,
    per_epoch: int,
    moment: methods.StepHyperparams,
    totals: dict[str, Any],
    waited: float,
    seconds: float,
) -> dict[str, Any]:
    """The event of an epoch, without evaluations.

    Args:
      epoch: from 0.
      per_epoch: updates in one.
      moment: what was set for its last update.
      totals: of its updates.
      waited: seconds that were waited for batches.
      seconds: that it took.

    Returns:
      Keywords for `Callbacks.write`.
    """
    return {
        "event": "epoch",
        "epoch": epoch + 1,
        "step": (epoch + 1) * per_epoch,
        "learning_rate": moment.learning_rate,
        "lam": totals["lam"],
        **_summary(totals),
        "waited": waited,
        "seconds": seconds,
        "validation": None,
        "test": None,
    }


def _summary(totals: dict[str, Any]) -> dict[str, Any]:
    """An epoch in a few numbers. The loss is before each update, weights after."""
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
