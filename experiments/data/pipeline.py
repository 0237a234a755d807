"""From a data set to batches: split, subsample, flip labels, shuffle, augment, pad.

All random numbers of a batch are a pure function of the seed, the epoch, the batch's
number and the row in the batch. So a resumed training, one with another number of
workers and one whose hosts each load their own rows train on the same batches.
"""

import contextlib
import dataclasses
import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import configs
from experiments.data import augment, corrupt, image_files, sources
from experiments.data.sampling import Sampler
from experiments.data.sources import Examples, Files


class Task(NamedTuple):
    """The training, validation and test sets of a run, and its meta set."""

    train: Examples
    validation: Examples | None
    test: Examples
    mislabelled: np.ndarray  # bool [train examples]
    class_counts: np.ndarray  # int64 [classes], of train, by the labels it has
    clean: Examples | None = None  # with the labels of the data set, balanced


class Batch(NamedTuple):
    """Rows of a batch of fixed size, filled up with padding."""

    inputs: np.ndarray  # [rows, ...]: uint8 or float32 images, int32 token ids
    labels: np.ndarray  # int32 [rows]
    present: np.ndarray  # bool [rows], False for padding
    index: np.ndarray  # int32 [rows], index of the example; 0 for padding
    clean: "Batch | None" = None  # batch of the meta set, for methods that use it


def task(
    data: configs.Data,
    seed: int,
    data_dir: Path | None = None,
    *,
    download: bool = False,
) -> Task:
    """Loads a data set, holds out, subsamples and flips labels.

    In this order: every split keeps `examples_per_class`; validation set, meta set and,
    for digits, test set are held out; the training set is subsampled; labels of
    training and validation are flipped. Sets of image files are never subsampled: they,
    or the lists that come with them, are imbalanced already.

    Args:
      data: data set, splits, imbalance and label noise.
      seed: of split, subsampling and label noise, unless `data.corruption_seed` is set.
      data_dir: where data sets are; see `sources.load`.
      download: whether a missing one may be fetched.

    Returns:
      The task. What is held out for validation is balanced, and its labels are as noisy
      as the training's. Without `validation_per_class` it is the data set's own
      validation split, if there is one.

    Raises:
      MissingData: the data set is not there.
      DamagedData: it is not what it should be.
      ValueError: a class has too few examples.
    """
    fixed = data.corruption_seed
    split_rng, tail_rng, noise_rng = np.random.default_rng(
        [seed if fixed is None else fixed, 0]
    ).spawn(3)
    train, test, validation = (
        None if part is None else _first_of_each_class(part, data.examples_per_class)
        for part in sources.load(data, data_dir, download=download)
    )
    clean = None
    if test is None or data.validation_per_class or data.clean_per_class:
        parts = sources.split(
            train.labels,
            split_rng,
            validation_per_class=data.validation_per_class,
            test_per_class=data.test_per_class,
            clean_per_class=data.clean_per_class,
        )
        if test is None:
            test = train.take(parts.test)
        if data.validation_per_class:
            validation = train.take(parts.validation)
        if data.clean_per_class:
            clean = train.take(parts.clean)
        train = train.take(parts.train)
    if data.imbalance_ratio > 1.0 and not data.kind.files:
        train = train.take(_subsample(train.labels, data, tail_rng))
    mislabelled = np.zeros(len(train.labels), bool)
    if data.noise_rate > 0.0:
        noise = _noise(data, noise_rng)
        labels, mislabelled = noise(train.labels)
        train = train._replace(labels=labels)
        if validation is not None:
            validation = validation._replace(labels=noise(validation.labels)[0])
    class_counts = np.bincount(train.labels, minlength=data.classes)
    return Task(train, validation, test, mislabelled, class_counts, clean)


def _first_of_each_class(examples: Examples, most: int | None) -> Examples:
    """The first examples of each class, at most so many, in their order."""
    if most is None:
        return examples
    labels = examples.labels
    kept = [np.flatnonzero(labels == label)[:most] for label in np.unique(labels)]
    return examples.take(np.sort(np.concatenate(kept)))


def _subsample(
    labels: np.ndarray, data: configs.Data, rng: np.random.Generator
) -> np.ndarray:
    """Indices of the examples that an imbalanced set keeps."""
    head_count = int(np.bincount(labels, minlength=data.classes).min())
    rule = {"long_tail": corrupt.long_tail_counts, "step": corrupt.step_counts}
    counts = rule[data.imbalance](head_count, data.classes, data.imbalance_ratio)
    if data.total is not None:
        counts = corrupt.scale_counts(counts, data.total)
    if data.scarce_first:
        counts = counts[::-1]
    if data.corruption_seed is None:
        return corrupt.select(labels, counts, rng)
    return corrupt.select_published(
        labels, counts, np.random.RandomState(data.corruption_seed)
    )


