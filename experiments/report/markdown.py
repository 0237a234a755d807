"""The sections of a report on training runs, in Markdown."""

import csv
import dataclasses
import itertools
import math
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import configs, presets
from experiments.report import formatting, paper_results
from experiments.report.formatting import number
from experiments.results import aggregate, run_dir, run_log
from experiments.results.aggregate import Event, Group, Result

SUSPECTS = 10  # examples whose labels are most likely wrong
LISTED = 20  # classes; of more, recall is not listed class by class

LAST, ON_VALIDATION = "last epoch", "best epoch on validation"
ON_TEST = "best epoch on test (the authors' practice, not comparable)"

VALIDATION = "validation accuracy"  # all other columns are of the test set

UNWEIGHTED = ("SGD", "Adam")  # what other methods are compared to
METRICS = {"top1": "accuracy", "top5": "top5"}  # of the paper's tables, as measures

# Of an evaluation, in the order of the columns.
MEASURES = {
    "accuracy": "accuracy",
    "top5": "top 5",
    "balanced": "balanced",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "tail_recall": "tail",
    "calibration_error": "calibration error",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
    "balanced_at_threshold": "balanced at the threshold",
}


def comparison(groups: list[Group]) -> str:
    """All groups below one another, at the last epoch and at the one validated."""
    blocks: list[str | list[str]] = []
    for name in (LAST, ON_VALIDATION):
        rows = [
            [group.title, str(len(events)), *_measured(events)]
            for group in groups
            if (events := chosen(group).get(name)) is not None
        ]
        if rows:
            head = ["", "seeds", VALIDATION, *MEASURES.values()]
            blocks += [f"Test set, {name}:", _table([head, *rows])]
    blocks.append(
        "Percent, mean ± standard deviation over the seeds. To be chosen from by the "
        "accuracy on validation examples, not on the test set."
    )
    for word, of in (
        ("Diverged", lambda result: result.diverged),
        ("Not finished", lambda r: not r.finished and not r.diverged),
    ):
        titles = [group.title for group in groups if any(map(of, group.results))]
        if titles:
            blocks.append(f"{word}: {'; '.join(titles)}.")
    return formatting.blocks(*blocks, _differences(groups))


def section(group: Group, figures: Sequence[str] = ()) -> str:
    """The section of one run and its seeds, with its figures."""
    tested = group.last() is not None
    over = all(result.diverged for result in group.results)
    nothing = f"No epoch {'was tested' if over else 'has been tested yet'}."
    recall = tested and len(group.class_counts) <= LISTED
    return formatting.blocks(
        describe(group),
        formatting.notes(_progress(group)),
        _accuracy(group) if tested else nothing,
        formatting.notes(_notes(group)) if tested else "",
        *figures,
        _settings(group),
        _paper(group),
        _recall(group) if recall else "",
        _suspects(group),
        _time(group) if any(result.epochs for result in group.results) else "",
    )


def describe(group: Group) -> str:
    """A paragraph that describes the run."""
    run = group.run
    data, method = run.data, run.method
    words = [f"{run.model.title} on {data.source}"]
    if data.path is not None:
        words[0] += f" {pathlib.PurePath(data.path).name}"
    if data.imbalance_ratio > 1.0:
        kind = data.imbalance.replace("_", " ")
        words.append(f"{kind} of ratio {number(data.imbalance_ratio)}")
    if data.noise_rate > 0.0:
        words.append(f"{data.noise_rate:.0%} of the labels replaced ({data.noise})")
    if data.sampling != "shuffled":
        words.append(f"{data.sampling.replace('_', '-')} sampling")
    counts = group.class_counts
    rule = formatting.method(method)
    if method.attends and not (method.rho is None and math.isinf(method.lam)):
        switch = run.epoch_at(method.start_at)
        if switch and method.switches:
            lam = "" if method.rho is None else "λ = "
            before = f"{lam}{number(method.first_lam)}"
            rule += f" from epoch {switch + 1} on, {before} before"
        rule += f", γ = {number(method.gamma)}"
    loss = run.loss.name.replace("_", " ")
    weighted = " with class weights" if run.loss.class_weights else ""
    trained = {
        "all": "",
        "last_block": " Only the last block and the head are trained.",
        "head": " Only the head is trained.",
        "scale": " Only the factors on the logits are trained.",
    }[run.trainable]
    seeds = [*map(str, group.seeds)]
    return (
        f"{', '.join(words)}: {counts.sum():,.0f} training examples, "
        f"{counts.max():,.0f} of the largest class and {counts.min():,.0f} of the "
        f"smallest. {rule}; {loss} loss{weighted}, learning rate "
        f"{number(run.optimizer.learning_rate)}, {run.epochs} epochs in batches of "
        f"{run.batch_size}.{trained} "
        f"{'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(seeds)}."
    )


