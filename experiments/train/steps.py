"""Pure training and evaluation steps, compiled once per program."""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import configs, fields, methods, models
from experiments.data import augment
from experiments.data.loader import Batch
from experiments.methods import StepHyperparams
from experiments.results import metrics
from experiments.train.losses import per_example_losses
from experiments.train.sharding import AXIS, Layout

NAMED = 8  # most examples whose loss is not finite that the metrics of a step name


class OptimizerState(NamedTuple):
    """State of the two parts of a method: weighting rule and descent."""

    rule: Any
    descent: Any


class TrainState(NamedTuple):
    """Training state: everything that a step changes, and its random key."""

    step: jax.Array  # int32 []: updates so far
    key: jax.Array  # uint32 [2]: for dropout and augmentation on the device
    params: Any  # trained, float32 leaves
    frozen: Any  # parameters that are not trained
    statistics: Any  # BatchNorm's running means and variances, float32 leaves
    optimizer: OptimizerState
    kept: jax.Array  # bool [train examples], False where truncation drops; or [0]


class DatasetStats(NamedTuple):
    """Statistics of the training set, as arguments of the compiled step."""

    class_counts: jax.Array  # float32 [classes], at least 1
    class_weights: jax.Array  # float32 [classes]; ones for none
    mislabelled: jax.Array  # bool [train examples]


class StepMetrics(NamedTuple):
    """Metrics of a step: sums over its examples, unless a comment says otherwise."""

    examples: jax.Array  # int32 []
    loss: jax.Array  # float32 []: sum of L_i before the update
    tilted_loss: jax.Array  # float32 []: F, or what the rule minimises; not a sum
    lam: jax.Array  # float32 []: λ; of a radius that is on, of the next step. No sum
    weight: jax.Array  # float32 []: sum of p_i
    effective: jax.Array  # float32 []: effective sample size (Σp)²/(n Σp²); 0 for p = 0
    largest: jax.Array  # float32 []: largest p_i; not a sum
    weight_of_class: jax.Array  # float32 [classes]
    examples_of_class: jax.Array  # int32 [classes]
    weight_mislabelled: jax.Array  # float32 []
    examples_mislabelled: jax.Array  # int32 []
    not_finite: jax.Array  # int32 [NAMED]: examples whose loss is not finite, then -1


# State, batch, statistics, hyperparameters -> state after, metrics.
Train = Callable[
    [TrainState, Batch, DatasetStats, StepHyperparams], tuple[TrainState, StepMetrics]
]


class Program(NamedTuple):
    """The compiled functions of one configuration, whatever its seed, λ and data."""

    init: Callable[[Any, int, int], TrainState]  # network, seed, training examples
    # The step for these hyperparameters, which are its argument too.
    train: Callable[[StepHyperparams], Train]
    evaluate: Callable[[TrainState, Batch], metrics.Counts]
    prune: Callable[[TrainState, Batch], TrainState]
    features: Callable[[TrainState, Batch], jax.Array]
    logits: Callable[[TrainState, Batch], jax.Array]


def prepare(data: configs.Data, inputs: jax.Array) -> jax.Array:
    """Scales bytes to [0, 1] and normalises images; returns the rest unchanged."""
    if data.info.inputs != "images":
        return inputs
    images = inputs.astype(jnp.float32)
    if inputs.dtype == jnp.uint8:
        images = images / 255.0
    if data.mean:
        images = (images - jnp.array(data.mean)) / jnp.array(data.std)
    return images


