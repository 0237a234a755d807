"""Every table of the paper: its numbers and ours, and what the others cost."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import presets
from experiments.presets import Preset
from experiments.presets._listing import steps_and_time
from experiments.report import formatting
from experiments.results import paper
from experiments.studies import reproduce, reproduce_report

_INTRODUCTION = """All {numbers} results of both versions, percent on the test set.
**Bold** is ours at the full protocol, by the records above, with the number of seeds in
brackets; where labels are wrong, at the last epoch, and at the best one on the test
set, which the authors' code keeps. Where a cell has none, we did not train it. The
comparisons above have methods of these tables on less data or in smaller networks, and
cannot be compared with the printed numbers. A number with "?" is certainly a misprint.
How our presets differ from the paper stands after the tables."""

_DIFFERENCES = """### How our presets differ from the paper

What the presets note on their protocol, and on what the paper does not give; NAME
stands for the shortest name of those of the same data, such as `cifar10_lt100` or
`imdb`. A list has what is not of all presets of a family."""

_COSTS = """By data: steps and time of one training, on two CPU cores; ~ is an estimate
from the operations of the network. A suffix stands for a preset of its own. Rows of no
preset are methods of `python -m experiments compare PRESET`."""

# A sentence ends; sentences that say how to choose λ are not of differences.
_BETWEEN, _HOW_TO = r"(?<=\.) (?=[A-ZΑ-ω`])", ("Choose ", "To choose ")

_Data = tuple[str, ...]  # data set, imbalance and ratio, as printed
_Scope = dict[str, list[_Data]]  # names of presets, NAME for the shortest, and data


def _column(row: paper.Row) -> str:
    """The heading of a result's column."""
    shape = row.imbalance if row.ratio else ""
    of_five = "top 5" if row.metric == "top5" else ""
    return " ".join(
        filter(None, (row.dataset, shape, row.ratio, row.backbone, of_five))
    )


def section(records: Sequence[Mapping[str, Any]]) -> str:
    """The tables with what the records of `reproduce` have, in Markdown."""
    ours = _ours(records)
    numbers = sum(row.mean is not None for row in paper.rows())
    parts: list[str | Sequence[str]] = [
        "## Every table of the paper",
        _INTRODUCTION.format(numbers=numbers),
    ]
    for version, name in paper.VERSIONS.items():
        of_version = [row for row in paper.rows() if row.version == version]
        for table in sorted({row.table for row in of_version}):
            rows = [row for row in of_version if row.table == table]
            parts += [
                f"### {name.capitalize()}, Table {table}",
                formatting.markdown(_table(rows, ours)),
            ]
    return formatting.blocks(*parts, _DIFFERENCES, *_differences())


def costs(records: Sequence[Mapping[str, Any]]) -> str:
    """What each kind of data takes, and what it waits for, in Markdown."""
    return formatting.blocks(_COSTS, formatting.markdown(_costs(_ours(records))))


def _ours(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], str]:
    """Our accuracies by data set, imbalance, ratio and method, as printed."""
    found = {}
    for setting in reproduce_report.recorded_settings(records):
        for tested in reproduce_report.tested_rows(records, setting):
            if tested.finished:
                text = formatting.spread(tested.values("accuracy"))
                if setting in reproduce.MISLABELLED:
                    best = tested.values("accuracy", reproduce.BEST_ON_TEST)
                    text += f", best on test {formatting.spread(best)}"
                key = (*reproduce_report.block(setting), tested.row.name)
                found[key] = f"{text} ({tested.seeds})"
    return found


def _table(
    rows: Sequence[paper.Row], ours: Mapping[tuple[str, ...], str]
) -> list[list[str]]:
    """A row for each method, a column for each data set."""
    columns = list(dict.fromkeys(map(_column, rows)))
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        doubt = "?" if "typo" in row.note else ""
        our = ours.get((row.dataset, row.imbalance, row.ratio, row.method))
        text = (row.printed or "–") + doubt + (f"; **{our}**" if our else "")
        cells.setdefault((row.method, _column(row)), []).append(text)
    lines = [["method", *columns]]
    for method in dict.fromkeys(row.method for row in rows):
        of_method = (cells.get((method, column), ["–"]) for column in columns)
        lines.append([method, *map("; ".join, of_method)])
    return lines


