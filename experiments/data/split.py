"""Splitting a data set: training, validation, test and meta set, class by class."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np


class Splits(NamedTuple):
    """Disjoint subsets, as indices of the examples."""

    train: np.ndarray  # int64 [n]
    validation: np.ndarray  # int64 [classes * validation_per_class]
    test: np.ndarray  # int64 [classes * test_per_class]
    meta: np.ndarray  # int64 [classes * meta_per_class]


def stratified(
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    validation_per_class: int,
    test_per_class: int,
    meta_per_class: int = 0,
) -> Splits:
    """Splits each class into test, validation and meta set, and the rest to train on.

    The test examples do not depend on `rng`, as in every published data set: what one
    seed chooses λ on, another does not report. Test and validation examples do not
    depend on `meta_per_class`. Indices are grouped by class. ValueError if a class has
    no example left to train on.
    """
    held_out = validation_per_class + test_per_class + meta_per_class
    smallest = int(np.bincount(labels).min())
    if smallest <= held_out:
        raise ValueError(
            f"The smallest class has {smallest} examples, too few to hold out "
            f"{held_out} and train on the rest."
        )
    fixed = np.random.default_rng(0)
    train, validation, test, meta = [], [], [], []
    for label in np.unique(labels):
        indices = fixed.permutation(np.flatnonzero(labels == label))
        test.append(indices[:test_per_class])
        rest = rng.permutation(indices[test_per_class:])
        validation.append(rest[:validation_per_class])
        rest = rest[validation_per_class:]
        meta.append(rest[:meta_per_class])
        train.append(rest[meta_per_class:])
    parts = (train, validation, test, meta)
    return Splits(*(np.concatenate(part) for part in parts))


_OTHERWISE = {
    "test": ", or give test examples in a file of their own",
    "validation": "; or hold out none, by --data.validation-share 0",
}


class HeldOut(NamedTuple):
    """Disjoint subsets, as indices of the examples, in order."""

    train: np.ndarray
    held_out: np.ndarray


def shares(
    labels: np.ndarray,
    share: float,
    class_names: Sequence[str],
    held_out: Literal["test", "validation"],
    rng: np.random.Generator | None = None,
) -> HeldOut:
    """Holds out a share of each class, in (0, 1), and at least one example.

    Without `rng` they are the same ones every time, as for a test set. ValueError, by
    `class_names` and what is `held_out`, if a class has no example left to train on.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    held: list[np.ndarray] = []
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        count = max(1, round(share * len(indices)))
        if count >= len(indices):
            raise ValueError(
                f"Class {class_names[label]!r} has {len(indices)} "
                f"example{'s' * (len(indices) > 1)} left, too few to hold out {count} "
                f"as the {held_out} set and train on the rest. Add examples, or leave "
                f"the class out{_OTHERWISE[held_out]}."
            )
        held.append(indices[:count])
    out = np.sort(np.concatenate(held))
    return HeldOut(np.setdiff1d(np.arange(len(labels)), out), out)
