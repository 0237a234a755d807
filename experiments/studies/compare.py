"""Many methods on one preset: trained, chosen on validation data, and tabulated."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import trainer_step
from experiments import commands, configs
from experiments.models import posthoc_classifiers
from experiments.report import formatting
from experiments.results import metrics, run_dir, run_log
from experiments.results.aggregate import Measure
from experiments.studies import grid, method_grid
from experiments.studies.grid import Grid, Outcome, Trial
from experiments.studies.method_grid import MethodGrid
from experiments.train import evaluation
from experiments.train.session import Session

RESULTS, COSTS = "results.json", "costs.json"
CLASSIFIED = "classifiers.json"  # in the directory of a first stage: its classifiers

# Columns of the table: metrics of `metrics.summary`, and their headings.
MEASURES = {
    "accuracy": "accuracy",
    "balanced": "balanced",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "calibration_error": "calibration error",
}
OF_TWO_CLASSES = {"auroc": "AUROC", "average_precision": "average precision"}


class Compared(NamedTuple):
    """A method, and the outcomes of all values of its grid."""

    method: MethodGrid
    outcomes: Mapping[str, Outcome]


class _Setting(NamedTuple):
    """The arguments that all trainings of a comparison share."""

    base: configs.Run  # plain training, evaluated only after the last epoch
    session: Session
    out: pathlib.Path
    seeds: int


def main(preset: str, config: commands.Compare) -> int:
    """Trains the runs that are missing, and tabulates the methods.

    Args:
      preset: its name.
      config: methods, seeds and output directory.

    Returns:
      Exit status: 0, or 130 if it was interrupted; the same command then resumes.

    Raises:
      BadConfiguration: there is no such method, or no validation data; or the
        directory holds a comparison of other runs.
    """
    methods = method_grid.choose(config.run, config.methods)
    base = method_grid.plain(config.run)
    out = config.session.out or pathlib.Path(f"runs/compare-{preset}")
    setting = _Setting(base, config.session, out, config.seeds)
    trials = _trials(setting, methods)

    def finish() -> None:
        for method in methods:
            for seed in range(config.seeds if method.classifier else 0):
                _classify(setting, _first_stage(setting, method, seed))
        if config.measure:
            _measure(setting, methods)

    def report() -> str:
        found = grid.outcomes(trials)
        compared = [_compared(setting, method, found) for method in methods]
        missing = lambda outcome: len(outcome.ended) < config.seeds
        compared = [c for c in compared if not any(map(missing, c.outcomes.values()))]
        run_log.save(out / RESULTS, _results(preset, setting, compared))
        return table(compared, _read(out / COSTS), config.seeds)

    whole = Grid(out, preset, {"run": base}, trials, config.session, checkpoints=True)
    return grid.main(whole, report, finish)


def _trials(setting: _Setting, methods: list[MethodGrid]) -> list[Trial]:
    """Method by method, so that each compiles its program once; first stages before."""
    trials = []
    for method in methods:
        found = method.runs(setting.base)
        for seed in range(setting.seeds):
            for (value, _), run in zip(method.grid, found, strict=True):
                start_from = run.start_from
                if method.stage == 2:
                    trials.append(_first_stage(setting, method, seed))
                    start_from = trials[-1].out
                if method.classifier is None:
                    run = dataclasses.replace(run, seed=seed, start_from=start_from)
                    trials.append(_trial(setting, method, value, run))
    return list({trial.out: trial for trial in trials}.values())


def _trial(
    setting: _Setting, method: MethodGrid, value: str, run: configs.Run
) -> Trial:
    name = f"{method.name}-{value.replace(', ', '_')}"
    return grid.trial(setting.out, (method.name, value), name, run)


def _first_stage(setting: _Setting, method: MethodGrid, seed: int) -> Trial:
    """Plain training at the preset's learning rate, which all second stages share."""
    normalised = method_grid.NORMALISED * method.name.endswith(method_grid.NORMALISED)
    sgd = method_grid.choose(setting.base, f"sgd{normalised}")[-1]
    run = dataclasses.replace(sgd.runs(setting.base)[0], seed=seed)
    return _trial(setting, sgd, sgd.grid[0][0], run)


def _compared(
    setting: _Setting, method: MethodGrid, found: Mapping[Any, Outcome]
) -> Compared:
    """The outcomes of a method for every value of its grid."""
    values = [value for value, _ in method.grid]
    if method.classifier is None:
        outcomes = {value: found[method.name, value] for value in values}
    else:
        first = found[_first_stage(setting, method, 0).setting]
        outcomes = {
            value: _classified(first, f"{method.classifier} {value}")
            for value in values
        }
    return Compared(method, outcomes)


def _classified(first: Outcome, name: str) -> Outcome:
    """The outcome of a post-hoc classifier of finished first stages."""
    kept = {seed: _read(r.directory / CLASSIFIED) for seed, r in first.results.items()}
    results = {
        seed: dataclasses.replace(first.results[seed], epochs=[own[name]])
        for seed, own in kept.items()
        if name in own
    }
    return Outcome(results, first.diverged)


