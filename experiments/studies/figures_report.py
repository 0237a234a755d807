"""The figures of `figures`' records, and their section in the page of results."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.report import formatting, plot_style
from experiments.report.formatting import number
from experiments.studies.digits import LONG_TAIL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]

FOLDER = "figures"  # next to the page
LAMS = (0.5, -0.5)  # of the norms
NORM_GAMMAS = (1.0, 0.1, 0.01, None)  # None is 1/√t
DIGITS_LAM = 0.5
GAMMAS = (0.05, 0.1, 0.2, 0.5, 0.7, 0.9, 1.0)
MOMENTA = (0.0, 0.5, 0.9, 0.95)

CAPTIONS = {
    "toy": "One step from the same line on 16 points of two unequal classes, as "
    "`python -m experiments toy` takes it: the line before, and after a step of each "
    "method.",
    "norms": "‖∇F_λ‖² over all {examples} examples, its mean in windows of steps, of "
    "ABSGD with batches of {batch}, η = 0.5/√t and no momentum on a small non-convex "
    "network. Bands are the standard deviation over {seeds} seeds. In grey 1/√t, the "
    "rate of the theorem, which asks for η and γ in proportion to it. At λ = 0.5 the "
    "norm stops falling for γ = 1, and for smaller γ it ends up falling more slowly "
    "than the grey line; at λ = −0.5 it falls faster for every γ.",
    "gamma": "Accuracy on digits with a long tail of ratio {ratio:g}, test set, mean ± "
    "standard error over {seeds} seeds, of ABSGD with λ = {lam} from {start:.0%} of "
    "the epochs on, over γ; in blue SGD.",
    "momentum": "The same over momentum β, at γ = {gamma:g}, with η in proportion to "
    "1 − β so that steps are as long. At β = 0.9 these are the runs of the figure "
    "before in another program, which rounds otherwise.",
    "weights": "Mean weight of each class over the epochs, mean over {seeds} seeds, at "
    "that λ and with the automatic λ (ρ = 0.4, c = 2). The lighter a line, the "
    "more frequent the class.",
}


def draw(found: Sequence[Record], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures, each a PNG; returns their paths."""
    drawers = {"norms": _norms, "gamma": _gamma, "momentum": _momentum}
    drawers["weights"] = _weights
    paths = []
    for name, drawer in drawers.items():
        own = [r for r in found if r["figure"] == name]
        two = name in ("norms", "weights")
        path = folder / f"{name}.png"
        with plot_style.saved(path, (10.0 if two else 6.0, 4.2)) as sheet:
            panels = np.ravel(sheet.subplots(1, 2 if two else 1, sharey=two))
            drawer(own, *panels)
        paths.append(path)
    return paths


def section(found: Sequence[Record]) -> list[str]:
    """The figures with what they show; nothing if there are no records."""
    if not found:
        return []
    from experiments.studies import figures

    facts = {
        "examples": figures.EXAMPLES,
        "batch": figures.BATCH,
        "seeds": len({r["seed"] for r in found}),
        "ratio": LONG_TAIL.run.data.imbalance_ratio,
        "lam": number(DIGITS_LAM),
        "start": LONG_TAIL.run.method.start_at,
        "gamma": LONG_TAIL.run.method.gamma,
    }
    lines = ["## Figures"]
    for name, caption in CAPTIONS.items():
        lines += ["", f"![{caption.format(**facts)}]({FOLDER}/{name}.png)"]
    return lines


def _by_seed(found: Iterable[Record], key: str) -> np.ndarray:
    """A value of each record, float `[seeds, ...]`, without what diverged."""
    return np.array([r[key] for r in found if r[key] is not None], float)


def _norms(found: Sequence[Record], *panels: "Axes") -> None:
    shades = plot_style.colors(len(NORM_GAMMAS))
    for panel, lam in zip(panels, LAMS, strict=True):
        for gamma, color in zip(NORM_GAMMAS, shades, strict=True):
            own = [r for r in found if (r["lam"], r["gamma"]) == (lam, gamma)]
            steps, values = np.array(own[0]["steps"]), _by_seed(own, "values")
            logs = np.log(values)
            mean, std = logs.mean(0), logs.std(0, ddof=1)
            label = "γ = 1/√t" if gamma is None else f"γ = {number(gamma)}"
            panel.plot(steps, np.exp(mean), color=color, label=label)
            panel.fill_between(
                steps, np.exp(mean - std), np.exp(mean + std), color=color, alpha=0.15
            )
        reached = [r for r in found if (r["lam"], r["gamma"]) == (lam, None)]
        third = len(reached[0]["steps"]) // 3
        ends = np.array(reached[0]["steps"])[[third, -1]]
        start = np.exp(np.log(_by_seed(reached, "values"))[:, third].mean())
        rate = start * np.sqrt(ends[0] / ends)
        panel.plot(ends, rate, "--", color=plot_style.GREY)
        panel.text(ends[-1], 1.1 * rate[-1], "1/√t", va="bottom", ha="right")
        panel.set(xscale="log", yscale="log", xlabel="step", title=f"λ = {number(lam)}")
    panels[0].set_ylabel("‖∇F_λ‖²")
    panels[0].legend()


def _gamma(found: Sequence[Record], panel: "Axes") -> None:
    sgd, absgd = plot_style.COLORS[:2]
    of = lambda gamma: (
        100.0 * _by_seed((r for r in found if r["gamma"] == gamma), "test")
    )
    values = [of(gamma) for gamma in GAMMAS]
    means = [own.mean() for own in values]
    errors = [float(formatting.standard_error(own)) for own in values]
    panel.errorbar(GAMMAS, means, errors, color=absgd, marker="o", capsize=3)
    plain = of(None)
    error = float(formatting.standard_error(plain))
    panel.axhline(plain.mean(), color=sgd)
    panel.axhspan(plain.mean() - error, plain.mean() + error, color=sgd, alpha=0.15)
    panel.text(GAMMAS[0], plain.mean() + error, "SGD", color=sgd, va="bottom")
    panel.set(xlabel="γ", ylabel="accuracy, %", title=f"ABSGD, λ = {DIGITS_LAM:g}")


def _momentum(found: Sequence[Record], panel: "Axes") -> None:
    names = ("SGD", f"ABSGD, λ = {DIGITS_LAM:g}")
    lams = (math.inf, DIGITS_LAM)
    for lam, color, name in zip(lams, plot_style.colors(2), names, strict=True):
        values = [
            100.0
            * _by_seed(
                (r for r in found if r["momentum"] == beta and float(r["lam"]) == lam),
                "test",
            )
            for beta in MOMENTA
        ]
        means = [own.mean() for own in values]
        errors = [float(formatting.standard_error(own)) for own in values]
        panel.errorbar(
            MOMENTA, means, errors, color=color, marker="o", capsize=3, label=name
        )
    panel.set(xlabel="momentum β", ylabel="accuracy, %", title="Momentum")
    panel.legend()


def _weights(found: Sequence[Record], *panels: "Axes") -> None:
    rules = list(dict.fromkeys(r["rule"] for r in found))
    for panel, rule in zip(panels, rules, strict=True):
        own = [r for r in found if r["rule"] == rule and r["test"] is not None]
        weights = np.nanmean(_by_seed(own, "weights"), axis=0)  # [epochs, classes]
        epochs = np.arange(1, len(weights) + 1)
        shades = plot_style.shades(weights.shape[1])
        for index, color in enumerate(shades):
            panel.plot(epochs, weights[:, index], color=color)
        panel.set(xlabel="epoch", title=f"ABSGD, {rule}")
    panels[0].set_ylabel("mean weight of a class")
