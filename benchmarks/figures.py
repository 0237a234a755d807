"""A figure for each suite."""

import math
import pathlib
from typing import TYPE_CHECKING, Any

from experiments.report import plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summaries = list[dict[str, Any]]  # of `summary.summarise`


def draw(name: str, groups: Summaries, path: pathlib.Path) -> None:
    """Draws the results of a suite.

    Args:
      name: of the suite; those without a figure of their own have bars.
      groups: its results.
      path: of the image, PNG.
    """
    match name:
        case "overhead":
            _overhead(groups, path)
        case "dense":
            _dense(groups, path)
        case _:
            _bars(groups, path)


def _overhead(groups: Summaries, path: pathlib.Path) -> None:
    """Ratios over the number of parameters, a colour for each batch."""
    mlps = [group for group in groups if "parameters" in group["facts"]]
    batches = sorted({group["facts"]["batch"] for group in mlps})
    colors = plot_style.shades(len(batches))
    names = list(mlps[0]["variants"])[1:]
    with plot_style.saved(path, (3.6 * (len(names) + 1), 4.6)) as sheet:
        *panels, operations = sheet.subplots(1, len(names) + 1)
        for panel, name in zip(panels, names, strict=True):
            for index, (batch, color) in enumerate(zip(batches, colors, strict=True)):
                # Shifted, so that error bars do not overlap.
                shift = 1.12 ** (index - (len(batches) - 1) / 2)
                rows = [
                    (shift * group["facts"]["parameters"], _time(group, name))
                    for group in mlps
                    if group["facts"]["batch"] == batch and _time(group, name)
                ]
                _with_quartiles(panel, rows, color, f"batch {batch}")
            panel.axhline(1.0, color=plot_style.GREY, lw=0.8)
            panel.axhline(1.02, color=plot_style.GREY, lw=0.8, ls=":")
            panel.set_title(f"{name}: time / SGD's")
        if panels:
            low = min(panel.get_ylim()[0] for panel in panels)
            high = max(panel.get_ylim()[1] for panel in panels)
            for panel in panels:
                panel.set_ylim(max(low, 0.7), min(max(high, 1.05), 1.6))
        for name, style in (("pullback", "-"), ("value", "--")):
            for batch, color in zip(batches, colors, strict=True):
                rows = [
                    (
                        group["facts"]["parameters"],
                        _positive(group["variants"][name]["flops_ratio"] - 1.0),
                    )
                    for group in mlps
                    if group["facts"]["batch"] == batch
                ]
                label = name if batch == batches[0] else None
                operations.plot(
                    *zip(*rows, strict=True), style, color=color, label=label
                )
        operations.axhline(1e-3, color=plot_style.GREY, lw=0.8, ls=":")
        operations.set_yscale("log")
        operations.set_title("FLOPs / SGD's − 1")
        operations.legend(fontsize=9.5)
        for panel in (*panels, operations):
            panel.set_xscale("log")
            panel.set_xlabel("parameters")
        if panels:
            panels[0].legend(fontsize=9.5)


def _positive(value: float) -> float:
    """Replaces values that a logarithmic axis cannot show by NaN."""
    return value if value > 0.0 else math.nan


def _dense(groups: Summaries, path: pathlib.Path) -> None:
    """Time and temporary memory over the batch."""
    names = list(groups[0]["variants"])
    with plot_style.saved(path, (9.5, 4.4)) as sheet:
        time, memory = sheet.subplots(1, 2)
        for name, color in zip(names, plot_style.colors(len(names)), strict=True):
            rows = [
                (group["facts"]["batch"], group["variants"][name]) for group in groups
            ]
            seconds = [(batch, found["seconds"]) for batch, found in rows]
            _with_quartiles(time, seconds, color, name)
            sizes = [found["facts"]["temporary_bytes"] / 1e6 for _, found in rows]
            memory.plot([batch for batch, _ in rows], sizes, "o-", color=color, ms=4)
        for panel, title in ((time, "Seconds a step"), (memory, "Temporary, MB")):
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xlabel("batch")
            panel.set_title(title)
        time.legend(fontsize=9.5)


def _bars(groups: Summaries, path: pathlib.Path) -> None:
    """Time of each variant over its baseline's."""
    shown = [group for group in groups if group["variants"]]
    rows = sum(len(group["variants"]) for group in shown)
    size = (8.0, 1.0 + 0.32 * rows + 0.9 * len(shown))
    with plot_style.saved(path, size) as sheet:
        heights = [len(group["variants"]) + 0.5 for group in shown]
        panels = sheet.subplots(
            len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for panel, group in zip(panels, shown, strict=True):
            names = [name for name in group["variants"] if _time(group, name)]
            found = [_time(group, name) for name in names]
            medians = [each["median"] for each in found]
            panel.barh(
                names,
                medians,
                xerr=_errors(found),
                color=plot_style.COLORS[4],
                ecolor=plot_style.GREY,
                height=0.7,
            )
            for index, each in enumerate(found):
                panel.annotate(
                    f"{each['median']:.3g}×",
                    (each["high"], index),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9.5,
                )
            panel.axvline(1.0, color=plot_style.GREY, lw=0.8)
            if max(medians) > 20.0:
                panel.set_xscale("log")
            panel.margins(x=0.15)
            panel.invert_yaxis()
            panel.set_title(f"{group['name']}: time / {group['baselines'][0]}")


def _time(group: dict[str, Any], name: str) -> dict[str, float]:
    """The ratio to the first baseline; empty where it was not run."""
    return group["variants"][name].get("time", {}).get(group["baselines"][0], {})


def _with_quartiles(
    panel: "Axes", rows: list[tuple[float, dict[str, float]]], color: Any, label: str
) -> None:
    if rows:
        positions, found = zip(*rows, strict=True)
        panel.errorbar(
            positions,
            [each["median"] for each in found],
            yerr=_errors(list(found)),
            fmt="o-",
            ms=4,
            lw=1.4,
            color=color,
            label=label,
        )


def _errors(found: list[dict[str, float]]) -> list[list[float]]:
    """Distances from the medians to the quartiles."""
    return [
        [each["median"] - each["low"] for each in found],
        [each["high"] - each["median"] for each in found],
    ]
