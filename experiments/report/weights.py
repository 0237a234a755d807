"""Attentional weights of classes and of mislabelled examples, over the epochs."""

import functools
import math
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from experiments.report import axes, plot_style
from experiments.results import metrics
from experiments.results.aggregate import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SINGLY = 20  # classes that are drawn one by one; of more, by groups of classes

Parts = dict[str, np.ndarray]  # groups of classes by name: bool [classes]


def draw(group: Group, path: pathlib.Path) -> bool:
    """Draws the mean attentional weight of classes, or of groups of classes.

    Further panels have the weights of clean and of mislabelled examples, if there are
    such, and the effective sample size. Returns whether there was something to draw:
    not where all weights are one, as SGD's.
    """
    epochs, weights = _of_classes(group)
    if not len(epochs) or _all_one(group, weights):
        return False
    drawers: list[Callable[[Axes, Group], None]] = [_by_class]
    if weights.shape[2] > SINGLY:
        drawers = [
            functools.partial(_by_part, parts=parts, title=title)
            for parts, title in (
                (halves(group.class_counts), "Weight by half of the classes"),
                (shots(group.class_counts), "Weight by size of the class"),
            )
            if len(parts) > 1
        ]
        drawers.append(_as_map)
    for key, drawer in {
        "weight_mislabelled": _of_mislabelled,
        "effective_sample_size": _effective,
    }.items():
        if len(group.course(lambda e, key=key: e[key])[0]):
            drawers.append(drawer)

    columns = 2 if len(drawers) == 4 else min(len(drawers), 3)
    rows = math.ceil(len(drawers) / columns)
    with plot_style.saved(path, (5.6 * columns, 4.4 * rows + 0.6)) as sheet:
        panels = np.ravel(sheet.subplots(rows, columns))
        for panel, drawer in zip(panels, drawers, strict=False):
            drawer(panel, group)
        for panel in panels[len(drawers) :]:
            panel.set_axis_off()
        if handles := axes.mark((), [group], [plot_style.GREY]):
            plot_style.legend_below(sheet, handles=handles, ncols=len(handles))
        plot_style.caption(sheet, group.title)
    return True


def halves(class_counts: np.ndarray) -> Parts:
    """The classes of the lower and of the upper half of the labels, by name.

    The half with more training examples is the majority; none is, and there are no
    halves, if both have as many.
    """
    classes = len(class_counts)
    lower = np.arange(classes) < classes // 2
    difference = class_counts[lower].sum() - class_counts[~lower].sum()
    if difference == 0:
        return {}
    first, second = ("majority", "minority")[:: 1 if difference > 0 else -1]
    return {
        f"{first}, 0 to {classes // 2 - 1}": lower,
        f"{second}, {classes // 2} to {classes - 1}": ~lower,
    }


def shots(class_counts: np.ndarray) -> Parts:
    """The classes with many, medium and few training examples, where there are such."""
    many, few = class_counts > metrics.MANY, class_counts < metrics.FEW
    by_shot = {
        f"many, > {metrics.MANY} each": many,
        f"medium, {metrics.FEW} to {metrics.MANY}": ~many & ~few,
        f"few, < {metrics.FEW}": few,
    }
    return {name: inside for name, inside in by_shot.items() if inside.any()}


