"""What goes wrong in a user's loop is refused: the value, the rule and the remedy."""

import functools
import pickle
import types

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import dynamic_scale, train_state

import absgd_jax
from absgd_jax import _devices
from tests import problems

params, x, labels, _ = problems.start()
losses_of = lambda params: problems.per_example_losses(params, x, labels)


# Arguments that never arrive.


@pytest.mark.parametrize(
    ("name", "keyword"),
    [("attentional_aggregate", "losses"), ("scale_by_attention", "value")],
)
def test_what_a_train_state_swallows_is_named(name, keyword):
    """It hands extra arguments to `replace`, not to the optimizer."""
    tx = getattr(absgd_jax, name)(1.0)
    state = train_state.TrainState.create(apply_fn=None, params=params, tx=tx)
    message = f"needs the keyword argument '{keyword}'.*TrainState"
    with pytest.raises(TypeError, match=message):
        state.apply_gradients(grads=params, **{keyword: 1.0})


@pytest.mark.parametrize(
    ("name", "given", "other"),
    [
        ("attentional_aggregate", "value", "scale_by_attention"),
        ("scale_by_attention", "losses", "attentional_aggregate"),
    ],
)
def test_arguments_of_the_other_transform_are_named(name, given, other):
    tx = getattr(absgd_jax, name)(1.0)
    arguments = {given: jnp.ones(3)}
    with pytest.raises(TypeError, match=f"was given `{given}` and no .*take {other};"):
        tx.update(params, tx.init(params), params, **arguments)


def test_what_is_frozen_is_masked_after_attention_as_the_message_says():
    """After an alias, which has multiplied by −η, `optax.sgd` would climb."""
    two = {"w": jnp.float32(1.0), "b": jnp.float32(0.5)}
    of_two = lambda p: (p["w"] * x[:, 0] + p["b"] - 1.0) ** 2
    label = lambda tree: {name: name == "w" for name in tree}
    freeze = lambda tx: optax.partition({True: tx, False: optax.set_to_zero()}, label)
    inside, whole = freeze(absgd_jax.absgd(0.1, 0.5)), absgd_jax.absgd(0.1, 0.5)
    value, grads = absgd_jax.tilted_value_and_grad(of_two, whole.init(two))(two)
    with pytest.raises(ValueError, match="masked leaves") as refused:
        inside.update(grads, inside.init(two), two, value=value)
    for said, way in (
        (
            "optax.chain(scale_by_attention(...), optax.partition({'trained': "
            "optax.sgd(...), ...}, labels)) with value=",
            optax.chain(absgd_jax.scale_by_attention(0.5), freeze(optax.sgd(0.1, 0.9))),
        ),
        (
            "optax.chain(absgd(...), optax.masked(optax.set_to_zero(), frozen))",
            optax.chain(
                whole, optax.masked(optax.set_to_zero(), {"w": False, "b": True})
            ),
        ),
    ):
        assert said in str(refused.value)
        expected, _ = whole.update(grads, whole.init(two), two, value=value)
        found, _ = way.update(grads, way.init(two), two, value=value)
        np.testing.assert_array_equal(found["w"], expected["w"])
        assert found["b"] == 0.0


def test_an_axis_that_is_not_mapped_is_named():
    attention = absgd_jax.attention(1.0, axis_name="batch")
    tx = absgd_jax.scale_by_attention(1.0, axis_name="batch")
    calls = (
        lambda: attention.weigh(losses_of(params), attention.init()),
        lambda: tx.update(params, tx.init(params), params, value=jnp.ones([])),
        lambda: absgd_jax.tilted_loss(losses_of(params), 1.0, axis_name="batch"),
    )
    for call in calls:
        with pytest.raises(
            NameError, match=r"axis_name='batch' is mapped by no jax\.pm"
        ):
            call()


@pytest.mark.parametrize("state", [None, {"lam": 1.0}, jnp.ones(3)])
def test_what_is_no_state_of_attention_is_named(state):
    with pytest.raises(TypeError, match=r"weigh\(losses, state\) takes an Attention"):
        absgd_jax.attention(1.0).weigh(losses_of(params), state)


