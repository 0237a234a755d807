"""The trainer's own step of a run, compiled ahead of time."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks import interleave, library_step, step_cost, summary
from benchmarks.step_cost import Ready
from experiments import configs, methods, presets
from experiments.data import loader
from experiments.data.task import Task, load_task
from experiments.data.types import Examples
from experiments.studies import method_grid
from experiments.train import device_loop, loop, losses, sharding, steps
from experiments.train.session import Session

Form = Literal["trainer", "device_loop", "plain", "masked"]
_BATCHES = 4  # that the examples suffice for
_NO_AUGMENTATION = {"data.crop_padding": 0, "data.flip": False, "data.rotation": 0.0}
ROUNDS = 12  # steps of each method that `relative_costs` times


class Step(NamedTuple):
    """A step that can be compiled before its state is allocated."""

    jitted: Any  # state, *arguments -> state after, metrics; donates the state
    state: Any  # the shapes of the state
    init: Callable[[], Any]  # allocates the state
    arguments: Callable[[], tuple[Any, ...]]  # the others; called for every step
    updates: int = 1  # that a call makes

    def lower(self) -> Any:
        """Lowers the step."""
        return self.jitted.lower(self.state, *self.arguments())

    def start(self, compiled: Any) -> Callable[[int], float]:
        """Allocates the state; returns what times so many updates."""
        return step_cost.timed(
            lambda state: compiled(state, *self.arguments())[0],
            self.init(),
            self.updates,
        )


def configure(
    preset: str, method: str, batch: int, changes: dict[str, Any] | None = None
) -> configs.Run:
    """A preset's run with a method, as `compare` calls it and first in its grid.

    `changes` are those of `configs.replace`.
    """
    run = presets.get(preset).run
    run = method_grid.every(run)[method].runs(method_grid.plain(run))[0]
    return configs.replace(run, {"batch_size": batch, **(changes or {})})


def random_task(run: configs.Run, batches: int = _BATCHES) -> Task:
    """A task of so many batches of random images, with the shape and type of a run's.

    Its classes are balanced.
    """
    data = run.data

    def drawn(count: int, seed: int) -> Examples:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (count, *data.shape), np.uint8)
        if data.source == "digits":
            images = (images / 255.0).astype(np.float32)
        return Examples(images, np.arange(count, dtype=np.int32) % data.classes)

    examples = drawn(batches * run.batch_size, 0)
    clean = drawn(data.meta_per_class * data.classes, 1)
    return Task(
        examples,
        None,
        examples,
        np.zeros(len(examples.labels), bool),
        np.bincount(examples.labels, minlength=data.classes),
        clean if run.method.info.uses_meta_set else None,
    )


def build(
    form: Form = "trainer",
    preset: str = "cifar10_lt100",
    method: str = "sgd",
    batch: int = 128,
    changes: dict[str, Any] | None = None,
    timeline: Sequence[tuple[str, float]] = (),
    devices: int = 1,
) -> Ready:
    """Compiles a step on random images.

    Args:
      form: `trainer`, the step of a training in its last epoch, where everything is
        switched on; `device_loop`, as many updates per dispatch as suit the device, on
        images that stay there; `plain`, a hand-written SGD on the same network;
        `masked`, the same with the padding mask that the trainer's fixed batches need.
      preset: whose network, data and optimizer.
      method: of the trainer's step, as `compare` calls it.
      batch: examples.
      changes: of the run, as in `configs.replace`.
      timeline: (name, time) of earlier events, seconds since 1970; if there is any, the
        first step is run at once, and the facts have the duration of each part.
      devices: over which the batch is sharded.

    Returns:
      The step. Its `examples` are those of a batch. Its FLOPs are those of one update
      even where a dispatch makes many, since the compiler counts a loop once.
    """
    events = [*timeline, ("imports", time.time())]
    layout = sharding.layout(devices)
    events.append(("devices", time.time()))
    run = configure(preset, method, batch, changes)
    in_device_loop, batches = form == "device_loop", _BATCHES
    if in_device_loop:
        run = configs.replace(run, _NO_AUGMENTATION)
        batches = max(batches, step_cost.updates_per_dispatch())
    task = random_task(run, batches)
    if form in ("plain", "masked"):
        step = _sgd_by_hand(run, task, layout, masked=form == "masked")
    else:
        step = trainer(run, task, layout, in_device_loop=in_device_loop)
    lowered = step.lower()
    events.append(("lower", time.time()))
    compiled = lowered.compile()
    events.append(("compile", time.time()))
    facts = step_cost.facts(compiled, step.state.params, batch)
    facts["updates_per_dispatch"] = step.updates
    if timeline:
        run_steps = step.start(compiled)
        events.append(("initial state", time.time()))
        run_steps(1)
        events.append(("first step", time.time()))
        facts["timeline"] = {
            name: when - before
            for (_, before), (name, when) in itertools.pairwise(events)
        }
        facts["seconds"] = events[-1][1] - events[0][1]
    return Ready(facts, lambda: step.start(compiled))


def trainer(
    run: configs.Run,
    task: Task,
    layout: sharding.Layout,
    session: Session = Session(),  # noqa: B008, it is frozen
    *,
    in_device_loop: bool = False,
) -> Step:
    """The trainer's step in the last epoch, where everything is switched on.

    All steps are made on the task's first batches. With `in_device_loop` the examples
    stay on the device and a call makes as many updates as suit it; otherwise
    hyperparameters come from the host for every step.
    """
    program, examples = steps.program(run, layout), len(task.train.labels)
    per_epoch = loop.steps_per_epoch(run, task)
    stats = loop.dataset_stats(run, task, layout)._replace(
        class_weights=layout.replicate(
            losses.class_weights(run, task.class_counts, run.epochs - 1)
        )
    )

    def hyperparams() -> methods.StepHyperparams:
        return methods.step_hyperparams(run, per_epoch, run.epochs * per_epoch - 1)

    if in_device_loop:
        many = step_cost.updates_per_dispatch()
        index, present = device_loop.epoch_indices(run, task.train.labels, 0)
        inputs = device_loop.step_inputs(
            index[:many], present[:many], [hyperparams()] * many, many
        )
        on_device = device_loop.to_device(task.train, layout)
        jitted: Any = device_loop.compiled(run, layout)
        arguments = lambda: (on_device, stats, inputs)
    else:
        many, batch = 1, _first_batch(run, task, layout, session)
        jitted = program.train(hyperparams())
        arguments = lambda: (batch, stats, hyperparams())
    return Step(
        jitted,
        steps.abstract_state(run, layout, examples),
        lambda: program.init(steps.init_network(run, run.seed), run.seed, examples),
        arguments,
        many,
    )


def _first_batch(
    run: configs.Run, task: Task, layout: sharding.Layout, session: Session
) -> loader.Batch:
    batches = loop.batches_from(loop.Position(0, 0, {}), run, task, layout, session)
    with contextlib.closing(batches):
        return layout.shard(next(batches))


def _sgd_by_hand(
    run: configs.Run, task: Task, layout: sharding.Layout, *, masked: bool
) -> Step:
    """Hand-written SGD with weight decay in Optax, on the trainer's network."""
    batch = _first_batch(run, task, layout, Session())
    arrays = (batch.inputs, batch.labels, batch.present)
    optimizer = run.optimizer
    tx = optax.chain(
        optax.add_decayed_weights(optimizer.weight_decay),
        optax.sgd(1e-3 * optimizer.learning_rate, optimizer.momentum),
    )
    graph, params, statistics = nnx.split(steps.network(run), nnx.Param, ...)

    def apply(network: Any, images: jax.Array, present: jax.Array) -> jax.Array:
        return network(steps.prepare(run.data, images), present if masked else None)

    def init() -> library_step.State:
        network = steps.init_network(run, run.seed)
        _, params, statistics = nnx.split(network, nnx.Param, ...)
        state = library_step.State(params, statistics, tx.init(params))
        # Copies, since a step donates the buffers of its state.
        return layout.replicate(jax.tree.map(np.array, state))

    losses_of = library_step.losses_of_network(graph, apply)
    update = library_step.step("sgd", tx, losses_of, masked=masked)
    return Step(
        library_step.jitted(lambda *of: (update(*of), ()), layout, len(arrays)),
        library_step.State(params, statistics, jax.eval_shape(tx.init, params)),
        init,
        lambda: arrays,
    )


