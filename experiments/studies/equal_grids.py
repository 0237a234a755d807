"""Methods on tables, last layers of CIFAR networks and rare groups, tuned alike.

Each has equally many settings, as `compare` has: three values at each learning rate,
or only learning rates where it has no hyperparameter of its own. The setting is
chosen on validation examples. All runs of one method are vmapped, and each is logged as
one JSON line.
"""

import dataclasses
import functools
import itertools
import pathlib
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from experiments import commands, configs, fields, presets
from experiments.data.task import Task
from experiments.data.types import Examples, MissingData
from experiments.results import aggregate, metrics, run_dir, run_log
from experiments.studies import equal_grids_report as report
from experiments.studies import (
    grid,
    hidden_groups,
    method_grid,
    untuned,
    untuned_report,
)
from experiments.studies.after_first_stage import effective_fraction
from experiments.studies.equal_grids_report import (
    BY_GROUP,
    CHOOSING,
    EPOCHS,
    OF_GROUPS,
    OF_LAST_LAYER,
    OF_TABLES,
    PASSES,
    TABLES,
    TAIL,
    VALUES,
)
from experiments.studies.method_grid import MethodGrid
from experiments.train import sharding, vmapped

START = 0.6  # fraction of the epochs after which λ or deferred weights begin
LAMS = (5.0, 2.0, 1.0)  # as in the method grid
RATES = (0.001, 0.01, 0.1, 1.0)  # learning rates of last layers
RUN = ("data", "method", "value", "rate", "network", "seed")  # what a record is of


class Setting(NamedTuple):
    """A method with a value of its hyperparameter, at a learning rate."""

    method: str
    value: str  # "" where the method has no hyperparameter of its own
    rate: float
    run: configs.Run


class Job(NamedTuple):
    """One training."""

    setting: Setting
    network: int
    seed: int


LogOdds = Callable[[str], np.ndarray]  # by the name of a split


class Study(NamedTuple):
    """A data set, how it is trained on, and what is recorded."""

    name: str  # of the data set
    run: configs.Run  # plain training
    factors: tuple[float, ...]  # low to high learning rates over that of `run`
    methods: Mapping[str, MethodGrid]  # by name
    task: Callable[[Job], Task]  # one object for jobs of the same examples
    # What is recorded of a job whose loss stayed finite: of it, its last evaluation,
    # and the log-odds of class 1 of a split's examples, in order and then of padding.
    measure: Callable[[Job, aggregate.Event, LogOdds], dict[str, Any]]
    networks: int = 1  # whose last layer is trained; 1 where all layers are
    # Sets the state in which jobs begin; what is recorded of each before it is trained.
    begin: Callable[[Sequence[Job], vmapped.VmappedRuns], list[dict[str, Any]]] = (
        lambda jobs, together: [{} for _ in jobs]
    )
    choosing: int | None = None  # seeds by which the setting is chosen; None for all

    def settings(self, method: str) -> list[Setting]:
        """The settings of a method: three at each learning rate."""
        one = self.methods[method]
        base = one.changes.get(_RATE, self.run.optimizer.learning_rate)
        values, factors, combinations = one.grid, self.factors, []
        if one.hyperparameter == "η":  # as many rates as others have settings
            values = (("", {}),)
            count = VALUES * len(factors)
            factors = np.geomspace(min(factors), max(factors), count).tolist()
        for (value, changes), factor in itertools.product(values, factors):
            rate = float(f"{base * factor:.3g}")
            more = {**one.changes, **changes, _RATE: rate}
            combinations.append(
                Setting(method, value, rate, configs.replace(self.run, more))
            )
        return combinations


_RATE = "optimizer.learning_rate"


_OF_LAST_LAYER = (
    "sgd,absgd,eg,eg_examples,term,term_stochastic,recover,group_dro,cvar,joint,"
    "resampling,cb_ce,focal,cb_focal,ldam,ldam_drw,logit_adjusted,absgd_cb,"
    "absgd_cb_mean,absgd_cb_base,absgd_focal,absgd_cb_focal"
)


def _automatic(
    sgd: MethodGrid, name: str, changes: Mapping[str, Any] | None = None
) -> MethodGrid:
    """The library's default, from the first step."""
    changes = {"method": configs.AUTOMATIC, **(changes or {})}
    return sgd._replace(name=name, changes=changes)


