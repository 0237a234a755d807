"""The transforms: guarantees 3 to 8 on every route, and every refusal.

`test_algorithm1.py` has guarantees 1 and 2.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import absgd_jax
from tests import oracle, problems
from tests.problems import ROUTES, compiled, per_example_losses, route_step, transform

params, x, labels, v = problems.start()
every_route = pytest.mark.parametrize("route", ROUTES)
everybody = jnp.ones(problems.BATCH, bool)


# Guarantee 3: finite for every finite loss and every λ, in every precision.


@pytest.mark.parametrize(
    ("dtype", "kwargs"),
    [
        (jnp.bfloat16, {"init_s": 0.0}),  # whose losses are as large as float32's
        (jnp.float16, {"init_s": 0.0}),
        (jnp.float32, {"max_weight": 5.0}),
        (jnp.float16, {"max_weight": 5.0}),
    ],
)
def test_updates_stay_finite_and_keep_their_dtype(dtype, kwargs):
    biggest = float(jnp.finfo(dtype).max)
    gradients = {"w": jnp.ones((4, 3), dtype), "b": jnp.ones((4,), jnp.float32)}
    weights = jax.tree.map(lambda g: g[0], gradients)

    make = functools.partial(absgd_jax.attentional_aggregate, gamma=0.01, **kwargs)
    init = jax.jit(lambda lam: make(lam).init(weights))

    @jax.jit
    def step(lam, state, losses):
        tx = make(lam)
        _, pullback = jax.vjp(lambda w: losses + w["w"].sum() * 0, weights)
        pulled, _ = tx.update(pullback, state, weights, losses=losses)
        return *tx.update(gradients, state, weights, losses=losses), pulled

    for lam in (1.2e-38, -1.2e-38, 1e-3, 0.1, -1.0, 1e8, np.inf):
        state = init(lam)
        for values in ([0, 1, 2, 3], [biggest, -biggest, 0, 1], [0, 0, 0, 0]):
            updates, state, pulled = step(lam, state, jnp.asarray(values, dtype))
            chex.assert_tree_all_finite((updates, pulled, state.tilted_loss))
            assert state.tilted_loss.dtype == state.lam.dtype == jnp.float32
            chex.assert_trees_all_equal_dtypes(updates, pulled, weights)


def test_a_weight_beyond_float16_is_its_largest_number():
    """It is the cotangent of losses in float16, and at most 1/γ."""
    tx = absgd_jax.attentional_aggregate(1.0, gamma=1e-6, init_s=0.0)

    @jax.jit
    def update(w):
        losses, pullback = jax.vjp(lambda w: (w * 0.01).astype(jnp.float16)[None], w)
        return tx.update(pullback, tx.init(w), w, losses=losses)[0]

    biggest = float(jnp.finfo(jnp.float16).max)
    assert float(update(jnp.array(1.0))) == pytest.approx(biggest * 0.01, rel=1e-3)


# Guarantee 4: order, constants, padding.


@every_route
def test_the_order_of_examples_is_immaterial(route):
    tx, step = compiled(route)
    order = np.random.default_rng(0).permutation(problems.BATCH)
    straight = step(params, tx.init(params), x, labels, where=everybody)
    shuffled = step(params, tx.init(params), x[order], labels[order], where=everybody)
    chex.assert_trees_all_close(shuffled, straight, rtol=1e-5, atol=1e-7)


def test_a_constant_in_every_loss_changes_no_weight():
    @jax.jit
    def updates(lam, constant, batches):
        tx = absgd_jax.attentional_aggregate(lam, 0.3)

        def step(state, batch):
            losses, pullback = jax.vjp(
                lambda p: per_example_losses(p, *batch[:2]), params
            )
            return tx.update(pullback, state, params, losses=losses + constant)[::-1]

        return jax.lax.scan(step, tx.init(params), batches)[1]

    batches = problems.as_dtype(problems.batches(3), jnp.float32)
    for lam, constant in itertools.product((0.5, -2.0), (-3.0, 1e3)):
        plain, shifted = updates(lam, 0.0, batches), updates(lam, constant, batches)
        chex.assert_trees_all_close(
            plain, shifted, atol=1e-4 if constant > 100 else 1e-6
        )


@pytest.mark.parametrize(
    ("route", "kwargs"),
    [*((route, {}) for route in ROUTES), ("pullback", {"init_s": 0.0})],
)
def test_padding_under_where_is_as_if_it_were_not_there(route, kwargs):
    mask = jnp.arange(problems.BATCH) < 11
    tx, step = compiled(route, **kwargs)
    # What stands in the padding must not matter, finite or not.
    garbage = x.at[11:].set(1e4)
    padded = step(params, tx.init(params), garbage, labels, where=mask)
    alone = step(params, tx.init(params), x[:11], labels[:11])
    chex.assert_trees_all_close(padded, alone, rtol=1e-5, atol=1e-7)


def test_padding_may_have_gradients_that_are_not_finite():
    gradients = {"w": jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])}
    losses = jnp.array([1.0, jnp.nan])
    tx = absgd_jax.attentional_aggregate(1.0, init_s=None)
    weights = {"w": jnp.zeros(2)}
    for absent in (
        {"where": jnp.array([True, False])},
        {"sample_weights": jnp.array([1.0, 0.0])},
    ):
        updates, _ = jax.jit(tx.update)(
            gradients, tx.init(weights), weights, losses=losses, **absent
        )
        chex.assert_trees_all_close(updates, {"w": jnp.array([1.0, 2.0])})


@pytest.mark.parametrize("max_weight", [None, 1.2])
def test_padding_may_hold_anything_for_a_derivative_in_lam(max_weight):
    """As of meta-learning, through updates."""
    losses = jnp.array([1.0, jnp.nan, 2.0, jnp.inf])
    mask = jnp.array([True, False, True, False])

    def of(lam, losses, **where):
        tx = absgd_jax.attentional_aggregate(lam, 0.3, max_weight=max_weight)
        w = jnp.zeros(2)
        _, state = tx.update(jnp.eye(2), tx.init(w), losses=jnp.array([0.5, 1.0]))
        return tx.update(jnp.ones(len(losses)), state, losses=losses, **where)[0]

    found = jax.jit(jax.grad(of))(0.7, losses, where=mask)
    expected = jax.jit(jax.grad(of))(0.7, losses[mask])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found != 0.0


@every_route
def test_a_batch_of_padding_alone_does_nothing(route):
    tx, step = compiled(route)
    _, before, _ = step(params, tx.init(params), x, labels, where=everybody)
    _, after, updates = step(params, before, x, labels, where=~everybody)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    assert after == before._replace(count=jnp.int32(2))


def test_sample_weights_count_examples_as_often():
    tx, step = compiled("pullback")
    twice = jnp.concatenate([jnp.arange(problems.BATCH), jnp.arange(4)])
    repeated = step(params, tx.init(params), x[twice], labels[twice])
    weights = jnp.where(jnp.arange(problems.BATCH) < 4, 2.0, 1.0)
    weighted = step(params, tx.init(params), x, labels, sample_weights=weights)
    chex.assert_trees_all_close(weighted, repeated, rtol=1e-5, atol=1e-7)


def test_a_batch_of_sequences_weights_each_entry():
    def losses_of(params):
        return per_example_losses(params, x.reshape(4, 4, -1), labels.reshape(4, 4))

    tx, step = compiled("pullback")
    _, flat_state, flat = step(params, tx.init(params), x, labels)

    @jax.jit
    def by_both_forms(params, state):
        losses, pullback = jax.vjp(losses_of, params)
        dense = jax.jacrev(losses_of)(params)
        assert dense["w"].shape == (4, 4, problems.FEATURES, problems.CLASSES)
        by_dense, _ = tx.update(dense, state, params, losses=losses)
        return by_dense, *tx.update(pullback, state, params, losses=losses)

    by_dense, by_pullback, state = by_both_forms(params, tx.init(params))
    chex.assert_trees_all_close(by_pullback, flat, by_dense, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(state, flat_state, rtol=1e-6)


# Guarantee 6: extra arguments, and compiled once.


@every_route
def test_unknown_arguments_are_ignored_and_a_missing_one_is_named(route):
    tx = transform(route, 1.0, 0.5)
    state = tx.init(params)
    losses, pullback = jax.vjp(lambda p: per_example_losses(p, x, labels), params)
    given = {"value": losses.mean()} if route == "value" else {"losses": losses}
    grads = {
        "value": params,
        "pullback": pullback,
        "dense": jax.tree.map(lambda p: jnp.ones((problems.BATCH, *p.shape)), params),
    }[route]
    update = jax.jit(tx.update)
    chex.assert_trees_all_equal(
        update(grads, state, params, unknown=1, **given),
        update(grads, state, params, **given),
    )
    with pytest.raises(TypeError, match="'value'" if route == "value" else "'losses'"):
        tx.update(grads, state, params)


@every_route
def test_a_step_is_compiled_once_even_if_lam_follows_a_schedule(route):
    tx = transform(route, absgd_jax.two_stage(0.5, 3), optax.constant_schedule(0.5))

    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params, state, x, labels):
        return route_step(route, tx, params, state, x, labels)[:2]

    w, state = params, jax.jit(tx.init)(params)
    for batch in zip(*problems.as_dtype(problems.batches(6), jnp.float32), strict=True):
        w, state = step(w, state, *batch[:2])
    assert int(state.count) == 6
    assert float(state.lam) == 0.5


def test_lam_of_the_next_update_is_in_the_state():
    tx = absgd_jax.scale_by_attention(absgd_jax.two_stage(0.5, 2))
    state, update = tx.init(params), jax.jit(tx.update)
    lams = []
    for _ in range(4):
        lams.append(float(absgd_jax.attention_state(state).lam))
        _, state = update(params, state, params, value=1.0)
    assert lams == [np.inf, np.inf, 0.5, 0.5]


@pytest.mark.parametrize("route", ["pullback", "value"])
def test_lam_and_gamma_may_be_numbers_arrays_or_schedules(route):
    found = []
    for lam, gamma in (
        (0.5, 0.25),
        (jnp.array(0.5), np.float32(0.25)),
        (lambda count: 0.5, lambda count: 0.25),
    ):
        tx = transform(route, lam, gamma)
        step = jax.jit(functools.partial(route_step, route, tx))
        found.append(step(params, tx.init(params), x, labels))
    chex.assert_trees_all_close(*found, rtol=1e-6)


# Guarantee 7: a batch whose losses are not finite.


@every_route
def test_losses_that_are_not_finite_leave_s_alone(route):
    def optimizer(lam):
        guarded = optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), 3)
        return optax.chain(transform(route, lam, 0.5), guarded)

    @jax.jit
    def step(lam, w, state, x, v):
        stepper = problems.stepper(route, optimizer(lam), sample_weights=v)
        return stepper(w, state, x, labels)

    once = jnp.ones(problems.BATCH)
    inputs = [(x.at[2].set(bad), once) for bad in (jnp.nan, jnp.inf, -jnp.inf)]
    weights = [(x, once.at[2].set(bad)) for bad in (jnp.nan, -1.0)]
    for lam in (1.0, -1.0):
        fresh = params, jax.jit(lambda lam: optimizer(lam).init(params))(lam)
        for before in (fresh, step(lam, *fresh, x, once)):
            expected, _ = step(lam, *before, x, once)
            for bad in inputs + weights:
                w_after, state_after = step(lam, *before, *bad)
                # apply_if_finite dropped the step
                chex.assert_trees_all_equal(w_after, before[0])
                was = absgd_jax.attention_state(before[1])
                now = absgd_jax.attention_state(state_after)
                assert now == was._replace(count=was.count + 1)
                assert int(optax.tree.get(state_after, "total_notfinite")) == 1
                # Training goes on, as if that batch had not been.
                w_next, _ = step(lam, w_after, state_after, x, once)
                chex.assert_trees_all_close(w_next, expected)


# Guarantee 8: bounded weights.


@pytest.mark.parametrize("kwargs", [{}, {"init_s": 0.0}])
def test_max_weight_bounds_every_weight(kwargs):
    """With unit gradients along the axes the update is p / B itself."""

    @jax.jit
    def weights(lam, c, batches):
        tx = absgd_jax.attentional_aggregate(lam, 0.3, max_weight=c, **kwargs)

        def step(state, losses):
            updates, state = tx.update(jnp.eye(8), state, losses=losses)
            return state, 8 * updates

        return jax.lax.scan(step, tx.init(jnp.zeros(8)), batches)[1]

    batches = np.random.default_rng(0).exponential(size=(45, 8)).astype(np.float32)
    for c, lam in itertools.product((1.0, 2.0, 5.0), (0.1, 1.0, -0.3)):
        p = weights(lam, c, batches)
        assert p.max() <= c * (1 + 1e-6)
        assert p.min() >= 0


@pytest.mark.parametrize("size", [7, 100, 128])
def test_a_bound_of_one_makes_the_first_update_plain_sgds(size):
    """And no later weight is larger, though rounding may hide the solution for s."""
    rng = np.random.default_rng(2)
    losses = np.float32(2 * rng.exponential(size=(3, size)))
    tx = absgd_jax.absgd(1.0, 1.0, max_weight=1.0, momentum=None)

    @jax.jit
    def both(state, losses, v):
        of = lambda w: losses + w  # the gradient of each loss is that of its own w
        w = jnp.zeros(size)
        dense, after = tx.update(
            jnp.eye(size), state, w, losses=losses, sample_weights=v
        )
        value, grads = absgd_jax.tilted_value_and_grad(of, state)(w, sample_weights=v)
        tilted, _ = tx.update(grads, state, w, value=value)
        return dense, tilted, after

    for v in (np.ones(size, "f"), np.float32(rng.exponential(size=size))):
        state = tx.init(jnp.zeros(size))
        for index, batch in enumerate(losses):
            *updates, state = both(state, batch, v)
            for update in updates:
                weights = -update * v.sum() / v
                assert weights.max() <= 1.0 + 1e-5
                assert weights.min() > (0.0 if index else 1.0 - 1e-5)
            robust = absgd_jax.attention_state(state).tilted_loss
            assert losses.min() <= robust <= losses.max()


@functools.partial(jax.jit, static_argnames="max_weight")
def _mean_weights(max_weight, batches):
    """After each step at λ = 0.1."""
    tx = absgd_jax.attentional_aggregate(0.1, 0.1, init_s=None, max_weight=max_weight)

    def step(state, losses):
        updates, state = tx.update(jnp.eye(16), state, losses=losses)
        return state, updates.sum()

    return jax.lax.scan(step, tx.init(jnp.zeros(16)), batches)[1]


@pytest.mark.parametrize("outlier_step", [0, 10])
@pytest.mark.parametrize("outlier", [20.0, 1e4])
def test_one_outlier_neither_takes_over_nor_stalls(outlier, outlier_step):
    losses = np.random.default_rng(0).uniform(0.4, 0.6, size=(40, 16))
    losses[outlier_step, 3] = outlier
    bounded, unbounded = (_mean_weights(c, np.float32(losses)) for c in (4.0, None))
    assert bounded[outlier_step] < 4.0
    assert (bounded[outlier_step + 1 :] > 0.3).all()
    # And without the bound it does stall: the weights stay near zero to the end.
    assert (unbounded[outlier_step + 1 :] < 1e-3).all()


# The normaliser, from a whole optimizer state.


def test_attention_state_is_found_among_shapes():
    """As a checkpoint's target is made, or shardings are."""
    state = jax.eval_shape(absgd_jax.absgd(0.1).init, params)
    assert absgd_jax.attention_state(state).lam == jax.ShapeDtypeStruct((), np.float32)


