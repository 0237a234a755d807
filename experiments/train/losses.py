"""Per-example losses and class weights of a config."""

import jax
import jax.numpy as jnp
import numpy as np

from absgd_jax import losses
from experiments import configs, registry
from experiments.train import feature_penalties

# The library's loss of each name; any other is cross-entropy and a penalty on features.
_LOSSES = {
    "cross_entropy": losses.softmax_cross_entropy_with_integer_labels,
    "focal": losses.softmax_focal_loss,
    "ldam": losses.ldam_loss,
    "symmetric": losses.symmetric_cross_entropy,
    "generalized": losses.generalized_cross_entropy,
    "truncated": losses.truncated_generalized_cross_entropy,
    "logit_adjusted": losses.logit_adjusted_cross_entropy,
}
_OF_SCHEDULE = ("prune_from", "prune_every")  # no arguments of the loss


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
    penalized = loss.name not in _LOSSES
    name = "cross_entropy" if penalized else loss.name
    fields = [field for field in registry.LOSSES[name] if field not in _OF_SCHEDULE]
    arguments = {field: getattr(loss, field) for field in fields}
    if loss.name in ("ldam", "logit_adjusted"):
        arguments["class_counts"] = class_counts
    if loss.name == "truncated":
        arguments["keep"] = kept
    values = _LOSSES[name](logits, labels, class_weights=class_weights, **arguments)
    if not penalized:
        return values
    here = jnp.ones(labels.shape, bool) if present is None else present
    if loss.name == "oltr":
        return values + feature_penalties.centroids(
            features, labels, here, centroids, axis_name
        )
    intra, inter = feature_penalties.range_terms(
        features, labels, here, loss.range_margin, axis_name
    )
    return values + loss.range_intra * intra + loss.range_inter * inter


def class_weights(run: configs.Run, class_counts: np.ndarray, epoch: int) -> np.ndarray:
    """The weight of each class in an epoch, from 0, by its effective number.

    float32 `[classes]`, of mean one over the classes that have examples, and one for
    any other; ones where the run weights none. Counts are int `[classes]`.
    """
    loss, weights = run.loss, np.ones(len(class_counts), np.float32)
    if loss.class_weights and epoch >= run.epoch_at(loss.class_weights_from):
        there = class_counts > 0
        beta = loss.effective_beta
        weights[there] = losses.class_balanced_weights(class_counts[there], beta)
    return weights
