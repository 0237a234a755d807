"""Ways to spread one training step over eight devices; each gives params and state.

Compiling for eight devices is what takes the time: a step is compiled once for all λ.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import absgd_jax
from absgd_jax import _devices
from tests import problems

DEVICES = 8
GLOBAL_BATCH = 32


def start(dtype=jnp.float32):
    return problems.as_dtype(problems.initial_params(), dtype)


def global_batches(steps=5, seed=0, dtype=jnp.float32):
    """x, labels and weights of every step, the batch whole."""
    data = problems.batches(steps, seed, batch=GLOBAL_BATCH)
    return list(zip(*problems.as_dtype(data, dtype), strict=True))


def optimizer(route, lam, gamma, axis_name=None, **kwargs):
    attention = problems.transform(route, lam, gamma, axis_name=axis_name, **kwargs)
    return optax.chain(attention, optax.sgd(0.1, momentum=0.9))


def make_step(tx, route, axis_name=None, **settings):
    """A step of `problems.route_step`, from parameters, state and a batch."""

    def step(params, state, x, labels, v):
        return problems.route_step(
            route, tx, params, state, x, labels,
            sample_weights=v, axis_name=axis_name, **settings,
        )[:2]  # fmt: skip

    return step


def tilted_step(
    tx, losses_fn=problems.per_example_losses, *, over=None, mean=False, local=False,
    cast=False,
):  # fmt: skip
    """`tilted_loss` over an axis, differentiated by hand.

    With `mean` the loop averages gradients where they do not arrive summed already;
    with `local` the transform is told each device's weight, and rescales its gradients.
    """

    def step(params, state, x, labels, v):
        lam = absgd_jax.attention_state(state).lam
        value, grads = jax.value_and_grad(
            lambda p: absgd_jax.tilted_loss(
                losses_fn(p, x, labels), lam, sample_weights=v, axis_name=over
            )
        )(problems.vary(params, "data") if cast else params)
        if mean and not types_are_kept(x):
            grads, value = jax.lax.pmean((grads, value), "data")
        total = {"total_weight": v.sum()} if local else {}
        updates, state = tx.update(grads, state, params, value=value, **total)
        return optax.apply_updates(params, updates), state

    return step


def types_are_kept(x):
    """Whether gradients of replicated parameters arrive summed: `check_vma=True`."""
    return bool(_devices._varying(x))


def train(step, tx, batches, params=None):
    """Runs a compiled step over all batches."""
    params = start() if params is None else params
    state = tx.init(params)
    for batch in batches:
        params, state = step(params, state, *batch)
    return params, state


@functools.cache
def _any_lam(route, axis_name, **kwargs):
    """A step that carries λ beside the optimizer's state."""

    def step(params, carried, *batch):
        state, lam = carried
        tx = optimizer(route, lam, 0.3, axis_name, **kwargs)
        params, state = make_step(tx, route, axis_name)(params, state, *batch)
        return params, (state, lam)

    return step


def program(route, lam, axis_name=None, **kwargs):
    """A step of the route with γ = 0.3, and the transform that inits its state."""
    tx = optimizer(route, lam, 0.3, axis_name, **kwargs)
    if isinstance(lam, tuple):  # a radius
        return make_step(tx, route, axis_name), tx
    step = _any_lam(route, axis_name, **kwargs)
    init = lambda params: (tx.init(params), jnp.float32(lam))
    return step, optax.GradientTransformation(init, tx.update)


@functools.cache
def alone(route, lam, **kwargs):
    """What one device makes of the global batches."""
    step, tx = program(route, lam, **kwargs)
    return jax.device_get(train(jax.jit(step), tx, global_batches()))


def one_device(route, lam):
    """Parameters and state that one device makes of the global batches."""
    params, (state, _) = alone(route, lam)
    return params, state


def sharded_jit(step, tx, batches, axis_type=AxisType.Auto):
    """The batch over the mesh, parameters everywhere; the step knows nothing of it."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        everywhere, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        return train(
            jax.jit(step),
            tx,
            [jax.device_put(batch, spread) for batch in batches],
            jax.device_put(start(), everywhere),
        )


@functools.cache
def mapped(step, check_vma, axes=("data",)):
    """A step under `shard_map`, over a mesh of one or two axes."""
    shape = (DEVICES,) if len(axes) == 1 else (2, DEVICES // 2)
    mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes))
    return jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), P(), P(axes), P(axes), P(axes)),
            out_specs=(P(), P()),
            check_vma=check_vma,
        )
    )


def shard_map(step, tx, batches, check_vma=True, axes=("data",)):
    return train(mapped(step, check_vma, axes), tx, batches)


@functools.cache
def _pmapped(step):
    return jax.pmap(step, axis_name="data")


def pmap(step, tx, batches, params=None):
    """Replicated parameters; every device must end with the same ones."""
    params = start() if params is None else params
    copies = lambda tree: jax.tree.map(lambda a: np.stack([a] * DEVICES), tree)
    params, state = copies(jax.device_get((params, tx.init(params))))
    for batch in batches:
        split = [a.reshape(DEVICES, -1, *a.shape[1:]) for a in batch]
        params, state = _pmapped(step)(params, state, *split)
    for leaf in jax.tree.leaves((params, state)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    return jax.tree.map(lambda a: a[0], jax.device_get((params, state)))


class Spread(NamedTuple):
    """A way to spread a step over the devices."""

    run: Callable  # (step, tx, batches) -> params and state
    axis_name: str | tuple | None = "data"  # what the step is told of it


SPREADS = {
    "jit, Auto axes": Spread(sharded_jit, None),
    "jit, Explicit axes": Spread(
        functools.partial(sharded_jit, axis_type=AxisType.Explicit), None
    ),
    "shard_map": Spread(shard_map),
    "shard_map, unchecked": Spread(functools.partial(shard_map, check_vma=False)),
    "shard_map, two axes": Spread(
        functools.partial(shard_map, axes=("host", "chip")), ("host", "chip")
    ),
    "pmap": Spread(pmap),
}


def spread(name, route, lam, batches, **kwargs):
    """Trains by a route, spread over the devices in the way of that name."""
    way = SPREADS[name]
    step, tx = program(route, lam, way.axis_name, **kwargs)
    return way.run(step, tx, batches)


def assert_equal(got, expected, lam=np.inf):
    """Parameters and state, to float32 rounding.

    That of `exp(loss / lam)` is `|loss / lam|` times as large, on either side; losses
    of `global_batches` are up to 2.4.
    """
    rtol = max(1e-6, 2 * 2.4 / abs(lam) * float(np.finfo(np.float32).eps))
    got, expected = jax.device_get((got, expected))
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=1e-6)
