"""What ABSGD's step needs beyond SGD's, by the compiler's account of one device.

Figures that are the same on every run. Bottlenecks on eight devices, by the library
alone, are in `test_scaling.py`. Here are the trainer's own step, whose SGD is ABSGD at
λ = ∞, and which is therefore held against an SGD written by hand; and networks without
convolutions, where attention has least to hide behind.
"""

import functools

import pytest

from benchmarks import mlp, trainer_step

FLOPS, TEMPORARY = 1.001, 1.01  # of SGD's
SMALL = {"model.blocks": (1,), "model.widths": (16,)}


@functools.cache
def by_hand(form):
    return trainer_step.build(form, batch=32, changes=SMALL).facts


@functools.cache
def perceptron(route, batch):
    return mlp.build(route, 100_000, batch).facts


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
        ("value", 1024, FLOPS),
        # It multiplies each gradient once, where an example takes six operations.
        ("value", 32, FLOPS + 1.0 / (6 * 32)),
    ],
)
def test_a_perceptrons_step_costs_what_sgds_does(route, batch, flops):
    found, sgd = perceptron(route, batch), perceptron("sgd", batch)
    assert ratio("flops", found, sgd) <= flops
    # It also keeps all gradients until it knows by what: much where examples are few.
    few = route == "value" and batch == 32
    assert ratio("temporary_bytes", found, sgd) <= (1.1 if few else TEMPORARY)
