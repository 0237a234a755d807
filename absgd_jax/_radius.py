"""A λ that follows a target: how far the weights may stray from uniform."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

# The default bound on the weights of a radius. What a fixed λ does without.
MAX_WEIGHT = 2.0
# log|λ| moves by this much when the divergence is off by as much as the radius.
_RATE = 0.05
# And by no more than this multiple of it.
_LARGEST_ERROR = 20.0
# λ is small enough when the losses of a batch are spread over this many λ.
_LARGEST_SPREAD = 50.0


class KLRadius(NamedTuple):
    """What `kl_radius` returns, to be given as `lam`."""

    rho: ArrayLike  # ρ, in nats
    sign: int  # of λ
    begin: int = 0  # updates with λ = ±∞ before


def kl_radius(rho: ArrayLike, sign: int = 1) -> KLRadius:
    r"""A λ that keeps the weights at a distance ρ from uniform, by itself.

    λ is a number of nats of loss: the right one depends on the data, and changes as the
    losses fall. The radius does not. Given in place of `lam`, it makes λ follow so that
    over the batches ::

        KL(p ‖ uniform) = E[ p log p ] = ρ

    which for `sign=1` solves `max Σ p_i L_i / n` over all weights with mean one and
    `KL(p ‖ uniform) <= ρ` (for `sign=-1` the minimum): λ is the multiplier of the
    constraint. Together with a bound c on the weights, `p_i = min(c, exp((L_i − ν)/λ))`
    with ν such that the weights average one: c → ∞ is KL-constrained robust training,
    ρ → ∞ the conditional value at risk at level 1/c, ρ → 0 or c → 1 plain SGD.

    After each batch, with m its mean weight and KL its own divergence::

        K          = m (KL + log m) − m + 1         what the batch says of E[ p log p ]
        log|λ|    += 0.05 clip( K/ρ − 1, −1, 20 )

    K is zero for weights of one and needs no large batch: its mean over batches counts
    how the running normaliser tells batches apart. λ starts at ±∞, takes its first size
    from the spread of a batch, and holds where there is nothing to follow: all losses
    equal, no example, a loss that is not finite, or losses spread over 50 λ already.

    Everything is in units of loss, so losses times 1,000 scale λ by 1,000 and leave the
    weights alone; a constant added to all losses changes nothing.

    Args:
      rho: ρ, in nats, positive. A radius of 0.1 to 0.4 is moderate: exp(−ρ) is the
        effective share of the batch, see `effective_fraction`. Weights of at most c
        stray no farther than log c, and batches of n examples no farther than log n.
      sign: 1 attends to large losses (rare classes), -1 to small ones (wrong labels).

    Returns:
      An object that is accepted wherever `lam` is. `max_weight` is then 2 if it is not
      given; inf is no bound.

    Raises:
      ValueError: ρ is not positive and finite, or the sign is not 1 or -1.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp
      >>> radius = absgd_jax.kl_radius(0.2)
      >>> attention = absgd_jax.attention(radius, gamma=0.1, max_weight=5.0)
      >>> state, reached = attention.init(), []
      >>> for step in range(400):
      ...     losses = jax.random.exponential(jax.random.key(step), (64,))
      ...     p, state = attention.weigh(losses, state)
      ...     reached.append(jnp.mean(p * jnp.log(p) - p + 1))
      >>> 0.18 < float(jnp.mean(jnp.array(reached[200:]))) < 0.22
      True

    References:
      Qi et al., `Stochastic Constrained DRO with a Complexity Independent of Sample
      Size <https://arxiv.org/abs/2210.05740>`_: the problem.
    """
    number = _concrete(rho)
    if number is not None and not 0.0 < number < math.inf:
        raise ValueError(f"rho must be positive and finite, got {number}.")
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign}.")
    return KLRadius(rho, sign)


def effective_fraction(fraction: ArrayLike, sign: int = 1) -> KLRadius:
    r"""`kl_radius` by the share of a batch that still counts.

    Weights with `KL(p ‖ uniform) = ρ` count as if exp(−ρ) of the examples had all of
    the weight: the perplexity of p over the number of examples.

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
    number = _concrete(fraction)
    if number is None:
        return kl_radius(-jnp.log(fraction), sign)
    if not 0.0 < number < 1.0:
        raise ValueError(f"fraction must lie in (0, 1), got {number}.")
    return kl_radius(-math.log(number), sign)


def _concrete(value: Any) -> float | None:
    return None if isinstance(value, Tracer) else float(value)


def divergence(mean_weight: jax.Array, kl: jax.Array) -> jax.Array:
    """`mean( p log p − p + 1 )` of a batch, from its mean weight and its own KL.

    Args:
      mean_weight: m, shape `[]`, not negative.
      kl: KL divergence of p/m from uniform over the batch, shape `[]`.
    """
    log_mean = jnp.log(jnp.where(mean_weight > 0, mean_weight, 1.0))
    return mean_weight * (kl + log_mean) - mean_weight + 1.0


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
    # Losses that differ by rounding alone are equal.
    rounding = 8.0 * limits.eps * jnp.maximum(jnp.abs(high), jnp.abs(low))
    spread_out = (spread > rounding) & jnp.isfinite(spread)

    # A bounded variable's standard deviation is at most half its spread, and a Gaussian
    # one has KL = σ² / 2λ²: a first λ that is too large rather than too small.
    first = jnp.clip(spread / jnp.sqrt(8.0 * rho), limits.tiny, limits.max)
    error = jnp.clip(batch_divergence / rho - 1.0, -1.0, _LARGEST_ERROR)
    small_enough = spread > _LARGEST_SPREAD * jnp.abs(lam)
    error = jnp.where(small_enough, jnp.maximum(error, 0.0), error)
    started = jnp.isfinite(lam)
    size = jnp.where(started, jnp.abs(lam), 1.0) * jnp.exp(_RATE * error)
    size = jnp.clip(jnp.where(started, size, first), limits.tiny, limits.max)
    return jnp.where(spread_out, radius.sign * size, lam)
