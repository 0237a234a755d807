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

import contextlib
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax

from benchmarks import interleave, step_cost, trainer_step
from benchmarks.interleave import Runner, call
from benchmarks.step_cost import Ready
from benchmarks.suites.overhead import SMALL
from benchmarks.summary import Group, Measured
from experiments import commands, configs, presets
from experiments.data.task import load_task
from experiments.studies.digits import studies
from experiments.train import loop, sharding
from experiments.train.session import Session

Part = Literal["steps", "epochs", "training"]
PARTS: tuple[Part, ...] = ("steps", "epochs", "training")
STARTS = 3  # processes of each kind
DIGITS, CIFAR = ("digits_long_tail", "digits_label_noise"), "cifar10_lt100"
# Weights from the first step on, of almost one: what is timed is not to diverge.
CALM = {"method.lam": 100.0, "method.start_at": 0.0, "optimizer.learning_rate": 0.01}

_NO_CACHE: dict[str, str | None] = {"JAX_COMPILATION_CACHE_DIR": None}
# Small programs are kept too.
_CACHE: dict[str, str | None] = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def measure(runner: Runner) -> Iterator[Group]:
    """Yields groups of trainings, then groups of starts."""
    config = runner.config
    small = {"model.widths": (4, 4)} if config.quick else {}
    digits = []
    for preset in DIGITS:
        epochs = 1 if config.quick else 10
        digits.append(_trainings(runner, preset, epochs, small, config.repeats))
        yield digits[-1]
    yield _demo(runner, digits)
    if config.data_dir is None:
        runner.say(f"{CIFAR} is left out: it needs --data-dir.")
    else:
        # An epoch of it is a minute on a CPU, and is timed four times a round.
        changes, rounds = SMALL if config.quick else {}, min(config.repeats, 3)
        yield _trainings(runner, CIFAR, 1, changes, rounds)
    yield _starts(runner, DIGITS[0], small)
    if not config.quick:
        yield _starts(runner, CIFAR, {})


def training(
    part: Part,
    preset: str,
    epochs: int,
    data_dir: str | None = None,
    changes: dict[str, Any] | None = None,
) -> Ready:
    """Trainings of ABSGD on a preset's data, or parts of them, to be timed.

    What is timed are the `steps`, on one batch on the device; the `epochs` as the loop
    counts them, which also load batches and log metrics; or the whole `training`, which
    also initialises the network and evaluates it. All is compiled before. Weights are
    switched on from the first step on. A training is a step, of `updates` updates.
    """
    run = configs.replace(
        presets.get(preset).run,
        {"method.name": "absgd", "epochs": epochs, **CALM, **(changes or {})},
    )
    folder = None if data_dir is None else pathlib.Path(data_dir)
    task = load_task(run.data, run.seed, folder)
    layout, session = sharding.layout(1), Session(data_dir=folder)
    per_epoch = loop.steps_per_epoch(run, task)
    updates = epochs * per_epoch
    facts = {
        "examples": len(task.train.labels) / per_epoch,
        "updates": updates,
        "epochs": epochs,
        **step_cost.device(),
    }

    def steps_only() -> Callable[[int], float]:
        step = trainer_step.trainer(run, task, layout, session)
        timed = step.start(step.lower().compile())
        return lambda count: timed(count * updates)

    def one() -> float:
        seconds: list[float] = []
        callbacks = loop.Callbacks(lambda **event: seconds.append(event["seconds"]))
        began = time.perf_counter()
        first = loop.begin(run, task, layout)
        jax.block_until_ready(loop.fit(run, task, layout, session, first, callbacks))
        whole = time.perf_counter() - began
        return sum(seconds) if part == "epochs" else whole

    def trainings() -> Callable[[int], float]:
        one()  # compiles
        return lambda count: sum(one() for _ in range(count))

    return Ready(facts, steps_only if part == "steps" else trainings)


