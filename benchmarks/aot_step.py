"""Training steps of SGD and of ABSGD, compiled ahead of time for many devices.

They are never run. All arrays are abstract: a shape, a dtype and a sharding. The batch
is sharded over the devices, all other arrays are replicated.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import absgd_jax
from benchmarks import collectives
from experiments.models import resnet

AXIS = "data"
LEARNING_RATE, LAM, GAMMA, MOMENTUM, MAX_WEIGHT = 0.1, 1.0, 0.5, 0.9, 10.0

_Losses = Callable[[Any], tuple[jax.Array, Any]]  # params -> losses, statistics
_Route = Callable[..., tuple[Any, Any, Any]]


class State(NamedTuple):
    """Training state: everything that a step changes."""

    params: Any
    statistics: Any  # BatchNorm's
    optimizer: Any


class Step(NamedTuple):
    """A training step to compile.

    Under `jax.jit` the program is that of one device with the whole batch, and XLA
    divides it: BatchNorm sees the whole batch. Under `jax.shard_map` it is that of
    each device, which sees its own part, and so does BatchNorm.
    """

    mapped: bool  # whether under shard_map
    route: _Route
    optimizer: optax.GradientTransformationExtraArgs


class Cost(NamedTuple):
    """Cost of a step on one device, by the compiler's own account."""

    flops: float  # additions and multiplications; summed in float32
    transcendentals: float  # exponentials, logarithms, roots; summed in float32
    argument_bytes: int  # state and batch
    temporary_bytes: int  # activations, above all
    heavy: int  # convolutions and matrix products
    collectives: list[collectives.Collective]
    lower_seconds: float
    compile_seconds: float


def _sgd(tx: Any, losses_of: _Losses, state: State, mapped: bool) -> Any:
    """The gradient of the mean."""

    def mean(params: Any) -> tuple[jax.Array, Any]:
        losses, statistics = losses_of(params)
        size = losses.size * (lax.axis_size(AXIS) if mapped else 1)
        return jnp.sum(losses) / size, statistics

    params = _local(state.params) if mapped else state.params
    grads, statistics = jax.grad(mean, has_aux=True)(params)
    if mapped:
        grads = jax.tree.map(lambda g: lax.psum(g, AXIS), grads)
    return *tx.update(grads, state.optimizer, state.params), statistics


def _pullback(tx: Any, losses_of: _Losses, state: State, mapped: bool) -> Any:
    """The weights of the whole batch, then a backward pass with them."""
    params = _local(state.params) if mapped else state.params
    losses, pullback, statistics = jax.vjp(losses_of, params, has_aux=True)
    updated = tx.update(pullback, state.optimizer, state.params, losses=losses)
    return *updated, statistics


def _value(tx: Any, losses_of: _Losses, state: State, mapped: bool) -> Any:
    """The gradient of the tilted loss."""
    del mapped  # see `_local_value`
    value_and_grad = absgd_jax.tilted_value_and_grad(
        losses_of, state.optimizer, has_aux=True
    )
    (value, statistics), grads = value_and_grad(state.params)
    return *tx.update(grads, state.optimizer, state.params, value=value), statistics


def _local_value(tx: Any, losses_of: _Losses, state: State, mapped: bool) -> Any:
    """The gradient of this device's tilted loss, which the transform rescales."""
    assert mapped
    lam = absgd_jax.attention_state(state.optimizer).lam

    def tilted(params: Any) -> tuple[jax.Array, Any]:
        losses, statistics = losses_of(params)
        return absgd_jax.tilted_loss(losses, lam), (losses.size, statistics)

    differentiate = jax.value_and_grad(tilted, has_aux=True)
    (value, (size, statistics)), grads = differentiate(_local(state.params))
    updated = tx.update(
        grads, state.optimizer, state.params, value=value, total_weight=1.0 * size
    )
    return *updated, statistics


def _local(params: Any) -> Any:
    """Parameters whose gradient stays on its device until it is asked for."""
    return lax.pcast(params, AXIS, to="varying")


