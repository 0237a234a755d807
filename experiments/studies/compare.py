"""Many methods on one preset: trained, chosen on validation data, and tabulated."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import trainer_step
from experiments import commands, configs
from experiments.models import posthoc_classifiers
from experiments.report import formatting
from experiments.results import metrics, run_dir, run_log
from experiments.results.aggregate import Measure, Result
from experiments.studies import grid, method_grid
from experiments.studies.grid import Grid, Outcome, Trial
from experiments.studies.method_grid import MethodGrid
from experiments.train import evaluation
from experiments.train.progress import say

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
_OF_NORMALISED = (
    " Calibration errors with normalised logits are of the logits before they are "
    "divided, whose length the loss leaves open."
)
_COSTS = (
    "Time and memory are those of a step relative to plain SGD's (median of paired "
    "steps; all that the compiled program holds); "
)
OF_TWO_CLASSES = {"auroc": "AUROC", "average_precision": "average precision"}
_HEADINGS = MEASURES | OF_TWO_CLASSES
_EARLIER = {"choose_by": "accuracy"}  # of recordings that lack it


class Compared(NamedTuple):
    """A method, and the outcomes of all values of its grid."""

    method: MethodGrid
    outcomes: Mapping[str, Outcome]


class _Setting(NamedTuple):
    """The arguments that all trainings of a comparison share."""

    base: configs.Run  # plain training
    out: pathlib.Path
    config: commands.Compare
    reused: Mapping[str, list[Result]]  # of earlier comparisons, by `_key`


def main(preset: str, config: commands.Compare) -> int:
    """Trains the runs that are missing, and tabulates the methods.

    Returns 0, or 130 if it was interrupted; the same command then resumes. Raises
    BadConfiguration where there is no such method, or no validation data; a method
    begins too late; early stopping meets a method of two stages; settings are to be
    chosen by a metric of two classes, and there are more; or the directory, or a file
    to reuse, holds a comparison of other runs.
    """
    base = method_grid.plain(config.run)
    if config.early_stopping:
        base = dataclasses.replace(base, eval_every=1)
    methods = [
        method_grid.at_rates(method, base, config.rates)
        for method in method_grid.choose(config.run, config.methods)
    ]
    if late := [m.name for m in methods if m.runs(base)[0].too_late]:
        raise configs.BadConfiguration(
            f"In {base.epochs} epochs {', '.join(late)} would be plain training, as "
            "what sets them apart begins after the last one: give --epochs more, or "
            "--loss.class-weights-from or --method.start-at less, or leave them out."
        )
    staged = [method.name for method in methods if method.stage == 2]
    if config.early_stopping and staged:
        raise configs.BadConfiguration(
            "--early-stopping compares methods of one stage, as the second one begins "
            f"after the last epoch of the first: leave out {', '.join(staged)}."
        )
    if config.choose_by not in _measures(base):
        raise configs.BadConfiguration(
            f"--choose-by {config.choose_by} is of two classes, and "
            f"{base.data.source} has {base.data.classes}."
        )
    if config.choose_by in OF_TWO_CLASSES and base.data.info.own:  # others have both
        _require_both_classes(base, config)
    out = config.session.out or pathlib.Path(f"runs/compare-{preset}")
    for name in RESULTS, COSTS:
        run_log.load(out / name)  # which refuses a damaged one before all is trained
    reused = _reused(preset, base, config.choose_by, config.reuse)
    setting = _Setting(base, out, config, reused)
    trials = _trials(setting, methods)

    def finish() -> None:
        for method in methods:
            for seed in range(config.seeds if method.classifier else 0):
                for _, changes in method.grid:
                    _classify(setting, _first_stage(setting, method, seed, changes))
        if config.measure:
            _measure(setting, methods)

    def report() -> str:
        found = grid.outcomes(trials)
        if config.early_stopping:
            by = config.choose_by
            found = {key: outcome.at_best_epoch(by) for key, outcome in found.items()}
        compared = [_compared(setting, method, found) for method in methods]
        missing = lambda outcome: len(outcome.ended) < config.seeds
        ended = [c for c in compared if not any(map(missing, c.outcomes.values()))]
        results = run_log.to_jsonable(_results(preset, setting, ended))
        results = _with_earlier(
            results, run_log.load(out / RESULTS), len(ended) == len(compared)
        )
        run_log.save(out / RESULTS, results)
        return table(results, run_log.load(out / COSTS))

    whole = Grid(out, preset, {"run": base}, trials, config.session, checkpoints=True)
    return grid.main(whole, report, finish)


def _require_both_classes(base: configs.Run, config: commands.Compare) -> None:
    """Refuses a metric of two classes where validation examples are of one."""
    validation = evaluation.task_of(base, config.session).validation
    if validation is None:
        return  # which the grid refuses
    counts = np.bincount(validation.labels, minlength=base.data.classes)
    for name, count in zip(base.data.class_names, counts, strict=True):
        if not count:
            raise configs.BadConfiguration(
                f"--choose-by {config.choose_by} needs validation examples of both "
                f"classes, got none of {name!r}."
            )


def _with_earlier(
    results: dict[str, Any], there: dict[str, Any], complete: bool
) -> dict[str, Any]:
    """The results, and those of the methods that were compared there before.

    Results for other seeds, rates or metrics cannot stand in one table: they are left
    out, or, while the new ones are not complete, stay as they are.
    """
    earlier = there.get("methods", {})
    dropped = [name for name in earlier if name not in results["methods"]]
    if not dropped:
        return results
    alike = results.keys() - {"methods", "versions"}
    if all(there.get(key) == results[key] for key in alike):
        return results | {"methods": earlier | results["methods"]}
    differ = ", ".join(sorted(k for k in alike if there.get(k) != results[k]))
    if not complete:
        say(f"The table is that of before, as not all is trained with other {differ}.")
        return there
    say(f"The table is of other {differ} than before, without {', '.join(dropped)}.")
    return results


def _trials(setting: _Setting, methods: list[MethodGrid]) -> list[Trial]:
    """Method by method, so that each compiles its program once; first stages before."""
    trials = []
    for method in methods:
        runs = method.runs(setting.base)
        for seed in range(setting.config.seeds):
            for (value, changes), run in zip(method.grid, runs, strict=True):
                start_from = run.start_from
                if method.stage == 2:
                    of_first = changes if method.classifier else {}
                    trials.append(_first_stage(setting, method, seed, of_first))
                    start_from = trials[-1].out.resolve()
                if method.classifier is None:
                    run = dataclasses.replace(run, seed=seed, start_from=start_from)
                    trial = _trial(setting, method, value, run)
                    # A second stage needs the network of the first one, not metrics.
                    known = setting.reused.get(
                        _key(method.name, method.changes, changes)
                    )
                    if method.stage == 1 and known is not None and seed < len(known):
                        trial = trial._replace(known=known[seed])
                    trials.append(trial)
    by_directory: dict[pathlib.Path, Trial] = {}
    for trial in trials:  # a first stage is trained, even if its metrics are known
        if trial.known is None or trial.out not in by_directory:
            by_directory[trial.out] = trial
    return list(by_directory.values())


def _trial(
    setting: _Setting, method: MethodGrid, value: str, run: configs.Run
) -> Trial:
    shown = value.replace(", η = ", "-rate").replace(", ", "_")
    name = f"{method.name}-{shown}"
    return grid.trial(setting.out, (method.name, value), name, run)


def _key(name: str, *changes: Any) -> str:
    """A key of one setting of a method, equal for its JSON."""
    return json.dumps(run_log.to_jsonable([name, *changes]), sort_keys=True)


def _reused(
    preset: str, base: configs.Run, choose_by: str, paths: Iterable[pathlib.Path]
) -> dict[str, list[Result]]:
    """The results of earlier comparisons, seed by seed, with the metrics of a table.

    A seed that they lack diverged. Raises BadConfiguration where there is no such file,
    or what it compares is not the same, was chosen by another metric, or was trained by
    other versions.
    """
    here = {
        "preset": preset,
        "run": base,
        "choose_by": choose_by,
        "versions": run_log.versions(),
    }
    found: dict[str, list[Result]] = {}
    for path in paths:
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            shared = {name: (_EARLIER | there)[name] for name in here}
            shared["run"] = run_dir.parse(there["run"])
            results = {
                _key(name, method["changes"], setting["changes"]): [
                    _result(base, setting, seed, choose_by)
                    for seed in range(there["seeds"])
                ]
                for name, method in there["methods"].items()
                for setting in method["grid"]
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise configs.BadConfiguration(
                f"--reuse needs files {RESULTS} of comparisons, got {path}: {error!r}."
            ) from error
        holder = f"{path} holds a comparison"
        evaluation.require_same(holder, shared, here, "Do not reuse it")
        found |= results
    return found


def _result(
    base: configs.Run, recorded: Mapping[str, Any], seed: int, choose_by: str
) -> Result:
    """A training of a setting that `RESULTS` has metrics of, by name and seed."""
    of_seed = {
        name: values.get(str(seed))
        for name, values in recorded.items()
        if name not in ("value", "changes")
    }
    chosen_by = of_seed.pop("validation")
    event = {"validation": {choose_by: chosen_by}, "test": of_seed}
    ended = {"diverged": "recorded"} if chosen_by is None else {"finished": True}
    return Result(pathlib.Path(), None, base, np.array([]), [event], **ended)


def _first_stage(
    setting: _Setting,
    method: MethodGrid,
    seed: int,
    changes: Mapping[str, Any],
) -> Trial:
    """Plain training, which all second stages share.

    It is at the preset's learning rate, unless `changes` are those of a post-hoc
    classifier's grid, which may have another.
    """
    normalised = method_grid.NORMALISED * method.name.endswith(method_grid.NORMALISED)
    sgd = method_grid.choose(setting.base, f"sgd{normalised}")[-1]
    run = configs.replace(sgd.runs(setting.base)[0], {**changes, "seed": seed})
    return _trial(setting, sgd, f"{run.optimizer.learning_rate:g}", run)


def _compared(
    setting: _Setting, method: MethodGrid, found: Mapping[Any, Outcome]
) -> Compared:
    """The outcomes of a method for every value of its grid."""
    if method.classifier is None:
        return Compared(
            method, {value: found[method.name, value] for value, _ in method.grid}
        )
    outcomes = {}
    for value, changes in method.grid:
        first = found[_first_stage(setting, method, 0, changes).setting]
        name = f"{method.classifier} {value.partition(', η = ')[0]}"
        kept = {
            seed: run_log.load(result.directory / CLASSIFIED)
            for seed, result in first.results.items()
        }
        results = {
            seed: dataclasses.replace(first.results[seed], epochs=[own[name]])
            for seed, own in kept.items()
            if name in own
        }
        outcomes[value] = Outcome(results, first.diverged)
    return Compared(method, outcomes)


def _classify(setting: _Setting, first: Trial) -> None:
    """Saves all post-hoc classifiers' metrics on validation and test, unless known."""
    stage_one = first.out
    if (stage_one / CLASSIFIED).is_file() or grid.diverged(first):
        return
    seen = evaluation.features(stage_one, setting.config.session.data_dir)
    kept = run_dir.load(stage_one)
    features, labels = seen.splits["train"]
    classified, counts = {}, np.array(kept.class_counts)
    data = kept.run.data
    for method in method_grid.every(setting.base).values():
        for value, _ in method.grid:
            if method.classifier == "ncm":
                classify = posthoc_classifiers.nearest_class_mean(
                    features, labels, data.classes, value
                )
            elif method.classifier == "tau":
                classify = posthoc_classifiers.tau_normalised(seen.kernel, float(value))
            else:
                continue
            of_value = classified[f"{method.classifier} {value}"] = {}
            for split in ("validation", "test"):
                x, y = seen.splits[split]
                counted = metrics.count(classify(x), y, np.ones(len(y), bool))
                summary = metrics.summary(counted, counts, data.tail_classes, labels=y)
                # Their sources define classes, and no probabilities.
                of_value[split] = summary | {"calibration_error": None}
    run_log.save(stage_one / CLASSIFIED, classified)


