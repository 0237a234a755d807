"""The collectives of a step on eight devices, read off the compiled program."""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import absgd_jax
from benchmarks import collectives as hlo
from tests.eight_devices import meshes
from tests.problems import ROUTES, per_example_losses


def collectives(step, tx):
    """(arrays, kind) of every collective in a step whose batch is sharded."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    params = meshes.start()
    carried = jax.device_put((params, tx.init(params)), everywhere)
    batch = jax.device_put(meshes.global_batches(1)[0], spread)
    program = jax.jit(step, out_shardings=everywhere).lower(*carried, *batch).compile()
    found = hlo.read(program.as_text()).collectives
    return sorted((each.arrays, each.kind) for each in found)


def plain_sgd(params, state, x, labels, v):
    tx = optax.sgd(0.1, momentum=0.9)
    grads = jax.grad(lambda p: per_example_losses(p, x, labels).mean())(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@functools.cache
def of_sgd():
    return collectives(plain_sgd, optax.sgd(0.1, momentum=0.9))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("lam", [0.5, -0.5])
def test_two_small_collectives_more_than_sgd(route, lam):
    """A maximum of two numbers and a sum of five; 28 bytes whatever the model."""
    assert [kind for _, kind in of_sgd()] == ["all-reduce add"]  # the gradient
    tx = meshes.optimizer(route, lam, 0.3)
    step = meshes.make_step(tx, route)
    without_weights = lambda p, s, x, y, v: step(p, s, x, y, jnp.ones_like(v))
    more = collectives(without_weights, tx)
    own = [(("f32[2]",), "all-reduce maximum"), (("f32[5]",), "all-reduce add")]
    assert [each for each in more if each in own] == own
    assert [each[1] for each in more if each not in own] == ["all-reduce add"]


def test_max_weight_gathers_the_losses_and_nothing_larger():
    tx = meshes.optimizer("pullback", 0.5, 0.3, max_weight=4.0)
    found = collectives(meshes.make_step(tx, "pullback"), tx)
    sizes = [int(n) for each, _ in found for n in re.findall(r"\[(\d+)\]", str(each))]
    assert max(sizes) <= meshes.GLOBAL_BATCH
    assert len(found) > 3  # it does cost more, and the documentation says so


@pytest.mark.parametrize("sign", [1, -1])
def test_a_radius_needs_no_collective_of_its_own(sign):
    """Neither without a bound nor, on a mapped axis, with one."""
    radius = absgd_jax.kl_radius(0.4, sign)

    def mapped(lam, bound):
        tx = meshes.optimizer("pullback", lam, 0.3, "data", max_weight=bound)
        step = meshes.mapped(meshes.make_step(tx, "pullback", "data"), True)
        return collectives(step, tx)

    assert mapped(radius, 2.0) == mapped(sign * 0.5, 2.0)
    assert mapped(radius, float("inf")) == mapped(sign * 0.5, None)
