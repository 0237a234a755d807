"""t-SNE of penultimate features."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.report import plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Features = tuple[np.ndarray, np.ndarray]  # float [n, features], labels int [n]

FEWEST = 4  # examples that t-SNE can embed
NAMED = 21  # classes with a colour and a marker of their own
_MARKERS = ("o", "^", "s")


def figure(
    features_by_run: Mapping[str, Mapping[str, Features]],
    path: pathlib.Path,
    class_counts: Mapping[str, np.ndarray],
    class_names: Mapping[str, Sequence[str]],
) -> None:
    """Draws a panel for every run and split, a run per row.

    Each panel is an embedding of its own, in which near points had near features; the
    positions of clusters, and distances between them, have no meaning. The features and
    labels are by title of the run and name of the split, the same splits of each; the
    training examples and the name of each class, for the legend, by title.
    """
    splits = list(next(iter(features_by_run.values())))
    classes = max(map(len, class_counts.values()))
    rows = len(features_by_run)
    with plot_style.saved(path, (4.6 * len(splits) + 2.0, 4.5 * rows + 0.3)) as sheet:
        panels = sheet.subplots(rows, len(splits), squeeze=False)
        for row, (title, of_run) in zip(panels, features_by_run.items(), strict=True):
            for panel, split in zip(row, splits, strict=True):
                panel.set_axis_off()
                features, labels = of_run[split]
                scatter(panel, embed(features), labels, classes)
                panel.set_title(split)
            if rows > 1:
                name = plot_style.wrapped(title, 4.6 * len(splits))
                small = {"color": "#555555", "fontsize": 9.5}
                row[0].text(0.0, 1.09, name, transform=row[0].transAxes, **small)
            legend(row[-1], classes, class_counts[title], class_names[title])
        if rows == 1:
            plot_style.caption(sheet, next(iter(features_by_run)))


def embed(features: np.ndarray) -> np.ndarray:
    """Embeds features `[n, features]`, n at least 4, in the plane by t-SNE, `[n, 2]`.

    The same arguments give the same points on the same machine.
    """
    import threadpoolctl
    from sklearn import decomposition, manifold

    count, width = features.shape
    points = np.asarray(features, np.float64)
    if width > 50:  # the usual first step: what is left out is mostly noise, and slow
        keep = decomposition.PCA(min(50, count), random_state=0)
        points = keep.fit_transform(points)
    # Its threads synchronise at every step: on busy cores they are far slower than a
    # single thread.
    with threadpoolctl.threadpool_limits(1):
        return manifold.TSNE(
            init="pca" if width > 1 else "random",
            perplexity=min(30.0, (count - 1) / 3.0),
            random_state=0,
        ).fit_transform(points)


def scatter(
    panel: "Axes", embedded: np.ndarray, labels: np.ndarray, classes: int
) -> None:
    """Draws embedded features `[n, 2]`, coloured by class."""
    if classes > NAMED:
        panel.scatter(
            *embedded.T, c=labels, cmap="viridis_r", vmin=0, vmax=classes - 1, s=7, lw=0
        )
    else:
        for label in range(classes):
            points = embedded[labels == label].T
            panel.scatter(*points, s=9, lw=0, **_look(label))
    panel.set_aspect("equal", adjustable="datalim")


def _look(label: int) -> dict[str, Any]:
    """Colour and marker of a class."""
    marker, color = divmod(label, len(plot_style.COLORS))
    return {"color": plot_style.COLORS[color], "marker": _MARKERS[marker]}


def legend(
    panel: "Axes",
    classes: int,
    counts: np.ndarray,
    names: Sequence[str] | None = None,
) -> None:
    """Draws the legend of the classes to the right of the last panel of a row.

    It has the training examples of each class, `[classes]`, and their numbers in place
    of names that are None.
    """
    from matplotlib import cm, colors, lines

    if classes > NAMED:
        scale = cm.ScalarMappable(colors.Normalize(0, classes - 1), "viridis_r")
        bar = panel.figure.colorbar(scale, ax=panel, label="class")
        bar.outline.set_visible(False)
        return
    names = names or [*map(str, range(classes))]
    named = [f"{n}  ({count:,.0f})" for n, count in zip(names, counts, strict=True)]
    handles = [
        lines.Line2D([], [], markersize=5, linestyle="", label=name, **_look(label))
        for label, name in enumerate(named)
    ]
    panel.legend(
        handles=handles,
        title="class (training\nexamples)",
        handletextpad=0.2,
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.0,
        **plot_style.OF_CLASSES,
    )
