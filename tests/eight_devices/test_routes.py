"""Options that hold on eight devices as on one, and gradients that would be wrong."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import absgd_jax
from absgd_jax import losses
from tests import problems
from tests.eight_devices import meshes
from tests.eight_devices.meshes import SPREADS, assert_equal, one_device, spread
from tests.problems import per_example_losses

batches = meshes.global_batches()
SOME = ["jit, Auto axes", "shard_map", "pmap"]


@pytest.mark.parametrize(
    ("lam", "kwargs", "names"),
    [
        (0.2, {"max_weight": 2.0}, SOME),
        (absgd_jax.kl_radius(), {}, SPREADS),
        (absgd_jax.kl_radius(0.2, -1), {"max_weight": np.inf}, SOME),
    ],
    ids=["bounded", "radius", "radius without bound"],
)
def test_options_hold_across_devices(lam, kwargs, names):
    expected = meshes.alone("pullback", lam, **kwargs)
    for name in names:
        assert_equal(spread(name, "pullback", lam, batches, **kwargs), expected)


# shard_map sums gradients of replicated parameters: be right, or refuse.


def test_dense_gradients_that_are_summed_already_are_refused():
    tx = meshes.optimizer("dense", 0.5, 0.3, "data")

    def naive(params, state, x, labels, v):
        dense = jax.vmap(jax.grad(problems.one_loss), (None, 0, 0))(params, x, labels)
        losses = per_example_losses(params, x, labels)
        updates, state = tx.update(dense, state, params, losses=losses)
        return optax.apply_updates(params, updates), state

    with pytest.raises(
        ValueError, match=r"\['w'\] is summed over 'data' already.*pcast"
    ):
        meshes.train(meshes.mapped(naive, True), tx, batches)


# Parameters in parts, by hand: the transpose of `all_gather` sums their gradients.


def of_parts(make, optimizer):
    """A step of parameters [8, 3], a row a device; `make` gives update and state."""

    def step(part, state, x, labels):
        return make(
            lambda part: per_example_losses(
                {"w": jax.lax.all_gather(part, "data", tiled=True)}, x, labels
            ),
            optimizer,
            part,
            state,
        )

    rng = np.random.default_rng(0)
    w, x = (rng.normal(size=(n, 8)).astype(np.float32) for n in (3, 32))
    labels = rng.integers(3, size=32)
    rows, whole = jax.P("data"), jax.P()
    spread_step = jax.shard_map(
        step,
        mesh=jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=(rows, whole, rows, rows),
        out_specs=rows,
    )
    state = absgd_jax.attention(0.5, axis_name="data").init()
    got = jax.jit(spread_step)(w.T, state, x, labels)
    weights, _ = absgd_jax.attention(0.5).weigh(
        per_example_losses({"w": w.T}, x, labels), absgd_jax.attention(0.5).init()
    )
    mean = lambda w: (weights * per_example_losses({"w": w}, x, labels)).mean()
    return got, jax.grad(mean)(w.T)


def test_attention_weighs_examples_whoever_holds_the_parameters():
    def make(losses_of, _, part, state):
        def loss(part):
            losses = losses_of(part)
            weights, _ = absgd_jax.attention(0.5, axis_name="data").weigh(losses, state)
            return (weights * losses).mean() / jax.lax.psum(1, "data")

        return jax.grad(loss)(part)

    np.testing.assert_allclose(*of_parts(make, None), rtol=1e-5, atol=1e-7)


def pulled(losses_of, tx, part, state):
    losses, pullback = jax.vjp(losses_of, part)
    return tx.update(pullback, state, part, losses=losses)[0]


def by_value(losses_of, tx, part, state):
    of = absgd_jax.tilted_value_and_grad(losses_of, 0.5, axis_name="data")
    value, grads = of(part)
    return tx.update(grads, state, part, value=value)[0]


def by_number(losses_of, _, part, state):
    tx = absgd_jax.scale_by_attention(0.5, axis_name="data")
    of = jax.value_and_grad(lambda part: absgd_jax.tilted_loss(losses_of(part), 0.5))
    value, grads = of(part)
    return tx.update(grads, state, part, value=value)[0]


@pytest.mark.parametrize("make", [pulled, by_value, by_number])
def test_parts_of_parameters_would_be_summed_twice_and_are_refused(make):
    tx = absgd_jax.attentional_aggregate(0.5, axis_name="data")
    with pytest.raises(ValueError, match=r"differs from device.*\(FSDP\).*attention\("):
        of_parts(make, tx)


# A step without a collective between forward and backward pass.
local_tilt = functools.partial(meshes.tilted_step, local=True)


@pytest.mark.parametrize(
    ("lam", "name"), [(0.5, "shard_map"), (-0.5, "shard_map, unchecked"), (0.5, "pmap")]
)
def test_local_tilt_rescaled_afterwards_is_the_same_update(lam, name):
    tx = meshes.optimizer("value", lam, 0.3, "data")
    step = local_tilt(tx, cast=name == "shard_map")
    assert_equal(SPREADS[name].run(step, tx, batches), one_device("value", lam))


# Every device has another weight; the first has only padding, and once all have.
share = np.repeat(np.arange(float(meshes.DEVICES)), 4).astype(np.float32)
uneven = [(x, y, v * share * (n != 1)) for n, (x, y, v) in enumerate(batches)]


def local_value(tx, cast, **extra):
    """A step by the value of each device's own part."""

    def step(params, state, x, labels, v):
        own = problems.vary(params, "data") if cast else params
        of = absgd_jax.tilted_value_and_grad(per_example_losses, 0.5)
        value, grads = of(own, x, labels, sample_weights=v)
        updates, state = tx.update(grads, state, params, value=value, **extra)
        return optax.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize("step_of", [local_value, local_tilt], ids=["value", "number"])
