"""The page of all records in `results/`, in Markdown and HTML."""

import json
import os
import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from benchmarks import trainer_step
from experiments import commands, configs, presets
from experiments.presets import _cost
from experiments.presets._preset import Variant
from experiments.report import formatting, html
from experiments.results import run_log
from experiments.studies import (
    compare,
    equal_grids_report,
    figures_report,
    method_grid,
    paper_tables_report,
    reproduce_report,
)

REPRODUCE, EQUAL_GRIDS = "reproduce.jsonl", "equal_grids.jsonl"
FIGURES, COSTS = "figures.jsonl", "costs.jsonl"
COMPARED = "compare_*.json"  # copies of what `compare` writes, results.json

# By preset, whose step is timed: what is not run, and its number of trainings.
NOT_RUN = {
    "cifar10_sym40": (
        "Wrong labels on CIFAR-10, 40% symmetric and asymmetric, at the paper's size: "
        "CE, SCE, GCE, EG, ABSGD (CE) and ABSGD (SCE), each with and without "
        "normalised logits, 3 seeds",
        2 * 6 * 2 * 3,
    ),
}
TIMED = 20  # steps
_WHOLE_FLAGS = {"break_long_words": False, "break_on_hyphens": False}


def main(config: commands.Results) -> int:
    """Writes the page, as HTML too if it is asked for; returns 0."""
    if config.measure:
        run_log.append(config.records / COSTS, map(measure, NOT_RUN))
    text = page(config.records)
    config.out.write_text(text, encoding="utf-8")
    print(config.out)
    if config.html is not None:
        folder = config.out.parent
        try:
            rendered = html.page(text, folder, "backticks")
        except FileNotFoundError as error:
            raise configs.BadConfiguration(
                f"{error.filename} is not there: the page shows figures, which "
                f"`python -m experiments figures --out {folder / 'figures'}` draws."
            ) from None
        config.html.write_text(rendered, encoding="utf-8")
        print(config.html)
    return 0


def page(folder: pathlib.Path) -> str:
    """The page of the records in a folder, as Markdown.

    Raises BadConfiguration where there are no records of `reproduce`, or a line is
    none.
    """
    names = (REPRODUCE, EQUAL_GRIDS, FIGURES, COSTS)
    read = [run_log.events(folder / name) for name in names]
    (found, grids, figures, costs), torn = zip(*read, strict=True)
    if any(torn) or not found:
        raise configs.BadConfiguration(
            f"{folder} has {len(found)} records of reproduce, and {sum(torn)} lines "
            "that are none."
        )
    sections = [
        reproduce_report.sections(found, REPRODUCE),
        equal_grids_report.last_layer(grids),
        equal_grids_report.tables(grids),
        *map(_compared, sorted(folder.glob(COMPARED))),
        figures_report.section(figures),
        paper_tables_report.section(found),
        "## Not run",
        reproduce_report.not_run(found),
        paper_tables_report.costs(found),
        *map(not_run, costs),
    ]
    return formatting.blocks(*sections) + "\n"


def measure(preset: str) -> dict[str, Any]:
    """Times a training step of a preset, of plain SGD on random images."""
    ready = trainer_step.build(preset=preset)
    run_steps = ready.start()
    run_steps(2)
    seconds = [run_steps(1) for _ in range(TIMED)]
    return {"preset": preset, "seconds": round(float(np.median(seconds)), 4)} | {
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "jax": jax.__version__,
    }


def not_run(cost: Mapping[str, Any]) -> str:
    """What is not run, with its cost by the step that was timed."""
    what, trainings = NOT_RUN[cost["preset"]]
    run = presets.get(cost["preset"]).run
    steps = run.epochs * presets.steps_per_epoch(run)
    one = _cost.duration(steps * cost["seconds"])
    return (
        f"* {what}: {trainings} trainings. A step of one took {cost['seconds']:.2g} s "
        f"(median of {TIMED}, {cost['device']}, {cost['cores']} cores under a load of "
        f"{cost['load']:g}), so that a training of {run.epochs} epochs takes {one}."
    )


def _compared(path: pathlib.Path) -> str:
    """The section of a comparison of methods on one preset."""
    results = json.loads(path.read_text(encoding="utf-8"))
    preset, run, methods = (results[key] for key in ("preset", "run", "methods"))
    preset = presets.get(preset)
    settings = len(methods["sgd"]["grid"])
    every = method_grid.every(preset.run).keys() <= methods.keys()
    own, stated = map(run_log.flat, (run, run_log.plain(method_grid.plain(preset.run))))
    changes = {n: v for n, v in own.items() if v != stated[n] and n != "eval_every"}
    flags = [
        *([] if every else [f"--methods {','.join(methods)}"]),
        *(["--rates 1"] if settings == method_grid.GRID else []),
        f"--seeds {results['seeds']} --no-measure",
        Variant("", changes).flags,
    ]
    title = preset.title.partition(": CE")[0]  # the methods have losses of their own
    scope = "every method" if every else f"{len(methods)} methods"
    reduced = ", reduced" if changes else ""
    command = f"python -m experiments compare {preset.name} {' '.join(flags).strip()}"
    noise = "Labels of validation images are as wrong as those of training images. "
    return formatting.blocks(
        f"## {title}: {scope}{reduced}",
        f"{run['epochs']} epochs, batches of {run['batch_size']}, {settings} settings "
        f"a method; on a CPU with JAX {results['versions']['jax']}, by",
        "    " + " \\\n        ".join(textwrap.wrap(command, 80, **_WHOLE_FLAGS)),
        (noise if run["data"]["noise_rate"] else "")
        + "[Methods](methods.md) says what they are.",
        compare.table(results, {}).strip(),
    )
