"""Samplers: which examples an epoch has, and in which order.

An epoch has as many examples as the training set, whatever the rule. Samplers use the
training labels, noise included. A class without an example is never drawn. Each rule
takes labels, int `[examples]`, and a generator, which it advances, and returns indices,
int64 `[examples]`.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from experiments import configs

PER_VISIT = 4  # examples of a class that class-aware sampling takes at a time


# Draws the indices of an epoch, int64 [examples]. Equal only to itself, so that it can
# be a key of a cache in place of its labels.
Sampler = Callable[[np.random.Generator], np.ndarray]


def sampler(data: configs.Data, labels: np.ndarray) -> Sampler | None:
    """The sampler of a config; None where epochs are shuffled.

    Labels are int `[examples]`, not negative, and not to be changed.
    """
    match data.sampling:
        case "shuffled":
            return None
        case "balanced":
            return functools.partial(balanced, labels)
        case "effective":
            return functools.partial(effective, labels, beta=data.sampling_beta)
        case "class_aware":
            return functools.partial(class_aware, labels)


def balanced(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws with replacement, uniformly over classes."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    p = 1.0 / (len(counts) * counts[classes])
    return rng.choice(len(labels), len(labels), p=p / p.sum())


def effective(
    labels: np.ndarray, rng: np.random.Generator, beta: float = 0.9999
) -> np.ndarray:
    """Draws with replacement by `effective_number_probabilities`: LDAM's sampler."""
    p = effective_number_probabilities(labels, beta)
    return rng.choice(len(labels), len(labels), p=p)


def effective_number_probabilities(
    labels: np.ndarray, beta: float = 0.9999
) -> np.ndarray:
    """The probability of each example, float64, when classes are resampled.

    `p_i ∝ (1 − β) / (1 − β^n)`, n the examples of i's class: one over the effective
    number of its class. An epoch is as many draws, with replacement, as there are
    examples.

    β lies in [0, 1): 0 draws all examples alike, β → 1 all classes alike.

    Examples:
      >>> labels = np.repeat([0, 1], [900, 100])
      >>> p = effective_number_probabilities(labels)
      >>> round(float(p[labels == 1].sum() / p[labels == 0].sum()), 3)
      0.961

    References:
      The sampler of LDAM's code, where the option never reaches the loader, so that
      "resampling" there trains on all examples alike; the number is of Cui et al.,
      `Class-balanced loss based on effective number of samples
      <https://arxiv.org/abs/1901.05555>`_.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # expm1, since 1 − β^n loses its digits as β nears 1. The factor 1 − β is common to
    # all classes, so it drops out.
    log_beta = math.log(beta) if beta > 0.0 else -math.inf
    weights = (-1.0 / np.expm1(counts * log_beta))[classes]
    return weights / weights.sum()


def class_aware(
    labels: np.ndarray, rng: np.random.Generator, per_visit: int = PER_VISIT
) -> np.ndarray:
    """Visits the classes in a cycle, and takes `per_visit` examples of each.

    The classes are reshuffled whenever all have been visited, the examples of a class
    whenever all have been taken; the last visit of an epoch may take fewer. Kang et al.
    and Liu et al. sample so too, but their cycles go on from epoch to epoch, while here
    each epoch begins its own, so that it can be drawn without those before it.

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
        _cycled(indices, per_visit * count, rng)
        for indices, count in zip(np.split(by_class, ends[:-1]), how_often, strict=True)
    ]
    drawn = np.empty((len(visits), per_visit), np.int64)
    drawn[when] = np.concatenate(taken).reshape(-1, per_visit)
    return drawn.reshape(-1)[: len(labels)]


def _cycled(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Takes so many values: all in random order, then all in another, and so on."""
    rounds = -(-count // len(values))
    return rng.permuted(np.tile(values, (rounds, 1)), axis=1).reshape(-1)[:count]
