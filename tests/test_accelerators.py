"""Every route has a program for GPUs and TPUs, made on whatever machine this is."""

import functools

import jax
import jax.numpy as jnp
import pytest

import absgd_jax
from tests import problems
from tests.accelerators import exported
from tests.problems import BATCH, per_example_losses

params, x, labels, v = problems.start()
padded = {"where": jnp.arange(BATCH) < 11, "sample_weights": v}
absgd, abadam = (
    functools.partial(make, 0.1) for make in (absgd_jax.absgd, absgd_jax.abadam)
)
every_setting = pytest.mark.parametrize(
    "settings",
    [
        {"lam": 0.5},
        {"lam": absgd_jax.two_stage(-0.5, 3), "init_s": 0.0},
        {"lam": 0.5, "max_weight": 3.0},
        {"lam": absgd_jax.kl_radius(0.2)},
    ],
    ids=["fixed", "schedule", "bounded", "radius"],
)


def test_an_operation_that_a_tpu_lacks_is_found():
    with pytest.raises(NotImplementedError, match="tpu"):
        exported(jnp.linalg.eigvals, jnp.eye(3))


@every_setting
def test_weights_are_exported(settings):
    attention = absgd_jax.attention(**settings)
    losses = per_example_losses(params, x, labels)
    exported(attention.weigh, losses, attention.init(), **padded)


@every_setting
@pytest.mark.parametrize(
    ("make", "route", "how"),
    [
        (absgd_jax.attentional_aggregate, "pullback", {}),
        (absgd_jax.attentional_aggregate, "dense", {}),
        (absgd_jax.scale_by_attention, "tilted", {}),
        # Of microbatches of five examples, the last has one.
        (absgd_jax.scale_by_attention, "tilted", {"micro": 5}),
        (absgd_jax.scale_by_attention, "tilted", {"micro": 5, "dense": True}),
        (absgd, "pullback", {}),
        (absgd, "tilted", {"dense": True}),
        (abadam, "dense", {}),
    ],
    ids=["pullback", "dense", "whole", "microbatches", "dense_microbatches", "absgd",
         "absgd_dense", "abadam"],
)  # fmt: skip
def test_steps_are_exported(make, route, how, settings):
    tx = make(**settings)
    step = functools.partial(problems.route_step, route, tx, **padded, **how)
    exported(step, params, tx.init(params), x, labels)


@pytest.mark.parametrize("lam", [0.5, -jnp.inf])
def test_the_tilted_loss_and_its_gradient_are_exported(lam):
    losses = per_example_losses(params, x, labels)
    exported(jax.value_and_grad(absgd_jax.tilted_loss), losses, lam, **padded)
