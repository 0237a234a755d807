"""Per-example classification losses, for use with ABSGD or on their own.

Every loss maps `logits` of shape `[..., classes]` and integer `labels` of shape
`[...]` to losses of shape `[...]`: one number per example, never reduced, which is
what attentional weighting needs. With `p = softmax(logits)` and `y` the label, each
of them is a function of one number, the log-odds of the label,

    m = log( p_y / (1 - p_y) ) = f_y - log sum_{k != y} exp(f_k)

from which `-log p_y = softplus(-m)` and `1 - p_y = -expm1(log p_y)` follow without
cancellation. Hence, for every loss of this module:

| case                          | what happens                                       |
|-------------------------------|----------------------------------------------------|
| bfloat16, float16 logits      | computed in float32; the losses are float32        |
| float64 logits                | computed in float64; the losses are float64        |
| logits of ±1e4, p_y -> 0 or 1 | value and gradient finite, and right               |
| a constant added to logits    | same losses                                        |
| label outside [0, classes)    | its loss is NaN, its gradient zero                 |
| a traced hyperparameter       | accepted; its range is then not checked            |

Labels cannot be checked while a compiled program runs. A label out of range,
including a negative one (there is no wrapping around, and no "ignore" index), gives a
NaN loss so that it is noticed. Its gradient is zero, so that masking the loss
afterwards, `jnp.where(mask, losses, 0.0)`, removes the example altogether.

`class_weights`, where given, multiplies the loss of an example by the weight of its
class, `w_y * loss`. Nothing is divided by the sum of the weights in the batch: a
per-example loss must not depend on its neighbours. (A mean weighted "by class", as
other libraries compute it, does divide, so its scale differs.) `softmax_focal` alone
applies the weight elsewhere; see there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

_PerClass = ArrayLike | Sequence[float]


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_weights: _PerClass | None = None,
) -> Array:
    """Cross-entropy of the softmax, `-log p_y`.

    Args:
      logits: Unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: Integer class of each example in `[0, classes)`, `[...]`.
      class_weights: Weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label. `None` leaves it as it is.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: If `logits` are not floating point or `labels` not integers.
      ValueError: If shapes disagree, there are fewer than two classes, or a weight is
        negative or not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> logits = jnp.array([[0.0, 0.0], [3.0, 0.0]])
      >>> ce = losses.softmax_cross_entropy(logits, jnp.array([1, 0]))
      >>> bool(jnp.allclose(ce, jnp.array([jnp.log(2), jnp.log1p(jnp.exp(-3))])))
      True
      >>> weights = jnp.array([0.5, 1.5])
      >>> weighted = losses.softmax_cross_entropy(
      ...     logits, jnp.array([1, 0]), class_weights=weights
      ... )
      >>> bool(jnp.allclose(weighted, jnp.array([1.5, 0.5]) * ce))
      True
    """
    logits, labels = _checked(logits, labels)
    losses = jax.nn.softplus(-_log_odds(logits, labels))
    return _per_label(losses, logits, labels, class_weights)


def softmax_focal(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    focusing: ArrayLike = 1.0,
    class_weights: _PerClass | None = None,
) -> Array:
    """Focal loss of the softmax, which fades examples that are already right.

    Without class weights, with `g` the focusing parameter,

        loss = (1 - p_y)^g * (-log p_y)

    With class weights `w` the weight enters the modulating factor too, as it does in
    the class-balanced focal loss of the LDAM and ABSGD experiments:

        z = w_y * (-log p_y)        loss = (1 - exp(-z))^g * z

    This is a different function from `w_y * softmax_focal(logits, labels)`, which
    needs no argument here: multiply.

    Args:
      logits: Unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: Integer class of each example in `[0, classes)`, `[...]`.
      focusing: The exponent `g >= 0`; 0 is cross-entropy. The paper calls it gamma,
        a name that ABSGD needs for its moving average.
      class_weights: Weight of each class inside `z`, non-negative, `[classes]`.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: If `logits` are not floating point or `labels` not integers.
      ValueError: If shapes disagree, there are fewer than two classes, `focusing` is
        negative or not finite, or a weight is.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> logits = jnp.array([[0.0, 0.0]])
      >>> focal = losses.softmax_focal(logits, jnp.array([0]), focusing=2.0)
      >>> bool(jnp.allclose(focal, 0.5**2 * jnp.log(2)))
      True

    References:
      Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017
      (arXiv 1708.02002). The weighted form: Cao et al. (arXiv 1906.07413), code.
    """
    logits, labels = _checked(logits, labels)
    g = _scalar("focusing", focusing, "[0, inf)", logits.dtype)
    z = jax.nn.softplus(-_log_odds(logits, labels))
    z = _per_label(z, logits, labels, class_weights)
    # For g < 1 the derivative of u^g is infinite at u = 0, although that of u^g z is
    # not. Both `where` are needed: the inner one keeps 0 * inf out of the gradient.
    vanished = z < jnp.finfo(z.dtype).tiny
    z = jnp.where(vanished, 1.0, z)
    return jnp.where(vanished, 0.0, (-_expm1(-z)) ** g * z)


def ldam(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_counts: _PerClass,
    max_margin: ArrayLike = 0.5,
    scale: ArrayLike = 30.0,
    class_weights: _PerClass | None = None,
) -> Array:
    """Label-distribution-aware margin loss: rare classes must win by more.

        loss = CE( s (f - m_y e_y), y )

    with the margins `m` of `ldam_margins` and `s` the scale. The logits are meant to
    be cosines, `f_k = <w_k / |w_k|, x / |x|>`, the output of a linear layer with unit
    columns on unit features and no bias.

    Args:
      logits: Cosines in [-1, 1], floating point, `[..., classes]`.
      labels: Integer class of each example in `[0, classes)`, `[...]`.
      class_counts: Training examples in each class, at least 1, `[classes]`.
      max_margin: Margin of the rarest class, non-negative, in units of `logits`.
      scale: Factor `s > 0` from cosines to logits.
      class_weights: Weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: If `logits` are not floating point or `labels` not integers.
      ValueError: If shapes disagree, there are fewer than two classes, or a count, a
        weight, `max_margin` or `scale` is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> cosines, labels = jnp.array([[0.2, 0.9, -0.1]]), jnp.array([1])
      >>> loss = losses.ldam(cosines, labels, class_counts=[256, 16, 1])
      >>> shifted = jnp.array([[0.2, 0.9 - 0.25, -0.1]])  # 16^(-1/4) / 1^(-1/4) / 2
      >>> ce = losses.softmax_cross_entropy(30 * shifted, labels)
      >>> bool(jnp.allclose(loss, ce))
      True

    References:
      Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
      Loss", NeurIPS 2019 (arXiv 1906.07413).
    """
    logits, labels = _checked(logits, labels)
    counts = _per_class("class_counts", class_counts, 1, logits.shape[-1])
    max_margin = _scalar("max_margin", max_margin, "[0, inf)")
    s = _scalar("scale", scale, "(0, inf)", logits.dtype)
    margins = _per_example(_margins(counts, max_margin), logits, labels)
    # The margin moves the label's logit alone, hence the log-odds by as much.
    log_odds = _log_odds(s * logits, labels) - s * margins
    losses = jax.nn.softplus(-log_odds)
    return _per_label(losses, logits, labels, class_weights)


def symmetric_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 0.1,
    beta: ArrayLike = 1.0,
    class_weights: _PerClass | None = None,
) -> Array:
    """Cross-entropy plus its reverse, which noisy labels move less.

        loss = alpha * CE + beta * RCE
        CE = -log max(p_y, 1e-7)        RCE = -A (1 - p_y),  A = log 1e-4

    RCE is `-sum_k p_k log q_k` for the one-hot label `q`, with `log 0` replaced by
    `A`. Clipping the probability inside CE at 1e-7, as the authors' code does, bounds
    the loss by `16.12 alpha + 9.21 beta`: a label that the model holds for less likely
    than that pulls no more through CE.

    Args:
      logits: Unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: Integer class of each example in `[0, classes)`, `[...]`.
      alpha: Factor of CE, non-negative. The default is the authors' for CIFAR-10;
        theirs for CIFAR-100 is 6, for MNIST 0.01.
      beta: Factor of RCE, non-negative. The default is the authors' for CIFAR-10 and
        MNIST; theirs for CIFAR-100 is 0.1.
      class_weights: Weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: If `logits` are not floating point or `labels` not integers.
      ValueError: If shapes disagree, there are fewer than two classes, or `alpha`,
        `beta` or a weight is negative or not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> loss = losses.symmetric_cross_entropy(jnp.zeros((1, 2)), jnp.array([0]))
      >>> bool(jnp.allclose(loss, 0.1 * jnp.log(2) + 1.0 * jnp.log(1e4) / 2))
      True

    References:
      Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels",
      ICCV 2019 (arXiv 1908.06112).
    """
    logits, labels = _checked(logits, labels)
    a = _scalar("alpha", alpha, "[0, inf)", logits.dtype)
    b = _scalar("beta", beta, "[0, inf)", logits.dtype)
    ce = jax.nn.softplus(-_log_odds(logits, labels))
    rce = math.log(1e-4) * _expm1(-ce)
    losses = a * jnp.minimum(ce, -math.log(1e-7)) + b * rce
    return _per_label(losses, logits, labels, class_weights)


def generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    q: ArrayLike = 0.7,
    class_weights: _PerClass | None = None,
) -> Array:
    """Generalised cross-entropy, between cross-entropy and mean absolute error.

        L_q = (1 - p_y^q) / q

    The limit `q -> 0` is cross-entropy and `q = 1` is `1 - p_y`, half the absolute
    error. Small `q` costs no precision: it is computed as `-expm1(q log p_y) / q`.

    Args:
      logits: Unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: Integer class of each example in `[0, classes)`, `[...]`.
      q: Exponent in (0, 1].
      class_weights: Weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]` in `[0, 1/q]` (times the weight), float32 (float64 for float64
      logits).

    Raises:
      TypeError: If `logits` are not floating point or `labels` not integers.
      ValueError: If shapes disagree, there are fewer than two classes, or `q` or a
        weight is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> logits, labels = jnp.zeros((1, 4)), jnp.array([3])
      >>> loss = losses.generalized_cross_entropy(logits, labels, q=0.5)
      >>> bool(jnp.allclose(loss, (1 - 0.25**0.5) / 0.5))
      True

    References:
      Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural
      Networks with Noisy Labels", NeurIPS 2018 (arXiv 1805.07836).
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
    """Generalised cross-entropy without the examples whose labels look wrong.

        loss = v L_q(p_y) + (1 - v) L_q(k),        L_q(p) = (1 - p^q) / q

    A pruned example (`v = 0`) has the constant loss `L_q(k)` and no gradient. By
    default `v = 1` where `p_y > k` at the present parameters. The paper's alternating
    minimisation holds `v` fixed between refreshes: keep one flag per training example,
    all ones at first, set it from time to time to `p_y > k` with

        keep = jnp.exp(-losses.softmax_cross_entropy(logits, labels)) > k

    and pass the flags of the batch. Implementations that write the loss as
    `v (L_q(p_y) - L_q(k))` differ by the constant `L_q(k)`, which changes neither the
    gradient nor, once the normaliser has forgotten its start, an attentional weight.

    Args:
      logits: Unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: Integer class of each example in `[0, classes)`, `[...]`.
      q: Exponent in (0, 1].
      k: Probability in [0, 1) at or below which an example is pruned; 0 prunes none.
      keep: The flags `v`, boolean or 0 and 1, `[...]`; `None` is `p_y > k`.
      class_weights: Weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]`, float32 (float64 for float64 logits).

    Raises:
      TypeError: If `logits` are not floating point or `labels` not integers.
      ValueError: If shapes disagree, there are fewer than two classes, or `q`, `k` or
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
      Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural
      Networks with Noisy Labels", NeurIPS 2018 (arXiv 1805.07836).
    """
    logits, labels = _checked(logits, labels)
    q = _scalar("q", q, "(0, 1]", logits.dtype)
    k = _scalar("k", k, "[0, 1)", logits.dtype)
    log_p = -jax.nn.softplus(-_log_odds(logits, labels))
    log_k = jnp.log(jnp.asarray(k, logits.dtype))
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

        loss = CE( f + tau log(n / sum_k n_k), y )

    Trained so, `argmax f` (without the adjustment) aims at the balanced error.

    Args:
      logits: Unnormalised log-probabilities, floating point, `[..., classes]`.
      labels: Integer class of each example in `[0, classes)`, `[...]`.
      class_counts: Training examples in each class, at least 1, `[classes]`.
      tau: Strength of the adjustment, non-negative; 0 is cross-entropy.
      class_weights: Weight of each class, non-negative, `[classes]`; the loss is
        multiplied by that of the label.

    Returns:
      Losses `[...]` in nats, float32 (float64 for float64 logits).

    Raises:
      TypeError: If `logits` are not floating point or `labels` not integers.
      ValueError: If shapes disagree, there are fewer than two classes, or a count, a
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
      Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021
      (arXiv 2007.07314).
    """
    logits, labels = _checked(logits, labels)
    counts = _per_class("class_counts", class_counts, 1, logits.shape[-1])
    tau = _scalar("tau", tau, "[0, inf)", logits.dtype)
    xp = _namespace(counts)
    log_prior = jnp.asarray(xp.log(counts / counts.sum()), logits.dtype)
    adjusted = logits + tau * jnp.broadcast_to(log_prior, logits.shape)
    losses = jax.nn.softplus(-_log_odds(adjusted, labels))
    return _per_label(losses, logits, labels, class_weights)


