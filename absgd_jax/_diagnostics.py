"""Statistics of the weights of a batch, and a λ for each effective fraction."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from absgd_jax import _attention, _check, _devices

# `suggest_lam` warns where the network gives at least this share of the labels less
# than one half: docs/after_first_stage.md has the results of fixed λ there.
WRONG_SHARE = 0.001
# `suggest_lam` bisects log |λ|, so often, this far around that of the losses' range.
_BISECTIONS = 60
_LARGEST_LOG_RATIO = 20.0
# A fraction within this relative error is that of the smallest |λ|, and unreachable.
_RELATIVE_ERROR = 1e-9


class WeightStatistics(NamedTuple):
    """How the weights of a batch are spread; see `weight_statistics`.

    Examples:
      >>> import absgd_jax, jax.numpy as jnp
      >>> stats = absgd_jax.weight_statistics(jnp.array([2.0, 2.0, 0.0, 0.0]))
      >>> float(stats.mean), float(stats.largest)
      (1.0, 2.0)
      >>> round(float(stats.effective_fraction), 3)
      0.5
    """

    mean: jax.Array  #: []: mean weight; far from one it acts as a learning rate
    largest: jax.Array  #: []: the largest weight
    kl: jax.Array  #: []: divergence of the normalised weights from uniform, in nats
    #: []: exp(−KL), the share of examples that counts; 0 if all weights are
    effective_fraction: jax.Array
    group_shares: jax.Array | None = None  #: [groups]: share of the total weight


def weight_statistics(
    weights: ArrayLike,
    *,
    where: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    num_groups: int | None = None,
) -> WeightStatistics:
    r"""Statistics of a batch's weights, for the log.

    Args:
      weights: as `attention` returns them, `[*batch]`: averaging about one over all
        entries, 0 for padding. Inside `jax.pmap` or `jax.shard_map` those of all
        devices, `jax.lax.all_gather(weights, axis_name)`: no mean of the devices'
        statistics is that of the batch.
      where: bool `[*batch]`, False for padding; default none is.
      groups: int `[*batch]` in [0, num_groups): label, group, or whether a label is
        known to be right.
      num_groups: number of groups, needed with `groups`.

    Returns:
      Mean and largest weight, KL divergence from uniform, effective fraction; and with
      `groups` the share of the total weight that each group has.

    Raises:
      ValueError: shapes differ, or `groups` without `num_groups`.

    Examples:
      >>> import absgd_jax, jax.numpy as jnp
      >>> attention = absgd_jax.attention(lam=1.0)
      >>> losses, labels = jnp.array([0.1, 0.2, 0.1, 2.0]), jnp.array([0, 0, 0, 1])
      >>> weights, _ = attention.weigh(losses, attention.init())
      >>> stats = absgd_jax.weight_statistics(weights, groups=labels, num_groups=2)
      >>> round(float(stats.mean), 3), round(float(stats.effective_fraction), 2)
      (1.0, 0.66)

      One quarter of the examples has two thirds of the weight:

      >>> [round(float(share), 2) for share in stats.group_shares]
      [0.32, 0.68]
    """
    weights = jnp.asarray(weights)
    weights = weights.astype(_attention.wider_dtype(weights.dtype, jnp.float32))
    present = jnp.ones(weights.shape, bool) if where is None else jnp.asarray(where)
    _check.same_shape("where", present, "weights", weights)
    total = jnp.sum(weights, where=present)
    count = jnp.sum(present).astype(total.dtype)
    share = jnp.where(present, weights, 0.0) / jnp.where(total == 0, 1.0, total)
    ratio = jnp.where(share > 0, share * count, 1.0)
    kl = jnp.sum(share * jnp.log(ratio))
    of_groups = None
    if groups is not None:
        _check.same_shape("groups", jnp.asarray(groups), "weights", weights)
        if num_groups is None:
            raise ValueError("groups needs num_groups, how many there are; got None.")
        index = jnp.asarray(groups).astype(jnp.int32)  # of a bool, too
        if _devices.is_spread_explicitly(share):  # a scatter has no sharding of its own
            of_group = lambda group: jnp.sum(share, where=index == group)
            of_groups = jax.vmap(of_group)(jnp.arange(num_groups))
        else:
            of_groups = jax.ops.segment_sum(share.ravel(), index.ravel(), num_groups)
    return WeightStatistics(
        mean=total / weights.size,
        largest=jnp.max(weights, where=present, initial=0.0) * count / weights.size,
        kl=kl,
        effective_fraction=jnp.where(total == 0, 0.0, jnp.exp(-kl)),
        group_shares=of_groups,
    )


def suggest_lam(
    losses: Any, *, sign: int = 1, fractions: tuple[float, ...] = (0.9, 0.75, 0.5, 0.25)
) -> dict[float, float]:
    r"""The λ at which given shares of the examples would still count.

    From the losses of one pass over the training examples with a network after its
    plain first stage. Each λ is the one at which the weights `exp(L/λ)` over these
    losses have the effective fraction exp(−KL): an initial value, in the units of these
    losses. 0.9 is cautious; at 0.25 a quarter of the examples has nearly all of
    the weight.

    With `sign=1` it warns if 0.1% of the losses or more are above log 2, which for
    cross-entropy means that the network is still wrong there. The largest losses are
    then those of overlapping classes or of wrong labels, not of a rare class that is
    learned late, and in our runs a fixed λ > 0 harmed: take `kl_radius`, whose weights
    are bounded, or `sign=-1`.

    Args:
      losses: finite cross-entropies of training examples, in nats, at least two that
        differ; on the host. Of another loss the warning means nothing.
      sign: 1 attends to large losses, -1 to small ones.
      fractions: effective fractions in (0, 1).

    Returns:
      Fraction to λ. A fraction that weights of these losses cannot have, below the
      share of examples that tie for the largest (smallest) loss, is left out.

    Raises:
      ValueError: losses are equal or not finite, or a fraction is not in (0, 1).
      TypeError: `fractions` is a number.

    Warns:
      UserWarning: the network is wrong on many of the examples, and the sign is 1.

    Examples:
      >>> import absgd_jax, numpy as np
      >>> losses = np.random.default_rng(0).exponential(0.05, size=1000)
      >>> lams = absgd_jax.suggest_lam(losses)
      >>> [round(lam, 2) for lam in lams.values()]
      [0.15, 0.11, 0.08, 0.07]
    """
    values = np.asarray(losses, np.float64).ravel()
    if values.size == 0 or not np.isfinite(values).all() or np.ptp(values) == 0:
        raise ValueError(
            "losses must be finite and not all equal, got "
            f"{values.size} between {values.min(initial=np.inf)} and "
            f"{values.max(initial=-np.inf)}."
        )
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign}.")
    if isinstance(fractions, float | int):
        raise TypeError(f"fractions must be several, as ({fractions},), got a number.")
    for fraction in fractions:
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"fractions must lie in (0, 1), got {fraction}.")
    wrong = float(np.mean(values > np.log(2.0)))
    if sign == 1 and wrong >= WRONG_SHARE:
        warnings.warn(
            f"{100 * wrong:.2g}% of the losses are above log 2: the largest ones look "
            "like overlapping classes or wrong labels, where a fixed λ > 0 harms. "
            "Prefer lam=kl_radius(), or sign=-1 for wrong labels.",
            stacklevel=2,
        )

    below = np.sort(sign * values) - (sign * values).max()  # at most 0

    def effective(size: float) -> float:
        """exp(−KL) at |λ| = size; it grows with size."""
        p = np.exp(below / size)
        share = p / p.sum()
        kept = share > 0
        kl = np.sum(share[kept] * np.log(share[kept] * values.size))
        return float(np.exp(-kl))

    found: dict[float, float] = {}
    for fraction in fractions:
        middle = np.log(np.ptp(values))
        low, high = middle - _LARGEST_LOG_RATIO, middle + _LARGEST_LOG_RATIO
        if effective(np.exp(low)) >= fraction * (1 - _RELATIVE_ERROR):
            continue
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below_target = effective(np.exp(middle)) < fraction
            low, high = (middle, high) if below_target else (low, middle)
        found[fraction] = sign * float(np.exp(high))
    return found
