"""The Equinox recipe."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import absgd_jax
from tests.recipes import checks, program

NAME = "equinox_filter"


def start(module):
    model = module.Classifier(jax.random.key(1))
    return model, module.tx.init(eqx.filter(model, eqx.is_inexact_array))


def params_of(carry):
    return eqx.filter(carry[0], eqx.is_inexact_array)


def losses_of(params, carry, images, labels):
    model = eqx.combine(params, carry[0])
    logits = jax.vmap(model)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def train(module):
    """The parameters; each program has a class of its own for the model."""
    model, opt_state = start(module)
    for batch in checks.digits():
        model, opt_state, _ = module.train_step(model, opt_state, *batch)
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def test_updates_are_those_of_algorithm_1():
    module = program.load(NAME, lam=checks.LAM)
    step = lambda carry, *batch: module.train_step(*carry, *batch)[:2]
    batches = checks.digits()
    carry = start(module)
    model, _ = checks.follows_algorithm_1(step, losses_of, params_of, carry, batches)
    assert model.pixels.dtype == jnp.int32


def test_jax_stops_at_functions_and_float0_is_refused():
    module = program.load(NAME, lam=checks.LAM)
    model, opt_state = start(module)
    batch = checks.digits()[0]
    with pytest.raises(TypeError, match="not a valid JAX type"):
        absgd_jax.tilted_value_and_grad(module.loss_fn, opt_state)(model, *batch)
    arrays, others = eqx.partition(model, eqx.is_array)
    losses, pullback = jax.vjp(
        lambda arrays: module.loss_fn(eqx.combine(arrays, others), *batch), arrays
    )
    with pytest.raises(TypeError, match=r"float0 at \.pixels"):
        module.tx.update(pullback, opt_state, arrays, losses=losses)


def test_the_pullback_of_equinox_gives_the_same_update():
    module = program.load(NAME, lam=checks.LAM)
    model, opt_state = start(module)
    batch = checks.digits()[0]
    losses, pullback = eqx.filter_vjp(
        lambda model: module.loss_fn(model, *batch), model
    )
    params = eqx.filter(model, eqx.is_inexact_array)
    updates, _ = module.tx.update(pullback, opt_state, params, losses=losses)
    got = eqx.filter(eqx.apply_updates(model, updates), eqx.is_inexact_array)
    expected, *_ = module.train_step(model, opt_state, *batch)
    expected = eqx.filter(expected, eqx.is_inexact_array)
    chex.assert_trees_all_close(got, expected, atol=1e-6)


def test_with_infinite_lam_it_is_the_ordinary_program():
    checks.is_the_ordinary_program(NAME, train)