def _classify(setting: _Setting, first: Trial) -> None:
    """Saves all post-hoc classifiers' metrics on validation and test, unless known."""
    stage_one = first.out
    if (stage_one / CLASSIFIED).is_file() or grid.diverged(first):
        return
    seen = evaluation.features(stage_one, setting.session.data_dir)
    kept = run_dir.load(stage_one)
    features, labels = seen.splits["train"]
    found = {}
    for method in method_grid.every(setting.base).values():
        for value, _ in method.grid:
            if method.classifier == "ncm":
                classify = posthoc_classifiers.nearest_class_mean(
                    features, labels, kept.run.data.classes, value
                )
            elif method.classifier == "tau":
                classify = posthoc_classifiers.tau_normalised(seen.kernel, float(value))
            else:
                continue
            found[f"{method.classifier} {value}"] = {
                split: metrics.summary(
                    metrics.count(
                        classify(seen.splits[split][0]),
                        seen.splits[split][1],
                        np.ones(len(seen.splits[split][1]), bool),
                    ),
                    np.array(kept.class_counts),
                    tail_classes=kept.run.data.tail_classes,
                    labels=seen.splits[split][1],
                )
                for split in ("validation", "test")
            }
    run_log.save(stage_one / CLASSIFIED, found)


def _measure(setting: _Setting, chosen: list[MethodGrid]) -> None:
    """Measures time and memory of each method's step, unless they are known."""
    path = setting.out / COSTS
    measured = _read(path)
    missing = [one for one in chosen if one.name not in measured]
    costs = trainer_step.relative_costs(missing, setting.base, setting.session)
    for name, cost in costs:
        measured[name] = cost
        run_log.save(path, measured)


def table(
    compared: Sequence[Compared], measured: dict[str, dict[str, Any]], seeds: int
) -> str:
    """One row a method, in Markdown.

    Args:
      compared: plain SGD's first.
      measured: results of `relative_costs` by method; may lack some.
      seeds: number of seeds.

    Returns:
      The table and notes on how to read it.
    """
    measures = _measures(compared)
    head = [
        "method", "chosen", *measures.values(), "against SGD", "time", "memory",
        "backward",
    ]  # fmt: skip
    rows, plain = [head], {}
    for method, outcomes in compared:
        value = grid.choose(outcomes)
        if value is None:
            rows.append([method.title, "diverged", *["–"] * (len(head) - 2)])
            continue
        chosen, cost = outcomes[value], measured.get(method.name, {})
        accuracy = chosen.by_seed(grid.accuracy)
        rows.append(
            [
                method.title,
                f"{method.hyperparameter} = {value}".replace("-", "−"),
                *(formatting.spread(chosen.last(_of(name))) for name in measures),
                formatting.paired(accuracy, plain),
                _ratio(cost.get("time")),
                _ratio(cost.get("memory")),
                str(method.backward) + ("*" if method.stage == 2 else ""),
            ]
        )
        if method is compared[0].method:
            plain = accuracy
    return "\n".join([*formatting.markdown(rows), "", *_legend(seeds)]) + "\n"


def _measures(compared: Sequence[Compared]) -> dict[str, str]:
    """The columns: those of all data, and those of two classes where there are two."""
    tests = [
        result.epochs[-1]["test"]
        for one in compared
        for outcome in one.outcomes.values()
        for result in outcome.results.values()
    ]
    two = bool(tests) and all("auroc" in test for test in tests)
    return MEASURES | (OF_TWO_CLASSES if two else {})


def _of(name: str) -> Measure:
    return lambda event: event["test"][name]


def _legend(seeds: int) -> list[str]:
    return [
        "Test set, percent, mean ± standard deviation over "
        f"{formatting.count(seeds, 'seed')}, at the last epoch; the difference in "
        "accuracy is paired by seed, ± standard error. Each hyperparameter is the best "
        f"of {method_grid.GRID} by validation accuracy over all seeds. Time and memory "
        "are those of a step relative to plain SGD's (median of paired steps; all that "
        "the compiled program holds); `backward` counts backward passes a step, clean "
        "batches included. *: after a finished plain run, which is not counted.",
    ]


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def _results(
    preset: str, setting: _Setting, compared: Sequence[Compared]
) -> dict[str, Any]:
    """The metrics of the table, by seed, and all values of every grid."""
    measures = {m: _of(m) for m in _measures(compared)}
    measures = {"validation": grid.validation} | measures
    return {
        "preset": preset,
        "run": setting.base,
        "versions": run_log.versions(),
        "seeds": setting.seeds,
        "methods": {
            method.name: {
                "title": method.title,
                "hyperparameter": method.hyperparameter,
                "chosen": grid.choose(outcomes),
                "changes": method.changes,
                "grid": [
                    {"value": value, "changes": changes}
                    | {n: outcomes[value].by_seed(m) for n, m in measures.items()}
                    for value, changes in method.grid
                ],
            }
            for method, outcomes in compared
        },
    }


def _read(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
