"""Vmapped runs in one program: each trains as it would by itself; and the command."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from benchmarks.suites import sweep as sweep_benchmark
from experiments import configs, methods
from experiments.cli import main
from experiments.data import loader
from experiments.data.task import load_task
from experiments.report import command
from experiments.results import aggregate, run_dir, run_log
from experiments.studies import grid, sweep
from experiments.train import device_loop, loop, steps, vmapped
from experiments.train.losses import class_weights
from experiments.train.session import Session
from tests import training_problem as problem
from tests.digits_problem import LAYOUT, PRESET, RUN, TINY
from tests.outcomes import cells, scored

RUNS = [
    configs.replace(RUN, {"seed": seed, "method.lam": lam, "method.gamma": gamma})
    for seed, lam, gamma in (
        (0, -1.0, 0.5),
        (1, -1.0, 0.5),
        (1, math.inf, 0.5),
        (0, 2.0, 0.1),
    )
]


@pytest.fixture(scope="module")
def tasks():
    return [load_task(RUN.data, seed) for seed in range(2)]


def _vmapped(runs, tasks, most):
    of_runs = [tasks[run.seed] for run in runs]
    together = vmapped.VmappedRuns(runs, of_runs, LAYOUT, most)
    events, failures = grid.fit_vmapped(together)
    return run_log.to_jsonable(events), failures


@pytest.fixture(scope="module")
def alone(tasks):
    session, events = Session(), [[] for _ in RUNS]
    for run, own in zip(RUNS, events, strict=True):
        callbacks = loop.Callbacks(lambda own=own, **event: own.append(event))
        start = loop.begin(run, tasks[run.seed], LAYOUT)
        loop.fit(run, tasks[run.seed], LAYOUT, session, start, callbacks)
    return run_log.to_jsonable(events)


def test_each_trains_as_it_would_alone(tasks, alone):
    together, failures = _vmapped(RUNS, tasks, 4)
    assert failures == [None] * 4
    for ours, theirs in zip(together, alone, strict=True):
        assert len(ours) == len(theirs) == 3
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.keys() == other.keys()
            assert (mine["step"], mine["lam"]) == (other["step"], other["lam"])
            for name in ("loss", "tilted_loss", "weight_by_class", "largest_weight"):
                np.testing.assert_allclose(mine[name], other[name], rtol=1e-4)
            for split in ("validation", "test"):
                np.testing.assert_allclose(
                    mine[split]["loss"], other[split]["loss"], rtol=1e-3
                )
                assert mine[split]["examples"] == other[split]["examples"]
                assert abs(mine[split]["accuracy"] - other[split]["accuracy"]) < 0.01
    # They are not one run four times.
    assert len({events[-1]["loss"] for events in together}) == 4


def test_the_step_maps_over_runs_of_a_residual_network_too():
    """Convolutions, BatchNorm's gradient and statistics, keys of moves and dropout."""
    run = problem.DRAWN
    update = steps.updates_of(run)
    step = jax.jit(update)
    many = jax.jit(jax.vmap(update, in_axes=(0, 0, None, None)))
    program = steps.program(run, LAYOUT)
    given, hyperparams = problem.given(LAYOUT), methods.step_hyperparams(run, 2, 3)
    begun, batches, alone = [], [], []
    for seed in range(2):
        network = steps.init_network(run, seed)
        begun.append(jax.device_get(program.init(network, seed, problem.EXAMPLES)))
        batches.append(problem.batch(seed, 10))
        alone.append(step(begun[-1], batches[-1], given, hyperparams))
    stack = lambda *trees: jax.tree.map(lambda *x: np.stack(x), *trees)
    together = many(stack(*begun), stack(*batches), given, hyperparams)
    problem.same(together, stack(*jax.device_get(alone)))


def test_inputs_lie_on_the_device_once(tasks):
    together = vmapped.VmappedRuns(RUNS, [tasks[r.seed] for r in RUNS], LAYOUT)
    splits = together._splits
    everything = np.concatenate(
        [getattr(task, name).inputs for task in tasks for name in splits]
    )
    stored = splits["train"].inputs
    assert len(stored) == len(np.unique(everything, axis=0)) < len(everything)
    for place, run in enumerate(RUNS):
        for name, examples in splits.items():
            there = getattr(tasks[run.seed], name)
            assert examples.inputs is stored
            found = np.asarray(stored)[np.asarray(examples.rows[place])]
            np.testing.assert_array_equal(found, there.inputs)
            np.testing.assert_array_equal(examples.labels[place], there.labels)