def test_attention_state_must_be_there_once():
    with pytest.raises(ValueError, match=r"found 0 in .*restore it into"):
        absgd_jax.attention_state(optax.sgd(0.1).init(params))
    twice = optax.chain(*[absgd_jax.scale_by_attention(1.0)] * 2)
    with pytest.raises(ValueError, match=r"found 2: \[0\], \[1\]"):
        absgd_jax.normalizer(twice.init(params))


def test_s_is_that_of_the_lam_it_was_made_with():
    """Where λ moves, that of the next update makes another number of F."""
    tx = absgd_jax.absgd(0.1, absgd_jax.two_stage(1.0, 1), 0.5, init_s=0.0)
    losses = jnp.array([1.0, 2.0, 4.0])
    _, state = tx.update(jnp.ones(3), tx.init(0.0), 0.0, losses=losses)
    s = absgd_jax.normalizer(state, init_s=0.0, lam=jnp.inf)
    assert float(s) == pytest.approx(0.5)  # γ exp(L/∞)
    assert float(absgd_jax.normalizer(state, init_s=0.0)) > 5.0


def test_a_value_of_another_lam_is_rescaled_by_its_own():
    losses = np.random.default_rng(0).exponential(size=(4, 8)).astype(np.float32)
    losses[1::2] += 2.0

    @jax.jit
    def updates(lam_of_value, lam):
        tx, w = absgd_jax.absgd(1.0, lam, momentum=None), jnp.zeros(8)

        def step(state, batch):
            of = absgd_jax.tilted_value_and_grad(lambda w: batch + w, lam_of_value)
            value, grads = of(w)
            return tx.update(grads, state, w, value=value)[::-1]

        return jax.lax.scan(step, tx.init(w), losses)[1]

    chex.assert_trees_all_close(
        updates(0.5, 2.0), updates(0.5, 0.5), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    ("settings", "stale"),
    [
        ({}, True),  # the default radius, whose λ moves with every update
        ({"lam": absgd_jax.two_stage(1.0, 1)}, True),
        ({"lam": 1.0, "max_weight": 2.0}, True),  # the bound does
        ({"lam": 1.0}, False),
    ],
)
def test_a_value_of_an_earlier_state_is_refused(settings, stale):
    """As of a function that was made once, before the loop."""
    losses = jnp.array([0.1, 0.5, 3.0])
    tx, w = absgd_jax.absgd(0.1, **settings), jnp.zeros(3)
    first = tx.init(w)
    once = absgd_jax.tilted_value_and_grad(lambda w: losses + w, first)
    value, grads = once(w)
    _, later = tx.update(grads, first, w, value=value)
    traced, _ = jax.jit(tx.update)(grads, later, w, value=value)
    assert bool(jnp.isnan(traced).all()) == stale
    if stale:
        with pytest.raises(ValueError, match=r"after 0 updates.*in every step"):
            tx.update(grads, later, w, value=value)
    else:
        np.testing.assert_array_equal(
            traced, tx.update(grads, later, w, value=value)[0]
        )