def chosen(group: Group) -> dict[str, list[Event]]:
    """The epochs that are reported, by what they were chosen by; one for each seed."""
    by_choice = {
        LAST: group.last(),
        ON_VALIDATION: group.best("validation"),
        ON_TEST: None if group.run.data.info.own else group.best("test"),
    }
    return {name: events for name, events in by_choice.items() if events is not None}


def _differences(groups: list[Group]) -> str:
    """Of the groups on the same data, each against one that does not weight."""
    families: dict[configs.Data, list[Group]] = {}
    for group in groups:
        if group.last() is not None:
            # How the training examples are sampled is a part of the method.
            data = dataclasses.replace(
                group.run.data, sampling="shuffled", sampling_beta=0.9999
            )
            families.setdefault(data, []).append(group)
    blocks: list[str | list[str]] = []
    for members in families.values():
        plain = [g for g in members if g.run.method.title in UNWEIGHTED]
        base = (plain or members)[0]
        rows = [
            [group.title, str(len(shared)), *_paired(group, base)]
            for group in members
            if group is not base
            and len(shared := {*group.seeds} & {*base.seeds}) > 1  # else no error
        ]
        if rows:
            table = _table([["", "seeds", *MEASURES.values()], *rows])
            blocks += [f"Test set, {LAST}, against {base.title}:", table]
    note = (
        "Points, mean ± standard error of the differences over the seeds that both "
        "have, on the same data."
    )
    heading = "## Differences, paired by seed"
    return formatting.blocks(heading, *blocks, note) if blocks else ""


def _paired(group: Group, base: Group) -> list[str]:
    """One cell for each measure at the last epoch; empty where one has it not."""
    cells = []
    for key in MEASURES:
        ours, theirs = _by_seed(group, key), _by_seed(base, key)
        cells.append(formatting.paired(ours, theirs) if ours and theirs else "")
    return cells


def _by_seed(group: Group, key: str) -> dict[int, float]:
    """A measure at the last epoch; of no seed if one of them has it not."""
    values = _test(group.last(), key)
    if values is None or np.isnan(values).any():
        return {}
    return dict(zip(group.seeds, values, strict=True))


def _settings(group: Group) -> str:
    """What is set otherwise than in the preset; without one, than by default."""
    name = group.results[0].preset
    try:
        base, of = presets.get(name or "").run, f"the preset {name}"
    except LookupError:
        base, of = configs.Run(), "the defaults"
    fields, usual = (run_log.flat(dataclasses.asdict(run)) for run in (group.run, base))
    rows = [
        [key, _setting(value), _setting(usual.get(key))]
        for key, value in fields.items()
        # The seeds are named above; the contents are those of the data.
        if value != usual.get(key) and not key.startswith(("seed", "data.contents"))
    ]
    if not rows:
        return ""
    head = ["setting", "this run", of.removeprefix("the ")]
    table = formatting.markdown([head, *rows])
    return formatting.blocks(f"## Settings that differ from {of}", table)


