"""Flax NNX: the update, dropout's masks and BatchNorm's statistics."""

import jax
import numpy as np
import pytest
from flax import nnx

import absgd_jax
from tests.recipes import checks, program

BATCHES = list(program.load("nnx").batches(4, batch_size=32))


def test_updates_are_those_of_algorithm_1():
    recipe = program.load("nnx", lam=0.5)

    def losses_of(pure, carry, x, y):
        """At this step's statistics and dropout key."""
        graph, params, rest = nnx.split(carry[0], nnx.Param, ...)
        params = nnx.clone(params)
        nnx.replace_by_pure_dict(params, pure)
        return recipe.loss_fn(nnx.merge(graph, params, rest, copy=True), x, y)

    def step(carry, x, y):
        recipe.train_step(*carry, x, y)
        return carry

    checks.follows_algorithm_1(
        step, losses_of,
        lambda carry: nnx.to_pure_dict(nnx.state(carry[0], nnx.Param)),
        recipe.create(), BATCHES, lam=0.5, x64=False, rtol=2e-5,
        s_of=lambda carry: absgd_jax.normalizer(carry[1].opt_state),
    )  # fmt: skip


def run(module):
    model, optimizer = module.create()
    values = [module.train_step(model, optimizer, x, y) for x, y in BATCHES]
    losses = [getattr(value, "mean_loss", value) for value in values]
    state = nnx.to_pure_dict(nnx.state(model))
    key = state["dropout"]["rngs"].pop("key")
    return state, jax.random.key_data(key), losses


def test_without_attention_it_is_the_ordinary_program():
    """Its BatchNorm statistics and the count and key of dropout among them."""
    state, _, _ = checks.is_the_ordinary_program("nnx", run, rtol=1e-6, atol=1e-6)
    assert int(state["dropout"]["rngs"]["count"]) == len(BATCHES)


def test_the_value_and_grad_of_nnx_moves_the_statistics():
    model = nnx.BatchNorm(64, momentum=0.5, rngs=nnx.Rngs(0))
    x, _ = BATCHES[0]
    absgd_jax.tilted_value_and_grad(
        lambda model, x: (model(x) ** 2).sum(-1), 1.0, value_and_grad=nnx.value_and_grad
    )(model, x)
    np.testing.assert_allclose(model.mean[...], x.mean(0) / 2, rtol=1e-5, atol=1e-7)


def test_the_value_and_grad_of_jax_is_refused():
    """The trap that the page names."""
    recipe = program.load("nnx")
    model, optimizer = recipe.create()
    step = absgd_jax.tilted_value_and_grad(recipe.loss_fn, optimizer.opt_state)
    with pytest.raises(TypeError, match=r"value_and_grad=nnx\.value_and_grad"):
        step(model, *BATCHES[0])
