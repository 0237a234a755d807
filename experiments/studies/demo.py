"""The demo: SGD against ABSGD on handwritten digits, with two kinds of data."""

import math
import time

from experiments import commands
from experiments.studies import demo_report, grid
from experiments.studies.grid import Grid
from experiments.train.session import Session

FIGURE = "demo.png"


def main(config: commands.Demo) -> int:
    """Trains, logs and reports.

    Args:
      config: seeds, epochs and output directory.

    Returns:
      Exit status: 0, or 130 if interrupted. The finished runs are reported in any case.
    """
    began = time.monotonic()
    studies = config.studies()
    # Seed by seed, so that an interrupt leaves whole seeds of both studies.
    trials = [
        grid.trial(
            config.out,
            (study.name, run.method.lam),
            f"{study.name}-lam{run.method.lam:g}",
            run,
        )
        for seed in range(config.seeds)
        for study in studies
        for run in study.runs(seed)
    ]
    shared = {study.name: study.run for study in studies}
    session = Session(devices=1)

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

    status = grid.main(Grid(config.out, "demo", shared, trials, session), report)
    print(f"{time.monotonic() - began:.0f} s.")
    return status