def test_a_state_goes_on_without_its_bound():
    """As of a run that is resumed with another `max_weight`."""
    losses = jnp.array([0.0, 1.0, 4.0])
    bounded = absgd_jax.attention()
    free = absgd_jax.attention(max_weight=jnp.inf)
    _, state = bounded.weigh(losses, bounded.init())
    expected = free.weigh(losses, state._replace(bound=None))
    jax.tree.map(np.testing.assert_array_equal, free.weigh(losses, state), expected)


def test_attention_goes_to_other_processes():
    attention = pickle.loads(pickle.dumps(absgd_jax.attention()))
    weights, _ = attention.weigh(jnp.ones(3), attention.init())
    np.testing.assert_array_equal(weights, 1.0)


def test_a_schedule_may_have_the_name_of_one_of_ours():
    def anneal(step):
        return 2.0 + step

    anneal.__qualname__ = "anneal"
    assert absgd_jax.attention(anneal).init().lam == 2.0


def test_a_value_and_grad_that_returns_more_is_named():
    scale = dynamic_scale.DynamicScale()
    call = absgd_jax.tilted_value_and_grad(
        losses_of, 1.0, value_and_grad=scale.value_and_grad
    )
    with pytest.raises(TypeError, match=r"DynamicScale, needs .*absgd_jax\.attention"):
        call(params)


def test_two_attentions_in_an_optimizer_are_named():
    label = lambda tree: jax.tree.map(lambda p: "a" if p.ndim > 1 else "b", tree)
    transforms = {name: absgd_jax.absgd(0.1, 1.0) for name in "ab"}
    state = optax.partition(transforms, label).init(params)
    with pytest.raises(ValueError, match=r"found 2: .*Attend once.*optax\.partition"):
        absgd_jax.tilted_value_and_grad(losses_of, state)


def test_a_module_of_equinox_under_jax_is_refused():
    model = equinox.nn.MLP(problems.FEATURES, 1, 4, 1, key=jax.random.key(0))
    call = lambda **more: absgd_jax.tilted_value_and_grad(
        lambda model, x: jax.vmap(model)(x)[:, 0], 1.0, **more
    )(model, x)
    with pytest.raises(TypeError, match=r"given MLP, .*equinox\.filter_value_and_grad"):
        call()
    call(value_and_grad=equinox.filter_value_and_grad)


def test_a_module_of_equinox_that_is_all_arrays_is_not():
    model = equinox.nn.Linear(problems.FEATURES, 1, key=jax.random.key(0))
    losses_of = lambda model, x: jax.vmap(model)(x)[:, 0] ** 2
    of = lambda **more: absgd_jax.tilted_value_and_grad(losses_of, 1.0, **more)
    _, expected = of(value_and_grad=equinox.filter_value_and_grad)(model, x)
    _, found = of()(model, x)
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-6)


def test_a_function_that_is_differentiated_already_is_named():
    differentiated = jax.value_and_grad(lambda params: losses_of(params).mean())
    call = absgd_jax.tilted_value_and_grad(differentiated, 1.0)
    with pytest.raises(TypeError, match=r"got a tuple of 2.*as value_and_grad="):
        call(params)


def test_a_tilted_value_is_no_number():
    """A tuple would be stacked into an array wherever a number is expected."""
    tx = optax.chain(absgd_jax.scale_by_attention(), optax.contrib.momo(0.1))
    state = tx.init(params)
    value, grads = absgd_jax.tilted_value_and_grad(losses_of, state)(params)
    with pytest.raises(TypeError):
        jnp.asarray(value)
    with pytest.raises((TypeError, AttributeError)):
        tx.update(grads, state, params, value=value)
    assert jax.tree.structure(jax.jit(lambda v: v)(value)) == jax.tree.structure(value)


def test_a_pullback_in_an_nnx_optimizer_is_named():
    model = nnx.Linear(problems.FEATURES, problems.CLASSES, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, absgd_jax.absgd(0.1, 1.0), wrt=nnx.Param)
    graph, state = nnx.split(model)
    losses, pull = jax.vjp(lambda state: nnx.merge(graph, state)(x).sum(axis=1), state)
    # It arrives without an array; with Flax 0.12.0 as a tree of its residuals.
    remedy = r"value_and_grad=nnx\.value_and_grad"
    with pytest.raises((TypeError, ValueError), match=remedy):
        optimizer.update(model, pull, losses=losses)