def _measure(setting: _Setting, chosen: list[MethodGrid]) -> None:
    """Measures time and memory of each method's step, unless they are known."""
    path = setting.out / COSTS
    measured = run_log.load(path)
    missing = [one for one in chosen if one.name not in measured]
    for name, cost in trainer_step.relative_costs(
        missing, setting.base, setting.config.session
    ):
        measured[name] = cost
        run_log.save(path, measured)


def chosen(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The chosen setting and its metrics, by the name of each method that has one."""
    return {
        name: setting
        for name, method in results["methods"].items()
        for setting in method["grid"]
        if setting["value"] == method["chosen"]
    }


def table(results: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a method, and notes on how to read it, in Markdown.

    Plain SGD comes first, then the others by the metric that chose their settings.
    `results` is what `RESULTS` holds; `measured` has results of `relative_costs` by
    method, and may lack some, or all.
    """
    methods, settings = results["methods"], chosen(results)
    by = (_EARLIER | results)["choose_by"]
    called = _HEADINGS[by].replace("balanced", "balanced accuracy")
    measures: dict[str, str] = {}
    for measure, head in _HEADINGS.items():
        if measure == by or _informative(measure, measures, settings.values()):
            measures[measure] = head
    head = ["method", "chosen", *measures.values(), "against SGD"]
    costs = ["time", "memory"] if measured else []
    rows = [[*head, *costs, "backward"]]
    plain = settings.get("sgd", {}).get(by, {})
    metric = lambda name: np.mean([*settings[name][by].values()])
    level = lambda name: -metric(name) if name in settings else np.inf
    for name in sorted(methods, key=lambda name: (name != "sgd", level(name))):
        method = methods[name]
        if name not in settings:
            ended = (len(one["validation"]) for one in method["grid"])
            diverged = any(seeds < results["seeds"] for seeds in ended)
            blank = ["–"] * (len(rows[0]) - 2)
            rows.append([method["title"], "diverged" if diverged else "–", *blank])
            continue
        setting = settings[name]
        # Of each measure by seed; None, such as without rare classes, becomes NaN.
        values = (np.array([*setting[m].values()], float) for m in measures)
        ratios = (measured.get(name, {}).get(cost) for cost in costs)
        rows.append(
            [
                method["title"],
                f"{method['hyperparameter']} = {method['chosen']}".replace("-", "−"),
                *map(formatting.spread, values),
                "–" if name == "sgd" else formatting.paired(setting[by], plain),
                *("–" if ratio is None else f"{ratio:.2f}×" for ratio in ratios),
                str(method["backward"]) + ("*" if method["stage"] == 2 else ""),
            ]
        )
    epoch = f"the epoch of each training's highest validation {called}"
    legend = (
        "Test set, percent, mean ± standard deviation over "
        f"{formatting.count(results['seeds'], 'seed')}, at "
        f"{epoch if results.get('early_stopping') else 'the last epoch'}; the "
        f"difference in {called} is paired by seed, ± standard error. What is chosen "
        f"is the best of the method's grid by validation {called} over all seeds. "
        f"{_COSTS if measured else ''}`backward` counts backward passes a step, clean "
        "batches included. *: after a finished plain run, which is not counted."
    )
    if any(name.endswith(method_grid.NORMALISED) for name in methods):
        legend += _OF_NORMALISED
    return formatting.blocks(formatting.markdown(rows), legend) + "\n"


def _informative(
    measure: str, shown: Iterable[str], chosen: Collection[Mapping[str, Any]]
) -> bool:
    """Whether a measure is known of all seeds, and none of those shown once more.

    On a balanced test set the balanced accuracy is the accuracy, and where no class is
    rare so is that of the frequent ones.
    """
    values = lambda one, name: np.array([*one.get(name, {}).values()] or [None], float)
    known = [one for one in chosen if np.isfinite(values(one, measure)).all()]
    repeats = lambda other: all(
        np.allclose(values(one, measure), values(one, other)) for one in known
    )
    return bool(known) and not any(map(repeats, shown))


def _measures(run: configs.Run) -> dict[str, str]:
    """The metrics of a run's data, with their headings."""
    return _HEADINGS if run.data.classes == 2 else MEASURES


def _of(name: str) -> Measure:
    return lambda event: event["test"].get(name)  # what is reused may lack it


def _results(
    preset: str, setting: _Setting, compared: Sequence[Compared]
) -> dict[str, Any]:
    """The metrics of the table, by seed, and all values of every grid."""
    config, names = setting.config, _measures(setting.base)
    by_validation = lambda event: event["validation"].get(config.choose_by)
    measures = {"validation": by_validation} | {name: _of(name) for name in names}
    return {
        "preset": preset,
        "run": setting.base,
        "versions": run_log.versions(),
        "seeds": config.seeds,
        "choose_by": config.choose_by,
        "early_stopping": config.early_stopping,
        "rates": config.rates,
        "methods": {
            method.name: {
                "title": method.title,
                "hyperparameter": method.hyperparameter,
                "backward": method.backward,
                "stage": method.stage,
                "chosen": grid.choose(outcomes, by_validation),
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
