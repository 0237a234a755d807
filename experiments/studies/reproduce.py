"""The paper's tables on CIFAR at the full protocol, cell by cell, in many sittings.

A cell is a row of a table at one λ and one seed: 200 epochs, of which the first 160 are
plain training. All rows of one loss share those, so each is trained once per seed and
kept; a cell then costs 40 epochs. λ is chosen on a validation set that is held out for
that purpose, and the row is trained at the chosen λ on all examples, for every seed.

Several processes may work in one directory at once, since one small network does not
fill an accelerator: each claims the cell that it trains.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from experiments import commands, configs, presets
from experiments.data import packed
from experiments.data.task import Task, load_task
from experiments.results import run_log
from experiments.train import checkpoint, loop, sharding, steps
from experiments.train.session import Session

RHO = 0.4
LAMS = (0.5, 1.0, 2.0, 5.0, 10.0)
SETTINGS = (
    "cifar10_lt100",
    "cifar10_st100",
    "cifar100_lt100",
    "cifar100_st100",
    "cifar10_lt10",
    "cifar10_st10",
    "cifar100_lt10",
    "cifar100_st10",
)
SEEDS = 3
RECORDS = "records.jsonl"
_DISPATCH = 1000  # updates at once on an accelerator: an epoch has fewer
_EVAL_EVERY = 20


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      name: as printed, if the paper prints it.
      preset: what the setting's name is followed by, in the name of the row's preset.
      changes: of the preset's run.
      chooses: whether λ is chosen, among `LAMS`.
    """

    name: str
    preset: str
    changes: Mapping[str, Any]
    chooses: bool = False


# With λ = ∞ and s_0 = 1 all weights are one: SGD, by the compiled program of ABSGD.
_SGD = {"method.lam": math.inf, "method.init_s": 1.0}
_RADIUS = _SGD | {"method.rho": RHO, "method.gamma": 0.1, "method.init_s": None}
# In order of importance.
ROWS = (
    Row("SGD (CE)", "", _SGD),
    Row("ABSGD (CE), ρ = 0.4", "", _RADIUS),
    Row("ABSGD (CE)", "", {}, chooses=True),
    Row(
        "SGD (CB-CE), deferred",
        "_cb_ce",
        _SGD | {"loss.class_weights_norm": "weights"},
    ),
    Row("ABSGD (CB-CE)", "_cb_ce", {}, chooses=True),
    Row("ABSGD (CB-CE), ρ = 0.4", "_cb_ce", _RADIUS),
    Row(
        "ABSGD (CE), ρ = 0.4 from the first step",
        "",
        _RADIUS | {"method.start_at": 0.0},
    ),
    Row(
        "ABSGD (CE), λ = 1 from the first step",
        "",
        {"method.lam": 1.0, "method.start_at": 0.0},
    ),
    Row("SGD (LDAM)", "_ldam", _SGD),
    Row(
        "SGD (CB-LDAM)",
        "_cb_ldam",
        _SGD | {"loss.class_weights_norm": "weights"},
    ),
    Row("ABSGD (CB-LDAM)", "_cb_ldam", {}, chooses=True),
    Row("SGD (Focal)", "_focal", _SGD),
    Row("ABSGD (Focal)", "_focal", {}, chooses=True),
)


class Cell(NamedTuple):
    """A training whose accuracy after the last epoch is recorded."""

    setting: str
    row: str
    lam: float  # inf where none is chosen
    seed: int
    split: str  # what is reported: test; or validation, to choose λ

    @property
    def name(self) -> str:
        """The name of its directory."""
        row = "".join(c if c.isalnum() else "-" for c in self.row)
        return f"{self.setting}-{row}-lam{self.lam:g}-{self.split}-seed{self.seed}"