def test_an_nnx_module_under_jax_is_refused():
    """Its BatchNorm's statistics would silently stay where they were."""
    model = nnx.Linear(problems.FEATURES, problems.CLASSES, rngs=nnx.Rngs(0))
    call = absgd_jax.tilted_value_and_grad(lambda m, x: m(x).sum(axis=1), 1.0)
    for models in (model, (model, model), {"head": model}):
        with pytest.raises(TypeError, match=r"given Linear, .* value_and_grad=nnx\."):
            call(models, x)
    # Its state, split off, is an ordinary tree.
    graph, state = nnx.split(model)
    split = lambda state, x: nnx.merge(graph, state)(x).sum(axis=1)
    _, grads = absgd_jax.tilted_value_and_grad(split, 1.0)(state, x)
    assert jax.tree.structure(grads) == jax.tree.structure(state)


# Gradients of another kind.


class Callable(equinox.Module):
    """A model, and so its gradients too, that may be called."""

    w: jax.Array

    def __call__(self, inputs):
        raise AssertionError("a gradient was called")


@pytest.mark.parametrize("with_params", [True, False])
def test_gradients_that_may_be_called_are_gradients(with_params):
    model, dense = Callable(jnp.zeros(2)), Callable(jnp.arange(8.0).reshape(4, 2))
    tx = absgd_jax.attentional_aggregate(jnp.inf)
    given = model if with_params else None
    updates, _ = tx.update(dense, tx.init(model), given, losses=jnp.ones(4))
    np.testing.assert_allclose(updates.w, dense.w.mean(axis=0))
    rescale = absgd_jax.scale_by_attention(jnp.inf)
    updates, _ = rescale.update(model, rescale.init(model), given, value=1.0)
    np.testing.assert_allclose(updates.w, model.w)


def test_every_form_of_a_pullback_is_one():
    losses, pull = jax.vjp(losses_of, params)
    tx = absgd_jax.attentional_aggregate(1.0)
    expected, _ = tx.update(pull, tx.init(params), params, losses=losses)
    plain = lambda weights: pull(weights)
    wrappers = jax.tree_util.Partial, functools.partial, jax.jit
    method = types.MethodType(lambda self, weights: plain(weights), tx)
    for function in (plain, method, *(wrapper(plain) for wrapper in wrappers)):
        got, _ = tx.update(function, tx.init(params), params, losses=losses)
        np.testing.assert_allclose(got["w"], expected["w"], rtol=1e-5)


def test_integer_parameters_are_named():
    mixed = params | {"count": jnp.int32(3)}
    losses, pull = jax.vjp(losses_of, mixed)
    tx = absgd_jax.absgd(0.1, 1.0)
    with pytest.raises(TypeError, match=r"float0 at \['count'\].*nnx.split"):
        tx.update(pull, tx.init(mixed), mixed, losses=losses)


def test_a_leaf_that_is_no_array_is_named():
    tx = absgd_jax.attentional_aggregate(1.0)
    for update in (
        lambda: tx.update({"w": 1.0}, tx.init(params), losses=jnp.ones(5)),
        lambda: tx.update(lambda weights: ({"w": 1.0},), tx.init(params),
                          losses=jnp.ones(5)),
    ):  # fmt: skip
        message = r"tree of arrays; \['w'\] is a value of type float"
        with pytest.raises(TypeError, match=message):
            update()


def test_another_kind_of_tree_is_named():
    tx, pair = absgd_jax.scale_by_attention(1.0), [jnp.ones(2), jnp.ones(3)]
    with pytest.raises(
        ValueError, match=r"structure of params: PyTreeDef\(\[.* is not"
    ):
        tx.update(tuple(pair), tx.init(pair), pair, value=1.0)


