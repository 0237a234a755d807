"""The collectives of a step on eight devices, read off the compiled program."""

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import absgd_jax
from benchmarks import collectives

BATCH = 64
SHAPES = {"first": (16, 32), "second": (32, 32), "last": (32, 8)}
LAYOUTS = {
    "parameters whole": ((8,), ("data",), P()),
    "parameters in parts": ((8,), ("data",), P("data")),
    "layers in parts": ((4, 2), ("data", "model"), P(None, "model")),
}
TWO = Counter(
    {("all-reduce maximum", ("f32[2]",)): 1, ("all-reduce add", ("f32[5]",)): 1}
)


def per_example_losses(params, x, labels):
    x = jax.nn.relu(jax.nn.relu(x @ params["first"]) @ params["second"])
    return absgd_jax.losses.softmax_cross_entropy_with_integer_labels(
        x @ params["last"], labels
    )


def sgd(tx, params, state, x, labels):
    grads = jax.grad(lambda p: per_example_losses(p, x, labels).mean())(params)
    return tx.update(grads, state, params)


def pullback(tx, params, state, x, labels):
    losses, pull = jax.vjp(lambda p: per_example_losses(p, x, labels), params)
    return tx.update(pull, state, params, losses=losses)


def dense(tx, params, state, x, labels):
    of_one = lambda p, x, label: per_example_losses(p, x[None], label[None])[0]
    grads = jax.vmap(jax.grad(of_one), (None, 0, 0))(params, x, labels)
    return tx.update(grads, state, params, losses=per_example_losses(params, x, labels))


def value(tx, params, state, x, labels, **kwargs):
    value_and_grad = absgd_jax.tilted_value_and_grad(
        per_example_losses, state, **kwargs
    )
    value, grads = value_and_grad(params, x, labels)
    return tx.update(grads, state, params, value=value)


def program(route, tx, layout="parameters whole", *, mapped=False, **kwargs):
    """The compiled step; arrays are abstract."""
    shape, names, spec = LAYOUTS[layout]
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))

    def spread(tree, spec):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, spec if x.ndim else P())
            ),
            tree,
        )

    def step(params, state, x, labels):
        updates, state = route(tx, params, state, x, labels, **kwargs)
        return optax.apply_updates(params, updates), state

    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in SHAPES.items()}
    before = spread((params, jax.eval_shape(tx.init, params)), spec)
    batch = spread((jnp.zeros((BATCH, 16)), jnp.zeros(BATCH, int)), P("data"))
    if mapped:
        step = jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P(), P("data"), P("data")), out_specs=P()
        )
    shardings = jax.tree.map(lambda x: x.sharding, before)
    compiled = jax.jit(step, out_shardings=shardings).lower(*before, *batch).compile()
    return collectives.read(compiled.as_text()).collectives


def counted(found):
    """By kind and arrays."""
    return Counter((each.kind, each.arrays) for each in found)


def sizes(found):
    """By kind and bytes: dense gradients are summed transposed."""
    return Counter((each.kind, each.bytes) for each in found)


@functools.cache
def of_sgd(layout):
    return program(sgd, optax.sgd(0.1, 0.9), layout)


def test_sgd_sums_its_gradient_and_nothing_else():
    assert [each.kind for each in of_sgd("parameters whole")] == ["all-reduce add"]


@pytest.mark.parametrize(
    ("layout", "route", "lam"),
    [
        ("parameters whole", pullback, 1.0),
        ("parameters whole", value, -0.5),
        ("parameters whole", dense, -0.5),
        ("parameters in parts", pullback, -0.5),
        ("parameters in parts", value, 1.0),
        ("layers in parts", pullback, 1.0),
        ("layers in parts", value, -0.5),
    ],
)
def test_two_small_collectives_more_than_sgd(layout, route, lam):
    """A maximum of two numbers and a sum of five; 28 bytes whatever the model."""
    found = program(route, absgd_jax.absgd(0.1, lam, 0.3), layout)
    assert counted(found) >= TWO
    more = Counter({("all-reduce maximum", 8): 1, ("all-reduce add", 20): 1})
    assert sizes(found) == sizes(of_sgd(layout)) + more


def test_max_weight_gathers_the_losses_and_nothing_larger():
    found = program(pullback, absgd_jax.absgd(0.1, 0.5, 0.3, max_weight=4.0))
    lengths = [int(n) for each in found for n in re.findall(r"\[(\d+)\]", str(each))]
    assert max(lengths) <= BATCH
    # It does cost more, and the documentation says so.
    assert len(found) > len(of_sgd("parameters whole")) + TWO.total()


@functools.cache
def mapped(lam, bound):
    tx = absgd_jax.absgd(0.1, lam, 0.3, max_weight=bound, axis_name="data")
    return program(pullback, tx, mapped=True)


def test_a_radius_needs_no_collective_of_its_own():
    """Neither without a bound nor, on a mapped axis, with one."""
    radius = absgd_jax.kl_radius(0.4)
    assert counted(mapped(radius, 2.0)) == counted(mapped(0.5, 2.0))
    found = mapped(radius, float("inf"))
    assert counted(each for each in found if each.bytes <= 20) == TWO
    assert len(found) == 3  # the gradient's, of all parameters


def test_a_bound_under_shard_map_is_one_message():
    """All losses and base weights; then every device knows the whole batch."""
    found = mapped(0.5, 2.0)
    (bound,) = (each for each in found if each.bytes <= 2 * BATCH * 4)
    assert (bound.kind, bound.arrays) == ("all-reduce add", ("f32[8,2,8]",))
    assert len(found) == 2  # the gradient's, of all parameters


@pytest.mark.parametrize(("mapped", "repeated"), [(False, True), (True, False)])
def test_every_microbatch_has_its_two_messages(mapped, repeated):
    """The gradient's is one a step where each device adds up its own microbatches."""
    extra = {"microbatch_size": 16}
    if mapped:
        extra = {"axis_name": "data", "microbatch_size": 2}
    found = program(value, absgd_jax.absgd(0.1, 1.0), mapped=mapped, **extra)
    small = [each for each in found if each.bytes <= 20]
    assert counted(small) == TWO
    assert all(each.repeated for each in small)
    (gradient,) = (each for each in found if each.bytes > 20)
    assert gradient.repeated == repeated
