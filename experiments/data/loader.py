"""Batches of examples: shuffle, augment, pad, and load ahead of the device.

All random numbers of a batch are a pure function of the seed, the epoch, the batch's
number and the row in the batch. So a resumed training, one with another number of
workers and one whose hosts each load their own rows train on the same batches.

`batches`, `training` and `meta_batches` take n examples; `batch_size`, the examples of
a batch on all hosts; `rows`, those of its rows that this host's devices hold and that
are to be loaded; and `workers`, the number of processes that decode image files, 0 for
this one. Each makes an iterator of equally many batches on every host, all of one size,
hence for one compiled program; `present` keeps padding out of losses, weights and
BatchNorm's statistics. Closing the iterator ends its processes. With `augment_on`
"device" images are not augmented here.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments import configs
from experiments.data import augment, images, sampling
from experiments.data.sampling import Sampler
from experiments.data.types import Examples, Files


class Batch(NamedTuple):
    """Rows of a batch of fixed size, filled up with padding."""

    inputs: np.ndarray  # [rows, ...]: uint8 or float32 images, int32 token ids
    labels: np.ndarray  # int32 [rows]
    present: np.ndarray  # bool [rows], False for padding
    index: np.ndarray  # int32 [rows], index of the example; 0 for padding
    meta: "Batch | None" = None  # batch of the meta set, for methods that use it


@functools.lru_cache(maxsize=4)
def order(
    seed: int,
    epoch: int,
    examples: int,
    stream: int = 1,
    sampler: Sampler | None = None,
) -> np.ndarray:
    """The order of an epoch, as indices of its examples, int64 `[examples]`.

    A permutation, or the sampler's draws, from a stream of random numbers of its own.
    Read-only, since it is cached.
    """
    rng = np.random.default_rng([seed, stream, epoch])
    drawn = rng.permutation(examples) if sampler is None else sampler(rng)
    drawn.flags.writeable = False
    return drawn


def batches(
    examples: Examples,
    data: configs.Data,
    batch_size: int,
    *,
    rows: slice = slice(None),
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """`ceil(n / batch_size)` batches of all examples once, in order, not augmented."""
    plan = _Plan(len(examples.labels), batch_size, rows)
    return _make(examples, data, plan, workers)


def training(
    examples: Examples,
    data: configs.Data,
    batch_size: int,
    *,
    seed: int,
    epochs: range,
    first: int = 0,
    rows: slice = slice(None),
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Augmented batches of a training, epoch after epoch, each in its own order.

    There are `ceil(n / batch_size)` batches an epoch, the last of each padded, and one
    iterator for all epochs, since worker processes take seconds to start. It begins
    with batch `first` of the first of the epochs, and skips those before it.
    """
    n, sampler = len(examples.labels), sampling.sampler(data, examples.labels)
    plan = _Plan(n, batch_size, rows, seed, epochs, first, sampler=sampler)
    return _make(examples, data, plan, workers)


