"""BatchNorm with moments averaged over a mapped axis: exact on every route but one.

The backward pass of `pmean` mixes the devices' cotangents, so weights must be those of
the whole batch before it: they cannot be applied to local gradients afterwards.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax

import absgd_jax
from tests import problems
from tests.eight_devices import meshes

LAM, GAMMA = 0.3, 0.5
BATCHES = meshes.global_batches(4)


def start():
    w = problems.as_dtype(problems.initial_params(), jnp.float32)["w"]
    return {"w": w, "scale": jnp.ones(problems.CLASSES)}


def losses_of(axis_name):
    def losses(params, x, labels):
        h = jnp.sinh(x @ params["w"])
        mean, square = jnp.mean(h, axis=0), jnp.mean(h**2, axis=0)
        if axis_name is not None:
            mean, square = lax.pmean((mean, square), axis_name)
        normalised = (h - mean) * lax.rsqrt(square - mean**2 + 1e-3)
        return optax.softmax_cross_entropy_with_integer_labels(
            normalised * params["scale"], labels
        )

    return losses


def by_route(route, axis_name, lam=LAM, microbatches=1, max_weight=None):
    """Each microbatch is normalised by itself, over all devices."""
    tx = absgd_jax.absgd(0.3, lam, GAMMA, axis_name=axis_name, max_weight=max_weight)
    devices = 1 if axis_name is None else meshes.DEVICES
    micro = meshes.GLOBAL_BATCH // devices // microbatches if microbatches > 1 else None
    losses_fn = losses_of(axis_name)
    step = meshes.make_step(tx, route, axis_name, micro=micro, losses_fn=losses_fn)
    return tx, step


by_pullback = functools.partial(by_route, "pullback")
by_helper = functools.partial(by_route, "tilted")
in_microbatches = functools.partial(by_helper, microbatches=2)


def by_tilted_loss(axis_name):
    """Differentiated by hand; `pmap` needs the `pmean` that any gradient needs."""
    tx = optax.chain(
        absgd_jax.scale_by_attention(LAM, GAMMA), optax.sgd(0.3, momentum=0.9)
    )

    over = {"over": axis_name, "mean": axis_name is not None}
    return tx, meshes.tilted_step(tx, losses_of(axis_name), **over)


def by_weights(axis_name):
    """The weights in a loss of the user's own, its `pmean` where it was."""
    attention = absgd_jax.attention(LAM, GAMMA, axis_name=axis_name)
    sgd = optax.sgd(0.3, momentum=0.9)
    tx = optax.GradientTransformation(
        lambda params: (attention.init(), sgd.init(params)), sgd.update
    )

    def step(params, state, x, labels, v):
        def loss_fn(params):
            losses = losses_of(axis_name)(params, x, labels)
            weights, after = attention.weigh(losses, state[0], sample_weights=v)
            loss = jnp.mean(weights * losses)
            if axis_name is not None and meshes.types_are_kept(x):
                loss = lax.pmean(loss, axis_name)
            return loss, after

        grads, after = jax.grad(loss_fn, has_aux=True)(params)
        if axis_name is not None and not meshes.types_are_kept(x):
            grads = lax.pmean(grads, axis_name)
        updates, sgd_state = sgd.update(grads, state[1], params)
        return optax.apply_updates(params, updates), (after, sgd_state)

    return tx, step


ROUTES = {
    "pullback": by_pullback,
    "tilted_value_and_grad": by_helper,
    "tilted_value_and_grad, bounded": functools.partial(by_helper, max_weight=2.0),
    "microbatches": in_microbatches,
    "microbatches, bounded radius": functools.partial(
        in_microbatches, lam=absgd_jax.kl_radius(0.4), max_weight=2.0
    ),
    "tilted_loss": by_tilted_loss,
    "weights": by_weights,
}


def on_pmap(step, tx, batches):
    return meshes.pmap(step, tx, batches, start())


def on_shard_map(step, tx, batches, check_vma=True):
    return meshes.train(meshes.mapped(step, check_vma), tx, batches, start())


unchecked = functools.partial(on_shard_map, check_vma=False)
# With the types of `check_vma` and without, where `pmap` and `shard_map` are one to the
# library; what is built on the first two is run in one of the ways, to compile less.
RUNS = {
    "pullback": (on_shard_map, on_pmap),
    "tilted_value_and_grad": (on_shard_map, unchecked),
    "tilted_value_and_grad, bounded": (on_pmap,),
    "microbatches": (on_shard_map,),
    "microbatches, bounded radius": (unchecked,),
    "tilted_loss": (on_shard_map,),
    "weights": (on_pmap,),
}


def trained(run, tx, step):
    """Parameters, and attention's state."""
    params, state = jax.device_get(run(step, tx, BATCHES))
    return params, absgd_jax.attention_state(state)


@functools.cache
def on_one_device(route):
    run = lambda step, *args: meshes.train(jax.jit(step), *args, start())
    return trained(run, *ROUTES[route](None))


@pytest.mark.parametrize("route", RUNS)
def test_a_synchronised_norm_gives_the_update_of_one_device(route):
    alike = "pullback" if route in ("tilted_loss", "weights") else route
    for run in RUNS[route]:
        got = trained(run, *ROUTES[route]("data"))
        chex.assert_trees_all_close(got, on_one_device(alike), rtol=5e-5, atol=2e-6)
