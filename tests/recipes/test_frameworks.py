"""Recipes of frameworks: Algorithm 1's updates, and the ordinary program at λ = ∞."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import equinox as eqx
import jax
import optax
import pytest
from flax import nnx

import absgd_jax
from tests.recipes import checks, program

KEY = jax.random.key(3)  # of Haiku's dropout, the same at every step
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class Recipe(NamedTuple):
    """How one recipe is driven."""

    start: Callable[..., Any]  # () -> what the first step carries
    step: Callable[..., Any]  # (carry, x, y) -> carry, loss
    losses_of: Callable[..., Any]  # (params, carry, x, y) -> losses
    params_of: Callable[..., Any]
    kept: Callable[..., Any]  # carry -> what is to be that of the ordinary program
    batches: list
    settings: dict = {}  # noqa: RUF012


def of_linen(module):
    def losses_of(params, state, x, y):
        variables = {"params": params, "batch_stats": state.batch_stats}
        apply = module.Network().apply
        return cross_entropy(
            apply(variables, x, train=True, mutable=["batch_stats"])[0], y
        )

    return Recipe(
        module.create_state, module.train_step, losses_of, lambda state: state.params,
        lambda state: (state.params, state.batch_stats, state.opt_state),
        list(module.batches(4)), {"compiled": True},
    )  # fmt: skip


def of_nnx(module):
    def losses_of(pure, carry, x, y):
        """At this step's statistics and dropout key."""
        graph, params, rest = nnx.split(carry[0], nnx.Param, ...)
        params = nnx.clone(params)
        nnx.replace_by_pure_dict(params, pure)
        return module.loss_fn(nnx.merge(graph, params, rest, copy=True), x, y)

    def step(carry, x, y):
        return carry, module.train_step(*carry, x, y)

    def kept(carry):
        state = nnx.to_pure_dict(nnx.state(carry[0]))
        return state, jax.random.key_data(state["dropout"]["rngs"].pop("key"))

    return Recipe(
        module.create, step, losses_of,
        lambda carry: nnx.to_pure_dict(nnx.state(carry[0], nnx.Param)), kept,
        list(module.batches(4)),
        {"s_of": lambda carry: absgd_jax.normalizer(carry[1].opt_state)},
    )  # fmt: skip


def of_haiku(module):
    def start():
        x, _ = checks.digits()[0]
        params, state = module.network.init(jax.random.key(1), x, is_training=True)
        return params, state, module.tx.init(params)

    def losses_of(params, carry, x, y):
        """Those of the whole batch, which BatchNorm and dropout see together."""
        apply = module.network.apply
        return cross_entropy(apply(params, carry[1], KEY, x, is_training=True)[0], y)

    def step(carry, x, y):
        *carry, loss = module.train_step(*carry, KEY, x, y)
        return carry, loss

    kept = lambda carry: carry[:2]
    return Recipe(
        start, step, losses_of, lambda carry: carry[0], kept, checks.digits(),
        {"compiled": True},
    )  # fmt: skip


def of_equinox(module):
    arrays = lambda carry: eqx.filter(carry[0], eqx.is_inexact_array)

    def start():
        model = module.Classifier(jax.random.key(1))
        return model, module.tx.init(eqx.filter(model, eqx.is_inexact_array))

    def losses_of(params, carry, x, y):
        return cross_entropy(jax.vmap(eqx.combine(params, carry[0]))(x), y)

    def step(carry, x, y):
        *carry, loss = module.train_step(*carry, x, y)
        return carry, loss

    # Each program has a class of its own for the model. It has integers too.
    kept = lambda carry: jax.tree.leaves(eqx.filter(carry[0], eqx.is_array))
    return Recipe(
        start, step, losses_of, arrays, kept, checks.digits(),
        {"x64": True, "rtol": 1e-5},
    )  # fmt: skip


RECIPES = {
    "linen": of_linen, "nnx": of_nnx, "haiku_transform": of_haiku,
    "equinox_filter": of_equinox,
}  # fmt: skip
every_recipe = pytest.mark.parametrize("name", RECIPES)


@every_recipe
def test_updates_are_those_of_algorithm_1(name):
    recipe = RECIPES[name](program.load(name, lam=0.5))
    checks.follows_algorithm_1(
        lambda carry, x, y: recipe.step(carry, x, y)[0], recipe.losses_of,
        recipe.params_of, recipe.start(), recipe.batches, lam=0.5,
        **{"x64": False, "rtol": 2e-5} | recipe.settings,
    )  # fmt: skip


