"""Per-example classification losses, for use with ABSGD or on their own.

Every loss maps `logits` of shape `[..., classes]` and integer `labels` of shape
`[...]` to losses of shape `[...]`: one number per example, never reduced, which is
what attentional weighting needs. With `p = softmax(logits)` and `y` the label, each
of them is a function of one number, the log-odds of the label::

    m = log( p_y / (1 - p_y) ) = f_y - log sum_{k != y} exp(f_k)

from which `-log p_y = softplus(-m)` and `1 - p_y = -expm1(log p_y)` follow without
cancellation. Hence, for every loss of this module:

=============================  ===================================================
Edge                           What happens
=============================  ===================================================
bfloat16, float16 logits       computed in float32; the losses are float32
float64 logits                 computed in float64; the losses are float64
logits of ±1e4, p_y -> 0 or 1  value and gradient finite, and right
a constant added to logits     same losses
a logit of -inf                as without that class; its own gradient is zero
every class but y at -inf      p_y = 1: loss and gradient zero
the label's logit at -inf      p_y = 0: the loss is its bound, or inf without
                               one; the gradient is finite, and right
every logit at -inf            the loss is NaN, the gradient zero
label outside [0, classes)     its loss is NaN, its gradient zero
class weight 0                 loss and gradient zero, even where p_y = 0
a traced hyperparameter        accepted; its range is then not checked
=============================  ===================================================

Classes are masked by logits of -inf or of the dtype's least number,
`jnp.finfo(dtype).min`, which differ in one case: the loss of a masked label is then as
large as that number, not inf. Margins and priors stay those of all classes. A logit of
+inf is an overflow and no mask: the loss is that of p_y = 1 or p_y = 0, with a gradient
of zero for the other classes, and NaN if two logits are +inf.

Labels cannot be checked while a compiled program runs. A label out of range,
including a negative one (there is no wrapping around, and no "ignore" index), gives a
NaN loss so that it is noticed. Its gradient is zero, so that masking the loss
afterwards, `jnp.where(mask, losses, 0.0)`, removes the example altogether.

`class_weights`, where given, multiplies the loss of an example by the weight of its
class, `w_y * loss`. Nothing is divided by the sum of the weights in the batch: a
per-example loss must not depend on the other examples of the batch. (A mean weighted
"by class", as other libraries compute it, does divide, so its scale differs.) The
exception is `softmax_focal_loss`, which has the weight inside its modulating factor.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from absgd_jax import _attention

__all__ = [
    "class_balanced_weights",
    "generalized_cross_entropy",
    "ldam_loss",
    "ldam_margins",
    "logit_adjusted_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
    "symmetric_cross_entropy",
    "truncated_generalized_cross_entropy",
]

_PerClass = ArrayLike | Sequence[float]


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_weights: _PerClass | None = None,
) -> Array:
    """Cross-entropy of the softmax, `-log p_y`.

    Args:
      logits: unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: integer class of each example in `[0, classes)`, `[...]`.
      class_weights: weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label. `None` leaves it as it is.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: `logits` are not floating point or `labels` not integers.
      ValueError: shapes disagree, there are fewer than two classes, or a weight is
        negative or not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> logits = jnp.array([[0.0, 0.0], [3.0, 0.0]])
      >>> labels = jnp.array([1, 0])
      >>> ce = losses.softmax_cross_entropy_with_integer_labels(logits, labels)
      >>> bool(jnp.allclose(ce, jnp.array([jnp.log(2), jnp.log1p(jnp.exp(-3))])))
      True
      >>> weights = jnp.array([0.5, 1.5])
      >>> weighted = losses.softmax_cross_entropy_with_integer_labels(
      ...     logits, labels, class_weights=weights
      ... )
      >>> bool(jnp.allclose(weighted, jnp.array([1.5, 0.5]) * ce))
      True
    """
    logits, labels = _checked(logits, labels)
    losses = jax.nn.softplus(-_log_odds(logits, labels))
    return _per_label(losses, logits, labels, class_weights)


def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    focusing: ArrayLike = 1.0,
    class_weights: _PerClass | None = None,
) -> Array:
    """Focal loss of the softmax, which fades examples that are already right.

    Without class weights, with `g` the focusing parameter::

        loss = (1 - p_y)^g * (-log p_y)

    With class weights `w` the weight enters the modulating factor too, as it does in
    the class-balanced focal loss of the LDAM and ABSGD experiments::

        z = w_y * (-log p_y)        loss = (1 - exp(-z))^g * z

    This is a different function from `w_y * softmax_focal_loss(logits, labels)`, which
    needs no argument here: multiply.

    Args:
      logits: unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: integer class of each example in `[0, classes)`, `[...]`.
      focusing: the exponent `g >= 0`; 0 is cross-entropy. The paper calls it gamma,
        a name that ABSGD needs for its moving average.
      class_weights: weight of each class inside `z`, non-negative, `[classes]`.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: `logits` are not floating point or `labels` not integers.
      ValueError: shapes disagree, there are fewer than two classes, `focusing` is
        negative or not finite, or a weight is.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> logits = jnp.array([[0.0, 0.0]])
      >>> focal = losses.softmax_focal_loss(logits, jnp.array([0]), focusing=2.0)
      >>> bool(jnp.allclose(focal, 0.5**2 * jnp.log(2)))
      True

    References:
      Lin et al., `Focal Loss for Dense Object Detection
      <https://arxiv.org/abs/1708.02002>`_, ICCV 2017. The weighted form: Cao et al.
      (arXiv 1906.07413), code.
    """
    logits, labels = _checked(logits, labels)
    g = _scalar("focusing", focusing, "[0, inf)", logits.dtype)
    z = jax.nn.softplus(-_log_odds(logits, labels))
    z = _weighted(z, logits, labels, class_weights)
    # Its ends: 0 for z = 0, and z for z = inf. Both the inner `where` and the outer
    # ones are needed: the inner one keeps 0 * inf out of the gradient.
    limits = jnp.finfo(z.dtype)
    vanished, infinite = z < limits.tiny, z > limits.max
    losses = _focal(jnp.where(vanished | infinite, 1.0, z), g)
    losses = jnp.where(vanished, 0.0, jnp.where(infinite, z, losses))
    return _per_label(losses, logits, labels)


def ldam_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_counts: _PerClass,
    max_margin: ArrayLike = 0.5,
    scale: ArrayLike = 30.0,
    class_weights: _PerClass | None = None,
) -> Array:
    """Label-distribution-aware margin loss: rare classes must win by more.

    The loss is ::

        loss = CE( s (f - m_y e_y), y )

    with the margins `m` of `ldam_margins` and `s` the scale. The logits are meant to
    be cosines, `f_k = <w_k / |w_k|, x / |x|>`, the output of a linear layer with unit
    columns on unit features and no bias.

    Args:
      logits: cosines in [-1, 1], floating point, `[..., classes]`.
      labels: integer class of each example in `[0, classes)`, `[...]`.
      class_counts: training examples in each class, at least 1, `[classes]`.
      max_margin: margin of the rarest class, non-negative, in units of `logits`.
      scale: factor `s > 0` from cosines to logits.
      class_weights: weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: `logits` are not floating point or `labels` not integers.
      ValueError: shapes disagree, there are fewer than two classes, or a count, a
        weight, `max_margin` or `scale` is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> cosines, labels = jnp.array([[0.2, 0.9, -0.1]]), jnp.array([1])
      >>> loss = losses.ldam_loss(cosines, labels, class_counts=[256, 16, 1])
      >>> shifted = jnp.array([[0.2, 0.9 - 0.25, -0.1]])  # 16^(-1/4) / 1^(-1/4) / 2
      >>> ce = losses.softmax_cross_entropy_with_integer_labels(30 * shifted, labels)
      >>> bool(jnp.allclose(loss, ce))
      True

    References:
      Cao et al., `Learning Imbalanced Datasets with Label-Distribution-Aware Margin
      Loss <https://arxiv.org/abs/1906.07413>`_, NeurIPS 2019.
    """
    logits, labels = _checked(logits, labels)
    counts = _per_class("class_counts", class_counts, 1, logits.shape[-1])
    max_margin = _scalar("max_margin", max_margin, "[0, inf)")
    s = _scalar("scale", scale, "(0, inf)", logits.dtype)
    margins = _per_example(_margins(counts, max_margin), logits, labels)
    # A masked class stays at -inf at every scale, which gets no gradient from it.
    masked = _is_masked(logits)
    scaled = jnp.where(
        masked, jax.lax.stop_gradient(s) * logits, s * jnp.where(masked, 0.0, logits)
    )
    # The margin moves no logit but the label's, hence the log-odds by as much.
    log_odds = _log_odds(scaled, labels) - s * margins
    losses = jax.nn.softplus(-log_odds)
    return _per_label(losses, logits, labels, class_weights)


def symmetric_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 0.1,
    beta: ArrayLike = 1.0,
    smallest_probability: ArrayLike = 1e-7,
    class_weights: _PerClass | None = None,
) -> Array:
    """Cross-entropy plus its reverse, which noisy labels move less.

    The loss is ::

        loss = alpha * CE + beta * RCE
        CE = -log max(p_y, c)        RCE = -A (1 - p_y),  A = log 1e-4

    RCE is `-sum_k p_k log q_k` for the one-hot label `q`, with `log 0` replaced by
    `A`. Published code differs in `c`, the smallest probability inside CE. The code of
    SCE's authors (Keras) clips at 1e-7, the default here, which bounds the loss by
    `16.12 alpha + 9.21 beta`: a label that the model holds for less likely than that
    pulls no more through CE. Its PyTorch re-implementations, and with them the code of
    ABSGD's authors, do not clip: `smallest_probability=0.0`. Labels of probability
    below 1e-7 are common late in training, and the two then differ by much.

    Args:
      logits: unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: integer class of each example in `[0, classes)`, `[...]`.
      alpha: factor of CE, non-negative. The default is the authors' for CIFAR-10;
        theirs for CIFAR-100 is 6, for MNIST 0.01.
      beta: factor of RCE, non-negative. The default is the authors' for CIFAR-10 and
        MNIST; theirs for CIFAR-100 is 0.1.
      smallest_probability: the probability in [0, 1) at which CE is clipped; 0 leaves
        CE as it is, without a bound.
      class_weights: weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: `logits` are not floating point or `labels` not integers.
      ValueError: shapes disagree, there are fewer than two classes, or `alpha`,
        `beta` or a weight is negative or not finite, or `smallest_probability` is
        outside [0, 1).

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> loss = losses.symmetric_cross_entropy(jnp.zeros((1, 2)), jnp.array([0]))
      >>> bool(jnp.allclose(loss, 0.1 * jnp.log(2) + 1.0 * jnp.log(1e4) / 2))
      True

    References:
      Wang et al., `Symmetric Cross Entropy for Robust Learning with Noisy Labels
      <https://arxiv.org/abs/1908.06112>`_, ICCV 2019.
    """
    logits, labels = _checked(logits, labels)
    a = _scalar("alpha", alpha, "[0, inf)", logits.dtype)
    b = _scalar("beta", beta, "[0, inf)", logits.dtype)
    c = _scalar("smallest_probability", smallest_probability, "[0, 1)", logits.dtype)
    ce = jax.nn.softplus(-_log_odds(logits, labels))
    rce = math.log(1e-4) * _expm1(-ce)
    if isinstance(c, Tracer):
        # Without the inner `where` the gradient of c = 0 has the factor 0 * inf.
        bound = jnp.where(c > 0, -jnp.log(jnp.where(c > 0, c, 1.0)), jnp.inf)
        ce = jnp.where(ce > bound, bound, ce)
    elif c > 0:
        ce = jnp.where(ce > -math.log(c), -math.log(c), ce)
    losses = _times(a, ce) + b * rce
    return _per_label(losses, logits, labels, class_weights)


def generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    q: ArrayLike = 0.7,
    class_weights: _PerClass | None = None,
) -> Array:
    """Generalised cross-entropy, between cross-entropy and mean absolute error.

    The loss is ::

        L_q = (1 - p_y^q) / q

    The limit `q -> 0` is cross-entropy and `q = 1` is `1 - p_y`, half the absolute
    error. Small `q` costs no precision: it is computed as `-expm1(q log p_y) / q`.

    Args:
      logits: unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: integer class of each example in `[0, classes)`, `[...]`.
      q: exponent in (0, 1].
      class_weights: weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]` in `[0, 1/q]` (times the weight), float32 (float64 for float64
      logits).

    Raises:
      TypeError: `logits` are not floating point or `labels` not integers.
      ValueError: shapes disagree, there are fewer than two classes, or `q` or a
        weight is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> logits, labels = jnp.zeros((1, 4)), jnp.array([3])
      >>> loss = losses.generalized_cross_entropy(logits, labels, q=0.5)
      >>> bool(jnp.allclose(loss, (1 - 0.25**0.5) / 0.5))
      True

    References:
      Zhang and Sabuncu, `Generalized Cross Entropy Loss for Training Deep Neural
      Networks with Noisy Labels <https://arxiv.org/abs/1805.07836>`_, NeurIPS 2018.
    """
    logits, labels = _checked(logits, labels)
    q = _scalar("q", q, "(0, 1]", logits.dtype)
    losses = _box_cox(-jax.nn.softplus(-_log_odds(logits, labels)), q)
    return _per_label(losses, logits, labels, class_weights)


def truncated_generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    q: ArrayLike = 0.7,
    k: ArrayLike = 0.5,
    keep: ArrayLike | None = None,
    class_weights: _PerClass | None = None,
) -> Array:
    """Generalised cross-entropy without the examples that are probably mislabelled.

    The loss is ::

        loss = v L_q(p_y) + (1 - v) L_q(k),        L_q(p) = (1 - p^q) / q

    A pruned example (`v = 0`) has the constant loss `L_q(k)` and no gradient. By
    default `v = 1` where `p_y > k` at the present parameters. The paper's alternating
    minimisation holds `v` fixed between refreshes: keep one flag per training example,
    all ones at first, set it from time to time to `p_y > k` with ::

        ce = losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        keep = jnp.exp(-ce) > k

    and pass the flags of the batch. Implementations that write the loss as
    `v (L_q(p_y) - L_q(k))` differ by the constant `L_q(k)`, which changes neither the
    gradient nor, once the normaliser has forgotten its start, an attentional weight.

    Args:
      logits: unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: integer class of each example in `[0, classes)`, `[...]`.
      q: exponent in (0, 1].
      k: probability in [0, 1) at or below which an example is pruned; 0 prunes none.
      keep: the flags `v`, boolean or 0 and 1, `[...]`; `None` is `p_y > k`.
      class_weights: weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]`, float32 (float64 for float64 logits).

    Raises:
      TypeError: `logits` are not floating point or `labels` not integers.
      ValueError: shapes disagree, there are fewer than two classes, or `q`, `k` or
        a weight is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> logits, labels = jnp.array([[0.0, 1.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> loss = losses.truncated_generalized_cross_entropy(logits, labels)
      >>> full = losses.generalized_cross_entropy(logits, labels)
      >>> bool(jnp.allclose(loss, jnp.array([(1 - 0.5**0.7) / 0.7, full[1]])))
      True
      >>> everything = losses.truncated_generalized_cross_entropy(
      ...     logits, labels, keep=jnp.array([True, True])
      ... )
      >>> bool(jnp.allclose(everything, full))
      True

    References:
      Zhang and Sabuncu, `Generalized Cross Entropy Loss for Training Deep Neural
      Networks with Noisy Labels <https://arxiv.org/abs/1805.07836>`_, NeurIPS 2018.
    """
    logits, labels = _checked(logits, labels)
    q = _scalar("q", q, "(0, 1]", logits.dtype)
    k = _scalar("k", k, "[0, 1)", logits.dtype)
    log_p = -jax.nn.softplus(-_log_odds(logits, labels))
    # The logarithm of k = 0 as a finite number, which bounds every finite log p_y.
    k = jnp.asarray(k, logits.dtype)
    log_k = jnp.where(
        k > 0, jnp.log(jnp.where(k > 0, k, 1.0)), jnp.finfo(logits.dtype).min
    )
    # Not `log_p > log_k`: NaN is to be kept, and seen.
    v = jnp.asarray(~(log_p <= log_k) if keep is None else keep)
    if v.shape != labels.shape:
        raise ValueError(
            f"keep must have the shape of labels, {labels.shape}; got {v.shape}"
        )
    losses = jnp.where(v.astype(jnp.bool_), _box_cox(log_p, q), _box_cox(log_k, q))
    return _per_label(losses, logits, labels, class_weights)


def logit_adjusted_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_counts: _PerClass,
    tau: ArrayLike = 1.0,
    class_weights: _PerClass | None = None,
) -> Array:
    """Cross-entropy after adding the log-prior of each class to its logit.

    The loss is ::

        loss = CE( f + tau log(n / sum_k n_k), y )

    Trained so, `argmax f` (without the adjustment) aims at the balanced error.

    Args:
      logits: unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: integer class of each example in `[0, classes)`, `[...]`.
      class_counts: training examples in each class, at least 1, `[classes]`.
      tau: strength of the adjustment, non-negative; 0 is cross-entropy.
      class_weights: weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: `logits` are not floating point or `labels` not integers.
      ValueError: shapes disagree, there are fewer than two classes, or a count, a
        weight or `tau` is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> loss = losses.logit_adjusted_cross_entropy(
      ...     jnp.zeros((1, 2)), jnp.array([1]), class_counts=[9, 1]
      ... )
      >>> bool(jnp.allclose(loss, -jnp.log(0.1)))
      True

    References:
      Menon et al., `Long-tail Learning via Logit Adjustment
      <https://arxiv.org/abs/2007.07314>`_, ICLR 2021.
    """
    logits, labels = _checked(logits, labels)
    counts = _per_class("class_counts", class_counts, 1, logits.shape[-1])
    tau = _scalar("tau", tau, "[0, inf)", logits.dtype)
    xp = _namespace(counts)
    log_prior = jnp.asarray(xp.log(counts / counts.sum()), logits.dtype)
    adjusted = logits + jnp.broadcast_to(_times(tau, log_prior), logits.shape)
    losses = jax.nn.softplus(-_log_odds(adjusted, labels))
    return _per_label(losses, logits, labels, class_weights)


def class_balanced_weights(class_counts: _PerClass, beta: ArrayLike = 0.9999) -> Array:
    """Class weights inverse to the effective number of examples.

    The weights are ::

        w_c = C E_c^-1 / sum_k E_k^-1,        E_c = (1 - beta^n_c) / (1 - beta)

    They sum to the number of classes `C`. `beta = 0` gives ones, `beta -> 1` weights
    inverse to the counts. Concrete counts are handled in float64 on the host; the
    difference `1 - beta^n` loses no digits for `beta` close to 1.

    Args:
      class_counts: training examples in each class, at least 1, `[classes]`.
      beta: overlap between examples, in [0, 1).

    Returns:
      Weights `[classes]`, float32 (float64 if 64-bit types are enabled), for the
      argument `class_weights` of the losses.

    Raises:
      ValueError: `class_counts` is not a vector, a count is less than 1, or `beta`
        is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> weights = losses.class_balanced_weights([900, 90, 10], beta=0.99)
      >>> bool(jnp.allclose(weights, jnp.array([0.228367, 0.383591, 2.388042])))
      True

    References:
      Cui et al., `Class-Balanced Loss Based on Effective Number of Samples
      <https://arxiv.org/abs/1901.05555>`_, CVPR 2019.
    """
    counts = _per_class("class_counts", class_counts, 1)
    beta = _scalar("beta", beta, "[0, 1)")
    xp = _namespace(counts, beta)
    if isinstance(beta, float):
        log_beta = math.log(beta) if beta > 0 else -math.inf
    else:
        log_beta = jnp.log(beta)
    # The factor 1 - beta is common to all classes, so it drops out.
    weights = -1 / xp.expm1(counts * log_beta)
    return jnp.asarray(weights * (counts.size / weights.sum()))


def ldam_margins(class_counts: _PerClass, max_margin: ArrayLike = 0.5) -> Array:
    """The margins of `ldam_loss`, largest for the rarest class.

    The margins are ::

        m_c = max_margin * n_c^(-1/4) / max_k n_k^(-1/4)

    Args:
      class_counts: training examples in each class, at least 1, `[classes]`.
      max_margin: margin of the rarest class, non-negative, in units of the logits.

    Returns:
      Margins `[classes]`, float32 (float64 if 64-bit types are enabled).

    Raises:
      ValueError: `class_counts` is not a vector, a count is less than 1, or
        `max_margin` is negative or not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> margins = losses.ldam_margins([256, 16, 1])
      >>> bool(jnp.allclose(margins, jnp.array([0.125, 0.25, 0.5])))
      True

    References:
      Cao et al., `Learning Imbalanced Datasets with Label-Distribution-Aware Margin
      Loss <https://arxiv.org/abs/1906.07413>`_, NeurIPS 2019.
    """
    counts = _per_class("class_counts", class_counts, 1)
    max_margin = _scalar("max_margin", max_margin, "[0, inf)")
    return jnp.asarray(_margins(counts, max_margin))


def _is_masked(logits: Array) -> Array:
    """Whether a logit is -inf."""
    # Not `jnp.isneginf`, which makes the infinite constant that `debug_infs` refuses.
    return logits < jnp.finfo(logits.dtype).min


def _log_odds(logits: Array, labels: Array) -> Array:
    """`log(p_y / (1 - p_y))` of each example."""
    # A mask instead of a gather: it also works where the classes are sharded, and it
    # matches no entry, rather than the last one, for a negative label.
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
    label_logit = jnp.sum(logits, axis=-1, where=own)
    # Not `jax.nn.logsumexp`, whose gradient is 0/0 if all others are masked. The shift
    # stays finite where they are at -inf; the two ends have values of their own.
    fixed = jax.lax.stop_gradient(logits)
    limits = jnp.finfo(logits.dtype)
    largest = jnp.max(fixed, axis=-1, keepdims=True, where=~own, initial=limits.min)
    shift = jnp.minimum(largest, limits.max)
    apart = jnp.where(own | (fixed > limits.max), 0.0, logits - shift)
    # Of a product that the compiler rounds once here and twice in the shift, the
    # difference may be above zero, and huge.
    apart -= jax.lax.stop_gradient(jnp.maximum(apart, 0.0))
    total = jnp.sum(jnp.exp(apart), axis=-1, where=~own)
    no_others, exceeded = total == 0, jnp.squeeze(largest > limits.max, axis=-1)
    log_total = jnp.log(jnp.where(no_others, 1.0, total))
    log_total = jnp.where(no_others, -jnp.inf, jnp.where(exceeded, jnp.inf, log_total))
    # Subtracting the shift before the logarithm keeps a large common offset out of it.
    return (label_logit - jnp.squeeze(shift, axis=-1)) - log_total


@jax.custom_jvp
def _expm1(x: Array) -> Array:
    """`exp(x) - 1`, whose derivative is `exp(x)` to full precision."""
    return jnp.expm1(x)


# JAX's own rule is `expm1(x) + 1`, which for x below -17 is 0 in float32.
_expm1.defjvps(lambda x_dot, _, x: x_dot * jnp.exp(x))


def _box_cox(log_p: Array, q: ArrayLike) -> Array:
    """`(1 - p^q) / q`."""
    # At p = 0 the derivative in q has the factor 0 * log p.
    return -_expm1(q * jnp.maximum(log_p, jnp.finfo(log_p.dtype).min)) / q


@jax.custom_jvp
def _z_over_expm1(z: Array) -> Array:
    """`z / (exp(z) - 1)` for finite `z > 0`, which cannot overflow."""
    return -z * jnp.exp(-z) / _expm1(-z)


# JAX's own rule squares the denominator, which is 0 in float32 for z below 1e-19.
_z_over_expm1.defjvps(lambda z_dot, h, z: z_dot * h * (1 / z + 1 / _expm1(-z)))


@jax.custom_jvp
def _focal(z: Array, g: ArrayLike) -> Array:
    """`(1 - exp(-z))^g z` for finite `z > 0`."""
    return (-_expm1(-z)) ** g * z


@_focal.defjvp
def _focal_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """With one power `u^g`: `u^(g - 1)` and its derivative overflow as `z -> 0`."""
    z, g = primals
    z_dot, g_dot = tangents
    u = -_expm1(-z)
    power = u**g
    slope = power * (1 + g * _z_over_expm1(z))
    return power * z, slope * z_dot + power * z * jnp.log(u) * g_dot


def _times(factor: ArrayLike, values: ArrayLike) -> Array:
    """`factor * values`, where a factor of zero removes infinite values too."""
    removed = (jnp.asarray(factor) == 0) & jnp.isinf(values)
    return jnp.multiply(factor, jnp.where(removed, 0.0, values))


def _margins(counts: Any, max_margin: Any) -> Any:
    """Margins of LDAM; `max_k n_k^(-1/4)` is that of the smallest count."""
    return max_margin * (counts.min() / counts) ** 0.25


def _weighted(
    losses: Array, logits: Array, labels: Array, class_weights: _PerClass | None
) -> Array:
    """Times the weight of the label's class."""
    if class_weights is None:
        return losses
    weights = _per_class("class_weights", class_weights, 0, logits.shape[-1])
    return _times(_per_example(weights, logits, labels), losses)