def relative_costs(
    grids: Sequence[method_grid.MethodGrid],
    plain: configs.Run,
    session: Session,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Times the step of each method that trains, in turn with a step of plain SGD.

    The methods change the run `plain`.

    Yields:
      Name, and: `time` and `memory` and `flops` relative to plain SGD's; the
      `quartiles` of the first; its `seconds` and `bytes`; the number of `steps`.
    """
    layout = sharding.layout(1)

    def built(run: configs.Run) -> tuple[dict[str, Any], Callable[[int], float]]:
        task = load_task(run.data, run.seed, session.data_dir)
        step = trainer(run, task, layout, session)
        compiled = step.lower().compile()
        facts = step_cost.facts(compiled, step.state.params, run.batch_size)
        return facts, step.start(compiled)

    trained = [grid for grid in grids if grid.classifier is None]
    sgd = built(plain) if trained else None
    for grid in trained:
        assert sgd is not None
        both = {"sgd": sgd, "method": built(grid.runs(plain)[0])}
        samples, count = interleave.measure(
            {name: run for name, (_, run) in both.items()},
            rounds=ROUNDS,
            steps=dict.fromkeys(both, 1),
        )
        measured = {
            name: summary.Measured(facts, samples[name], count[name])
            for name, (facts, _) in both.items()
        }
        group = summary.summarise(summary.Group(grid.name, {}, measured, ("sgd",)))
        found = group["variants"]["method"]
        ratio = found["time"]["sgd"]
        costs = {
            "time": ratio["median"],
            "quartiles": [ratio["low"], ratio["high"]],
            "memory": found["held_bytes_ratio"],
            "flops": found["flops_ratio"],
            "seconds": found["seconds"]["median"],
            "bytes": found["facts"]["held_bytes"],
            "steps": ROUNDS,
        }
        yield grid.name, costs
