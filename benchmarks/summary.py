"""From samples to medians and ratios with their quartiles, and to tables."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.report import formatting


class Measured(NamedTuple):
    """The measurements of one variant."""

    facts: dict[str, Any]  # known without running it: FLOPs, bytes, parameters, ...
    samples: list[float]  # seconds per step, round by round; empty if it was not run
    steps: int  # of a sample


class Group(NamedTuple):
    """Variants that are compared with each other."""

    name: str  # in tables
    facts: dict[str, Any]  # that the variants share, such as the batch
    variants: dict[str, Measured]
    baselines: tuple[str, ...]  # that ratios are taken to; those to the first are shown
    why_not: str = ""  # why they were not run; "" if they were


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median and quartiles.

    Examples:
      >>> spread([3.0, 1.0, 2.0])
      {'median': 2.0, 'low': 1.5, 'high': 2.5}
    """
    several = samples if len(samples) > 1 else [*samples] * 2
    low, middle, high = statistics.quantiles(several, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratios round by round; to the median if the numbers of rounds differ."""
    if len(ours) != len(theirs):
        theirs = [statistics.median(theirs)] * len(ours)
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def summarise(group: Group) -> dict[str, Any]:
    """The measurements of a group with medians and ratios, for JSON.

    A variant that was run has `seconds`, its ratios of `time` to each baseline, and its
    `examples_per_second`; all have ratios of the compiled program's costs to those of
    the first baseline.
    """
    variants: dict[str, dict[str, Any]] = {}
    for name, (facts, samples, steps) in group.variants.items():
        about: dict[str, Any] = {"facts": facts, "steps": steps, "samples": samples}
        base = group.variants[group.baselines[0]].facts
        for quantity in ("flops", "temporary_bytes", "held_bytes"):
            if facts.get(quantity) and base.get(quantity):
                about[f"{quantity}_ratio"] = facts[quantity] / base[quantity]
        if samples:
            about["seconds"] = spread(samples)
            about["time"] = {
                baseline: spread(ratios(samples, group.variants[baseline].samples))
                for baseline in group.baselines
            }
            if "examples" in facts:
                rate = facts["examples"] / statistics.median(samples)
                about["examples_per_second"] = rate
        variants[name] = about
    return group._asdict() | {"variants": variants}


def table(groups: Sequence[dict[str, Any]]) -> str:
    """Markdown of the `summarise`d groups: a row per variant, no column that is empty.

    Times are relative to the first baseline, and in milliseconds.
    """
    others = sorted({name for group in groups for name in group["baselines"][1:]})
    rows: list[dict[str, str]] = []
    for group in groups:
        for index, (name, about) in enumerate(group["variants"].items()):
            facts, time = about["facts"], about.get("time", {})
            own, seconds = time.get(group["baselines"][0]), about.get("seconds")
            memory, rate = (
                facts.get("temporary_bytes"),
                about.get("examples_per_second"),
            )
            rows.append(
                {
                    "": group["name"] if index == 0 else "",
                    "variant": name,
                    "time": _show("{median:.3f}×", own),
                    "quartiles": _show("{low:.3f} to {high:.3f}", own),
                    **{
                        f"time / {other}": _show("{median:.3f}×", time.get(other))
                        for other in others
                    },
                    "FLOPs": _show("{:,.5f}", about.get("flops_ratio")),
                    "temporary": _show("{:,.4f}", about.get("temporary_bytes_ratio")),
                    "temporary, MB": _show("{:,.3f}", memory, 1e-6),
                    "ms": _show("{median:.4g}", seconds, 1e3),
                    "quartiles, ms": _show("{low:.4g} to {high:.4g}", seconds, 1e3),
                    "examples / s": _show("{:,.0f}", rate),
                }
            )
    used = [name for name in (rows[0] if rows else ()) if any(r[name] for r in rows)]
    lines = [used, *([row[name] for name in used] for row in rows)]
    return "\n".join(formatting.markdown(lines))


def _show(form: str, value: Any, unit: float = 1.0) -> str:
    """A number, or median and quartiles, in a unit; empty where there is none."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return form.format(**{name: unit * each for name, each in value.items()})
    return form.format(unit * value)
