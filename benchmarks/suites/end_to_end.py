"""A whole training as a multiple of its bare steps; and the time to the first step.

`steps` runs the compiled step on one batch that is on the device. `epochs` is what the
loop counts as an epoch: batches loaded and moved, steps run, metrics read and added up.
`training` includes initialisation and all evaluations. All are seconds per update; the
excess of a ratio over one is overhead. `command` is the command line in a process of
its own, with imports, compilation, checkpoints and logs. It runs by itself after the
others, so that its ratios compare rounds of different times.

The groups on the start give seconds from the start of the process to the end of the
first step: without the persistent compilation cache, with an empty one, and with one
that has this step; `timeline` in the results splits them into parts.
"""

import dataclasses
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import interleave, training
from benchmarks.interleave import Setting
from benchmarks.suites.overhead import SMALL
from benchmarks.summary import Group, Measured
from experiments import commands

PARTS = ("steps", "epochs", "training")
STARTS = 3  # processes of each kind
DIGITS, CIFAR = ("digits_long_tail", "digits_label_noise"), "cifar10_lt100"

_NO_CACHE: dict[str, str | None] = {"JAX_COMPILATION_CACHE_DIR": None}
# Small programs are kept too.
_CACHE: dict[str, str | None] = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def measure(setting: Setting) -> Iterator[Group]:
    """Runs the suite.

    Args:
      setting: number of rounds, and directory of the data.

    Yields:
      Groups of trainings, then groups of starts.
    """
    config = setting.config
    small = {"model.widths": [4, 4]} if config.quick else {}
    resnet = SMALL if config.quick else {}
    epochs = 1 if config.quick else 10
    digits = []
    for preset in DIGITS:
        digits.append(_training(setting, preset, epochs, small))
        yield digits[-1]
    yield _demo(setting, digits)
    if config.data_dir is None:
        setting.say(f"{CIFAR} is left out: it needs --data-dir.")
    else:
        # An epoch of it is a minute on a CPU, and is timed four times a round.
        few = dataclasses.replace(config, repeats=min(config.repeats, 3))
        yield _training(setting._replace(config=few), CIFAR, 1, resnet)
    yield _starts(setting, DIGITS[0], small)
    if not config.quick:
        yield _starts(setting, CIFAR, {})


def _training(
    setting: Setting, preset: str, epochs: int, changes: dict[str, Any]
) -> Group:
    config = setting.config
    common: dict[str, Any] = {
        "kind": "training",
        "preset": preset,
        "epochs": epochs,
        "changes": changes,
        "data_dir": None
        if config.data_dir is None
        else str(config.data_dir.absolute()),
    }
    group = setting.group(
        f"{preset}, epochs: {epochs}",
        {part: common | {"part": part} for part in PARTS},
        why_not=lambda facts: facts.get("missing", ""),
        steps=dict.fromkeys(PARTS, 1),
    )
    if group.why_not:
        setting.say(group.why_not)
        return group._replace(variants={})
    setting.say("as a command")
    setting.workers.take([])  # nobody else is to be there
    facts = group.variants["training"].facts
    words = ["train", preset, "--epochs", str(epochs), "--devices", "1"]
    for name, values in (training.CALM | changes).items():
        words += [f"--{name}"]
        words += map(str, values if isinstance(values, list) else [values])
    if config.data_dir is not None:
        words += ["--data-dir", str(config.data_dir.absolute())]
    taken = [_command(words) for _ in range(min(config.rounds, 3))]
    wall = {
        name: statistics.median(one.samples) for name, one in group.variants.items()
    } | {"command": statistics.median(taken)}
    updates = facts["updates"]
    variants = {
        name: Measured(one.facts, [each / updates for each in one.samples], updates)
        for name, one in group.variants.items()
    }
    variants["command"] = Measured(facts, [each / updates for each in taken], updates)
    return group._replace(
        variants=variants,
        facts={"updates": updates, "epochs": epochs, "wall_seconds": wall},
    )


def _demo(setting: Setting, digits: list[Group]) -> Group:
    """The demo as a command, against the measured time of its steps."""
    demo, words = commands.Demo(), ["demo"]
    if setting.config.quick:
        demo = commands.Demo(seeds=1, epochs=1)
        words += ["--seeds", "1", "--epochs", "1"]
    setting.say("the demo")
    total, updates = 0.0, 0
    for study, group in zip(demo.studies(), digits, strict=True):
        per_epoch = group.facts["updates"] // group.facts["epochs"]
        count = study.seeds * len(study.runs(0)) * study.run.epochs * per_epoch
        total += count * statistics.median(group.variants["steps"].samples)
        updates += count
    taken = _command(words)
    variants = {
        "steps": Measured({}, [total], updates),
        "command": Measured({}, [taken], updates),
    }
    return Group("demo, in all", {"updates": updates}, variants, ("steps",))


def _command(words: list[str]) -> float:
    """Seconds of a command, which writes to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        words = [*words, "--out", str(pathlib.Path(folder) / "run")]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "experiments", *words],
            cwd=interleave.ROOT,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        took = time.perf_counter() - began
    if done.returncode != 0:
        raise interleave.Died(
            f"{' '.join(words)} ended with status {done.returncode}:\n"
            f"{done.stderr[-4000:]}"
        )
    return took


def _starts(setting: Setting, preset: str, changes: dict[str, Any]) -> Group:
    """Starts one process after the other, each kind in turn."""
    quick = setting.config.quick
    title = f"{preset}, to the first step"
    setting.say(title)
    setting.workers.take([])
    kinds = ("no cache", "empty cache", "cache")
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    facts: dict[str, dict[str, Any]] = {}
    timelines: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    batch = 8 if quick else 32 if preset in DIGITS else 128
    for _ in range(1 if quick else STARTS):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            cached = _CACHE | {"JAX_COMPILATION_CACHE_DIR": folder}
            for kind in kinds:
                variables = _NO_CACHE if kind == kinds[0] else cached
                described = {
                    "kind": "network",
                    "preset": preset,
                    "method": "absgd",
                    "batch": batch,
                    "changes": changes,
                    "timeline": [["process", time.time()]],
                }
                with interleave.Child(kind, environment=variables) as child:
                    facts[kind] = child.ask({"build": described})
                timelines[kind].append(facts[kind].pop("timeline"))
                samples[kind].append(facts[kind].pop("seconds"))
    for kind in kinds:
        facts[kind]["timeline"] = {
            part: statistics.median(one[part] for one in timelines[kind])
            for part in timelines[kind][0]
        }
        del facts[kind]["examples"]  # a second is not what is asked for here
    variants = {kind: Measured(facts[kind], samples[kind], 1) for kind in kinds}
    return Group(title, {"batch": batch}, variants, (kinds[0],))
