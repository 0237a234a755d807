"""Refusals of labels, rates and generators that a data set or a rule does not have."""

import numpy as np

from experiments.data.types import DamagedData

PARTIAL = "With data.partial a part of a data set is accepted."


def label(where: str, found: int, classes: int, got: object = None) -> None:
    """Refuses a label that is not in 0 ... classes - 1; quotes it, or `got`."""
    if not 0 <= found < classes:
        raise DamagedData(
            f"{where}: the label must be in 0 ... {classes - 1}, got "
            f"{found if got is None else got}."
        )


def published(
    labels: np.ndarray, classes: int, rng: np.random.RandomState, rate: float = 0.0
) -> None:
    """Refuses what a published rule does not take, see the three below."""
    random_state(rng)
    integers(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"The labels run from {labels.min()} to {labels.max()}; they must be in "
            f"0 ... {classes - 1}."
        )
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"The rate is {rate}; it must be in [0, 1].")


def random_state(rng: np.random.RandomState) -> None:
    """Refuses a generator with another stream than the published ones."""
    # A Generator has most of the same methods, and would silently draw other examples.
    if not isinstance(rng, np.random.RandomState):
        raise TypeError(
            f"The generator is a {type(rng).__name__}; the published sets are drawn "
            "with a numpy.random.RandomState."
        )


def integers(labels: np.ndarray) -> None:
    """Refuses what is not a vector of integers."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"The labels are {labels.dtype} {list(labels.shape)}; they must be "
            "integers [examples]."
        )


def enough(label: int, examples: int, count: int) -> None:
    """Refuses to take more examples of a class than it has."""
    if examples < count:
        raise ValueError(f"Class {label} has {examples} examples, fewer than {count}.")
