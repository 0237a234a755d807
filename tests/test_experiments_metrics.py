"""Metrics, against scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as oracle

from experiments import metrics


@pytest.fixture
def guesses():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 500)
    predictions = np.where(rng.random(500) < 0.6, labels, rng.integers(0, 6, 500))
    return labels, predictions, rng.random(500) < 0.8


def test_confusion_counts_what_is_present(guesses):
    labels, predictions, present = guesses
    counts = metrics.confusion(
        jnp.asarray(labels), jnp.asarray(predictions), jnp.asarray(present), 6
    )
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(
        counts, oracle.confusion_matrix(labels[present], predictions[present])
    )


def test_accuracy_and_recalls(guesses):
    labels, predictions, _ = guesses
    counts = oracle.confusion_matrix(labels, predictions)
    assert metrics.accuracy(counts) == oracle.accuracy_score(labels, predictions)
    recalls = oracle.recall_score(labels, predictions, average=None)
    np.testing.assert_allclose(metrics.per_class_recall(counts), recalls)
    assert metrics.tail_recall(counts, 2) == pytest.approx(recalls[-2:].mean())
    assert metrics.tail_recall(counts, 6) == pytest.approx(
        oracle.balanced_accuracy_score(labels, predictions)
    )


def test_a_class_without_an_example_has_no_recall():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]])
    np.testing.assert_array_equal(metrics.per_class_recall(counts), [0.75, np.nan, 0.5])
