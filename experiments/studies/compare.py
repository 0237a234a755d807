"""Many methods on one preset: trained, chosen on validation data, and tabulated."""

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks import trainer_step
from experiments import configs
from experiments.data import pipeline, sources
from experiments.models import posthoc_classifiers
from experiments.report import formatting
from experiments.results import metrics, run_dir, run_log
from experiments.studies import method_grid
from experiments.studies.method_grid import MethodGrid
from experiments.train import runs

TABLE, RESULTS, COSTS, TRAININGS = "table.md", "results.json", "costs.json", "runs"
FAILED = "failed.json"  # in the directory of a run whose loss was not finite
CLASSIFIED = "classifiers.json"  # in that of a first stage: what needs no training

# Columns of the table: metrics of `metrics.summary`, and their headings.
MEASURES = {
    "accuracy": "accuracy",
    "balanced": "balanced",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "calibration_error": "calibration error",
}


class Trial(NamedTuple):
    """One value of a method's grid, over all seeds."""

    value: str  # as it is shown
    validation: list[float]  # accuracy, by seed; -inf where a loss was not finite
    test: list[dict[str, Any] | None]  # by seed, as `metrics.summary`; None if diverged


class Outcome(NamedTuple):
    """The results of a method, for all values of its grid."""

    method: MethodGrid
    trials: list[Trial]

    @property
    def chosen(self) -> Trial | None:
        """The best on validation, the first of equals; None if all diverged."""
        best = max(self.trials, key=lambda trial: np.mean(trial.validation))
        return best if math.isfinite(np.mean(best.validation)) else None


class _Setting(NamedTuple):
    """The arguments that all trainings of a comparison share."""

    preset: str
    base: configs.Run  # plain training, evaluated only after the last epoch
    session: configs.Session
    out: pathlib.Path


class _Interrupted(Exception):
    """Ctrl-C, after a checkpoint."""


def main(preset: str, config: configs.Compare) -> int:
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
    chosen = method_grid.choose(config.run, config.methods)
    base = method_grid.plain(config.run)
    out = config.session.out or pathlib.Path(f"runs/compare-{preset}")
    setting = _Setting(preset, base, config.session, out)
    outcomes: list[Outcome] = []
    interrupted = False
    with sources.remembering():
        _require_validation(setting)
        try:
            for outcome in _train_all(setting, chosen, config.seeds):
                outcomes.append(outcome)
            if config.measure:
                _measure(setting, chosen)
        except (_Interrupted, KeyboardInterrupt):
            print(f"Interrupted; the same command goes on from {out}.", file=sys.stderr)
            interrupted = True
    if outcomes:
        _report(setting, outcomes, config.seeds)
    return 130 if interrupted else 0


def _require_validation(setting: _Setting) -> None:
    session, data = setting.session, setting.base.data
    try:
        task = pipeline.task(data, 0, session.data_dir, download=session.download)
    except ValueError as error:  # more is asked for than there is
        raise configs.BadConfiguration(str(error)) from error
    if task.validation is None:
        raise configs.BadConfiguration(
            f"{data.source} has no validation split, and hyperparameters are not "
            "chosen on test data: give --data.validation-per-class."
        )


def _train_all(
    setting: _Setting, chosen: list[MethodGrid], seeds: int
) -> Iterator[Outcome]:
    """Method by method, so that each compiles its program once."""
    total = seeds * sum(len(method.grid) for method in chosen)
    # None: no bar where standard error is not a terminal.
    with tqdm(total=total, unit="training", disable=None) as progress:
        for method in chosen:
            progress.set_description(method.title)
            trials = [Trial(value, [], []) for value, _ in method.grid]
            for seed in range(seeds):
                for index, trial in enumerate(trials):
                    found = _one(setting, method, index, seed)
                    trial.validation.append(found["validation"])
                    trial.test.append(found["test"])
                    progress.update()
            outcome = Outcome(method, trials)
            if progress.disable:
                print(_told(outcome), file=sys.stderr, flush=True)
            yield outcome


