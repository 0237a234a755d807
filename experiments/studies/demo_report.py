"""The demo's table and figure, from its log."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import configs
from experiments.report import formatting, plot_style
from experiments.report.formatting import number
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Event = dict[str, Any]  # one line of the records
Measure = Callable[[Event], Any]  # of a run's last event

_SGD, _ABSGD = plot_style.COLORS[:2]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of a study, for the seeds that every method finished.

    Attributes:
      study: the study.
      seeds: the seeds that every method finished.
      runs: events by λ, then seed, then epoch.
      lam: the λ that validation chose.
    """

    study: Study
    seeds: list[int]
    runs: dict[float, list[list[Event]]]
    lam: float

    def last(self, lam: float, measure: Measure) -> np.ndarray:
        """A metric after the last epoch of the runs with this λ, `[seeds, ...]`."""
        return np.array([measure(events[-1]) for events in self.runs[lam]])

    def course(self, lam: float, measure: Measure) -> np.ndarray:
        """A measure over the epochs of the runs with this λ, `[seeds, epochs, ...]`."""
        return np.array([[measure(e) for e in events] for events in self.runs[lam]])


def outcome(study: Study, records: Iterable[Event]) -> Outcome | None:
    """Collects the finished runs of a study, and chooses λ on validation accuracy.

    A seed that some method did not finish is left out for all of them, since they are
    compared seed by seed. Of two λs with the same validation accuracy the one nearer
    to SGD is taken.

    Args:
      study: the study, with its grid of λ.
      records: events, in order.

    Returns:
      The outcome, or None if no seed is complete.
    """
    lams = (math.inf, *study.lams)
    events: dict[tuple[float, int], list[Event]] = {}
    for event in records:
        if event["study"] == study.name:
            key = float(event["lam"]), event["seed"]
            events.setdefault(key, []).append(event)
    finished = {key for key, of_run in events.items() if "test" in of_run[-1]}
    seeds = [
        seed
        for seed in range(study.seeds)
        if all((lam, seed) in finished for lam in lams)
    ]
    if not seeds:
        return None
    runs = {lam: [events[lam, seed] for seed in seeds] for lam in lams}
    found = Outcome(study, seeds, runs, math.inf)
    chosen = max(
        study.lams,
        key=lambda lam: (np.mean(found.last(lam, _validation)).round(9), abs(lam)),
    )
    return dataclasses.replace(found, lam=chosen)


def table(found: Outcome) -> str:
    """SGD against ABSGD, in Markdown that also reads well in a terminal."""
    study, data, seeds = found.study, found.study.run.data, len(found.seeds)
    measures = {"test accuracy": lambda e: e["test"]["accuracy"]}
    if data.tail_classes:
        measures["tail recall"] = lambda e: e["test"]["tail_recall"]

    of_sgd = [found.last(math.inf, measure) for measure in measures.values()]
    of_absgd = [found.last(found.lam, measure) for measure in measures.values()]
    rows = [
        ["method", "λ", *measures],
        ["SGD", number(math.inf), *(formatting.spread(values) for values in of_sgd)],
        [
            "ABSGD",
            number(found.lam),
            *(formatting.spread(values) for values in of_absgd),
        ],
        [
            "difference",
            "",
            *(
                formatting.difference(b - a)
                for a, b in zip(of_sgd, of_absgd, strict=True)
            ),
        ],
    ]
    tried = ", ".join(
        f"{'SGD' if math.isinf(lam) else f'λ = {number(lam)}'} "
        f"{100.0 * np.mean(found.last(lam, _validation)):.1f}"
        for lam in found.runs
    )
    classes = data.classes
    tail = ", ".join(map(str, range(classes - data.tail_classes, classes)))
    last = found.runs[math.inf][0][-1]
    counts = last["class_counts"]
    notes = [
        f"Percent, mean ± standard deviation over {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}; the difference is paired by seed, "
        "± its standard error.",
        f"Trained on {sum(counts)} images, {counts[0]} of the first class and "
        f"{counts[-1]} of the last, for {last['step']} updates; in a pair from the "
        "same start, on the same batches, at the same learning rates.",
        f"Tested on {data.test_per_class * classes} images, balanced, labels clean."
        + (f" Tail: classes {tail}." if data.tail_classes else ""),
        f"λ is chosen on {data.validation_per_class * classes} validation images a "
        f"seed, {_validation_labels(data)}.",
        f"Validation accuracy: {tried}.",
    ]
    return "\n".join(
        [
            f"### {study.title}",
            "",
            *formatting.markdown(rows),
            "",
            *(f"* {n}" for n in notes),
            "",
        ]
    )


