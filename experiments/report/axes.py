"""Shared parts of figures: lines over epochs, and marks where a schedule changes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.report import plot_style
from experiments.report.formatting import method, number
from experiments.results import metrics
from experiments.results.aggregate import Group, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW_POINTS = 12  # fewer than that are shown one by one


class Marks(NamedTuple):
    """Epochs, from 0, at which something changes; none before the first."""

    drops: tuple[int, ...]  # of the learning rate
    switch: tuple[int, ...]  # of λ, or to a radius; one at most


def marks(group: Group) -> Marks:
    """The changes of a run's schedule until the last epoch."""
    run, last = group.run, last_epoch([group])
    drops = [run.epoch_at(share) for share in run.optimizer.drop_at]
    by_drops = run.optimizer.decay == "drops" and run.optimizer.drop_factor > 1.0
    switch = run.epoch_at(run.method.start_at)
    return Marks(
        tuple(drop for drop in drops if by_drops and 0 < drop < last),
        (switch,) if run.method.switches and 0 < switch < last else (),
    )


def mark(
    panels: Sequence["Axes"], groups: list[Group], colors: Sequence[Any]
) -> list[Any]:
    """Marks where attention is switched and the rate drops; returns legend handles.

    A broad line stands between the last epoch before the switch and the first after
    it, and a dotted one at every drop: in grey where the groups share it, else in the
    colour of each.
    """
    from matplotlib import lines

    marked = [
        (marks(group), color) for group, color in zip(groups, colors, strict=True)
    ]
    switches = [(of_group.switch, color) for of_group, color in marked]
    drops = [(of_group.drops, color) for of_group, color in marked]
    broad: dict[str, Any] = {"alpha": 0.3, "linewidth": 5, "zorder": 0}
    dotted: dict[str, Any] = {"linestyle": ":", "linewidth": 1, "zorder": 0.5}
    for panel in panels:
        for each, look in ((switches, broad), (drops, dotted)):
            for epochs, color in _once(each):
                for epoch in epochs:
                    panel.axvline(epoch + 0.5, color=color, **look)
    run, alone, handles = groups[0].run, len(groups) == 1, []
    handle = lambda label, look: handles.append(
        lines.Line2D([], [], color=plot_style.GREY, label=label, **look)
    )
    if any(epochs for epochs, _ in switches):
        lams = f"λ: {number(run.method.first_lam)} to {number(run.method.lam)}"
        if run.method.rho is not None:
            lams = f"start of {method(run.method)}"
        handle(lams if alone else "λ is switched", broad)
    if any(epochs for epochs, _ in drops):
        divided = f"learning rate divided by {run.optimizer.drop_factor:g}"
        handle(divided if alone else "learning rate drops", dotted)
    return handles


def _once(marked: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Each mark with its colour; a single one in grey where all are the same."""
    same = {at for at, _ in marked}
    return [(at, plot_style.GREY) for at in same] if len(same) == 1 else marked


def line(
    panel: "Axes",
    epochs: np.ndarray,
    values: np.ndarray,
    color: Any,
    style: str = "-",
    label: str | None = None,
) -> None:
    """Draws the mean of values `[runs, epochs]`, with a band of their deviation.

    On a logarithmic axis the deviation is that of the logarithms: the mean less the
    usual one may be negative, and the band would fall to the floor.
    """
    middle = mean(values)
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
    if len(values) > 1:
        if panel.get_yscale() == "log":
            logs = np.full(values.shape, np.nan)
            np.log(values, out=logs, where=np.isfinite(values) & (values > 0.0))
            factor = np.exp(logs.std(axis=0, ddof=1))
            low, high = middle / factor, middle * factor
        else:
            deviation = values.std(axis=0, ddof=1)
            low, high = middle - deviation, middle + deviation
        panel.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)


def course(
    panel: "Axes",
    group: Group,
    measure: Measure,
    color: Any,
    style: str = "-",
    label: str | None = None,
) -> np.ndarray:
    """A line for a measure, if it was taken; returns its values `[runs, epochs]`."""
    epochs, values = group.course(measure)
    if len(epochs):
        line(panel, epochs, values, color, style, label)
    return values


def over_epochs(panel: "Axes", title: str, label: str, groups: list[Group]) -> None:
    """The title, and an axis of epochs."""
    from matplotlib import ticker

    panel.set(title=title, xlabel="epoch", ylabel=label)
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
    if high / low > 4.0:
        steps = (1.0,) if high / low > 300.0 else (1.0, 2.0, 5.0)
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=steps))
    else:
        panel.yaxis.set_major_locator(ticker.MaxNLocator(nbins=7))
    panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    panel.yaxis.set_minor_locator(ticker.NullLocator())


def last_epoch(groups: list[Group]) -> int:
    """The last one of all runs; 1 if there is none."""
    epochs = [r.epochs[-1]["epoch"] for g in groups for r in g.results if r.epochs]
    return max(epochs, default=1)


def mean(values: np.ndarray) -> np.ndarray:
    """Over the runs, the first axis, of what is finite there; NaN of nothing."""
    known = np.isfinite(values)
    return metrics.ratio(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0))
