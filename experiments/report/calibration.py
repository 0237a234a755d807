"""Calibration: accuracy against confidence."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.report import plot_style
from experiments.results import aggregate, metrics
from experiments.results.aggregate import Group


class Bins(NamedTuple):
    """The bins of all seeds of a group, pooled."""

    examples: np.ndarray  # [bins]
    confidence: np.ndarray  # [bins], in [0, 1]; NaN where there is no example
    accuracy: np.ndarray  # [bins], in [0, 1]; NaN where there is no example
    error: float  # expected calibration error in [0, 1], the mean of the seeds


def draw(groups: list[Group], path: pathlib.Path) -> bool:
    """Draws accuracy against confidence on the test set at the last evaluated epoch.

    Returns whether there was something to draw.
    """
    drawn = [
        (group.title, color, of_group)
        for group, color in zip(groups, plot_style.colors(len(groups)), strict=True)
        if (of_group := bins(group)) is not None
    ]
    if not drawn:
        return False
    with plot_style.saved(path, (5.6, 6.4 + 0.25 * len(drawn))) as sheet:
        diagram, share = sheet.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": (3.2, 1.0)}
        )
        grey = {"color": plot_style.GREY, "linewidth": 1, "linestyle": ":"}
        diagram.plot((0, 100), (0, 100), label="perfect calibration", **grey)
        edges = np.linspace(0.0, 100.0, metrics.BINS + 1)
        for title, color, of_group in drawn:
            some = of_group.examples > 0
            name = f"{title}: " if len(drawn) > 1 else ""
            name += f"calibration error {100.0 * of_group.error:.1f}"
            diagram.plot(
                100.0 * of_group.confidence[some],
                100.0 * of_group.accuracy[some],
                color=color,
                marker="o",
                markersize=5,
                linewidth=1.8,
                label=plot_style.wrapped(name, inches=4.6),
            )
            shares = 100.0 * of_group.examples / of_group.examples.sum()
            share.stairs(shares, edges, color=color, linewidth=1.8)
        diagram.set(title="Calibration on the test set", xlim=(0, 101), ylim=(0, 101))
        diagram.set_ylabel("accuracy of the bin, %")
        share.set(xlabel="confidence, %", ylabel="examples, %", ylim=(0, None))
        plot_style.legend_below(sheet)
        if len(groups) == 1:
            plot_style.caption(sheet, groups[0].title)
    return True


def bins(group: Group) -> Bins | None:
    """Pools the bins of all seeds; None if no epoch was tested."""
    last = group.last()
    if last is None:
        return None
    examples, confidence, accuracy = (
        aggregate.values(last, lambda e, key=key: e["test"]["calibration"][key])
        for key in ("examples", "confidence", "accuracy")
    )
    error = aggregate.values(last, lambda e: e["test"]["calibration_error"])
    if examples is None or confidence is None or accuracy is None or error is None:
        return None
    totals = examples.sum(axis=0)

    pooled = lambda means: metrics.ratio(
        np.where(examples > 0, examples * means, 0.0).sum(axis=0), totals
    )
    return Bins(totals, pooled(confidence), pooled(accuracy), float(error.mean()))
