"""Classifiers of the features of a trained network that need no training."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np


def nearest_class_mean(
    features: Any,
    labels: Any,
    classes: int,
    transform: Literal["plain", "l2", "centred"],
) -> Callable[[Any], np.ndarray]:
    """NCM: the class whose mean feature is nearest, of `[n, features]`, int `[n]`.

    What it returns makes of features, `[n, features]`, logits, minus squared distances,
    float32 `[n, classes]`. A class without an example has -inf, so that it is never
    predicted.

    `plain` does not change features; `l2` normalises them to length one; `centred`
    first subtracts their mean over all training examples. A feature of zeros stays so.
    Means are of transformed features, and are not normalised again. Features to be
    classified are transformed too, with the centre of the training set.

    Examples:
      >>> features = np.array([[0.0, 1.0], [0.0, 3.0], [4.0, 0.0]])
      >>> classify = nearest_class_mean(features, np.array([0, 0, 2]), 3, "plain")
      >>> classify(np.array([[0.0, 0.0]])).tolist()
      [[-4.0, -inf, -16.0]]

    References:
      Kang et al., `Decoupling representation and classifier for long-tailed recognition
      <https://arxiv.org/abs/1910.09217>`_; `centred` is its code's choice.
    """
    from sklearn import preprocessing
    from sklearn.metrics import pairwise  # a second of imports

    features, labels = np.asarray(features, np.float32), np.asarray(labels)
    centre = np.zeros(features.shape[1], np.float32)
    if transform == "centred":
        centre = np.asarray(np.mean(features, axis=0, dtype=np.float64), np.float32)

    def transformed(features: Any) -> np.ndarray:
        x = np.asarray(features, np.float32) - centre
        return x if transform == "plain" else preprocessing.normalize(x)

    means = class_means(transformed(features), labels, classes)
    examples = np.bincount(labels, minlength=classes)

    def classify(features: Any) -> np.ndarray:
        x = transformed(features)
        # It computes in float64: float32 would lose small distances of large features.
        squares = pairwise.euclidean_distances(x, means, squared=True)
        return np.where(examples > 0, -squares, -np.inf).astype(np.float32)

    return classify


def tau_normalised(kernel: Any, tau: float) -> Callable[[Any], np.ndarray]:
    """A linear head with the norms of its class vectors divided out: `w_c / ‖w_c‖^τ`.

    `τ = 0` leaves the head without its bias, `τ = 1` gives all classes vectors of
    length one. A vector of zeros stays so. The kernel is `[features, classes]`. What it
    returns makes of features, `[n, features]`, logits, float32 `[n, classes]`.

    Examples:
      >>> classify = tau_normalised(np.array([[3.0, 0.0], [4.0, 2.0]]), 1.0)
      >>> classify(np.array([[1.0, 0.0]])).tolist()
      [[0.6000000238418579, 0.0]]

    References:
      Kang et al., `Decoupling representation and classifier for long-tailed recognition
      <https://arxiv.org/abs/1910.09217>`_.
    """
    kernel = np.asarray(kernel, np.float32)
    norms = np.linalg.norm(kernel, axis=0)
    scaled = kernel / np.where(norms > 0.0, norms, 1.0) ** np.float32(tau)
    return lambda features: np.asarray(features, np.float32) @ scaled


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The mean feature of each class, float32 `[classes, features]`.

    Zeros for a class without an example.
    """
    there, begins, counts = np.unique(
        np.sort(labels), return_index=True, return_counts=True
    )
    by_class = features[np.argsort(labels, kind="stable")]
    sums = np.add.reduceat(by_class, begins, axis=0, dtype=np.float64)
    means = np.zeros((classes, features.shape[1]), np.float32)
    means[there] = sums / counts[:, None]
    return means
