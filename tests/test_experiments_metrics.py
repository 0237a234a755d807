"""Metrics, against NumPy and scikit-learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as oracle

from experiments.results import metrics

CLASSES = 8  # the last one without a test example
TRAINING = np.array([900, 101, 100, 50, 20, 19, 5, 1])


@pytest.fixture(scope="module")
def answers():
    """Logits that are often right, labels, and which of them are examples."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES - 1, 600)
    logits = rng.normal(size=(600, CLASSES)) + 2.0 * np.eye(CLASSES)[labels]
    return logits.astype(np.float32), labels, rng.random(600) < 0.8


@pytest.fixture(scope="module")
def count():
    return jax.jit(metrics.count)


@pytest.fixture(scope="module")
def summary(answers, count):
    """Of three batches, so that they are added too."""
    batches = zip(*(np.split(values, 3) for values in answers), strict=True)
    counts = functools.reduce(metrics.add, (count(*batch) for batch in batches))
    return metrics.summary(counts, TRAINING, tail_classes=2)


def _present(answers):
    logits, labels, present = answers
    return logits[present].astype(np.float64), labels[present]


def test_shares_agree_with_scikit_learn(answers, summary):
    logits, labels = _present(answers)
    predictions = logits.argmax(axis=1)
    classes = np.arange(CLASSES)
    assert summary["examples"] == len(labels)
    assert summary["accuracy"] == oracle.accuracy_score(labels, predictions)
    assert summary["top5"] == pytest.approx(
        oracle.top_k_accuracy_score(labels, logits, k=5, labels=classes)
    )
    assert summary["loss"] == pytest.approx(
        oracle.log_loss(labels, special.softmax(logits, axis=1), labels=classes)
    )
    confusion = oracle.confusion_matrix(labels, predictions, labels=classes)
    np.testing.assert_array_equal(summary["confusion"], confusion)
    recall = oracle.recall_score(
        labels, predictions, labels=classes, average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(summary["recall"], recall)
    assert np.isnan(summary["recall"][-1])
    assert not np.isnan(summary["recall"][:-1]).any()
    with pytest.warns(UserWarning, match="classes not in y_true"):  # the last one
        balanced = oracle.balanced_accuracy_score(labels, predictions)
    assert summary["balanced"] == pytest.approx(balanced)
    # More than 100 training examples, 20 to 100, less than 20, of which the last class
    # has no test example; the tail is the last two.
    assert summary["many"] == pytest.approx(recall[:2].mean())
    assert summary["medium"] == pytest.approx(recall[2:5].mean())
    assert summary["few"] == pytest.approx(recall[5:7].mean())
    assert summary["tail_recall"] == pytest.approx(recall[6])


def test_calibration_agrees_with_its_definition(answers, summary):
    logits, labels = _present(answers)
    probabilities = special.softmax(logits, axis=1)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    error = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        found = {name: values[b] for name, values in summary["calibration"].items()}
        assert found["examples"] == inside.sum()
        if inside.any():
            assert found["accuracy"] == pytest.approx(right[inside].mean())
            assert found["confidence"] == pytest.approx(confidence[inside].mean())
            gap = abs(right[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
        else:
            assert np.isnan([found["accuracy"], found["confidence"]]).all()
    assert error > 0.01
    assert summary["calibration_error"] == pytest.approx(error, abs=1e-6)


def test_padding_counts_for_nothing_whatever_it_holds(answers, count):
    logits, labels, present = answers
    junk = np.where(present[:, None], logits, np.float32(np.nan))
    found = count(junk, np.where(present, labels, 0), present)
    expected = count(logits, labels, present)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_of_equal_logits_the_first_is_taken(count):
    """So a network that says nothing is right by chance, not always."""
    labels = np.arange(CLASSES)
    present = np.ones(CLASSES, bool)
    constant = np.zeros((CLASSES, CLASSES), np.float32)
    found = metrics.summary(count(constant, labels, present), TRAINING)
    assert found["accuracy"] == 1 / CLASSES
    assert found["top5"] == 5 / CLASSES
    np.testing.assert_array_equal(np.array(found["confusion"])[:, 0], 1)
    assert found["calibration_error"] == pytest.approx(0.0, abs=1e-6)

    two_lead = np.tile(np.float32([0, 3, 0, 3, 0, 0, 0, 0]), (CLASSES, 1))
    counts = count(two_lead, labels, present)
    np.testing.assert_array_equal(counts.correct, labels == 1)
    np.testing.assert_array_equal(counts.top5, np.isin(labels, [1, 3, 0, 2, 4]))


def test_logits_that_are_not_finite_are_counted_and_seen_in_the_loss(count):
    nan, inf = np.nan, np.inf
    logits = np.float32(
        [
            [nan, 1, 0, 0, 0, 0, 0, 0],  # NaN is the smallest: class 1
            [nan] * CLASSES,  # nothing is known: class 0
            [0, 0, inf, 0, 0, 0, 0, 0],  # certain: class 2
            [-inf, -inf, -inf, 0, -inf, -inf, -inf, -inf],  # certain: class 3
        ]
    )
    labels, present = np.array([1, 1, 2, 3]), np.ones(4, bool)
    found = metrics.summary(count(logits, labels, present), TRAINING)
    assert found["accuracy"] == 0.75
    assert np.isnan(found["loss"])
    bins = found["calibration"]
    assert sum(bins["examples"]) == 4
    assert bins["examples"][-1] == 2
    assert bins["confidence"][-1] == 1.0
    assert bins["examples"][1] == 1  # an eighth, for the one that knows nothing


def test_half_precision_is_counted_as_its_values_are(answers, count):
    logits, labels, present = answers
    half = jnp.asarray(logits, jnp.bfloat16)
    found = count(half, labels, present)
    expected = count(half.astype(jnp.float32), labels, present)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_few_classes_have_no_best_five_and_many_no_confusion(count):
    present = np.ones(3, bool)
    for classes, has_top5 in ((5, False), (6, True)):
        logits = np.eye(3, classes, dtype=np.float32)
        counts = count(logits, np.arange(3), present)
        found = metrics.summary(counts, np.full(classes, 30))
        assert (found["top5"] is not None) == has_top5
        assert found["many"] is found["few"] is found["tail_recall"] is None
        assert found["medium"] == found["balanced"] == 1.0
    for classes, side in ((1000, 1000), (1001, 0)):
        logits = np.zeros((3, classes), np.float32)
        counts = jax.eval_shape(metrics.count, logits, np.arange(3), present)
        assert counts.confusion.shape == (side, side)
    nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), counts)
    assert metrics.summary(nothing, np.full(1001, 30))["confusion"] is None


def test_no_example_at_all_is_not_a_number(answers, count):
    logits, labels, _ = answers
    found = metrics.summary(count(logits, labels, np.zeros(600, bool)), TRAINING)
    assert found["examples"] == 0
    for name in ("accuracy", "top5", "loss", "balanced", "calibration_error"):
        assert np.isnan(found[name])
    assert found["many"] is None
