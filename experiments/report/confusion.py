"""The confusion matrix as a figure."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.report import plot_style
from experiments.results import aggregate, metrics
from experiments.results.aggregate import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERED = 20  # classes; of more, cells are too small for a number


def draw(group: Group, path: pathlib.Path) -> bool:
    """Draws the confusion matrix at the last evaluated epoch, summed over seeds.

    Returns whether there was something to draw.
    """
    last = group.last()
    counts = last and aggregate.values(last, lambda e: e["test"]["confusion"])
    if last is None or counts is None:
        return False
    shares = shares_of(counts.sum(axis=0))
    classes = len(shares)
    side = min(max(3.6 + 0.42 * classes, 4.6), 11.0) if classes <= NUMBERED else 7.5
    with plot_style.saved(path, (side + 1.2, side)) as sheet:
        from matplotlib import colors

        panel = sheet.subplots()
        panel.set_facecolor("#e6e6e6")  # of a class without an example
        image = panel.imshow(
            100.0 * shares,
            cmap="Blues",
            # Rare confusions matter: the root makes them visible.
            norm=colors.PowerNorm(0.5, 0.0, 100.0),
            interpolation="nearest",
        )
        panel.set(xlabel="prediction", ylabel="label")
        if classes <= NUMBERED:
            _number(panel, shares, group.class_counts, group.run.data.class_names)
        panel.set_title(f"Confusion on the test set, epoch {last[0]['epoch']}")
        panel.spines[:].set_visible(False)
        bar = sheet.colorbar(image, ax=panel, shrink=0.8, ticks=(0, 1, 5, 20, 50, 100))
        bar.set_label("share of the label's examples, %")
        bar.outline.set_visible(False)
        plot_style.caption(sheet, group.title)
    return True


def shares_of(counts: np.ndarray) -> np.ndarray:
    """Each row of `[label, prediction]` over its sum; NaN where that is 0."""
    return metrics.ratio(counts, counts.sum(axis=1, keepdims=True))


def _number(
    panel: "Axes",
    shares: np.ndarray,
    class_counts: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Names every class, and writes percent into every cell that is not empty."""
    ticks = np.arange(len(shares))
    long = max(map(len, class_names)) > 3
    panel.set_xticks(ticks, class_names, rotation=45 if long else 0)
    panel.set_yticks(
        ticks,
        [f"{n}  ({c:,.0f})" for n, c in zip(class_names, class_counts, strict=True)],
    )
    panel.set_ylabel("label (training examples)")
    for (row, column), share in np.ndenumerate(shares):
        if share > 0.005:  # what does not round to 0
            panel.text(
                column,
                row,
                f"{100.0 * share:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if share > 0.4 else "#222222",
            )
