"""Reads run directories and groups the seeds of a run."""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from experiments import configs
from experiments.report import formatting
from experiments.results import run_dir as rundir
from experiments.results import run_log

Event = dict[str, Any]  # one line of the records
Measure = Callable[[Event], Any]  # of an epoch; None where it was not taken


@dataclasses.dataclass(frozen=True, eq=False)  # an array has no truth value
class Result:
    """One run, as far as it got."""

    directory: pathlib.Path
    preset: str | None
    run: configs.Run
    class_counts: np.ndarray  # training examples of each class, [classes]
    epochs: list[Event]  # those finished, in order, none of them twice
    finished: bool = False
    diverged: str | None = None  # message on a loss not finite, which ended the run
    resumed: int = 0  # how often it was taken up again
    failed_saves: int = 0  # checkpoints that could not be written
    unreadable: int = 0  # lines of the records that are no JSON, as a crash leaves them

    @property
    def progress(self) -> str:
        """How far it got, in words."""
        done = self.epochs[-1]["epoch"] if self.epochs else 0
        return f"epoch {done} of {self.run.epochs}"

    def best(self, split: str, by: str = "accuracy") -> Event | None:
        """The first epoch of the highest accuracy on a split, of those with a test.

        Or of another of its metrics. None where the split was never evaluated together
        with the test.
        """
        metric = lambda event: float(event[split][by])
        known = [
            event
            for event in self.epochs
            if event.get(split) and event.get("test")
            if metric(event) >= 0.0  # NaN is not
        ]
        return max(known, key=metric, default=None)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed."""

    title: str  # distinguishes the group from the others
    # The runs that are averaged, by seed: the finished ones, or the unfinished ones if
    # there is none; and the other runs.
    results: list[Result]
    left_out: list[Result]

    @property
    def run(self) -> configs.Run:
        """The run that all have in common; the seed is the first one's."""
        return self.results[0].run

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs that are averaged."""
        return [result.run.seed for result in self.results]

    @property
    def class_counts(self) -> np.ndarray:
        """Training examples of each class, the mean over the seeds, `[classes]`."""
        return np.mean([result.class_counts for result in self.results], axis=0)

    def course(self, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
        """A metric over the epochs in which all runs have it.

        Returns those epochs, `[epochs]`, and the values, float `[runs, epochs, ...]`.
        """
        by_result = [_measured(result.epochs, measure) for result in self.results]
        epochs = sorted(set.intersection(*(set(values) for values in by_result)))
        return np.array(epochs, int), np.array(
            [[values[epoch] for epoch in epochs] for values in by_result], float
        )

    def last(self) -> list[Event] | None:
        """The event of each run at the last epoch that all of them were tested after.

        None if there is no such epoch.
        """
        tested = [
            {event["epoch"]: event for event in result.epochs if event.get("test")}
            for result in self.results
        ]
        common = set.intersection(*(set(events) for events in tested))
        return [events[max(common)] for events in tested] if common else None

    def best(self, split: str) -> list[Event] | None:
        """For each run its own best epoch on a split; None if a run has none."""
        events = [result.best(split) for result in self.results]
        return None if None in events else events


def values(events: Sequence[Event], measure: Measure) -> np.ndarray | None:
    """A measure of one event of each run, float `[runs, ...]`; None if any lacks it."""
    measured = [_try(measure, event) for event in events]
    if any(value is None for value in measured):
        return None
    return np.array(measured, float)  # "inf" and "nan" too


def read(directory: pathlib.Path) -> Result:
    """Reads the log and configuration of a run, which may be unfinished.

    A torn line is skipped: the run is still writing it, or was killed as it did. Where
    a run was resumed, epochs that it repeated replace the earlier ones. Raises
    BadConfiguration where there is no such directory, or no config of a run in it.
    """
    kept = rundir.load(directory)
    events, unreadable = run_log.events(directory / rundir.RECORDS)
    epochs: dict[int, Event] = {}
    finished, diverged, counts = False, None, collections.Counter()
    for event in events:
        kind = event.get("event")
        counts[kind] += 1
        if kind == "epoch":
            epochs[event["epoch"]] = event
        elif kind == "resumed":
            diverged = None
            epochs = {n: e for n, e in epochs.items() if e["step"] <= event["step"]}
        elif kind == "diverged":
            diverged = event["error"]
        if kind in ("epoch", "resumed", "finished"):
            finished = kind == "finished"
    return Result(
        directory=directory,
        preset=kept.preset,
        run=kept.run,
        class_counts=np.array(kept.class_counts, float),
        epochs=[epochs[number] for number in sorted(epochs)],
        finished=finished,
        diverged=diverged,
        resumed=counts["resumed"],
        failed_saves=counts["save_failed"],
        unreadable=unreadable,
    )


def remedy(run: configs.Run) -> str:
    """A sentence on what to try after a run that diverged."""
    method = run.method
    ways = [f"a smaller learning rate (it is {run.optimizer.learning_rate:g})"]
    if method.attends and math.isfinite(method.lam):
        ways += [
            f"a larger |λ| (it is {abs(method.lam):g})",
            "a radius in place of λ "
            f"(--method.rho 0.1 --method.lam={'-inf' if method.lam < 0 else 'inf'})",
        ]
    elif method.attends and method.rho is not None:
        ways.append(f"a smaller radius --method.rho (it is {method.rho:g})")
    return f"Try {', or '.join(ways)}."


def grouped(results: Iterable[Result]) -> list[Group]:
    """Puts the seeds of a run together, in the order in which runs are first met.

    A directory that is given twice counts once. Raises BadConfiguration where two
    directories hold the same run with the same seed, whose mean would count it twice.
    """
    together: dict[Any, dict[int, Result]] = {}
    for result in {r.directory.resolve(): r for r in results}.values():
        seeds, seed = together.setdefault(_identity(result.run), {}), result.run.seed
        if seed in seeds:
            raise configs.BadConfiguration(
                f"{seeds[seed].directory} and {result.directory} hold the same run "
                f"with the same seed, {seed}: name one of them."
            )
        seeds[seed] = result
    groups = [[seeds[seed] for seed in sorted(seeds)] for seeds in together.values()]
    titles, found = _titles([members[0] for members in groups]), []
    for title, members in zip(titles, groups, strict=True):
        finished = [r for r in members if r.finished]
        begun = [r for r in members if r.epochs]
        taken = finished or begun or members
        found.append(Group(title, taken, [r for r in members if r not in taken]))
    return found


def _measured(epochs: list[Event], measure: Measure) -> dict[int, Any]:
    """The measure by epoch, where it was taken."""
    by_epoch = {event["epoch"]: _try(measure, event) for event in epochs}
    return {epoch: value for epoch, value in by_epoch.items() if value is not None}


def _try(measure: Measure, event: Event) -> Any:
    """The measure, or None where the event does not have what it is taken of."""
    try:
        return measure(event)
    except (KeyError, TypeError):  # a missing key; the None of a missing evaluation
        return None


def _identity(run: configs.Run) -> Any:
    """A key that is equal for runs that differ only in the seed.

    A second stage starts from the first one of its own seed, so the key has the
    configuration of that run.
    """
    first_stage: Any = run.start_from
    if run.start_from is not None and (run.start_from / rundir.CONFIG).is_file():
        first_stage = _identity(read(run.start_from).run)
    return dataclasses.replace(run, seed=0, start_from=None), first_stage


def _titles(results: list[Result]) -> list[str]:
    """The preset's name, with the differing fields where it is not unique."""
    names = [r.preset or r.run.data.source for r in results]
    settings = [run_log.flat(dataclasses.asdict(r.run)) for r in results]
    brief, full, of_method = [], [], {"method.name", "method.lam", "method.rho"}
    for name, own, result in zip(names, settings, results, strict=True):
        namesakes = [s for n, s in zip(names, settings, strict=True) if n == name]
        differing = {
            key: formatting.number(value) if isinstance(value, float) else value
            for key, value in own.items()
            if key != "seed" and any(other[key] != value for other in namesakes)
        }
        words = [name]
        if differing.keys() & of_method:
            words.append(formatting.method(result.run.method))
        fields = {key: f"{key} {value}" for key, value in differing.items()}
        full.append(", ".join([*words, *fields.values()]))
        others = (fields[key] for key in fields if key not in of_method)
        brief.append(", ".join([*words, *others]))
    return [b if brief.count(b) == 1 else f for b, f in zip(brief, full, strict=True)]
