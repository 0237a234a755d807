"""Many updates at once, on data that stay on the device.

On an accelerator a small network's update takes less time than Python takes to launch
it. Here the training inputs lie on the device, and an update is told the places of its
examples among them; one program makes many updates, one after the other, before Python
hears of them again. The numbers are those of a loop over batches: the order is the
host's, and what is drawn on the device is drawn by example and by update.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments import configs, methods
from experiments.data import pipeline
from experiments.data.pipeline import Batch
from experiments.data.sampling import Sampler
from experiments.data.sources import Examples
from experiments.train import steps
from experiments.train.sharding import AXIS, Layout


class DeviceDataset(NamedTuple):
    """Examples on a device."""

    inputs: jax.Array  # [stored, ...]: uint8 or float32 images, int32 words
    rows: jax.Array  # int32 [examples]: where each is among the inputs
    labels: jax.Array  # int32 [examples]


class StepInput(NamedTuple):
    """What one update is told."""

    index: np.ndarray  # int32 [batch], place among the examples; 0 for padding
    present: np.ndarray  # bool [batch], False for padding
    hyperparams: methods.StepHyperparams
    live: np.ndarray  # bool []: False for a turn that changes nothing


# State, examples, what they are like, turns -> state after, what each turn saw.
Updates = Callable[
    [steps.TrainState, DeviceDataset, steps.DatasetStats, StepInput],
    tuple[steps.TrainState, steps.StepMetrics],
]


def require(run: configs.Run) -> None:
    """Refuses what takes more than the places of a batch's examples.

    Args:
      run: to be trained on data that stay on the device.

    Raises:
      BadConfiguration: it cannot be; says why, and what to do.
    """
    data = run.data
    if data.kind.files:
        raise configs.BadConfiguration(
            f"{data.source} is decoded image by image on the host, and does not lie on "
            "the device: train it alone, with --steps-per-dispatch 1."
        )
    augmentations = {
        "crop_padding": data.crop_padding,
        "flip": data.flip,
        "rotation": data.rotation,
    }
    asked = [name for name, value in augmentations.items() if value]
    if data.augment_on == "host" and asked:
        raise configs.BadConfiguration(
            f"Images that lie on the device are not moved on the host, got "
            f"{', '.join(asked)}: give --data.augment-on device."
        )
    if run.method.uses_meta_set:
        raise configs.BadConfiguration(
            f"{run.method.title} is given clean examples batch by batch: train it "
            "alone, with --steps-per-dispatch 1."
        )


def batch(examples: DeviceDataset, index: jax.Array, present: jax.Array) -> Batch:
    """The examples at these places, as the pipeline would have made the batch.

    Args:
      examples: on the device.
      index: int32 `[batch]`, places among them.
      present: bool `[batch]`, False for padding.

    Returns:
      The batch; padding is zeros.
    """
    inputs = examples.inputs[examples.rows[index]]
    there = jnp.reshape(present, (-1, *[1] * (inputs.ndim - 1)))
    return Batch(
        jnp.where(there, inputs, jnp.zeros_like(inputs)),
        jnp.where(present, examples.labels[index], 0),
        present,
        index,
    )


def updates(run: configs.Run, *, on: bool = True, vmapped: bool = False) -> Any:
    """Update after update, as one pure function; see `Updates`.

    Args:
      run: network, loss, method and optimizer.
      on: whether the rule weights; False before it is switched on.
      vmapped: whether there are many trainings, whose inputs alone are one array.
        All else has an axis for them, in turns behind that of the turns.

    Returns:
      A function. Arrays of turns begin with their axis, as do those of what was seen.
      Of a single turn no loop is made, which is what a CPU's convolutions need.
    """
    step = steps.updates_of(run, on=on)

    def one(
        state: steps.TrainState,
        examples: DeviceDataset,
        stats: steps.DatasetStats,
        step_input: StepInput,
    ) -> tuple[steps.TrainState, steps.StepMetrics]:
        taken = batch(examples, step_input.index, step_input.present)
        after, step_metrics = step(state, taken, stats, step_input.hyperparams)
        # The compiler makes the choice where it writes the update.
        stay = lambda new, old: (
            new if new is old else jnp.where(step_input.live, new, old)
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
        if step_inputs.live.shape[0] == 1:
            only = jax.tree.map(lambda x: x[0], step_inputs)
            state, step_metrics = one(state, examples, stats, only)
            return state, jax.tree.map(lambda x: x[None], step_metrics)
        return jax.lax.scan(
            lambda state, step_input: one(state, examples, stats, step_input),
            state,
            step_inputs,
        )

    return many


def compiled(
    run: configs.Run, layout: Layout, *, on: bool = True, vmapped: bool = False
) -> Updates:
    """`updates`, compiled once for all runs that `steps.program` compiles once for.

    Args:
      run: network, loss, method and optimizer.
      layout: devices, each with all inputs, over which batches are spread.
      on: as `updates` takes it.
      vmapped: likewise; on one device.

    Returns:
      A function that gives the buffers of the state before to the state after.
    """
    on = on or not steps.switches(run)  # else the same program twice
    return _compiled(steps.essential(run), layout, on, vmapped)


@functools.cache
def _compiled(run: configs.Run, layout: Layout, on: bool, vmapped: bool) -> Updates:
    whole = layout.replicated
    spread = NamedSharding(layout.mesh, PartitionSpec(None, AXIS))
    step_inputs = whole if vmapped else StepInput(spread, spread, whole, whole)
    return jax.jit(
        updates(run, on=on, vmapped=vmapped),
        in_shardings=(whole, whole, whole, step_inputs),
        out_shardings=whole,
        donate_argnums=0,
    )


def to_device(examples: Examples, layout: Layout) -> DeviceDataset:
    """Puts a training set on the devices.

    Args:
      examples: in memory, not image files.
      layout: devices, each of which gets all.

    Returns:
      The examples.
    """
    rows = np.arange(len(examples.labels), dtype=np.int32)
    labels = examples.labels.astype(np.int32)
    return layout.replicate(DeviceDataset(examples.inputs, rows, labels))


def epoch_indices(
    run: configs.Run, labels: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """The places of an epoch's batches, in the order of `pipeline.training`.

    Args:
      run: data, batch size and seed.
      labels: of the training examples.
      number: of the epoch, from 0.

    Returns:
      `index` int32 and `present` bool, each `[batches, batch]`.
    """
    drawn = pipeline.order(run.seed, number, len(labels), sampler=sampler(run, labels))
    missing = -len(drawn) % run.batch_size
    index = np.pad(drawn.astype(np.int32), (0, missing))
    present = np.arange(len(index)) < len(drawn)
    shape = (-1, run.batch_size)
    return index.reshape(shape), present.reshape(shape)


def sampler(run: configs.Run, labels: np.ndarray) -> Sampler | None:
    """What draws an epoch by the labels; None where they are shuffled."""
    data = run.data
    if data.sampling == "shuffled":
        return None
    return Sampler(data.sampling, labels, data.sampling_beta)


def dispatch_size(per_epoch: int, most: int) -> int:
    """Updates of a dispatch: as many for each of an epoch as there can be.

    Args:
      per_epoch: updates in an epoch.
      most: of one dispatch.

    Returns:
      At most `most`; of an epoch's dispatches the last one alone may have fewer, and
      is filled up with turns that change nothing.

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
    """The turns of a dispatch.

    Args:
      index: places, int32 `[turns, ...]`.
      present: bool, of the same shape.
      hyperparams: of each turn.
      size: of a dispatch, at least as many.

    Returns:
      Arrays `[size, ...]`; those after the turns repeat the last one, and change
      nothing.
    """
    count = len(index)
    taken = np.minimum(np.arange(size), count - 1)
    stacked = [
        np.stack([hyperparams[i][field] for i in taken]) for field in _HYPERPARAMS
    ]
    return StepInput(
        index[taken],
        present[taken],
        methods.StepHyperparams(*stacked),
        np.arange(size) < count,
    )