def meta_batches(
    examples: Examples,
    data: configs.Data,
    batch_size: int,
    *,
    seed: int,
    steps: range,
    size: int | None = None,
    rows: slice = slice(None),
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """A batch of the meta set for every update, augmented as training batches are.

    The meta set has epochs of its own. Order and augmentation have a random stream of
    their own, and depend only on the seed and the number of the update, in `steps`. A
    batch has `batch_size` examples, or n where there are fewer, in `size` rows, which
    the devices must divide; None for as many as examples.

    Examples:
      >>> from experiments.data.task import load_task
      >>> data = configs.Data(test_per_class=50, meta_per_class=4)
      >>> examples = load_task(data, 0).meta
      >>> batches = meta_batches(examples, data, 30, seed=0, steps=range(5, 8), size=32)
      >>> [int(batch.present.sum()) for batch in batches]
      [10, 30, 10]
    """
    n = len(examples.labels)
    batch_size = min(batch_size, n)
    per_epoch = -(-n // batch_size)
    begun, first = divmod(steps.start, per_epoch)
    epochs = range(begun, -(-steps.stop // per_epoch))
    plan = _Plan(n, batch_size, rows, seed, epochs, first, stream=_META)
    wanted = len(range(size or batch_size)[rows])
    with contextlib.closing(_make(examples, data, plan, workers)) as batches:
        for _, batch in zip(steps, batches, strict=False):
            missing = wanted - len(batch.labels)
            inputs, labels, present, index = (
                np.pad(column, [(0, missing)] + [(0, 0)] * (column.ndim - 1))
                for column in batch[:4]
            )
            yield Batch(inputs, labels, present, index)


def with_meta_batches(
    batches: Generator[Batch, None, None], meta: Generator[Batch, None, None]
) -> Generator[Batch, None, None]:
    """Adds to each training batch one of the meta set. Closing it closes both."""
    with contextlib.closing(batches), contextlib.closing(meta):
        for batch, of_meta in zip(batches, meta, strict=True):
            yield batch._replace(meta=of_meta)


_TRAINING, _META = 1, 3  # what is drawn for: the order, and after it the augmentation


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The examples of every batch: a lazy sequence."""

    examples: int
    batch_size: int  # of all hosts
    rows: slice  # of the batch that this host loads
    seed: int | None = None  # of order and augmentation; None for neither
    epochs: range = range(1)
    first: int = 0  # batch of the first epoch that is the first item
    stream: int = _TRAINING  # of random numbers, and the next one
    sampler: Sampler | None = None  # None to shuffle

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self.examples // self.batch_size)

    def __len__(self) -> int:
        return max(len(self.epochs) * self.per_epoch - self.first, 0)

    def when(self, item: int) -> tuple[int, int]:
        """The epoch of an item, and its batch in the epoch."""
        passed, number = divmod(self.first + item, self.per_epoch)
        return self.epochs[passed], number

    def indices(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the examples, int64 `[rows]`; bool `[rows]`, False for padding."""
        epoch, number = self.when(item)
        at = number * self.batch_size + np.arange(self.batch_size)[self.rows]
        present = at < self.examples
        index = np.where(present, at, 0)
        if self.seed is not None:
            drawn = order(self.seed, epoch, self.examples, self.stream, self.sampler)
            index = np.where(present, drawn[index], 0)
        return index, present

    def __getitem__(self, item: int) -> images.Wanted:
        if self.seed is None:
            return images.Wanted(*self.indices(item), None)
        begin = (self.seed, self.stream + 1, *self.when(item))
        keys = [(*begin, to_device) for to_device in range(self.batch_size)[self.rows]]
        return images.Wanted(*self.indices(item), keys)


def _make(
    examples: Examples, data: configs.Data, plan: _Plan, workers: int
) -> Generator[Batch, None, None]:
    if isinstance(examples.inputs, Files):
        found = images.stream(images.Batches(examples.inputs, data, plan), workers)
    else:
        found = _in_memory(examples.inputs, data, plan)
    with contextlib.closing(found):
        for item, inputs in enumerate(found):
            index, present = plan.indices(item)
            labels = np.where(present, examples.labels[index], 0)
            yield Batch(
                inputs, labels.astype(np.int32), present, index.astype(np.int32)
            )


def _in_memory(
    inputs: np.ndarray, data: configs.Data, plan: _Plan
) -> Generator[np.ndarray, None, None]:
    augmented = (
        plan.seed is not None
        and data.info.inputs == "images"
        and data.augment_on == "host"
    )
    for item in range(len(plan)):
        index, present = plan.indices(item)
        chosen = inputs[index]
        chosen[~present] = 0
        if augmented:
            # Drawn for the whole batch, so that the augmentation of a row does not
            # depend on which rows this host loads.
            rng = np.random.default_rng([plan.seed, plan.stream + 1, *plan.when(item)])
            augmentations = augment.draw_augmentations(plan.batch_size, data, rng).take(
                plan.rows
            )
            chosen = augment.apply(chosen, augmentations, data)
        yield chosen


class Prefetched(Iterator[Any]):
    """Batches that a thread loads and moves to the devices, while others are used.

    `batches` is an iterator, which the thread owns from now on, and which is closed at
    the end, if it can be; `size` is how many batches at most are ready and not yet
    taken, at least 1. What `to_device` returns comes in the same order. An exception of
    `batches` or `to_device` is raised in place of the batch. Close it, or use it in
    `with`, if it may be left early.

    Attributes:
      waited: seconds that the consumer has waited for batches so far.
      close: ends the thread and closes `batches`. Needed unless it is exhausted.

    Examples:
      >>> with Prefetched(iter([1, 2, 3]), 2, lambda number: 10 * number) as numbers:
      ...     list(numbers)
      [10, 20, 30]
    """

    def __init__(
        self, batches: Iterator[Any], size: int, to_device: Callable[[Any], Any]
    ) -> None:
        self.waited = 0.0
        thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        # Neither holds a reference to this object, so that it can be collected.
        self._load = lambda: thread.submit(lambda: to_device(next(batches)))
        self.close = weakref.finalize(self, _end, thread, batches)
        self._ready = collections.deque(self._load() for _ in range(size))

    def __next__(self) -> Any:
        if not self.close.alive:
            raise StopIteration
        began = time.monotonic()
        try:
            batch = self._ready.popleft().result()
        except BaseException:  # StopIteration after the last batch
            self.close()
            raise
        finally:
            self.waited += time.monotonic() - began
        self._ready.append(self._load())
        return batch

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end(thread: concurrent.futures.Executor, batches: Iterator[Any]) -> None:
    thread.shutdown(cancel_futures=True)
    if hasattr(batches, "close"):
        batches.close()
