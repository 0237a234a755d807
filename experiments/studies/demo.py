"""The demo: SGD against ABSGD on handwritten digits, with two kinds of data."""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from experiments import commands, configs
from experiments.data.task import load_task
from experiments.results import run_log
from experiments.studies import demo_report
from experiments.studies.digits import Study
from experiments.train import loop, sharding
from experiments.train.session import Session

CONFIG, RECORDS, TABLE, FIGURE = "config.json", "records.jsonl", "table.md", "demo.png"


def main(config: commands.Demo) -> int:
    """Trains, logs and reports.

    Args:
      config: seeds, epochs and output directory.

    Returns:
      Exit status: 0; 1 if a loss was not finite; 130 if interrupted. The finished runs
      are reported in any case.
    """
    began = time.monotonic()
    studies = config.studies()
    config.out.mkdir(parents=True, exist_ok=True)
    for name in (TABLE, FIGURE):  # they would not belong to the new log
        (config.out / name).unlink(missing_ok=True)
    _write_config(config, studies)

    status = 0
    with run_log.Recorder(config.out / RECORDS) as recorder:
        try:
            _train_all(studies, recorder)
        except KeyboardInterrupt:
            print("Interrupted; reporting what is finished.", file=sys.stderr)
            status = 130
        except FloatingPointError as error:
            print(error, file=sys.stderr)
            status = 1
    _report(config.out, studies)
    print(f"{time.monotonic() - began:.0f} s. Records and figure: {config.out}")
    return status


def _train_all(studies: list[Study], recorder: run_log.Recorder) -> None:
    """Trains seed by seed, so that an interrupt leaves whole seeds of both studies."""
    trainings = [
        (study, run)
        for seed in range(max(study.seeds for study in studies))
        for study in studies
        for run in study.runs(seed)
    ]
    total = sum(run.epochs for _, run in trainings)
    # None: no bar where standard error is not a terminal.
    with tqdm(total=total, unit="epoch", disable=None) as progress:

        def write(**event: Any) -> None:
            recorder.write(**event)
            progress.update()

        for study, run in trainings:
            progress.set_description(
                f"{study.name}, seed {run.seed}, {run.method.title} "
                f"λ = {run.method.lam:g}"
            )
            train_one(run, study.name, write)


def train_one(run: configs.Run, study: str, write: Callable[..., None]) -> None:
    """Trains once, on one device, and writes one event per epoch.

    Args:
      run: what to train.
      study: name of the study in the log.
      write: takes an event as keywords. The last one of a run has the key `test`.

    Raises:
      FloatingPointError: a loss is not finite; names the step.
    """
    task = load_task(run.data, run.seed)
    layout, session = sharding.layout(1), Session()

    def write_named(**event: Any) -> None:
        event |= {
            "study": study,
            "method": run.method.title,
            "lam": run.method.lam,
            "seed": run.seed,
        }
        if event["test"] is None:
            del event["test"]
        else:
            event["class_counts"] = task.class_counts
        write(**event)

    start = loop.begin(run, task, layout, session)
    callbacks = loop.Callbacks(write_named)
    loop.fit(run, task, layout, session, start, callbacks, test_last=True)


def _report(out: pathlib.Path, studies: list[Study]) -> None:
    """Reads the log, prints the table and draws the figure."""
    records = run_log.read(out / RECORDS)
    outcomes = {study.name: demo_report.outcome(study, records) for study in studies}
    tables = [
        demo_report.table(found)
        if found
        else f"### {studies[i].title}\n\nNo seed was finished by every method.\n"
        for i, found in enumerate(outcomes.values())
    ]
    text = "\n".join(tables)
    (out / TABLE).write_text(text, encoding="utf-8")
    print(text)
    if any(outcomes.values()):
        demo_report.figure(outcomes, out / FIGURE)


def _write_config(config: commands.Demo, studies: list[Study]) -> None:
    """Writes the resolved configuration and the versions of packages."""
    resolved = {
        "demo": dataclasses.asdict(config),
        "studies": studies,
        "versions": run_log.versions(),
    }
    (config.out / CONFIG).write_text(
        json.dumps(run_log.plain(resolved), indent=2, allow_nan=False) + "\n"
    )
