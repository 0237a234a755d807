"""In which order an epoch goes through the examples, class by class if so asked.

An epoch is as many examples as there are, whatever the rule. Sampling goes by the
labels that the training has, noise included. A class without an example is never drawn.
"""

import dataclasses
from typing import Literal

import numpy as np

from experiments.data import corrupt

PER_VISIT = 4  # examples of a class that class-aware sampling takes at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Draws an epoch by the labels.

    One equals another only if it is the same object, so that it can stand for its
    labels where what was drawn is kept.

    Attributes:
      rule: by which; see the functions here.
      labels: int `[examples]`, not negative; not to be changed.
      beta: of `effective`.
    """

    rule: Literal["balanced", "effective", "class_aware"]
    labels: np.ndarray
    beta: float = 0.9999

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Places of an epoch's examples, int64 `[examples]`."""
        match self.rule:
            case "balanced":
                return balanced(self.labels, rng)
            case "effective":
                return effective(self.labels, self.beta, rng)
            case "class_aware":
                return class_aware(self.labels, rng)


def balanced(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws with replacement, every class as likely as every other.

    Args:
      labels: int `[examples]`.
      rng: of the draws.

    Returns:
      Places, int64 `[examples]`.

    Examples:
      >>> labels = np.repeat([0, 3], [900, 100])
      >>> drawn = balanced(labels, np.random.default_rng(0))
      >>> bool(abs((labels[drawn] == 3).mean() - 0.5) < 0.05)
      True
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    p = 1.0 / (len(counts) * counts[classes])
    return rng.choice(len(labels), len(labels), p=p / p.sum())


def effective(labels: np.ndarray, beta: float, rng: np.random.Generator) -> np.ndarray:
    """Draws with replacement, an example with `p_i ∝ (1 − β) / (1 − β^n_y)`.

    LDAM's sampler; see `corrupt.effective_number_probabilities`. `β = 0` draws all
    examples alike, `β → 1` all classes alike.

    Args:
      labels: int `[examples]`.
      beta: overlap between examples, in [0, 1).
      rng: of the draws.

    Returns:
      Places, int64 `[examples]`.
    """
    p = corrupt.effective_number_probabilities(labels, beta)
    return rng.choice(len(labels), len(labels), p=p)


def class_aware(
    labels: np.ndarray, rng: np.random.Generator, per_visit: int = PER_VISIT
) -> np.ndarray:
    """Visits the classes in a cycle, and takes some examples of each.

    The classes are shuffled anew whenever all have been visited, the examples of a
    class whenever all have been taken. As Kang et al. and Liu et al. sample, but that
    their cycles go on from epoch to epoch, while here each epoch begins its own: so it
    can be drawn without those before it.

    Args:
      labels: int `[examples]`.
      rng: of the cycles.
      per_visit: examples that a visit takes; the last one of an epoch may take fewer.

    Returns:
      Places, int64 `[examples]`.

    Examples:
      >>> labels = np.array([0, 0, 0, 0, 0, 0, 7, 7])
      >>> drawn = class_aware(labels, np.random.default_rng(0))
      >>> [set(visit) in ({0}, {7}) for visit in labels[drawn].reshape(2, 4).tolist()]
      [True, True]
      >>> sorted(drawn[labels[drawn] == 7].tolist())
      [6, 6, 7, 7]

    References:
      Kang et al., `Decoupling representation and classifier for long-tailed recognition
      <https://arxiv.org/abs/1910.09217>`_, and its code.
    """
    there, members = np.unique(labels, return_inverse=True)
    visits = _cycled(np.arange(len(there)), -(-len(labels) // per_visit), rng)
    # The examples of each class one after the other, and where each class begins.
    by_class = np.argsort(members, kind="stable")
    ends = np.cumsum(np.bincount(members))
    when = np.argsort(visits, kind="stable")
    how_often = np.bincount(visits, minlength=len(there))
    taken = [
        _cycled(places, per_visit * count, rng)
        for places, count in zip(np.split(by_class, ends[:-1]), how_often, strict=True)
    ]
    drawn = np.empty((len(visits), per_visit), np.int64)
    drawn[when] = np.concatenate(taken).reshape(-1, per_visit)
    return drawn.reshape(-1)[: len(labels)]


def _cycled(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many of them: all once in random order, then all once more, and so on."""
    rounds = -(-count // len(values))
    return rng.permuted(np.tile(values, (rounds, 1)), axis=1).reshape(-1)[:count]
