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
SETTINGS = {
    "fixed": {"lam": 0.5},
    "schedule": {"lam": absgd_jax.two_stage(-0.5, 3), "init_s": 0.0},
    "bounded": {"lam": 0.5, "max_weight": 3.0},
    "radius": {"lam": absgd_jax.kl_radius(0.2)},
}
STEPS = {
    "pullback": (absgd_jax.attentional_aggregate, "pullback", {}),
    "dense": (absgd_jax.attentional_aggregate, "dense", {}),
    "whole": (absgd_jax.scale_by_attention, "tilted", {}),
    # Of microbatches of five examples, the last has one.
    "microbatches": (absgd_jax.scale_by_attention, "tilted", {"micro": 5}),
    "dense_microbatches": (
        absgd_jax.scale_by_attention, "tilted", {"micro": 5, "dense": True}
    ),
    "absgd": (absgd, "pullback", {}),
    "absgd_dense": (absgd, "tilted", {"dense": True}),
    "abadam": (abadam, "dense", {}),
}  # fmt: skip


def test_an_operation_that_a_tpu_lacks_is_found():
    with pytest.raises(NotImplementedError, match="tpu"):
        exported(jnp.linalg.eigvals, jnp.eye(3))


@pytest.mark.parametrize("settings", SETTINGS)
def test_weights_are_exported(settings):
    attention = absgd_jax.attention(**SETTINGS[settings])
    losses = per_example_losses(params, x, labels)
    exported(attention.weigh, losses, attention.init(), **padded)


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        *((step, "radius") for step in STEPS),  # which has most to export
        *(
            (step, settings)
            for step in ("pullback", "microbatches")
            for settings in SETTINGS
            if settings != "radius"
        ),
    ],
)
def test_steps_are_exported(step, settings):
    make, route, how = STEPS[step]
    tx = make(**SETTINGS[settings])
    step = functools.partial(problems.route_step, route, tx, **padded, **how)
    exported(step, params, tx.init(params), x, labels)


@pytest.mark.parametrize("lam", [0.5, -jnp.inf])
def test_the_tilted_loss_and_its_gradient_are_exported(lam):
    losses = per_example_losses(params, x, labels)
    exported(jax.value_and_grad(absgd_jax.tilted_loss), losses, lam, **padded)
