"""Tasks of two classes with groups that the labels do not tell, some of them rare.

The label is of what the classes of a data set have in common, or of an attribute that
most images of a label share. A method sees inputs and labels. The groups are known when
it is measured, and to the one method that is given them for comparison.
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments import configs
from experiments.data import datasets, imbalance
from experiments.data.digits import digits
from experiments.data.task import Task
from experiments.data.types import Examples

RATIO = 20.0  # of the long tail of groups
CONFLICTING = 0.05  # share of each label whose attribute is the other label's
IMAGES, TEST = 300, 200  # of each class of CIFAR-10 that are drawn, and to test
BATCH = 64
SIDE = 16  # pixels, to which its images are averaged
_VEHICLES = (0, 1, 8, 9)  # classes of CIFAR-10; the others are animals


class Pool(NamedTuple):
    """Examples with their groups, before they are split."""

    inputs: np.ndarray  # float32 [n, d]
    labels: np.ndarray  # int32 [n], 0 or 1
    groups: np.ndarray  # int32 [n]

    def take(self, index: np.ndarray) -> "Pool":
        """The examples of these indices, int `[m]`."""
        return Pool(*(column[index] for column in self))


class Grouped(NamedTuple):
    """A task, and the groups of its examples."""

    task: Task
    groups: Mapping[str, np.ndarray]  # by split, int32 [examples]
    rare: tuple[int, ...]  # of the groups

    def resampled(self) -> Task:
        """The task with as many training examples in all, equally many of each group.

        Where a group has fewer they are repeated in turn. The number of a group differs
        by one where it does not divide.
        """
        groups = self.groups["train"]
        of_group = [np.flatnonzero(groups == g) for g in np.unique(groups)]
        parts = np.array_split(np.arange(len(groups)), len(of_group))
        each = zip(of_group, parts, strict=True)
        index = np.concatenate([np.resize(own, len(part)) for own, part in each])
        train = self.task.train.take(index)
        return self.task._replace(train=train, class_counts=np.bincount(train.labels))


def _digits(data_dir: pathlib.Path, rng: np.random.Generator) -> tuple[Pool, Pool]:
    """Even digits against odd ones; a fifth of each digit is the test set."""
    del data_dir
    images, digit = digits()
    return _held_out(Pool(images.reshape(len(images), -1), digit % 2, digit), 0.2, rng)


def _cifar10(data_dir: pathlib.Path, rng: np.random.Generator) -> tuple[Pool, Pool]:
    """Animals against vehicles: `IMAGES` of each class, and `TEST` of the test set."""
    loaded = datasets.load(configs.Data("cifar10", image_size=SIDE), data_dir)

    def pool(part: Examples, count: int) -> Pool:
        index = imbalance.select(part.labels, [count] * 10, rng)
        images, labels = part.take(index)
        pixels = images.reshape(len(labels), -1) / np.float32(255.0)
        animal = ~np.isin(labels, _VEHICLES)
        return Pool(pixels, animal.astype(np.int32), labels)

    return pool(loaded.train, IMAGES), pool(loaded.test, TEST)


def _classes(rest: Pool, test: Pool, rng: np.random.Generator) -> Grouped:
    """The ten classes are the groups, and have a long tail."""
    head = int(np.bincount(rest.groups).min())
    counts = imbalance.long_tail_counts(head, 10, RATIO)
    train = rest.take(imbalance.select(rest.groups, counts, rng))
    return _grouped(train, test, (7, 8, 9), rng)


def _attribute(rest: Pool, test: Pool, rng: np.random.Generator) -> Grouped:
    """Images of label 0 are inverted and those of label 1 are not, with exceptions.

    The exceptions are rare in training and half of the test set. The groups are
    `2 · label + (0 if inverted else 1)`.
    """

    def inverted(pool: Pool, conflicting: float) -> Pool:
        attribute = pool.labels.copy()
        for label in (0, 1):
            own = np.flatnonzero(pool.labels == label)
            count = round(conflicting * len(own))
            attribute[rng.permutation(own)[:count]] = 1 - label
        inputs = np.where(attribute[:, None] == 1, pool.inputs, 1.0 - pool.inputs)
        return Pool(inputs, pool.labels, 2 * pool.labels + attribute)

    train, test = inverted(rest, CONFLICTING), inverted(test, 0.5)
    return _grouped(train, test, (1, 2), rng)


def _held_out(pool: Pool, share: float, rng: np.random.Generator) -> tuple[Pool, Pool]:
    """What stays and what is held out: the same share of each group."""
    from sklearn.model_selection import train_test_split  # a second of imports

    kept, held = train_test_split(
        np.arange(len(pool.labels)),
        test_size=share,
        stratify=pool.groups,
        random_state=int(rng.integers(2**31)),
    )
    return pool.take(kept), pool.take(held)


def _grouped(
    pool: Pool, test: Pool, rare: tuple[int, ...], rng: np.random.Generator
) -> Grouped:
    """Holds out a quarter for validation; standardises by the training examples."""
    train, validation = _held_out(pool, 0.25, rng)
    mean, std = train.inputs.mean(0), train.inputs.std(0)
    scale = np.where(std > 1e-6, std, 1.0)
    parts = {"train": train, "validation": validation, "test": test}
    examples = {
        name: Examples(((p.inputs - mean) / scale).astype(np.float32), p.labels)
        for name, p in parts.items()
    }
    task = Task(
        **examples,
        mislabelled=np.zeros(len(train.labels), bool),
        class_counts=np.bincount(train.labels),
    )
    return Grouped(task, {name: p.groups for name, p in parts.items()}, rare)


_POOLS = {"digits": _digits, "cifar10": _cifar10}
_KINDS = {"tail": _classes, "attribute": _attribute}
TASKS = tuple(f"{pool}-{kind}-groups" for pool in _POOLS for kind in _KINDS)


def load(name: str, data_dir: pathlib.Path, seed: int) -> Grouped:
    """A task of `TASKS`; the seed draws split, rare groups and exceptions.

    MissingData where CIFAR-10 is not in the directory.
    """
    pool, kind, _ = name.split("-")
    rng = np.random.default_rng(seed)
    return _KINDS[kind](*_POOLS[pool](data_dir, rng), rng)


def by_group(
    log_odds: np.ndarray, labels: np.ndarray, groups: np.ndarray, rare: tuple[int, ...]
) -> dict[str, float]:
    """The accuracy over examples and over groups, from the log-odds of class 1.

    All are `[examples]`. Returns `accuracy`, of the examples; `balanced`, the mean of
    the groups; `rare`, the mean of the rare ones; `worst`, the smallest. A group
    without an example is left out; NaN where none is there.

    Examples:
      >>> odds, labels = np.array([1.0, 2.0, -1.0, 3.0]), np.array([1, 1, 0, 0])
      >>> by_group(odds, labels, np.array([0, 0, 0, 1]), (1,))
      {'accuracy': 0.75, 'balanced': 0.5, 'rare': 0.0, 'worst': 0.0}
    """
    right = (log_odds > 0.0) == (labels == 1)
    of_group = {int(g): float(right[groups == g].mean()) for g in np.unique(groups)}
    of_rare = [of_group[g] for g in rare if g in of_group]
    return {
        "accuracy": float(right.mean()),
        "balanced": float(np.mean([*of_group.values()])),
        "rare": float(np.mean(of_rare)) if of_rare else float("nan"),
        "worst": min(of_group.values()),
    }
