"""From a checkpoint of SGD into the second stage."""

import chex
import numpy as np
import pytest

from tests.recipes import checks, program


@pytest.fixture(scope="module")
def batches():
    return list(program.load("second_stage").batches(4, seed=5))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("first_stage") / "checkpoint"
    program.load("second_stage").first_stage(path)
    return path


def test_updates_are_those_of_algorithm_1(checkpoint, batches):
    """Momentum is the first stage's, the rate is that of the restored step."""
    recipe = program.load("second_stage")
    *carry, step = recipe.restore(checkpoint)
    assert step == recipe.FIRST_STAGE
    sgd = checks.Sgd(0.1 * 0.05)
    sgd.trace = checks.flat(carry[1][1][0].trace)
    assert sgd.trace.any()
    checks.follows_algorithm_1(
        lambda carry, x, y: recipe.train_step(*carry, x, y),
        lambda params, carry, x, y: recipe.per_example_losses(params, x, y),
        lambda carry: carry[0], carry, batches, lam=0.5, optimizer=sgd, x64=False,
        rtol=2e-5, compiled=True,
    )  # fmt: skip


def run(module, checkpoint, batches):
    params, opt_state, _ = module.restore(checkpoint)
    for x, y in batches:
        params, opt_state = module.train_step(params, opt_state, x, y)
    return params, opt_state


def test_without_attention_it_is_the_ordinary_program(checkpoint, batches):
    """Which goes on with SGD from the same checkpoint, at the lower rate."""
    recipe = program.load("second_stage", lam=np.inf)
    params, opt_state = run(recipe, checkpoint, batches)
    expected = run(program.ordinary("second_stage"), checkpoint, batches)
    chex.assert_trees_all_close((params, opt_state[1]), expected, rtol=1e-6, atol=1e-6)