def _per_label(
    losses: Array,
    logits: Array,
    labels: Array,
    class_weights: _PerClass | None = None,
) -> Array:
    """Times the weight of the label's class; NaN for a label out of range."""
    classes = logits.shape[-1]
    losses = _weighted(losses, logits, labels, class_weights)
    # `where`, unlike arithmetic with NaN, has a zero gradient on the other side.
    return jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)


def _per_example(values: ArrayLike, logits: Array, labels: Array) -> Array:
    """Look up a value per class for each label."""
    # A mask, as in `_log_odds`: on Explicit axes a gather needs an `out_sharding`. A
    # label out of range may get anything, for the loss of its example becomes NaN.
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
    of_classes = jnp.broadcast_to(jnp.asarray(values, logits.dtype), logits.shape)
    return jnp.sum(of_classes, axis=-1, where=own)


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Logits as float32 or float64 and labels as integers, or an error."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    floating = jnp.issubdtype(labels.dtype, jnp.floating)
    indices = jnp.issubdtype(logits.dtype, jnp.integer)
    if floating and (indices or logits.shape == labels.shape[:-1]):
        raise TypeError(
            "logits come first and labels second; got "
            f"{_describe(logits)} for the logits and {_describe(labels)} for the "
            "labels. Swap them"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating point; got {_describe(logits)}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        remedy = "Cast them: labels.astype(int)"
        if labels.shape == logits.shape:
            remedy = (
                "For one-hot labels take labels.argmax(-1). For soft labels (mixup, "
                "label smoothing) take optax.softmax_cross_entropy(logits, labels), "
                "which returns one loss per example too"
            )
        raise TypeError(
            "labels must be integers, the class of each example; "
            f"got {_describe(labels)}. {remedy}"
        )
    if logits.ndim == 0 or logits.shape[-1] < 2:
        raise ValueError(
            "logits must end in an axis of at least two classes; "
            f"got {_describe(logits)}"
        )
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            "labels must have the shape of logits without the last axis, "
            f"{logits.shape[:-1]}; got {_describe(labels)} with {_describe(logits)}"
            + (
                ". For one-hot labels take labels.argmax(-1)"
                if labels.shape == logits.shape
                else ""
            )
        )
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    # Widened, or 300 classes would wrap around in the dtype of uint8 labels.
    wide = _attention.wider_dtype(labels.dtype, jnp.int32)
    logits, labels = logits.astype(dtype), labels.astype(wide)
    # With every class masked no label is right: as for a label out of range.
    empty = jnp.all(_is_masked(logits), axis=-1)
    logits = jnp.where(empty[..., None], 0.0, logits)
    # The number of classes, since an unsigned label cannot be negative.
    return logits, jnp.where(empty, jnp.asarray(logits.shape[-1], wide), labels)


