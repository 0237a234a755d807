"""The mathematics of ABSGD: the tilted mean, the running normaliser, the weights.

Pure functions of arrays, one line an equation. Symbols are the paper's (`Qi et al.,
2012.06951 <https://arxiv.org/abs/2012.06951>`_), with two changes of notation:

* `Σ` runs over the examples of a batch, each counted `v_i` times (1 unless the user
  gives sample weights, 0 for padding), and `V = Σ v_i` stands for the batch size.
* The normaliser `s_t` is kept as `F_t = λ log s_t`, in units of loss. `s_t` itself
  overflows float32 as soon as a loss is 88 times λ; `F_t` lies between the losses
  that it has seen, estimates the robust objective, and keeps its meaning when λ moves.

No function branches in Python on λ, γ or a loss: all of them may be traced.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from absgd_jax._devices import AxisName

# `tilt` counts from the smallest loss up to this exponent, and from the largest beyond:
# e^8 is far from overflow, and 1e-6 of relative accuracy is kept on either side.
_LARGEST_EXPONENT = 8.0
# log d once nothing of s_0 is left. Finite, and its exponential is 0 in every float.
_LOG_OF_NOTHING = -1e9


def wider_dtype(a: DTypeLike, b: DTypeLike) -> DTypeLike:
    """The dtype of both, also where `jax_numpy_dtype_promotion` is strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


class Tilt(NamedTuple):
    """The tilted mean of a batch, its gradient, and the sums that come with it."""

    T: jax.Array  # []: T_λ(L; v), in [min L, max L]
    r: jax.Array  # [*batch]: exp((L_i − T)/λ) / V, so that v_i r_i = ∂T/∂L_i
    V: jax.Array  # []: Σ v_i
    mean: jax.Array  # []: Σ v_i L_i / V
    kl: jax.Array  # []: Σ v_i r_i log(r_i V), KL divergence of v r from v / V, in nats
    high: jax.Array  # []: the largest loss with v_i > 0
    low: jax.Array  # []: the smallest
    # []: T of the losses before they were limited, of which mean, kl, high and low are
    # too; None where none is limited.
    unbounded: jax.Array | None = None


class Normalizer(NamedTuple):
    """The running normaliser s_t, as it is kept."""

    tilted_loss: jax.Array  # []: F_t, in units of loss; not read at the first step
    log_discount: jax.Array  # []: log d_t; 0 at the first step


def _at_temperature(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, lam: jax.Array
) -> jax.Array:
    """`λ f(x/λ)` for an f with f(0) = 0, f'(0) = 1; it tends to x as |λ| → ∞."""
    ratio = x / lam
    vanishes = jnp.abs(ratio) <= jnp.finfo(ratio.dtype).eps ** 2
    # Not even in the branch that is not taken is ∞ multiplied by 0: `jax.debug_nans`.
    return jnp.where(vanishes, x, jnp.where(vanishes, 1.0, lam) * function(ratio))


def _reduce(
    reduction: Callable[..., jax.Array],
    collective: Callable[..., jax.Array],
    values: Sequence[jax.Array],
    axis_name: AxisName,
) -> jax.Array:
    """Reduces n arrays [*batch] to [n], across devices in one collective."""
    stacked = jnp.stack(values)
    reduced = reduction(stacked, axis=tuple(range(1, stacked.ndim)))
    return reduced if axis_name is None else collective(reduced, axis_name)


