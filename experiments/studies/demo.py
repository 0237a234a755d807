"""The demo: SGD against ABSGD on handwritten digits, with two kinds of data."""

import math
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments import commands
from experiments.report import formatting, plot_style
from experiments.report.formatting import number
from experiments.studies import digits, grid
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL, Study
from experiments.studies.grid import Grid, Outcome
from experiments.train.session import Session

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = "demo.png"

_SGD, _ABSGD = plot_style.COLORS[:2]


def main(config: commands.Demo) -> int:
    """Trains, logs and reports; returns 0, or 130 if interrupted.

    The finished runs are reported in any case.
    """
    began = time.monotonic()
    studies = digits.studies(config.epochs)
    named = lambda study, lam: ((study.name, lam), f"{study.name}-lam{lam:g}")
    # Seed by seed, so that an interrupt leaves whole seeds of both studies.
    trials = [
        grid.trial(config.out, *named(study, run.method.lam), run)
        for seed in range(config.seeds)
        for study in studies
        for run in study.runs(seed)
    ]
    shared = {study.name: study.run for study in studies}

    def report() -> str:
        outcomes = grid.outcomes(trials)
        comparisons, tables = {}, []
        for study in studies:
            by_lam = {lam: outcomes[study.name, lam] for lam in (math.inf, *study.lams)}
            comparisons[study.name] = compare(study, by_lam)
            tables.append(table(study, comparisons[study.name]))
        if any(comparisons.values()):
            figure(comparisons, config.out / FIGURE)
        return "\n".join(tables)

    whole = Grid(config.out, "demo", shared, trials, Session(devices=1))
    status = grid.main(whole, report)
    print(f"{time.monotonic() - began:.0f} s.")
    return status


