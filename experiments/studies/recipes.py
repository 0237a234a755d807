"""Recipes: the demo's two studies with other switching epochs, γ and λ."""

import dataclasses
import math

import numpy as np
from tqdm import tqdm

from experiments import commands
from experiments.report import formatting
from experiments.results import run_log
from experiments.studies import demo, demo_report

RECORDS, TABLE = "records.jsonl", "table.md"


def main(config: commands.Recipes) -> int:
    """Trains every recipe, logs and reports.

    Args:
      config: seeds, epochs and output directory.

    Returns:
      Exit status: 0; 130 if interrupted, after a report on the finished runs.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    finished: dict[str, dict[int, demo_report.Event]] = {}
    jobs = [
        (name, dataclasses.replace(run, seed=seed))
        for seed in range(config.seeds)
        for name, run in config.runs().items()
    ]
    status = 0
    with run_log.Recorder(config.out / RECORDS) as recorder:
        try:
            # None: no bar where standard error is not a terminal.
            for name, run in tqdm(jobs, unit="run", disable=None):
                events: list[demo_report.Event] = []
                demo.train_one(run, name, lambda events=events, **e: events.append(e))
                recorder.write(**events[-1])
                finished.setdefault(name, {})[run.seed] = events[-1]
        except KeyboardInterrupt:
            status = 130
    text = table(config, finished)
    (config.out / TABLE).write_text(text, encoding="utf-8")
    print(text)
    return status


def table(
    config: commands.Recipes, finished: dict[str, dict[int, demo_report.Event]]
) -> str:
    """Test accuracy of every recipe less that of SGD, paired by seed.

    Args:
      config: which recipes.
      finished: last event of each run, by recipe and seed.

    Returns:
      Markdown.
    """
    rows = [["data", "λ from", "γ", "λ", "accuracy − SGD's", "tail recall − SGD's"]]
    seeds = 0
    for name, run in config.runs().items():
        if math.isinf(run.method.lam):
            continue
        baseline = finished.get(config.baseline(name), {})
        both = sorted(finished.get(name, {}).keys() & baseline.keys())
        seeds = max(seeds, len(both))
        differences = {
            key: np.array(
                [
                    finished[name][s]["test"][key] - baseline[s]["test"][key]
                    for s in both
                ]
            )
            for key in ("accuracy", "tail_recall")
            if both and baseline[both[0]]["test"][key] is not None
        }
        rows.append(
            [
                config.study(name).title,
                f"{100 * run.method.start_at:.0f}%",
                f"{run.method.gamma:g}",
                formatting.number(run.method.lam),
                *(
                    formatting.difference(differences[key])
                    if key in differences
                    else ""
                    for key in ("accuracy", "tail_recall")
                ),
            ]
        )
    note = (
        "Test set, points, mean ± standard error of the paired difference over "
        f"{seeds} seeds. To be read, not chosen from: λ is chosen on validation data."
    )
    return "\n".join([*formatting.markdown(rows), "", note, ""])
