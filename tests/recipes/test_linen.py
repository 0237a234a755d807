"""Flax Linen's `TrainState`: the update, and BatchNorm's statistics."""

import optax
import pytest

from tests.recipes import checks, program

BATCHES = list(program.load("linen").batches(4, batch_size=32))


def test_updates_are_those_of_algorithm_1():
    recipe = program.load("linen", lam=0.5)

    def losses_of(params, state, x, y):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = recipe.Network().apply(
            variables, x, train=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    checks.follows_algorithm_1(
        lambda state, x, y: recipe.train_step(state, x, y)[0],
        losses_of, lambda state: state.params, recipe.create_state(), BATCHES,
        lam=0.5, x64=False, rtol=2e-5,
    )  # fmt: skip


def run(module):
    state, losses = module.create_state(), []
    for x, y in BATCHES:
        state, loss = module.train_step(state, x, y)
        losses.append(loss)
    return state.params, state.batch_stats, state.opt_state, losses


def test_without_attention_it_is_the_ordinary_program():
    checks.is_the_ordinary_program("linen", run, rtol=1e-6, atol=1e-6)


def test_further_arguments_of_apply_gradients_do_not_reach_the_optimizer():
    """The trap that the page names."""
    state = program.load("linen").create_state()
    with pytest.raises(TypeError, match="unexpected keyword argument 'value'"):
        state.apply_gradients(grads=state.params, value=1.0)