@pytest.mark.parametrize("name", ["name", "settings"])
def test_arguments_of_other_transforms_are_ignored_whatever_their_names(name):
    tx, w, losses = absgd_jax.absgd(0.1), jnp.zeros(3), jnp.array([0.1, 0.5, 3.0])
    found = tx.update(jnp.eye(3), tx.init(w), w, losses=losses, **{name: "resnet"})
    chex.assert_trees_all_equal(
        found, tx.update(jnp.eye(3), tx.init(w), w, losses=losses)
    )


@pytest.mark.parametrize("state", [None, {"tilted_loss": 0.0}, jnp.zeros(3)])
def test_what_is_no_state_is_named(state):
    losses, w = jnp.array([0.1, 0.5, 3.0]), jnp.zeros(3)
    tx = absgd_jax.attentional_aggregate()
    with pytest.raises(TypeError, match=r"update\(updates, state\) takes an Attention"):
        tx.update(jnp.eye(3), state, w, losses=losses)
    by_value = absgd_jax.scale_by_attention(1.0)
    with pytest.raises(TypeError, match=r"update\(updates, state\) takes an Attention"):
        by_value.update(w, state, w, value=1.0)


def test_the_first_update_of_the_default_differentiates_as_sgd():
    x = jnp.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.3]])
    losses_of = lambda w: (x @ w - 1.0) ** 2

    def after_one_update(w, tx, **more):
        pullback = jax.vjp(losses_of, w)[1]
        grads = jax.grad(lambda w: losses_of(w).mean())(w)
        updates = pullback if more else grads
        if more:
            more = {"losses": losses_of(w)}
        update, _ = tx.update(updates, tx.init(w), w, **more)
        return losses_of(w + update).mean()

    w = jnp.array([0.3, -0.2])
    of = lambda tx, **more: jax.jit(
        jax.grad(lambda w: after_one_update(w, tx, **more))
    )(w)
    found = of(absgd_jax.absgd(0.1), losses=True)
    expected = of(optax.sgd(0.1, momentum=0.9))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_total_weight_may_be_a_count():
    tx = absgd_jax.scale_by_attention(1.0)
    state = tx.init(0.0)
    found = [
        tx.update(jnp.float32(1.0), state, 0.0, value=2.0, total_weight=weight)
        for weight in (jnp.ones(3, bool).sum(), 3.0)
    ]
    chex.assert_trees_all_equal(*found)


