"""Steps of SGD and of ABSGD by the library's own routes, without the trainer."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

import absgd_jax
from experiments.train.sharding import AXIS, Layout

Route = Literal["sgd", "pullback", "bounded", "value", "tilted", "dense", "local"]
# Params, statistics and the arrays of a batch -> losses [batch], new statistics.
Losses = Callable[..., tuple[jax.Array, Any]]

LAM, GAMMA, MOMENTUM, MAX_WEIGHT = 1.0, 0.5, 0.9, 10.0


class State(NamedTuple):
    """Training state: everything that a step changes."""

    params: Any
    statistics: Any  # BatchNorm's; None without one
    optimizer: Any


def optimizer(
    route: Route, learning_rate: float, *, mapped: bool = False
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a route, with momentum."""
    axis_name = AXIS if mapped else None
    plain = optax.sgd(learning_rate, MOMENTUM)
    if route == "sgd":
        return plain
    if route == "local":
        attention = absgd_jax.scale_by_attention(LAM, GAMMA, axis_name=axis_name)
        return optax.chain(attention, plain)
    return absgd_jax.absgd(
        learning_rate,
        LAM,
        GAMMA,
        momentum=MOMENTUM,
        max_weight=MAX_WEIGHT if route == "bounded" else None,
        axis_name=axis_name,
    )


def step(
    route: Route,
    tx: optax.GradientTransformationExtraArgs,
    losses_of: Losses,
    *,
    mapped: bool = False,
    masked: bool = False,
    microbatch: int | None = None,
) -> Callable[..., State]:
    """A pure update, not yet compiled: a state and a batch's arrays -> the state after.

    Args:
      route: `sgd`, the gradient of the mean; `pullback`, the weights of the whole batch
        and then a backward pass with them, `bounded` with a maximal weight; `value`,
        the gradient of the tilted loss, also `tilted` by microbatches, and `dense` with
        a gradient for each example; `local`, the gradient of each device's own tilted
        loss, which the transform rescales.
      tx: see `optimizer`.
      losses_of: the network and its loss.
      mapped: whether the update runs under `jax.shard_map`, where each device sees its
        own part of the batch, and so does BatchNorm. Under `jax.jit` XLA divides the
        program of one device with the whole batch.
      masked: whether the last array of a batch marks padding; for `sgd`.
      microbatch: examples at a time for `tilted` and `dense`; None for all.
    """

    def update(state: State, *batch: jax.Array) -> State:
        def of_params(params: Any) -> Any:
            return losses_of(params, state.statistics, *batch)

        def mean(params: Any) -> tuple[jax.Array, Any]:
            losses, statistics = of_params(params)
            present = batch[-1] if masked else None
            size = losses.size * (lax.axis_size(AXIS) if mapped else 1)
            count = size if present is None else jnp.sum(present)
            return jnp.sum(losses, where=present) / count, statistics

        def tilted(params: Any) -> tuple[jax.Array, Any]:
            losses, statistics = of_params(params)
            lam = absgd_jax.attention_state(state.optimizer).lam
            return absgd_jax.tilted_loss(losses, lam), (losses.size, statistics)

        # Parameters whose gradient stays on its device until it is asked for.
        params = state.params
        if mapped:
            params = lax.pcast(params, AXIS, to="varying")
        grads: Any
        extra: dict[str, Any] = {}
        if route == "sgd":
            grads, statistics = jax.grad(mean, has_aux=True)(params)
            if mapped:
                grads = jax.tree.map(lambda g: lax.psum(g, AXIS), grads)
        elif route in ("pullback", "bounded"):
            losses, grads, statistics = jax.vjp(of_params, params, has_aux=True)
            extra = {"losses": losses}
        elif route == "local":
            value_and_grad = jax.value_and_grad(tilted, has_aux=True)
            (value, (size, statistics)), grads = value_and_grad(params)
            extra = {"value": value, "total_weight": 1.0 * size}
        else:
            value_and_grad = absgd_jax.tilted_value_and_grad(
                lambda params, *batch: losses_of(params, state.statistics, *batch),
                state.optimizer,
                has_aux=True,
                microbatch_size=microbatch,
                dense=route == "dense",
            )
            (value, statistics), grads = value_and_grad(state.params, *batch)
            extra = {"value": value}
        updates, after = tx.update(grads, state.optimizer, state.params, **extra)
        if mapped:
            statistics = lax.pmean(statistics, AXIS)
        return State(optax.apply_updates(state.params, updates), statistics, after)

    return update


def losses_of_network(
    graph: nnx.GraphDef[Any],
    apply: Callable[..., jax.Array] = lambda network, images: network(images),
) -> Losses:
    """The cross-entropy of a network without its arrays, as `step` takes it.

    A batch is images, labels and what else there is; `apply` makes logits of the
    network, the images and what else there is.
    """

    def losses_of(
        params: Any, statistics: Any, images: Any, labels: Any, *others: Any
    ) -> tuple[jax.Array, Any]:
        network = nnx.merge(graph, params, statistics, copy=True)
        network.train()
        losses = absgd_jax.losses.softmax_cross_entropy_with_integer_labels(
            apply(network, images, *others), labels
        )
        return losses, nnx.state(network, nnx.Not(nnx.Param))

    return losses_of


def jitted(
    update: Callable[..., Any], layout: Layout, arrays: int, *, mapped: bool = False
) -> Any:
    """Jits a `step` that donates its state, to be lowered from shapes.

    The `arrays` of a batch are sharded over the devices; the state is replicated.
    """
    if mapped:
        specs = (P(), *[P(AXIS)] * arrays)
        update = jax.shard_map(update, mesh=layout.mesh, in_specs=specs, out_specs=P())
    return jax.jit(
        update,
        in_shardings=(layout.replicated, *[layout.spread] * arrays),
        out_shardings=layout.replicated,
        donate_argnums=0,
        keep_unused=True,
    )
