"""Runs the suites, and writes their results."""

import contextlib
import dataclasses
import os
import pathlib
import platform
import sys
import time
from datetime import UTC, datetime
from typing import Any

from benchmarks import figures, interleave, summary
from benchmarks.suites import (
    dense,
    end_to_end,
    input_pipeline,
    overhead,
    peers,
    sweep,
)
from experiments import commands
from experiments.results import run_log

SUITES = {
    "overhead": overhead.measure,
    "dense": dense.measure,
    "peers": peers.measure,
    "input": input_pipeline.measure,
    "end_to_end": end_to_end.measure,
    "sweep": sweep.measure,
}


def main(config: commands.Bench) -> int:
    """Runs suite after suite; the exit status is 1 if the process of a variant died."""
    if config.quick:
        config = dataclasses.replace(config, sizes=(1_000,), batches=(4, 16), repeats=3)
    config.out.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(interleave.Runner(config)) as runner:
        for name in config.suites or SUITES:
            try:
                run(name, runner)
            except interleave.Died as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
    return 0


def run(name: str, runner: interleave.Runner) -> None:
    """Measures, writes, draws and prints one suite; `Died` if a variant's process did.

    What was measured before is kept in the file then.
    """
    runner.suite, runner.messages = name, []
    path = runner.config.out / f"{name}.json"
    load, began = _load(), time.monotonic()
    record: dict[str, Any] = {
        "suite": name,
        "command": " ".join([sys.executable, "-m", "experiments", *sys.argv[1:]]),
        "config": dataclasses.asdict(runner.config),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": run_log.versions(),
        "environment": {
            variable: value
            for variable, value in os.environ.items()
            if variable.startswith(("JAX_", "XLA_", "OMP_"))
        },
        "messages": runner.messages,
    }
    groups: list[dict[str, Any]] = []
    table = ""
    for group in SUITES[name](runner):
        groups.append(summary.summarise(group))
        table = summary.table(groups)
        facts = [one["facts"] for each in groups for one in each["variants"].values()]
        record |= {
            "seconds": time.monotonic() - began,
            "load": {"before": load, "after": _load()},
            "devices": sorted({each["device"] for each in facts if "device" in each}),
            "groups": groups,
            "table": table.splitlines(),
        }
        run_log.save(path, record)
    figures.draw(groups, path.with_suffix(".png"))
    print(f"\n## {name}\n\n{table}\n")
    for group in groups:
        if group["why_not"]:
            print(f"{group['name']}: {group['why_not']}")
    print(f"All of it: {path}, {path.with_suffix('.png')}")


def machine() -> dict[str, Any]:
    """The machine: processor and cores, as far as the system says."""
    model = ""
    cpus = pathlib.Path("/proc/cpuinfo")
    if cpus.is_file():
        lines = cpus.read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line for line in lines if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else ""
    limited = hasattr(os, "sched_getaffinity")
    return {
        "system": platform.platform(),
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if limited else os.cpu_count(),
    }


def _load() -> list[float]:
    """Load average of the last 1, 5 and 15 minutes."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else []
