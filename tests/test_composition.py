"""ABSGD inside Optax's combinators."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import absgd_jax
from tests import problems
from tests.problems import route_step, transform

start, x, labels, _ = problems.start()
params = start | {"b": jnp.zeros(problems.CLASSES)}


cross_entropy = absgd_jax.losses.softmax_cross_entropy_with_integer_labels


def losses_of(params):
    return cross_entropy(x @ params["w"] + params["b"], labels)


def trained(tx, steps=5):
    w, state = params, tx.init(params)
    losses_fn = lambda params, x, labels: losses_of(params)
    step = jax.jit(problems.stepper("pullback", tx, losses_fn=losses_fn))
    for _ in range(steps):
        w, state = step(w, state, x, labels)
    return w, state


reference = absgd_jax.absgd(0.1, 0.7, 0.3)


# Optax.


def test_chains_are_the_alias():
    attention = absgd_jax.attentional_aggregate(0.7, 0.3)
    sgd = optax.sgd(0.1, momentum=0.9)
    expected, _ = trained(reference)
    guarded = optax.apply_if_finite(sgd, 3)
    named = optax.named_chain(("attention", attention), ("sgd", sgd))
    for chain in (optax.chain(attention, sgd), optax.chain(attention, guarded), named):
        w, state = trained(chain)
        chex.assert_trees_all_close(w, expected)
    assert state["attention"].count == 5


@pytest.mark.parametrize("route", ["pullback", "value"])
def test_inject_hyperparams_and_changing_them_by_hand(route):
    """Every number is injected; a changed λ is followed (one step on by `value`)."""
    make = absgd_jax.attentional_aggregate
    if route == "value":
        make = absgd_jax.scale_by_attention
    injected = optax.inject_hyperparams(make)(lam=0.7, gamma=0.3)
    of = lambda tx: jax.jit(functools.partial(route_step, route, tx, start))
    by_injected, by_first = of(injected), of(transform(route, 0.7, 0.3))
    by_second = of(transform(route, 2.0, 0.3))
    state, plain = injected.init(start), transform(route, 0.7, 0.3).init(start)

    def assert_equal_steps(expected):
        nonlocal state, plain
        _, state, got = by_injected(state, x, labels)
        _, plain, updates = expected(plain, x, labels)
        chex.assert_trees_all_close(got, updates, rtol=1e-6)

    for _ in range(3):
        assert_equal_steps(by_first)
    state.hyperparams["lam"] = jnp.float32(2.0)
    if route == "value":
        _, state, _ = by_injected(state, x, labels)
        _, plain, _ = by_second(plain, x, labels)
        assert absgd_jax.attention_state(state).lam == 2.0
    assert_equal_steps(by_second)


def test_an_exported_step_can_be_serialized():
    pytest.importorskip("flatbuffers")  # JAX needs it for this
    tx = absgd_jax.attentional_aggregate()
    for kind in (absgd_jax.AttentionState, absgd_jax.WeightBound):
        export.register_namedtuple_serialization(
            kind, serialized_name=f"absgd_jax.{kind.__name__}"
        )
    step = jax.jit(problems.stepper("pullback", tx))
    arguments = (start, tx.init(start), x, labels)
    read = export.deserialize(export.export(step)(*arguments).serialize())
    chex.assert_trees_all_close(read.call(*arguments), step(*arguments), rtol=1e-6)


@pytest.mark.parametrize(
    ("route", "gamma"), [("pullback", 0.05), ("value", 1.0), ("value", 0.05)]
)
def test_weights_keep_their_bound_when_gamma_is_changed_by_hand(route, gamma):
    """The gradient of one loss for each parameter is its weight in the mean."""
    losses = jnp.array([0.0, 1.0, 2.0, 9.0])
    make = functools.partial(absgd_jax.absgd, momentum=None)
    tx = optax.inject_hyperparams(make)(1.0, lam=1.0, gamma=0.9, max_weight=1.5)
    w = jnp.zeros(4)

    @jax.jit
    def update(state, t):
        loss_fn = lambda w: w + losses + t
        if route == "value":
            value, grads = absgd_jax.tilted_value_and_grad(loss_fn, state)(w)
            return tx.update(grads, state, w, value=value)
        given, pullback = jax.vjp(loss_fn, w)
        return tx.update(pullback, state, w, losses=given)

    state = tx.init(w)
    for step in range(4):
        if step == 2:
            state.hyperparams["gamma"] = jnp.float32(gamma)
        updates, state = update(state, 2.0 * step)
        assert (-4.0 * updates).max() <= 1.5 + 1e-5


SCHEDULE = {"lam": absgd_jax.two_stage(0.7, 2), "gamma": 0.3, "max_weight": 4.0}


@pytest.mark.parametrize(
    ("alias", "settings"),
    [
        (absgd_jax.absgd, SCHEDULE | {"weight_decay": 1e-3}),
        (absgd_jax.absgd, {"max_weight": 3.0}),  # with the default radius
        (absgd_jax.abadam, {"lam": 0.7}),
    ],
)
def test_inject_hyperparams_takes_all_of_an_alias(alias, settings):
    (w, state), (expected, plain) = (
        trained(make(0.01, **settings))
        for make in (optax.inject_hyperparams(alias), alias)
    )
    attention = [absgd_jax.attention_state(s) for s in (state, plain)]
    chex.assert_trees_all_close((w, attention[0]), (expected, attention[1]), rtol=1e-5)
    if settings.get("lam") is SCHEDULE["lam"]:
        assert float(state.hyperparams["lam"]) == pytest.approx(0.7)


def test_the_pullback_leaves_value_to_the_rest_of_the_chain():
    """Which wants a number; a plateau of loss lowers the rate as it should."""
    plateau = optax.contrib.reduce_on_plateau(patience=1, factor=0.5)
    tx = optax.chain(reference, plateau)
    losses, pull = jax.vjp(losses_of, params)
    update = jax.jit(
        lambda state: tx.update(pull, state, params, losses=losses, value=losses.mean())
    )
    state = tx.init(params)
    for _ in range(4):
        _, state = update(state)
    assert float(optax.tree.get(state, "scale")) < 1.0
    assert int(absgd_jax.attention_state(state).count) == 4


def test_freezing_after_aggregation():
    """Partition and mask the aggregated gradient, not the per-example ones."""
    attention = absgd_jax.attentional_aggregate(0.7, 0.3)
    sgd = optax.sgd(0.1, momentum=0.9)
    parts = {"train": sgd, "freeze": optax.set_to_zero()}
    frozen = optax.masked(optax.set_to_zero(), {"w": False, "b": True})
    found = []
    for tx in (
        optax.chain(attention, optax.partition(parts, {"w": "train", "b": "freeze"})),
        optax.chain(attention, sgd, frozen),
    ):
        found.append(trained(tx)[0])
    chex.assert_trees_all_close(*found)
    chex.assert_trees_all_equal(found[0]["b"], params["b"])
    assert not np.allclose(found[0]["w"], params["w"])


def test_tree_get_set_and_map_params():
    optimizer = absgd_jax.absgd(0.1, absgd_jax.two_stage(0.7, 2), 0.3)
    _, state = trained(optimizer)
    assert int(optax.tree.get(state, "count", filtering=in_attention)) == 5
    assert float(optax.tree.get(state, "lam")) == pytest.approx(0.7)
    F = float(optax.tree.get(state, "tilted_loss"))
    assert 0 < F < 5

    rewound = optax.tree.set(state, in_attention, count=jnp.int32(0))
    assert int(absgd_jax.attention_state(rewound).count) == 0
    moved = optax.tree.set(state, tilted_loss=jnp.float32(F + 1))
    assert float(absgd_jax.attention_state(moved).tilted_loss) == pytest.approx(F + 1)

    doubled = optax.tree.map_params(optimizer, lambda p: 2 * p, state)
    chex.assert_trees_all_equal(
        absgd_jax.attention_state(doubled), absgd_jax.attention_state(state)
    )
    trace, expected = (optax.tree.get(s, "trace") for s in (doubled, state))
    chex.assert_trees_all_equal(trace, jax.tree.map(lambda t: 2 * t, expected))


def in_attention(path, _):
    return any("AttentionState" in str(key) for key in path)


# What cannot be right says what to do.


@pytest.mark.parametrize("form", ["pullback", "dense"])
def test_masking_before_aggregation_is_refused(form):
    """Dense leaves that the mask leaves over would keep their batch axis."""
    inner = absgd_jax.attentional_aggregate(0.7)
    losses, per_example = jax.vjp(losses_of, params)
    message = r"Mask after it|structure|Expected dict"
    if form == "dense":
        per_example = jax.jit(jax.jacrev(losses_of))(params)
        message = r"chain\(attentional_aggregate\("  # what to write
    for tx in (
        optax.masked(inner, {"w": True, "b": False}),
        optax.partition({"a": inner, "b": optax.set_to_zero()}, {"w": "a", "b": "b"}),
    ):
        with pytest.raises(ValueError, match=message):
            tx.update(per_example, tx.init(params), params, losses=losses)


def test_wrappers_that_keep_gradients_cannot_hold_an_aggregation():
    """They return or store something of a gradient's shape: none of them runs."""
    losses, pullback = jax.vjp(losses_of, params)
    dense = jax.jit(jax.jacrev(losses_of))(params)
    inner = absgd_jax.attentional_aggregate(1.0)
    guarded = optax.apply_if_finite(reference, 3)  # belongs after the aggregation
    # Averages gradients; tilted_value_and_grad(microbatch_size=) is what is wanted.
    # Optax 0.2.6 compares what it would store with what it has stored before it asks.
    several = optax.MultiSteps(reference, 2)
    for tx, gradients, message in (
        (guarded, dense, "cond"),
        (several, dense, "one gradient per loss|branches"),
        (optax.MultiSteps(inner, 2), pullback, None),
        (optax.chain(optax.add_decayed_weights(1e-3), inner), pullback, None),
        (optax.masked(inner, {"w": True, "b": True}), pullback, None),
        (optax.partition({"a": inner}, {"w": "a", "b": "a"}), pullback, None),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            tx.update(gradients, tx.init(params), params, losses=losses)