_sums = functools.partial(_reduce, jnp.sum, lax.psum)
_maxima = functools.partial(_reduce, jnp.max, lax.pmax)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def tilt(
    losses: jax.Array, lam: jax.Array, weights: jax.Array, axis_name: AxisName = None
) -> Tilt:
    """The tilted mean, its gradient, and the weight of the examples in it.

    `T_λ(L; v) = λ log( Σ v_i exp(L_i/λ) / V )`, computed as
    `c + λ log1p( Σ v_i expm1((L_i − c)/λ) / V )` with c the smallest loss, so that all
    terms have one sign and none cancels another; or, where λ > 0 is small enough for
    large exponents, the largest. No exponent exceeds 8, so nothing overflows; `expm1`
    and `log1p` keep the digits that `log` and `exp` lose for large λ. Where more than
    half of V is lost to the exponential, the plain logarithm is the accurate one.

    Args:
      losses: L, shape `[*batch]`, float32 or float64.
      lam: λ, shape `[]`, not zero; ±inf is the weighted mean.
      weights: v, shape `[*batch]`, not negative.
      axis_name: mapped axes that the batch is spread over.

    Returns:
      T, r, V, mean, KL divergence and the extremes. `v_i r_i` is `p*_i` of Eq. (5). T
      and r are NaN if a loss is not finite or a weight NaN, any numbers if V is 0.
      Derivatives of every order flow through T, r and V, but for that in a weight of
      exactly 0, which is taken as 0; the others are treated as constants.
    """
    present = weights > 0
    # A difference may exceed the largest float although both losses are finite.
    biggest = jnp.finfo(losses.dtype).max
    high, minus_low = _maxima(
        [jnp.where(present, losses, -biggest), jnp.where(present, -losses, -biggest)],
        axis_name,
    )
    low = -minus_low
    # Halved, for high − low may exceed the largest float too.
    far_apart = 0.5 * high - 0.5 * low > 0.5 * _LARGEST_EXPONENT * lam
    c = jnp.where((lam > 0) & far_apart, high, low)
    from_c = jnp.clip(losses - c, -biggest, biggest)
    # NaN travels through a sum on every backend, but not through a maximum.
    from_c = jnp.where(jnp.isfinite(losses), from_c, jnp.nan)
    from_c = jnp.where(present, from_c, 0.0)

    exponents = from_c / lam
    exponentials = jnp.exp(exponents)
    lost = _at_temperature(jnp.expm1, from_c, lam)
    # Divided before they are added up: their sum may exceed the largest float.
    V, exp_sum, lost_sum, loss_sum, log_sum = _sums(
        [
            weights,
            weights * exponentials,
            weights * (lost / losses.size),
            weights * (from_c / losses.size),
            weights * exponentials * jnp.maximum(exponents, -biggest),
        ],
        axis_name,
    )
    # Without examples nothing is divided by 0, and callers ask V.
    some = jnp.where(V == 0, 1.0, V)
    exp_sum = jnp.where(V == 0, 1.0, exp_sum)
    mean = lost_sum / (some / losses.size)
    plain = mean / lam <= -0.5
    log_mean = jnp.log(exp_sum / some)
    T = c + jnp.where(
        plain,
        jnp.where(jnp.isinf(lam), 1.0, lam) * log_mean,
        _at_temperature(jnp.log1p, jnp.where(plain, 0.0, mean), lam),
    )
    precise_log = jnp.where(
        plain, log_mean, jnp.log1p(jnp.where(plain, 0.0, mean / lam))
    )
    return Tilt(
        T=jnp.clip(T, low, high),
        r=exponentials / exp_sum,
        V=V,
        mean=jnp.clip(c + loss_sum / (some / losses.size), low, high),
        kl=jnp.maximum(log_sum / exp_sum - precise_log, 0.0),
        high=high,
        low=low,
    )