def _by_data() -> dict[_Data, list[Preset]]:
    """The presets that are not the authors' code's, the shortest name of data first."""
    by_data: dict[_Data, list[Preset]] = {}
    for preset in presets.every():
        for data in dict.fromkeys(key[2:5] for key in preset.paper):
            if "author_code" not in preset.name:
                by_data.setdefault(data, []).append(preset)
    shortest = lambda own: min(own, key=lambda preset: len(preset.name))
    return {
        data: [base := shortest(own), *(p for p in own if p != base)]
        for data, own in by_data.items()
    }


def _differences() -> list[str | list[str]]:
    """What presets note of themselves, by family, each sentence once.

    Those that are not of all presets of the family stand after the names of theirs.
    """
    families: dict[str, dict[str, _Scope]] = {}  # sentences, and "", of all presets
    for data, own_presets in _by_data().items():
        base = own_presets[0].name
        for preset in own_presets:
            scopes = families.setdefault(preset.family, {})
            text = f"{preset.note} {preset.choice}".replace(preset.name, base)
            sentences = re.split(_BETWEEN, text.replace(base, "NAME"))
            name = preset.name.replace(base, "NAME")
            for sentence in dict.fromkeys(["", *map(str.strip, sentences)]):
                if not sentence.startswith(_HOW_TO):
                    scopes.setdefault(sentence, {}).setdefault(name, []).append(data)
    parts: list[str | list[str]] = []
    for family, scopes in families.items():
        every = scopes.pop("")
        by_scope: dict[str, list[str]] = {}
        for sentence, scope in scopes.items():
            named = "" if scope == every else f"{_named(scope, every)}: "
            by_scope.setdefault(named, []).append(sentence)
        common = " ".join(by_scope.pop("", []))
        first = lambda item: re.split(r"[,:;]| on ", item[0])[0].strip("`")
        ordered = sorted(by_scope.items(), key=first)
        texts = (named + " ".join(own) for named, own in ordered)
        parts += [f"**{family}.** {common}".strip(), formatting.notes(texts)]
    return parts


def _named(scope: _Scope, every: _Scope) -> str:
    """Names, and their data where these are not all, as far as it takes to tell."""
    whole = max(every.values(), key=len)
    by_data: dict[tuple[_Data, ...], list[str]] = {}
    for name, data in scope.items():
        by_data.setdefault(tuple(data), []).append(f"`{name}`")
    parts = []
    for data, names in by_data.items():
        parts.append("" if len(names) == len(every) else ", ".join(names))
        for size in (0, 1, 2, 3):
            heads = dict.fromkeys(one[:size] for one in data)
            if [one for one in whole if one[:size] in heads] == [*data]:
                where = ", ".join(map(" ".join, heads))
                parts[-1] += (" on " if parts[-1] and where else "") + where
                break
    return "; ".join(parts)


def _costs(ours: Mapping[tuple[str, ...], str]) -> list[list[str]]:
    """A row for each kind of data: presets, their cost, and what they wait for."""
    lines = [["data", "rows trained", "presets", "rows of no preset"]]
    lines[0] += ["one training", "waits for"]
    for data, own_presets in _by_data().items():
        base, *others = (preset.name for preset in own_presets)
        names = [base, *(name.removeprefix(base) for name in others)]
        times = dict.fromkeys(
            " in ".join(steps_and_time(preset.run)) for preset in own_presets
        )
        printed = (r for r in paper.rows() if r[2:5] == data and r.mean is not None)
        methods = dict.fromkeys(row.method for row in printed)
        trained = sum((*data, method) in ours for method in methods)
        of_presets = {v.method for preset in own_presets for v in preset.variants}
        images = own_presets[0].run.data.info.files
        lines.append(
            [
                " ".join(filter(None, data)),
                f"{trained} of {len(methods)}",
                ", ".join(f"`{name}`" for name in names),
                ", ".join(m for m in methods if m not in of_presets) or "–",
                "; ".join(times),
                "its images, and an accelerator" if images else "an accelerator",
            ]
        )
    return lines