def run_of(cell: Cell, smoke: bool = False) -> configs.Run:
    """The run of a cell."""
    (row,) = (row for row in ROWS if row.name == cell.row)
    preset = presets.get(f"{cell.setting}{row.preset}{'_smoke' if smoke else ''}")
    changes: dict[str, Any] = {
        "seed": cell.seed,
        "data.augment_on": "device",
        "eval_every": 1 if smoke else _EVAL_EVERY,
        **row.changes,
    }
    if row.chooses:
        changes["method.lam"] = cell.lam
    if cell.split == "validation":
        held_out = 1 if smoke else 100 if preset.run.data.classes == 10 else 10
        changes["data.validation_per_class"] = held_out
        if smoke:
            most = preset.run.data.examples_per_class or 0
            changes["data.examples_per_class"] = most + held_out
    return configs.replace(preset.run, changes)


def first_stage(run: configs.Run) -> configs.Run:
    """Plain training with the run's loss, data and schedule, which cells share."""
    return configs.replace(
        run,
        {
            "method": configs.Method(
                lam=math.inf, start_at=run.method.start_at, gamma=0.5, init_s=0.0
            ),
            "loss.class_weights": False,
            "loss.class_weights_norm": "examples",
        },
    )


def pending(
    found: Iterable[Mapping[str, Any]],
    settings: Iterable[str],
    rows: Iterable[str] = (),
    seeds: int = SEEDS,
) -> list[Cell]:
    """The cells that can be trained now, in order of importance.

    Args:
      found: records.
      settings: which tables' columns, in order.
      rows: names of rows; all if there are none.
      seeds: number of seeds.

    Returns:
      Cells without a record. A row whose λ is not chosen yet has those that choose it.
    """
    found, names = list(found), set(rows)
    known, cells = _known(found), []
    for setting in settings:
        for row in ROWS:
            if names and row.name not in names:
                continue
            lams = [math.inf]
            if row.chooses:
                lam = chosen(found, setting, row.name)
                lams = [] if lam is None else [lam]
                cells += [Cell(setting, row.name, one, 0, "validation") for one in LAMS]
            cells += [
                Cell(setting, row.name, lam, seed, "test")
                for lam in lams
                for seed in range(seeds)
            ]
    return [cell for cell in cells if tuple(cell) not in known]