def test_parameters_in_half_precision_have_a_state_under_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        params = {"w": jnp.zeros(2, jnp.bfloat16)}
        tx, losses = absgd_jax.absgd(0.1), jnp.array([1.0, 2.0], jnp.bfloat16)
        state = tx.init(params)
        dense = {"w": jnp.ones((2, 2), jnp.bfloat16)}
        updates, _ = jax.jit(tx.update)(dense, state, params, losses=losses)
        assert updates["w"].dtype == jnp.bfloat16
    assert absgd_jax.attention_state(state).tilted_loss.dtype == jnp.float32


def test_losses_of_fewer_bits_than_the_parameters_are_weighed_in_theirs():
    """Else s, which is float64, would be rounded to float32 at every step."""
    lam, gamma = 0.1, 0.3
    attention = absgd_jax.attention(lam, gamma)
    aggregate = absgd_jax.attentional_aggregate(lam, gamma)
    rescale = absgd_jax.scale_by_attention(lam, gamma)
    with jax.enable_x64(True):
        w = jnp.zeros(2, jnp.float64)
        states = [tx.init(w) for tx in (attention, aggregate, rescale)]
        by_hand = oracle.Attention(lam, gamma)
        for losses in (np.float32([0.5, 0.5]), np.float32([0.25, 0.25])):
            weights, states[0] = attention.weigh(losses, states[0])
            dense, states[1] = aggregate.update(jnp.eye(2), states[1], losses=losses)
            scaled, states[2] = rescale.update(
                w + 0.5, states[2], w, value=jnp.float32(losses[0])
            )
            p = by_hand.weights(losses)
            for found in (weights, 2 * dense, 2 * scaled):
                assert found.dtype == jnp.float64
                np.testing.assert_allclose(found, p, rtol=1e-13)


