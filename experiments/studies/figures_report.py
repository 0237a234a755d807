"""The figures of `figures`' records, and their section in the page of results."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data import imbalance
from experiments.data.task import load_task
from experiments.report import formatting, plot_style, tsne
from experiments.report.formatting import number
from experiments.studies import reproduce
from experiments.studies.digits import LONG_TAIL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]

FOLDER = "figures"  # next to the page
FIELDS = ("figure", "seed")  # of every record
LAMS = (0.5, -0.5)  # of the norms
NORM_GAMMAS = (1.0, 0.1, 0.01, None)  # None is 1/√t
DIGITS_LAM = 0.5
GAMMAS = (0.05, 0.1, 0.2, 0.5, 0.7, 0.9, 1.0)
MOMENTA = (0.0, 0.5, 0.9, 0.95)
SGD, RADIUS, ANNEALED = "SGD", "radius from the first step", "annealed"
STRATEGIES = {  # of a fixed λ: the fraction of the epochs after which it begins
    "from the first step": 0.0,
    ANNEALED: 0.0,
    "two stages": LONG_TAIL.run.method.start_at,
}
STRATEGY_LAMS = (0.25, 0.5, 1.0, 2.0, 5.0)
MEMORISING = "memorising"
_MEMORISING_SETTING = "cifar10_sym40"
SHARED_AXIS = ("distributions", "norms", "weights")  # the same y for both panels

CAPTIONS = {
    MEMORISING: "CIFAR-10, 40% of labels wrong at random, at the paper's full protocol "
    "({runs} a method): accuracy after each epoch. On the left on test images, with a "
    "dot at the epoch that early stopping chooses by the accuracy on the right: on "
    "held-out images, whose labels are as wrong. With ρ = 0.4 the automatic λ < 0; η "
    "falls at epochs 40 and 80, and λ of ABSGD (SCE) begins at epoch 80.",
    "toy": "One step from the same line on 16 points of two unequal classes, as "
    "`python -m experiments toy` takes it: the line before, and after a step of each "
    "method.",
    "distributions": "Training images of each class of the long tails and steps of "
    "CIFAR; in brackets their sum.",
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
    "that λ and with the automatic λ (ρ = 0.4, c = 2).",
    "strategies": "When λ begins: at the first step, after {start:.0%} of the epochs, "
    "or gradually until then, 1/λ rising evenly from 0 (`absgd_jax.anneal`). On the "
    "left accuracy as in the figures before, over the λ reached, at γ = {gamma:g}; the "
    "radius, which has no λ to choose, is ρ = 0.4 with c = 2 and γ = 0.1. On the right "
    "1/λ at the end of each epoch for λ = {lam}; of the radius the median and the "
    "range over seeds. At η = {rate:g}, chosen for SGD, a small λ harms before η "
    "falls, whether it is fixed or annealed; in two stages it does not.",
    "tsne": "t-SNE of what enters the last layer, of the test images, after training "
    "with λ = {lam} from the first step and in two stages; seed 0. Above each its "
    "accuracy. Distances between clusters have no meaning.",
}


def courses(campaign: Iterable[Record]) -> list[Record]:
    """The records of `reproduce` that a figure is drawn from."""
    return [
        {"figure": MEMORISING, **record}
        for record in campaign
        if record["setting"] == _MEMORISING_SETTING and record["accuracy"] is not None
    ]


def draw(records: Sequence[Record], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the figures, each a PNG; returns their paths."""
    drawers = {
        MEMORISING: _memorising,
        "distributions": _distributions,
        "norms": _norms,
        "gamma": _gamma,
        "momentum": _momentum,
        "weights": _weights,
        "strategies": _strategies,
        "tsne": _tsne,
    }
    paths = []
    for name, drawer in drawers.items():
        if name == MEMORISING and not of_figure(records, name):
            continue
        one, share = name in ("gamma", "momentum"), name in SHARED_AXIS
        paths.append(folder / f"{name}.png")
        with plot_style.saved(paths[-1], (6.0 if one else 10.0, 4.2)) as sheet:
            panels = np.ravel(sheet.subplots(1, 1 if one else 2, sharey=share))
            drawer(of_figure(records, name), *panels)
    return paths


