"""What is said between devices when parameters or microbatches are spread too."""

from collections import Counter

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import absgd_jax
from benchmarks import collectives

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


def value(tx, params, state, x, labels, **kwargs):
    value_and_grad = absgd_jax.tilted_value_and_grad(per_example_losses, 1.0, **kwargs)
    value, grads = value_and_grad(params, x, labels)
    return tx.update(grads, state, params, value=value)


def program(route, tx, mesh, spec, *, mapped=False, **kwargs):
    """The compiled step; arrays are abstract."""

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
    batch = spread((jnp.zeros((64, 16)), jnp.zeros(64, int)), P(mesh.axis_names[0]))
    if mapped:
        step = jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P(), P("data"), P("data")), out_specs=P()
        )
    shardings = jax.tree.map(lambda x: x.sharding, before)
    compiled = jax.jit(step, out_shardings=shardings).lower(*before, *batch).compile()
    return collectives.read(compiled.as_text())


def by_value():
    return optax.chain(absgd_jax.scale_by_attention(1.0), optax.sgd(0.1, 0.9))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_messages_whatever_the_layout_of_the_parameters(layout):
    shape, names, spec = LAYOUTS[layout]
    mesh = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))

    def said(route, tx):
        collectives = program(route, tx, mesh, spec).collectives
        return Counter((each.kind, each.arrays) for each in collectives)

    plain = said(sgd, optax.sgd(0.1, 0.9))
    assert said(pullback, absgd_jax.absgd(0.1, 1.0)) == plain + TWO
    assert said(value, by_value()) == plain + TWO


def test_a_bound_under_shard_map_is_one_message():
    """All losses and base weights; then every device knows the whole batch."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tx = absgd_jax.absgd(0.1, 1.0, max_weight=2.0, axis_name="data")
    found = program(pullback, tx, mesh, P(), mapped=True).collectives
    (bound,) = (each for each in found if each.bytes <= 2 * 64 * 4)
    assert (bound.kind, bound.arrays) == ("all-reduce add", ("f32[8,2,8]",))
    assert len(found) == 2  # the gradient's, of all parameters


@pytest.mark.parametrize(("mapped", "repeated"), [(False, True), (True, False)])
def test_every_microbatch_has_its_two_messages(mapped, repeated):
    """The gradient's is one a step where each device adds up its own microbatches."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    extra = {"microbatch_size": 16}
    if mapped:
        extra = {"axis_name": "data", "microbatch_size": 2}
    found = program(value, by_value(), mesh, P(), mapped=mapped, **extra).collectives
    small = [each for each in found if each.bytes <= 20]
    assert Counter((each.kind, each.arrays) for each in small) == TWO
    assert all(each.repeated for each in small)
    (gradient,) = (each for each in found if each.bytes > 20)
    assert gradient.repeated == repeated
