"""Presets in columns."""

import math
from collections.abc import Sequence

from experiments import configs
from experiments.presets import _cost
from experiments.presets._preset import Preset

_HEADINGS = ("preset", "data", "model", "schedule", "steps and cost")
_START = "To begin with: digits come with scikit-learn, nothing is downloaded"
_LEGEND = (
    "data      LT, ST: imbalance ratio; sym, asym, or after a comma: share of wrong "
    "labels",
    "schedule  epochs x batch; λ 1@160: λ = 1 from epoch 160 on, plain SGD until then",
    "2*        starts from a finished run of a first stage",
    "cost      on two CPU cores; ~ estimated, no step was measured: what takes days",
    "          there needs a GPU",
    "",
    "NAME_smoke is NAME made small: three epochs on a few examples, in seconds.",
    "`python -m experiments train NAME --help` says what NAME is, and what the paper "
    "has for it.",
)


def table(presets: Sequence[Preset], first: Sequence[Preset] = ()) -> str:
    """Lines with the presets in columns, family by family, at least one preset.

    Those of a family come one after the other. Those of `first`, which a newcomer
    wants, stand above all families, and in theirs again.
    """
    start = [(preset, _START) for preset in first]
    listed = [*start, *((preset, preset.family) for preset in presets)]
    rows = [_row(preset) for preset, _ in listed]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    lines = [line(_HEADINGS)]
    family = None
    for (_, own), row in zip(listed, rows, strict=True):
        if own != family:
            family = own
            lines += ["", family]
        lines.append(line(row))
    return "\n".join([*lines, "", *_LEGEND])


def _row(preset: Preset) -> tuple[str, ...]:
    run = preset.run
    return (
        preset.name,
        _data(run.data),
        run.model.name + ("" if preset.needs is None else " 2*"),
        _schedule(run),
        " in ".join(steps_and_time(run)) if run.data.known else "by your data",
    )


def steps_and_time(run: configs.Run) -> tuple[str, str]:
    """Steps, and time on two CPU cores; an estimate has `~`."""
    measured = _cost.seconds(run)
    time = _cost.duration(_cost.estimate(run) if measured is None else measured)
    steps = run.epochs * _cost.steps_per_epoch(run)
    return f"{steps:,}", f"{'~' if measured is None else ''}{time}"


def _data(data: configs.Data) -> str:
    """The source, with its imbalance and label noise, in short."""
    name = data.source
    if data.imbalance_ratio > 1.0:
        shape = {"long_tail": "LT", "step": "ST"}[data.imbalance]
        noise = f", {data.noise_rate:g}" if data.noise_rate else ""
        return f"{name} {shape} {data.imbalance_ratio:g}{noise}"
    if data.noise_rate:
        kind = data.noise.partition("_")[0].removesuffix("metric")
        return f"{name} {kind} {data.noise_rate:g}"
    return name


def _schedule(run: configs.Run) -> str:
    """Epochs, batch, and λ with the epoch from which it holds."""
    text = f"{run.epochs} x {run.batch_size}"
    if run.method.rho is not None:
        return f"{text}, ρ {run.method.rho:g}"
    if not run.method.attends or math.isinf(run.method.lam):
        return f"{text}, SGD"
    return f"{text}, λ {run.method.lam:g}@{run.epoch_at(run.method.start_at)}"
