"""Per-example losses and class weights of a config."""

import jax
import jax.numpy as jnp
import numpy as np

from absgd_jax import losses
from experiments import configs
from experiments.train import feature_losses


def per_example_losses(
    loss: configs.Loss,
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_counts: jax.Array,
    class_weights: jax.Array,
    kept: jax.Array | None = None,
    features: jax.Array | None = None,
    present: jax.Array | None = None,
    centroids: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The per-example losses that are minimised.

    Args:
      loss: which.
      logits: float `[batch, classes]`.
      labels: int `[batch]`.
      class_counts: training examples of each class, float `[classes]`.
      class_weights: weight of each class, float `[classes]`; ones for none.
      kept: bool `[batch]`, False for pruned examples; None for no truncation.
      features: what entered the head, float `[batch, features]`; only for `oltr` and
        `range`.
      present: bool `[batch]`, False for padding, which the penalties of `oltr` and
        `range` leave out; None if every example is present.
      centroids: of OLTR's memory, float `[classes, features]`; only for `oltr`.
      axis_name: axis of `jax.pmap` that the batch is sharded over.

    Returns:
      Float `[batch]`. Class weights are on cross-entropy, not on penalties.
    """
    if loss.logit_norm > 0.0:
        squares = jnp.sum(jnp.square(logits), axis=-1, keepdims=True)
        logits = logits / (squares + 1e-12) ** (loss.logit_norm / 2.0)
    match loss.name:
        case "cross_entropy" | "oltr" | "range":
            values = losses.softmax_cross_entropy_with_integer_labels(
                logits, labels, class_weights=class_weights
            )
        case "focal":
            values = losses.softmax_focal_loss(
                logits, labels, focusing=loss.focusing, class_weights=class_weights
            )
        case "ldam":
            values = losses.ldam_loss(
                logits,
                labels,
                class_counts=class_counts,
                max_margin=loss.max_margin,
                scale=loss.scale,
                class_weights=class_weights,
            )
        case "symmetric":
            values = losses.symmetric_cross_entropy(
                logits,
                labels,
                alpha=loss.alpha,
                beta=loss.beta,
                smallest_probability=loss.smallest_probability,
                class_weights=class_weights,
            )
        case "generalized":
            values = losses.generalized_cross_entropy(
                logits, labels, q=loss.q, class_weights=class_weights
            )
        case "truncated":
            values = losses.truncated_generalized_cross_entropy(
                logits,
                labels,
                q=loss.q,
                k=loss.k,
                keep=kept,
                class_weights=class_weights,
            )
        case "logit_adjusted":
            values = losses.logit_adjusted_cross_entropy(
                logits,
                labels,
                class_counts=class_counts,
                tau=loss.tau,
                class_weights=class_weights,
            )
    if loss.name in ("oltr", "range"):
        assert features is not None
        here = jnp.ones(labels.shape, bool) if present is None else present
        if loss.name == "oltr":
            assert centroids is not None
            return values + feature_losses.centroids(
                features, labels, here, centroids, axis_name
            )
        intra, inter = feature_losses.range_terms(
            features, labels, here, loss.range_margin, axis_name
        )
        values = values + loss.range_intra * intra + loss.range_inter * inter
    return values


def class_weights(loss: configs.Loss, class_counts: np.ndarray, on: bool) -> np.ndarray:
    """The weight of each class.

    Args:
      loss: whether classes are weighted, and by which effective number.
      class_counts: int `[classes]`. A class without an example counts as one of one.
      on: whether class weights are switched on in this epoch.

    Returns:
      float32 `[classes]`; ones for none.
    """
    if not (loss.class_weights and on):
        return np.ones(len(class_counts), np.float32)
    weights = losses.class_balanced_weights(
        np.maximum(class_counts, 1), loss.effective_beta
    )
    return np.asarray(weights, np.float32)
