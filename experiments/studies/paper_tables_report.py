"""Every table of the paper: its numbers and ours, and what the others cost."""

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
How a preset differs from the paper, and what the paper does not give, is in
`python -m experiments train PRESET --help`."""


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
    return formatting.blocks(*parts)


def costs(records: Sequence[Mapping[str, Any]]) -> str:
    """What each kind of data takes, and what it waits for, in Markdown."""
    return formatting.blocks(
        "By data: steps and time of one training, on two CPU cores; ~ is an estimate "
        "from the operations of the network. A suffix stands for a preset of its own.",
        formatting.markdown(_costs(_ours(records))),
    )


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


def _costs(ours: Mapping[tuple[str, ...], str]) -> list[list[str]]:
    """A row for each kind of data: presets, their cost, and what they wait for."""
    by_data: dict[tuple[str, ...], list[Preset]] = {}
    for preset in presets.every():
        for key in preset.paper:
            if "author_code" not in preset.name:
                own_presets = by_data.setdefault(key[2:5], [])
                own_presets += [preset] if preset not in own_presets else []
    rows: dict[tuple[str, ...], set[str]] = {}
    for row in paper.rows():
        data = (row.dataset, row.imbalance, row.ratio)
        rows.setdefault(data, set()).add(row.method)
    lines = [["data", "rows trained", "presets", "one training", "waits for"]]
    for data, own_presets in by_data.items():
        base = min((preset.name for preset in own_presets), key=len)
        names = [
            base,
            *(p.name.removeprefix(base) for p in own_presets if p.name != base),
        ]
        times = dict.fromkeys(
            " in ".join(steps_and_time(preset.run)) for preset in own_presets
        )
        trained = sum((*data, row) in ours for row in rows[data])
        images = own_presets[0].run.data.info.files
        lines.append(
            [
                " ".join(filter(None, data)),
                f"{trained} of {len(rows[data])}",
                ", ".join(f"`{name}`" for name in names),
                "; ".join(times),
                "its images, and an accelerator" if images else "an accelerator",
            ]
        )
    return lines
