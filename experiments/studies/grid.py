"""One engine for grids of runs: trains what is missing, reads it, and chooses.

A study states its trials and makes a table of their outcomes. Every trial is a run
directory below the grid's, as `train` writes them, which `report` reads too.
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from experiments import configs
from experiments.data import datasets
from experiments.data.task import Task
from experiments.results import aggregate, run_dir, run_log
from experiments.results.aggregate import Measure, Result
from experiments.train import evaluation, loop, runs, sharding, vmapped
from experiments.train.session import Session

GRID, TABLE, TRAININGS = run_dir.GRID, "table.md", run_dir.TRAININGS

Key = TypeVar("Key", bound=Hashable)


class Trial(NamedTuple):
    """One training of a grid."""

    setting: Any  # what the trials have in common that differ only in the seed
    run: configs.Run
    out: pathlib.Path  # run directory
    known: Result | None = None  # of an earlier grid: such a trial is not trained


def trial(out: pathlib.Path, setting: Hashable, name: str, run: configs.Run) -> Trial:
    """A trial of the grid in `out`; `name` is that of its setting in directories."""
    return Trial(setting, run, out / TRAININGS / f"{name}-seed{run.seed}")


@dataclasses.dataclass(frozen=True)
class Grid:
    """Trainings below one directory."""

    out: pathlib.Path  # trials lie in its subdirectory `TRAININGS`
    preset: str  # its name, in the configurations of the trials
    # Configuration that all trials share. A directory with another one is refused; one
    # with other settings or seeds is continued.
    shared: Mapping[str, Any]
    trials: Sequence[Trial]  # in the order in which they are trained
    session: Session
    vmapped: int | None = None  # most trials in one program; None trains one by one
    # Whether an interrupted trial resumes from a checkpoint; without, it restarts.
    # Checkpoints take longer than a training of seconds.
    checkpoints: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The trials of one setting."""

    results: dict[int, Result]  # of the finished ones, by seed
    diverged: set[int]  # seeds whose loss was not finite

    @property
    def ended(self) -> set[int]:
        """The seeds of which no training is missing."""
        return {*self.results, *self.diverged}

    def of(self, seeds: Iterable[int]) -> "Outcome":
        """The outcome of some of the seeds, in their order."""
        kept = {seed: self.results[seed] for seed in seeds if seed in self.results}
        return Outcome(kept, self.diverged & {*seeds})

    def at_best_epoch(self, by: str = "accuracy") -> "Outcome":
        """Each result with only the epoch of its highest metric on validation data."""
        kept = {
            seed: dataclasses.replace(result, epochs=[best])
            for seed, result in self.results.items()
            if (best := result.best("validation", by)) is not None
        }
        return Outcome(kept, self.diverged)

    def by_seed(self, measure: Measure) -> dict[int, Any]:
        """A metric of the last epoch, by seed."""
        return {seed: measure(r.epochs[-1]) for seed, r in self.results.items()}

    def last(self, measure: Measure) -> np.ndarray:
        """A metric of the last epoch, float `[seeds, ...]`, NaN where it is None."""
        return np.array([*self.by_seed(measure).values()], float)

    def course(self, measure: Measure) -> np.ndarray:
        """A metric over the epochs, float `[seeds, epochs, ...]`."""
        courses = [[measure(e) for e in r.epochs] for r in self.results.values()]
        return np.array(courses, float)


def validation(event: aggregate.Event) -> float:
    """Validation accuracy after an epoch."""
    return event["validation"]["accuracy"]


def accuracy(event: aggregate.Event) -> float:
    """Test accuracy after an epoch."""
    return event["test"]["accuracy"]


def choose(
    outcomes: Mapping[Key, Outcome], measure: Measure = validation
) -> Key | None:
    """The setting of the highest mean validation accuracy, the first of equals.

    Or of the highest mean of another measure. Among settings of the same seeds none of
    whose trials diverged; None if there is none.
    """
    return best(
        {
            setting: np.mean(outcome.last(measure)).round(9)
            for setting, outcome in outcomes.items()
            if outcome.results and not outcome.diverged
        }
    )


