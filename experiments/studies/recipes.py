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

    Returns 0; 130 if interrupted, after a report on the finished runs.
    """
    recipes = config.runs()
    of_seed = lambda run, seed: dataclasses.replace(run, seed=seed)
    trials = [
        grid.trial(config.out, name, name.replace(" ", "_"), of_seed(run, seed))
        for seed in range(config.seeds)
        for name, run in recipes.items()
    ]
    shared = {name: run for name, run in recipes.items() if name in config.variants}
    whole = Grid(config.out, "recipes", shared, trials, Session(devices=1))
    return grid.main(whole, lambda: table(config, grid.outcomes(trials)))


def table(config: commands.Recipes, outcomes: dict[str, Outcome]) -> str:
    """Test accuracy of every recipe less that of SGD, paired by seed, in Markdown."""
    rows = [["data", "λ from", "γ", "λ", "accuracy − SGD's", "tail recall − SGD's"]]
    seeds = 0
    for name, run in config.runs().items():
        if math.isinf(run.method.lam):
            continue
        ours, sgd = outcomes[name], outcomes[config.baseline(name)]
        seeds = max(seeds, len(ours.results.keys() & sgd.results.keys()))
        gain = lambda measure, ours=ours, sgd=sgd: formatting.paired(
            ours.by_seed(measure), sgd.by_seed(measure)
        )
        tail = lambda event: event["test"]["tail_recall"]
        rows.append(
            [
                config.study(name).title,
                f"{100 * run.method.start_at:.0f}%",
                f"{run.method.gamma:g}",
                formatting.number(run.method.lam),
                gain(grid.accuracy),
                gain(tail) if run.data.tail_classes else "",
            ]
        )
    note = (
        "Test set, points, mean ± standard error of the paired difference over "
        f"{formatting.count(seeds, 'seed')}. To be read, not chosen from: λ is chosen "
        "on validation data."
    )
    return formatting.blocks(formatting.markdown(rows), note) + "\n"
