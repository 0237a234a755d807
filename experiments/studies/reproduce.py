"""The paper's tables on CIFAR at the full protocol, cell by cell, in many sittings.

A cell is a row of a table at one λ and one seed: 200 epochs, of which the first 160 are
plain training (120 and 80 where labels are wrong). Rows with the same loss and settings
share those, so they are trained once per seed and kept; a cell then costs 40 epochs,
but all of them in rows that begin with the first step. λ is chosen on a validation set
that is held out for that purpose, and the row is trained at the chosen λ on all
examples, for every seed. Where labels are wrong nothing is chosen, and every cell holds
out examples, whose labels are as wrong: they tell the epoch at which early stopping
would stop.

Several processes may work in one directory at once, since one small network does not
fill an accelerator: each claims the cell that it trains.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import commands, configs, presets
from experiments.data import loader, packed
from experiments.data.task import Task, load_task
from experiments.presets._listing import steps_and_time
from experiments.results import aggregate, run_dir, run_log
from experiments.studies import grid
from experiments.studies.equal_grids_report import PASSES
from experiments.train import checkpoint, evaluation, loop, runs, sharding, steps
from experiments.train.session import Session

RHO = 0.4
LAMS = (0.5, 1.0, 2.0, 5.0, 10.0)
IMBALANCED = tuple(
    f"{source}_{shape}{ratio}"
    for ratio in (100, 10)
    for source in ("cifar10", "cifar100")
    for shape in ("lt", "st")
)
MISLABELLED = tuple(
    f"{source}_{kind}{rate}"
    for rate in (40, 20)
    for source in ("cifar10", "cifar100")
    for kind in ("sym", "asym")
)
# In order of importance: the hardest columns of CIFAR-10, then the others.
SETTINGS = (*IMBALANCED[:2], *MISLABELLED[:2], *IMBALANCED[2:], *MISLABELLED[2:])
SEEDS = 3
RECORDS = "records.jsonl"
# Fields of a record under wrong labels: the epoch of the highest accuracy on held-out
# images, and on the test set, as the authors' code reports it.
STOPPED_EARLY, BEST_ON_TEST = "stopped_early", "best_on_test"
_BEST_BY = {STOPPED_EARLY: "validation", BEST_ON_TEST: "test"}
_DISPATCH = 1000  # updates at once on an accelerator: an epoch has fewer
_EVAL_EVERY = 20


class Row(NamedTuple):
    """A row of a table."""

    name: str  # as printed, if the paper prints it
    preset: str  # what follows the setting's name in that of the row's preset
    # Of the preset's run, after those of the preset's variant of the same name.
    changes: Mapping[str, Any]
    chooses: bool = False  # whether λ is chosen, among `LAMS`


# With λ = ∞ and s_0 = 1 all weights are one: SGD, by the compiled program of ABSGD.
_SGD = {"method.lam": math.inf, "method.init_s": 1.0}
_RADIUS = _SGD | {"method.rho": RHO, "method.gamma": 0.1, "method.init_s": None}
_DISTRUST = _RADIUS | {"method.lam": -math.inf}
_WIDE = _RADIUS | {"method.rho": 1.6, "method.max_weight": 50.0}
_DEFERRED = _SGD | {"loss.class_weights_norm": "weights"}
_BASE = {"loss.class_weights_in": "base"}
_ADJUSTED = "logit_adjusted"
_ONE = {"method.lam": 1.0}
_FIRST = {"method.start_at": 0.0}
# In order of importance.
ROWS = (
    Row("SGD (CE)", "", _SGD),
    Row("ABSGD (CE), ρ = 0.4", "", _RADIUS),
    Row("ABSGD (CE)", "", {}, chooses=True),
    Row("SGD (CB-CE), deferred", "_cb_ce", _DEFERRED),
    Row("ABSGD (CB-CE)", "_cb_ce", {}, chooses=True),
    Row("ABSGD (CB-CE), ρ = 0.4", "_cb_ce", _RADIUS),
    Row("ABSGD (CB-CE), base weights, ρ = 0.4", "_cb_ce", _BASE | _RADIUS),
    Row("SGD (CE), logit adjustment, deferred", "", _SGD | {"loss.name": _ADJUSTED}),
    Row("ABSGD (CB-CE), base weights", "_cb_ce", _BASE, chooses=True),
    Row("ABSGD (CE), ρ = 0.4 from the first step", "", _RADIUS | _FIRST),
    Row("ABSGD (CE), λ = 1 from the first step", "", _ONE | _FIRST),
    Row("ABSGD (CE), ρ = 1.6, weights up to 50", "", _WIDE),
    Row("SGD (CB-CE)", "_cb_ce", _SGD | _FIRST),
    Row("SGD (CB-Focal)", "_cb_focal", _SGD | _FIRST),
    Row("SGD (LDAM)", "_ldam", _SGD),
    Row("SGD (CB-LDAM)", "_cb_ldam", _SGD),
    Row("ABSGD (CB-LDAM)", "_cb_ldam", {}, chooses=True),
    Row("SGD (Focal)", "_focal", _SGD),
    Row("ABSGD (Focal)", "_focal", {}, chooses=True),
    Row("ABSGD (CB-Focal)", "_cb_focal", {}, chooses=True),
)
# Of settings with wrong labels.
MISLABELLED_ROWS = (
    Row("SGD (CE)", "", _SGD),
    Row("ABSGD (CE), ρ = 0.4 from the first step", "", _DISTRUST | _FIRST),
    Row("SGD (SCE)", "_sce", _SGD),
    Row("ABSGD (SCE)", "_sce", {}),
    Row("ABSGD (CE)", "", {}),
    Row("EG (SCE)", "_sce", {}),
    Row("SGD (TCE)", "_tce", _SGD),
)


class Cell(NamedTuple):
    """A training whose accuracy is recorded."""

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


FIELDS = (*Cell._fields, "epochs", "accuracy")  # of every record


def rows_of(setting: str) -> tuple[Row, ...]:
    """The rows of a table's column, in order of importance."""
    return MISLABELLED_ROWS if setting in MISLABELLED else ROWS