def test_state_is_four_scalars_whatever_the_parameters():
    for tree in (params, {"w": jnp.zeros((3, 3), jnp.bfloat16), "n": jnp.arange(3)}):
        state = absgd_jax.attentional_aggregate(2.0).init(tree)
        leaves = [(a.shape, str(a.dtype)) for a in jax.tree.leaves(state)]
        scalar = ((), "float32")
        assert leaves == [((), "int32"), scalar, scalar, scalar]
    bounded = absgd_jax.attentional_aggregate(2.0, 0.3, max_weight=4.0).init(params)
    bound = [float(leaf) for leaf in jax.tree.leaves(bounded.bound)]
    assert bound == [4.0, pytest.approx(0.3)]
    follows = absgd_jax.attentional_aggregate(max_weight=4.0).init(params)
    assert follows.bound.unbounded.dtype == jnp.float32
    assert float(state.discount) == 1.0


# Every refusal.


def aggregate_with(gradients, params=params, lam=1.0, **kwargs):
    tx = absgd_jax.attentional_aggregate(lam)
    return tx.update(gradients, tx.init(params), params, **kwargs)


dense = {"w": jnp.ones((4, problems.FEATURES, problems.CLASSES))}


@pytest.mark.parametrize(
    ("gradients", "kwargs", "error", "message"),
    [
        (dense, {"losses": jnp.float32(1.0)}, ValueError, "batch axis, got a scalar"),
        (dense, {"losses": jnp.arange(4)}, TypeError, "got dtype int32"),
        (dense, {"losses": jnp.ones(3)}, ValueError, r"\(4, 5, 3\).*shape \(3,\)"),
        (dense, {"losses": jnp.ones((4, 5))}, ValueError, r"\(4, 5, 5, 3\).*, got"),
        (params, {"losses": jnp.ones(4)}, ValueError, r"goes with `value=`"),
        ({"v": dense["w"]}, {"losses": jnp.ones(4)}, ValueError, "structure of params"),
        (dense, {"losses": jnp.ones(4), "where": jnp.ones(3, bool)}, ValueError,
         r"where must have the shape of losses, \(4,\), got \(3,\)"),
        (dense, {"losses": jnp.ones(4), "where": jnp.ones(4)}, TypeError,
         "where must be boolean, got dtype float32"),
        (dense, {"losses": jnp.ones(4), "sample_weights": jnp.ones(3)}, ValueError,
         r"sample_weights must have the shape of losses, \(4,\), got \(3,\)"),
        (dense, {"losses": jnp.ones(4), "sample_weights": [1.0, 1.0, -2.0, 0.0]},
         ValueError, r"sample_weights must not be negative or NaN, got -2\.0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(gradients, kwargs, error, message):
    with pytest.raises(error, match=message):
        aggregate_with(gradients, **kwargs)
    arrays = {k: jnp.asarray(a) for k, a in kwargs.items()}
    if "negative" not in message:  # a traced value has no sign yet
        with pytest.raises(error, match=message):
            jax.jit(aggregate_with)(gradients, **arrays)


def test_a_pullback_of_more_than_the_parameters_is_refused():
    losses, pullback = jax.vjp(lambda p, x: per_example_losses(p, x, labels), params, x)
    with pytest.raises(ValueError, match="returned 2 cotangents instead of 1"):
        aggregate_with(pullback, losses=losses)
    with pytest.raises(ValueError, match="returned dict cotangents instead of 1"):
        aggregate_with(lambda weights: pullback(weights)[0], losses=losses)


def test_gradients_given_to_the_wrong_transform_are_refused():
    tx = absgd_jax.scale_by_attention(1.0)
    losses, pullback = jax.vjp(lambda p: per_example_losses(p, x, labels), params)
    for gradients, value, error, message in (
        (dense, 1.0, ValueError, r"shape \(4, 5, 3\) and its parameter \(5, 3\)"),
        (pullback, 1.0, TypeError, "give a pullback with `losses=` to attentional"),
        (params, losses, ValueError, r"value must be a scalar, got shape \(16,\)"),
        (params, jnp.int32(1), TypeError, "be floating point, got dtype int32"),
    ):
        with pytest.raises(error, match=message):
            tx.update(gradients, tx.init(params), params, value=value)
    mask = {"where": jnp.ones(16, bool), "value": 1.0}
    with pytest.raises(TypeError, match=r"takes no where with `value=`.*where=where"):
        tx.update(params, tx.init(params), params, **mask)
    weighted = {"sample_weights": jnp.ones(16), "value": 1.0}
    with pytest.raises(TypeError, match=r"takes no sample_weights with `value=`"):
        tx.update(params, tx.init(params), params, **weighted)
    of_each = {"total_weight": jnp.ones(16), "value": 1.0}
    with pytest.raises(ValueError, match=r"total_weight must be a scalar, .* \(16,\)"):
        tx.update(params, tx.init(params), params, **of_each)
