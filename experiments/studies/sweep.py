"""Seeds × λ × γ of one preset as vmapped runs, chosen on validation data."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping

from experiments import commands, configs
from experiments.report import formatting
from experiments.results import run_log
from experiments.studies import grid
from experiments.studies.grid import Grid, Outcome

RESULTS = "results.json"


def main(preset: str, config: commands.Sweep) -> int:
    """Trains the runs that are missing, and tabulates.

    Returns 0, or 130 if it was interrupted; the same command then restarts the
    unfinished runs. Raises BadConfiguration where the directory holds another grid;
    there is no validation data; or the runs cannot be vmapped.
    """
    data = config.run.data
    if data.augment_on == "host" and (data.crop_padding or data.flip or data.rotation):
        print(
            "Images are augmented on the device, as vmapped runs need it: their "
            "numbers are those of `train` with --data.augment-on device.",
            file=sys.stderr,
        )
        run = configs.replace(config.run, {"data.augment_on": "device"})
        config = dataclasses.replace(config, run=run)
    out = config.session.out or pathlib.Path(f"runs/sweep-{preset}")
    name = "{0.name}-lam{0.lam}-gamma{0.gamma}".format
    trials = [
        grid.trial(out, (run.method.lam, run.method.gamma), name(run.method), run)
        for seed in range(config.seeds)
        for run in (dataclasses.replace(s, seed=seed) for s in config.settings())
    ]
    shared = run_log.to_jsonable(config.run)
    del shared["seed"], shared["method"]["lam"], shared["method"]["gamma"]
    most = config.vmapped or len(trials)

    def report() -> str:
        outcomes = grid.complete(grid.outcomes(trials))
        chosen = grid.choose(outcomes)
        measured = lambda setting, **measures: {
            "lam": setting[0],
            "gamma": setting[1],
            **{name: outcomes[setting].by_seed(m) for name, m in measures.items()},
        }
        results = {
            "versions": run_log.versions(),
            "best": chosen
            and measured(chosen, validation=grid.validation, test=grid.accuracy),
            "settings": [measured(one, validation=grid.validation) for one in outcomes],
        }
        run_log.save(out / RESULTS, results)
        return table(outcomes)

    whole = Grid(out, preset, {"run": shared}, trials, config.session, vmapped=most)
    return grid.main(whole, report)


def table(outcomes: Mapping[tuple[float, float], Outcome]) -> str:
    """One row for every λ and γ, all of the same seeds, with notes, in Markdown."""
    if not outcomes:
        return "No seed was finished with every λ and γ.\n"
    chosen = grid.choose(outcomes)
    seeds = max(len(outcome.ended) for outcome in outcomes.values())
    rows = [["λ", "γ", "validation", "test"]]
    for setting, outcome in outcomes.items():
        row = [*map(formatting.number, setting), "–", "–"]
        if outcome.diverged:
            row[2] = f"diverged ({len(outcome.diverged)} of {seeds})"
        else:
            row[2] = formatting.spread(outcome.last(grid.validation))
        if setting == chosen:
            row[2:] = [f"**{row[2]}**", formatting.spread(outcome.last(grid.accuracy))]
        rows.append(row)
    words = (
        "Accuracy after the last epoch, percent, mean ± standard deviation over "
        f"{formatting.count(seeds, 'seed')}. "
    )
    if chosen is None:
        words += "Every setting diverged."
    else:
        lam, gamma = map(formatting.number, chosen)
        words += f"λ = {lam}, γ = {gamma} is best on validation, and was tested."
    return formatting.blocks(formatting.markdown(rows), words) + "\n"
