"""The Haiku recipe."""

import chex
import jax
import numpy as np
import optax

from tests.recipes import checks, program

NAME = "haiku_transform"
KEY = jax.random.key(3)  # of the dropout, the same at every step


def start(module):
    images, _ = checks.digits()[0]
    params, state = module.network.init(jax.random.key(1), images, is_training=True)
    return params, state, module.tx.init(params)


def step_of(module):
    def step(carry, images, labels):
        return module.train_step(*carry, KEY, images, labels)[:3]

    return step


def train(module):
    carry = start(module)
    for batch in checks.digits():
        carry = step_of(module)(carry, *batch)
    return carry[:2]


def test_updates_are_those_of_algorithm_1():
    module = program.load(NAME, lam=checks.LAM)

    def losses_of(params, carry, images, labels):
        """Those of the whole batch, which BatchNorm and dropout see together."""
        logits, _ = module.network.apply(
            params, carry[1], KEY, images, is_training=True
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    checks.follows_algorithm_1(
        step_of(module), losses_of, lambda carry: carry[0], start(module),
        checks.digits(), x64=False, rtol=2e-5,
    )  # fmt: skip


def test_the_state_of_the_network_is_that_of_the_batch():
    module = program.load(NAME, lam=checks.LAM)
    images, labels = checks.digits()[0]
    params, state, opt_state = start(module)
    _, expected = module.network.apply(params, state, KEY, images, is_training=True)
    _, state, _, loss = module.train_step(params, state, opt_state, KEY, images, labels)
    chex.assert_trees_all_close(state, expected, rtol=1e-5)
    losses, _ = program.load(NAME).loss_fn(
        params, start(module)[1], KEY, images, labels
    )
    np.testing.assert_allclose(loss.mean_loss, losses.mean(), rtol=1e-6)


def test_with_infinite_lam_it_is_the_ordinary_program():
    checks.is_the_ordinary_program(NAME, train)
