"""Shared parts of figures: lines over epochs, and marks where a schedule changes."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments import configs
from experiments.report import plot_style
from experiments.results.aggregate import Group, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW_POINTS = 12  # fewer than that are shown one by one


class Marks(NamedTuple):
    """Epochs, from 0, at which something changes; none before the first."""

    drops: tuple[int, ...]  # of the learning rate
    switch: int | None  # of λ


def marks(group: Group) -> Marks:
    """The changes of a run's schedule until the last epoch."""
    run, last = group.run, last_epoch([group])
    drops = [run.epoch_at(share) for share in run.optimizer.drop_at]
    by_drops = run.optimizer.decay == "drops" and run.optimizer.drop_factor > 1.0
    switch = run.epoch_at(run.method.start_at)
    switches = run.method.attends and run.method.lam != run.method.first_lam
    return Marks(
        tuple(drop for drop in drops if by_drops and 0 < drop < last),
        switch if switches and 0 < switch < last else None,
    )


def mark_switch(
    panel: "Axes", switch: int | None, color: Any = plot_style.GREY
) -> None:
    """A broad line between the last epoch before λ is switched and the first after."""
    if switch is not None:
        panel.axvline(switch + 0.5, color=color, alpha=0.3, linewidth=5, zorder=0)


def mark_drops(
    panel: "Axes", drops: tuple[int, ...], color: Any = plot_style.GREY
) -> None:
    """A dotted line at every drop of the learning rate."""
    for drop in drops:
        panel.axvline(drop + 0.5, color=color, linewidth=1, linestyle=":", zorder=0.5)


def switch_handle(label: str) -> Any:
    """For a legend."""
    from matplotlib import lines

    return lines.Line2D([], [], color=plot_style.GREY, alpha=0.3, lw=5, label=label)


def drops_handle(run: configs.Run | None = None) -> Any:
    """For a legend; of one run it says by how much."""
    from matplotlib import lines

    label = "learning rate drops"
    if run is not None:
        label = f"learning rate divided by {run.optimizer.drop_factor:g}"
    return lines.Line2D([], [], color=plot_style.GREY, lw=1, ls=":", label=label)


def line(
    panel: "Axes",
    epochs: np.ndarray,
    found: np.ndarray,
    color: Any,
    style: str = "-",
    label: str | None = None,
) -> None:
    """Draws the mean over the seeds, with a band of their standard deviation.

    On a logarithmic axis the deviation is that of the logarithms: the mean less the
    usual one may be negative, and the band would fall to the floor.

    Args:
      panel: to draw on.
      epochs: `[epochs]`.
      found: values, `[runs, epochs]`.
      color: of both.
      style: of the line.
      label: in the legend.
    """
    middle = mean(found)
    panel.plot(
        epochs,
        middle,
        color=color,
        linestyle=style,
        linewidth=1.8,
        marker="o" if len(epochs) < FEW_POINTS else None,
        markersize=4,
        label=label,
    )
    if len(found) > 1:
        if panel.get_yscale() == "log":
            logs = np.full(found.shape, np.nan)
            np.log(found, out=logs, where=np.isfinite(found) & (found > 0.0))
            factor = np.exp(logs.std(axis=0, ddof=1))
            low, high = middle / factor, middle * factor
        else:
            deviation = found.std(axis=0, ddof=1)
            low, high = middle - deviation, middle + deviation
        panel.fill_between(
            epochs,
            low,
            high,
            color=color,
            alpha=0.2,
            linewidth=0,
        )


def course(
    panel: "Axes", group: Group, measure: Measure, color: Any, style: str = "-"
) -> np.ndarray:
    """A line for a measure, if it was taken; returns its values `[runs, epochs]`."""
    epochs, found = group.course(measure)
    if len(epochs):
        line(panel, epochs, found, color, style)
    return found


def over_epochs(panel: "Axes", title: str, label: str, groups: list[Group]) -> None:
    """The title, and an axis of epochs."""
    from matplotlib import ticker

    panel.set_title(title)
    panel.set_xlabel("epoch")
    panel.set_ylabel(label)
    last = last_epoch(groups)
    if last > 1:
        margin = 0.02 * (last - 1)  # for the first and the last point
        panel.set_xlim(1 - margin, last + margin)
        panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=8))
    else:
        panel.set_xlim(0.5, 1.5)
        panel.set_xticks([1])


def logarithmic(panel: "Axes") -> None:
    """An axis whose ticks are plain numbers, and not too many."""
    from matplotlib import ticker

    panel.set_yscale("log")
    low, high = panel.get_ylim()
    steps = (
        (1.0,) if high / low > 300.0 else (1.0, 2.0, 5.0) if high / low > 4.0 else None
    )
    if steps is None:
        panel.yaxis.set_major_locator(ticker.MaxNLocator(nbins=7))
    else:
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=steps))
    panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    panel.yaxis.set_minor_locator(ticker.NullLocator())


def last_epoch(groups: list[Group]) -> int:
    """The last one of all runs; 1 if there is none."""
    epochs = [r.epochs[-1]["epoch"] for g in groups for r in g.results if r.epochs]
    return max(epochs, default=1)


def mean(values: np.ndarray) -> np.ndarray:
    """Over the runs, the first axis, of what is finite there; NaN of nothing."""
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(axis=0)
    counts = known.sum(axis=0)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
