"""Keras 3 on JAX: the update, its layers' statistics and what is saved."""

import functools

import chex
import numpy as np
import optax
import pytest

from tests.recipes import checks, program


@pytest.fixture(scope="module")
def recipe():
    """It chooses the backend before it imports Keras."""
    return program.load("keras_jax", lam=0.5)


@pytest.fixture(scope="module")
def batches(recipe):
    x, y = recipe.long_tailed_digits()
    return [(x[i : i + 32], y[i : i + 32]) for i in (0, 32, 64, 96)]


def values(variables):
    return [np.asarray(v.value) for v in variables]


def test_updates_are_those_of_algorithm_1(recipe, batches):
    def losses_of(params, model, x, y):
        """At this step's statistics and seed."""
        state = values(model.non_trainable_variables)
        logits, _ = model.stateless_call(params, state, x, training=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)

    def step(model, x, y):
        model.train_on_batch(x, y)
        return model

    checks.follows_algorithm_1(
        step, losses_of, lambda model: values(model.trainable_variables),
        recipe.create(), batches, lam=0.5, x64=False, rtol=2e-5, s_of=None,
    )  # fmt: skip


def run(batches, module):
    model = module.create()
    losses = [model.train_on_batch(x, y) for x, y in batches]
    statistics = [v for layer in model.layers for v in layer.non_trainable_variables]
    return values(model.trainable_variables), values(statistics), losses


def test_without_attention_it_is_the_ordinary_program(batches):
    """Its BatchNorm statistics and dropout's seeds among them."""
    train = functools.partial(run, batches)
    checks.is_the_ordinary_program("keras_jax", train, rtol=1e-6, atol=1e-6)


# Keras's variables have the `__array__` of NumPy 1.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_attention_is_saved_with_the_model(recipe, batches, tmp_path):
    """And comes first among the variables, where the recipe looks for it."""
    model = recipe.create()
    state = list(model.attention)
    assert model.non_trainable_variables[: len(state)] == state
    model.train_on_batch(*batches[0])
    model.save_weights(tmp_path / "model.weights.h5")
    again = recipe.create()
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "model.weights.h5")
    chex.assert_trees_all_equal(values(again.attention), values(model.attention))
    assert int(again.attention[0].value) == 1


def test_the_default_keeps_all_of_its_state(batches):
    """A radius also follows the loss without the bound, which is a leaf of its own."""
    module = program.load("keras_jax", lam="absgd_jax.kl_radius()")
    model = module.create()
    start = values(model.attention)
    for batch in batches[:2]:
        model.train_on_batch(*batch)
    state = module.FORM.unflatten(values(model.attention))
    assert state.count == 2
    assert np.isfinite(state.lam)
    assert state.bound.unbounded != module.FORM.unflatten(start).bound.unbounded
    assert state.bound.max_weight == 2.0
