"""From samples to medians and ratios with their quartiles, and to tables."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.report import formatting


class Measured(NamedTuple):
    """The measurements of one variant.

    Attributes:
      facts: known without running it: FLOPs, bytes, parameters, ...
      samples: seconds per step, round by round; empty where it was not run.
      steps: steps of a sample.
    """

    facts: dict[str, Any]
    samples: list[float]
    steps: int


class Group(NamedTuple):
    """Variants that are compared with each other.

    Attributes:
      name: in tables.
      facts: that the variants share, such as the batch.
      variants: by name.
      baselines: variants that ratios are taken to; those to the first are shown.
      why_not: why they were not run; "" if they were.
    """

    name: str
    facts: dict[str, Any]
    variants: dict[str, Measured]
    baselines: tuple[str, ...]
    why_not: str = ""


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median and quartiles.

    Examples:
      >>> spread([3.0, 1.0, 2.0])
      {'median': 2.0, 'low': 1.5, 'high': 2.5}
    """
    if len(samples) == 1:
        return dict.fromkeys(("median", "low", "high"), samples[0])
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratios round by round; to the median if the numbers of rounds differ."""
    if len(ours) != len(theirs):
        theirs = [statistics.median(theirs)] * len(ours)
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def summarise(group: Group) -> dict[str, Any]:
    """The measurements of a group with medians and ratios, for JSON.

    Args:
      group: of a suite.

    Returns:
      Its fields; each variant also with `seconds`, the ratios of `time` to each
      baseline, and ratios of the compiled program's costs to the first baseline.
    """
    found: dict[str, Any] = {
        "name": group.name,
        "facts": group.facts,
        "baselines": list(group.baselines),
        "why_not": group.why_not,
        "variants": {},
    }
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
                about["examples_per_second"] = facts["examples"] / statistics.median(
                    samples
                )
        found["variants"][name] = about
    return found


def table(groups: Sequence[dict[str, Any]]) -> str:
    """The table of a suite, one row per variant.

    Args:
      groups: of `summarise`.

    Returns:
      Markdown, without columns that are empty for all variants.
    """
    head = ["", "variant", "time", "quartiles"]
    others = sorted(
        {name for group in groups for name in group["baselines"][1:]},
    )
    head += [f"time / {name}" for name in others]
    head += ["FLOPs", "temporary", "temporary, MB", "ms", "quartiles, ms"]
    head += ["examples / s"]
    rows = []
    for group in groups:
        for index, (name, about) in enumerate(group["variants"].items()):
            first, *_ = group["baselines"]
            time = about.get("time", {})
            temporary = about["facts"].get("temporary_bytes")
            rows.append(
                [
                    group["name"] if index == 0 else "",
                    name,
                    *_ratio(time.get(first)),
                    *(_ratio(time.get(other))[0] for other in others),
                    _number(about.get("flops_ratio"), 5),
                    _number(about.get("temporary_bytes_ratio"), 4),
                    _number(None if temporary is None else temporary / 1e6, 3),
                    *_milliseconds(about.get("seconds")),
                    _number(about.get("examples_per_second"), 0),
                ]
            )
    used = [
        index for index in range(len(head)) if any(row[index] != "" for row in rows)
    ]
    return "\n".join(
        formatting.markdown([[row[index] for index in used] for row in [head, *rows]])
    )


def _ratio(found: dict[str, float] | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    return f"{found['median']:.3f}×", f"{found['low']:.3f} to {found['high']:.3f}"


def _milliseconds(found: dict[str, float] | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    median, low, high = (1e3 * found[name] for name in ("median", "low", "high"))
    return f"{median:.4g}", f"{low:.4g} to {high:.4g}"


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:,.{decimals}f}"