def _trainings(
    runner: Runner, preset: str, epochs: int, changes: dict[str, Any], rounds: int
) -> Group:
    """A training and its parts, in seconds per update."""
    folder = runner.config.data_dir and str(runner.config.data_dir.absolute())
    arguments = {"preset": preset, "epochs": epochs, "changes": changes}
    arguments |= {"data_dir": folder}
    group = runner.group(
        f"{preset}, epochs: {epochs}",
        {part: call(training, part=part, **arguments) for part in PARTS},
        why_not=lambda facts: facts.get("missing", ""),
        steps=dict.fromkeys(PARTS, 1),
        rounds=rounds,
    )
    if group.why_not:
        runner.say(group.why_not)
        return group._replace(variants={})
    runner.say("as a command")
    runner.close()  # nobody else is to be there
    words = ["train", preset, "--epochs", str(epochs), "--devices", "1"]
    for name, value in (CALM | changes).items():
        values = value if isinstance(value, tuple) else [value]
        words += [f"--{name}", *map(str, values)]
    if folder is not None:
        words += ["--data-dir", folder]
    facts = group.variants["training"].facts
    updates = facts["updates"]
    taken = [_command(words) for _ in range(min(rounds, 3))]
    whole = group.variants | {"command": Measured(facts, taken, 1)}
    seconds = {name: statistics.median(one.samples) for name, one in whole.items()}
    return group._replace(
        variants={
            name: Measured(one.facts, [each / updates for each in one.samples], updates)
            for name, one in whole.items()
        },
        facts={"updates": updates, "epochs": epochs, "wall_seconds": seconds},
    )


def _demo(runner: Runner, digits: list[Group]) -> Group:
    """The demo as a command, against the measured time of its steps."""
    demo, words = commands.Demo(), ["demo"]
    if runner.config.quick:
        demo = commands.Demo(seeds=1, epochs=1)
        words += ["--seeds", "1", "--epochs", "1"]
    runner.say("the demo")
    total, updates = 0.0, 0
    for study, group in zip(studies(demo.epochs), digits, strict=True):
        per_epoch = group.facts["updates"] // group.facts["epochs"]
        count = demo.seeds * len(study.runs(0)) * study.run.epochs * per_epoch
        total += count * statistics.median(group.variants["steps"].samples)
        updates += count
    seconds = {"steps": total, "command": _command(words)}
    variants = {name: Measured({}, [took], updates) for name, took in seconds.items()}
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
            f"{done.stderr[-interleave.QUOTED :]}"
        )
    return took


def _starts(runner: Runner, preset: str, changes: dict[str, Any]) -> Group:
    """Starts one process after the other, each kind in turn."""
    title = f"{preset}, to the first step"
    runner.say(title)
    runner.close()
    batch = 8 if runner.config.quick else 32 if preset in DIGITS else 128
    arguments = {"preset": preset, "method": "absgd", "batch": batch}
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(1 if runner.config.quick else STARTS):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            cached = _CACHE | {"JAX_COMPILATION_CACHE_DIR": folder}
            kinds = {"no cache": _NO_CACHE, "empty cache": cached, "cache": cached}
            for kind, variables in kinds.items():
                request = call(
                    trainer_step.build,
                    changes=changes,
                    timeline=[("process", time.time())],
                    **arguments,
                )
                child = interleave.Child(kind, environment=variables)
                with contextlib.closing(child):
                    found.setdefault(kind, []).append(child.ask({"build": request}))
    variants = {}
    for kind, starts in found.items():
        facts, samples = starts[0], [start.pop("seconds") for start in starts]
        facts["timeline"] = {
            part: statistics.median(start["timeline"][part] for start in starts)
            for part in facts["timeline"]
        }
        del facts["examples"]  # a second is not what is asked for here
        variants[kind] = Measured(facts, samples, 1)
    return Group(title, {"batch": batch}, variants, ("no cache",))
