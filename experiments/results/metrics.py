"""Evaluation metrics, from counts over the examples."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import absgd_jax

BINS = 15  # of confidence, equally wide, as calibration is usually reported
MANY, FEW = 100, 20  # training examples: many are more than that, few are less
LARGEST_CONFUSION = 1000  # classes; of more, larger than most networks


class Counts(NamedTuple):
    """Sums over examples, which can be added over batches."""

    examples: jax.Array  # int32 [classes], by label
    correct: jax.Array  # int32 [classes], of them
    top5: jax.Array  # int32 [classes], of them with the label among the best five
    confusion: jax.Array  # int32 [classes, classes]: label, then prediction; or [0, 0]
    bin_examples: jax.Array  # int32 [BINS]
    bin_confidence: jax.Array  # float32 [BINS], sum of the top-1 probabilities
    bin_correct: jax.Array  # int32 [BINS]
    loss: jax.Array  # float32 []
    # Of two classes: the log-odds of class 1 by batch, each float32 [batch]; else ().
    log_odds: tuple[jax.Array, ...] = ()


def count(logits: jax.Array, labels: jax.Array, present: jax.Array) -> Counts:
    """Accumulates accuracy, confusion matrix, calibration and loss of a batch.

    Of equal logits the one of the first class counts as larger, so a network with equal
    logits always predicts class 0, and its top five are the first five. A logit that is
    NaN is the smallest; the loss stays NaN.

    Logits are `[batch, classes]` and labels, in [0, classes), `[batch]`; `present` is
    False for padding; the loss is cross-entropy. The confusion counts are left out,
    `[0, 0]`, above `LARGEST_CONFUSION` classes.
    """
    logits = logits.astype(jnp.float32)
    losses = absgd_jax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    classes = logits.shape[1]
    here = present.astype(jnp.int32)
    logits = jnp.nan_to_num(logits, nan=jnp.finfo(logits.dtype).min)

    of_label = jnp.take_along_axis(logits, labels[:, None], axis=1)
    first = jnp.arange(classes) < labels[:, None]
    ahead = jnp.sum((logits > of_label) | ((logits == of_label) & first), axis=1)
    correct = here * (ahead == 0)
    predictions = jnp.argmax(logits, axis=1)

    confidence = jnp.max(jax.nn.softmax(logits), axis=1)
    bins = jnp.clip(jnp.ceil(BINS * confidence).astype(jnp.int32) - 1, 0, BINS - 1)

    def by(index: jax.Array, values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jnp.zeros(shape, values.dtype).at[index].add(values)

    return Counts(
        examples=by(labels, here, (classes,)),
        correct=by(labels, correct, (classes,)),
        top5=by(labels, here * (ahead < 5), (classes,)),
        confusion=by((labels, predictions), here, (classes, classes))
        if classes <= LARGEST_CONFUSION
        else jnp.zeros((0, 0), jnp.int32),
        bin_examples=by(bins, here, (BINS,)),
        bin_confidence=by(bins, jnp.where(present, confidence, 0.0), (BINS,)),
        bin_correct=by(bins, correct, (BINS,)),
        loss=jnp.sum(jnp.where(present, losses, 0.0), dtype=jnp.float32),
        log_odds=(logits[:, 1] - logits[:, 0],) if classes == 2 else (),
    )


def add(one: Counts, other: Counts) -> Counts:
    """The sum of two counts; log-odds batch after batch."""
    log_odds = one.log_odds + other.log_odds
    one, other = one._replace(log_odds=()), other._replace(log_odds=())
    return jax.tree.map(operator.add, one, other)._replace(log_odds=log_odds)


def summary(
    counts: Counts,
    class_counts: np.ndarray,
    tail_classes: int = 0,
    *,
    labels: np.ndarray | None = None,
    threshold: float | None = 0.5,
) -> dict[str, Any]:
    """Metrics of a split; accuracies and recalls are in [0, 1].

    Balanced accuracy is the mean recall of the classes that have an example. `many`,
    `medium` and `few` are the same mean over the classes with more than 100, 20 to 100
    and less than 20 *training* examples.

    The expected calibration error is `Σ_b n_b/n |accuracy_b − confidence_b|` over 15
    equally wide bins `((b − 1)/15, b/15]` of the confidence, the probability that the
    softmax gives to the best class (Guo et al., ICML 2017).

    Args:
      counts: over all examples.
      class_counts: training examples of each class, `[classes]`.
      tail_classes: number of last classes that count as the tail; 0 for none.
      labels: of the examples in the order in which they were counted, `[examples]`;
        None leaves the metrics of two classes out.
      threshold: see `binary`.

    Returns:
      `examples`, their number; `accuracy`; `top5`, None for five classes and fewer;
      `loss`, its mean; `recall` of each class, NaN where it has no example; `balanced`;
      `many`, `medium`, `few` and `tail_recall`, None where there is no such class;
      `calibration_error`; `calibration`, the bins' `examples`, `confidence` and
      `accuracy`, NaN where one is empty; `confusion` counts or None. A mean over no
      example is NaN. Of two classes also what `binary` returns.
    """
    *sums, log_odds = jax.device_get(counts)
    counts = Counts(*map(np.asarray, sums))
    of_two = {}
    if labels is not None and log_odds:
        of_two = binary(np.concatenate(log_odds)[: len(labels)], labels, threshold)
    class_counts = np.asarray(class_counts)
    classes = len(counts.examples)
    recall = ratio(counts.correct, counts.examples)
    tail = np.arange(classes) >= classes - tail_classes
    bins = {
        "examples": counts.bin_examples,
        "confidence": ratio(counts.bin_confidence, counts.bin_examples),
        "accuracy": ratio(counts.bin_correct, counts.bin_examples),
    }
    examples = counts.examples.sum()
    # Bin by bin n_b |accuracy − confidence| is a difference of sums.
    gaps = np.abs(counts.bin_correct - counts.bin_confidence.astype(np.float64))
    return {
        "examples": int(examples),
        "accuracy": float(ratio(counts.correct.sum(), examples)),
        "top5": float(ratio(counts.top5.sum(), examples)) if classes > 5 else None,
        "loss": float(ratio(counts.loss, examples)),
        "recall": recall.tolist(),
        "balanced": _mean(recall),
        "many": _mean_or_none(recall[class_counts > MANY]),
        "medium": _mean_or_none(recall[(class_counts >= FEW) & (class_counts <= MANY)]),
        "few": _mean_or_none(recall[class_counts < FEW]),
        "tail_recall": _mean_or_none(recall[tail]),
        "calibration_error": float(ratio(gaps.sum(), examples)),
        "calibration": {name: values.tolist() for name, values in bins.items()},
        "confusion": counts.confusion.tolist() if counts.confusion.size else None,
        **of_two,
    }


def binary(
    log_odds: np.ndarray, labels: np.ndarray, threshold: float | None = 0.5
) -> dict[str, float]:
    """Metrics of two classes, of which class 1 is the positive one.

    `log_odds` are of class 1, `[examples]`. The threshold is the probability of class 1
    from which an example is predicted to be of it; None for that of the highest F1 on
    these examples, as on a validation set. Returns `auroc`, area under the ROC curve;
    `average_precision`; the `threshold`; and with it `f1` and `balanced_at_threshold`,
    the mean recall of the classes. All are NaN where only one class has an example.

    Examples:
      >>> found = binary(np.array([-2.0, 1.0, 3.0]), np.array([0, 0, 1]), None)
      >>> found["auroc"], found["f1"], round(found["threshold"], 3)
      (1.0, 1.0, 0.953)
    """
    from sklearn import metrics  # a second of imports

    positive = np.asarray(labels) == 1
    names = ("auroc", "average_precision", "threshold", "f1", "balanced_at_threshold")
    if positive.all() or not positive.any():
        return dict.fromkeys(names, float("nan"))
    log_odds = np.nan_to_num(np.asarray(log_odds, np.float64))
    probability = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -700.0, 700.0)))
    if threshold is None:
        precision, recall, cuts = metrics.precision_recall_curve(positive, probability)
        total = np.maximum(precision + recall, 1e-12)
        threshold = float(cuts[(precision * recall / total)[:-1].argmax()])
    predicted = probability >= threshold
    values = (
        metrics.roc_auc_score(positive, log_odds),
        metrics.average_precision_score(positive, log_odds),
        threshold,
        metrics.f1_score(positive, predicted, zero_division=0.0),
        (predicted[positive].mean() + 1.0 - predicted[~positive].mean()) / 2.0,
    )
    return dict(zip(names, map(float, values), strict=True))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A share in float64; NaN where the denominator is 0."""
    numerator = np.asarray(numerator, np.float64)
    shares = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=shares, where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """Of those that are not NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _mean_or_none(values: np.ndarray) -> float | None:
    """The same; None of no class, and of classes none of which has an example."""
    mean = _mean(values)
    return None if np.isnan(mean) else mean
