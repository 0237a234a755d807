"""The paper's toy figure: one step on 16 points of two unequal classes.

Logistic loss of a line with bias, 100 majority and 20 minority points, and a line that
leaves nearly all of the minority on the wrong side. Plain SGD, SGD weighted by class
and ABSGD each take one step from there on the same batch.
"""

import math
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import absgd_jax
from experiments import commands
from experiments.report import formatting, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE, TABLE = "toy.png", "toy.md"

MAJORITY, MINORITY = 100, 20  # points
BATCH = (13, 3)  # of each in the batch: 16, in the proportion of the points
START = (5.993, 6.140, -8.033)  # slopes and bias
LEARNING_RATE = 0.1
EFFECTIVE_BETA = 0.999  # β of the class weights


class Points(NamedTuple):
    """Points with a one for the bias, and what they are."""

    inputs: np.ndarray  # float32 [n, 3]
    labels: np.ndarray  # float32 [n]: -1 for the majority, 1 for the minority


class Step(NamedTuple):
    """The weights and the result of one update."""

    weights: jax.Array  # float32 [batch], of the examples; they average one
    line: jax.Array  # float32 [3], after it


def main(config: commands.Toy) -> int:
    """Takes the steps, prints a table, and writes it and the figure; returns 0."""
    everything, examples, steps = take(config.seed, config.lam)
    config.out.mkdir(parents=True, exist_ok=True)
    text = table(everything, examples, steps)
    (config.out / TABLE).write_text(text, encoding="utf-8")
    figure(everything, examples, steps, config.out / FIGURE)
    print(text)
    print(f"Figure: {config.out / FIGURE}")
    return 0


def take(seed: int, lam: float) -> tuple[Points, Points, dict[str, Step]]:
    """All points, those of the batch, and each method's step on it by its title."""
    everything = points(seed)
    chosen = batch(seed)
    examples = Points(everything.inputs[chosen], everything.labels[chosen])
    weighted = f"SGD, class weights (β = {EFFECTIVE_BETA:g})"
    steps = {
        "SGD": step(examples, math.inf),
        weighted: step(examples, math.inf, by_class=True),
        f"ABSGD, λ = {formatting.number(lam)}": step(examples, lam),
    }
    return everything, examples, steps


def points(seed: int) -> Points:
    """Draws the majority, then the minority.

    They are Gaussian, of mean 0.4 and deviation 0.1, and of mean 0.6 and deviation
    0.05, in both coordinates.
    """
    rng = np.random.default_rng(seed)
    coordinates = np.concatenate(
        [rng.normal(40.0, 10.0, (MAJORITY, 2)), rng.normal(60.0, 5.0, (MINORITY, 2))]
    )
    inputs = np.column_stack([coordinates / 100.0, np.ones(MAJORITY + MINORITY)])
    labels = np.repeat([-1.0, 1.0], [MAJORITY, MINORITY])
    return Points(inputs.astype(np.float32), labels.astype(np.float32))


def batch(seed: int) -> np.ndarray:
    """Indices of the batch's 16 points, the same for every method."""
    rng = np.random.default_rng([seed, 1])
    of_majority = rng.choice(MAJORITY, BATCH[0], replace=False)
    of_minority = MAJORITY + rng.choice(MINORITY, BATCH[1], replace=False)
    return np.concatenate([of_majority, of_minority])


def step(examples: Points, lam: float, *, by_class: bool = False) -> Step:
    """One update from `START`.

    Within one batch (γ = 1) the weights are the softmax of loss / λ, times the batch; λ
    = ∞ weights all alike. With `by_class` examples are also weighted by the effective
    number of their class, and the update is the weighted mean.
    """
    sample_weights = np.ones(len(examples.labels), np.float32)
    if by_class:
        balanced = absgd_jax.losses.class_balanced_weights
        of_class = balanced([MAJORITY, MINORITY], EFFECTIVE_BETA)
        sample_weights = of_class[(examples.labels > 0.0).astype(int)]
    return Step(*_update(jnp.array(START), *examples, sample_weights, lam))