def section(records: Sequence[Record]) -> str:
    """The figures with what they show; nothing if there are no records."""
    if not records:
        return ""
    from experiments.studies import figures

    run = LONG_TAIL.run
    memorising = {r["seed"] for r in of_figure(records, MEMORISING)}
    own = {r["seed"] for r in records if r["figure"] != MEMORISING}
    facts = {
        "runs": formatting.count(len(memorising), "seed"),
        "examples": figures.EXAMPLES,
        "batch": figures.BATCH,
        "seeds": len(own),
        "ratio": run.data.imbalance_ratio,
        "lam": number(DIGITS_LAM),
        "start": run.method.start_at,
        "gamma": run.method.gamma,
        "rate": run.optimizer.learning_rate,
    }
    shown = []
    for name, caption in CAPTIONS.items():
        if name != MEMORISING or memorising:
            shown.append(f"![{caption.format(**facts)}]({FOLDER}/{name}.png)")
            shown.append(differences(of_figure(records, name)))
    return formatting.blocks("## Figures", *shown)


def differences(records: Sequence[Record]) -> str:
    """What methods of a figure of accuracies gain over SGD, as a table.

    Nothing of another figure, or without records.
    """
    by, of = formatting.paired, _of_seeds
    match records[0]["figure"] if records else "":
        case "gamma":
            sgd = of(records, gamma=None)
            gains = [by(of(records, gamma=gamma), sgd) for gamma in GAMMAS]
            rows = [["γ", *map(number, GAMMAS)], ["ABSGD", *gains]]
        case "momentum":
            of_lam = lambda lam: [r for r in records if float(r["lam"]) == lam]
            sgd, absgd = of_lam(math.inf), of_lam(DIGITS_LAM)
            gains = [by(of(absgd, momentum=b), of(sgd, momentum=b)) for b in MOMENTA]
            rows = [["β", *map(number, MOMENTA)], ["ABSGD", *gains]]
        case "strategies":
            sgd = of(records, strategy=SGD)
            gain = lambda **facts: by(of(records, **facts), sgd)
            rows = [["λ", *map(number, STRATEGY_LAMS), "ρ = 0.4"]]
            for name in STRATEGIES:
                row = [gain(strategy=name, lam=lam) for lam in STRATEGY_LAMS]
                rows.append([name, *row, "–"])
            no_lam = ["–"] * len(STRATEGY_LAMS)
            rows.append([RADIUS, *no_lam, gain(strategy=RADIUS)])
        case _:
            return ""
    seeds = formatting.count(len({r["seed"] for r in records}), "seed")
    note = f"Points of accuracy against SGD, paired by seed, ± standard error; {seeds}."
    return formatting.blocks(formatting.markdown(rows), note)


def of_figure(records: Iterable[Record], name: str) -> list[Record]:
    """The records that a figure is drawn from."""
    return [r for r in records if r["figure"] == name]


def _by_seed(records: Iterable[Record], key: str) -> np.ndarray:
    """A value of each record, float `[seeds, ...]`, without what diverged."""
    return np.array([r[key] for r in records if r[key] is not None], float)


def _of_seeds(records: Iterable[Record], **facts: Any) -> dict[int, float]:
    """Test accuracy by seed of the records with these facts; without what diverged."""
    return {
        r["seed"]: r["test"]
        for r in records
        if r["test"] is not None
        if all(r[key] == fact for key, fact in facts.items())
    }


def _accuracies(records: Iterable[Record], **facts: Any) -> np.ndarray:
    """Accuracies in percent of the records with these facts, `[seeds]`."""
    return 100.0 * np.array([*_of_seeds(records, **facts).values()], float)


def _errorbar(panel: "Axes", at: Any, values: list[np.ndarray], **style: Any) -> None:
    """Means of values, each `[seeds]`, at positions, with their standard errors."""
    means = [of_seeds.mean() for of_seeds in values]
    errors = [float(formatting.standard_error(of_seeds)) for of_seeds in values]
    panel.errorbar(at, means, errors, marker="o", capsize=3, **style)