_DIVERGED: dict[str, Any] = {"validation": -math.inf, "test": None}


def _one(
    setting: _Setting, method: MethodGrid, index: int, seed: int
) -> dict[str, Any]:
    """Validation accuracy and test metrics of one training."""
    value, _ = method.grid[index]
    run = dataclasses.replace(method.runs(setting.base)[index], seed=seed)
    start_from = None
    if method.stage == 2:
        start_from = _first_stage(setting, method, seed)
        if start_from is None:
            return _DIVERGED
        if method.classifier:
            return _classified(setting, method.classifier, value, start_from)
    run = dataclasses.replace(run, start_from=start_from)
    return _trained(setting, run, _place(setting, method.name, value, seed))


def _first_stage(
    setting: _Setting, method: MethodGrid, seed: int
) -> pathlib.Path | None:
    """Plain training at the preset's learning rate, which all second stages share.

    Returns:
      The directory of the finished run; None if it diverged.
    """
    normalised = method_grid.NORMALISED * method.name.endswith(method_grid.NORMALISED)
    sgd = method_grid.choose(setting.base, f"sgd{normalised}")[-1]
    run = dataclasses.replace(sgd.runs(setting.base)[0], seed=seed)
    out = _place(setting, sgd.name, sgd.grid[0][0], seed)
    return out if _trained(setting, run, out)["test"] is not None else None


def _place(setting: _Setting, name: str, value: str, seed: int) -> pathlib.Path:
    value = value.replace(", ", "_")
    return setting.out / TRAININGS / f"{name}-{value}-seed{seed}"


def _trained(setting: _Setting, run: configs.Run, out: pathlib.Path) -> dict[str, Any]:
    """Trains a run unless it is finished, and returns its results."""
    found = _read_run(out, run)
    if found is None:
        session = dataclasses.replace(setting.session, out=out, tensorboard=False)
        try:
            if runs.main(setting.preset, run, session, alone=False):
                raise _Interrupted
        except FloatingPointError as error:
            run_log.save(out / FAILED, {"error": str(error)})
        found = _read_run(out, run)
    assert found is not None
    return found


def _read_run(out: pathlib.Path, run: configs.Run) -> dict[str, Any] | None:
    """The results of a run directory; None if the run is not finished.

    Raises:
      BadConfiguration: the directory holds another run.
    """
    if not (out / run_dir.CONFIG).is_file():
        return None
    runs.require_same(out, run)
    if (out / FAILED).is_file():
        return _DIVERGED
    events, _ = run_log.events(out / run_dir.RECORDS)
    if not any(event["event"] == "finished" for event in events):
        return None
    last = [event for event in events if event["event"] == "epoch"][-1]
    return {"validation": last["validation"]["accuracy"], "test": last["test"]}


def _classified(
    setting: _Setting, kind: str, value: str, stage_one: pathlib.Path
) -> dict[str, Any]:
    """Results of a post-hoc classifier of a finished run, cached in its directory."""
    kept = _read(stage_one / CLASSIFIED)
    name = f"{kind} {value}"
    if name not in kept:
        kept |= _classify(setting, stage_one)
        run_log.save(stage_one / CLASSIFIED, kept)
    found = kept[name]
    return {"validation": found["validation"]["accuracy"], "test": found["test"]}


def _classify(setting: _Setting, stage_one: pathlib.Path) -> dict[str, Any]:
    """Results of all post-hoc classifiers, on validation and test."""
    seen = runs.all_features(stage_one, setting.session.data_dir)
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
                )
                for split in ("validation", "test")
            }
    return found