def table(everything: Points, examples: Points, steps: dict[str, Step]) -> str:
    """Tabulates the weights of each method, and how far the line moves, in Markdown."""
    head = ["method", "weight of the minority", "largest weight", "line moves by"]
    rows = [[*head, "minority on its side"]]
    minority = everything.inputs[everything.labels > 0.0]
    for name, (weights, line) in steps.items():
        right = int(np.sum(minority @ np.asarray(line) > 0.0))
        rows.append(
            [
                name,
                f"{100.0 * _share(examples, weights):.1f}%",
                f"{100.0 * np.max(weights) / len(weights):.1f}%",
                _signed(_move(line)),
                f"{right} of {MINORITY}",
            ]
        )
    before = int(np.sum(minority @ np.array(START) > 0.0))
    notes = [
        f"One step at learning rate {LEARNING_RATE:g} on a batch of {BATCH[0]} "
        f"majority and {BATCH[1]} minority points; before it {before} of {MINORITY} "
        "minority points are on their side.",
        "The line moves towards the majority, along the diagonal; the majority's "
        "deviation is 0.1.",
    ]
    table = formatting.markdown(rows)
    return formatting.blocks(table, formatting.notes(notes)) + "\n"


def figure(
    everything: Points, examples: Points, steps: dict[str, Step], path: pathlib.Path
) -> None:
    """Draws the line before and after each step, and the weights as sizes, as a PNG."""
    with plot_style.saved(path, (4.3 * len(steps), 5.6)) as sheet:
        panels = sheet.subplots(1, len(steps), sharex=True, sharey=True)
        for panel, (name, (weights, line)) in zip(panels, steps.items(), strict=True):
            _draw_points(panel, everything, examples, np.asarray(weights))
            ends = np.array([-1.0, 2.0])  # outside of the panel
            for (a, b, c), style, label in (
                (START, {"color": plot_style.GREY, "linestyle": "--"}, "line before"),
                (line, {"color": "black"}, "line after"),
            ):
                heights = -(a * ends + c) / b
                panel.plot(ends, heights, linewidth=1.6, label=label, **style)
            panel.set_title(name)
            panel.set_xlabel(
                f"{100.0 * _share(examples, weights):.0f}% of the weight on the "
                f"minority,\nline moves by {_signed(_move(line))}"
            )
            low, high = everything.inputs[:, :2].min(), everything.inputs[:, :2].max()
            limits, ticks = (low - 0.03, high + 0.03), (0.2, 0.4, 0.6)
            panel.set(xlim=limits, ylim=limits, aspect="equal")
            panel.set(xticks=ticks, yticks=ticks)
        handles, labels = panels[0].get_legend_handles_labels()
        title = "Rings: the batch. Filled areas: the weights. Dots: the other points"
        sheet.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=len(handles),
            title=title,
            **plot_style.LEGEND,
        )
        sheet.get_layout_engine().set(h_pad=0.12)


def _draw_points(
    panel: "Axes", everything: Points, examples: Points, weights: np.ndarray
) -> None:
    """All points as dots, and on those of the batch an area for the weight."""
    for sign, name, color in (
        (-1.0, "majority", plot_style.COLORS[0]),
        (1.0, "minority", plot_style.COLORS[1]),
    ):
        of_class = everything.labels == sign
        dots = everything.inputs[of_class, :2].T
        panel.scatter(*dots, s=7, color=color, alpha=0.35, lw=0)
        of_class = examples.labels == sign
        batch, sizes = examples.inputs[of_class, :2].T, 45.0 * weights[of_class]
        area: dict[str, Any] = {"color": color, "alpha": 0.55, "lw": 0}
        panel.scatter(*batch, s=sizes, **area)
        # Seen however small the weight is.
        panel.scatter(*batch, s=45.0, facecolors="none", edgecolors=color, lw=0.8)
        panel.scatter([], [], s=45.0, label=name, **area)


@jax.jit
def _update(
    line: jax.Array,
    inputs: jax.Array,
    labels: jax.Array,
    sample_weights: jax.Array,
    lam: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Weights and line after one step, by the library."""
    attention = absgd_jax.attention(lam, gamma=1.0)

    def weighted_mean(line: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = jax.nn.softplus(-labels * (inputs @ line))
        weights, _ = attention.weigh(
            losses, attention.init(), sample_weights=sample_weights
        )
        return jnp.mean(weights * losses), weights

    gradient, weights = jax.grad(weighted_mean, has_aux=True)(line)
    return weights, line - LEARNING_RATE * gradient


def _share(examples: Points, weights: jax.Array) -> float:
    """Of the weight that the minority has."""
    return float(np.sum(weights, where=examples.labels > 0.0) / np.sum(weights))


def _move(line: jax.Array) -> float:
    """How far the line has moved along the diagonal, towards the majority."""
    before, after = (-c / (a + b) for a, b, c in (START, np.asarray(line, np.float64)))
    return math.sqrt(2.0) * float(before - after)


def _signed(value: float) -> str:
    """To four decimals, with the sign that print uses."""
    return f"{value:.4f}".replace("-", "−")
