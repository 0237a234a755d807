"""Seeds × λ × γ of one preset as vmapped runs, chosen on validation data."""

import contextlib
import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments import commands, configs
from experiments.data import datasets
from experiments.data.task import Task, load_task
from experiments.report import formatting
from experiments.results import run_dir, run_log
from experiments.train import checkpoint, loop, runs, sharding, vmapped
from experiments.train.session import Session

SWEEP, TABLE, RESULTS, TRAININGS = "sweep.json", "table.md", "results.json", "runs"
FAILED = "failed.json"  # in the directory of a run whose loss was not finite


class Member(NamedTuple):
    """One training of a sweep."""

    run: configs.Run
    out: pathlib.Path
    task: Task


class Setting(NamedTuple):
    """One λ and γ, over all seeds."""

    lam: float
    gamma: float
    validation: list[float]  # accuracy, by seed; -inf where a loss was not finite
    test: list[float]  # accuracy, by seed; -inf where a loss was not finite

    @property
    def diverged(self) -> int:
        """Seeds whose loss was not finite."""
        return sum(not math.isfinite(value) for value in self.validation)


def main(preset: str, config: commands.Sweep) -> int:
    """Trains the runs that are missing, and tabulates.

    Args:
      preset: its name.
      config: values, seeds and output directory.

    Returns:
      Exit status: 0, or 130 if it was interrupted; the same command then restarts the
      unfinished runs.

    Raises:
      BadConfiguration: the directory holds another sweep; there is no validation data;
        or the runs cannot be vmapped.
    """
    session = config.session
    out = session.out or pathlib.Path(f"runs/sweep-{preset}")
    described = _described(preset, config)
    _require_same(out, described)
    with datasets.remembering():
        try:
            tasks = [
                load_task(
                    config.run.data, seed, session.data_dir, download=session.download
                )
                for seed in range(config.seeds)
            ]
        except ValueError as error:  # more is asked for than there is
            raise configs.BadConfiguration(str(error)) from error
    if tasks[0].validation is None:
        raise configs.BadConfiguration(
            f"{config.run.data.source} has no validation split, and λ and γ are not "
            "chosen on test data: give --data.validation-per-class."
        )
    members = [
        _member(out, dataclasses.replace(run, seed=seed), task)
        for seed, task in enumerate(tasks)
        for run in config.settings()
    ]
    vmapped.require([m.run for m in members], tasks)
    for member in members:
        runs.require_same(member.out, member.run)
    out.mkdir(parents=True, exist_ok=True)
    run_log.save(out / SWEEP, described)
    try:
        _train_all(preset, members, config)
    except KeyboardInterrupt:
        print(f"Interrupted; the same command goes on from {out}.", file=sys.stderr)
        return 130
    _report(out, members, config)
    return 0


def _described(preset: str, config: commands.Sweep) -> dict[str, Any]:
    """The configuration that identifies a sweep."""
    settings = config.settings()
    return run_log.plain(
        {
            "preset": preset,
            "run": dataclasses.replace(settings[0], seed=0),
            "lams": list(dict.fromkeys(run.method.lam for run in settings)),
            "gammas": list(dict.fromkeys(run.method.gamma for run in settings)),
            "seeds": config.seeds,
        }
    )


def _require_same(out: pathlib.Path, described: dict[str, Any]) -> None:
    path = out / SWEEP
    if not path.is_file():
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    differing = checkpoint.differences(there, described)
    if differing:
        raise configs.BadConfiguration(
            f"{out} holds a sweep of another configuration:\n  "
            + "\n  ".join(differing)
            + "\nGive another --out, or the same configuration."
        )


def _member(out: pathlib.Path, run: configs.Run, task: Task) -> Member:
    method = run.method
    name = f"{method.name}-lam{method.lam}-gamma{method.gamma}-seed{run.seed}"
    return Member(run, out / TRAININGS / name, task)


def _train_all(preset: str, members: Sequence[Member], config: commands.Sweep) -> None:
    """Trains in groups of one size, which share a program."""
    missing = [member for member in members if _accuracies(member.out) is None]
    if not missing:
        return
    groups = grouped(missing, config.vmapped or len(missing))
    per_run = loop.steps_per_epoch(config.run, members[0].task) * config.run.epochs
    # None: no bar where standard error is not a terminal.
    with tqdm(total=len(missing) * per_run, unit="step", disable=None) as progress:
        for number, group in enumerate(groups, start=1):
            progress.set_description(f"{preset}, {number} of {len(groups)}")
            _train(preset, group, len(groups[0]), config.session, progress)


