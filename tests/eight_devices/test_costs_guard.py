"""The collectives of the trainer's step on eight devices, beyond an SGD by hand's."""

import collections

import jax

from benchmarks import trainer_step

SMALL = {"model.blocks": (1,), "model.widths": (16,)}


def _build(**described):
    return trainer_step.build(batch=32, changes=SMALL, devices=8, **described).facts


def test_attention_adds_two_collectives_and_the_metrics_three():
    assert len(jax.devices()) == 8
    sgd, absgd = _build(form="masked"), _build(method="absgd")
    more = collections.Counter(absgd["collectives"])
    more -= collections.Counter(sgd["collectives"])
    assert more["all-reduce maximum f32[2]"] == 1
    assert more["all-reduce add f32[5]"] == 1
    assert len(absgd["collectives"]) - len(sgd["collectives"]) <= 2 + 3
    assert absgd["flops"] <= 1.001 * sgd["flops"]
    assert absgd["temporary_bytes"] <= 1.01 * sgd["temporary_bytes"]

    # λ = ∞ has them too: it is the same program.
    plain = _build(method="sgd")
    assert sorted(plain["collectives"]) == sorted(absgd["collectives"])
