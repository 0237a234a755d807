"""Runs the suites, and writes their results."""

import dataclasses
import os
import pathlib
import platform
import sys
import time
from datetime import UTC, datetime
from typing import Any

from benchmarks import figures, interleave, summary
from benchmarks.suites import dense, end_to_end, inputs, overhead, peers, sweep
from experiments import commands
from experiments.results import run_log

SUITES = {
    "overhead": overhead.measure,
    "dense": dense.measure,
    "peers": peers.measure,
    "input": inputs.measure,
    "end_to_end": end_to_end.measure,
    "sweep": sweep.measure,
}


def main(config: commands.Bench) -> int:
    """Runs suite after suite.

    Args:
      config: suites, sizes and rounds.

    Returns:
      Exit status: 0, or 1 if the process of a variant died.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    with interleave.Workers(reuse=config.quick) as workers:
        for name in config.suites or SUITES:
            try:
                run(name, config, workers)
            except interleave.Died as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
    return 0


def run(name: str, config: commands.Bench, workers: interleave.Workers) -> None:
    """Measures, writes, draws and prints one suite.

    Args:
      name: of `SUITES`.
      config: number of rounds, and directory of the results.
      workers: processes that measure.

    Raises:
      Died: the process of a variant did.
    """
    messages: list[str] = []

    def say(what: str) -> None:
        messages.append(what)
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    setting = interleave.Setting(config, workers, say)
    before, began, at = _load(), time.monotonic(), datetime.now(UTC)
    path = config.out / f"{name}.json"
    groups: list[dict[str, Any]] = []
    table = ""
    for group in SUITES[name](setting):
        groups.append(summary.summarise(group))
        table = summary.table(groups)
        # After each: if a later one dies, these are kept.
        run_log.save(
            path,
            {
                "suite": name,
                "command": " ".join(
                    [sys.executable, "-m", "experiments", *sys.argv[1:]]
                ),
                "config": dataclasses.asdict(config),
                "at": at.isoformat(timespec="seconds"),
                "seconds": time.monotonic() - began,
                "machine": machine(),
                "devices": _devices(groups),
                "versions": run_log.versions(),
                "environment": {
                    variable: value
                    for variable, value in os.environ.items()
                    if variable.startswith(("JAX_", "XLA_", "OMP_"))
                },
                "load": {"before": before, "after": _load()},
                "messages": messages,
                "groups": groups,
                "table": table.splitlines(),
            },
        )
    figures.draw(name, groups, path.with_suffix(".png"))
    print(f"\n## {name}\n\n{table}\n")
    for group in groups:
        if group["why_not"]:
            print(f"{group['name']}: {group['why_not']}")
    print(f"All of it: {path}, {path.with_suffix('.png')}")


def machine() -> dict[str, Any]:
    """The machine: processor, memory and load, as far as the system says."""
    model = ""
    cpus = pathlib.Path("/proc/cpuinfo")
    if cpus.is_file():
        lines = cpus.read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line for line in lines if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else ""
    return {
        "system": platform.platform(),
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


def _devices(groups: list[dict[str, Any]]) -> list[str]:
    """The devices that JAX computed on."""
    found = {
        variant["facts"]["device"]
        for group in groups
        for variant in group["variants"].values()
        if "device" in variant["facts"]
    }
    return sorted(found)


def _load() -> list[float]:
    """Load average of the last 1, 5 and 15 minutes."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else []
