"""A preset's network in the trainer's step, device loop, or a hand-written step."""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import absgd_jax
from benchmarks import compiled
from benchmarks.compiled import Ready
from experiments import configs, methods, presets
from experiments.data.task import Task
from experiments.data.types import Examples
from experiments.studies import method_grid
from experiments.train import device_loop, loop, sharding, steps
from experiments.train.session import Session

Form = Literal["trainer", "device_loop", "plain", "masked"]
_BATCHES = 4  # that the examples suffice for
# No augmentation.
_AS_THEY_ARE = {"data.crop_padding": 0, "data.flip": False, "data.rotation": 0.0}


def configure(
    preset: str,
    method: str,
    batch: int,
    changes: dict[str, Any] | None = None,
) -> configs.Run:
    """The run whose step is measured.

    Args:
      preset: its name.
      method: a method, as `compare` calls it.
      batch: examples.
      changes: of the run, as in `configs.replace`; lists stand for tuples.

    Returns:
      A run with the first value of the method's grid.
    """
    run = presets.get(preset).run
    run = method_grid.every(run)[method].runs(method_grid.plain(run))[0]
    made = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in (changes or {}).items()
    }
    return configs.replace(run, {"batch_size": batch, **made})


def task(run: configs.Run, batches: int = _BATCHES) -> Task:
    """A task of random images, with the shape and type of a run's.

    Args:
      run: data and batch size.
      batches: number of training batches.

    Returns:
      The task, with balanced classes.
    """
    data = run.data
    shape = data.info.shape
    if data.image_size is not None:
        shape = (data.image_size, data.image_size, data.channels)

    def drawn(count: int, seed: int) -> Examples:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (count, *shape), np.uint8)
        if data.source == "digits":
            images = (images / 255.0).astype(np.float32)
        return Examples(images, np.arange(count, dtype=np.int32) % data.classes)

    examples = drawn(batches * run.batch_size, 0)
    meta = drawn(data.meta_per_class * data.classes, 1)
    return Task(
        examples,
        None,
        examples,
        np.zeros(len(examples.labels), bool),
        np.bincount(examples.labels, minlength=data.classes),
        meta if run.method.uses_meta_set else None,
    )


def dataset_stats(task: Task, layout: sharding.Layout) -> steps.DatasetStats:
    """Statistics of a task, without class weights, on the devices."""
    counts = np.maximum(task.class_counts, 1).astype(np.float32)
    stats: Any = (counts, np.ones_like(counts), task.mislabelled)
    return layout.replicate(steps.DatasetStats(*stats))


def build(
    form: Form = "trainer",
    preset: str = "cifar10_lt100",
    method: str = "sgd",
    batch: int = 128,
    changes: dict[str, Any] | None = None,
    timeline: Sequence[tuple[str, float]] = (),
    devices: int = 1,
) -> Ready:
    """Compiles a step.

    Args:
      form: `trainer`, the step of a training in its last epoch, where everything is
        switched on; `device_loop`, as many updates per dispatch as suit the device, on
        images that stay there; `plain`, a hand-written SGD on the same network;
        `masked`, the same with the padding mask that the trainer's fixed batches need.
      preset: whose network, data and optimizer.
      method: method of the trainer's step.
      batch: examples.
      changes: of the run.
      timeline: (name, time) of earlier events, seconds since 1970; if there is any, the
        first step is run at once, and the facts have the duration of each part.
      devices: over which the batch is sharded.

    Returns:
      The step. Its `examples` are those of a batch. Its FLOPs are those of one update
      even where a dispatch makes many, since the compiler counts a loop once.
    """
    passed = list(timeline)
    passed.append(("imports", time.time()))
    run = configure(preset, method, batch, changes)
    jax.devices()
    passed.append(("devices", time.time()))
    make = {"trainer": _trainer, "device_loop": _device_loop}.get(
        form, functools.partial(_by_hand, form)
    )
    lower, init, updates = make(run, sharding.layout(devices))
    lowered = lower()
    passed.append(("lower", time.time()))
    program = lowered.compile()
    passed.append(("compile", time.time()))
    facts = {"examples": batch, **compiled.cost(program), **compiled.device()}
    facts["updates_per_dispatch"] = updates
    params, step = init()
    facts["parameters"] = compiled.parameters(params)
    if timeline:
        passed.append(("initial state", time.time()))
        jax.block_until_ready(step())
        passed.append(("first step", time.time()))
        facts["timeline"] = {
            name: when - before
            for (_, before), (name, when) in itertools.pairwise(passed)
        }
        facts["seconds"] = passed[-1][1] - passed[0][1]
    return Ready(facts, lambda: compiled.timed(step, updates))


_Step = Callable[[], Any]
# Lowers the program; makes parameters and a step; number of updates of a step.
_Made = tuple[Callable[[], Any], Callable[[], tuple[Any, _Step]], int]


