"""Flax Linen's `TrainState`: the update, and BatchNorm's statistics."""

import chex
import numpy as np
import optax
import pytest

import absgd_jax
from tests import oracle
from tests.recipes import numpy_steps, program

BATCHES = list(program.load("linen").batches(4, batch_size=32))


def test_updates_are_those_of_the_oracle():
    recipe = program.load("linen", lam=0.5)
    state = recipe.create_state()
    attention = oracle.Attention(lam=0.5)
    sgd = numpy_steps.MomentumSGD(state.params, 0.1)
    for x, y in BATCHES:

        def losses_of(params, stats=state.batch_stats, x=x, y=y):
            logits, _ = recipe.Network().apply(
                {"params": params, "batch_stats": stats},
                x,
                train=True,
                mutable=["batch_stats"],
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, y)

        sgd.step(numpy_steps.direction(attention, losses_of, sgd.params))
        state, _ = recipe.train_step(state, x, y)
        chex.assert_trees_all_close(
            numpy_steps.tree64(state.params), sgd.params, rtol=1e-5, atol=2e-6
        )
    np.testing.assert_allclose(
        absgd_jax.normalizer(state), attention.s / (1 - attention.share), rtol=1e-5
    )


def run(module):
    state, losses = module.create_state(), []
    for x, y in BATCHES:
        state, loss = module.train_step(state, x, y)
        losses.append(loss)
    return state.params, state.batch_stats, state.opt_state, losses


def test_without_attention_it_is_the_ordinary_program():
    got = run(program.load("linen", lam=np.inf))
    expected = run(program.ordinary("linen"))
    chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-6)


def test_further_arguments_of_apply_gradients_do_not_reach_the_optimizer():
    """The trap that the page names."""
    state = program.load("linen").create_state()
    with pytest.raises(TypeError, match="unexpected keyword argument 'value'"):
        state.apply_gradients(grads=state.params, value=1.0)
