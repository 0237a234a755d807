"""Every route has a program for GPUs and TPUs, made on whatever machine this is."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import absgd_jax
from tests import problems
from tests.accelerators import exported
from tests.problems import BATCH, per_example_losses

x, labels, v = problems.as_dtype(tuple(a[0] for a in problems.batches(1)), jnp.float32)
params = problems.as_dtype(problems.initial_params(), jnp.float32)
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
    ("make", "route"),
    [
        (absgd_jax.attentional_aggregate, "pullback"),
        (absgd_jax.attentional_aggregate, "dense"),
        (absgd, "pullback"),
        (abadam, "dense"),
    ],
    ids=["pullback", "dense", "absgd", "abadam"],
)
def test_steps_by_losses_are_exported(make, route, settings):
    tx = make(**settings)
    step = functools.partial(problems.route_step, route, tx, **padded)
    exported(step, params, tx.init(params), x, labels)


@every_setting
@pytest.mark.parametrize(
    ("make", "how"),
    [
        (absgd_jax.scale_by_attention, {}),
        (absgd_jax.scale_by_attention, {"microbatch_size": 5}),
        (absgd_jax.scale_by_attention, {"dense": True, "microbatch_size": 5}),
        (absgd, {"dense": True}),
    ],
    ids=["whole", "microbatches", "dense_microbatches", "absgd"],
)
def test_steps_by_value_are_exported(make, how, settings):
    """Of microbatches of five examples, the last has one."""
    tx = make(**settings)

    def step(params, state, x, labels):
        value, grads = absgd_jax.tilted_value_and_grad(
            per_example_losses, state, **how
        )(params, x, labels, **padded)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    exported(step, params, tx.init(params), x, labels)


@pytest.mark.parametrize("lam", [0.5, -jnp.inf])
def test_the_tilted_loss_and_its_gradient_are_exported(lam):
    losses = per_example_losses(params, x, labels)
    exported(jax.value_and_grad(absgd_jax.tilted_loss), losses, lam, **padded)
