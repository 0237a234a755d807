"""The demo: SGD against ABSGD on handwritten digits, with two kinds of data."""

import math
import time

from experiments import commands
from experiments.studies import demo_report, digits, grid
from experiments.studies.grid import Grid
from experiments.train.session import Session

FIGURE = "demo.png"


def main(config: commands.Demo) -> int:
    """Trains, logs and reports; returns 0, or 130 if interrupted.

    The finished runs are reported in any case.
    """
    began = time.monotonic()
    studies = digits.studies(config.epochs)
    named = lambda study, lam: ((study.name, lam), f"{study.name}-lam{lam:g}")
    # Seed by seed, so that an interrupt leaves whole seeds of both studies.
    trials = [
        grid.trial(config.out, *named(study, run.method.lam), run)
        for seed in range(config.seeds)
        for study in studies
        for run in study.runs(seed)
    ]
    shared = {study.name: study.run for study in studies}

    def report() -> str:
        found = grid.outcomes(trials)
        comparisons, tables = {}, []
        for study in studies:
            own = {lam: found[study.name, lam] for lam in (math.inf, *study.lams)}
            comparisons[study.name] = demo_report.compare(study, own)
            tables.append(demo_report.table(study, comparisons[study.name]))
        if any(comparisons.values()):
            demo_report.figure(comparisons, config.out / FIGURE)
        return "\n".join(tables)

    whole = Grid(config.out, "demo", shared, trials, Session(devices=1))
    status = grid.main(whole, report)
    print(f"{time.monotonic() - began:.0f} s.")
    return status