@every_recipe
def test_without_attention_it_is_the_ordinary_program(name):
    """Statistics, dropout's counts and keys, and losses among what is compared."""

    def train(module):
        recipe, losses = RECIPES[name](module), []
        carry = recipe.start()
        for batch in recipe.batches:
            carry, loss = recipe.step(carry, *batch)
            losses.append(getattr(loss, "mean_loss", loss))
        return recipe.kept(carry), losses

    checks.is_the_ordinary_program(name, train, rtol=1e-6, atol=2e-6)


def test_the_pullback_of_equinox_gives_the_same_update():
    module = program.load("equinox_filter", lam=0.5)
    recipe = of_equinox(module)
    (model, opt_state), (x, y) = recipe.start(), checks.digits()[0]

    @eqx.filter_jit
    def by_pullback(model, opt_state):
        of = lambda model: module.loss_fn(model, x, y)
        losses, pullback = eqx.filter_vjp(of, model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, _ = module.tx.update(pullback, opt_state, params, losses=losses)
        return eqx.apply_updates(model, updates)

    carry, _ = recipe.step((model, opt_state), x, y)
    got = recipe.kept((by_pullback(model, opt_state), None))
    chex.assert_trees_all_close(got, recipe.kept(carry), atol=1e-6)


def test_microbatches_of_an_equinox_module_give_the_whole_batch():
    module = program.load("equinox_filter", lam=0.5)
    model, _ = of_equinox(module).start()
    tx = absgd_jax.absgd(0.1, 0.5, max_weight=2.0)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def gradient(model, micro, *batch):
        call = absgd_jax.tilted_value_and_grad(
            lambda *args: (module.loss_fn(*args), jax.numpy.float32(1.0)), state,
            has_aux=True, microbatch_size=micro,
            value_and_grad=eqx.filter_value_and_grad,
        )  # fmt: skip
        return call(model, *batch)

    batch = checks.digits()[0]
    whole, parts = (gradient(model, micro, *batch) for micro in (None, 5))
    chex.assert_trees_all_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_an_nnx_module_of_random_numbers_may_be_given_by_keyword():
    model, dropout = nnx.Linear(64, 1, rngs=nnx.Rngs(0)), nnx.Dropout(0.5)
    x, _ = checks.digits()[0]

    def losses_of(model, x, *, rngs, train):
        assert train is True
        return model(dropout(x, rngs=rngs))[:, 0] ** 2

    @nnx.jit
    def mean_loss(model, rngs):
        of = absgd_jax.tilted_value_and_grad(
            losses_of, 1.0, value_and_grad=nnx.value_and_grad
        )
        return of(model, x, rngs=rngs, train=True)[0].mean_loss

    ours, theirs = nnx.Rngs(1), nnx.Rngs(1)
    found = [mean_loss(model, ours) for _ in range(2)]
    expected = [losses_of(model, x, rngs=theirs, train=True).mean() for _ in range(2)]
    chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_dense_gradients_by_equinox_are_refused():
    with pytest.raises(TypeError, match=r"would ignore value_and_grad=.*partition"):
        absgd_jax.tilted_value_and_grad(
            len, 1.0, dense=True, value_and_grad=eqx.filter_value_and_grad
        )


@pytest.mark.parametrize("parts", [{"microbatch_size": 5}, {"dense": True}])
def test_an_nnx_module_in_parts_is_refused_and_its_arrays_are_taken(parts):
    model = nnx.Linear(64, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, absgd_jax.absgd(0.1, 1.0), wrt=nnx.Param)
    x, _ = checks.digits()[0]
    losses_of = lambda model, x: (model(x) ** 2).sum(-1)

    def gradient(of, params, **kwargs):
        state = optimizer.opt_state
        return absgd_jax.tilted_value_and_grad(of, state, **kwargs)(params, x)

    by_nnx = {} if "dense" in parts else {"value_and_grad": nnx.value_and_grad}
    with pytest.raises(TypeError, match=r"given Linear, .*nnx\.split.*nnx\.merge"):
        gradient(losses_of, model, **parts, **by_nnx)

    @nnx.jit
    def step(model, optimizer):
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        merge = functools.partial(nnx.merge, copy=True)
        split = lambda params, x: losses_of(merge(graph, params, rest), x)
        value, grads = gradient(split, params, **parts)
        optimizer.update(model, grads, value=value)
        return grads

    _, whole = gradient(losses_of, model, value_and_grad=nnx.value_and_grad)
    before = model.kernel[...]
    of_parts, of_whole = map(nnx.to_pure_dict, (step(model, optimizer), whole))
    chex.assert_trees_all_close(of_parts, of_whole, rtol=1e-4, atol=1e-6)
    assert (model.kernel[...] != before).any()