@pytest.mark.parametrize(
    ("field", "values"),
    [("data.sampling", ("shuffled", "balanced", "class_aware")), ("seed", (0, 1))],
)
def test_runs_of_one_task_have_the_orders_of_their_samplers_and_seeds(
    tasks, field, values
):
    runs = [configs.replace(RUN, {field: value}) for value in (*values, values[0])]
    together = vmapped.VmappedRuns(runs, len(runs) * tasks[:1], LAYOUT)
    together.begin_epoch(0)
    index, _ = together._indices
    for place, run in enumerate(runs):
        expected, _ = device_loop.epoch_indices(run, tasks[0].train.labels, 0)
        np.testing.assert_array_equal(index[:, place], expected)


def test_class_weights_are_those_of_the_epoch_and_of_the_task(tasks):
    loss = configs.Loss(class_weights=True, class_weights_from=0.5)
    runs = [configs.replace(RUN, {"seed": n, "loss": loss}) for n in range(2)]
    together = vmapped.VmappedRuns(runs, tasks, LAYOUT)
    for epoch in range(RUN.epochs):
        together.begin_epoch(epoch)
        for place, (run, task) in enumerate(zip(runs, tasks, strict=True)):
            expected = class_weights(run, task.class_counts, epoch)
            found = jax.tree.map(lambda x, place=place: x[place], together._stats)
            np.testing.assert_array_equal(found.class_weights, expected)
            np.testing.assert_array_equal(found.class_counts, task.class_counts)
            np.testing.assert_array_equal(found.mislabelled, task.mislabelled)


def test_an_example_that_is_drawn_twice_is_named_once():
    empty = dict.fromkeys(steps.StepMetrics._fields)
    step_metrics = steps.StepMetrics(**empty | {"not_finite": np.array([5, 2, 5, -1])})
    said = loop._log_step(RUN, None, 3, step_metrics, {}, loop.Callbacks(print))
    assert "training examples 2, 5 (" in said


def test_one_that_is_not_finite_ends_and_the_others_go_on(tasks, alone):
    labels = tasks[0].train.labels.copy()
    labels[int(loader.order(0, 1, len(labels))[40])] = 10  # which has no loss
    bad = [tasks[0]._replace(train=tasks[0].train._replace(labels=labels)), tasks[1]]
    events, failures = _vmapped(RUNS, bad, 4)
    # In whichever batch of the first epoch it comes.
    assert [failure is None for failure in failures] == [False, True, True, False]
    assert "A loss is not finite at step " in failures[0]
    assert "(ABSGD, λ = 2, seed 0)" in failures[3]
    assert [len(own) for own in events] == [0, 3, 3, 0]
    assert events[1][-1]["loss"] == pytest.approx(alone[1][-1]["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start_from": "runs/first"}, "random parameters, got runs/first"),
        ({"loss.name": "truncated", "loss.prune_from": 0.5}, "_from to 1, got 0.5"),
        ({"data.augment_on": "host"}, "--data.augment-on device"),
    ],
)
def test_what_cannot_be_vmapped_is_refused(changes, said, tasks):
    run = configs.replace(RUN, changes)
    with pytest.raises(configs.BadConfiguration, match=said):
        vmapped.require([run], tasks[:1])


def test_other_sizes_and_shapes_are_refused(tasks):
    fewer = tasks[1]._replace(train=tasks[1].train.take(np.arange(150)))
    with pytest.raises(configs.BadConfiguration, match=r"train sets .* got 150, 200"):
        vmapped.require([RUN, RUN], [tasks[0], fewer])
    other = configs.replace(RUN, {"epochs": 4})
    with pytest.raises(configs.BadConfiguration, match="differ only in seed"):
        vmapped.require([RUN, other], tasks)


def _sweep(out, *arguments):
    return main(["sweep", PRESET, "--out", str(out), *TINY, *arguments])


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("swept") / "sweep"
    assert _sweep(out, "--lams=-1,inf", "--gammas", "0.5", "--seeds", "2") == 0
    return out


def test_a_sweep_leaves_a_run_for_every_member(swept):
    outs = sorted((swept / grid.TRAININGS).iterdir())
    kept = [run_dir.load(out) for out in outs]
    assert {(one.run.seed, one.run.method.lam) for one in kept} == {
        (seed, lam) for seed in range(2) for lam in (-1.0, math.inf)
    }
    for out, one in zip(outs, kept, strict=True):
        events = run_log.events(out / run_dir.RECORDS)[0]
        assert [event["event"] for event in events] == [*3 * ["epoch"], "finished"]
        assert events[-1]["step"] == events[-2]["step"] == 21
        assert events[-2]["lam"] == run_log.to_jsonable(one.run.method.lam)
        assert sum(one.class_counts) == 200
    groups = aggregate.grouped(map(aggregate.read, outs))
    assert [len(group.results) for group in groups] == [2, 2]
    assert all(one.finished for group in groups for one in group.results)
    text = command.text(groups, [])
    assert all(group.title in text for group in groups)