def mean_weight(
    weights: np.ndarray, class_counts: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """The mean weight `[...]` of the examples of some classes, bool `[classes]`.

    `weights` has the mean of each class, `[..., classes]`, NaN where it has no example;
    so has the result if none of the classes has one.
    """
    counts = np.where(np.isfinite(weights) & inside, class_counts, 0.0)
    sums = (counts * np.where(counts > 0.0, weights, 0.0)).sum(axis=-1)
    return metrics.ratio(sums, counts.sum(axis=-1))


def _of_classes(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and the mean weight of each class, `[runs, epochs, classes]`."""
    return group.course(lambda e: e["weight_by_class"])


def _all_one(group: Group, weights: np.ndarray) -> bool:
    """Whether no class, and within a class no example, weighs more than another."""
    _, effective = group.course(lambda e: e["effective_sample_size"])
    values = np.concatenate([weights.ravel(), effective.ravel()])
    return bool(np.allclose(values[np.isfinite(values)], 1.0, atol=1e-3))


def _by_class(panel: "Axes", group: Group) -> None:
    """A line for each class, the mean over the seeds."""
    panel.set_yscale("log")
    epochs, found = _of_classes(group)
    weights = axes.mean(found)
    classes = weights.shape[1]
    palette = plot_style.colors(classes) if classes <= 3 else plot_style.shades(classes)
    for label in range(classes):
        name = group.run.data.class_names[label]
        name += f"  ({group.class_counts[label]:,.0f})"
        axes.line(panel, epochs, weights[None, :, label], palette[label], label=name)
    panel.legend(
        title="class (training examples)",
        handlelength=1.2,
        bbox_to_anchor=(1.02, 1.02),
        borderaxespad=0.0,
        ncols=1 if classes <= 14 else 2,
        columnspacing=1.0,
        **plot_style.OF_CLASSES,
    )
    _axis(panel, group, weights, "Weight by class")


def _by_part(panel: "Axes", group: Group, parts: Parts, title: str) -> None:
    """A line for each group of classes: the mean weight of their examples."""
    panel.set_yscale("log")
    epochs, weights = _of_classes(group)
    lines = []
    palette = plot_style.colors(len(parts))
    for (name, inside), color in zip(parts.items(), palette, strict=True):
        of_part = mean_weight(weights, group.class_counts, inside)
        count = group.class_counts[inside].sum()
        axes.line(panel, epochs, of_part, color, label=f"{name}  ({count:,.0f})")
        lines.append(axes.mean(of_part))
    name = "classes (training examples)"
    panel.legend(title=name, loc="best", **plot_style.LEGEND)
    _axis(panel, group, np.array(lines), title)


def _as_map(panel: "Axes", group: Group) -> None:
    """A heat map of weights, classes by epochs; white is a weight of one."""
    from matplotlib import ticker

    epochs, found = _of_classes(group)
    weights = axes.mean(found)
    logs = np.log2(weights, out=np.full(weights.shape, np.nan), where=weights > 0.0)
    known = np.abs(logs[np.isfinite(logs)])
    bound = max(1.0, np.quantile(known, 0.995)) if known.size else 1.0
    panel.set_facecolor("#bbbbbb")  # of a class without an example
    half = 0.5 * (np.diff(epochs).min() if len(epochs) > 1 else 1)
    image = panel.imshow(
        logs.T,
        cmap="PuOr_r",
        vmin=-bound,
        vmax=bound,
        aspect="auto",
        interpolation="nearest",
        extent=(epochs[0] - half, epochs[-1] + half, weights.shape[1] - 0.5, -0.5),
    )
    panel.set(title="Weight by class", xlabel="epoch", ylabel="class")
    panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=8))
    panel.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    bar = panel.figure.colorbar(image, ax=panel)
    ticks = np.linspace(-bound, bound, 5)
    bar.set_ticks(ticks, labels=[f"{2.0**tick:.2g}" for tick in ticks])
    bar.outline.set_visible(False)


def _of_mislabelled(panel: "Axes", group: Group) -> None:
    """Clean examples against mislabelled ones."""
    panel.set_yscale("log")
    drawn = []
    for name, color in zip(("clean", "mislabelled"), plot_style.COLORS, strict=False):
        measure = lambda e, key=f"weight_{name}": e[key]
        found = axes.course(panel, group, measure, color, label=name)
        drawn.append(found.ravel())
    panel.legend(loc="best", fontsize=9.5)
    title = "Weight of clean and mislabelled examples"
    _axis(panel, group, np.concatenate(drawn), title)


def _effective(panel: "Axes", group: Group) -> None:
    """The effective sample size of a batch."""
    measure = lambda e: 100.0 * float(e["effective_sample_size"])
    axes.course(panel, group, measure, plot_style.COLORS[2])
    panel.set_ylim(0, 104)
    axes.mark([panel], [group], [plot_style.GREY])
    label = "(Σp)²/Σp², % of the batch"
    axes.over_epochs(panel, "Effective sample size", label, [group])


def _axis(panel: "Axes", group: Group, weights: np.ndarray, title: str) -> None:
    """The axis of weights: it includes one, and nothing below a thousandth."""
    seen = weights[np.isfinite(weights) & (weights > 0.0)]
    smallest, largest = (seen.min(), seen.max()) if seen.size else (1.0, 1.0)
    panel.set_ylim(min(0.4, max(0.8 * smallest, 1e-3)), max(2.5, 1.25 * largest))
    axes.logarithmic(panel)
    axes.mark([panel], [group], [plot_style.GREY])
    axes.over_epochs(panel, title, "mean attentional weight", [group])
