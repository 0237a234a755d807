"""Training loss and accuracy over the epochs."""

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.report import axes, plot_style
from experiments.results.aggregate import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSSES = ("loss", "tilted_loss")  # of an epoch: the mean, and the objective at its end


def draw(groups: list[Group], path: pathlib.Path) -> bool:
    """Draws all groups in one PNG; returns whether there was something to draw."""
    if not any(len(group.course(lambda e: e["loss"])[0]) for group in groups):
        return False
    single = len(groups) == 1
    colors = plot_style.colors(len(groups))
    with plot_style.saved(path, (11.0, 4.8 + 0.25 * len(groups))) as sheet:
        loss, accuracy = sheet.subplots(1, 2)
        logarithmic = _positive(groups)
        if logarithmic:
            loss.set_yscale("log")  # before a band is drawn
        for group, color in zip(groups, colors, strict=True):
            # A single group can have a colour for each of its two lines.
            pair = plot_style.COLORS[:2] if single else (color, color)
            solid, dashed = zip(pair, ("-", "--"), strict=True)
            for key, look in zip(LOSSES, (solid, dashed), strict=True):
                axes.course(loss, group, lambda e, key=key: e[key], *look)
            for key, look in (("test", solid), ("validation", dashed)):
                axes.course(
                    accuracy,
                    group,
                    lambda e, key=key: 100.0 * float(e[key]["accuracy"]),
                    *look,
                )
        if logarithmic:
            axes.logarithmic(loss)
        axes.over_epochs(loss, "Training loss", "loss", groups)
        axes.over_epochs(accuracy, "Accuracy", "accuracy, %", groups)
        styles = plot_style.COLORS[:2] if single else (plot_style.GREY, plot_style.GREY)
        _style_legend(loss, styles, "mean over the epoch", "objective F̂ at its end")
        _style_legend(accuracy, styles, "test", "validation")
        handles = _group_handles(groups, colors)
        handles += axes.mark((loss, accuracy), groups, colors)
        if handles:
            columns = len(handles) if single else 1
            plot_style.legend_below(sheet, handles=handles, ncols=columns)
        if single:
            plot_style.caption(sheet, groups[0].title)
    return True


def _positive(groups: list[Group]) -> bool:
    """Whether all losses that are finite are positive."""
    courses = (g.course(lambda e, key=key: e[key]) for g in groups for key in LOSSES)
    values = np.concatenate([losses.ravel() for _, losses in courses])
    return bool(np.all(values[np.isfinite(values)] > 0.0))


def _group_handles(groups: list[Group], colors: list[Any]) -> list[Any]:
    """The legend of colours, and the meaning of the bands."""
    from matplotlib import lines, patches

    handles: list[Any] = []
    for group, color in zip(groups, colors, strict=True):
        seeds = len(group.results)
        band = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else ""
        if len(groups) > 1:
            name = group.title + (f" ({band})" if band else "")
            name = plot_style.wrapped(name, inches=9.5)
            handles.append(lines.Line2D([], [], color=color, lw=1.8, label=name))
        elif band:
            handles.append(patches.Patch(color=plot_style.GREY, alpha=0.3, label=band))
    return handles


def _style_legend(
    panel: "Axes", colors: tuple[Any, ...], solid: str, dashed: str
) -> None:
    """The legend of solid and dashed lines, if there are both."""
    from matplotlib import lines

    drawn = {line.get_linestyle(): line.get_marker() for line in panel.get_lines()}
    handles = []
    for style, color, name in zip(("-", "--"), colors, (solid, dashed), strict=True):
        if style in drawn:
            look: dict[str, Any] = {"lw": 1.8, "ls": style, "color": color}
            look |= {"marker": drawn[style], "markersize": 4}
            handles.append(lines.Line2D([], [], label=name, **look))
    panel.legend(handles=handles, fontsize=9.5, loc="best")
