"""Penalties on the features of a batch, added to cross-entropy: OLTR and range loss.

They depend on the whole batch: the gradient of an example depends on the others. Each
adds such a term to every example's loss that the mean loss is that of cross-entropy
plus the published penalty, with the published gradient.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

# As in OLTR's code.
_CENTROIDS, _ATTRACTION, _REPULSION, _MARGIN = 0.01, 0.5, 0.01, 10.0

PAIRS = 2  # range loss's k, of each class
_LEAST = 1e-12  # squared distance, so that coincident features have finite gradients


def centroids(
    features: jax.Array,
    labels: jax.Array,
    present: jax.Array,
    centroids: jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
    """OLTR's penalty: features near the centroid of their class, far from the others.

        R = 1/(n C) Σ_i Σ_{c ≠ y_i} ‖v_i − m_c‖²
        added_i = 0.01 (0.5 ‖v_i − m_{y_i}‖² + 0.01 max(0, 10 − R))

    Value and gradients are those of the code of Liu et al. (2019), where the first term
    is no ordinary function: it pulls features with the factor 0.01, but the centroid of
    a class without it, by the mean over the batch's n_c examples of the class and one
    more. With sums over a class of n_c of n examples, and before what R adds,

        ∂/∂v_i = 0.01 (v_i − m_{y_i}) / n
        ∂/∂m_c = Σ_{i: y_i = c} (m_c − v_i) / ((1 + n_c) n)

    Args:
      features: v, float `[batch, features]`.
      labels: y, int `[batch]`.
      present: bool `[batch]`, False for padding.
      centroids: m, float `[classes, features]`.
      axis_name: axis of `jax.pmap` that the batch is spread over.

    Returns:
      What is added to each loss, float `[batch]`; at padding anything finite.

    References:
      Liu et al., `Large-scale long-tailed recognition in an open world
      <https://arxiv.org/abs/1904.05160>`_.
    """
    classes = len(centroids)
    # Two terms of one value: through the first features learn, through the second
    # centroids, and what the second adds is 0.
    fixed = jax.lax.stop_gradient
    to_own_class = _square(features - fixed(centroids)[labels])
    of_class = jnp.zeros(classes, features.dtype).at[labels].add(present)
    if axis_name is not None:
        of_class = jax.lax.psum(of_class, axis_name)
    pulled = _square(fixed(features) - centroids[labels]) / (1.0 + of_class[labels])
    # Σ_c ‖v − m_c‖² = C ‖v − m̄‖² + Σ_c ‖m_c − m̄‖², which needs no array of
    # batch × classes × features.
    middle = jnp.mean(centroids, axis=0)
    spread = jnp.sum(_square(centroids - middle))
    apart = _square(features - centroids[labels])
    others = classes * _square(features - middle) + spread - apart
    total, n = jnp.sum(others, where=present), jnp.sum(present)
    if axis_name is not None:
        total, n = jax.lax.psum((total, n), axis_name)
    repulsion = jnp.maximum(0.0, _MARGIN - total / (jnp.maximum(n, 1) * classes))
    penalty = _CENTROIDS * (_ATTRACTION * to_own_class + _REPULSION * repulsion)
    return penalty + _ATTRACTION * (pulled - fixed(pulled))


def range_terms(
    features: jax.Array,
    labels: jax.Array,
    present: jax.Array,
    margin: float,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The two terms of range loss: small ranges within classes, wide ones between.

        intra = Σ_c k / Σ_{j ≤ k} 1/D_j
        inter = max(0, margin − D)

    D_j are the k = 2 largest squared distances between two examples of class c in the
    batch, so that each class adds their harmonic mean; D is the smallest squared
    distance between the means of two classes of the batch.

    A class with one pair adds its distance, one with none adds 0, and so does a class
    where one of the two distances is 0. A batch of fewer than two classes has
    inter = 0.

    Args:
      features: float `[batch, features]`.
      labels: int `[batch]`.
      present: bool `[batch]`, False for padding.
      margin: squared distance.
      axis_name: axis of `jax.pmap` that the batch is spread over.

    Returns:
      intra and inter, float `[]`; their gradients are finite for any finite features.

    Examples:
      >>> features = jnp.array([[0.0], [1.0], [3.0], [5.0], [6.0]])
      >>> labels = jnp.array([0, 0, 0, 1, 1])
      >>> intra, inter = range_terms(features, labels, jnp.ones(5, bool), margin=20.0)
      >>> print(f"{intra:.4f} {inter:.4f}")  # 2 / (1/9 + 1/4) + 1, 20 − (25/6)²
      6.5385 2.6389

    References:
      Zhang et al., `Range loss for deep face recognition with long-tailed training data
      <https://arxiv.org/abs/1611.08976>`_. A widely copied version takes k / Σ D_j,
      which is no harmonic mean; OLTR's code takes distances over all classes at once.
    """
    if axis_name is not None:
        gather = functools.partial(
            jax.lax.all_gather, axis_name=axis_name, axis=0, tiled=True
        )
        features, labels, present = map(gather, (features, labels, present))
    batch = len(labels)
    row = jnp.arange(batch)
    same_class = (labels[:, None] == labels) & present[:, None] & present
    # A class is the row of its first example.
    first = present & (jnp.argmax(same_class, axis=1) == row)

    # Which pairs are meant needs no gradient, and so no array of batch × batch ×
    # features. The largest of a class are among the largest of its rows.
    all_distances = _squared_distances(features)
    k = min(PAIRS, batch)
    largest, partner = jax.lax.top_k(
        jnp.where(same_class & (row[:, None] < row), all_distances, -1.0), k
    )
    one, other = jnp.repeat(row, k), partner.reshape(-1)
    of_class = jnp.where(jnp.repeat(same_class, k, axis=1), largest.reshape(-1), -1.0)
    found, pair = jax.lax.top_k(of_class, k)
    there = (found >= 0.0) & first[:, None]
    distances = _square(features[one[pair]] - features[other[pair]])
    inverse = jnp.where(there, 1.0 / jnp.maximum(distances, _LEAST), 0.0)
    pairs, total = jnp.sum(there, axis=1), jnp.sum(inverse, axis=1)
    intra = jnp.sum(jnp.where(pairs > 0, pairs / jnp.where(pairs > 0, total, 1.0), 0.0))

    means = same_class @ features / jnp.maximum(jnp.sum(same_class, axis=1), 1)[:, None]
    between = first[:, None] & first & (row[:, None] < row)
    far = jnp.finfo(means.dtype).max
    nearest = jnp.argmin(jnp.where(between, _squared_distances(means), far))
    distance = _square(means[nearest // batch] - means[nearest % batch])
    inter = jnp.where(jnp.any(between), jnp.maximum(0.0, margin - distance), 0.0)
    return intra, inter


def _square(x: jax.Array) -> jax.Array:
    """Squared length along the last axis."""
    return jnp.sum(jnp.square(x), axis=-1)


def _squared_distances(x: Any) -> jax.Array:
    """Squared distances between rows, without a gradient."""
    x = jax.lax.stop_gradient(x)
    return _square(x[:, None] - x)
