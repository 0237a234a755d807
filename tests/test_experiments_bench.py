"""The bench end to end at tiny sizes; what it says of time is not looked at."""

import collections
import contextlib
import json
import os
import re
import sys

import jax
import pytest
from flax import nnx

from benchmarks import (
    command,
    flax_resnet,
    interleave,
    mlp,
    step_cost,
    summary,
    trainer_step,
    worker,
)  # fmt: skip
from benchmarks import figures as suite_figures
from benchmarks.interleave import Child
from benchmarks.suites import overhead, peers
from benchmarks.summary import Group, Measured
from experiments import cli as command_line
from experiments import commands, configs
from experiments.data.task import Task
from experiments.studies import method_grid
from experiments.train import loop, sharding, steps
from experiments.train.session import Session
from tests import training_problem as problem

ROUNDS = 3
PARAMETERS = 464_154  # of ResNet-32
TINY = {"batch": 4, "blocks": (1, 1), "widths": (4, 8)}


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """What the suite of overheads has written, of two variants of each network."""
    out = tmp_path_factory.mktemp("bench")
    routes = {name: overhead.ROUTES[name] for name in ("sgd", "pullback")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overhead, "ROUTES", routes)
        command = ["bench", "overhead", "--quick", "--out", str(out)]
        assert command_line.main(command) == 0
    return json.loads((out / "overhead.json").read_text())


def test_variants_take_equal_turns_and_the_record_says_where(record):
    assert record["suite"] == "overhead"
    assert record["devices"] == ["cpu"]
    assert record["versions"]["jax"] == jax.__version__
    assert record["machine"]["cores"] == os.cpu_count()
    assert record["messages"] == [group["name"] for group in record["groups"]]
    table = "\n".join(record["table"])
    for group in record["groups"]:
        assert {len(one["samples"]) for one in group["variants"].values()} == {ROUNDS}
        # A sample is the mean of as many steps for all of them.
        assert len({one["steps"] for one in group["variants"].values()}) == 1
        assert all(f"| {name} " in table for name in group["variants"])


def test_curves_go_through_the_ratios(record, figures, tmp_path):
    suite_figures.draw(record["groups"], tmp_path / "curves.png")
    mlps = [g["variants"] for g in record["groups"] if "parameters" in g["facts"]]
    baseline, name = mlps[0]
    for ratio_of, panel in zip(
        (
            lambda one: one["time"][baseline]["median"],
            lambda one: one["flops_ratio"],
            lambda one: one["temporary_bytes_ratio"],
        ),
        figures["curves.png"].axes,
        strict=True,
    ):
        (curve,) = panel.containers  # of the one number of parameters
        drawn = curve.lines[0].get_ydata()
        assert list(drawn) == [ratio_of(variants[name]) for variants in mlps]


def test_dense_gradients_take_memory_that_microbatches_bound():
    memory = {
        (route, micro): mlp.build(route, 1_000, 16, micro).facts["temporary_bytes"]
        for route, micro in (
            ("pullback", None), ("dense", None), ("dense", 4), ("tilted", 4)
        )
    }  # fmt: skip
    assert memory["dense", None] > 4.0 * memory["pullback", None]
    for route in ("dense", "tilted"):
        assert memory[route, 4] < memory["dense", None] / 3.0


# The steps that are measured.