def _noise(
    data: configs.Data, rng: np.random.Generator
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function from labels to noisy labels and which of them are flipped."""
    rate, classes, seed = data.noise_rate, data.classes, data.corruption_seed
    # The published rules draw from the older kind of generator.
    published = (
        np.random.RandomState(rng.bit_generator)
        if seed is None
        else np.random.RandomState(seed)
    )
    match data.noise, data.source:
        case "symmetric", _:
            return lambda labels: corrupt.symmetric_noise(labels, rate, classes, rng)
        case "symmetric_sce", _:
            return lambda labels: corrupt.symmetric_noise_sce(
                labels, rate, classes, published
            )
        case "symmetric_gce", _:
            return lambda labels: corrupt.symmetric_noise_gce(
                labels, rate, classes, published
            )
        case "asymmetric_sce", "cifar10":
            return lambda labels: corrupt.asymmetric_cifar10_sce(
                labels, rate, published
            )
        case "asymmetric_author_code", "cifar10":
            return lambda labels: corrupt.asymmetric_cifar10_author_code(
                labels, rate, published
            )
        case "asymmetric_sce", "cifar100":
            # The source draws pairs by its seed, and labels by 0 whatever the seed. The
            # same pairs for validation, so they are drawn again from the same state.
            pairs = published.randint(2**32, dtype=np.uint32) if seed is None else seed
            labels_rng = published if seed is None else np.random.RandomState(0)
            return lambda labels: corrupt.asymmetric_cifar100_sce(
                labels, rate, np.random.RandomState(pairs), labels_rng
            )
        case _:  # "asymmetric_author_code" on cifar100; a config has no other
            return lambda labels: corrupt.asymmetric_cifar100_author_code(
                labels, rate, published
            )


@functools.lru_cache(maxsize=4)
def order(
    seed: int,
    epoch: int,
    examples: int,
    stream: int = 1,
    sampler: Sampler | None = None,
) -> np.ndarray:
    """The order of an epoch, as indices of its examples.

    Args:
      seed: of the run.
      epoch: from 0.
      examples: number of examples.
      stream: of random numbers.
      sampler: draws the epoch; None to shuffle.

    Returns:
      A permutation, or the sampler's draws, int64 `[examples]`; read-only, since it is
      cached.

    Examples:
      >>> order(0, 3, 5).tolist() == order(0, 3, 5).tolist()
      True
      >>> sorted(order(0, 3, 5).tolist())
      [0, 1, 2, 3, 4]
    """
    rng = np.random.default_rng([seed, stream, epoch])
    drawn = rng.permutation(examples) if sampler is None else sampler.draw(rng)
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
    """Batches of all examples once, in order and without augmentation.

    All batches have one size, hence one compiled program; `present` keeps padding out
    of losses, weights and BatchNorm's statistics.

    Args:
      examples: n examples.
      data: size of images that are decoded.
      batch_size: examples per batch, of all hosts.
      rows: rows of the batch to load: those that this host's devices hold.
      workers: processes that decode image files; 0 for this one.

    Returns:
      An iterator of `ceil(n / batch_size)` batches, on every host as many. Closing it
      ends the processes.
    """
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

    There is one iterator for all epochs, since worker processes take seconds to start.

    Args:
      examples: n examples.
      data: sampler and augmentation. With `augment_on` "device" images are not
        augmented here.
      batch_size: examples per batch, of all hosts.
      seed: of order and augmentation.
      epochs: which, from 0.
      first: batch of the first of these epochs to begin with; those before it are
        skipped.
      rows: rows of the batch to load: those that this host's devices hold.
      workers: processes that decode image files; 0 for this one.

    Returns:
      An iterator of `ceil(n / batch_size)` batches an epoch, the last of each padded,
      on every host as many. Closing it ends the processes.

    Examples:
      >>> data = configs.Data(test_per_class=50, crop_padding=1)
      >>> digits = sources.digits()
      >>> epochs = training(digits, data, 1000, seed=0, epochs=range(2))
      >>> [int(batch.present.sum()) for batch in epochs]
      [1000, 797, 1000, 797]
    """
    sampler = (
        None
        if data.sampling == "shuffled"
        else Sampler(data.sampling, examples.labels, data.sampling_beta)
    )
    plan = _Plan(
        len(examples.labels), batch_size, rows, seed, epochs, first, sampler=sampler
    )
    return _make(examples, data, plan, workers)


def clean(
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
    their own, and depend only on the seed and the number of the update.

    Args:
      examples: n examples of the meta set.
      data: augmentation. With `augment_on` "device" images are not augmented here.
      batch_size: examples per batch, of all hosts; n where there are fewer.
      seed: of order and augmentation.
      steps: updates, from 0.
      size: rows of a batch, a multiple of the devices; those after the examples are
        padding. None for `batch_size`.
      rows: rows of the batch to load: those that this host's devices hold.
      workers: processes that decode image files; 0 for this one.

    Yields:
      A batch for each of the updates. Closing it ends the processes.

    Examples:
      >>> data = configs.Data(test_per_class=50, clean_per_class=4)
      >>> examples = task(data, 0).clean
      >>> batches = clean(examples, data, 30, seed=0, steps=range(5, 8), size=32)
      >>> [int(batch.present.sum()) for batch in batches]
      [10, 30, 10]
    """
    batch_size = min(batch_size, len(examples.labels))
    per_epoch = -(-len(examples.labels) // batch_size)
    begun, first = divmod(steps.start, per_epoch)
    epochs = range(begun, -(-steps.stop // per_epoch))
    plan = _Plan(
        len(examples.labels), batch_size, rows, seed, epochs, first, stream=_CLEAN
    )
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
    batches: Generator[Batch, None, None], clean: Generator[Batch, None, None]
) -> Generator[Batch, None, None]:
    """Adds a batch of the meta set to each training batch.

    Args:
      batches: of a training.
      clean: as many batches of the meta set; see `clean`.

    Yields:
      Batches. Closing it closes both iterators.
    """
    with contextlib.closing(batches), contextlib.closing(clean):
        for batch, of_clean in zip(batches, clean, strict=True):
            yield batch._replace(clean=of_clean)


_TRAINING, _CLEAN = 1, 3  # what is drawn for: the order, and after it the augmentation


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The examples of every batch: a lazy sequence.

    Attributes:
      examples: number of examples.
      batch_size: of all hosts.
      rows: rows of the batch that this host loads.
      seed: of order and augmentation; None for neither.
      epochs: which.
      first: batch of the first epoch that is the first item.
      stream: of random numbers, and the next one.
      sampler: draws by labels; None to shuffle.
    """

    examples: int
    batch_size: int
    rows: slice
    seed: int | None = None
    epochs: range = range(1)
    first: int = 0
    stream: int = _TRAINING
    sampler: Sampler | None = None

    @property
    def per_epoch(self) -> int:
        """Number of batches."""
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

    def __getitem__(self, item: int) -> image_files.Wanted:
        if self.seed is None:
            return image_files.Wanted(*self.indices(item), None)
        begin = (self.seed, self.stream + 1, *self.when(item))
        keys = [(*begin, to_device) for to_device in range(self.batch_size)[self.rows]]
        return image_files.Wanted(*self.indices(item), keys)


def _make(
    examples: Examples, data: configs.Data, plan: _Plan, workers: int
) -> Generator[Batch, None, None]:
    if isinstance(examples.inputs, Files):
        images = image_files.stream(
            image_files.Batches(examples.inputs, data, plan), workers
        )
    else:
        images = _in_memory(examples.inputs, data, plan)
    try:
        for item, inputs in enumerate(images):
            index, present = plan.indices(item)
            labels = np.where(present, examples.labels[index], 0)
            yield Batch(
                inputs, labels.astype(np.int32), present, index.astype(np.int32)
            )
    finally:
        images.close()


def _in_memory(
    inputs: np.ndarray, data: configs.Data, plan: _Plan
) -> Generator[np.ndarray, None, None]:
    augmented = (
        plan.seed is not None
        and data.kind.inputs == "images"
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
    """Batches that a thread loads and moves to the devices; see `prefetch`.

    Attributes:
      waited: seconds that the consumer has waited for batches so far.
    """

    def __init__(
        self, batches: Iterator[Any], size: int, to_device: Callable[[Any], Any]
    ) -> None:
        self.waited = 0.0
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(size)
        self._ended = False
        stop = threading.Event()
        # Neither holds a reference to this object, so that it can be collected.
        self._release = weakref.finalize(self, _release, stop, self._ready)
        arguments = (batches, to_device, self._ready, stop)
        self._thread = threading.Thread(target=_produce, args=arguments, daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        began = time.monotonic()
        kind, value = self._ready.get()
        self.waited += time.monotonic() - began
        if kind == "batch":
            return value
        self._ended = True
        self._thread.join()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Stops the thread and closes its iterator. Needed unless it is exhausted."""
        self._ended = True
        self._release()
        self._thread.join()

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(
    batches: Iterator[Any], size: int, to_device: Callable[[Any], Any]
) -> Prefetched:
    """Loads batches in a thread, while earlier ones are used.

    Args:
      batches: an iterator, which the thread owns from now on. It is closed at the end,
        if it can be.
      size: most batches that are ready and not yet taken, at least 1.
      to_device: moves a batch to the devices.

    Returns:
      An iterator of what `to_device` returns, in the same order. An exception of
      `batches` or `to_device` is raised in place of the batch. Close it, or use it in
      `with`, if it may be left early.

    Examples:
      >>> with prefetch(iter([1, 2, 3]), 2, lambda number: 10 * number) as numbers:
      ...     list(numbers)
      [10, 20, 30]
    """
    return Prefetched(batches, size, to_device)


def _produce(
    batches: Iterator[Any],
    to_device: Callable[[Any], Any],
    ready: "queue.Queue[tuple[str, Any]]",
    stop: threading.Event,
) -> None:
    last: tuple[str, Any] = ("end", None)
    try:
        try:
            for batch in batches:
                ready.put(("batch", to_device(batch)))
                if stop.is_set():
                    break
        finally:
            if hasattr(batches, "close"):
                batches.close()
    except BaseException as error:
        last = ("error", error)
    if not stop.is_set():
        ready.put(last)


def _release(stop: threading.Event, ready: "queue.Queue[tuple[str, Any]]") -> None:
    """Lets the thread end: it queues at most one more batch, and there is room."""
    stop.set()
    while not ready.empty():
        ready.get_nowait()
