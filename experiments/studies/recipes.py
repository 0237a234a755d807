"""Recipes: the demo's two studies with other switching epochs, γ and λ."""

from experiments import commands
from experiments.configs import Run, replace
from experiments.report import formatting
from experiments.studies import digits, grid
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL, Study
from experiments.studies.grid import Grid, Outcome
from experiments.train.session import Session

# By study: the fraction of the epochs before λ, γ and λ; the study's own come first.
VARIANTS = {
    LONG_TAIL.name: (
        *((0.7, 0.9, lam) for lam in (1.0, 0.5, 0.25, 0.125)),
        *((0.7, gamma, 0.5) for gamma in (0.5, 0.1)),
        *((0.0, 0.9, lam) for lam in (1.0, 0.5)),
    ),
    LABEL_NOISE.name: (
        *((0.2, 0.5, lam) for lam in (-2.0, -1.0, -0.5)),
        *((0.1, 0.5, lam) for lam in (-1.0, -0.5)),
        *((0.0, 0.5, lam) for lam in (-2.0, -1.0)),
    ),
}


def runs(study: Study) -> dict[str, Run]:
    """Every recipe of a study by name, without its SGD; the caller sets the seeds."""
    fields = ("method.start_at", "method.gamma", "method.lam")
    return {
        " ".join([study.name, *(f"{value:g}" for value in values)]): replace(
            study.run, dict(zip(fields, values, strict=True))
        )
        for values in VARIANTS[study.name]
    }


def main(config: commands.Recipes) -> int:
    """Trains every recipe, logs and reports.

    Returns 0; 130 if interrupted, after a report on the finished runs.
    """
    studies = digits.studies(config.epochs)
    trials = [
        grid.trial(config.out, name, name.replace(" ", "_"), replace(run, {"seed": s}))
        for s in range(config.seeds)
        for study in studies
        for name, run in {study.name: study.run, **runs(study)}.items()
    ]
    sgd = {study.name: study.run for study in studies}
    whole = Grid(config.out, "recipes", sgd, trials, Session(devices=1))
    return grid.main(whole, lambda: table(studies, grid.outcomes(trials)))


def table(studies: list[Study], outcomes: dict[str, Outcome]) -> str:
    """Test accuracy of every recipe less that of SGD, paired by seed, in Markdown."""
    rows = [["data", "λ from", "γ", "λ", "accuracy − SGD's", "tail recall − SGD's"]]
    tail = lambda event: event["test"]["tail_recall"]
    seeds = 0
    for study in studies:
        sgd = outcomes[study.name]
        for name, run in runs(study).items():
            ours, method = outcomes[name], run.method
            seeds = max(seeds, len(ours.results.keys() & sgd.results.keys()))
            gain = lambda measure, ours=ours, sgd=sgd: formatting.paired(
                ours.by_seed(measure), sgd.by_seed(measure)
            )
            row = [study.title, f"{100 * method.start_at:.0f}%", f"{method.gamma:g}"]
            row += [formatting.number(method.lam), gain(grid.accuracy)]
            rows.append([*row, gain(tail) if run.data.tail_classes else ""])
    note = (
        "Test set, points, mean ± standard error of the paired difference over "
        f"{formatting.count(seeds, 'seed')}. To be read, not chosen from: λ is chosen "
        "on validation data."
    )
    return formatting.blocks(formatting.markdown(rows), note) + "\n"