def steps() -> dict[str, Step]:
    """All steps, by their names in `scaling.STEPS`."""
    plain = optax.sgd(LEARNING_RATE, MOMENTUM)

    def absgd(**more: Any) -> optax.GradientTransformationExtraArgs:
        return absgd_jax.absgd(LEARNING_RATE, LAM, GAMMA, momentum=MOMENTUM, **more)

    local = optax.chain(absgd_jax.scale_by_attention(LAM, GAMMA, axis_name=AXIS), plain)
    return {
        "sgd": Step(False, _sgd, plain),
        "pullback": Step(False, _pullback, absgd()),
        "value": Step(False, _value, absgd()),
        "bounded": Step(False, _pullback, absgd(max_weight=MAX_WEIGHT)),
        "mapped-sgd": Step(True, _sgd, plain),
        "mapped-pullback": Step(True, _pullback, absgd(axis_name=AXIS)),
        "mapped-bounded": Step(
            True, _pullback, absgd(max_weight=MAX_WEIGHT, axis_name=AXIS)
        ),
        "mapped-local": Step(True, _local_value, local),
    }


def network(
    blocks: tuple[int, ...], classes: int, width: int = 64
) -> tuple[nnx.GraphDef, Any, Any]:
    """The graph, the abstract parameters and the abstract statistics."""
    widths = [width << stage for stage in range(len(blocks))]
    model = nnx.eval_shape(
        lambda: resnet.ResNet(
            resnet.IMAGENET, blocks, classes, widths=widths, rngs=nnx.Rngs(0)
        )
    )
    return nnx.split(model, nnx.Param, ...)


def size(net: tuple[nnx.GraphDef, Any, Any]) -> int:
    """Number of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(net[1]))


def compile_step(
    step: Step,
    net: tuple[nnx.GraphDef, Any, Any],
    mesh: jax.sharding.Mesh,
    batch: int,
    image: int,
) -> Cost:
    """Lowers a step and compiles it for all devices of a mesh.

    Args:
      step: one of `steps`.
      net: see `network`.
      mesh: its one axis is `AXIS`.
      batch: examples on all devices together.
      image: height and width, pixels.

    Returns:
      What the compiled program costs.
    """
    graph, params, statistics = net

    def train_step(state: State, images: jax.Array, labels: jax.Array) -> State:
        def losses_of(params: Any) -> tuple[jax.Array, Any]:
            model = nnx.merge(graph, params, state.statistics, copy=True)
            model.train()
            losses = absgd_jax.losses.softmax_cross_entropy_with_integer_labels(
                model(images), labels
            )
            return losses, nnx.state(model, nnx.Not(nnx.Param))

        updates, optimizer, statistics = step.route(
            step.optimizer, losses_of, state, step.mapped
        )
        if step.mapped:
            statistics = lax.pmean(statistics, AXIS)
        return State(optax.apply_updates(state.params, updates), statistics, optimizer)

    everywhere, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    state = State(params, statistics, jax.eval_shape(step.optimizer.init, params))
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), state
    )
    images = jax.ShapeDtypeStruct(
        (batch, image, image, 3), jnp.float32, sharding=spread
    )
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=spread)

    if step.mapped:
        train_step = jax.shard_map(
            train_step, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=P()
        )
    began = time.monotonic()
    lowered = jax.jit(
        train_step, donate_argnums=0, keep_unused=True, out_shardings=everywhere
    ).lower(state, images, labels)
    lowered_at = time.monotonic()
    compiled = lowered.compile()
    compiled_at = time.monotonic()

    program = collectives.read(compiled.as_text())
    operations = compiled.cost_analysis()
    memory = compiled.memory_analysis()
    return Cost(
        flops=operations["flops"],
        transcendentals=operations.get("transcendentals", 0.0),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        heavy=program.heavy,
        collectives=program.collectives,
        lower_seconds=lowered_at - began,
        compile_seconds=compiled_at - lowered_at,
    )


def mesh(devices: int) -> jax.sharding.Mesh:
    """A mesh of all devices, with one axis."""
    return jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,))