class Comparison(NamedTuple):
    """SGD against ABSGD in a study, on the seeds that ended with every λ."""

    study: Study
    outcomes: dict[float, Outcome]  # by λ, SGD's first
    lam: float  # that validation chose

    @property
    def sgd(self) -> Outcome:
        """The runs of SGD."""
        return self.outcomes[math.inf]

    @property
    def absgd(self) -> Outcome:
        """The runs with the chosen λ."""
        return self.outcomes[self.lam]

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class, of the first seed."""
        first = next(iter(self.sgd.results.values()))
        return first.class_counts.astype(int).tolist()


def compare(study: Study, outcomes: Mapping[float, Outcome]) -> Comparison | None:
    """Chooses λ on validation accuracy; of equals the one nearer to SGD.

    The study's grid begins with that one; SGD's λ is infinite. None if no seed ended
    with every λ, or SGD or every λ diverged.
    """
    ended = grid.complete(outcomes)
    lam = grid.choose({lam: ended[lam] for lam in study.lams} if ended else {})
    if lam is None or ended[math.inf].diverged:
        return None
    return Comparison(study, ended, lam)


def table(study: Study, comparison: Comparison | None) -> str:
    """SGD against ABSGD, in Markdown that also reads well in a terminal."""
    if comparison is None:
        return f"### {study.title}\n\nNo seed was finished by every method.\n"
    data, seeds = study.run.data, len(comparison.sgd.results)
    measures = {"test accuracy": grid.accuracy}
    if data.tail_classes:
        measures["tail recall"] = lambda e: e["test"]["tail_recall"]
    sgd, absgd = comparison.sgd, comparison.absgd
    spreads = lambda outcome: [
        formatting.spread(outcome.last(measure)) for measure in measures.values()
    ]
    gains = [
        formatting.paired(absgd.by_seed(measure), sgd.by_seed(measure))
        for measure in measures.values()
    ]
    rows = [
        ["method", "λ", *measures],
        ["SGD", number(math.inf), *spreads(sgd)],
        ["ABSGD", number(comparison.lam), *spreads(absgd)],
        ["difference", "", *gains],
    ]
    tried = []
    for lam, outcome in comparison.outcomes.items():
        name = "SGD" if math.isinf(lam) else f"λ = {number(lam)}"
        shown = "diverged"
        if not outcome.diverged:
            shown = f"{100.0 * np.mean(outcome.last(grid.validation)):.1f}"
        tried.append(f"{name} {shown}")
    classes = data.classes
    tail = ", ".join(map(str, range(classes - data.tail_classes, classes)))
    counts = comparison.class_counts
    first = next(iter(sgd.results.values()))
    labels = "balanced, labels clean"
    if data.noise_rate > 0.0:
        correct = f"{100.0 * (1.0 - data.noise_rate):.0f}"
        labels = (
            "whose labels are as noisy as the training's (so "
            f"{correct} is about the best that can be scored on them)"
        )
    notes = [
        "Percent, mean ± standard deviation over "
        f"{formatting.count(seeds, 'seed')}; the difference is paired by seed, "
        "± its standard error.",
        f"Trained on {sum(counts)} images, {counts[0]} of the first class and "
        f"{counts[-1]} of the last, for {first.epochs[-1]['step']} updates; in a pair "
        "from the same start, on the same batches, at the same learning rates.",
        f"Tested on {data.test_per_class * classes} images, balanced, labels clean."
        + (f" Tail: classes {tail}." if data.tail_classes else ""),
        f"λ is chosen on {data.validation_per_class * classes} validation images a "
        f"seed, {labels}.",
        f"Validation accuracy: {', '.join(tried)}.",
    ]
    parts = f"### {study.title}", formatting.markdown(rows), formatting.notes(notes)
    return formatting.blocks(*parts) + "\n"


def figure(comparisons: Mapping[str, Comparison | None], path: pathlib.Path) -> None:
    """Draws weights and recall of the studies, by name, in three panels of a PNG."""
    long_tail = comparisons[LONG_TAIL.name]
    label_noise = comparisons[LABEL_NOISE.name]
    with plot_style.saved(path, (13.5, 4.2)) as sheet:
        panels = sheet.subplots(1, 3)
        for panel, comparison, draw in (
            (panels[0], long_tail, _draw_class_weights),
            (panels[1], long_tail, _draw_recall),
            (panels[2], label_noise, _draw_clean_weights),
        ):
            if comparison is None:
                panel.set_axis_off()
                message = "no seed finished"
                panel.text(0.5, 0.5, message, ha="center", color=plot_style.GREY)
            else:
                draw(panel, comparison)
        sheet.get_layout_engine().set(wspace=0.06)


def _draw_class_weights(panel: "Axes", comparison: Comparison) -> None:
    """Mean attentional weight of each class over training."""
    from matplotlib import ticker

    weights = comparison.absgd.course(lambda e: e["weight_by_class"]).mean(axis=0)
    epochs, classes = weights.shape
    counts = comparison.class_counts
    palette = plot_style.shades(classes)
    for label, color in enumerate(palette):
        name, of_class = f"{label}  ({counts[label]})", weights[:, label]
        panel.plot(
            np.arange(1, epochs + 1), of_class, color=color, linewidth=1.8, label=name
        )
    panel.set_yscale("log")
    panel.set_ylim(min(0.4, 0.8 * weights.min()), max(2.5, 1.25 * weights.max()))
    panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    panel.yaxis.set_minor_locator(ticker.NullLocator())
    _mark_switch(panel, comparison, height=0.05)
    panel.set(xlabel="epoch", ylabel="mean attentional weight")
    panel.set_title("Long tail: weight by class")
    look = plot_style.OF_CLASSES | {"alignment": "center"}
    panel.legend(title="class (training images)", handlelength=1.2, **look)


def _draw_recall(panel: "Axes", comparison: Comparison) -> None:
    """Recall of each class, SGD against ABSGD."""
    counts = comparison.class_counts
    positions = np.arange(len(counts))
    for outcome, name, color, marker, offset in (
        (comparison.sgd, "SGD", _SGD, "s", -0.14),
        (comparison.absgd, f"ABSGD, λ = {number(comparison.lam)}", _ABSGD, "o", 0.14),
    ):
        recall = 100.0 * outcome.last(lambda e: e["test"]["recall"])
        panel.errorbar(
            positions + offset,
            recall.mean(axis=0),
            yerr=formatting.standard_error(recall),
            fmt=marker,
            color=color,
            markersize=6,
            elinewidth=1.6,
            label=name,
        )
    panel.set_xticks(positions, [f"{label}\n{counts[label]}" for label in positions])
    panel.set(xlabel="class, and its training images", ylabel="test recall, %")
    panel.set(ylim=(0, 104), title="Long tail: recall by class")
    panel.legend(
        loc="lower left",
        title=f"mean ± standard error, n = {len(comparison.sgd.results)}",
        title_fontsize=9.5,
        alignment="left",
    )
    panel.grid(axis="y", color="#e6e6e6")
    panel.set_axisbelow(True)


def _draw_clean_weights(panel: "Axes", comparison: Comparison) -> None:
    """Weight of clean and of mislabelled examples over training."""
    for key, name, color in (
        ("weight_clean", "clean", _SGD),
        ("weight_mislabelled", "mislabelled", _ABSGD),
    ):
        weights = comparison.absgd.course(lambda e, key=key: e[key])
        mean, error = weights.mean(axis=0), formatting.standard_error(weights)
        epochs, band = np.arange(1, len(mean) + 1), (mean - error, mean + error)
        panel.plot(epochs, mean, color=color, linewidth=2.2)
        panel.fill_between(epochs, *band, color=color, alpha=0.25, linewidth=0)
        panel.annotate(
            name,
            (epochs[-1], mean[-1]),
            xytext=(-2, 8),
            textcoords="offset points",
            ha="right",
            color=color,
            fontweight="bold",
        )
    panel.set_ylim(0, 1.15 * panel.get_ylim()[1])
    _mark_switch(panel, comparison, height=0.5)
    rate = comparison.study.run.data.noise_rate
    panel.set_title(f"{rate:.0%} wrong labels: weight of examples")
    panel.set(xlabel="epoch", ylabel="mean attentional weight")


def _mark_switch(panel: "Axes", comparison: Comparison, height: float) -> None:
    """Marks where λ is switched on; `height` of the words, share of the panel's."""
    run = comparison.study.run
    switch = run.epoch_at(run.method.start_at)
    panel.axvline(switch, color=plot_style.GREY, linewidth=1, linestyle=":")
    late = switch > run.epochs / 2  # then there is more room before it
    panel.annotate(
        f"plain SGD, then λ = {number(comparison.lam)}"
        if late
        else f"λ = {number(comparison.lam)} from here on",
        (switch, height),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if late else 6, 0),
        textcoords="offset points",
        ha="right" if late else "left",
        va="center",
        color="#555555",
        fontsize=10,
    )
    panel.set_xlim(1, max(run.epochs, 2))