def _per_class(
    name: str, values: _PerClass, minimum: int, classes: int | None = None
) -> Any:
    """One value per class: float64 NumPy if concrete, else traced; or an error."""
    vector: Any = values
    order = f"range({classes or 'classes'})"
    if isinstance(vector, Mapping):
        raise TypeError(
            f"{name} must be a vector, one value per class in the order of the "
            f"labels; got a {type(vector).__name__}. "
            f"Make one: [{name}[c] for c in {order}]"
        )
    if isinstance(vector, Tracer):
        if vector.dtype != jnp.float64:
            vector = vector.astype(jnp.float32)
    else:
        vector = _numbers(name, vector)
    if vector.ndim != 1 or vector.size == 0 or classes not in (None, vector.size):
        rule = "one value per class" if classes is None else f"shape ({classes},)"
        remedy = ""
        if minimum == 1 and classes and vector.ndim == 1:
            remedy = f". Count with numpy.bincount(labels, minlength={classes})"
        raise ValueError(f"{name} must have {rule}; got shape {vector.shape}{remedy}")
    if isinstance(vector, np.ndarray):
        refused = ~(np.isfinite(vector) & (vector >= minimum))
        if refused.any():
            first = int(refused.argmax())
            remedy = ""
            if minimum == 1 and vector[first] == 0:
                remedy = (
                    ". A class without a training example has no margin, weight or "
                    "prior: leave it out of the logits and the counts or, if it must "
                    f"stay, count it as one example: numpy.maximum({name}, 1)"
                )
            elif minimum == 1 and 0 < vector[first] < 1:
                remedy = ". Give numbers of examples, not shares"
            raise ValueError(
                f"{name} must be finite and at least {minimum}; "
                f"got {vector[first]:g} for class {first}{remedy}"
            )
    return vector


