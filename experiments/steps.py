"""Pure training and evaluation steps, compiled once per program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import absgd_jax
from experiments import configs, methods, metrics, models
from experiments.pipeline import Batch


class TrainState(NamedTuple):
    """All that a step changes."""

    params: Any  # float32 leaves
    statistics: Any  # BatchNorm's running means and variances, float32 leaves
    optimizer: optax.OptState


class Seen(NamedTuple):
    """What a step saw; padding has zeros."""

    losses: jax.Array  # float32 [batch], before the update
    weights: jax.Array  # float32 [batch], p_i, about one on average
    tilted_loss: jax.Array  # float32 [], F after the update


class Program(NamedTuple):
    """The compiled functions of one configuration, whatever its seed and λ."""

    init: Callable[[int, float], TrainState]
    train: Callable[[TrainState, Batch, float], tuple[TrainState, Seen]]
    evaluate: Callable[[TrainState, Batch], jax.Array]


def train_step(
    graph: nnx.GraphDef,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Seen]:
    """One update: one forward and one backward pass.

    Args:
      graph: the network without its arrays.
      tx: see `methods.build`.
      state: before.
      batch: examples, padding marked.

    Returns:
      The state after, and what was seen.
    """

    def per_example_losses(params: Any) -> tuple[jax.Array, Any]:
        # A copy: its statistics are written at this level of tracing.
        model = nnx.merge(graph, params, state.statistics, copy=True)
        model.train()
        logits = model(batch.images, batch.present)
        losses = absgd_jax.losses.softmax_cross_entropy(logits, batch.labels)
        return losses, nnx.state(model, nnx.Not(nnx.Param))

    losses, pullback, statistics = jax.vjp(
        per_example_losses, state.params, has_aux=True
    )
    updates, optimizer = tx.update(
        pullback, state.optimizer, state.params, losses=losses, where=batch.present
    )
    params = optax.apply_updates(state.params, updates)

    lam = absgd_jax.attention_state(state.optimizer).lam  # of this update
    tilted_loss = absgd_jax.attention_state(optimizer).tilted_loss
    weights = jnp.exp((losses - tilted_loss) / lam)
    seen = Seen(
        jnp.where(batch.present, losses, 0.0),
        jnp.where(batch.present, weights, 0.0),
        tilted_loss,
    )
    return TrainState(params, statistics, optimizer), seen


def eval_step(
    graph: nnx.GraphDef, classes: int, state: TrainState, batch: Batch
) -> jax.Array:
    """Counts what is taken for what.

    Args:
      graph: the network without its arrays.
      classes: number of classes.
      state: its arrays.
      batch: examples, padding marked.

    Returns:
      Confusion counts, int32 `[classes, classes]`: label, then prediction.
    """
    model = nnx.merge(graph, state.params, state.statistics, copy=True)
    model.eval()
    predictions = jnp.argmax(model(batch.images, batch.present), axis=-1)
    return metrics.confusion(batch.labels, predictions, batch.present, classes)


@functools.cache
def network(model: configs.Model) -> tuple[nnx.GraphDef, Callable[[int], Any]]:
    """The network without its arrays, and what draws them.

    Args:
      model: its config.

    Returns:
      The graph, and a compiled function: seed -> parameters and statistics.
    """

    def draw(seed: jax.typing.ArrayLike) -> models.ConvNet:
        return models.ConvNet(model, rngs=nnx.Rngs(jax.random.key(seed)))

    graph = nnx.graphdef(nnx.eval_shape(lambda: draw(0)))
    return graph, jax.jit(lambda seed: nnx.split(draw(seed), nnx.Param, ...)[1:])


@functools.cache
def program(
    model: configs.Model,
    optimizer: configs.Optimizer,
    attention: configs.Attention,
    total_steps: int,
) -> Program:
    """Compiles the steps; seed and λ are arguments, so that all runs share them.

    Args:
      model: the network.
      optimizer: what SGD and ABSGD share.
      attention: what ABSGD adds.
      total_steps: updates in the whole training.

    Returns:
      The compiled functions. `train` gives the buffers of the state before to the
      state after.
    """
    graph, draw = network(model)
    build = functools.partial(methods.build, optimizer, attention, total_steps)
    init_optimizer = jax.jit(lambda params, lam: build(lam).init(params))

    def init(seed: int, lam: float) -> TrainState:
        params, statistics = draw(seed)
        return TrainState(params, statistics, init_optimizer(params, lam))

    def train(state: TrainState, batch: Batch, lam: float) -> tuple[TrainState, Seen]:
        return train_step(graph, build(lam), state, batch)

    return Program(
        init,
        jax.jit(train, donate_argnums=0),
        jax.jit(functools.partial(eval_step, graph, model.classes)),
    )