def test_the_table_shows_the_test_of_the_best_alone(swept):
    found = json.loads((swept / sweep.RESULTS).read_text())
    means = [np.mean([*one["validation"].values()]) for one in found["settings"]]
    best = found["settings"][int(np.argmax(means))]
    assert found["best"]["lam"] == best["lam"]
    assert found["best"]["test"].keys() == {"0", "1"}
    assert all("test" not in one for one in found["settings"])
    rows = (swept / grid.TABLE).read_text().splitlines()[2:4]
    marked = ["**" in row for row in rows]
    assert sorted(marked) == [False, True]
    assert [cells(row)[3] != "–" for row in rows] == marked


def test_a_finished_sweep_is_reported_again_and_another_refused(swept, capsys):
    before = (swept / grid.TABLE).read_text()
    records = [path.stat().st_mtime_ns for path in swept.rglob("*.jsonl")]
    again = ("--lams=-1,inf", "--gammas", "0.5", "--seeds", "2")
    assert _sweep(swept, *again, "--vmapped", "1") == 0
    assert before in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in swept.rglob("*.jsonl")] == records
    assert _sweep(swept, *again, "--batch-size", "16") == 2
    assert "another configuration:\n  run.batch_size: " in capsys.readouterr().err


def test_what_is_missing_is_trained_in_groups(tmp_path, monkeypatch):
    """Three vmapped at most: of five runs three, then two with one twice."""
    seen = []

    def fit_all(together, callbacks):
        seen.append([(run.seed, run.method.lam) for run in together.runs])
        if len(seen) == 3:
            raise KeyboardInterrupt
        known = {"epoch": 1, "validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
        for callback in callbacks:
            callback.write(event="epoch", **known)
        return [None, *(len(together.runs) - 1) * ["A loss is not finite."]]

    monkeypatch.setattr(loop, "fit_all", fit_all)
    arguments = ("--lams", "1,2,3,4,5", "--seeds", "1", "--vmapped", "3")
    assert _sweep(tmp_path, *arguments) == 0
    assert seen == [[(0, 1), (0, 2), (0, 3)], [(0, 4), (0, 5), (0, 5)]]
    rows = (tmp_path / grid.TABLE).read_text().splitlines()
    (chosen,) = (row for row in rows if "**" in row)
    assert chosen.startswith("| 1 ")
    for path in (tmp_path / grid.TRAININGS).glob("*lam4*/*"):
        path.unlink()
    assert _sweep(tmp_path, *arguments) == 130
    assert seen[2:] == [[(0, 4)]]


def test_what_a_sweep_does_not_read_is_refused(tmp_path, shell):
    words = ("--checkpoints", "5", "--checkpoint-seconds", "1", "--out", tmp_path)
    said = "--checkpoint-seconds, --checkpoints would change nothing: `train` reads"
    shell.refused(2, said, "sweep", "digits_long_tail", *words)


def test_a_training_that_is_not_finished_is_no_outcome():
    begun = aggregate.Result(None, None, RUN, np.array([]), [{"epoch": 1}])
    outcomes = [
        grid.outcomes([grid.Trial("a", RUN, None, result)])["a"]
        for result in (begun, dataclasses.replace(begun, finished=True))
    ]
    assert [outcome.ended for outcome in outcomes] == [set(), {RUN.seed}]


def test_a_diverged_setting_is_not_chosen():
    ok = {(1.0, 0.5): scored([0.4, 0.6], [0.1, 0.3])}
    bad = {(2.0, 0.5): scored([0.9], [0.9], diverged=[1])}
    text = sweep.table(bad | ok)
    assert "diverged (1 of 2)" in text
    assert "20.0 ± 14.1" in text
    assert "Every setting diverged." in sweep.table(bad)


def test_the_benchmark_of_vmapped_runs_runs():
    ready = sweep_benchmark.vmapped_runs(
        "digits_long_tail", members=2, changes={"model.widths": (4,)}
    )
    assert (ready.facts["members"], ready.facts["updates_per_dispatch"]) == (2, 1)
    ready.start()(4)
