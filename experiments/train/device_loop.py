"""The device loop: many updates per dispatch, on a training set kept on the device.

On an accelerator a small network's update takes less time than Python takes to launch
it. Here the training inputs stay on the device, and an update gets the indices of its
batch; one program makes many updates, one after the other. The numbers are those of
the loop over batches: the host draws the order, and random numbers on the device depend
only on the example and the update.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments import configs, fields, methods
from experiments.data import loader, sampling
from experiments.data.loader import Batch
from experiments.data.types import Examples
from experiments.train import steps
from experiments.train.sharding import AXIS, Layout


class DeviceDataset(NamedTuple):
    """Examples on a device."""

    inputs: jax.Array  # [stored, ...]: uint8 or float32 images, int32 token ids
    rows: jax.Array  # int32 [examples]: row of `inputs` of each example
    labels: jax.Array  # int32 [examples]


class StepInput(NamedTuple):
    """The inputs of one update: indices of the batch, and hyperparameters."""

    index: np.ndarray  # int32 [batch], index of the example; 0 for padding
    present: np.ndarray  # bool [batch], False for padding
    hyperparams: methods.StepHyperparams
    is_real: np.ndarray  # bool []: False for a padding update, which changes nothing


# State, examples, statistics, step inputs -> state after, metrics of each update.
Updates = Callable[
    [steps.TrainState, DeviceDataset, steps.DatasetStats, StepInput],
    tuple[steps.TrainState, steps.StepMetrics],
]


def require(run: configs.Run) -> None:
    """Refuses runs whose updates need more than the indices of a batch.

    The message of the BadConfiguration has the remedy.
    """
    data = run.data
    if data.info.files:
        raise configs.BadConfiguration(
            f"{data.source} is decoded image by image on the host, and does not stay "
            "on the device: train with --steps-per-dispatch 1, and without vmap."
        )
    asked = fields.changed(data, "crop_padding", "flip", "rotation")
    if data.augment_on == "host" and asked:
        raise configs.BadConfiguration(
            "Images that stay on the device are not augmented on the host, got "
            f"{asked}: give --data.augment-on device."
        )
    if run.method.info.uses_meta_set:
        raise configs.BadConfiguration(
            f"{run.method.title} loads its meta set batch by batch: train with "
            "--steps-per-dispatch 1, and without vmap."
        )


def batch(examples: DeviceDataset, index: jax.Array, present: jax.Array) -> Batch:
    """Gathers a batch, equal to the one that the pipeline would have made.

    The indices of the examples are int32 `[batch]`; `present` is bool `[batch]`, False
    for padding, which is zeros.
    """
    inputs = examples.inputs[examples.rows[index]]
    there = jnp.reshape(present, (-1, *[1] * (inputs.ndim - 1)))
    return Batch(
        jnp.where(there, inputs, jnp.zeros_like(inputs)),
        jnp.where(present, examples.labels[index], 0),
        present,
        index,
    )


def compiled(
    run: configs.Run, layout: Layout, *, on: bool = True, vmapped: bool = False
) -> Updates:
    """Many updates as one function, compiled once for all that share a program.

    The first axis of step inputs and of metrics is that of the updates. There is no
    loop around a single update, since convolutions in a loop are slow on a CPU. `on` is
    False before the rule is switched on.

    Each device has all inputs, and batches are sharded. Many runs that are trained as
    one, `vmapped`, are on one device, and share one array of inputs. All other arrays
    have an axis of runs: the first, or the one after that of the updates. The function
    donates the buffers of the state.
    """
    on = on or not steps.switches(run)  # else the same program twice
    return _compiled(fields.compiled(run), layout, on, vmapped)


@functools.cache
def _compiled(run: configs.Run, layout: Layout, on: bool, vmapped: bool) -> Updates:
    step = steps.updates_of(run, on=on)

    def one(
        state: steps.TrainState,
        examples: DeviceDataset,
        stats: steps.DatasetStats,
        step_input: StepInput,
    ) -> tuple[steps.TrainState, steps.StepMetrics]:
        taken = batch(examples, step_input.index, step_input.present)
        after, step_metrics = step(state, taken, stats, step_input.hyperparams)
        # The compiler fuses this selection with the update.
        stay = lambda new, old: (
            new if new is old else jnp.where(step_input.is_real, new, old)
        )
        return jax.tree.map(stay, after, state), step_metrics

    if vmapped:
        one = jax.vmap(
            one, in_axes=(0, DeviceDataset(None, 0, 0), 0, StepInput(0, 0, 0, None))
        )

    def many(
        state: steps.TrainState,
        examples: DeviceDataset,
        stats: steps.DatasetStats,
        step_inputs: StepInput,
    ) -> tuple[steps.TrainState, steps.StepMetrics]:
        if step_inputs.is_real.shape[0] == 1:
            only = jax.tree.map(lambda x: x[0], step_inputs)
            state, step_metrics = one(state, examples, stats, only)
            return state, jax.tree.map(lambda x: x[None], step_metrics)
        return jax.lax.scan(
            lambda state, step_input: one(state, examples, stats, step_input),
            state,
            step_inputs,
        )

    whole = layout.replicated
    spread = NamedSharding(layout.mesh, PartitionSpec(None, AXIS))
    step_inputs = whole if vmapped else StepInput(spread, spread, whole, whole)
    return jax.jit(
        many,
        in_shardings=(whole, whole, whole, step_inputs),
        out_shardings=whole,
        donate_argnums=0,
    )


def to_device(examples: Examples, layout: Layout) -> DeviceDataset:
    """Copies a training set in memory, not image files, to each of the devices."""
    rows = np.arange(len(examples.labels), dtype=np.int32)
    labels = examples.labels.astype(np.int32)
    return layout.replicate(DeviceDataset(examples.inputs, rows, labels))


def epoch_indices(
    run: configs.Run, labels: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """The indices of an epoch's batches, from 0, in the order of `loader.training`.

    `index` int32 and `present` bool, each `[batches, batch]`.
    """
    drawn = loader.order(
        run.seed, number, len(labels), sampler=sampling.sampler(run.data, labels)
    )
    missing = -len(drawn) % run.batch_size
    index = np.pad(drawn.astype(np.int32), (0, missing))
    present = np.arange(len(index)) < len(drawn)
    shape = (-1, run.batch_size)
    return index.reshape(shape), present.reshape(shape)


def dispatch_size(per_epoch: int, most: int) -> int:
    """Updates per dispatch: the smallest number with as few dispatches as possible.

    At most `most`. Only the last dispatch of an epoch may have fewer, and is padded
    with updates that change nothing.

    Examples:
      >>> dispatch_size(97, 32), dispatch_size(97, 1000)
      (25, 97)
    """
    return -(-per_epoch // -(-per_epoch // most))


def step_inputs(
    index: np.ndarray,
    present: np.ndarray,
    hyperparams: Sequence[methods.StepHyperparams],
    size: int,
) -> StepInput:
    """The step inputs of a dispatch, padded to its size.

    Indices int32 and `present` bool are `[updates, ...]`, and the result `[size, ...]`;
    padding repeats the last update, with `is_real` False.
    """
    count = len(index)
    taken = np.minimum(np.arange(size), count - 1)
    return StepInput(
        index[taken],
        present[taken],
        stacked([hyperparams[i] for i in taken]),
        np.arange(size) < count,
    )


def stacked(trees: Sequence[Any]) -> Any:
    """Stacks the arrays of trees along a new first axis."""

    def stack(*leaves: Any) -> Any:  # random keys are no arrays of NumPy
        return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)

    return jax.tree.map(stack, *trees)