_HYPERPARAMS = range(len(methods.StepHyperparams._fields))


class DeviceLoop:
    """Makes the updates of a training, many at a time.

    Args:
      run: to be trained.
      examples: to be trained on.
      layout: devices.
      per_epoch: updates in an epoch.
      most: updates of a dispatch.

    Attributes:
      waited: seconds that the device has waited for batches: none.

    Raises:
      BadConfiguration: the run takes more than the places of its examples.
    """

    waited = 0.0

    def __init__(
        self,
        run: configs.Run,
        examples: Examples,
        layout: Layout,
        per_epoch: int,
        most: int,
    ) -> None:
        require(run)
        self._run, self._layout, self._per_epoch = run, layout, per_epoch
        self._labels = examples.labels
        self._examples = to_device(examples, layout)
        self._size = dispatch_size(per_epoch, most)
        self._epoch: tuple[int, Any] = (-1, None)

    def __call__(
        self,
        state: steps.TrainState,
        stats: steps.DatasetStats,
        epoch: int,
        number: int,
    ) -> tuple[steps.TrainState, steps.StepMetrics, list[methods.StepHyperparams]]:
        """Updates from a batch of an epoch on, none of the next epoch.

        Args:
          state: before; its buffers are taken.
          stats: what the examples are like.
          epoch: from 0.
          number: of the first batch, from 0.

        Returns:
          The state after; what each update saw, and perhaps more behind; what was set
          for each.
        """
        if self._epoch[0] != epoch:
            self._epoch = (epoch, epoch_indices(self._run, self._labels, epoch))
        index, present = self._epoch[1]
        end = min(number + self._size, self._per_epoch)
        hyperparams = [
            methods.step_hyperparams(
                self._run, self._per_epoch, epoch * self._per_epoch + at
            )
            for at in range(number, end)
        ]
        update = compiled(self._run, self._layout, on=bool(hyperparams[0].on))
        state, step_metrics = update(
            state,
            self._examples,
            stats,
            step_inputs(
                index[number:end], present[number:end], hyperparams, self._size
            ),
        )
        return state, step_metrics, hyperparams