def test_a_missing_leaf_is_named():
    both = params | {"b": jnp.zeros(3)}
    missing = r"structure of params: they lack \['b'\]"
    rescale = absgd_jax.scale_by_attention(1.0)
    for tx, gradients, message in (
        (absgd_jax.attentional_aggregate(1.0), params, missing),
        (rescale, params, missing),
        (optax.masked(rescale, {"w": True, "b": False}), both,
         r"scale_by_attention.*masked leaves.*after"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            tx.update(gradients, tx.init(both), both, losses=jnp.ones(5), value=1.0)


# Functions and their results.


def test_a_forgotten_has_aux_is_named():
    call = absgd_jax.tilted_value_and_grad(lambda p: (losses_of(p), 1), 1.0)
    with pytest.raises(TypeError, match=r"got a tuple of 2\. With has_aux=True"):
        call(params)
    call = absgd_jax.tilted_value_and_grad(losses_of, 1.0, has_aux=True)
    with pytest.raises(TypeError, match=r"must return \(losses, aux\), got a value"):
        call(params)
    for output, got in (([1.0], "a list of 1"), ({}, "a value of type dict")):
        call = absgd_jax.tilted_value_and_grad(lambda p, output=output: output, 1.0)
        with pytest.raises(TypeError, match=f"got {got}. With has_aux=True"):
            call(params)
    call = absgd_jax.tilted_value_and_grad(lambda p: 1.0, 1.0)
    with pytest.raises(TypeError, match="one per example, got a value of type float"):
        call(params)


@pytest.mark.parametrize("micro", [None, 2])
def test_parameters_may_be_python_numbers(micro):
    call = absgd_jax.tilted_value_and_grad(
        lambda w, x: (w * x - 1.0) ** 2, 1.0, microbatch_size=micro
    )
    _, grad = call(2.0, jnp.arange(4.0))
    expected = jax.grad(
        lambda w: absgd_jax.tilted_loss((w * jnp.arange(4.0) - 1.0) ** 2, 1.0)
    )(2.0)
    np.testing.assert_allclose(grad, expected, rtol=1e-6)


# Arguments out of range, of another kind or shape.

MAKE = (
    absgd_jax.attentional_aggregate,
    absgd_jax.scale_by_attention,
    absgd_jax.attention,
    functools.partial(absgd_jax.absgd, 0.1),
    functools.partial(absgd_jax.abadam, 0.1),
)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"lam": 0.0}, ValueError, r"lam must be nonzero .* got 0\.0"),
        ({"lam": np.nan}, ValueError, r"lam must be nonzero .* got nan"),
        ({"lam": 1e-40}, ValueError, r"lam must be nonzero .* got 1e-40"),
        ({"lam": jnp.ones(3)}, ValueError,
         r"lam must be a scalar or a schedule, got shape \(3,\)"),
        ({"lam": "1"}, TypeError, "got '1' of type str"),
        ({"lam": 1j}, TypeError, "lam must be a real number"),
        ({"gamma": 0.0}, ValueError, r"gamma must lie in \(0, 1\], got 0\.0"),
        ({"gamma": 1.5}, ValueError, r"gamma must lie in \(0, 1\], got 1\.5"),
        ({"gamma": np.nan}, ValueError, r"gamma must lie in \(0, 1\], got nan"),
        ({"gamma": "0.5"}, TypeError, "gamma must be .* got '0.5' of type str"),
        ({"gamma": {"a": 1}}, TypeError, "of type dict"),
        ({"init_s": -1.0}, ValueError, r"init_s must be .* got -1\.0"),
        ({"init_s": np.inf}, ValueError, r"init_s must be .* got inf"),
        ({"lam": absgd_jax.kl_radius(0.1), "init_s": 0.0}, ValueError,
         r"init_s must be None with kl_radius .*got 0\.0"),
        ({"max_weight": 0.5}, ValueError, r"max_weight must be at least 1, .* 0\.5"),
        ({"max_weight": np.nan}, ValueError, r"max_weight must be at least 1, .* nan"),
        ({"max_weight": "2"}, TypeError, "max_weight must"),
        ({"max_weight": lambda count: 2.0}, TypeError, "max_weight must .* function"),
        ({"init_s": lambda count: 0.0}, TypeError, "init_s must be .* type function"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", MAKE)
def test_bad_hyperparameters_are_refused_when_built(make, kwargs, error, message):
    with pytest.raises(error, match=message):
        make(**{"lam": 1.0} | kwargs)


def weigh(losses, **kwargs):
    attention = absgd_jax.attention(0.7)
    return attention.weigh(jnp.asarray(losses, float), attention.init(), **kwargs)


def differentiate(losses_of, *batch, lam=1.0, **kwargs):
    return absgd_jax.tilted_value_and_grad(losses_of, lam, **kwargs)(params, *batch)


radius, of_batch = absgd_jax.kl_radius, problems.per_example_losses


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        # The objective.
        (lambda: absgd_jax.tilted_loss(jnp.ones(3), absgd_jax.two_stage(1.0, 3)),
         TypeError, r"takes λ as a number, got the schedule .*attention_state"),
        (lambda: absgd_jax.tilted_loss(jnp.ones(2), radius(0.1)),
         TypeError, "takes λ as a number, got the radius"),
        (lambda: jax.jit(absgd_jax.tilted_loss)(jnp.ones(3), jnp.ones(2)),
         ValueError, r"lam must be a scalar, got shape \(2,\)"),
        (lambda: absgd_jax.tilted_loss(jnp.ones((0, 3)), 1.0),
         ValueError, r"at least one example, got shape \(0, 3\)"),
        (lambda: absgd_jax.tilted_loss(
            jnp.ones(2), 1.0, sample_weights=jnp.array([1.0, -2.0])
        ), ValueError, r"must not be negative or NaN, got -2\.0"),
        (lambda: weigh([1.0, 2.0], sample_weights=jnp.array([1.0, jnp.nan])),
         ValueError, "must not be negative or NaN, got nan"),
        (lambda: weigh([1.0, 2.0], sample_weights=jnp.array([1.0, 1j])),
         TypeError, "sample_weights must be real, got dtype complex64"),
        (lambda: weigh([1.0, 2.0], sample_weights=jnp.array([1e38, 3e38])),
         ValueError, r"sum below 3\.4e38.*, got 3.*e\+38 among them"),
        (lambda: absgd_jax.absgd(0.1, absgd_jax.kl_radius),
         TypeError, r"got the function kl_radius itself; give .*, kl_radius\(\.\.\.\)"),
        *(
            (functools.partial(absgd_jax.absgd, 0.1, make), TypeError,
             f"got the function {make.__name__} itself")
            for make in (absgd_jax.two_stage, absgd_jax.anneal)
        ),
        # The weights.
        (lambda: weigh(1.0), ValueError, "must have a batch axis, got a scalar"),
        (lambda: absgd_jax.tilted_loss(jnp.ones(2, jnp.float8_e4m3fn), 1.0),
         TypeError, "of 16 bits or more, got dtype float8"),
        (lambda: weigh([]), ValueError, r"at least one example, got shape \(0,\)"),
        (lambda: weigh([1.0], where=jnp.ones(2, bool)), ValueError, "where must have"),
        (lambda: weigh([1.0], where=jnp.ones(1)),
         TypeError, r"boolean, got dtype float32: .*mask > 0"),
        # The normaliser.
        (lambda: absgd_jax.normalizer(absgd_jax.attention(1.0).init(), init_s=-1.0),
         ValueError, r"init_s must be .* got -1\.0"),
        (lambda: absgd_jax.normalizer(absgd_jax.attention(1.0).init(), lam=0.0),
         ValueError, r"lam must be nonzero .* got 0\.0"),
        # Its gradient.
        (lambda: differentiate(losses_of, lam=lambda step: 1.0),
         TypeError, "tilted_value_and_grad takes λ as a number"),
        (lambda: differentiate(losses_of, lam=radius()),
         TypeError, "tilted_value_and_grad takes λ as a number, got the radius"),
        (lambda: differentiate(losses_of, lam=0.0), ValueError, "lam must be nonzero"),
        (lambda: differentiate(lambda p: losses_of(p), microbatch_size=4),
         ValueError, r"the arrays of the batch are arguments, \(params, x, y\)"),
        (lambda: differentiate(losses_of, microbatch_size=0),
         ValueError, "microbatch_size must be positive, got 0"),
        (lambda: differentiate(lambda p, x: x @ p["w"], x, dense=True),
         ValueError, r"one loss per example: .* shape \(1, 3\)"),
        (lambda: differentiate(of_batch, x, labels[:-1], microbatch_size=4),
         ValueError, r"same leading axis, got .*\(15,\), \(16,\).*keyword"),
        (lambda: differentiate(lambda p: losses_of(p).mean()),
         ValueError, "before their mean"),
        # A radius.
        (lambda: radius(0.0), ValueError, r"rho must be .*got 0\.0"),
        (lambda: radius(np.inf), ValueError, r"rho must be .*got inf"),
        (lambda: radius(0.1, 2), ValueError, "must be 1 or -1, got 2"),
        (lambda: absgd_jax.effective_fraction(0), ValueError, r"in \(0, 1\), got 0\.0"),
        (lambda: absgd_jax.effective_fraction(1), ValueError, r"in \(0, 1\), got 1\.0"),
        (lambda: radius(lambda step: 0.4), TypeError, "rho must be a scalar, got <fun"),
        (lambda: absgd_jax.effective_fraction(jnp.ones(2)),
         ValueError, r"fraction must be a scalar, got shape \(2,\)"),
        # Schedules of schedules.
        *(
            (functools.partial(make, *args, **first), TypeError,
             f"{'first' if first else 'lam'} must be a scalar.*optax.join_schedules")
            for make, args in (
                (absgd_jax.two_stage, (5,)), (absgd_jax.anneal, (0, 5)),
            )
            for args, first in (
                ((lambda step: 0.5, *args), {}),
                ((0.5, *args), {"first": lambda step: 2.0}),
            )
        ),
        (lambda: absgd_jax.two_stage(radius(), 5, first=lambda step: jnp.inf),
         TypeError, "first must be a scalar"),
        # Statistics and suggestions.
        (lambda: absgd_jax.suggest_lam([1.0, 1.0]),
         ValueError, r"all equal, got 2 between 1\.0"),
        (lambda: absgd_jax.suggest_lam([]), ValueError, "not all equal, got 0"),
        (lambda: absgd_jax.suggest_lam([1.0, np.nan]), ValueError, "must be finite"),
        (lambda: absgd_jax.suggest_lam([1.0, 2.0], sign=0),
         ValueError, "must be 1 or -1, got 0"),
        (lambda: absgd_jax.suggest_lam([1.0, 2.0], fractions=(2.0,)),
         ValueError, r"got 2\.0"),
        (lambda: absgd_jax.weight_statistics(jnp.ones(3), where=jnp.ones(2, bool)),
         ValueError, r"where must have the shape of weights, \(3,\), got \(2,\)"),
        (lambda: absgd_jax.weight_statistics(
            jnp.ones((2, 3)), groups=jnp.zeros(2, int), num_groups=1
        ), ValueError, r"groups must have the shape of weights, \(2, 3\), got \(2,\)"),
        (lambda: absgd_jax.weight_statistics(jnp.ones(2), groups=jnp.zeros(2, int)),
         ValueError, "groups needs num_groups"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "function", [absgd_jax.tilted_loss, absgd_jax.attentional_weights]
)
@pytest.mark.parametrize(
    ("losses", "lam", "error", "message"),
    [
        (jnp.ones(3), 0.0, ValueError, "lam must be nonzero"),
        (jnp.float32(1.0), 1.0, ValueError, "before their mean"),
        (jnp.arange(3), 1.0, TypeError, "floating point"),
    ],
)
def test_objective_and_weights_refuse_alike(function, losses, lam, error, message):
    with pytest.raises(error, match=message):
        function(losses, lam)


# Schedules.


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gamma": lambda count: 0.0 * count}, r"gamma\(0\).* in \(0, 1\], got 0\.0"),
        ({"gamma": lambda count: 2.0}, r"gamma\(0\), the first .* got 2\.0"),
        ({"lam": optax.linear_schedule(0.0, 1.0, 9)}, r"lam\(0\), the first .*nonzero"),
    ],
)
def test_the_first_value_of_a_schedule_is_checked(kwargs, message):
    for make in (absgd_jax.attentional_aggregate, absgd_jax.scale_by_attention):
        with pytest.raises(ValueError, match=message):
            make(**({"lam": 1.0} | kwargs)).init(params)
    with pytest.raises(ValueError, match=message):
        absgd_jax.attention(**({"lam": 1.0} | kwargs)).init()


