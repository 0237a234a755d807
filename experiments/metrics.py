"""Confusion counts, and the numbers that are read off them."""

import jax
import jax.numpy as jnp
import numpy as np


def confusion(
    labels: jax.Array, predictions: jax.Array, present: jax.Array, classes: int
) -> jax.Array:
    """Counts what is taken for what; counts of batches add up.

    Args:
      labels: int `[batch]`.
      predictions: int `[batch]`.
      present: bool `[batch]`, False for padding.
      classes: number of classes.

    Returns:
      int32 `[classes, classes]`: label, then prediction.
    """
    counts = jnp.zeros((classes, classes), jnp.int32)
    return counts.at[labels, predictions].add(present.astype(jnp.int32))


def accuracy(counts: np.ndarray) -> float:
    """Share of examples that are right, from confusion counts `[classes, classes]`."""
    return float(np.trace(counts) / np.sum(counts))


def per_class_recall(counts: np.ndarray) -> np.ndarray:
    """Share of each class that is right.

    Args:
      counts: `[classes, classes]`: label, then prediction.

    Returns:
      float64 `[classes]`; NaN for a class without an example.
    """
    totals = np.sum(counts, axis=1)
    shares = np.full(len(totals), np.nan)
    return np.divide(np.diag(counts), totals, out=shares, where=totals > 0)


def tail_recall(counts: np.ndarray, tail_classes: int) -> float:
    """Mean recall of the last `tail_classes` classes, from confusion counts."""
    return float(np.mean(per_class_recall(counts)[-tail_classes:]))
