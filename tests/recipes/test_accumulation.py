"""The recipes of accumulation: over microbatches in time, and inside one step."""

import jax
import numpy as np
import optax
import pytest

from tests.recipes import checks, program

STEPS = 8  # microbatches: two updates


def example_losses(params, carry, images, labels):
    logits = images @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


class MultiSteps(checks.Sgd):
    """SGD on the mean of four directions; none of the first three moves a parameter."""

    def __init__(self):
        super().__init__(rate=0.2)
        self.directions = []

    def __call__(self, direction, params):
        self.directions.append(direction)
        if len(self.directions) < 4:
            return np.zeros_like(direction)
        mean, self.directions = np.mean(self.directions, axis=0), []
        return super().__call__(mean, params)


def train_accumulation(module):
    state = (module.attention.init(),) if hasattr(module, "attention") else ()
    params = module.init(jax.random.key(1))
    carry = params, module.tx.init(params), *state
    for batch in checks.digits(STEPS):
        *carry, _ = module.train_step(*carry, *batch)
    return carry[0]


def test_s_is_carried_from_microbatch_to_microbatch():
    """Weights are Algorithm 1's with the microbatch for its batch."""
    module = program.load("accumulation", lam=checks.LAM)
    params = module.init(jax.random.key(1))
    checks.follows_algorithm_1(
        lambda carry, *batch: module.train_step(*carry, *batch)[:3],
        example_losses, lambda carry: carry[0],
        (params, module.tx.init(params), module.attention.init()),
        checks.digits(3 * 4), optimizer=MultiSteps(),
    )  # fmt: skip


def train_microbatches(module):
    params = module.init(jax.random.key(1))
    carry = params, module.tx.init(params)
    for batch in checks.digits():
        *carry, _ = module.train_step(*carry, *batch)
    return carry[0]


def test_microbatches_inside_a_step_are_algorithm_1_on_the_whole_batch():
    module = program.load("microbatches", lam=checks.LAM)
    params = module.init(jax.random.key(1))
    checks.follows_algorithm_1(
        lambda carry, *batch: module.train_step(*carry, *batch)[:2],
        example_losses, lambda carry: carry[0],
        (params, module.tx.init(params)), checks.digits(batch=40),
        optimizer=checks.Sgd(rate=0.2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "train"),
    [("accumulation", train_accumulation), ("microbatches", train_microbatches)],
)
def test_with_infinite_lam_it_is_the_ordinary_program(name, train):
    checks.is_the_ordinary_program(name, train)
