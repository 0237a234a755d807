"""Recipes: the demo's two studies with other switching epochs, γ and λ."""

import dataclasses
import math

from experiments import commands
from experiments.report import formatting
from experiments.studies import grid
from experiments.studies.grid import Grid, Outcome
from experiments.train.session import Session


def main(config: commands.Recipes) -> int:
    """Trains every recipe, logs and reports.

    Args:
      config: seeds, epochs and output directory.

    Returns:
      Exit status: 0; 130 if interrupted, after a report on the finished runs.
    """
    recipes = config.runs()
    trials = [
        grid.trial(
            config.out,
            name,
            name.replace(" ", "_"),
            dataclasses.replace(run, seed=seed),
        )
        for seed in range(config.seeds)
        for name, run in recipes.items()
    ]
    shared = {name: run for name, run in recipes.items() if name in config.variants}
    session = Session(devices=1)
    return grid.main(
        Grid(config.out, "recipes", shared, trials, session),
        lambda: table(config, grid.outcomes(trials)),
    )


def table(config: commands.Recipes, outcomes: dict[str, Outcome]) -> str:
    """Test accuracy of every recipe less that of SGD, paired by seed.

    Args:
      config: which recipes.
      outcomes: by recipe.

    Returns:
      Markdown.
    """
    rows = [["data", "λ from", "γ", "λ", "accuracy − SGD's", "tail recall − SGD's"]]
    seeds = 0
    for name, run in config.runs().items():
        if math.isinf(run.method.lam):
            continue
        ours, sgd = outcomes[name], outcomes[config.baseline(name)]
        seeds = max(seeds, len(ours.results.keys() & sgd.results.keys()))
        differences = [
            formatting.paired(ours.by_seed(measure), sgd.by_seed(measure))
            for measure in (grid.accuracy, lambda e: e["test"]["tail_recall"])[
                : 2 if run.data.tail_classes else 1
            ]
        ]
        rows.append(
            [
                config.study(name).title,
                f"{100 * run.method.start_at:.0f}%",
                f"{run.method.gamma:g}",
                formatting.number(run.method.lam),
                *differences,
                *[""] * (2 - len(differences)),
            ]
        )
    note = (
        "Test set, points, mean ± standard error of the paired difference over "
        f"{formatting.count(seeds, 'seed')}. To be read, not chosen from: λ is chosen "
        "on validation data."
    )
    return "\n".join([*formatting.markdown(rows), "", note, ""])