def _setting(value: Any) -> str:
    """A value of a configuration, in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, tuple | list):
        return ", ".join(map(_setting, value)) or "none"
    return "none" if value is None else str(value)


def _progress(group: Group) -> list[str]:
    """Notes on unfinished, resumed and failed runs."""
    going_on = [result for result in group.results if not result.finished]
    notes = [_unfinished(result) for result in going_on]
    if len({len(result.epochs) for result in going_on}) > 1:
        notes.append(
            "The last epoch is the last one that all of these seeds were tested after."
        )
    notes += [f"Left out: {_unfinished(result)}" for result in group.left_out]
    for result in (*group.results, *group.left_out):
        name = _named(result)
        if result.resumed:
            times = "once" if result.resumed == 1 else f"{result.resumed} times"
            notes.append(f"{name} was interrupted and resumed {times}.")
        if result.failed_saves:
            saves = formatting.count(result.failed_saves, "checkpoint")
            notes.append(f"{name}: {saves} could not be written.")
        if result.unreadable:
            torn = formatting.count(result.unreadable, "torn line")
            notes.append(f"{name}: {torn} of {run_dir.RECORDS} passed over.")
    return notes


def _unfinished(result: Result) -> str:
    """A note on a run that has not come to its end."""
    if result.diverged is None:
        return f"{_named(result)} is not finished: {result.progress}."
    whole = formatting.count(len(result.epochs), "whole epoch")
    return (
        f"{_named(result)} diverged after {whole} of {result.run.epochs}. "
        f"{result.diverged} {aggregate.remedy(result.run)}"
    )


def _accuracy(group: Group) -> list[str]:
    """Test metrics of the chosen epochs; below them the paper's of the same run."""
    rows = [["test set", "epoch", VALIDATION, *MEASURES.values()]]
    for name, events in chosen(group).items():
        epochs = sorted({event["epoch"] for event in events})
        shown = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        rows.append([name, shown, *_measured(events)])
    for row, same in paper_results.rows(group.results[0].preset, group.run):
        if same:
            cells = dict.fromkeys(MEASURES, "")
            cells[METRICS[row.metric]] = paper_results.accuracy(row)
            source = f"the paper, {row.method}, {_source(row)}"
            rows.append([source, "", "", *cells.values()])
    return _table(rows)


def _notes(group: Group) -> list[str]:
    """Notes on how to read the table."""
    by_choice = chosen(group)
    last = by_choice[LAST]
    of_seeds = (
        f"mean ± standard deviation over {len(last)} seeds"
        if len(last) > 1
        else "of one seed, which says nothing of the spread"
    )
    examples = f"{last[0]['test']['examples']:,} test examples"
    has = {key for key in MEASURES if _test(last, key) is not None}
    shots = "Balanced: mean recall of all classes."
    if has & {"many", "medium", "few"}:
        shots += (
            " Many, medium, few: of those with more than 100, 20 to 100 and less than "
            "20 training examples."
        )
    if "tail_recall" in has:
        shots += f" Tail: of the last {group.run.data.tail_classes}."
    if "auroc" in has:
        positive = group.run.data.class_names[1]
        shots += (
            f" AUROC, average precision and F1: of class {positive}. The threshold on "
            "its probability, of F1 and of the last column, is that of the highest F1 "
            "on validation examples, or 0.5 without any."
        )
    notes = [f"Percent, {of_seeds}; {examples}.", shots]
    if ON_VALIDATION in by_choice:
        noisy = group.run.data.noise_rate > 0.0
        notes.append(
            "On validation: of the epochs tested the first of the highest validation "
            "accuracy, for each seed its own."
            + (" Validation labels are as noisy as the training's." if noisy else "")
        )
    else:
        notes.append("There are no validation examples to choose an epoch by.")
    if ON_TEST in by_choice:
        notes.append(
            "On test: the epoch is chosen by the number that is reported, which is "
            "therefore too high. The authors' code does so."
        )
    return notes


def _paper(group: Group) -> str:
    """The paper's results for the preset."""
    printed = paper_results.rows(group.results[0].preset, group.run)
    if not printed:
        return ""
    table = [["table", "method", "metric", "percent", "runs", "this run"]]
    for row, same in printed:
        metric, percent = MEASURES[METRICS[row.metric]], paper_results.accuracy(row)
        remarks = [str(row.runs or ""), "yes" if same else ""]
        table.append([_source(row), row.method, metric, percent, *remarks])
    note = (
        "This run: the same but for the seed, λ and γ. "
        if any(same for _, same in printed)
        else "None of these is this run: some setting was changed from the preset's. "
    )
    note += (
        "The authors' code reports the epoch of highest test accuracy; the paper's "
        "numbers are likely to be of that kind."
    )
    heading = "## What the paper prints"
    return formatting.blocks(heading, formatting.markdown(table), note)