def figure(outcomes: dict[str, Outcome | None], path: pathlib.Path) -> None:
    """Draws weights and recall, in three panels.

    Args:
      outcomes: of the demo's studies, by name; None where nothing is finished.
      path: of the image, PNG.
    """
    long_tail = outcomes[LONG_TAIL.name]
    label_noise = outcomes[LABEL_NOISE.name]
    with plot_style.saved(path, (13.5, 4.2)) as sheet:
        panels = sheet.subplots(1, 3)
        for panel, found, draw in (
            (panels[0], long_tail, _draw_class_weights),
            (panels[1], long_tail, _draw_recall),
            (panels[2], label_noise, _draw_clean_weights),
        ):
            if found is None:
                panel.set_axis_off()
                panel.text(
                    0.5, 0.5, "no seed finished", ha="center", color=plot_style.GREY
                )
            else:
                draw(panel, found)
        sheet.get_layout_engine().set(wspace=0.06)


def _draw_class_weights(panel: "Axes", found: Outcome) -> None:
    """Mean attentional weight of each class over training."""
    from matplotlib import ticker

    weights = found.course(found.lam, lambda e: e["weight_by_class"]).mean(axis=0)
    epochs, classes = weights.shape
    counts = found.last(found.lam, lambda e: e["class_counts"])[0]
    palette = plot_style.shades(classes)
    for label in range(classes):
        panel.plot(
            np.arange(1, epochs + 1),
            weights[:, label],
            color=palette[label],
            linewidth=1.8,
            label=f"{label}  ({counts[label]})",
        )
    panel.set_yscale("log")
    panel.set_ylim(min(0.4, 0.8 * weights.min()), max(2.5, 1.25 * weights.max()))
    panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    panel.yaxis.set_minor_locator(ticker.NullLocator())
    _mark_switch(panel, found, height=0.05)
    panel.set_title("Long tail: weight by class")
    panel.set_xlabel("epoch")
    panel.set_ylabel("mean attentional weight")
    panel.legend(
        title="class (training images)",
        fontsize=9.5,
        title_fontsize=9.5,
        labelspacing=0.25,
        handlelength=1.2,
        loc="upper left",
    )


def _draw_recall(panel: "Axes", found: Outcome) -> None:
    """Recall of each class, SGD against ABSGD."""
    counts = found.last(found.lam, lambda e: e["class_counts"])[0]
    positions = np.arange(len(counts))
    for lam, name, color, marker, offset in (
        (math.inf, "SGD", _SGD, "s", -0.14),
        (found.lam, f"ABSGD, λ = {number(found.lam)}", _ABSGD, "o", 0.14),
    ):
        recall = 100.0 * found.last(lam, lambda e: e["test"]["recall"])
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
    panel.set_ylim(0, 104)
    panel.set_title("Long tail: recall by class")
    panel.set_xlabel("class, and its training images")
    panel.set_ylabel("test recall, %")
    panel.legend(
        loc="lower left",
        title=f"mean ± standard error, n = {len(found.seeds)}",
        title_fontsize=9.5,
        alignment="left",
    )
    panel.grid(axis="y", color="#e6e6e6")
    panel.set_axisbelow(True)


def _draw_clean_weights(panel: "Axes", found: Outcome) -> None:
    """Weight of clean and of mislabelled examples over training."""
    for key, name, color in (
        ("weight_clean", "clean", _SGD),
        ("weight_mislabelled", "mislabelled", _ABSGD),
    ):
        weights = found.course(found.lam, lambda e, key=key: e[key])
        mean, error = weights.mean(axis=0), formatting.standard_error(weights)
        epochs = np.arange(1, len(mean) + 1)
        panel.plot(epochs, mean, color=color, linewidth=2.2)
        panel.fill_between(
            epochs, mean - error, mean + error, color=color, alpha=0.25, linewidth=0
        )
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
    _mark_switch(panel, found, height=0.5)
    rate = found.study.run.data.noise_rate
    panel.set_title(f"{rate:.0%} wrong labels: weight of examples")
    panel.set_xlabel("epoch")
    panel.set_ylabel("mean attentional weight")


def _mark_switch(panel: "Axes", found: Outcome, height: float) -> None:
    """Marks where λ is switched on; `height` of the words, share of the panel's."""
    run = found.study.run
    switch = run.epoch_at(run.method.start_at)
    panel.axvline(switch, color=plot_style.GREY, linewidth=1, linestyle=":")
    late = switch > run.epochs / 2  # then there is more room before it
    panel.annotate(
        f"plain SGD, then λ = {number(found.lam)}"
        if late
        else f"λ = {number(found.lam)} from here on",
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


def _validation(event: Event) -> float:
    return event["validation"]["accuracy"]


def _validation_labels(data: configs.Data) -> str:
    """Describes the noise of the validation labels."""
    if data.noise_rate == 0.0:
        return "balanced, labels clean"
    correct = 100.0 * (1.0 - data.noise_rate)
    return (
        f"whose labels are as noisy as the training's (so {correct:.0f} is about the "
        "best that can be scored on them)"
    )