def _trainer(run: configs.Run, layout: sharding.Layout) -> _Made:
    """The trainer's step, on a batch of the trainer's loader."""
    made = task(run)
    program = steps.program(run, layout)
    loader = loop.batches_from(loop.Position(0, 0, {}), run, made, layout, Session())
    batch = layout.shard(next(loader))
    loader.close()
    stats = dataset_stats(made, layout)
    per_epoch = loop.steps_per_epoch(run, made)
    last = run.epochs * per_epoch - 1  # when all is switched on
    hyperparams = methods.step_hyperparams(run, per_epoch, last)
    update: Any = program.train(hyperparams)

    def state() -> steps.TrainState:
        return program.init(
            steps.init_network(run, run.seed), run.seed, len(made.train.labels)
        )

    def init() -> tuple[Any, _Step]:
        kept = [state()]

        def step() -> Any:
            # As the loop does: hyperparameters come from the host for every step.
            now = methods.step_hyperparams(run, per_epoch, last)
            kept[0], step_metrics = update(kept[0], batch, stats, now)
            return step_metrics

        return kept[0].params, step

    return lambda: update.lower(state(), batch, stats, hyperparams), init, 1


def _device_loop(run: configs.Run, layout: sharding.Layout) -> _Made:
    """The trainer's device loop, without augmentation."""
    run = configs.replace(run, _AS_THEY_ARE)
    many = compiled.per_dispatch()
    made = task(run, max(many, _BATCHES))
    labels = made.train.labels
    index, present = device_loop.epoch_indices(run, labels, 0)
    per_epoch = loop.steps_per_epoch(run, made)
    last = run.epochs * per_epoch - 1  # when all is switched on
    hyperparams = [methods.step_hyperparams(run, per_epoch, last)] * many
    step_inputs = device_loop.step_inputs(
        index[:many], present[:many], hyperparams, many
    )
    examples = device_loop.to_device(made.train, layout)
    stats = dataset_stats(made, layout)
    update: Any = device_loop.compiled(run, layout)

    def state() -> steps.TrainState:
        program = steps.program(run, layout)
        return program.init(steps.init_network(run, run.seed), run.seed, len(labels))

    def init() -> tuple[Any, _Step]:
        kept = [state()]

        def step() -> Any:
            kept[0], step_metrics = update(kept[0], examples, stats, step_inputs)
            return step_metrics

        return kept[0].params, step

    return lambda: update.lower(state(), examples, stats, step_inputs), init, many


def _by_hand(form: Form, run: configs.Run, layout: sharding.Layout) -> _Made:
    """Hand-written SGD with weight decay in Optax, on the trainer's network."""
    examples = task(run).train
    inputs = np.asarray(examples.inputs)[: run.batch_size]
    whole = np.ones(run.batch_size, bool)
    images, labels, present = layout.shard(
        (inputs, examples.labels[: run.batch_size], whole)
    )
    optimizer = run.optimizer
    tx = optax.chain(
        optax.add_decayed_weights(optimizer.weight_decay),
        optax.sgd(1e-3 * optimizer.learning_rate, optimizer.momentum),
    )

    def split() -> tuple[Any, Any, Any]:
        parts: Any = nnx.split(steps.init_network(run, run.seed), nnx.Param, ...)
        return parts

    graph, *_ = split()

    @functools.partial(
        jax.jit,
        in_shardings=(layout.replicated, *[layout.spread] * 3),
        out_shardings=layout.replicated,
        donate_argnums=0,
    )
    def update(state: Any, images: Any, labels: Any, present: Any) -> Any:
        params, statistics, optimizer = state

        def mean(params: Any) -> tuple[jax.Array, Any]:
            network = nnx.merge(graph, params, statistics, copy=True)
            network.train()
            inputs = steps.prepare(run.data, images)
            logits = network(inputs, present if form == "masked" else None)
            losses = absgd_jax.losses.softmax_cross_entropy_with_integer_labels(
                logits, labels
            )
            loss = (
                jnp.sum(losses, where=present) / jnp.sum(present)
                if form == "masked"
                else jnp.mean(losses)
            )
            return loss, nnx.state(network, nnx.Not(nnx.Param))

        grads, statistics = jax.grad(mean, has_aux=True)(params)
        updates, optimizer = tx.update(grads, optimizer, params)
        return optax.apply_updates(params, updates), statistics, optimizer

    def state() -> Any:
        _, params, statistics = split()
        return layout.replicate(
            jax.tree.map(np.array, (params, statistics, tx.init(params)))
        )

    def init() -> tuple[Any, _Step]:
        kept = [state()]

        def step() -> Any:
            kept[0] = update(kept[0], images, labels, present)
            return kept[0]

        return kept[0][0], step

    return lambda: update.lower(state(), images, labels, present), init, 1