def train_step(
    graph: nnx.GraphDef,
    run: configs.Run,
    state: TrainState,
    batch: Batch,
    stats: DatasetStats,
    hyperparams: StepHyperparams,
    axis_name: str | None = None,
    *,
    on: bool = True,
) -> tuple[TrainState, StepMetrics]:
    """One update: one forward and one backward pass, unless the rule needs more.

    `graph` is the network without its arrays, `axis_name` the axis of `jax.pmap` that
    the batch is sharded over, and `on` False before the rule is switched on. Returns
    the state after, and metrics.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    inputs, keys = _prepared(run, batch, key, axis_name)
    kept = state.kept[batch.index] if state.kept.size else None

    rule = methods.rule(run)

    def forward(
        params: Any,
        inputs: jax.Array,
        labels: jax.Array,
        present: jax.Array,
        keys: jax.Array,
        kept: jax.Array | None,
        class_weights: jax.Array,
    ) -> tuple[jax.Array, Any]:
        # A copy: its statistics are written at this level of tracing.
        network = nnx.merge(graph, params, state.frozen, state.statistics, copy=True)
        network.train()
        features = network.features(inputs, present, keys)
        losses = per_example_losses(
            run.loss,
            network.head(features),
            labels,
            class_counts=stats.class_counts,
            class_weights=class_weights,
            kept=kept,
            features=features,
            present=present,
            centroids=network.head.centroids[...] if run.loss.name == "oltr" else None,
            axis_name=axis_name,
        )
        return losses, nnx.state(network, nnx.Not(nnx.Param))

    meta = batch.meta

    def meta_loss(params: Any) -> jax.Array:
        # The meta batch has random keys of its own.
        inputs, keys = _prepared(run, meta, jax.random.fold_in(key, 2), axis_name)
        losses, _ = forward(
            params,
            inputs,
            meta.labels,
            meta.present,
            keys,
            meta.present,  # truncation prunes none of them
            jnp.ones_like(stats.class_weights),
        )
        return jnp.sum(losses, where=meta.present) / jnp.sum(meta.present)

    weighting_input = methods.WeightingInput(
        params=state.params,
        per_example_losses=forward,
        examples=(inputs, batch.labels, batch.present, keys, kept),
        present=batch.present,
        labels=batch.labels,
        index=batch.index,
        class_weights=stats.class_weights,
        hyperparams=hyperparams,
        meta_loss_of=None if meta is None else meta_loss,
        axis_name=axis_name,
    )
    gradient = rule.gradient if on or rule.before is None else rule.before
    result = gradient(weighting_input, state.optimizer.rule)
    direction = result.gradient
    if run.loss.class_weights_norm == "weights":
        weights = jnp.where(batch.present, stats.class_weights[batch.labels], 0.0)
        mean = _sum(jnp.sum(weights), axis_name) / _sum(
            jnp.sum(batch.present), axis_name
        )
        direction = optax.tree.scale(1.0 / mean, direction)
    updates, descent = methods.descent(run, hyperparams).update(
        direction, state.optimizer.descent, state.params
    )
    after = state._replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        statistics=result.statistics,
        optimizer=OptimizerState(result.state, descent),
    )
    lam = hyperparams.lam
    if run.method.rho is not None:
        lam = jnp.where(hyperparams.on, result.state.lam, lam)
    return after, _metrics_of(run, batch, stats, result, lam, axis_name)


def _prepared(
    run: configs.Run, batch: Batch, key: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """Augmented and normalised inputs, and keys for dropout `[batch]`."""
    # A key per example, so that any layout over devices draws the same numbers; and per
    # occurrence in the batch, where the sampler repeats an example.
    fold = jax.vmap(jax.random.fold_in)
    again = _repeats(batch, axis_name)
    keys, augmentation_keys = (
        jnp.where(again > 0, fold(once, again), once)
        for of in jax.random.split(key)
        for once in [jax.vmap(functools.partial(jax.random.fold_in, of))(batch.index)]
    )
    inputs = batch.inputs
    if run.data.augment_on == "device":
        inputs = augment.on_device(inputs, augmentation_keys, run.data)
    return prepare(run.data, inputs), keys


def _repeats(batch: Batch, axis_name: str | None) -> jax.Array:
    """How often each example occurs earlier in the batch, int32 `[batch]`."""
    index, present = batch.index, batch.present
    positions = jnp.arange(len(index))
    every, everywhere = index, present
    if axis_name is not None:
        positions = positions + jax.lax.axis_index(axis_name) * len(index)
        every = jax.lax.all_gather(index, axis_name, tiled=True)
        everywhere = jax.lax.all_gather(present, axis_name, tiled=True)
    before = jnp.arange(len(every)) < positions[:, None]
    same = (index[:, None] == every) & everywhere
    return jnp.sum(before & same, axis=1, dtype=jnp.int32)


def _sum(value: jax.Array, axis_name: str | None) -> jax.Array:
    """Sums over devices, under `pmap`."""
    return value if axis_name is None else jax.lax.psum(value, axis_name)


def _metrics_of(
    run: configs.Run,
    batch: Batch,
    stats: DatasetStats,
    result: methods.WeightingResult,
    lam: jax.Array,
    axis_name: str | None,
) -> StepMetrics:
    """The metrics of a step."""
    losses, p = result.losses, result.weights
    present, labels, index = batch.present, batch.labels, batch.index
    wrong = stats.mislabelled[index] & present
    if axis_name is not None:
        gather = functools.partial(
            jax.lax.all_gather, axis_name=axis_name, axis=0, tiled=True
        )
        losses, p, present, labels, index, wrong = map(
            gather, (losses, p, present, labels, index, wrong)
        )
    p = jnp.where(present, p, 0.0)
    squares = jnp.sum(p**2)
    of_class = jnp.zeros(run.data.classes)
    bad = present & ~jnp.isfinite(losses)
    (rows,) = jnp.nonzero(bad, size=NAMED, fill_value=-1)
    examples = jnp.sum(present)
    return StepMetrics(
        examples=examples,
        loss=jnp.sum(losses, where=present),
        tilted_loss=result.objective,
        lam=lam,
        weight=jnp.sum(p),
        effective=jnp.where(squares > 0.0, jnp.sum(p) ** 2 / (examples * squares), 0.0),
        largest=jnp.max(p),
        weight_of_class=of_class.at[labels].add(p),
        examples_of_class=of_class.at[labels].add(present).astype(jnp.int32),
        weight_mislabelled=jnp.sum(p, where=wrong),
        examples_mislabelled=jnp.sum(wrong),
        not_finite=jnp.where(rows < 0, -1, index[rows]),
    )


def _network(graph: nnx.GraphDef, state: TrainState) -> Any:
    """The network in evaluation mode."""
    network = nnx.merge(graph, state.params, state.frozen, state.statistics, copy=True)
    network.eval()
    return network


def eval_step(
    graph: nnx.GraphDef, run: configs.Run, state: TrainState, batch: Batch
) -> metrics.Counts:
    """Accumulates the confusion matrix and the other counts of an evaluation."""
    logits = logits_step(graph, run, state, batch)
    return metrics.count(logits, batch.labels, batch.present)


def prune_step(
    graph: nnx.GraphDef, run: configs.Run, state: TrainState, batch: Batch
) -> TrainState:
    """Prunes the training examples whose label has a probability of k or less.

    The batch is not augmented. In the state after, `kept` is set for its examples.
    """
    logits = logits_step(graph, run, state, batch)
    probabilities = jnp.take_along_axis(
        jax.nn.softmax(logits), batch.labels[:, None], axis=1
    )[:, 0]
    outside = state.kept.size  # index that `mode="drop"` ignores
    rows = jnp.where(batch.present, batch.index, outside)
    kept = state.kept.at[rows].set(probabilities > run.loss.k, mode="drop")
    return state._replace(kept=kept)


def network(run: configs.Run, axis_name: str | None = None) -> nnx.Module:
    """The network of a run without its arrays, as shapes."""
    return nnx.eval_shape(
        lambda: models.build(run.model, run.data, rngs=nnx.Rngs(0), axis_name=axis_name)
    )


def program(
    run: configs.Run, layout: Layout, parallel: Literal["jit", "pmap"] = "jit"
) -> Program:
    """Compiles the steps, each when it is first called.

    Runs that differ only in what `fields.compiled` leaves out share a program. Under
    `jit` the program is partitioned by the sharding of the batch; under `pmap` it runs
    on each device with explicit collectives. `train` donates the buffers of the state.
    """
    return _program(fields.compiled(run), layout, parallel)


def updates_of(
    run: configs.Run, axis_name: str | None = None, *, on: bool = True
) -> Train:
    """The pure step of a run, not compiled: `train_step` with graph and run bound."""
    graph = _graph(_untrained(run), axis_name)
    return functools.partial(train_step, graph, run, axis_name=axis_name, on=on)


def counts_of(run: configs.Run) -> Callable[[TrainState, Batch], metrics.Counts]:
    """The pure evaluation of a run: `eval_step` with graph and run bound."""
    alike = _untrained(run)
    return functools.partial(eval_step, _graph(alike), alike)


def switches(run: configs.Run) -> bool:
    """Whether there is another program before the rule is switched on."""
    return methods.rule(run).before is not None


@functools.cache
def _program(run: configs.Run, layout: Layout, parallel: str) -> Program:
    axis_name = AXIS if parallel == "pmap" else None
    whole, spread = layout.replicated, layout.spread

    @functools.cache
    def compiled(on: bool) -> Callable[..., Any]:
        step = updates_of(run, axis_name, on=on)
        if parallel == "pmap":
            return _by_pmap(step, layout)
        return jax.jit(
            step,
            in_shardings=(whole, spread, whole, whole),
            out_shardings=whole,
            donate_argnums=0,
        )

    one_program = not switches(run)
    # The axis has a name only inside `pmap`, where evaluation does not run.
    evaluate, features, logits = _evaluation_of(_untrained(run), layout)
    return Program(
        functools.partial(_init, run, layout),
        lambda hyperparams: compiled(one_program or bool(hyperparams.on)),
        evaluate,
        jax.jit(
            functools.partial(prune_step, _graph(_untrained(run)), run),
            in_shardings=(whole, spread),
            out_shardings=whole,
            donate_argnums=0,
        ),
        features,
        logits,
    )


def _untrained(run: configs.Run) -> configs.Run:
    """A run with only the fields that its evaluation depends on."""
    scaling = ("name", "scale") if run.loss.name == "ldam" else ()
    loss = fields.only(run.loss, *scaling)
    return fields.only(run, "data", "model", "trainable", loss=loss)


@functools.cache
def _graph(run: configs.Run, axis_name: str | None = None) -> nnx.GraphDef:
    """The network of a run without its arrays, to be merged with its three parts."""
    abstract = network(run, axis_name)
    return nnx.split(abstract, *_parts(run, abstract))[0]


@functools.cache
def _evaluation_of(run: configs.Run, layout: Layout) -> list[Callable[..., Any]]:
    """Compiles evaluation and features, once for all ways to train a network."""

    def evaluation_of(step: Callable[..., Any]) -> Callable[..., Any]:
        compiled = jax.jit(
            functools.partial(step, _graph(run), run),
            in_shardings=(layout.replicated, layout.spread),
            out_shardings=layout.replicated,
        )
        # Without the fields of training, whose types would be compiled in.
        rest = {"step": None, "key": None, "optimizer": None, "kept": None}
        return lambda state, batch: compiled(state._replace(**rest), batch)

    return [evaluation_of(step) for step in (eval_step, feature_step, logits_step)]


def feature_step(
    graph: nnx.GraphDef, run: configs.Run, state: TrainState, batch: Batch
) -> jax.Array:
    """Penultimate features, which enter the head, float `[batch, features]`."""
    return _network(graph, state).features(
        prepare(run.data, batch.inputs), batch.present
    )


def logits_step(
    graph: nnx.GraphDef, run: configs.Run, state: TrainState, batch: Batch
) -> jax.Array:
    """Logits, float `[batch, classes]`, whose softmax are the probabilities."""
    outputs = _network(graph, state)(prepare(run.data, batch.inputs), batch.present)
    return _scaled(run, outputs)


def _scaled(run: configs.Run, outputs: jax.Array) -> jax.Array:
    """Logits of a network's outputs; LDAM's are cosines, which its loss scales."""
    return outputs * run.loss.scale if run.loss.name == "ldam" else outputs


def probabilities_of(
    run: configs.Run, state: TrainState
) -> Callable[[jax.Array], jax.Array]:
    """The trained network as a function, from examples as stored to probabilities."""
    graph = _graph(_untrained(run))

    def probabilities(inputs: jax.Array) -> jax.Array:
        network = _network(graph, state)  # made where it is traced
        return jax.nn.softmax(_scaled(run, network(prepare(run.data, inputs))))

    return probabilities


def init_network(run: configs.Run, seed: int) -> Any:
    """Initialises the network of a run, as `models.build` makes it, by a seed."""
    known = "source", "image_size", "vocabulary", "length", "contents"
    data = fields.only(run.data, *known)
    return nnx.merge(*_init_network(run.model, data)(seed))


@functools.cache
def _init_network(model: configs.Model, data: configs.Data) -> Callable[[int], Any]:
    """Compiles the initialisation of a network: seed -> graph and state."""

    def network(seed: jax.typing.ArrayLike) -> Any:
        return models.build(model, data, rngs=nnx.Rngs(jax.random.key(seed)))

    graph = nnx.graphdef(nnx.eval_shape(lambda: network(0)))
    # It runs only a few times. At a higher level of optimization the compiler takes
    # five times as long, for the same numbers. A level that XLA_FLAGS has is kept.
    level = "xla_backend_optimization_level"
    given = level in os.environ.get("XLA_FLAGS", "")
    state = jax.jit(
        lambda seed: nnx.state(network(seed)),
        compiler_options=None if given else {level: 1},
    )
    return lambda seed: (graph, state(seed))


def _parts(run: configs.Run, network: Any) -> tuple[Any, ...]:
    """Filters: trained parameters, frozen parameters, statistics."""
    return models.trained(run.trainable, network), nnx.Param, ...


def _init(
    run: configs.Run, layout: Layout, network: Any, seed: int, examples: int
) -> TrainState:
    """The state before the first step."""
    # Copies, since a step donates the buffers of its state.
    state = _first_state(run, network, seed, examples)
    return layout.replicate(jax.tree.map(_copied, state))


def _copied(leaf: Any) -> Any:
    """A copy; of a random key, which a network of one's own may have, too."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.clone(leaf)
    return np.array(leaf)