@pytest.mark.parametrize("name", ["shard_map", "shard_map, unchecked", "pmap"])
def test_local_tilts_of_uneven_parts_are_that_of_the_whole_batch(name, step_of):
    tx = meshes.optimizer("value", 0.5, 0.3, "data")
    found = SPREADS[name].run(step_of(tx, cast=name == "shard_map"), tx, uneven)
    alone = meshes.optimizer("pullback", 0.5, 0.3)
    one_step = jax.jit(meshes.make_step(alone, "pullback"))
    assert_equal(found, meshes.train(one_step, alone, uneven))


def test_a_part_of_padding_that_counts_as_one_makes_no_update():
    """The others' gradients, summed as they are, would look like one."""
    tx = meshes.optimizer("value", 0.5, 0.3, "data")
    step = local_value(tx, cast=False, total_weight=1.0)
    params, state = SPREADS["pmap"].run(step, tx, uneven[:1])
    assert np.isnan(params["w"]).all()
    assert absgd_jax.attention_state(state).tilted_loss == 0.0


def test_local_tilt_of_summed_gradients_is_refused():
    tx = meshes.optimizer("value", 0.5, 0.3, "data")
    step = meshes.mapped(local_tilt(tx, cast=False), check_vma=True)
    with pytest.raises(ValueError, match="summed over 'data' already"):
        meshes.train(step, tx, batches)


def value_step(tx, over):
    """Value and gradient of `tilted_value_and_grad`, and no mean of them."""

    def step(params, state, x, labels, v):
        of = absgd_jax.tilted_value_and_grad(per_example_losses, state, axis_name=over)
        value, grads = of(params, x, labels, sample_weights=v)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize("name", ["shard_map", "shard_map, unchecked", "pmap"])
@pytest.mark.parametrize("transform", ["absgd", "scale_by_attention"])
def test_the_value_of_the_whole_batch_needs_no_axis_again_and_takes_it(transform, name):
    def make(**axis):
        if transform == "absgd":
            return absgd_jax.absgd(0.1, 0.5, 0.3, **axis)
        return optax.chain(
            absgd_jax.scale_by_attention(0.5, 0.3, **axis), optax.sgd(0.1)
        )

    without, again = make(), make(axis_name="data")
    expected = meshes.train(jax.jit(value_step(without, None)), without, batches)
    for tx in (without, again):
        assert_equal(SPREADS[name].run(value_step(tx, "data"), tx, batches), expected)


def test_a_value_of_one_axis_is_rescaled_over_the_other():
    def make(axes):
        attention = absgd_jax.scale_by_attention(0.5, 0.3, axis_name=axes)
        return optax.chain(attention, optax.sgd(0.1))

    tx, one = make(("host", "chip")), make(None)

    def step(params, state, x, labels, v):
        of = absgd_jax.tilted_value_and_grad(
            per_example_losses, state, axis_name="host"
        )
        value, grads = of(params, x, labels, sample_weights=v)
        total = jax.lax.psum(v.sum(), "host")
        updates, state = tx.update(
            grads, state, params, value=value, total_weight=total
        )
        return optax.apply_updates(params, updates), state

    expected = meshes.train(jax.jit(value_step(one, None)), one, batches)
    mapped = meshes.mapped(step, False, ("host", "chip"))
    assert_equal(meshes.train(mapped, tx, batches), expected)


@pytest.mark.parametrize("name", ["shard_map", "pmap"])
def test_the_value_of_a_part_is_refused_where_the_optimizer_has_an_axis(name):
    tx = absgd_jax.absgd(0.1, axis_name="data")
    with pytest.raises(
        ValueError, match=r"axis_name=None: without 'data'.*axis_name='data'"
    ):
        SPREADS[name].run(value_step(tx, None), tx, batches)


def test_under_pmap_a_mean_over_devices_does_too():
    """The pmean that a pmapped loop has already, in place of axis_name."""
    tx = meshes.optimizer("value", 0.5, 0.3)
    step = meshes.tilted_step(tx, over="data", mean=True)
    assert_equal(meshes.pmap(step, tx, batches), one_device("value", 0.5))


