"""A small training problem, and ABSGD on it by each of the three routes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import absgd_jax

FEATURES, CLASSES, BATCH = 5, 3, 16
ROUTES = ("pullback", "dense", "value")


def batches(steps, seed=0, batch=BATCH):
    """x [steps, batch, features], labels [steps, batch], weights [steps, batch]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps, batch, FEATURES))
    labels = (x[..., :CLASSES] + rng.gumbel(size=(steps, batch, CLASSES))).argmax(-1)
    return x, labels, rng.uniform(0.5, 2.0, size=(steps, batch))


def initial_params():
    return {"w": np.random.default_rng(1).normal(size=(FEATURES, CLASSES)) / 3}


def per_example_losses(params, x, labels):
    return optax.softmax_cross_entropy_with_integer_labels(x @ params["w"], labels)


def one_loss(params, x, label):
    return per_example_losses(params, x[None], label[None])[0]


def start(batch=BATCH):
    """The float32 parameters, and x, labels and weights of one batch."""
    data = tuple(of_all[0] for of_all in batches(1, batch=batch))
    return as_dtype((initial_params(), *data), jnp.float32)


def route_step(
    route, optimizer, params, state, x, labels, *, micro=None, dense=False,
    axis_name=None, losses_fn=per_example_losses, **weights,
):  # fmt: skip
    """One step by a route; `optimizer` makes the transform for that route.

    Besides `ROUTES` there is "tilted", by `tilted_value_and_grad`, with microbatches of
    `micro` examples and with `dense` gradients. `axis_name` goes wherever a route takes
    it; "dense" knows no other losses. Returns parameters, state and updates.
    """
    losses_of = functools.partial(losses_fn, x=x, labels=labels)
    if route == "value":
        lam = absgd_jax.attention_state(state).lam
        value, grads = jax.value_and_grad(
            lambda p: absgd_jax.tilted_loss(
                losses_of(p), lam, axis_name=axis_name, **weights
            )
        )(params)
        extra = {"value": value}
    elif route == "tilted":
        value, grads = absgd_jax.tilted_value_and_grad(
            losses_fn, state, microbatch_size=micro, dense=dense,
            axis_name=axis_name,
        )(params, x, labels, **weights)  # fmt: skip
        extra = {"value": value}
    else:
        losses, grads = jax.vjp(losses_of, params)
        if route == "dense":
            of_each = jax.vmap(jax.grad(one_loss), (None, 0, 0))
            grads = of_each(vary(params, axis_name), x, labels)
        extra = {"losses": losses, **weights}
    updates, state = optimizer.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state, updates


def vary(params, axis_name):
    """What the error message for dense gradients under `shard_map` says to do."""
    if axis_name is None:
        return params
    if not hasattr(jax.lax, "pcast"):  # before JAX 0.8.2
        return jax.tree.map(lambda p: jax.lax.pvary(p, axis_name), params)
    return jax.tree.map(lambda p: jax.lax.pcast(p, axis_name, to="varying"), params)


def stepper(route, optimizer, **settings):
    """A step by a route, from parameters, state, x and labels to the first two."""
    return lambda *args: route_step(route, optimizer, *args, **settings)[:2]


@functools.cache
def compiled(route, lam=0.5, gamma=0.5, **kwargs):
    """The attention transform that fits the route, and one compiled step of it."""
    tx = transform(route, lam, gamma, **kwargs)
    return tx, jax.jit(functools.partial(route_step, route, tx))


def transform(route, lam, gamma, **kwargs):
    """The attention transform that fits the route."""
    make = absgd_jax.attentional_aggregate
    if route == "value":
        make = absgd_jax.scale_by_attention
    return make(lam, gamma, **kwargs)


def train(route, lam, gamma, data, params, init_s, eta=1e-3, beta=0.9, alpha=1e-3):
    """Trains over all batches in one program; parameters after every step."""
    optimizer = optax.chain(
        transform(route, lam, gamma, init_s=init_s),
        optax.add_decayed_weights(alpha),
        optax.sgd(eta, momentum=beta),
    )

    def body(carry, batch):
        params, state = carry
        x, labels, v = batch
        params, state, _ = route_step(
            route, optimizer, params, state, x, labels, sample_weights=v
        )
        return (params, state), params

    _, history = jax.lax.scan(body, (params, optimizer.init(params)), data)
    return history


def as_dtype(tree, dtype):
    """Floating leaves in a dtype, integers left alone."""
    return jax.tree.map(
        lambda a: jnp.asarray(
            a, dtype if np.issubdtype(a.dtype, np.floating) else None
        ),
        tree,
    )