def _level(panel: "Axes", values: np.ndarray, color: str, **style: Any) -> float:
    """A mean as a horizontal line, with a band of its standard error."""
    mean, error = values.mean(), float(formatting.standard_error(values))
    panel.axhline(mean, color=color, **style)
    panel.axhspan(mean - error, mean + error, color=color, alpha=0.15)
    return mean + error


def _counts() -> list[int]:
    """Training images of each class of the digits' long tail."""
    return load_task(LONG_TAIL.run.data, 0).class_counts.tolist()


def _memorising(records: Sequence[Record], *panels: "Axes") -> None:
    rows = [row.name for row in reproduce.MISLABELLED_ROWS[:4]]
    for name, color in zip(rows, plot_style.COLORS, strict=False):
        own = [r for r in records if r["row"] == name]
        if not own:
            continue
        for panel, split in zip(panels, ("test", "validation"), strict=True):
            accuracy = 100.0 * _by_seed(own, f"{split}_by_epoch").mean(0)
            epochs = np.arange(1, 1 + len(accuracy))
            panel.plot(epochs, accuracy, color=color, label=name)
        chosen = [record[reproduce.STOPPED_EARLY] for record in own]
        values = 100.0 * _by_seed(chosen, "accuracy")
        panels[0].plot([r["epoch"] for r in chosen], values, "o", color=color)
    panels[0].set(xlabel="epoch", ylabel="accuracy, %", title="Test images")
    panels[1].set(xlabel="epoch", title="Held-out images, 40% of labels wrong")
    panels[1].legend(loc="lower right")


def _distributions(_: Sequence[Record], *panels: "Axes") -> None:
    rules = {"long tail": imbalance.long_tail_counts, "step": imbalance.step_counts}
    for panel, (classes, most) in zip(panels, ((10, 5000), (100, 500)), strict=True):
        for ratio, color in zip((10, 100), plot_style.COLORS, strict=False):
            for (name, rule), style in zip(rules.items(), ("-", "--"), strict=True):
                counts = rule(most, classes, ratio)
                label = f"{name}, ratio {ratio} ({sum(counts):,})"
                panel.plot(counts, style, c=color, label=label, drawstyle="steps-mid")
        panel.set(yscale="log", xlabel="class", title=f"CIFAR-{classes}")
        panel.legend(fontsize=9.5)
    panels[0].set_ylabel("training images")


def _norms(records: Sequence[Record], *panels: "Axes") -> None:
    shades = plot_style.colors(len(NORM_GAMMAS))
    for panel, lam in zip(panels, LAMS, strict=True):
        for gamma, color in zip(NORM_GAMMAS, shades, strict=True):
            of_lam = [r for r in records if (r["lam"], r["gamma"]) == (lam, gamma)]
            steps, values = np.array(of_lam[0]["steps"]), _by_seed(of_lam, "values")
            logs = np.log(values)
            mean, std = logs.mean(0), logs.std(0, ddof=1)
            label = "γ = 1/√t" if gamma is None else f"γ = {number(gamma)}"
            panel.plot(steps, np.exp(mean), color=color, label=label)
            band = np.exp(mean - std), np.exp(mean + std)
            panel.fill_between(steps, *band, color=color, alpha=0.15)
        # Of the last γ, 1/√t: the rate from a third of the windows on.
        third = len(steps) // 3
        ends = steps[[third, -1]]
        rate = np.exp(mean[third]) * np.sqrt(ends[0] / ends)
        panel.plot(ends, rate, "--", color=plot_style.GREY)
        panel.text(ends[-1], 1.1 * rate[-1], "1/√t", va="bottom", ha="right")
        panel.set(xscale="log", yscale="log", xlabel="step", title=f"λ = {number(lam)}")
    panels[0].set_ylabel("‖∇F_λ‖²")
    panels[0].legend()