def grouped(members: Sequence[Any], most: int) -> list[list[Any]]:
    """Splits runs into as few groups as possible, of almost one size.

    Args:
      members: at least one.
      most: largest size of a group.

    Returns:
      The groups in order, the first one the largest.

    Examples:
      >>> grouped("abcdefgh", 3)
      [['a', 'b', 'c'], ['d', 'e', 'f'], ['g', 'h']]
    """
    parts = np.array_split(np.arange(len(members)), -(-len(members) // most))
    return [[members[index] for index in part] for part in parts]


def _train(
    preset: str,
    group: Sequence[Member],
    size: int,
    session: Session,
    progress: Any,
) -> None:
    """Trains one group of vmapped runs, padded to its size with its last run."""
    layout = sharding.layout(1)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        recorders = []
        for member in group:
            member.out.mkdir(parents=True, exist_ok=True)
            own = dataclasses.replace(session, out=member.out, tensorboard=False)
            runs.write_config(member.out, preset, member.run, own, member.task)
            path = member.out / run_dir.RECORDS
            recorders.append(stack.enter_context(run_log.Recorder(path)))
        callbacks = [
            loop.Callbacks(recorder.write, lambda step, shown: progress.update())
            for recorder in recorders
        ]
        nobody = loop.Callbacks(lambda **event: None)
        more = size - len(group)
        filled = [*group, *[group[-1]] * more]
        failures = vmapped.fit(
            [member.run for member in filled],
            [member.task for member in filled],
            layout,
            [*callbacks, *[nobody] * more],
            most=session.steps_per_dispatch,
        )
        seconds = time.monotonic() - began
        for member, recorder, failure in zip(group, recorders, failures, strict=False):
            if failure is not None:
                run_log.save(member.out / FAILED, {"error": failure})
                continue
            per_epoch = loop.steps_per_epoch(member.run, member.task)
            total = per_epoch * member.run.epochs
            recorder.write(event="finished", step=total, seconds=seconds)


def _accuracies(out: pathlib.Path) -> tuple[float, float] | None:
    """Validation and test accuracy after the last epoch; None if not finished."""
    if (out / FAILED).is_file():
        return -math.inf, -math.inf
    events, _ = run_log.events(out / run_dir.RECORDS)
    if not any(event.get("event") == "finished" for event in events):
        return None
    last = [event for event in events if event["event"] == "epoch"][-1]
    return float(last["validation"]["accuracy"]), float(last["test"]["accuracy"])


def best(settings: Sequence[Setting]) -> Setting | None:
    """The highest mean validation accuracy, the first of equals.

    Args:
      settings: of one sweep.

    Returns:
      Among those none of whose seeds diverged; None if there is none.
    """
    whole = [setting for setting in settings if not setting.diverged]
    return max(whole, key=lambda one: np.mean(one.validation), default=None)


def table(settings: Sequence[Setting], seeds: int) -> str:
    """One row for every λ and γ, in Markdown.

    Args:
      settings: of one sweep.
      seeds: number of seeds.

    Returns:
      The table and notes on how to read it.
    """
    chosen = best(settings)
    rows = [["λ", "γ", "validation", "test"]]
    for setting in settings:
        row = [formatting.number(setting.lam), formatting.number(setting.gamma)]
        if setting.diverged:
            row += [f"diverged ({setting.diverged} of {seeds})", "–"]
        else:
            row += [formatting.spread(np.array(setting.validation)), "–"]
        if setting is chosen:
            row[2:] = [f"**{row[2]}**", formatting.spread(np.array(setting.test))]
        rows.append(row)
    words = (
        "Accuracy after the last epoch, percent, mean ± standard deviation over "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}. "
    )
    words += (
        "Every setting diverged."
        if chosen is None
        else f"λ = {formatting.number(chosen.lam)}, γ = "
        f"{formatting.number(chosen.gamma)} is best on validation, and was tested."
    )
    return "\n".join([*formatting.markdown(rows), "", words]) + "\n"


def _report(
    out: pathlib.Path, members: Sequence[Member], config: commands.Sweep
) -> None:
    settings: dict[tuple[float, float], Setting] = {}
    for member in members:
        lam, gamma = member.run.method.lam, member.run.method.gamma
        setting = settings.setdefault((lam, gamma), Setting(lam, gamma, [], []))
        found = _accuracies(member.out)
        assert found is not None
        setting.validation.append(found[0])
        setting.test.append(found[1])
    every = list(settings.values())
    chosen = best(every)
    run_log.save(
        out / RESULTS,
        {
            "seeds": config.seeds,
            "versions": run_log.versions(),
            "best": chosen and chosen._asdict(),
            "settings": [
                {"lam": one.lam, "gamma": one.gamma, "validation": one.validation}
                for one in every
            ],
        },
    )
    text = table(every, config.seeds)
    (out / TABLE).write_text(text, encoding="utf-8")
    print(text)
    print(f"All of it: {out}")
