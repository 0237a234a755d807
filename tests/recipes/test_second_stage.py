"""From a checkpoint of SGD into the second stage."""

import chex
import jax
import numpy as np
import pytest

from tests import oracle
from tests.recipes import numpy_steps, program

BATCHES = list(program.load("second_stage").batches(4, batch_size=32, seed=5))
LOWER_RATE = 0.1 * 0.05


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("first_stage") / "checkpoint"
    program.ordinary("second_stage").first_stage(path)
    return path


def test_updates_are_those_of_the_oracle(checkpoint):
    """Momentum is the first stage's, the rate is that of the restored step."""
    recipe = program.load("second_stage", lam=0.5)
    params, opt_state, step = recipe.restore(checkpoint)
    assert step == recipe.FIRST_STAGE
    momentum = opt_state[1][0].trace
    assert all(np.any(leaf) for leaf in jax.tree.leaves(momentum))
    attention = oracle.Attention(lam=0.5)
    sgd = numpy_steps.MomentumSGD(params, LOWER_RATE)
    sgd.v = numpy_steps.tree64(momentum)
    for x, y in BATCHES:
        losses_of = lambda params, x=x, y=y: recipe.per_example_losses(params, x, y)
        sgd.step(numpy_steps.direction(attention, losses_of, sgd.params))
        params, opt_state = recipe.train_step(params, opt_state, x, y)
        chex.assert_trees_all_close(
            numpy_steps.tree64(params), sgd.params, rtol=1e-5, atol=2e-6
        )


def run(module, checkpoint):
    params, opt_state, _ = module.restore(checkpoint)
    for x, y in BATCHES:
        params, opt_state = module.train_step(params, opt_state, x, y)
    return params, opt_state


def test_without_attention_it_is_the_ordinary_program(checkpoint):
    """Which goes on with SGD from the same checkpoint, at the lower rate."""
    params, opt_state = run(program.load("second_stage", lam=np.inf), checkpoint)
    expected = run(program.ordinary("second_stage"), checkpoint)
    chex.assert_trees_all_close((params, opt_state[1]), expected, rtol=1e-6, atol=1e-6)