def test_class_weights_and_statistics_of_a_batch_on_an_explicit_mesh():
    """`jax.make_mesh` makes such axes by default."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(16, 5)).astype(np.float32), np.arange(16) % 3
    kernel, counts = np.ones((5, 3), np.float32), jnp.array([9, 5, 2])

    @jax.jit
    def everything(x, labels):
        logits = x @ kernel
        of_classes = [
            losses.softmax_cross_entropy_with_integer_labels(
                logits, labels, class_weights=[1.0, 2.0, 3.0]
            ),
            losses.ldam_loss(logits, labels, class_counts=counts),
            losses.logit_adjusted_cross_entropy(logits, labels, class_counts=counts),
        ]
        attention = absgd_jax.attention(0.7, max_weight=2.0)
        weights, state = attention.weigh(
            of_classes[0], attention.init(), sample_weights=jnp.ones(16)
        )
        found = absgd_jax.weight_statistics(weights, groups=labels, num_groups=3)
        return of_classes, weights, state, found

    expected = everything(x, labels)
    with jax.set_mesh(mesh):
        spread = NamedSharding(mesh, P("data"))
        found = everything(*jax.device_put((x, labels), spread))
    chex.assert_trees_all_close(*jax.device_get((found, expected)), rtol=1e-5)


@pytest.mark.parametrize("route", ["weights", "pullback", "value"])
def test_a_bound_where_tokens_are_sharded_over_an_explicit_axis(route):
    """Sequence parallel: batches on a mapped axis, tokens on one that is not mapped."""
    types = (AxisType.Auto, AxisType.Explicit)
    mesh = jax.make_mesh((4, 2), ("data", "tokens"), axis_types=types)
    x = jax.random.normal(jax.random.key(0), (8, 6))
    losses_of = lambda w, x: (x - w) ** 2

    def update(w, x, axis_name=None):
        tx = absgd_jax.absgd(0.1, 0.5, max_weight=1.5, axis_name=axis_name)
        state = tx.init(w)
        if route == "value":
            of = absgd_jax.tilted_value_and_grad(losses_of, state, axis_name=axis_name)
            value, grad = of(w, x)
            return tx.update(grad, state, w, value=value)[0]
        losses, pullback = jax.vjp(lambda w: losses_of(w, x), w)
        if route == "weights":
            attention = absgd_jax.attention(0.5, max_weight=1.5, axis_name=axis_name)
            weights, _ = attention.weigh(losses, attention.init())
            total = jnp.sum(weights * losses)
            return total if axis_name is None else lax.psum(total, axis_name)
        return tx.update(pullback, state, w, losses=losses)[0]

    expected = update(jnp.zeros(()), x)
    with jax.set_mesh(mesh):
        mapped = jax.shard_map(
            functools.partial(update, axis_name="data"),
            in_specs=(P(), P("data")),
            out_specs=P(),
            axis_names={"data"},
        )
        sharded = jax.device_put(x, NamedSharding(mesh, P("data", "tokens")))
        found = jax.jit(mapped)(jnp.zeros(()), sharded)
    np.testing.assert_allclose(jax.device_get(found), expected, rtol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("mean_of", ["loss", "gradients", "gathered parameters"])
def test_weights_leave_the_mean_over_devices_to_the_program(mean_of, check_vma):
    """As docs/several_devices.md says, and D times too large by the other mean."""
    x = jax.random.normal(jax.random.key(0), (32, 8))
    y, w = jnp.sum(x, axis=1) + 1, jnp.full(8, 0.3)

    def loss_of(w, x, y, axis_name):
        attention = absgd_jax.attention(2.0, axis_name=axis_name)
        losses = (x @ w - y) ** 2
        weights, _ = attention.weigh(losses, attention.init())
        return jnp.mean(weights * losses)

    def on_each(w, x, y):
        def loss(part):
            gather = mean_of == "gathered parameters"
            all_of_it = lax.all_gather(part, "data", tiled=True) if gather else part
            loss = loss_of(all_of_it, x, y, "data")
            return lax.pmean(loss, "data") if mean_of == "loss" else loss

        grads = jax.grad(loss)(w)
        if mean_of == "gathered parameters":
            return grads / lax.axis_size("data")
        return lax.pmean(grads, "data") if mean_of == "gradients" else grads

    spec = P("data") if mean_of == "gathered parameters" else P()
    mapped = jax.shard_map(
        on_each,
        mesh=jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=(spec, P("data"), P("data")),
        out_specs=spec,
        check_vma=check_vma,
    )
    expected = jax.grad(loss_of)(w, x, y, None)
    got = jax.jit(mapped)(w, x, y)
    right = {"loss": check_vma, "gradients": not check_vma}.get(mean_of, True)
    if right:
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    elif mean_of == "gradients":
        np.testing.assert_allclose(got, 8 * expected, rtol=1e-5)
    else:  # each device has a gradient of its own
        assert not np.allclose(got, expected, rtol=0.1)
