"""What ABSGD's step needs beyond SGD's, by the compiler's account of one device.

Figures that are the same on every run. Bottlenecks on eight devices, by the library
alone, are in `test_scaling.py`. Here are the trainer's own step, whose SGD is ABSGD at
λ = ∞, and which is therefore held against an SGD written by hand; and networks without
convolutions, where attention has least to hide behind.
"""

import collections
import functools

import jax
import pytest

from benchmarks import mlp, trainer_step
from experiments import configs
from experiments.data.task import Task
from experiments.train import loop, sharding
from experiments.train.session import Session
from tests import training_problem as problem

FLOPS, TEMPORARY = 1.001, 1.01  # of SGD's
SMALL = {"model.blocks": (1, 1), "model.widths": (16, 32)}


@functools.cache
def by_hand(form):
    return trainer_step.build(form, batch=32, changes=SMALL).facts


def ratio(quantity, ours, theirs):
    return ours[quantity] / theirs[quantity]


@pytest.mark.parametrize("route", ["pullback", "value"])
def test_the_trainers_step_costs_what_sgd_by_hand_does(route):
    changes = SMALL | {"method.route": route}
    absgd = trainer_step.build(method="absgd", batch=32, changes=changes).facts
    sgd = by_hand("masked")
    assert absgd["parameters"] == sgd["parameters"]
    assert ratio("flops", absgd, sgd) <= FLOPS
    assert ratio("temporary_bytes", absgd, sgd) <= TEMPORARY
    # The mask of padding is no part of ABSGD, and costs BatchNorm a little.
    assert ratio("flops", sgd, by_hand("plain")) <= 1.01
    assert ratio("temporary_bytes", sgd, by_hand("plain")) <= TEMPORARY


@pytest.mark.parametrize(
    ("route", "batch", "flops"),
    [
        ("pullback", 32, FLOPS),
        ("pullback", 1024, FLOPS),
        ("value", 1024, FLOPS),
        # It multiplies each gradient once, where an example takes six operations.
        ("value", 32, FLOPS + 1.0 / (6 * 32)),
    ],
)
def test_a_perceptrons_step_costs_what_sgds_does(route, batch, flops):
    found, sgd = (mlp.build(each, 100_000, batch).facts for each in (route, "sgd"))
    assert ratio("flops", found, sgd) <= flops
    # It also keeps all gradients until it knows by what: much where examples are few.
    few = route == "value" and batch == 32
    assert ratio("temporary_bytes", found, sgd) <= (1.1 if few else TEMPORARY)


@pytest.mark.parametrize("route", ["dense", "tilted"])
def test_microbatches_keep_temporary_memory_flat(route):
    small, large = (
        mlp.build(route, 20_000, batch, microbatch=32).facts["temporary_bytes"]
        for batch in (64, 1024)
    )
    # But for two copies of the batch itself, cut into microbatches.
    assert large - small <= 2 * (1024 - 64) * (4 * mlp.INPUTS + 4) + 1024


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
    task = Task(
        everything.train, None, everything.test, *everything[3:]
    )  # three batches of 16
    layout, session = sharding.layout(1), Session()
    compiled = collections.Counter()

    def listen(event, duration, **dataset_stats):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled[dataset_stats["fun_name"]] += 1

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