def best(scores: Mapping[Key, float | None]) -> Key | None:
    """The key of the highest score, the first of equals; None and NaN are none."""
    known = {key: s for key, s in scores.items() if s is not None and s == s}
    return max(known, key=lambda key: known[key], default=None)


def main(
    grid: Grid, report: Callable[[], str], finish: Callable[[], None] = lambda: None
) -> int:
    """Trains the trials that are missing, and reports on those that are there.

    `report` returns the table, in Markdown, and may write other files; `finish` is
    called when all trials have ended. Returns 0, or 130 if it was interrupted; the same
    command then continues. Raises BadConfiguration where the directory holds another
    grid, or another process trains there; there is no validation data; or the trials
    cannot be vmapped.
    """
    status = 0
    with run_dir.lock(grid.out), datasets.remembering():
        tasks = _begin(grid)
        try:
            _train_missing(grid, tasks)
            finish()
        except KeyboardInterrupt:
            note = f"Interrupted; the same command goes on from {grid.out}."
            print(note, file=sys.stderr)
            status = 130
        text = report()
        (grid.out / TABLE).write_text(text, encoding="utf-8")
    print(text)
    print(f"All of it: {grid.out}")
    return status


def outcomes(trials: Iterable[Trial]) -> dict[Any, Outcome]:
    """What is known of trials or in their directories, by setting, in order.

    Raises BadConfiguration where a directory holds another run.
    """
    by_setting: dict[Any, Outcome] = {}
    for trial in trials:
        outcome = by_setting.setdefault(trial.setting, Outcome({}, set()))
        result = trial.known
        if result is None and (trial.out / run_dir.CONFIG).is_file():
            result = aggregate.read(trial.out)
            evaluation.require_same(f"{trial.out} holds a run", result.run, trial.run)
        if result is not None and result.finished:
            outcome.results[trial.run.seed] = result
        elif diverged(trial):
            outcome.diverged.add(trial.run.seed)
    return by_setting


def complete(outcomes: Mapping[Key, Outcome]) -> dict[Key, Outcome]:
    """The outcomes of the seeds that ended in every setting; none if there are none.

    Settings are compared seed by seed, so a seed that is missing in one of them, as an
    interrupt leaves it, is left out of all.
    """
    seeds = set.intersection(*(outcome.ended for outcome in outcomes.values()))
    return {s: o.of(sorted(seeds)) for s, o in outcomes.items()} if seeds else {}


def diverged(trial: Trial) -> bool:
    """Whether the loss of a trial, or of what it starts from, was not finite."""
    if trial.known is not None:
        return trial.known.diverged is not None
    return any(
        (out / run_dir.CONFIG).is_file() and aggregate.read(out).diverged is not None
        for out in (trial.out, trial.run.start_from)
        if out is not None
    )


def _begin(grid: Grid) -> dict[int, Task]:
    """Refuses what cannot be trained, and describes what can in the directory.

    Of every data set that trials use, as methods hold out different sets, before any of
    them is trained. Returns the tasks by seed if they are vmapped, else none.
    """
    path = grid.out / GRID
    shared = run_log.to_jsonable({"preset": grid.preset, **grid.shared})
    if there := run_log.load(path):
        evaluation.require_same(f"{grid.out} holds a grid", there, shared)
    elif (grid.out / run_dir.CONFIG).is_file():
        raise configs.BadConfiguration(
            f"{grid.out} is the directory of a run: give another --out."
        )
    tasks: dict[int, Task] = {}
    checked = set()
    for run in (trial.run for trial in grid.trials if trial.known is None):
        key = run.data, run.seed if grid.vmapped else None
        if key in checked:
            continue
        checked.add(key)
        task = evaluation.task_of(run, grid.session)
        if task.validation is None:
            raise configs.BadConfiguration(
                f"{run.data.source} has no validation split, and hyperparameters "
                "are not chosen on test data: give --data.validation-per-class."
            )
        if grid.vmapped:
            tasks[run.seed] = task
    if grid.vmapped:
        members = [trial.run for trial in grid.trials]
        vmapped.require(members, [tasks[run.seed] for run in members])
    run_log.save(path, shared)
    return tasks