def _recall(group: Group) -> str:
    """Test recall of each class at the chosen epochs, but those chosen on test."""
    columns = {
        name: aggregate.values(events, lambda e: e["test"]["recall"])
        for name, events in chosen(group).items()
        if name != ON_TEST
    }
    rows = [["class", "training examples", *columns]]
    names = group.run.data.class_names
    for label, count in enumerate(group.class_counts):
        cells = [
            "" if values is None else formatting.spread(values[:, label])
            for values in columns.values()
        ]
        rows.append([names[label], f"{count:,.0f}", *cells])
    return formatting.blocks("## Recall of each class", formatting.markdown(rows))


def _suspects(group: Group) -> str:
    """The head of the list of the first seed for which `suspects` has written one."""
    for result in group.results:
        try:
            with np.load(result.directory / run_dir.SUSPECTS_ARRAYS) as arrays:
                step, examples = int(arrays["step"]), len(arrays["labels"])
            path = result.directory / run_dir.SUSPECTS
            with path.open(encoding="utf-8", newline="") as file:
                head = list(itertools.islice(csv.DictReader(file), SUSPECTS))
            names = result.run.data.class_names
            rows = [["index", "label", "prediction", "loss", "weight"]]
            for row in head:
                labels = (names[int(row[f"{k}_label"])] for k in ("given", "predicted"))
                values = (f"{float(row[k]):.3g}" for k in ("loss", "weight"))
                rows.append([row["index"], *labels, *values])
        except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
            continue  # there is none, or it is damaged
        note = (
            f"{_named(result)}: the first {len(head)} of {examples:,} in "
            f"{run_dir.SUSPECTS}, by the network at step {step}"
        )
        now = result.epochs[-1]["step"] if result.epochs else step
        if now != step:
            note += f"; the training is at step {now} now: list them again"
        heading = "## Labels that are most likely wrong"
        return formatting.blocks(heading, formatting.markdown(rows), f"{note}.")
    return ""


def _time(group: Group) -> str:
    """Training time, without evaluation."""
    rows = [["seed", "epochs", "training", "a step", "waited for input"]]
    for result in group.results:
        if result.epochs:
            seconds = np.array([event["seconds"] for event in result.epochs], float)
            whole = seconds.sum()
            waited = sum(float(event["waited"]) for event in result.epochs) / whole
            steps = result.epochs[0]["step"] / result.epochs[0]["epoch"]
            shown = [_duration(whole), _step_time(np.median(seconds) / steps)]
            shown.append(f"{formatting.percent(waited)}%")
            rows.append([str(result.run.seed), str(len(seconds)), *shown])
    note = (
        "Without evaluation. A step: the mean within an epoch, of which the median, so "
        "that compilation does not count."
    )
    return formatting.blocks("## Time", formatting.markdown(rows), note)


def _measured(events: list[Event]) -> list[str]:
    """Validation accuracy, then each measure of the test set; empty if not taken."""
    validation = aggregate.values(events, lambda e: e["validation"]["accuracy"])
    measures = [validation, *(_test(events, key) for key in MEASURES)]
    return ["" if values is None else formatting.spread(values) for values in measures]


def _test(events: list[Event], key: str) -> np.ndarray | None:
    """A measure of the test set, `[seeds]`; None if it was not taken."""
    return aggregate.values(events, lambda event: event["test"][key])


def _table(rows: list[list[str]]) -> list[str]:
    """A table of the columns that have a cell below their head."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    return formatting.markdown([list(row) for row in zip(*columns, strict=True)])


def _step_time(seconds: float) -> str:
    """A duration of three digits, in milliseconds below a second."""
    if seconds < 0.9995:  # what rounds to 1000 ms is a second
        return f"{1000.0 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def _duration(seconds: float) -> str:
    """A duration to the second, from an hour on to the minute."""
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _source(row: paper_results.paper.Row) -> str:
    return f"{paper_results.paper.VERSIONS[row.version]}, Table {row.table}"


def _named(result: Result) -> str:
    return f"Seed {result.run.seed} ({result.directory})"