def _numbers(name: str, values: Any) -> np.ndarray:
    """Concrete values as float64, or an error."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if not any(jnp.issubdtype(array.dtype, t) for t in (jnp.integer, jnp.floating)):
        remedy = "Count with numpy.bincount(labels)"
        if name == "class_weights":
            remedy = "class_balanced_weights(class_counts) makes the usual ones"
        raise TypeError(
            f"{name} must be numbers, one per class; got {reprlib.repr(values)}. "
            f"{remedy}"
        )
    return array.astype(np.float64)


def _scalar(
    name: str, value: Any, interval: str, dtype: DTypeLike | None = None
) -> Any:
    """A hyperparameter: a Python float within `interval` if concrete, else traced."""
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar; got shape {np.shape(value)}")
    if isinstance(value, Tracer):
        return value if dtype is None else value.astype(dtype)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, str):
        raise TypeError(
            f"{name} must be a number in {interval}; got {reprlib.repr(value)}"
        )
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= number if interval[0] == "[" else low < number
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(f"{name} must lie in {interval}; got {value}")
    return number


def _namespace(*values: Any) -> Any:
    """NumPy, or `jax.numpy` if a value is traced."""
    return jnp if any(isinstance(v, Tracer) for v in values) else np


def _describe(array: Array) -> str:
    """Dtype and shape, as `float32[8,10]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"