def _data(width: int, classes: int) -> configs.Data:
    """Vectors that are in memory already."""
    names = tuple(map(str, range(classes)))
    return configs.Data("table", contents=configs.Contents("table", (width,), names))


def tables(name: str, data_dir: pathlib.Path) -> Study:
    """A table, with the network and the optimizer of the preset `own_table`.

    The splits are those of `untuned`: 60% to train, 20% each for validation and test,
    others for each seed. λ and deferred class weights begin at `START`; all other
    weights at once.
    """
    inputs, labels = untuned.load(name, data_dir)
    names = "sgd,absgd,cb_ce,drw_ce,logit_adjusted,focal"
    plain, by_name = _own_table(inputs.shape[1], int(labels.max()) + 1, names)

    @functools.cache
    def task(seed: int) -> Task:
        parts = untuned.split(inputs, labels, seed, tail=1.0, noise=0.0)
        train, *others = (Examples(*parts[part]) for part in ("train", "val", "test"))
        clean, counts = np.zeros(len(train.labels), bool), np.bincount(train.labels)
        return Task(train, *others, clean, counts)

    def measure(job: Job, event: aggregate.Event, log_odds: LogOdds) -> dict[str, Any]:
        line = _accuracies(event, OF_TABLES)
        if job.setting.method == "sgd":
            line |= losses_after(log_odds("train"), task(job.seed).train.labels)
        return line

    of_seed = lambda job: task(job.seed)
    return Study(name, plain, (0.25, 1.0, 4.0), by_name, of_seed, measure)


def _own_table(
    width: int, classes: int, names: str
) -> tuple[configs.Run, dict[str, MethodGrid]]:
    """Plain training with the network and the optimizer of `own_table`, and methods.

    They are those of the names, ABSGD from the first step too, and the default.
    """
    preset, data = presets.get("own_table").run, _data(width, classes)
    method = configs.Method("absgd", start_at=START)
    run = dataclasses.replace(preset, data=data, method=method)
    plain = configs.replace(method_grid.plain(run), {"data.validation_per_class": 0})
    by_name = {one.name: one for one in method_grid.choose(run, names)}
    at_once = {"method": configs.Method("absgd")}
    by_name["absgd_first"] = by_name["absgd"]._replace(
        name="absgd_first", changes=at_once
    )
    by_name["automatic"] = _automatic(by_name["sgd"], "automatic")
    return plain, by_name


def _automatic_wide(automatic: MethodGrid) -> MethodGrid:
    """The default with larger weights, at several radii."""
    radii = tuple(
        (f"{one.rho:g}", {"method.rho": one.rho, "method.max_weight": one.bound})
        for one in untuned_report.WIDE
    )
    return automatic._replace(name="automatic_wide", hyperparameter="ρ", grid=radii)


def groups(name: str, data_dir: pathlib.Path) -> Study:
    """Rare groups that are no classes, see `hidden_groups`.

    The network and the optimizer of the preset `own_table`. λ begins at `START`, or at
    the first step; all other weights at once. `BY_GROUP` is plain training on as many
    examples of each group, which takes knowing them.
    """

    @functools.cache
    def grouped(seed: int) -> hidden_groups.Grouped:
        return hidden_groups.load(name, data_dir, seed)

    width = grouped(0).task.train.inputs.shape[1]
    plain, by_name = _own_table(width, 2, "sgd,absgd")
    at_once = configs.replace(plain, {"method.start_at": 0.0})
    others = method_grid.choose(at_once, "focal,term,eg_examples,cvar")
    by_name |= {one.name: one for one in others if one.name not in by_name}
    by_name["automatic_wide"] = _automatic_wide(by_name["automatic"])
    by_name[BY_GROUP] = by_name["sgd"]._replace(name=BY_GROUP)
    plain = configs.replace(plain, {"batch_size": hidden_groups.BATCH})
    resampled = functools.cache(lambda seed: grouped(seed).resampled())

    def task(job: Job) -> Task:
        known = job.setting.method == BY_GROUP
        return resampled(job.seed) if known else grouped(job.seed).task

    def measure(job: Job, event: aggregate.Event, log_odds: LogOdds) -> dict[str, Any]:
        del event  # knows nothing of groups
        one, line = grouped(job.seed), {}
        for split in ("validation", "test"):
            labels = getattr(one.task, split).labels
            odds = log_odds(split)[: len(labels)]
            found = hidden_groups.by_group(odds, labels, one.groups[split], one.rare)
            line[split] = {metric: round(found[metric], 5) for metric in OF_GROUPS}
        return line

    def begin(
        jobs: Sequence[Job], together: vmapped.VmappedRuns
    ) -> list[dict[str, Any]]:
        del together  # begins as it is
        if jobs[0].setting.method != "sgd":
            return [{} for _ in jobs]
        each = [grouped(job.seed).groups["train"] for job in jobs]
        return [{"groups": np.bincount(one).tolist()} for one in each]

    factors = (0.5, 2.0, 8.0)
    return Study(name, plain, factors, by_name, task, measure, begin=begin)


