"""A λ that follows a target: how far the weights may stray from uniform."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from absgd_jax import _check
from absgd_jax._attention import Normalizer

# The defaults of a radius for `gamma` and `max_weight`.
GAMMA = 0.1
MAX_WEIGHT = 2.0
# log|λ| moves by this much when the divergence is off by as much as the radius.
_RATE = 0.05
# And by no more than this multiple of it.
_LARGEST_ERROR = 20.0
# A batch counts for this many average ones at most in the normaliser that λ follows.
_LARGEST_BATCH = 20.0
# λ is small enough when the losses of a batch are spread over this many λ.
_LARGEST_SPREAD = 50.0
# Losses that differ by at most this many times the rounding error of one are equal.
_ROUNDING_ERRORS = 8.0


class KLRadius(NamedTuple):
    """What `kl_radius` returns, and `two_stage` of it; transforms take it as `lam`.

    Examples:
      >>> import absgd_jax
      >>> absgd_jax.two_stage(absgd_jax.kl_radius(sign=-1), 500)
      KLRadius(rho=0.4, sign=-1, begin=500)
    """

    rho: ArrayLike  #: ρ, in nats
    sign: int  #: of λ, 1 or −1
    begin: int = 0  #: updates with λ = ±∞ before


# The default of `lam`.
DEFAULT = KLRadius(rho=0.4, sign=1)


def kl_radius(rho: ArrayLike = DEFAULT.rho, sign: int = 1) -> KLRadius:
    r"""A λ that follows by itself, from how far the weights may stray from uniform.

    λ is a number of nats of loss: the right one depends on the data, and changes as the
    losses fall. The radius does not. Given as `lam`, it makes λ the multiplier of the
    constrained problem ::

        max Σ p_i L_i / n   over   Σ p_i / n = 1,   KL(p ‖ uniform) <= ρ

    (for `sign=-1` the minimum), whose solution is `p_i = exp((L_i − ν)/λ)`: λ follows
    so that `KL(p ‖ uniform) = E[ p log p ] = ρ` over the batches. The weights that are
    used solve the penalised problem at this λ, with no weight above c, `max_weight`::

        max Σ p_i L_i / n − λ KL(p ‖ uniform)   over   Σ p_i / n = 1,   p_i <= c

        p_i = min( c, exp((L_i − ν)/λ) )

    with ν = λ log s, where s is the running normaliser of `attention`, so that the
    weights average one over the batches. λ does not depend on c. c → ∞ is
    KL-constrained robust training, ρ → ∞ the conditional value at risk at level 1/c,
    ρ → 0 or c → 1 plain SGD.

    After each batch, with m the mean and KL the divergence of the weights without
    bound, which have a running normaliser of their own, with the same γ::

        K          = m (KL + log m) − m + 1           estimates E[ p log p ]
        log|λ|    += 0.05 clip( K/ρ − 1, −1, 20 )

    K is zero for weights of one and needs no large batch, only two losses that differ:
    its mean over batches includes how the weights differ between batches. λ starts at
    ±∞, so that the first update is plain SGD's, is then (max L − min L) / √(8ρ) of that
    batch, larger rather than too small, and holds where there is nothing to follow: all
    losses equal, no example, a loss that is not finite, or losses spread over 50 λ
    already. A batch counts for 20 average ones at most in the normaliser without bound,
    so that one outlier does not move λ far; in the first batch it makes λ larger, so
    that training is plain SGD's for 20 updates for each factor of e.

    Everything is in units of loss, so losses times 1,000 scale λ by 1,000 and leave the
    weights as they are; a constant added to all losses changes nothing. To a derivative
    through updates, as in meta-learning, the λ that follows is a constant.

    Args:
      rho: ρ, in nats, positive. exp(−ρ) is the effective share of the batch before the
        bound, see `effective_fraction`. Batches of n examples hardly stray farther than
        log n; with one example a batch λ stays at ±∞, which is plain SGD.
      sign: 1 attends to large losses (rare classes), -1 to small ones (wrong labels).
        With -1 it distrusts 1 − exp(−ρ) of the examples, whether so many are wrong or
        not, and from the first step perhaps a class that is not learned yet: begin
        with `two_stage` after a tenth of the updates, or give
        `effective_fraction(share of right labels, sign=-1)` if you know that fewer than
        a third are wrong.

    Returns:
      The `lam` of a transform, of `attention` and of `two_stage`. If they are not
      given, `max_weight` is then 2 (inf is no bound) and `gamma` is 0.1.

    Raises:
      ValueError: ρ is not positive and finite, or the sign is not 1 or -1.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp
      >>> radius = absgd_jax.kl_radius(0.2)
      >>> attention = absgd_jax.attention(radius, max_weight=jnp.inf)
      >>> weigh = jax.jit(attention.weigh)
      >>> state, reached = attention.init(), []
      >>> for step in range(400):
      ...     losses = jax.random.exponential(jax.random.key(step), (64,))
      ...     p, state = weigh(losses, state)
      ...     reached.append(jnp.mean(p * jnp.log(p) - p + 1))
      >>> 0.18 < float(jnp.mean(jnp.array(reached[200:]))) < 0.22
      True

    References:
      Qi et al., `Stochastic Constrained DRO with a Complexity Independent of Sample
      Size <https://arxiv.org/abs/2210.05740>`_: the problem.
    """
    _check.rho(rho)
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign}.")
    return KLRadius(rho, sign)


def effective_fraction(fraction: ArrayLike, sign: int = 1) -> KLRadius:
    r"""`kl_radius` by the share of a batch that still counts.

    Weights with `KL(p ‖ uniform) = ρ` count as if exp(−ρ) of the examples had all of
    the weight: the perplexity of p over the number of examples. With a bound on single
    weights a larger share counts.

    Args:
      fraction: f = exp(−ρ), in (0, 1).
      sign: 1 attends to large losses, -1 to small ones.

    Returns:
      `kl_radius(-log(fraction), sign)`.

    Raises:
      ValueError: the fraction is not in (0, 1), or the sign is not 1 or -1.

    Examples:
      >>> import absgd_jax
      >>> round(absgd_jax.effective_fraction(0.8).rho, 3)
      0.223
    """
    number = _check.fraction(fraction)
    log = jnp.log(fraction) if number is None else math.log(number)
    return kl_radius(-log, sign)


def divergence(mean_weight: jax.Array, kl: jax.Array) -> jax.Array:
    """`mean( p log p − p + 1 )` of a batch, from its mean weight and its own KL.

    Args:
      mean_weight: m, shape `[]`, not negative.
      kl: KL divergence of p/m from uniform over the batch, shape `[]`.
    """
    log_mean = jnp.log(jnp.where(mean_weight > 0, mean_weight, 1.0))
    return mean_weight * (kl + log_mean) - (mean_weight - 1.0)


def counted(tilted_loss: jax.Array, before: Normalizer, lam: jax.Array) -> jax.Array:
    """T of a batch, as far as it counts in the normaliser of weights without bound.

    One outlier would set that normaliser so high that these weights are near zero
    for hundreds of steps, and λ would grow a thousandfold to bring them back.

    Args:
      tilted_loss: T, shape `[]`.
      before: F_t and log d_t of the weights without bound.
      lam: λ, shape `[]`; at ±inf every batch counts as it is.
    """
    limited = (before.log_discount < 0.0) & jnp.isfinite(lam)
    reach = jnp.where(limited, lam, 0.0) * math.log(_LARGEST_BATCH)
    limit = before.tilted_loss + reach
    nearest = jnp.where(
        lam > 0, jnp.minimum(tilted_loss, limit), jnp.maximum(tilted_loss, limit)
    )
    return jnp.where(limited, nearest, tilted_loss)


def follow(
    radius: KLRadius,
    lam: jax.Array,
    batch_divergence: jax.Array,
    high: jax.Array,
    low: jax.Array,
) -> jax.Array:
    """λ of the next update.

    Args:
      radius: ρ and the sign of λ.
      lam: λ of this update, shape `[]`; ±inf before the first.
      batch_divergence: K, shape `[]`.
      high: largest loss of the batch, shape `[]`.
      low: smallest loss of the batch, shape `[]`.
    """
    rho = jnp.asarray(radius.rho).astype(lam.dtype)
    limits = jnp.finfo(lam.dtype)
    spread = high - low
    rounding = limits.eps * jnp.maximum(jnp.abs(high), jnp.abs(low))
    spread_out = (spread > _ROUNDING_ERRORS * rounding) & jnp.isfinite(spread)

    # A bounded variable's standard deviation is at most half its spread, and a Gaussian
    # one has KL = σ² / 2λ²: a first λ that is too large rather than too small.
    largest_deviation = 0.5 * spread
    first = jnp.clip(largest_deviation / jnp.sqrt(2 * rho), limits.tiny, limits.max)
    error = jnp.clip(batch_divergence / rho - 1.0, -1.0, _LARGEST_ERROR)
    small_enough = spread > _LARGEST_SPREAD * jnp.abs(lam)
    error = jnp.where(small_enough, jnp.maximum(error, 0.0), error)
    started = jnp.isfinite(lam)
    size = jnp.where(started, jnp.abs(lam), 1.0) * jnp.exp(_RATE * error)
    size = jnp.clip(jnp.where(started, size, first), limits.tiny, limits.max)
    return jnp.where(spread_out, radius.sign * size, lam)
