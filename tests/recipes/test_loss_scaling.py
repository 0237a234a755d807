"""Dynamic loss scaling: the update, and steps that are dropped."""

import functools

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.recipes import checks, program


@pytest.fixture(scope="module")
def batches():
    return list(program.load("loss_scaling").batches(5))


def test_updates_are_those_of_algorithm_1_and_dropped_steps_leave_no_trace(batches):
    """An infinite scale overflows the gradient, and infinite inputs the losses.

    In float32, as float16 would keep eleven bits of it.
    """
    recipe = program.load("loss_scaling", lam=0.5)

    def losses_of(params, _, x, y):
        logits = recipe.Network(jnp.float32).apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    def step(state, x, y):
        if state.step == 2:
            scale = state.dynamic_scale
            overflowing = state.replace(dynamic_scale=scale.replace(scale=jnp.inf))
            after, _ = recipe.train_step(overflowing, x, y)
            assert dropped(after, overflowing)
            after, _ = recipe.train_step(state, np.full_like(x, np.inf), y)
            assert dropped(after, state)
            assert float(after.dynamic_scale.scale) == float(scale.scale) / 2
            state = after
        return recipe.train_step(state, x, y)[0]

    checks.follows_algorithm_1(
        step, losses_of, lambda state: state.params,
        recipe.create_state(dtype=jnp.float32), batches, lam=0.5, x64=False, rtol=2e-5,
        compiled=True,
    )  # fmt: skip


def dropped(after, before):
    """Whether parameters, momentum and attention's state are as they were."""
    kept = lambda state: (state.params, state.opt_state, state.attention)
    chex.assert_trees_all_equal(kept(after), kept(before))
    return True


def run(batches, module):
    state, losses = module.create_state(), []
    for x, y in batches:
        state, loss = module.train_step(state, x, y)
        losses.append(loss)
    return state.params, state.opt_state, state.dynamic_scale, losses


def test_without_attention_it_is_the_ordinary_program(batches):
    """To a rounding of float16, for the two sum a mean otherwise."""
    train = functools.partial(run, batches)
    checks.is_the_ordinary_program("loss_scaling", train, rtol=2e-3, atol=1e-4)
