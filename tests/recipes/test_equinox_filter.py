"""The Equinox recipe."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

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
    model, opt_state = start(module)
    for batch in checks.digits():
        model, opt_state, _ = module.train_step(model, opt_state, *batch)
    return eqx.filter(model, eqx.is_inexact_array)


def test_updates_are_those_of_algorithm_1():
    module = program.load(NAME, lam=checks.LAM)
    step = lambda carry, *batch: module.train_step(*carry, *batch)[:2]
    batches = checks.digits()
    carry = start(module)
    model, _ = checks.follows_algorithm_1(step, losses_of, params_of, carry, batches)
    assert model.pixels.dtype == jnp.int32


def test_with_infinite_lam_it_is_the_ordinary_program():
    checks.is_the_ordinary_program(NAME, train)


def test_it_runs(capsys):
    checks.runs(NAME, capsys)
