"""The figure of a suite: curves over a size that varies, or else bars."""

import pathlib
from typing import TYPE_CHECKING, Any

from experiments.report import plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summary = dict[str, Any]  # of `summary.summarise`


def draw(groups: list[Summary], path: pathlib.Path) -> None:
    """Draws a suite as a PNG: curves for one network in many sizes, or else bars."""
    sized = [group for group in groups if "parameters" in group["facts"]]
    if sized:
        _curves(sized, path)
    else:
        _bars([group for group in groups if group["variants"]], path)


def _curves(groups: list[Summary], path: pathlib.Path) -> None:
    """Ratios to the baseline: a column for each variant, a row for each quantity."""
    baseline, *names = groups[0]["variants"]
    sizes = {
        of: sorted({group["facts"][of] for group in groups})
        for of in ("parameters", "batch")
    }
    x, other = sorted(sizes, key=lambda of: len(sizes[of]) == 1)
    rows = {"time": "time", "flops_ratio": "FLOPs", "temporary_bytes_ratio": "memory"}
    with plot_style.saved(path, (3.6 * len(names) + 1.0, 3.2 * len(rows))) as sheet:
        panels = sheet.subplots(
            len(rows), len(names), sharex=True, sharey="row", squeeze=False
        )
        for (quantity, title), row in zip(rows.items(), panels, strict=True):
            for name, panel in zip(names, row, strict=True):
                colors = plot_style.shades(len(sizes[other]))
                for size, color in zip(sizes[other], colors, strict=True):
                    found = {
                        group["facts"][x]: _ratio(group, name, quantity)
                        for group in groups
                        if group["facts"][other] == size
                    }
                    found = {at: ratio for at, ratio in found.items() if ratio}
                    panel.errorbar(
                        [*found],
                        [ratio["median"] for ratio in found.values()],
                        yerr=_errors([*found.values()]),
                        fmt="o-",
                        ms=4,
                        lw=1.4,
                        color=color,
                        label=f"{other}: {size:,}",
                    )
                panel.axhline(1.0, color=plot_style.GREY, lw=0.8)
                panel.set_xscale("log")
                panel.set_yscale("log")
                panel.set_title(f"{name}: {title}")
            row[0].set_ylabel(f"/ {baseline}")
        for panel in panels[-1]:
            panel.set_xlabel(x)
        panels[0, 0].legend(fontsize=9.5)


def _bars(groups: list[Summary], path: pathlib.Path) -> None:
    """Time of each variant over its baseline's."""
    heights = [len(group["variants"]) + 0.5 for group in groups]
    size = (8.0, 1.0 + 0.32 * sum(heights) + 0.74 * len(groups))
    with plot_style.saved(path, size) as sheet:
        panels = sheet.subplots(
            len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for panel, group in zip(panels, groups, strict=True):
            _bars_of(panel, group)


def _bars_of(panel: "Axes", group: Summary) -> None:
    times = {name: _ratio(group, name, "time") for name in group["variants"]}
    times = {name: time for name, time in times.items() if time}
    medians = [time["median"] for time in times.values()]
    panel.barh(
        list(times),
        medians,
        xerr=_errors([*times.values()]),
        color=plot_style.COLORS[4],
        ecolor=plot_style.GREY,
        height=0.7,
    )
    for index, time in enumerate(times.values()):
        panel.annotate(
            f"{time['median']:.3g}×",
            (time["high"], index),
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


def _ratio(group: Summary, name: str, quantity: str) -> dict[str, float]:
    """The ratio to the first baseline with its quartiles; empty where it is unknown."""
    found = group["variants"][name].get(quantity, {})
    if isinstance(found, dict):
        return found.get(group["baselines"][0], {})
    return dict.fromkeys(("median", "low", "high"), found)


def _errors(found: list[dict[str, float]]) -> list[list[float]]:
    """Distances from the medians to the quartiles."""
    return [
        [each["median"] - each["low"] for each in found],
        [each["high"] - each["median"] for each in found],
    ]