def class_balanced_weights(class_counts: _PerClass, beta: ArrayLike = 0.9999) -> Array:
    """Class weights inverse to the effective number of examples.

        w_c = C E_c^-1 / sum_k E_k^-1,        E_c = (1 - beta^n_c) / (1 - beta)

    They sum to the number of classes `C`. `beta = 0` gives ones, `beta -> 1` weights
    inverse to the counts. Concrete counts are handled in float64 on the host; the
    difference `1 - beta^n` loses no digits for `beta` close to 1.

    Args:
      class_counts: Training examples in each class, at least 1, `[classes]`.
      beta: Overlap between examples, in [0, 1).

    Returns:
      Weights `[classes]`, float32 (float64 if 64-bit types are enabled), for the
      argument `class_weights` of the losses.

    Raises:
      ValueError: If `class_counts` is not a vector, a count is less than 1, or `beta`
        is out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> weights = losses.class_balanced_weights([900, 90, 10], beta=0.99)
      >>> bool(jnp.allclose(weights, jnp.array([0.228367, 0.383591, 2.388042])))
      True

    References:
      Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019
      (arXiv 1901.05555).
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
    """The margins of `ldam`, largest for the rarest class.

        m_c = max_margin * n_c^(-1/4) / max_k n_k^(-1/4)

    Args:
      class_counts: Training examples in each class, at least 1, `[classes]`.
      max_margin: Margin of the rarest class, non-negative, in units of the logits.

    Returns:
      Margins `[classes]`, float32 (float64 if 64-bit types are enabled).

    Raises:
      ValueError: If `class_counts` is not a vector, a count is less than 1, or
        `max_margin` is negative or not finite.

    Examples:
      >>> import jax.numpy as jnp
      >>> from absgd_jax import losses
      >>> margins = losses.ldam_margins([256, 16, 1])
      >>> bool(jnp.allclose(margins, jnp.array([0.125, 0.25, 0.5])))
      True

    References:
      Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
      Loss", NeurIPS 2019 (arXiv 1906.07413).
    """
    counts = _per_class("class_counts", class_counts, 1)
    max_margin = _scalar("max_margin", max_margin, "[0, inf)")
    return jnp.asarray(_margins(counts, max_margin))


def _log_odds(logits: Array, labels: Array) -> Array:
    """`log(p_y / (1 - p_y))` of each example."""
    # A mask instead of a gather: it also works where the classes are sharded, and it
    # matches no entry, rather than the last one, for a negative label.
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
    label_logit = jnp.sum(logits, axis=-1, keepdims=True, where=own)
    # Subtracting before the exponential sum keeps a large common offset out of it.
    others = jnp.where(own, -jnp.inf, logits - label_logit)
    return -jax.nn.logsumexp(others, axis=-1)


@jax.custom_jvp
def _expm1(x: Array) -> Array:
    """`exp(x) - 1`, whose derivative is `exp(x)` to full precision."""
    return jnp.expm1(x)


# JAX's own rule is `expm1(x) + 1`, which for x below -17 is 0 in float32.
_expm1.defjvps(lambda x_dot, _, x: x_dot * jnp.exp(x))


def _box_cox(log_p: Array, q: ArrayLike) -> Array:
    """`(1 - p^q) / q`."""
    return -_expm1(q * log_p) / q


def _margins(counts: Any, max_margin: Any) -> Any:
    """Margins of LDAM; `max_k n_k^(-1/4)` is that of the smallest count."""
    return max_margin * (counts.min() / counts) ** 0.25


def _per_label(
    losses: Array, logits: Array, labels: Array, class_weights: _PerClass | None
) -> Array:
    """Times the weight of the label's class; NaN for a label out of range."""
    classes = logits.shape[-1]
    if class_weights is not None:
        weights = _per_class("class_weights", class_weights, 0, classes)
        losses = _per_example(weights, logits, labels) * losses
    # `where`, unlike arithmetic with NaN, has a zero gradient on the other side.
    return jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)