def run_of(cell: Cell, smoke: bool = False, epochs: int | None = None) -> configs.Run:
    """The run of a cell, with the preset's epochs if none are given.

    The rate is changed, and λ and class weights begin, at the same fractions of them.
    """
    (row,) = (row for row in rows_of(cell.setting) if row.name == cell.row)
    name = f"{cell.setting}{row.preset}"
    preset = presets.get(f"{name}_smoke" if smoke else name)
    mislabelled = cell.setting in MISLABELLED
    changes: dict[str, Any] = {
        "seed": cell.seed,
        "data.augment_on": "device",
        "eval_every": 1 if smoke or mislabelled else _EVAL_EVERY,
    }
    printed = {v.method: v.changes for v in presets.get(name).variants}
    changes |= {**printed.get(row.name, {}), "method.name": "absgd"} | row.changes
    if row.chooses:
        changes["method.lam"] = cell.lam
    if cell.split == "validation" or mislabelled:
        held_out = 1 if smoke else 100 if preset.run.data.classes == 10 else 10
        changes["data.validation_per_class"] = held_out
        if smoke:
            most = preset.run.data.examples_per_class or 0
            changes["data.examples_per_class"] = most + held_out
    if epochs is not None:
        changes["epochs"] = epochs
    return configs.replace(preset.run, changes)


def first_stage(run: configs.Run) -> configs.Run:
    """Plain training with the run's loss, data and schedule, which cells share.

    The loss is cross-entropy where logits are to be adjusted.
    """
    name = "cross_entropy" if run.loss.name == _ADJUSTED else run.loss.name
    return configs.replace(
        run,
        {
            "loss.name": name,
            "method": configs.Method(
                lam=math.inf, start_at=run.method.start_at, gamma=0.5, init_s=0.0
            ),
            "loss.class_weights": False,
            "loss.class_weights_norm": "examples",
            "loss.class_weights_in": "loss",
            "loss.class_weights_from": 0.0,
        },
    )