def _gamma(records: Sequence[Record], panel: "Axes") -> None:
    sgd, absgd = plot_style.COLORS[:2]
    values = [_accuracies(records, gamma=gamma) for gamma in GAMMAS]
    _errorbar(panel, GAMMAS, values, color=absgd)
    top = _level(panel, _accuracies(records, gamma=None), sgd)
    panel.text(GAMMAS[0], top, "SGD", color=sgd, va="bottom")
    panel.set(xlabel="γ", ylabel="accuracy, %", title=f"ABSGD, λ = {DIGITS_LAM:g}")


def _momentum(records: Sequence[Record], panel: "Axes") -> None:
    names = ("SGD", f"ABSGD, λ = {DIGITS_LAM:g}")
    lams = (math.inf, DIGITS_LAM)
    for lam, color, name in zip(lams, plot_style.colors(2), names, strict=True):
        of_lam = [r for r in records if float(r["lam"]) == lam]
        values = [_accuracies(of_lam, momentum=beta) for beta in MOMENTA]
        _errorbar(panel, MOMENTA, values, color=color, label=name)
    panel.set(xlabel="momentum β", ylabel="accuracy, %", title="Momentum")
    panel.legend()


def _weights(records: Sequence[Record], *panels: "Axes") -> None:
    rules = list(dict.fromkeys(r["rule"] for r in records))
    for panel, rule in zip(panels, rules, strict=True):
        of_rule = [r for r in records if r["rule"] == rule and r["test"] is not None]
        weights = np.nanmean(_by_seed(of_rule, "weights"), axis=0)  # [epochs, classes]
        epochs = np.arange(1, len(weights) + 1)
        counts = _counts()
        shades = plot_style.shades(len(counts))
        for index, color in reversed([*enumerate(shades)]):
            label = f"{index}  ({counts[index]})"
            panel.plot(epochs, weights[:, index], color=color, label=label)
        panel.set(xlabel="epoch", title=f"ABSGD, {rule}")
    panels[0].set_ylabel("mean weight of a class")
    panels[-1].legend(
        title="class (training\nimages)", loc="upper left", bbox_to_anchor=(1.0, 1.0)
    )


def _strategies(records: Sequence[Record], *panels: "Axes") -> None:
    accuracy, lams = panels
    sgd, *others, of_radius = plot_style.colors(2 + len(STRATEGIES))
    for name, color in zip(STRATEGIES, others, strict=True):
        of_strategy = [r for r in records if r["strategy"] == name]
        values = [_accuracies(of_strategy, lam=lam) for lam in STRATEGY_LAMS]
        _errorbar(accuracy, STRATEGY_LAMS, values, color=color)
        shown = next(r for r in of_strategy if r["lam"] == DIGITS_LAM)
        inverse = 1.0 / np.array(shown["lams"], float)
        lams.plot(np.arange(1, 1 + len(inverse)), inverse, color=color, label=name)
    for name, color in ((RADIUS, of_radius), (SGD, sgd)):
        of_strategy = [r for r in records if r["strategy"] == name]
        _level(accuracy, _accuracies(of_strategy), color)
        inverse = 1.0 / _by_seed(of_strategy, "lams")
        epochs = np.arange(1, 1 + inverse.shape[1])
        lams.plot(epochs, np.median(inverse, axis=0), color=color, label=name)
        lams.fill_between(
            epochs, inverse.min(0), inverse.max(0), color=color, alpha=0.15
        )
    accuracy.set(xscale="log", xlabel="λ", ylabel="accuracy, %", title="Accuracy")
    accuracy.set_xticks(STRATEGY_LAMS, [number(lam) for lam in STRATEGY_LAMS])
    accuracy.minorticks_off()
    lams.set(xlabel="epoch", ylabel="1/λ", title="1/λ of every epoch")
    lams.legend()


def _tsne(records: Sequence[Record], *panels: "Axes") -> None:
    counts = _counts()
    for panel, run in zip(panels, records, strict=True):
        points, labels = np.array(run["points"]), np.array(run["labels"])
        tsne.scatter(panel, points, labels, len(counts))
        panel.set_axis_off()
        panel.set_title(f"{run['strategy']}: {100.0 * run['test']:.1f}%")
    tsne.legend(panels[-1], len(counts), np.array(counts))