def _train_missing(grid: Grid, tasks: Mapping[int, Task]) -> None:
    """Trains one after the other, or in groups of one size, which share a program."""
    missing = [t for t in grid.trials if not outcomes([t])[t.setting].ended]
    # As few groups as possible, the first one the largest.
    count = -(-len(missing) // (grid.vmapped or 1))
    parts = np.array_split(np.arange(len(missing)), count) if missing else ()
    groups = [[missing[index] for index in part] for part in parts]
    total, done = sum(trial.run.epochs for trial in missing), 0
    # None: no bar where standard error is not a terminal.
    with tqdm(total=total, unit="epoch", disable=None) as progress:
        for group in groups:
            name, more = group[0].out.name, len(group) - 1
            progress.set_description(name + (f" and {more} more" if more else ""))
            if not grid.checkpoints:
                _train(grid, group, len(groups[0]), tasks, progress.update)
            elif not diverged(first := group[0]):  # as what it starts from may have
                with contextlib.suppress(FloatingPointError):  # its records have it
                    session = _session(grid, first)
                    if runs.main(grid.preset, first.run, session, quiet=True):
                        raise KeyboardInterrupt
            done += sum(trial.run.epochs for trial in group)
            progress.update(done - progress.n)
            if progress.disable and grid.checkpoints:
                print(f"{name}: {done} of {total} epochs.", file=sys.stderr, flush=True)


def fit_vmapped(
    together: vmapped.VmappedRuns,
) -> tuple[list[list[aggregate.Event]], list[str | None]]:
    """Trains vmapped runs; the events of each, and why it ended early or None."""
    events: list[list[aggregate.Event]] = [[] for _ in together.runs]
    callbacks = [
        loop.Callbacks(lambda of_member=of_member, **event: of_member.append(event))
        for of_member in events
    ]
    return events, loop.fit_all(together, callbacks)


def _session(grid: Grid, trial: Trial) -> Session:
    return dataclasses.replace(grid.session, out=trial.out, tensorboard=False)


def _train(
    grid: Grid,
    group: Sequence[Trial],
    size: int,
    tasks: Mapping[int, Task],
    progressed: Callable[[], Any],
) -> None:
    """Trains one trial, or a vmapped group, padded to its size with its last one."""
    layout, session, began = sharding.layout(1), grid.session, time.monotonic()
    padding = size - len(group)
    members = [trial.run for trial in (*group, *[group[-1]] * padding)]
    of_run = [
        tasks[run.seed] if grid.vmapped else evaluation.task_of(run, session)
        for run in members
    ]
    with contextlib.ExitStack() as stack:
        recorders: list[run_log.Recorder] = []
        for trial, task in zip(group, of_run, strict=False):
            own = _session(grid, trial)
            stack.enter_context(run_dir.lock(trial.out))
            runs.write_config(trial.out, grid.preset, trial.run, own, task)
            recorder = run_log.Recorder(trial.out / run_dir.RECORDS)
            recorders.append(stack.enter_context(recorder))

        def write(recorder: run_log.Recorder, **event: Any) -> None:
            recorder.write(**event)
            progressed()

        callbacks = [loop.Callbacks(functools.partial(write, own)) for own in recorders]
        failures: list[str | None] = [None]
        if grid.vmapped:
            callbacks += [loop.Callbacks(lambda **event: None)] * padding
            most = session.steps_per_dispatch
            together = vmapped.VmappedRuns(members, of_run, layout, most)
            failures = loop.fit_all(together, callbacks)
        else:
            (run,), (task,) = members, of_run
            start = loop.begin(run, task, layout)
            try:
                loop.fit(run, task, layout, session, start, callbacks[0])
            except FloatingPointError as error:
                failures = [str(error)]
        seconds = time.monotonic() - began
        for recorder, run, task, failure in zip(
            recorders, members, of_run, failures, strict=False
        ):
            if failure is not None:
                recorder.write(event="diverged", error=failure)
            else:
                step = loop.steps_per_epoch(run, task) * run.epochs
                recorder.write(event="finished", step=step, seconds=seconds)
