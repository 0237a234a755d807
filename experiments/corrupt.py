"""Long tails and wrong labels: pure functions of arrays and a generator."""

from collections.abc import Sequence

import numpy as np


def long_tail_counts(head_count: int, classes: int, ratio: float) -> list[int]:
    """Examples per class, falling exponentially from the first class to the last.

    `n_i = int(head_count · ratio^(−i / (classes − 1)))`, truncated toward zero, as in
    the paper.

    Args:
      head_count: examples of class 0.
      classes: number of classes, at least 2.
      ratio: examples of class 0 over those of the last class, at least 1.

    Returns:
      `classes` counts.

    Raises:
      ValueError: the last class would be empty.

    Examples:
      >>> long_tail_counts(5000, 10, 100)
      [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    # The exponent as the paper's code has it: 5000 * 0.01 ** 1.0 is 50 to the last bit,
    # and truncation makes such bits count.
    counts = [
        int(head_count * (1.0 / ratio) ** (i / (classes - 1.0))) for i in range(classes)
    ]
    if counts[-1] < 1:
        raise ValueError(
            f"A ratio of {ratio} leaves no example of the last class when the first "
            f"has {head_count}."
        )
    return counts


def select(
    labels: np.ndarray, counts: Sequence[int], rng: np.random.Generator
) -> np.ndarray:
    """A random choice of so many examples of each class.

    Args:
      labels: int `[examples]`.
      counts: how many of class 0, 1, ...
      rng: decides which.

    Returns:
      Their places, int64 `[sum(counts)]`, grouped by class.

    Raises:
      ValueError: a class has fewer examples than asked for.
    """
    chosen = []
    for label, count in enumerate(counts):
        places = np.flatnonzero(labels == label)
        if len(places) < count:
            raise ValueError(
                f"Class {label} has {len(places)} examples, fewer than {count}."
            )
        chosen.append(rng.permutation(places)[:count])
    return np.concatenate(chosen)


def symmetric_noise(
    labels: np.ndarray, rate: float, classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces labels by one of the other classes, each as likely.

    Of n_c examples of a class exactly `int(rate · n_c)` are struck, and none keeps its
    label, so that the rate is what it says.

    Args:
      labels: int `[examples]`, in 0 ... classes - 1; not changed.
      rate: share of each class, in [0, 1).
      classes: number of classes.
      rng: decides which, and what they become.

    Returns:
      The labels afterwards, same shape and dtype, and which are wrong, bool
      `[examples]`.
    """
    noisy = labels.copy()
    for label in range(classes):
        places = rng.permutation(np.flatnonzero(labels == label))
        struck = places[: int(rate * len(places))]
        # Going 1 to classes - 1 steps round the circle reaches every other class.
        steps = rng.integers(1, classes, len(struck))
        noisy[struck] = (label + steps) % classes
    return noisy, noisy != labels