def _known(found: Iterable[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    """What identifies each record's cell."""
    return {
        (r["setting"], r["row"], float(r["lam"]), r["seed"], r["split"]) for r in found
    }


def chosen(found: Iterable[Mapping[str, Any]], setting: str, row: str) -> float | None:
    """The λ of the best validation accuracy, the larger of equals; None for not yet."""
    accuracies = {
        float(r["lam"]): r["accuracy"]
        for r in found
        if (r["setting"], r["row"], r["split"]) == (setting, row, "validation")
    }
    if any(lam not in accuracies for lam in LAMS):
        return None
    # One that diverged has no accuracy.
    return max(LAMS, key=lambda lam: (accuracies[lam] or 0.0, lam))


class _TimeIsUpError(Exception):
    """A training was stopped, and its state is saved."""


class _Bench(NamedTuple):
    """The arguments that all trainings of a process share."""

    out: pathlib.Path
    layout: sharding.Layout
    session: Session
    deadline: float


def main(config: commands.Reproduce) -> int:
    """Trains cells until all are recorded or the minutes are over; returns 0."""
    settings = config.settings or SETTINGS
    deadline = time.monotonic() + 60.0 * config.minutes
    records = config.records or config.out / RECORDS
    if config.list:
        _print_pending(run_log.events(records)[0], settings, config)
        return 0
    if config.pack is not None:
        return _pack(config, settings)
    if config.features is not None:
        from experiments.studies import head_features

        for setting in config.settings[:1] or SETTINGS[:1]:
            head_features.write(config, setting)
        return 0
    bench = _Bench(config.out, *one_device(), deadline)
    records.parent.mkdir(parents=True, exist_ok=True)
    while time.monotonic() < deadline:
        found, _ = run_log.events(records)
        cells = pending(found, settings, config.rows, config.seeds)
        if not cells:
            break
        if not any(_train_if_free(cell, bench, config, records) for cell in cells):
            time.sleep(1.0)  # other processes train them, and may open new ones
    _print_pending(run_log.events(records)[0], settings, config)
    return 0


def one_device() -> tuple[sharding.Layout, Session]:
    """On what all of it is trained, and how."""
    on_cpu = jax.default_backend() == "cpu"
    session = Session(
        devices=1,
        workers=0,
        checkpoint_seconds=300.0,
        steps_per_dispatch=1 if on_cpu else _DISPATCH,
    )
    return sharding.layout(1), session


def plainly_trained(
    run: configs.Run, config: commands.Reproduce
) -> tuple[Task, steps.TrainState]:
    """Examples of a run, and the state after plain training, trained if need be.

    Raises:
      BadConfiguration: another process trains it.
    """
    task = _task(run, config)
    bench = _Bench(config.out, *one_device(), math.inf)
    state = _after_first_stage(run, task, bench)
    if state is None:
        raise configs.BadConfiguration(f"Another process is training in {config.out}.")
    return task, state


def _print_pending(
    found: list[dict[str, Any]], settings: Iterable[str], config: commands.Reproduce
) -> None:
    cells = pending(found, settings, config.rows, config.seeds)
    for cell in cells if config.list else ():
        run = run_of(cell, config.smoke)
        epochs = run.epochs - run.epoch_at(run.method.start_at)
        print(f"{cell.name}: {epochs} of {run.epochs} epochs are its own")
    print(f"{len(found)} cells are recorded, {len(cells)} can be trained next.")


def _task(run: configs.Run, config: commands.Reproduce) -> Task:
    if config.packed is not None:
        return packed.read(config.packed, run.data)
    return load_task(run.data, run.seed, config.data_dir)


def _pack(config: commands.Reproduce, settings: Iterable[str]) -> int:
    """Writes the images of the settings' cells."""
    runs = [
        run_of(Cell(setting, ROWS[0].name, math.inf, 0, split), config.smoke)
        for setting in settings
        for split in ("test", "validation")
    ]
    tasks = [(run.data, _task(run, config)) for run in runs]
    assert config.pack is not None
    count = packed.write(config.pack, tasks)
    size = sum(path.stat().st_size for path in config.pack.iterdir())
    print(f"{config.pack}: {count:,} images, {size / 2**20:.1f} MiB")
    return 0


def _train_if_free(
    cell: Cell, bench: _Bench, config: commands.Reproduce, records: pathlib.Path
) -> bool:
    """Trains a cell unless another process does; whether to look for the next one."""
    out = bench.out / cell.name
    with _claim(out) as claimed:
        if not claimed or tuple(cell) in _known(run_log.events(records)[0]):
            return False
        run = run_of(cell, config.smoke)
        task = _task(run, config)
        began = time.monotonic()
        try:
            start = _start(run, task, bench)
            if start is None:  # another process trains what it starts from
                return False
            _, event = _train(run, task, bench, out, start)
        except _TimeIsUpError:
            print(f"{cell.name}: the time is up; its state is saved.", flush=True)
            return True
        except FloatingPointError as error:
            event = {"diverged": str(error)}
        _append(records, cell, run, event, time.monotonic() - began)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return True


def _start(run: configs.Run, task: Task, bench: _Bench) -> loop.Start | None:
    """Where a run departs from plain training; None while another process trains it."""
    switch = run.epoch_at(run.method.start_at)
    if switch == 0:
        return loop.begin(run, task, bench.layout, bench.session)
    state = _after_first_stage(run, task, bench)
    if state is None:
        return None
    fresh = loop.begin(run, task, bench.layout, bench.session).state
    state = state._replace(
        optimizer=steps.OptimizerState(fresh.optimizer.rule, state.optimizer.descent)
    )
    return loop.Start(state, loop.Position(switch, 0, {}))


def _after_first_stage(
    run: configs.Run, task: Task, bench: _Bench
) -> steps.TrainState | None:
    """The state after plain training; None while another process trains it."""
    switch, plain = run.epoch_at(run.method.start_at), first_stage(run)
    held_out = "-held-out" if task.validation is not None else ""
    loss, head = plain.loss.name, plain.model.head
    setting = f"{plain.data.source}-{plain.data.imbalance}"
    ratio = f"{plain.data.imbalance_ratio:g}"
    name = f"{setting}{ratio}-{loss}-{head}{held_out}-first-seed{run.seed}"
    out = bench.out / name
    with _claim(out) as claimed:
        if not claimed:
            return None
        first = loop.begin(plain, task, bench.layout, bench.session)
        state, _ = _train(plain, task, bench, out, first, until=switch)
    return state


def _train(
    run: configs.Run,
    task: Task,
    bench: _Bench,
    out: pathlib.Path,
    start: loop.Start,
    until: int | None = None,
) -> tuple[steps.TrainState, dict[str, Any] | None]:
    """Trains from a start or from what is saved; the state, and the last epoch."""
    events: list[dict[str, Any]] = []
    end = run.epochs if until is None else until
    saved = time.monotonic()

    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(
            checkpoint.Checkpoints(out / "checkpoints", keep=1, log=print)
        )
        found = saver.restore(start.state)
        if found is not None:
            start = loop.Start(found[1], loop.Position(**found[2]["position"]))
        log = stack.enter_context(
            (out / "epochs.jsonl").open("a", encoding="utf-8", buffering=1)
        )

        def write(**event: Any) -> None:
            events.append(event)
            log.write(json.dumps(run_log.plain(event), ensure_ascii=False) + "\n")

        def save(step: int, state: steps.TrainState, position: loop.Position) -> None:
            nonlocal saved
            now = time.monotonic()
            late = now > saved + bench.session.checkpoint_seconds
            over = now > bench.deadline and position.epoch < end
            kept = until is not None and position.epoch == end
            if late or over or kept:
                content = {"position": position._asdict(), "run": run}
                saver.save(step, state, content)
                saved = now
            if over:
                raise _TimeIsUpError

        callbacks = loop.Callbacks(write, save=save)
        state = loop.fit(
            run, task, bench.layout, bench.session, start, callbacks, until=until
        )
    return state, events[-1] if events else None


def _append(
    records: pathlib.Path,
    cell: Cell,
    run: configs.Run,
    event: Mapping[str, Any],
    seconds: float,
) -> None:
    """Adds a line, in one call, which other processes do not cut into."""
    line: dict[str, Any] = cell._asdict() | {"accuracy": None}
    if "diverged" in event:
        line |= event
    else:
        summary = event[cell.split]
        line |= {
            "accuracy": round(summary["accuracy"], 5),
            "recall": [round(value, 4) for value in summary["recall"]],
            "calibration_error": round(summary["calibration_error"], 4),
            "last_lam": event["lam"],
            "total_weight": round(event["total_weight"], 4),
            "effective_sample_size": round(event["effective_sample_size"], 4),
        }
    print(f"{cell.name}: {line['accuracy']}", flush=True)
    line |= {
        "epochs": run.epochs,
        "seconds": round(seconds, 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    text = json.dumps(run_log.plain(line), ensure_ascii=False) + "\n"
    with records.open("ab", buffering=0) as file:
        file.write(text.encode())


@contextlib.contextmanager
def _claim(out: pathlib.Path) -> Iterator[bool]:
    """Whether this process holds the lock of a directory; released at the end."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "claimed"
    with contextlib.suppress(FileNotFoundError, ValueError):
        owner = int(path.read_text(encoding="utf-8"))
        if not _lives(owner):
            path.unlink()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