def abstract_state(run: configs.Run, layout: Layout, examples: int) -> TrainState:
    """The shapes and shardings of the state before the first step.

    They compile a step for so many training examples ahead of time, without arrays.
    """
    graph, arrays = nnx.split(network(run))
    state = jax.eval_shape(
        lambda arrays: _first_state(run, nnx.merge(graph, arrays), run.seed, examples),
        arrays,
    )
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.replicated),
        state,
    )


def _first_state(
    run: configs.Run, network: Any, seed: int, examples: int
) -> TrainState:
    _, params, frozen, statistics = nnx.split(network, *_parts(run, network))
    rule, descent = (
        methods.rule(run),
        methods.descent(run, methods.step_hyperparams(configs.Run(), 1, 0)),
    )
    truncates = run.loss.name == "truncated"
    return TrainState(
        step=np.int32(0),
        key=jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 1)),
        params=params,
        frozen=frozen,
        statistics=statistics,
        optimizer=OptimizerState(
            rule.init(params, examples, run.data.classes), descent.init(params)
        ),
        kept=np.ones(examples if truncates else 0, bool),
    )


def _by_pmap(train: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """The step under `pmap`, from whole batches."""
    devices = list(layout.mesh.devices.flat)

    def without_kept(*arguments: Any) -> tuple[TrainState, StepMetrics]:
        # `kept` does not change. Empty, it would crash the compiler of JAX 0.11.2.
        after, step_metrics = train(*arguments)
        return after._replace(kept=None), step_metrics

    mapped = jax.pmap(
        without_kept,
        axis_name=AXIS,
        in_axes=(None, 0, None, None),
        out_axes=None,
        devices=devices,
    )

    def step(
        state: TrainState,
        batch: Batch,
        stats: DatasetStats,
        hyperparams: StepHyperparams,
    ) -> tuple[TrainState, StepMetrics]:
        rows = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)
        after, step_metrics = layout.replicate(mapped(state, rows, stats, hyperparams))
        return after._replace(kept=state.kept), step_metrics

    return step