def _per_example(values: ArrayLike, logits: Array, labels: Array) -> Array:
    """Look up a value per class for each label."""
    # Out of range any entry does: the loss of such an example becomes NaN.
    return jnp.take(jnp.asarray(values, logits.dtype), labels, mode="clip")


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Logits as float32 or float64 and labels as integers, or an error."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating point; got {_describe(logits)}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            "labels must be integers, the class of each example (for one-hot labels "
            f"their argmax); got {_describe(labels)}"
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
        )
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    # Widened, or 300 classes would wrap around in the dtype of uint8 labels.
    wide = jnp.promote_types(labels.dtype, jnp.int32)
    return logits.astype(dtype), labels.astype(wide)


def _per_class(
    name: str, values: _PerClass, minimum: int, classes: int | None = None
) -> Any:
    """One value per class: float64 NumPy if concrete, else traced; or an error."""
    vector: Any = values
    if not isinstance(vector, Tracer):
        vector = np.asarray(vector, np.float64)
    elif vector.dtype != jnp.float64:
        vector = vector.astype(jnp.float32)
    if vector.ndim != 1 or vector.size == 0 or classes not in (None, vector.size):
        rule = "one value per class" if classes is None else f"shape ({classes},)"
        raise ValueError(f"{name} must have {rule}; got shape {vector.shape}")
    if isinstance(vector, np.ndarray):
        refused = ~(np.isfinite(vector) & (vector >= minimum))
        if refused.any():
            first = int(refused.argmax())
            raise ValueError(
                f"{name} must be finite and at least {minimum}; "
                f"got {vector[first]:g} for class {first}"
            )
    return vector


def _scalar(
    name: str, value: Any, interval: str, dtype: DTypeLike | None = None
) -> Any:
    """A hyperparameter: a Python float within `interval` if concrete, else traced."""
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar; got shape {np.shape(value)}")
    if isinstance(value, Tracer):
        return value if dtype is None else value.astype(dtype)
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise ValueError(f"{name} must lie in {interval}; got {value}")
    return float(value)


def _namespace(*values: Any) -> Any:
    """NumPy, or `jax.numpy` if a value is traced."""
    return jnp if any(isinstance(v, Tracer) for v in values) else np


def _describe(array: Array) -> str:
    """Dtype and shape, as `float32[8,10]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"
