"""The figure of each suite."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.report import plot_style

if TYPE_CHECKING:
    import pathlib

    from matplotlib.axes import Axes

Summary = dict[str, Any]  # of `summary.summarise`
Quartiles = dict[str, float]  # of `summary.spread`


def draw(name: str, groups: list[Summary], path: "pathlib.Path") -> None:
    """Draws the results of a suite.

    Args:
      name: of the suite; those without a figure of their own have bars.
      groups: its results.
      path: of the image, PNG.
    """
    {"overhead": _overhead, "dense": _dense}.get(name, _bars)(groups, path)


def _overhead(groups: list[Summary], path: "pathlib.Path") -> None:
    """Ratios over the number of parameters, a curve for each batch."""
    mlps = [group for group in groups if "parameters" in group["facts"]]
    batches = sorted({group["facts"]["batch"] for group in mlps})
    names = list(mlps[0]["variants"])[1:]

    def more_flops(group: Summary, name: str) -> Quartiles:
        more = group["variants"][name]["flops_ratio"] - 1.0
        return _exact(more) if more > 0.0 else {}  # the axis is logarithmic

    with plot_style.saved(path, (3.6 * (len(names) + 1), 4.6)) as sheet:
        *panels, operations = sheet.subplots(1, len(names) + 1)
        curves = [
            (panel, name, _time, "o-")
            for panel, name in zip(panels, names, strict=True)
        ]
        curves += [(operations, "pullback", more_flops, "-")]
        curves += [(operations, "value", more_flops, "--")]
        for panel, name, quantity, style in curves:
            for index, batch in enumerate(batches):
                # Shifted, so that error bars do not overlap.
                shift = 1.12 ** (index - (len(batches) - 1) / 2)
                rows = [
                    (shift * group["facts"]["parameters"], quantity(group, name))
                    for group in mlps
                    if group["facts"]["batch"] == batch
                ]
                color = plot_style.shades(len(batches))[index]
                label = f"{name}, batch {batch}"
                _curve(panel, rows, style, color=color, label=label)
            panel.set_xscale("log")
            panel.set_xlabel("parameters")
            panel.set_title(f"{name}: time / SGD's")
        low, high = zip(*(panel.get_ylim() for panel in panels), strict=True)
        for panel in panels:
            panel.axhline(1.0, color=plot_style.GREY, lw=0.8)
            panel.axhline(1.02, color=plot_style.GREY, lw=0.8, ls=":")
            panel.set_ylim(max(min(low), 0.7), min(max(*high, 1.05), 1.6))
        operations.axhline(1e-3, color=plot_style.GREY, lw=0.8, ls=":")
        operations.set_yscale("log")
        operations.set_title("FLOPs / SGD's − 1")
        for panel in (panels[0], operations):
            panel.legend(fontsize=9.5)


def _dense(groups: list[Summary], path: "pathlib.Path") -> None:
    """Time and temporary memory over the batch."""
    quantities: dict[str, Callable[[Summary], Quartiles]] = {
        "Seconds a step": lambda one: one["seconds"],
        "Temporary, MB": lambda one: _exact(one["facts"]["temporary_bytes"] / 1e6),
    }
    names = list(groups[0]["variants"])
    with plot_style.saved(path, (9.5, 4.4)) as sheet:
        panels = sheet.subplots(1, 2)
        for panel, (title, quantity) in zip(panels, quantities.items(), strict=True):
            for name, color in zip(names, plot_style.colors(len(names)), strict=True):
                rows = [
                    (group["facts"]["batch"], quantity(group["variants"][name]))
                    for group in groups
                ]
                _curve(panel, rows, color=color, label=name)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xlabel("batch")
            panel.set_title(title)
        panels[0].legend(fontsize=9.5)


def _bars(groups: list[Summary], path: "pathlib.Path") -> None:
    """Time of each variant over its baseline's."""
    shown = [group for group in groups if group["variants"]]
    heights = [len(group["variants"]) + 0.5 for group in shown]
    size = (8.0, 1.0 + 0.32 * sum(heights) + 0.74 * len(shown))
    with plot_style.saved(path, size) as sheet:
        panels = sheet.subplots(
            len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for panel, group in zip(panels, shown, strict=True):
            times = {name: _time(group, name) for name in group["variants"]}
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


def _time(group: Summary, name: str) -> Quartiles:
    """The ratio to the first baseline; empty where it was not run."""
    return group["variants"][name].get("time", {}).get(group["baselines"][0], {})


def _exact(value: float) -> Quartiles:
    return dict.fromkeys(("median", "low", "high"), value)


def _curve(
    panel: "Axes", rows: list[tuple[float, Quartiles]], style: str = "o-", **more: Any
) -> None:
    """Medians with quartiles, where there are some."""
    rows = [(x, y) for x, y in rows if y]
    found = [y for _, y in rows]
    panel.errorbar(
        [x for x, _ in rows],
        [y["median"] for y in found],
        yerr=_errors(found) if rows else None,
        fmt=style,
        ms=4,
        lw=1.4,
        **more,
    )


def _errors(found: list[Quartiles]) -> list[list[float]]:
    """Distances from the medians to the quartiles."""
    return [
        [each["median"] - each["low"] for each in found],
        [each["high"] - each["median"] for each in found],
    ]