@pytest.mark.parametrize(
    ("first", "last"), [(np.inf, 0.5), (2.0, -2.0), (-1.0, np.inf)]
)
def test_an_annealed_lam_moves_evenly_in_its_inverse(first, last):
    schedule = absgd_jax.anneal(last, 10, 20, first=first)
    lams = np.array([float(schedule(step)) for step in range(31)])
    done = np.clip((np.arange(31) - 10) / 10, 0, 1)
    np.testing.assert_allclose(1 / lams, (1 - done) / first + done / last, atol=1e-6)
    assert not np.isnan(lams).any()
    assert lams[0] == first
    assert lams[-1] == last


def test_steps_of_a_schedule_may_be_traced_or_of_numpy():
    @jax.jit
    def at(count, begin, end):
        two = absgd_jax.two_stage(0.5, begin, first=4.0)
        gradual = absgd_jax.anneal(0.5, begin, end, first=4.0)
        return two(count), gradual(count)

    plain = absgd_jax.two_stage(0.5, 3, 4.0), absgd_jax.anneal(0.5, 3, 9, 4.0)
    with jax.numpy_dtype_promotion("strict"):
        of_numpy = absgd_jax.anneal(0.5, np.int64(3), np.int64(9), 4.0)
        for count in range(12):
            expected = [schedule(count) for schedule in plain]
            np.testing.assert_allclose(at(count, 3, 9), expected, rtol=1e-6)
            assert of_numpy(jnp.int32(count)) == expected[1]