def last_layer(name: str, data_dir: pathlib.Path) -> Study:
    """The last layer of trained networks, on what enters it.

    Of the test images one half is for choosing and the other is reported, since no
    training image is new to these networks.
    """
    path = data_dir.expanduser() / f"{name}.npz"
    if not path.exists():
        raise MissingData(
            f"There is no {path}: python -m experiments reproduce --settings "
            f"{report.setting_of(name)} --features {shlex.quote(str(path))}"
        )
    with np.load(path) as file:
        kept = {key: file[key] for key in file.files}
    networks, _, width = kept["train"].shape
    classes = kept["kernel"].shape[-1]
    run = configs.Run(
        data=_data(width, classes),
        # Its hidden layer is made the identity, and is not trained.
        model=configs.Model("mlp", widths=(width,)),
        optimizer=configs.Optimizer(
            learning_rate=0.01, decay="cosine", weight_decay=5e-4
        ),
        trainable="head",
        epochs=EPOCHS,
    )
    plain = configs.replace(method_grid.plain(run), {"data.validation_per_class": 0})
    by_name = {one.name: one for one in method_grid.choose(run, _OF_LAST_LAYER)}
    automatic = {
        "automatic": {},
        "automatic_cb_base": {
            "loss.class_weights": True,
            "loss.class_weights_in": "base",
        },
        "automatic_adjusted": {"loss.name": "logit_adjusted"},
    }
    for method, changes in automatic.items():
        by_name[method] = _automatic(by_name["sgd"], method, changes)
    by_name["automatic_wide"] = _automatic_wide(by_name["automatic"])

    @functools.cache
    def task(network: int) -> Task:
        of = lambda part: (kept[part][network], kept[f"{part}_labels"][network])
        train, (images, labels) = Examples(*of("train")), of("test")
        counts = np.bincount(train.labels, minlength=classes)
        return Task(
            train,
            Examples(images[::2], labels[::2]),
            Examples(images[1::2], labels[1::2]),
            np.zeros(len(train.labels), bool),
            counts // PASSES,  # of images
        )

    def begin(
        jobs: Sequence[Job], together: vmapped.VmappedRuns
    ) -> list[dict[str, Any]]:
        networks = [job.network for job in jobs]
        identity = np.broadcast_to(np.eye(width), (len(networks), width, width))
        layers = {
            ("blocks", 0, "kernel"): identity,
            ("blocks", 0, "bias"): np.zeros((len(networks), width)),
            ("head", "kernel"): kept["kernel"][networks],
            ("head", "bias"): kept["bias"][networks],
        }
        together.state = with_values(together.state, layers)
        if jobs[0].setting.method != "sgd":
            return [{} for _ in jobs]
        epochs = int(kept["epochs"][0])
        before = [round(one["test"]["accuracy"], 5) for one in together.evaluate()]
        return [{"before": one, "epochs_before": epochs} for one in before]

    return Study(
        name,
        plain,
        tuple(rate / run.optimizer.learning_rate for rate in RATES),
        by_name,
        lambda job: task(job.network),
        lambda job, event, log_odds: _accuracies(event, OF_LAST_LAYER),
        networks,
        begin,
        CHOOSING,
    )


def with_values(state: Any, values: Mapping[tuple[Any, ...], np.ndarray]) -> Any:
    """A training state with some parameters replaced, by their paths."""

    def part(found: Any) -> Any:
        flat = [
            (path, leaf.replace(np.float32(values[path])) if path in values else leaf)
            for path, leaf in nnx.to_flat_state(found)
        ]
        return nnx.from_flat_state(flat)

    return state._replace(params=part(state.params), frozen=part(state.frozen))