def _measure(setting: _Setting, chosen: list[MethodGrid]) -> None:
    """Measures time and memory of each method's step, unless they are known."""
    path = setting.out / COSTS
    measured = _read(path)
    missing = [one for one in chosen if one.name not in measured]
    costs = trainer_step.relative_costs(missing, setting.base, setting.session)
    for name, cost in costs:
        measured[name] = cost
        run_log.save(path, measured)


def _told(outcome: Outcome) -> str:
    """A message about a finished method."""
    chosen = outcome.chosen
    if chosen is None:
        return f"{outcome.method.title}: every training diverged."
    return (
        f"{outcome.method.title}: {outcome.method.hyperparameter} = {chosen.value}, "
        f"{formatting.spread(_of(chosen, 'accuracy'))}"
    )


def _of(trial: Trial, measure: str) -> np.ndarray:
    """A measure by seed, NaN where there is none."""
    values = [math.nan if one is None else one[measure] for one in trial.test]
    return np.array([math.nan if x is None else float(x) for x in values])


def table(
    outcomes: Sequence[Outcome], measured: dict[str, dict[str, Any]], seeds: int
) -> str:
    """One row a method, in Markdown.

    Args:
      outcomes: plain SGD's first.
      measured: results of `relative_costs` by method; may lack some.
      seeds: number of seeds.

    Returns:
      The table and notes on how to read it.
    """
    head = [
        "method", "chosen", *MEASURES.values(), "against SGD", "time", "memory",
        "backward",
    ]  # fmt: skip
    plain = outcomes[0].chosen
    rows = [head]
    for outcome in outcomes:
        method, chosen = outcome.method, outcome.chosen
        if chosen is None:
            rows.append([method.title, "diverged", *["–"] * (len(head) - 2)])
            continue
        cost = measured.get(method.name, {})
        against = "–"
        if plain is not None and method is not outcomes[0].method:
            difference = _of(chosen, "accuracy") - _of(plain, "accuracy")
            against = formatting.difference(difference)
        rows.append(
            [
                method.title,
                f"{method.hyperparameter} = {chosen.value}".replace("-", "−"),
                *(formatting.spread(_of(chosen, name)) for name in MEASURES),
                against,
                _ratio(cost.get("time")),
                _ratio(cost.get("memory")),
                str(method.backward) + ("*" if method.stage == 2 else ""),
            ]
        )
    return "\n".join([*formatting.markdown(rows), "", *_legend(seeds)]) + "\n"


def _legend(seeds: int) -> list[str]:
    return [
        f"Test set, percent, mean ± standard deviation over {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}, at the last epoch; the difference in "
        "accuracy is paired by seed, ± standard error. Each hyperparameter is the best "
        f"of {method_grid.GRID} by validation accuracy over all seeds. Time and memory "
        "are those of a step relative to plain SGD's (median of paired steps; all that "
        "the compiled program holds); `backward` counts backward passes a step, clean "
        "batches included. *: after a finished plain run, which is not counted.",
    ]


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def _report(setting: _Setting, outcomes: list[Outcome], seeds: int) -> None:
    results = {
        "preset": setting.preset,
        "run": setting.base,
        "versions": run_log.versions(),
        "seeds": seeds,
        "methods": {
            outcome.method.name: {
                "title": outcome.method.title,
                "hyperparameter": outcome.method.hyperparameter,
                "chosen": outcome.chosen and outcome.chosen.value,
                "changes": outcome.method.changes,
                "grid": [
                    {"value": trial.value, "changes": changes}
                    | {"validation": trial.validation}
                    | {name: _of(trial, name) for name in MEASURES}
                    for trial, (_, changes) in zip(
                        outcome.trials, outcome.method.grid, strict=True
                    )
                ],
            }
            for outcome in outcomes
        },
    }
    run_log.save(setting.out / RESULTS, results)
    text = table(outcomes, _read(setting.out / COSTS), seeds)
    (setting.out / TABLE).write_text(text, encoding="utf-8")
    print(text)
    print(f"All of it: {setting.out}")


def _read(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