def pending(
    records: Iterable[Mapping[str, Any]],
    settings: Iterable[str],
    rows: Iterable[str] = (),
    seeds: int = SEEDS,
) -> list[Cell]:
    """The cells without a record that can be trained now, in order of importance.

    Settings are tables' columns, in order; without names of rows all are taken. A row
    whose λ is not chosen yet has the cells that choose it.
    """
    records, names = list(records), set(rows)
    known, cells = _known(records), []
    for setting in settings:
        for row in rows_of(setting):
            if names and row.name not in names:
                continue
            if row.chooses:
                cells += [Cell(setting, row.name, lam, 0, "validation") for lam in LAMS]
            lam = lam_of(records, setting, row)
            if lam is not None:
                cells += [Cell(setting, row.name, lam, s, "test") for s in range(seeds)]
    return [cell for cell in cells if tuple(cell) not in known]


def _known(records: Iterable[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    """What identifies each record's cell."""
    return {
        (r["setting"], r["row"], float(r["lam"]), r["seed"], r["split"])
        for r in records
    }


def validated(
    records: Iterable[Mapping[str, Any]], setting: str, row: str
) -> dict[float, float | None]:
    """Validation accuracy by λ, None where the run diverged."""
    return {
        float(r["lam"]): r["accuracy"]
        for r in records
        if (r["setting"], r["row"], r["split"]) == (setting, row, "validation")
    }


def chosen(
    records: Iterable[Mapping[str, Any]], setting: str, row: str
) -> float | None:
    """The λ of the best validation accuracy, the larger of equals.

    None if not all are recorded yet, or all diverged.
    """
    accuracies = validated(records, setting, row)
    if any(lam not in accuracies for lam in LAMS):
        return None
    return grid.best({lam: accuracies[lam] for lam in reversed(LAMS)})


def lam_of(
    records: Iterable[Mapping[str, Any]], setting: str, row: Row
) -> float | None:
    """λ of a row's tests; None where it is not chosen yet."""
    return chosen(records, setting, row.name) if row.chooses else math.inf


class Worker(NamedTuple):
    """The arguments that all trainings of a process share."""

    config: commands.Reproduce
    layout: sharding.Layout
    session: Session
    deadline: float  # of `time.monotonic`

    def run(self, cell: Cell) -> configs.Run:
        """The run of a cell."""
        return run_of(cell, self.config.smoke, self.config.epochs)

    def directory(self, cell: Cell) -> pathlib.Path:
        """Where a cell is trained."""
        epochs = self.config.epochs
        return self.config.out / f"{cell.name}{f'-{epochs}-epochs' if epochs else ''}"

    def task(self, run: configs.Run) -> Task:
        """The examples of a run."""
        if self.config.packed is not None:
            return _unpacked(self.config.packed, run.data)
        return load_task(run.data, run.seed, self.config.data_dir)


@functools.lru_cache(maxsize=2)  # those of a setting's tests and of its validations
def _unpacked(folder: pathlib.Path, data: configs.Data) -> Task:
    return packed.read(folder, data)


def new_worker(config: commands.Reproduce, deadline: float = math.inf) -> Worker:
    """A worker on one device, with many steps per dispatch where that is faster."""
    on_cpu = jax.default_backend() == "cpu"
    session = Session(
        devices=1,
        workers=0,
        checkpoint_seconds=60.0,
        steps_per_dispatch=1 if on_cpu else _DISPATCH,
    )
    return Worker(config, sharding.layout(1), session, deadline)


def main(config: commands.Reproduce) -> int:
    """Trains cells until all are recorded or the minutes are over; returns 0."""
    rows = dict.fromkeys(row.name for row in ROWS + MISLABELLED_ROWS)
    named = ("setting", config.settings, SETTINGS), ("row", config.rows, rows)
    for kind, names, known in named:
        if unknown := [name for name in names if name not in known]:
            raise configs.BadConfiguration(
                f"There is no {kind} {unknown[0]!r}: there are "
                f"{', '.join(map(repr, known))}."
            )
    settings = config.settings or (IMBALANCED if config.epochs else SETTINGS)
    if config.epochs and (refused := [s for s in settings if s in MISLABELLED]):
        raise configs.BadConfiguration(
            f"--epochs is for settings without wrong labels, got {refused[0]}: train "
            f"{refused[0]} --epochs {config.epochs} in place of a cell."
        )
    deadline = time.monotonic() + 60.0 * config.minutes
    records = config.records or config.out / RECORDS
    if config.pack is not None and not config.list:
        _pack(config.pack, config, settings)
        return 0
    if config.features is not None and not config.list:
        try:
            worker = new_worker(config, deadline)
            _write_features(config.features, worker, settings[0])
        except runs.Interrupted:
            print(f"{config.features}: the time is up; what is trained is saved.")
        return 0
    _refuse_other_epochs(config, records)
    worker = None if config.list else new_worker(config, deadline)
    next_cells = lambda found: pending(found, settings, config.rows, config.seeds)
    while worker is not None and time.monotonic() < deadline:
        cells = next_cells(run_log.events(records)[0])
        if not cells:
            break
        if not any(_train_if_free(cell, worker, records) for cell in cells):
            time.sleep(1.0)  # other processes train them, and may open new ones
    found, _ = run_log.events(records)
    cells = next_cells(found)
    for cell in cells if config.list else ():
        run = run_of(cell, config.smoke, config.epochs)
        epochs = run.epochs - run.epoch_at(run.method.start_at)
        steps, time_of = steps_and_time(dataclasses.replace(run, epochs=epochs))
        cost = "" if config.smoke else f": {steps} steps in {time_of}"
        print(f"{cell.name}: {epochs} of {run.epochs} epochs are its own{cost}")
    if config.list and cells and not config.smoke:
        print("Times are of two CPU cores; one with ~ is an estimate.")
    print(f"{len(found)} cells are recorded, {len(cells)} can be trained next.")
    return 0


def _refuse_other_epochs(config: commands.Reproduce, records: pathlib.Path) -> None:
    """Refuses records of other epochs, which would be taken for those of these."""
    for record in run_log.events(records, *FIELDS)[0]:
        cell = Cell(record["setting"], record["row"], math.inf, 0, "test")
        epochs = run_of(cell, config.smoke, config.epochs).epochs
        if record["epochs"] != epochs:
            raise configs.BadConfiguration(
                f"{records} has trainings of {record['epochs']} epochs, and these "
                f"would have {epochs}: give another file as --records."
            )


def _pack(
    out: pathlib.Path, config: commands.Reproduce, settings: Iterable[str]
) -> None:
    """Writes the images of the settings' cells."""
    worker, tasks = new_worker(config), []
    for setting in settings:
        for split in ("test", "validation") if setting in IMBALANCED else ("test",):
            cell = Cell(setting, ROWS[0].name, math.inf, 0, split)
            run = run_of(cell, config.smoke)
            tasks.append((run.data, worker.task(run)))
    count = packed.write(out, tasks)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {count:,} images, {size / 2**20:.1f} MiB")


def _write_features(out: pathlib.Path, worker: Worker, setting: str) -> None:
    """Writes what enters the last layer of a setting's networks, one a seed.

    Training only the last layer on these features takes seconds, so that a grid of
    methods can be compared on real images. The file has, with S seeds: `train` [S, n,
    features] and `train_labels` [S, n], of `PASSES` passes, each augmented differently;
    `test` and `test_labels`, of the same form, are of the images without augmentation;
    and the last layer's `kernel` [S, features, classes] and `bias` [S, classes].
    `epochs` [S] is how many of plain training each network had. Networks that are not
    trained yet are trained first; several processes may share that, and each writes the
    whole file, by one rename. Raises Interrupted when the deadline has passed before
    all are trained.
    """
    seeds = range(worker.config.seeds)
    jobs: collections.deque[tuple[configs.Run, Task]] = collections.deque()
    for seed in seeds:
        run = worker.run(Cell(setting, ROWS[0].name, math.inf, seed, "test"))
        jobs.append((run, worker.task(run)))
    features: dict[int, dict[str, np.ndarray]] = {}
    while jobs:
        run, task = jobs.popleft()
        state = plainly_trained(run, task, worker)
        if state is None:  # another process trains it
            if time.monotonic() > worker.deadline:
                raise runs.Interrupted
            jobs.append((run, task))
            time.sleep(1.0)
        else:
            features[run.seed] = _features_of(first_stage(run), task, state, worker)
    each = [features[seed] for seed in seeds]
    stacked = {name: np.stack([one[name] for one in each]) for name in each[0]}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **stacked)
    temporary.replace(out)


def _features_of(
    run: configs.Run, task: Task, state: steps.TrainState, worker: Worker
) -> dict[str, np.ndarray]:
    layout, session = worker.layout, worker.session
    features = steps.program(run, layout).features
    on_host = dataclasses.replace(run.data, augment_on="host")
    passes = range(run.epochs, run.epochs + PASSES)  # none that it was trained on
    batches = loader.training(
        task.train, on_host, run.batch_size, seed=run.seed, epochs=passes
    )
    parts: list[Any] = []
    for batch in batches:
        kept = np.asarray(features(state, layout.shard(batch)))[batch.present]
        parts.append((kept, batch.labels[batch.present]))
    train, train_labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    named = evaluation.weights(state)
    return {
        "train": train,
        "train_labels": train_labels,
        "test": evaluation.outputs_of(
            "features", state, task.test, run, layout, session
        ),
        "test_labels": task.test.labels,
        "kernel": named["head.kernel"],
        "bias": named["head.bias"],
        "epochs": np.array(run.epoch_at(run.method.start_at)),
    }


def _train_if_free(cell: Cell, worker: Worker, records: pathlib.Path) -> bool:
    """Trains a cell unless another process does; whether to look for the next one."""
    out = worker.directory(cell)
    with run_dir.claim(out) as claimed:
        if not claimed or tuple(cell) in _known(run_log.events(records)[0]):
            return False
        run = worker.run(cell)
        task, began = worker.task(run), time.monotonic()
        earlier = sum(event["seconds"] for event in _events(out, "epoch"))
        try:
            start = _start(run, task, worker)
            if start is None:  # another process trains what it starts from
                return False
            _, begun = _train(run, task, worker, out, start)
            earlier += begun
        except runs.Interrupted:
            print(f"{cell.name}: the time is up; its state is saved.", flush=True)
            return True
        except FloatingPointError:
            pass
        seconds = earlier + time.monotonic() - began
        # Where it was trained, in all sittings, those of the plain training first.
        plain = _plain_directory(run, worker) if run.method.start_at else out
        sessions = [*_events(plain, "session"), *_events(out, "session")]
        # One that diverged before the rule began has no epoch of its own.
        parts = [each for each in (plain, out) if (each / run_dir.CONFIG).is_file()]
        *earlier_parts, result = map(aggregate.read, dict.fromkeys(parts))
        epochs = [event for part in (*earlier_parts, result) for event in part.epochs]
        result = dataclasses.replace(result, epochs=epochs)
        _append(records, cell, result, seconds, sessions)
        shutil.rmtree(out / run_dir.CHECKPOINTS, ignore_errors=True)
    return True


def _events(out: pathlib.Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in a directory's records, which may not be there yet."""
    events, _ = run_log.events(out / run_dir.RECORDS)
    return [event for event in events if event["event"] == kind]


def _plain_directory(run: configs.Run, worker: Worker) -> pathlib.Path:
    """Where the plain training that a cell's run starts from is kept."""
    plain = first_stage(run)
    data, loss, head = plain.data, plain.loss, plain.model.head
    held_out, settings = "-held-out" if data.validation_per_class else "", ""
    kind = f"{data.imbalance}{data.imbalance_ratio:g}"
    if data.noise_rate:  # rows of one loss may have other parameters and rates
        kind, rate = f"{data.noise}{data.noise_rate:g}", plain.optimizer.learning_rate
        settings = f"-{loss.alpha:g}-{loss.beta:g}-{rate:g}"
    name = f"{data.source}-{kind}-{loss.name}-{head}{settings}"
    switch = run.epoch_at(run.method.start_at)
    return worker.config.out / f"{name}{held_out}-first-{switch}-epochs-seed{run.seed}"


def _start(run: configs.Run, task: Task, worker: Worker) -> loop.Start | None:
    """Where a run departs from plain training; None while another process trains it."""
    fresh = loop.begin(run, task, worker.layout)
    switch = run.epoch_at(run.method.start_at)
    if switch == 0:
        return fresh
    state = plainly_trained(run, task, worker)
    if state is None:
        return None
    rule = fresh.state.optimizer.rule
    optimizer = steps.OptimizerState(rule, state.optimizer.descent)
    return loop.Start(state._replace(optimizer=optimizer), loop.Position(switch, 0, {}))


def plainly_trained(
    run: configs.Run, task: Task, worker: Worker
) -> steps.TrainState | None:
    """The state of a cell's run after plain training, trained if need be.

    None while another process trains it.
    """
    switch, plain = run.epoch_at(run.method.start_at), first_stage(run)
    out = _plain_directory(run, worker)
    with run_dir.claim(out) as claimed:
        if not claimed:
            return None
        first = loop.begin(plain, task, worker.layout)
        state, _ = _train(plain, task, worker, out, first, until=switch)
        return state


def _train(
    run: configs.Run,
    task: Task,
    worker: Worker,
    out: pathlib.Path,
    start: loop.Start,
    until: int | None = None,
) -> tuple[steps.TrainState, float]:
    """Trains from a start, or from the newest checkpoint of its directory.

    Returns the state, and the seconds that earlier sittings spent on the epoch that
    this one began in the middle of. Only what is trained until an epoch keeps a
    checkpoint of its end. Raises Interrupted when the deadline has passed, and the
    state is saved; BadConfiguration where the checkpoint is of another configuration,
    as of a build whose presets were others.
    """
    with contextlib.ExitStack() as stack:
        folder = out / run_dir.CHECKPOINTS
        saver = stack.enter_context(checkpoint.Checkpoints(folder, keep=1, log=print))
        step, restored = 0, evaluation.newest(saver, start.state, run)
        runs.write_config(out, "reproduce", run, worker.session, task)
        if restored is not None:
            step, state, kept = restored
            start = loop.Start(state, loop.Position(**kept["position"]))
        recorder = stack.enter_context(
            run_log.Recorder(out / run_dir.RECORDS, resume_at=step)
        )
        if start.position.epoch < (until or run.epochs):
            device, version = jax.devices()[0].device_kind, jax.__version__
            recorder.write(event="session", step=step, device=device, jax=version)
        logger = runs.RunLogger(
            run,
            worker.session,
            recorder,
            saver,
            lambda: time.monotonic() > worker.deadline,
            save_at=(until,),
        )
        state = logger.fit(task, worker.layout, start, until)
        return state, start.position.seconds


def _best(result: aggregate.Result, split: str) -> dict[str, Any]:
    """What is recorded of the epoch of the highest accuracy on a split."""
    event = result.best(split)
    accuracy, error = (event["test"][n] for n in ("accuracy", "calibration_error"))
    kept = {"accuracy": round(accuracy, 5), "calibration_error": round(error, 4)}
    return {"epoch": event["epoch"]} | kept


def _append(
    records: pathlib.Path,
    cell: Cell,
    result: aggregate.Result,
    seconds: float,
    sessions: Sequence[Mapping[str, Any]],
) -> None:
    """Records the result of a cell, with all devices and versions it was trained on."""
    line: dict[str, Any] = cell._asdict() | {"accuracy": None}
    if result.diverged is not None:
        line["diverged"] = result.diverged
    else:
        event = result.epochs[-1]
        summary = event[cell.split]
        line |= {
            "accuracy": round(summary["accuracy"], 5),
            "recall": [round(value, 4) for value in summary["recall"]],
            "calibration_error": round(summary["calibration_error"], 4),
            "last_lam": event["lam"],
            "total_weight": round(event["total_weight"], 4),
            "effective_sample_size": round(event["effective_sample_size"], 4),
        }
        if cell.setting in MISLABELLED:
            line |= {n: _best(result, split) for n, split in _BEST_BY.items()}
            line |= {
                f"{split}_by_epoch": [
                    round(e[split]["accuracy"], 4) for e in result.epochs
                ]
                for split in _BEST_BY.values()
            }
    print(f"{cell.name}: {line['accuracy']}", flush=True)
    line |= {"epochs": result.run.epochs, "seconds": round(seconds, 1)}
    for name in ("device", "jax"):
        line[name] = ", then ".join(dict.fromkeys(each[name] for each in sessions))
    run_log.append(records, [line])
