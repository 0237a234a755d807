"""The command `report`: tables and figures from the logs of runs."""

import pathlib
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import commands, configs
from experiments.report import (
    calibration,
    confusion,
    curves,
    formatting,
    html,
    markdown,
    tables,
    tsne,
    weights,
)
from experiments.results import aggregate, run_dir, run_log
from experiments.results.aggregate import Group

REPORT = "report.md"

CAPTIONS = {
    "curves": "Training loss and accuracy over the epochs. F̂ is the objective: of "
    "ABSGD the running estimate of λ log(mean of exp(loss/λ)), of other methods what "
    "they minimise. Bands on a logarithmic axis are deviations of the logarithms.",
    "calibration": "Calibration on the test set: accuracy against confidence, and the "
    "share of examples by confidence.",
    "confusion": "Confusion matrix on the test set: labels in rows, predictions in "
    "columns, percent of each label's examples.",
    "weights": "Mean attentional weight of classes over the epochs, 1 being the mean "
    "of all examples; and the effective sample size of a batch.",
    "features": "Penultimate features of training and test examples, by t-SNE.",
}


def main(config: commands.Report) -> int:
    """Reads run directories, writes the report and its figures, and prints it.

    Returns 0, also if the report could not be saved next to the runs: it is printed in
    any case. Raises BadConfiguration where no directory is given, none holds a run, or
    two hold the same one; and OSError where `out` is given and cannot be written to.
    """
    if not config.dirs:
        raise configs.BadConfiguration("Name at least one run directory.")
    dirs = _of_runs(config.dirs)
    groups = aggregate.grouped(aggregate.read(path) for path in dirs)
    out = config.out or (dirs[0] if len(config.dirs) == 1 else dirs[0].parent)
    features = _features(groups, config.data_dir) if config.features else {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawn = draw(groups, out)
        if features:
            drawn.append("features.png")
            counts = {g.title: g.results[0].class_counts for g in groups}
            names = {g.title: g.run.data.class_names for g in groups}
            tsne.figure(features, out / drawn[-1], counts, names)
        report = text(groups, drawn)
        run_log.save_text(out / REPORT, report)
        if config.html:
            run_log.save_text(out / html.PAGE, html.page(report, out))
        if config.tables:
            tables.write(report, out)
    except OSError as error:
        if config.out is not None:
            raise
        print(text(groups, []))
        print(
            f"The report could not be saved ({error}). Give --out another directory.",
            file=sys.stderr,
        )
        return 0
    print(report)
    print(f"Report and figures: {out / html.PAGE if config.html else out}")
    return 0


def _of_runs(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Those that hold a run; of several, as `runs/*` has them, others are skipped."""
    if len(paths) == 1 and not (paths[0] / run_dir.TRAININGS).is_dir():
        return [*paths]
    found = []
    for path in paths:
        if not path.exists() or (path / run_dir.CONFIG).exists():
            found.append(path)  # what is not there is refused, as a slip of the pen
            continue
        message = f"{path} is skipped: it is not the directory of a run."
        if (path / run_dir.TRAININGS).is_dir():
            within = shlex.quote(str(path / run_dir.TRAININGS))
            message += f" Its own runs: report {within}/*"
        print(message, file=sys.stderr)
    if not found:
        raise configs.BadConfiguration("None of these is the directory of a run.")
    return found


def draw(groups: list[Group], out: pathlib.Path) -> list[str]:
    """Draws the figures, replacing those of an earlier report; returns their names.

    Of several groups, a figure that shows one has its number in the name. The names are
    in the order of the report.
    """
    together = {"curves": curves, "calibration": calibration}
    singly = {"confusion": confusion, "weights": weights}
    for name in (*together, *singly, "features"):
        for old in (out / f"{name}.png", *out.glob(f"{name}-[0-9]*.png")):
            old.unlink(missing_ok=True)
    drawn = [
        f"{name}.png"
        for name, figure in together.items()
        if figure.draw(groups, out / f"{name}.png")
    ]
    for index, group in enumerate(groups, start=1):
        for name, figure in singly.items():
            path = out / (f"{name}-{index}.png" if len(groups) > 1 else f"{name}.png")
            if figure.draw(group, path):
                drawn.append(path.name)
    return drawn


def text(groups: list[Group], drawn: list[str]) -> str:
    """The report with these figures, in Markdown that also reads well in a terminal."""
    if len(groups) == 1:
        section = markdown.section(groups[0], _figures(drawn))
        return formatting.blocks(f"# {groups[0].title}", section) + "\n"
    of_all = _figures(name for name in drawn if "-" not in name)
    parts = ["# Comparison", markdown.comparison(groups), *of_all]
    for index, group in enumerate(groups, start=1):
        own = _figures(name for name in drawn if name.endswith(f"-{index}.png"))
        parts += [f"# {index}. {group.title}", markdown.section(group, own)]
    return formatting.blocks(*parts) + "\n"


def _figures(names: Iterable[str]) -> list[str]:
    """Each figure as a paragraph: what it shows, and the file."""
    kind = lambda name: pathlib.PurePath(name).stem.partition("-")[0]
    return [f"![{CAPTIONS[kind(name)]}]({name})" for name in names]


def _features(
    groups: list[Group], data_dir: pathlib.Path | None
) -> dict[str, Mapping[str, Any]]:
    """Penultimate features of the first seed of each group; {} if they are too few."""
    from experiments.train import evaluation

    features = lambda group: evaluation.features(
        group.results[0].directory, data_dir, splits=("train", "test"), examples=1000
    )
    by_run = {group.title: features(group).splits for group in groups}
    fewest = min(len(y) for splits in by_run.values() for _, y in splits.values())
    if fewest >= tsne.FEWEST:
        return by_run
    print(
        f"The features are not drawn: t-SNE needs {tsne.FEWEST} examples of a split, "
        f"got {fewest}.",
        file=sys.stderr,
    )
    return {}