@pytest.mark.parametrize("method", method_grid.every(problem.NORMALIZED))
def test_a_step_is_compiled_for_the_state_that_a_training_begins_with(method):
    grid = method_grid.every(problem.NORMALIZED)[method]
    run = grid.runs(method_grid.plain(problem.NORMALIZED))[0]
    layout = sharding.layout(1)
    state = steps.program(run, layout).init(steps.init_network(run, 0), 0, 7)
    like = steps.abstract_state(run, layout, 7)
    assert jax.tree.structure(like) == jax.tree.structure(state)
    for shape, array in zip(jax.tree.leaves(like), jax.tree.leaves(state), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        assert shape.sharding == array.sharding


@pytest.fixture(scope="module")
def one():
    """The step of one update."""
    return worker.build(**peers.ours(**TINY)["absgd"])


def test_many_updates_in_a_dispatch_run_and_cost_as_many_operations_each(
    one, monkeypatch
):
    """In bfloat16, too."""
    monkeypatch.setattr(step_cost, "updates_per_dispatch", lambda: 3)  # in a loop
    ready = worker.build(**peers.ours(**TINY)["absgd_device_loop_bfloat16"])
    assert ready.facts["updates_per_dispatch"] == 3
    assert ready.facts["examples"] == 4
    assert ready.facts["parameters"] == one.facts["parameters"] == 1406
    assert ready.facts["flops"] == pytest.approx(one.facts["flops"], rel=0.05)
    ready.start()(4)


def test_a_run_compiles_its_step_once():
    """Whatever changes on the way: η, λ, s_0, class weights."""
    run = configs.replace(
        problem.NORMALIZED,
        {
            "data.meta_per_class": 0,
            "loss.class_weights": True,
            "loss.class_weights_from": 0.5,
            "optimizer.warmup": 0.25,
            "model.widths": (4, 9),  # which no other test has compiled
        },
    )
    everything = trainer_step.random_task(configs.replace(run, {"batch_size": 12}))
    task = Task(everything.train, None, *everything[2:])  # three batches of 16
    layout, session = sharding.layout(1), Session()
    compiled = collections.Counter()

    def listen(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled[about["fun_name"]] += 1

    hyperparams = set()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        callbacks = loop.Callbacks(
            lambda **event: hyperparams.add(
                (event["learning_rate"].item(), event["lam"])
            )
        )
        start = loop.begin(run, task, layout)
        loop.fit(run, task, layout, session, start, callbacks)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(hyperparams) >= 3
    assert compiled["jit(train_step)"] == 1
    assert compiled["jit(eval_step)"] == 1


def test_a_dispatch_of_many_counts_in_proportion(monkeypatch):
    times = iter([0.0, 6.0])
    monkeypatch.setattr(step_cost.time, "perf_counter", lambda: next(times))
    dispatched = []
    took = step_cost.timed(lambda state: dispatched.append(state), 0, updates=4)(6)
    assert (len(dispatched), took) == (2, 6.0 * 6 / 8)


# What is done with samples.


def test_ratios_are_taken_round_by_round():
    group = Group(
        "one",
        {},
        {
            "a": Measured({"flops": 2.0, "examples": 8}, [1.0, 10.0, 2.0], 5),
            "b": Measured({"flops": 3.0, "examples": 8}, [2.0, 20.0, 6.0], 5),
            "c": Measured({"examples": 8}, [4.0], 5),
            "d": Measured({"flops": 2.0}, [], 0),
        },
        ("a", "b"),
    )
    found = summary.summarise(group)["variants"]
    assert found["b"]["time"]["a"] == {"median": 2.0, "low": 2.0, "high": 2.5}
    assert found["b"]["flops_ratio"] == 1.5
    assert found["a"]["examples_per_second"] == 4.0
    assert found["c"]["time"]["a"]["median"] == 2.0  # to the median of the others
    assert "time" not in found["d"]
    head, _, *rows = summary.table([summary.summarise(group)]).splitlines()
    assert "time / b" in head
    assert "temporary" not in head  # of which nothing is known
    assert len(rows) == 4


def test_bars_leave_out_what_was_not_run(figures, tmp_path):
    ran = Measured({}, [1.0, 1.1, 1.2], 1)
    groups = [
        Group("ran", {}, {"a": ran, "b": Measured({}, [], 0)}, ("a",)),
        Group("missing", {}, {}, ("a",), "There are no data."),
    ]
    path = tmp_path / "input.png"
    suite_figures.draw([summary.summarise(group) for group in groups], path)
    (panel,) = figures[path.name].axes
    (bar,) = panel.patches
    assert bar.get_width() == 1.0
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a"]


def test_flax_as_one_would_write_it_has_the_same_size():
    model = nnx.eval_shape(lambda: flax_resnet.ResNet(rngs=nnx.Rngs(0)))
    assert step_cost.parameters(nnx.state(model, nnx.Param)) == PARAMETERS


def test_layers_have_about_the_parameters_asked_for():
    for parameters in (10_000, 1_000_000, 100_000_000):
        made = sum(a * b + b for a, b in mlp.shapes(parameters))
        assert made == pytest.approx(parameters, rel=0.02)


# Children, here of a few lines.

CHILD = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request.get("run") == 13:
        sys.exit("thirteen is too many")
    print(json.dumps({"seconds": 0.5 * request.get("run", 0)}), flush=True)
"""


def _child(name="one", command=(sys.executable, "-c", CHILD)):
    return contextlib.closing(Child(name, command))


def test_children_are_asked_in_turn():
    with _child("one") as one, _child("other") as other:
        runs = {"one": one.run, "other": other.run}
        found, count = interleave.measure(runs, rounds=4, sample_seconds=2.0)
    assert count == {"one": 4, "other": 4}
    assert found == {"one": [0.5] * 4, "other": [0.5] * 4}


def test_a_child_that_dies_is_named_and_quoted(monkeypatch, capsys, tmp_path):
    with _child() as child, pytest.raises(interleave.Died) as caught:
        child.ask({"run": 13})
    assert "one ended with status 1" in str(caught.value)
    assert "thirteen is too many" in str(caught.value)

    # By the command too, which ends with 1.
    monkeypatch.setattr(interleave, "WORKER", (sys.executable, "-c", "assert 1 == 2"))
    assert command_line.main(["bench", "dense", "--quick", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert re.search("dense: .* ended with status 1", said)
    assert "AssertionError" in said


def test_a_child_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(interleave, "TIMEOUT", 0.1)
    silent = (sys.executable, "-c", "import time; time.sleep(60)")
    given_up = pytest.raises(interleave.Died, match=r"not answered for 0\.1 seconds")
    with _child("silent", silent) as child, given_up:
        child.ask({})


def test_a_suite_that_dies_keeps_what_it_measured(tmp_path, monkeypatch, capsys):
    def measure(runner):
        yield Group("first", {}, {"one": Measured({}, [2.0], 1)}, ("one",))
        raise interleave.Died("the second ended with status 1")

    monkeypatch.setitem(command.SUITES, "sweep", measure)
    assert command.main(commands.Bench(("sweep",), tmp_path)) == 1
    (group,) = json.loads((tmp_path / "sweep.json").read_text())["groups"]
    assert group["variants"]["one"]["samples"] == [2.0]
    assert "sweep: the second ended" in capsys.readouterr().err
