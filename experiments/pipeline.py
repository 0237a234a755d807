"""From a data set to batches: corrupt, shuffle, augment, batch, pad. NumPy only."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments import configs, corrupt, sources
from experiments.sources import Examples


class Task(NamedTuple):
    """What one run trains, chooses and reports on."""

    train: Examples
    validation: Examples
    test: Examples
    mislabelled: np.ndarray  # bool [train examples]


class Batch(NamedTuple):
    """A batch of fixed size; what is missing is padding."""

    images: np.ndarray  # float32 [batch, height, width, channels], in [0, 1]
    labels: np.ndarray  # int32 [batch]
    present: np.ndarray  # bool [batch], False for padding


def task(data: configs.Data, classes: int, seed: int) -> Task:
    """Loads, splits and corrupts.

    Args:
      data: what to do.
      classes: number of classes.
      seed: of the split and the corruption.

    Returns:
      The task; validation is balanced, and its labels are as noisy as the training's.
    """
    split_rng, tail_rng, noise_rng = np.random.default_rng([seed, 0]).spawn(3)
    whole = sources.digits()
    parts = sources.split(
        whole.labels,
        split_rng,
        validation_per_class=data.validation_per_class,
        test_per_class=data.test_per_class,
    )
    train, validation, test = (whole.take(part) for part in parts)
    if data.imbalance_ratio > 1.0:
        head_count = int(np.bincount(train.labels).min())
        counts = corrupt.long_tail_counts(head_count, classes, data.imbalance_ratio)
        train = train.take(corrupt.select(train.labels, counts, tail_rng))
    labels, mislabelled = corrupt.symmetric_noise(
        train.labels, data.noise_rate, classes, noise_rng
    )
    train = train._replace(labels=labels)
    labels, _ = corrupt.symmetric_noise(
        validation.labels, data.noise_rate, classes, noise_rng
    )
    return Task(train, validation._replace(labels=labels), test, mislabelled)


def shift(images: np.ndarray, max_shift: int, rng: np.random.Generator) -> np.ndarray:
    """Moves each image by up to `max_shift` pixels either way, filling with black.

    Args:
      images: float32 `[n, height, width, channels]`.
      max_shift: pixels.
      rng: decides by how much.

    Returns:
      New images of the same shape.
    """
    n, height, width, _ = images.shape
    around = (max_shift, max_shift)
    padded = np.pad(images, ((0, 0), around, around, (0, 0)))
    top, left = rng.integers(0, 2 * max_shift + 1, (2, n, 1))
    rows, columns = top + np.arange(height), left + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def batches(examples: Examples, batch_size: int) -> Iterator[Batch]:
    """Batches in order, the last one padded to full size.

    A fixed size means one compiled program; `present` keeps padding out of losses, of
    weights and of BatchNorm's statistics.

    Args:
      examples: n of them.
      batch_size: examples per batch.

    Yields:
      `ceil(n / batch_size)` batches.
    """
    for start in range(0, len(examples.labels), batch_size):
        images = examples.images[start : start + batch_size]
        labels = examples.labels[start : start + batch_size]
        missing = batch_size - len(labels)
        if missing:
            images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
            labels = np.pad(labels, (0, missing))
        yield Batch(images, labels, np.arange(batch_size) < batch_size - missing)