@pytest.mark.parametrize("step", [1, np.int64(1)])
def test_steps_of_64_bits_are_compared_with_a_count_of_32(step):
    losses = jnp.array([0.0, 1.0, 4.0])
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        for lam in (
            absgd_jax.two_stage(0.5, step),
            absgd_jax.two_stage(absgd_jax.kl_radius(), step),
            absgd_jax.anneal(0.5, 0, step),
        ):
            attention = absgd_jax.attention(lam)
            _, state = attention.weigh(losses, attention.init())
            _, state = attention.weigh(losses, state)
            assert jnp.isfinite(state.lam)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_schedule_that_ends_at_zero_gives_the_step_to_the_extreme_loss(sign):
    lam = optax.linear_schedule(sign, 0.0, 1)
    tx = absgd_jax.attentional_aggregate(lam, 1.0)
    losses, state = jnp.array([0.0, 1.0, 4.0]), tx.init(0.0)
    _, state = tx.update(jnp.arange(3.0), state, losses=losses)
    direction, _ = tx.update(jnp.arange(3.0), state, losses=losses)
    extreme = 2 if sign > 0 else 0
    assert direction == extreme
    attention = absgd_jax.attention(lam, 1.0)
    _, state = attention.weigh(losses, attention.init())
    weights, state = attention.weigh(losses, state)
    np.testing.assert_array_equal(weights, 3.0 * (jnp.arange(3) == extreme))
    assert np.sign(state.lam) == sign