@tilt.defjvp
def _tilt_jvp(  # pyright: ignore[reportUnusedFunction]
    axis_name: AxisName, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[Tilt, Tilt]:
    """Exact derivatives of all orders in L, λ and v, also at λ = ±∞."""
    losses, lam, weights = primals
    losses_dot, lam_dot, weights_dot = tangents
    result = tilt(losses, lam, weights, axis_name)
    T, r, V = result.T, result.r, result.V
    present = weights > 0
    from_T = jnp.where(present, losses - T, 0.0)
    r_present = jnp.where(present, r, 0.0)
    q = weights * r_present  # ∂T/∂L
    exponent_dot = (losses_dot - from_T * lam_dot / lam) / lam

    T_dot, log_sum_dot, V_dot = _sums(
        [
            q * (losses_dot - from_T * lam_dot / lam)
            + weights_dot
            * _at_temperature(jnp.expm1, from_T, lam)
            / jnp.where(V > 0, V, 1.0),
            q * exponent_dot + r_present * weights_dot,
            weights_dot,
        ],
        axis_name,
    )
    constant = jnp.zeros_like(T)
    r_dot = r * (exponent_dot - log_sum_dot)
    return result, Tilt(T_dot, r_dot, V_dot, constant, constant, constant, constant)


class Combined(NamedTuple):
    """Two parts of a batch as one."""

    tilt: Tilt  # its r is that of the two parts
    shares: jax.Array  # [2]: `∇T = Σ shares_d ∇T_d`


def combine(a: Tilt, b: Tilt, lam: jax.Array) -> Combined:
    """`T = T_λ([T_d]; [V_d])`, `∇T = Σ_d V_d exp((T_d − T)/λ) ∇T_d / Σ_d V_d`.

    Args:
      a: tilt of one part; without examples only its V is read.
      b: tilt of the other.
      lam: λ, shape `[]`.
    """
    T, V, mean, kl, high, low = (
        jnp.stack([getattr(a, name), getattr(b, name)])
        for name in ("T", "V", "mean", "kl", "high", "low")
    )
    present = V > 0
    whole = tilt(T, lam, V)
    shares = jnp.where(present, V * whole.r, 0.0)
    biggest = jnp.finfo(T.dtype).max
    kl = jnp.where(present, shares * (kl + (T - whole.T) / lam), 0.0)
    whole = whole._replace(
        mean=jnp.sum(
            jnp.where(present, V / jnp.where(present.any(), whole.V, 1.0) * mean, 0.0)
        ),
        kl=jnp.maximum(jnp.sum(kl), 0.0),
        high=jnp.max(jnp.where(present, high, -biggest)),
        low=jnp.min(jnp.where(present, low, biggest)),
    )
    return Combined(whole, shares)


class NormalizerUpdate(NamedTuple):
    """The running normaliser after one more batch."""

    normalizer: Normalizer
    scale: jax.Array  # []: exp(T/λ) / s_{t+1}, at most 1/γ


def update_normalizer(
    normalizer: Normalizer,
    batch_tilt: jax.Array,
    lam: jax.Array,
    *,
    gamma: jax.Array,
    init_s: jax.Array | None,
) -> NormalizerUpdate:
    """One step of Algorithm 1's normaliser.

    With `d_t = Π (1 − γ_i)` the share that s_0 still has in s_t, and T the batch's
    tilted mean::

        s_{t+1} = (1 − γ_t) s_t + γ_t exp(T/λ)                        Algorithm 1
        d_{t+1} = (1 − γ_t) d_t
        F_{t+1} = T_λ( [F_t, T] ; [1 − γ', γ'] ),     γ' = γ_t / (1 − d_{t+1})
        s_t     = d_t s_0 + (1 − d_t) exp(F_t/λ)

    Logarithms of d keep both ends exact: 1 − d after few steps and d after many.

    Args:
      normalizer: F_t and log d_t.
      batch_tilt: T, shape `[]`, in units of loss.
      lam: λ, shape `[]`.
      gamma: γ_t, shape `[]`, in (0, 1].
      init_s: s_0, shape `[]`, not negative; None leaves it out of s altogether.

    Returns:
      `F_{t+1}` and `log d_{t+1}`; and the scale `exp(T/λ) / s_{t+1}`, by which the
      gradient of T becomes the direction of Eq. (2):
      `r_i V exp(T/λ) / s_{t+1} = exp(L_i/λ) / s_{t+1} = p_i`.
    """
    F, log_d = normalizer
    next_log_d = _next_log_discount(log_d, gamma)
    corrected = bias_corrected(log_d, gamma)
    both = jnp.stack([F, batch_tilt])
    next_F = tilt(both, lam, jnp.stack([1.0 - corrected, corrected])).T

    # s_{t+1} over exp(T/λ): each term of Algorithm 1's first line, divided.
    new, old = jnp.zeros_like(F), (F - batch_tilt) / lam
    if init_s is None:
        terms = [(corrected, new), (1.0 - corrected, old)]
    else:
        terms = [
            (gamma, new),
            ((1.0 - gamma) * -jnp.expm1(log_d), old),
            ((1.0 - gamma) * jnp.exp(log_d) * init_s, -batch_tilt / lam),
        ]
    return NormalizerUpdate(Normalizer(next_F, next_log_d), _inverse_sum(terms))


def _next_log_discount(log_discount: jax.Array, gamma: jax.Array) -> jax.Array:
    """`log d_{t+1} = log d_t + log(1 − γ_t)`."""
    some_left = gamma < 1.0
    log_share = jnp.log1p(-jnp.where(some_left, gamma, 0.0))
    return jnp.where(some_left, log_discount + log_share, _LOG_OF_NOTHING)


def bias_corrected(log_discount: jax.Array, gamma: jax.Array) -> jax.Array:
    """`γ' = γ_t / (1 − d_{t+1})`, in (0, 1]: exactly 1 at the first step."""
    first = log_discount == 0.0
    discount = -jnp.expm1(_next_log_discount(log_discount, gamma))
    corrected = jnp.minimum(gamma / jnp.where(first, 1.0, discount), 1.0)
    return jnp.where(first, 1.0, corrected)


def _inverse_sum(terms: Sequence[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """`1 / Σ weight exp(exponent)`, without overflow; 0 weighs out any exponent."""
    weights, exponents = map(jnp.stack, zip(*terms, strict=True))
    biggest = jnp.finfo(exponents.dtype).max / 4
    exponents = jnp.clip(exponents, -biggest, biggest)
    exponents = jnp.where(weights > 0.0, exponents, -biggest)
    largest = jnp.max(exponents)
    return jnp.exp(-largest) / jnp.sum(weights * jnp.exp(exponents - largest))


def bound_losses(
    losses: jax.Array,
    lam: jax.Array,
    weights: jax.Array,
    *,
    tilted_loss: jax.Array,
    gamma: jax.Array,
    max_weight: jax.Array,
) -> jax.Array:
    """Limits the losses so that no example weighs more than `max_weight`.

    Clipping p_i would bound the step but still let one outlier set s so high that
    every later weight is near zero. So the bound acts inside the normaliser: s is the
    solution of ::

        s_{t+1} = (1 − γ') s_t + γ' Σ v_i min( exp(L_i/λ), c s_{t+1} ) / V .

    The right side is piecewise linear in s, with a break at each loss. If the k largest
    exponentials are the limited ones, holding V_k of V, then ::

        s = [ (1 − γ') s_t + γ' Σ_{i>k} v_i exp(L_i/λ) / V ] / (1 − γ' c V_k / V) ,

    and the smallest k whose next exponential is within c s is the answer. One sort.

    Args:
      losses: L, shape `[*batch]`: the whole batch, gathered from all devices.
      lam: λ, shape `[]`.
      weights: v, shape `[*batch]`.
      tilted_loss: F_t, shape `[]`; not read if γ' is 1.
      gamma: γ', the bias-corrected γ_t, shape `[]`.
      max_weight: c, shape `[]`, at least 1: weights cannot all be smaller than their
        average.

    Returns:
      The losses with the k largest exponentials limited to c s, shape `[*batch]`.
    """
    # Finite stand-ins for ±∞, far enough from overflow to be added to.
    limits = jnp.finfo(losses.dtype)
    biggest = limits.max / 8
    nothing = jnp.full([1], -2.0 * biggest, losses.dtype)

    flat, v = losses.ravel(), weights.ravel()
    signed = jnp.where(lam > 0, flat, -flat)
    order = jnp.argsort(jnp.where(v > 0, signed, limits.min), descending=True)
    flat, v = flat[order], v[order]
    present, V = v > 0, jnp.sum(v)
    some = jnp.where(V > 0, V, 1.0)
    top = flat[0]
    # In parts, for a difference of losses may exceed the largest float.
    above_top = lambda x: jnp.clip(
        2.0 * ((0.5 * x - 0.5 * top) / lam), -biggest, biggest
    )
    exponents = jnp.where(present, above_top(flat), nothing)  # at most 0
    log_v = jnp.log(jnp.where(present, v, 1.0))

    # Numerator (its logarithm) and denominator for k = 0, 1, ... all limited examples.
    log_terms = jnp.where(present, exponents + log_v, nothing)
    rest = jnp.append(lax.cumlogsumexp(log_terms, reverse=True), nothing)
    exponents = jnp.append(exponents, nothing)
    V_k = jnp.append(jnp.cumsum(v) - v, V)
    log_kept = jnp.log1p(-jnp.where(gamma < 1.0, gamma, 0.0))
    old = jnp.where(gamma < 1.0, log_kept + above_top(tilted_loss), nothing)
    numerator = jnp.logaddexp(old, jnp.log(gamma) + rest - jnp.log(some))
    denominator = 1.0 - gamma * max_weight * V_k / some
    # Where all are limited and no s_t is left the numerator is `nothing`: no solution.
    solvable = (denominator > 0.0) & (numerator > 0.75 * nothing)
    log_denominator = jnp.log(jnp.where(solvable, denominator, 1.0))
    limit = jnp.log(max_weight) + numerator - log_denominator  # log(c s), above `top`
    # Exactly, the last solvable k always qualifies; rounding may not see it (c = 1).
    last = solvable & ~jnp.append(solvable[1:], False)
    k = jnp.argmax(solvable & ((exponents <= limit) | last))
    # At λ = ∞ all exponents are 0 and none is limited.
    unlimited = (k == 0) | jnp.isinf(lam)
    finite = jnp.where(jnp.isinf(lam), 1.0, lam)  # or its derivative were NaN
    quarter = 0.25 * top + jnp.where(unlimited, 0.0, 0.25 * finite * limit[k])
    bound = 4.0 * quarter
    limited = jnp.where(lam > 0, jnp.minimum(losses, bound), jnp.maximum(losses, bound))
    return jnp.where(unlimited, losses, limited)