def study(name: str, data_dir: pathlib.Path) -> Study:
    """The study of a data set; a BadConfiguration if there is none of that name."""
    if report.is_last_layer(name):
        return last_layer(name, data_dir)
    if name in hidden_groups.TASKS:
        return groups(name, data_dir)
    if report.is_grouped(name) or name.startswith("digits"):
        raise configs.BadConfiguration(
            f"--data must be the name of a .csv or .npz file, or one of "
            f"{', '.join(hidden_groups.TASKS)}, got {name}."
        )
    return tables(name, data_dir)


def pending(
    records: Sequence[Mapping[str, Any]], study: Study, method: str, seeds: int
) -> list[Job]:
    """The trainings of a method that are missing: first those that choose."""
    known = {tuple(r[name] for name in RUN) for r in records}
    choosing = min(seeds, study.choosing or seeds)

    def missing(settings: Iterable[Setting], seeds: int) -> list[Job]:
        return [
            Job(s, network, seed)
            for s in settings
            for network in range(study.networks)
            for seed in range(seeds)
            if (study.name, method, s.value, s.rate, network, seed) not in known
        ]

    jobs = missing(study.settings(method), choosing)
    best = None if jobs else report.best(records, study.name, method)
    settings = [s for s in study.settings(method) if (s.value, s.rate) == best]
    return jobs or missing(settings, seeds)


def train(study: Study, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Trains jobs of one method and compiled program, all at once; a record of each."""
    runs = [dataclasses.replace(job.setting.run, seed=job.seed) for job in jobs]
    tasks = [study.task(job) for job in jobs]
    together = vmapped.VmappedRuns(runs, tasks, sharding.layout(1), most=50)
    before = study.begin(jobs, together)
    events, failures = grid.fit_vmapped(together)
    counts, lines = functools.cache(together.counts), []
    for index, (job, failed) in enumerate(zip(jobs, failures, strict=True)):
        which_run = (study.name, *job.setting[:3], job.network, job.seed)
        line: dict[str, Any] = dict(zip(RUN, which_run, strict=True))
        if failed:
            line |= {"validation": None, "test": None}
        else:
            odds = lambda split, index=index: _log_odds(counts(split), index)
            line |= study.measure(job, events[index][-1], odds)
        lines.append(line | before[index])
    return lines


def losses_after(log_odds: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What the losses of plain training say beforehand.

    From the log-odds of class 1 of the training examples, then of padding: `wrong`, the
    share of the losses above log 2; and `effective`, the effective fraction of the
    weights of each λ.
    """
    odds = log_odds[: len(labels)].astype(np.float64)
    losses = np.logaddexp(0.0, np.where(labels == 1, -odds, odds))
    wrong = losses > np.log(2.0)
    effective = {f"{lam:g}": round(effective_fraction(losses, lam), 4) for lam in LAMS}
    return {"wrong": round(float(wrong.mean()), 5), "effective": effective}


def _log_odds(counts: metrics.Counts, run: int) -> np.ndarray:
    """Of class 1, of the examples in order and then of padding, for one of the runs."""
    return np.concatenate([batch[run] for batch in counts.log_odds])


def _accuracies(
    event: aggregate.Event, names: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Metrics of both splits; "tail" is the mean recall of the rarest classes."""

    def of(summary: Mapping[str, Any]) -> dict[str, float]:
        rarest = round(TAIL * len(summary["recall"]))
        known = {**summary, "tail": np.mean(summary["recall"][-rarest:])}
        return {name: round(float(known[name]), 5) for name in names}

    return {split: of(event[split]) for split in ("validation", "test")}


def main(config: commands.EqualGrids) -> int:
    """Trains the runs that are not recorded; returns 0."""
    with run_dir.lock(config.out.parent, config.out.name):
        for name in config.data or TABLES:
            one = study(name, config.data_dir)
            for method in one.methods:
                recorded = lambda: run_log.events(config.out, *RUN)[0]
                while jobs := pending(recorded(), one, method, config.seeds):
                    began, count = time.monotonic(), len(jobs)
                    groups: dict[Any, list[Job]] = {}
                    for job in jobs:
                        program = fields.compiled(job.setting.run)
                        groups.setdefault(program, []).append(job)
                    for group in groups.values():
                        run_log.append(config.out, train(one, group))
                    seconds = f"{time.monotonic() - began:.0f} s"
                    print(f"{name}, {method}: {count} runs, {seconds}", flush=True)
    return 0
