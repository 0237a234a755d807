"""Microbatches on top of sharding."""

import functools

import chex
import equinox
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import absgd_jax
from tests import problems
from tests.eight_devices import meshes
from tests.problems import per_example_losses

batches = meshes.global_batches()


def make_step(tx, micro, axis_name=None, dense=False):
    return meshes.make_step(tx, "tilted", axis_name, micro=micro, dense=dense)


def assert_like_one_device(got, lam):
    expected = meshes.one_device("value", lam)
    chex.assert_trees_all_close(jax.device_get(got), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("lam", "dense", "check_vma"),
    [(0.5, False, True), (-0.5, True, True), (-0.5, False, False), (0.5, True, False)],
)
def test_microbatches_under_shard_map(lam, dense, check_vma):
    """Four local examples in microbatches of three: a ragged last one."""
    tx = meshes.optimizer("value", lam, 0.3)
    step = meshes.mapped(make_step(tx, 3, "data", dense), check_vma)
    assert_like_one_device(meshes.train(step, tx, batches), lam)


def test_microbatches_under_pmap():
    tx = meshes.optimizer("value", 0.5, 0.3)
    assert_like_one_device(meshes.pmap(make_step(tx, 2, "data"), tx, batches), 0.5)


@pytest.mark.parametrize(
    ("axis_type", "dense"),
    [(AxisType.Auto, False), (AxisType.Explicit, False), (AxisType.Explicit, True)],
)
def test_microbatches_of_a_sharded_batch(axis_type, dense):
    """Each microbatch is spread over all devices, as the batch is."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    tx = meshes.optimizer("value", 0.5, 0.3)
    with jax.set_mesh(mesh):
        spread = NamedSharding(mesh, P("data"))
        start, *data = jax.device_put(
            (meshes.start(), *batches), (NamedSharding(mesh, P()), *[spread] * 5)
        )
        state = jax.device_put(tx.init(start), NamedSharding(mesh, P()))
        everywhere = jax.tree.map(lambda a: a.sharding, (start, state))
        step = jax.jit(make_step(tx, 16, dense=dense), out_shardings=everywhere)
        step = step.lower(start, state, *data[0]).compile()
        for batch in data:
            start, state = step(start, state, *batch)
    assert_like_one_device((start, state), 0.5)
    for moved in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {moved}(" not in step.as_text(), "a microbatch was moved"


def test_microbatches_where_one_of_two_axes_is_mapped():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    x, w = jnp.arange(1.0, 25.0).reshape(24, 1), jnp.ones((1, 2))
    losses_of = lambda w, x: jnp.sum((x @ w) ** 2, axis=1) / 100.0

    def step(w, x):
        of = absgd_jax.tilted_value_and_grad(
            losses_of, 0.9, microbatch_size=4, axis_name="data"
        )
        return of(w, x)[1]

    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
        axis_names={"data"},
    )
    expected = absgd_jax.tilted_value_and_grad(losses_of, 0.9)(w, x)[1]
    chex.assert_trees_all_close(jax.jit(mapped)(w, x), expected, rtol=1e-5)


@pytest.mark.parametrize("lam", [0.9, absgd_jax.kl_radius()])
@pytest.mark.parametrize("model_axis", ["Manual", AxisType.Explicit])
def test_microbatches_of_parameters_cut_over_another_axis_than_the_batch(
    lam, model_axis
):
    """Tensor and data parallel."""
    if manual := model_axis == "Manual":
        model_axis = AxisType.Auto
    mesh = jax.make_mesh(
        (4, 2), ("data", "model"), axis_types=(AxisType.Auto, model_axis)
    )
    x = jax.random.normal(jax.random.key(0), (24, 3))
    w = {"in": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "out": jnp.ones(4)}
    state = absgd_jax.attention(lam).init()
    cut = {"in": P(None, "model"), "out": P("model")}

    def losses_of(w, x, sum_of=lambda y: y):
        return (sum_of(jnp.sum(jnp.tanh(x @ w["in"]) * w["out"], axis=1)) - 1.0) ** 2

    def gradient(w, x, micro=5, axis_name="data", **kwargs):
        of = absgd_jax.tilted_value_and_grad(
            losses_of, state, microbatch_size=micro, axis_name=axis_name
        )
        return of(w, x, **kwargs)[1]

    if manual:  # the sum over the parts of the network is the program's own
        psum = functools.partial(jax.lax.psum, axis_name="model")
        mapped = jax.shard_map(
            functools.partial(gradient, sum_of=psum),
            mesh=mesh,
            in_specs=(cut, P("data")),
            out_specs=cut,
        )
        found = jax.jit(mapped)(w, x)
    else:
        with jax.set_mesh(mesh):
            mapped = jax.shard_map(
                gradient,
                in_specs=(P(), P("data")),
                out_specs=P(),
                axis_names={"data"},
            )
            of_cut = {n: jax.device_put(w[n], NamedSharding(mesh, cut[n])) for n in w}
            found = jax.jit(mapped)(of_cut, x)
    expected = gradient(w, x, None, None)
    chex.assert_trees_all_close(
        *jax.device_get((found, expected)), rtol=1e-4, atol=1e-6
    )


def test_microbatches_of_a_module_that_holds_functions():
    """An activation of Equinox, which does not vary from device to device."""
    model = equinox.nn.MLP(
        problems.FEATURES, problems.CLASSES, 4, 1, key=jax.random.key(0)
    )
    arrays, rest = equinox.partition(model, equinox.is_array)

    def losses_of(model, x, labels):
        return per_example_losses(
            {"w": jnp.eye(problems.CLASSES)}, jax.vmap(model)(x), labels
        )

    def grads(arrays, x, labels, **more):
        of = absgd_jax.tilted_value_and_grad(
            losses_of, 0.5, value_and_grad=equinox.filter_value_and_grad, **more
        )
        return of(equinox.combine(arrays, rest), x, labels)[1]

    def on_each(arrays, x, labels):
        more = {"microbatch_size": 2, "axis_name": "data"}
        return equinox.filter(grads(arrays, x, labels, **more), equinox.is_array)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = P(), P("data"), P("data")
    mapped = jax.shard_map(on_each, mesh=mesh, in_specs=spread, out_specs=P())
    x, labels, _ = batches[0]
    found = jax.tree.leaves(jax.jit(mapped)(arrays, x, labels))
    expected = jax.tree.leaves(grads(arrays, x, labels))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def memory(step, params, batch):
    program = jax.jit(step).lower(params, *batch).compile()
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("dense", [False, True])
def test_memory_is_that_of_one_microbatch(dense):
    """Eight times the examples in microbatches of one size: hardly more memory."""
    hidden = 256

    def losses_of(params, x, labels):
        for w in params["hidden"]:
            x = jnp.tanh(x @ w)
        return per_example_losses(params, x, labels)

    params = {
        "hidden": [jnp.zeros((hidden, hidden))] * 4,
        "w": jnp.zeros((hidden, problems.CLASSES)),
    }

    def step(micro):
        return absgd_jax.tilted_value_and_grad(
            losses_of, 0.5, microbatch_size=micro, dense=dense
        )

    def batch(size):
        return jnp.zeros((size, hidden)), jnp.zeros(size, int)

    small, large = (memory(step(32), params, batch(size)) for size in (64, 512))
    whole = memory(step(None), params, batch(512))
    inputs = 4 * hidden * (512 - 64)  # the batch itself, once in microbatch order
    copies = 1.25 if hasattr(jax.typeof(params["w"]), "mat") else 2  # before JAX 0.10
    assert large - small < copies * inputs
    assert large < 0.5 * whole
