"""t-SNE of penultimate features."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.report import plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Features = tuple[np.ndarray, np.ndarray]  # float [n, features], labels int [n]

POINTS = 2000  # per split; more are slow to embed and hide one another
NAMED = 21  # classes with a colour and a marker of their own
_MARKERS = ("o", "^", "s")


def figure(
    features_by_run: Mapping[str, Mapping[str, Features]],
    path: pathlib.Path,
    *,
    class_counts: Mapping[str, np.ndarray] | None = None,
    points: int = POINTS,
    seed: int = 0,
) -> None:
    """Draws a panel for every run and split, a run per row.

    Each panel is an embedding of its own, in which near points had near features; the
    positions of clusters, and distances between them, have no meaning.

    Args:
      features_by_run: by title of the run and name of the split: features and labels.
      path: of the image, PNG.
      class_counts: by title: training examples of each class, for the legend.
      points: at most so many of a split are drawn, spread over the classes as evenly as
        there are examples, so that scarce classes are seen.
      seed: of the choice of points, and of t-SNE.

    Raises:
      ValueError: nothing to draw, or a split with fewer than four examples.
    """
    splits = list(dict.fromkeys(s for run in features_by_run.values() for s in run))
    if not splits:
        raise ValueError("There are no features to draw.")
    labels = [of for run in features_by_run.values() for _, of in run.values()]
    classes = 1 + max(int(of.max()) for of in labels)
    rows = len(features_by_run)
    with plot_style.saved(path, (4.6 * len(splits) + 2.0, 4.5 * rows + 0.3)) as sheet:
        panels = sheet.subplots(rows, len(splits), squeeze=False)
        for row, (title, of_run) in zip(panels, features_by_run.items(), strict=True):
            for panel, split in zip(row, splits, strict=True):
                panel.set_axis_off()
                if split in of_run:
                    _draw(panel, *of_run[split], classes, points, seed)
                    panel.set_title(split)
            if rows > 1:
                row[0].text(
                    0.0,
                    1.09,
                    plot_style.wrapped(title, 4.6 * len(splits)),
                    transform=row[0].transAxes,
                    color="#555555",
                    fontsize=9.5,
                )
            counts = (class_counts or {}).get(title)
            legend(row[-1], classes, counts)
        if rows == 1:
            plot_style.caption(sheet, next(iter(features_by_run)))


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Embeds features in the plane by t-SNE.

    Args:
      features: float `[n, features]`, n at least 4.
      seed: of t-SNE.

    Returns:
      float `[n, 2]`; the same for the same arguments on the same machine.

    Raises:
      ValueError: there are fewer than four.
    """
    import threadpoolctl
    from sklearn import decomposition, manifold

    count, width = features.shape
    if count < 4:
        raise ValueError(f"t-SNE needs at least 4 examples, got {count}.")
    found = np.asarray(features, np.float64)
    if width > 50:  # the usual first step: what is left out is mostly noise, and slow
        keep = decomposition.PCA(min(50, count), random_state=seed)
        found = keep.fit_transform(found)
    # Its threads synchronise at every step: on busy cores they are far slower than a
    # single thread.
    with threadpoolctl.threadpool_limits(1):
        return manifold.TSNE(
            init="pca" if width > 1 else "random",
            perplexity=min(30.0, (count - 1) / 3.0),
            random_state=seed,
        ).fit_transform(found)


def spread(labels: np.ndarray, points: int, seed: int = 0) -> np.ndarray:
    """Subsamples examples, as evenly over the classes as possible.

    Args:
      labels: int `[n]`.
      points: at most so many.
      seed: of the choice within a class.

    Returns:
      Indices of the chosen, int, ascending.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    # The rank of an example is how many of its class come before it: the first of each
    # class are taken, then the second, until there are enough.
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        of_class = shuffled == label
        turn[of_class] = np.arange(of_class.sum())
    return np.sort(order[np.argsort(turn, kind="stable")[:points]])


def _draw(
    panel: "Axes",
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    points: int,
    seed: int,
) -> None:
    """The points of one split."""
    chosen = spread(labels, points, seed)
    scatter(panel, embed(features[chosen], seed), labels[chosen], classes)


def scatter(
    panel: "Axes", embedded: np.ndarray, labels: np.ndarray, classes: int
) -> None:
    """Draws embedded features, coloured by class.

    Args:
      panel: to draw on.
      embedded: float `[n, 2]`.
      labels: int `[n]`.
      classes: number of classes.
    """
    if classes > NAMED:
        panel.scatter(
            *embedded.T, c=labels, cmap="viridis_r", vmin=0, vmax=classes - 1, s=7, lw=0
        )
    else:
        for label in range(classes):
            panel.scatter(
                *embedded[labels == label].T,
                color=_color(label),
                marker=_MARKERS[label // len(plot_style.COLORS)],
                s=9,
                lw=0,
            )
    panel.set_aspect("equal", adjustable="datalim")


def _color(label: int) -> str:
    return plot_style.COLORS[label % len(plot_style.COLORS)]


def legend(panel: "Axes", classes: int, counts: np.ndarray | None) -> None:
    """Draws the legend of the classes to the right of a panel.

    Args:
      panel: the last of a row.
      classes: number of classes.
      counts: training examples of each class, `[classes]`; None leaves them out.
    """
    from matplotlib import cm, colors, lines

    if classes > NAMED:
        scale = cm.ScalarMappable(colors.Normalize(0, classes - 1), "viridis_r")
        bar = panel.figure.colorbar(scale, ax=panel, label="class")
        bar.outline.set_visible(False)
        return
    handles = [
        lines.Line2D(
            [],
            [],
            color=_color(label),
            marker=_MARKERS[label // len(plot_style.COLORS)],
            markersize=5,
            linestyle="",
            label=str(label) if counts is None else f"{label}  ({counts[label]:,.0f})",
        )
        for label in range(classes)
    ]
    panel.legend(
        handles=handles,
        title="class" if counts is None else "class (training\nexamples)",
        alignment="left",
        fontsize=9.5,
        title_fontsize=9.5,
        labelspacing=0.25,
        handletextpad=0.2,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.0,
    )
