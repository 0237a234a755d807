"""The recipe of a penalty: it acts as without attention."""

import jax
import numpy as np
import optax

from tests.recipes import checks, program

NAME = "penalty"


def train(module):
    state = (module.attention.init(),) if hasattr(module, "attention") else ()
    params = module.init(jax.random.key(1))
    carry = params, module.tx.init(params), *state
    for batch in checks.digits():
        *carry, _ = module.train_step(*carry, *batch)
    return carry[0]


def example_losses(params, carry, images, labels):
    logits = images @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


class Penalized(checks.Sgd):
    """SGD whose gradient has that of the penalty too, and not weighted."""

    def __call__(self, direction, params):
        penalty = {"b": np.zeros(10), "w": 1e-3 * np.sign(params["w"])}
        return super().__call__(direction + checks.flat(penalty), params)


def test_updates_are_those_of_algorithm_1_and_of_the_penalty_as_it_was():
    module = program.load(NAME, lam=checks.LAM)
    state = module.attention.init()
    params = module.init(jax.random.key(1))
    checks.follows_algorithm_1(
        lambda carry, *batch: module.train_step(*carry, *batch)[:3],
        example_losses, lambda carry: carry[0],
        (params, module.tx.init(params), state), checks.digits(),
        optimizer=Penalized(rate=0.2),
    )  # fmt: skip


def test_with_infinite_lam_it_is_the_ordinary_program():
    checks.is_the_ordinary_program(NAME, train)