@pytest.mark.parametrize("last", [1e-40, -1e-44])
def test_a_schedule_that_ends_beside_zero_keeps_weights_finite(last):
    """Where a processor takes such a number for zero, and where it does not."""
    lam = lambda count: jnp.where(count < 1, 0.5, jnp.float32(last))
    attention, losses = absgd_jax.attention(lam), jnp.array([0.0, 1.0, 4.0])
    for weigh in (attention.weigh, jax.jit(attention.weigh)):
        _, state = weigh(losses, attention.init())
        weights, _ = weigh(losses, state)
        assert jnp.isfinite(weights).all()


def test_an_annealed_lam_refuses_steps_in_the_wrong_order():
    with pytest.raises(ValueError, match="must come before end_step, got 5 and 5"):
        absgd_jax.anneal(1.0, 5, 5)
    with pytest.raises(ValueError, match=r"must not be negative .* got -1 and 5"):
        absgd_jax.anneal(1.0, -1, 5)


# A JAX in which types cannot be read.


def test_a_type_without_varying_axes_is_an_error(monkeypatch):
    """Taking nothing for varying would sum gradients once for every device."""
    monkeypatch.setattr(jax, "typeof", lambda x: types.SimpleNamespace(shape=()))
    with pytest.raises(RuntimeError, match=f"cannot read from JAX {jax.__version__}"):
        _devices.sum_gradients({"w": jnp.ones(2)}, jnp.ones(2), "data")
