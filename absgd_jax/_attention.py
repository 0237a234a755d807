"""The mathematics of ABSGD: the tilted mean, the running normaliser, the weights.

Pure functions of arrays, one line an equation. Symbols are the paper's (`Qi et al.,
2012.06951 <https://arxiv.org/abs/2012.06951>`_), with two changes of notation:

* `Σ` runs over the examples of a batch, each counted `v_i` times (1 unless the user
  says otherwise, 0 for padding), and `V = Σ v_i` stands for the batch size.
* The normaliser `s_t` is kept as `F_t = λ log s_t`, in units of loss. `s_t` itself
  overflows float32 as soon as a loss is 88 times λ; `F_t` lies between the losses
  that it has seen, estimates the robust objective, and keeps its meaning when λ moves.

No function branches in Python on λ, γ or a loss: all of them may be traced.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from absgd_jax import _devices
from absgd_jax._devices import AxisName


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
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The tilted mean, its gradient, and the number of examples behind it.

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
      `T`, shape `[]`, in `[min L, max L]`; NaN if a loss is not finite or V is 0.
      `r`, shape `[*batch]`, `exp((L_i − T)/λ) / V`, so that `v_i r_i = ∂T/∂L_i`, which
        is `p*_i` of Eq. (5).
      `V`, shape `[]`.
    """
    present = weights > 0
    high, minus_low = _maxima(
        [jnp.where(present, losses, -jnp.inf), jnp.where(present, -losses, -jnp.inf)],
        axis_name,
    )
    low = -minus_low
    c = jnp.where((high - low) / lam > 8.0, high, low)
    # A difference may exceed the largest float although both losses are finite.
    biggest = jnp.finfo(losses.dtype).max
    from_c = jnp.clip(losses - c, -biggest, biggest)
    # NaN travels through a sum on every backend, but not through a maximum.
    from_c = jnp.where(jnp.isfinite(losses), from_c, jnp.nan)
    from_c = jnp.where(present, from_c, 0.0)

    exponentials = jnp.exp(from_c / lam)
    lost = _at_temperature(jnp.expm1, from_c, lam)
    # Divided before they are added up: their sum may exceed the largest float.
    V, exp_sum, lost_sum = _sums(
        [weights, weights * exponentials, weights * (lost / losses.size)], axis_name
    )
    mean = lost_sum / (V / losses.size)
    T = c + jnp.where(
        mean / lam > -0.5,
        _at_temperature(jnp.log1p, mean, lam),
        jnp.where(jnp.isinf(lam), 1.0, lam) * jnp.log(exp_sum / V),
    )
    return jnp.clip(T, low, high), exponentials / exp_sum, V


@tilt.defjvp
def _tilt_jvp(  # pyright: ignore[reportUnusedFunction]
    axis_name: AxisName, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Exact derivatives of all orders in L, λ and v, also at λ = ±∞."""
    losses, lam, weights = primals
    losses_dot, lam_dot, weights_dot = tangents
    T, r, V = tilt(losses, lam, weights, axis_name)
    present = weights > 0
    from_T = jnp.where(present, losses - T, 0.0)
    r_present = jnp.where(present, r, 0.0)
    q = weights * r_present  # ∂T/∂L
    exponent_dot = (losses_dot - from_T * lam_dot / lam) / lam

    T_dot, log_sum_dot, V_dot = _sums(
        [
            q * (losses_dot - from_T * lam_dot / lam)
            + weights_dot * _at_temperature(jnp.expm1, from_T, lam) / V,
            q * exponent_dot + r_present * weights_dot,
            weights_dot,
        ],
        axis_name,
    )
    return (T, r, V), (T_dot, r * (exponent_dot - log_sum_dot), V_dot)


def advance(
    tilted_loss: jax.Array,
    log_discount: jax.Array,
    batch_tilt: jax.Array,
    lam: jax.Array,
    gamma: jax.Array,
    init_s: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One step of Algorithm 1's normaliser.

    With `d_t = Π (1 − γ_i)` the share that s_0 still has in s_t, and T the batch's
    tilted mean::

        s_{t+1} = (1 − γ_t) s_t + γ_t exp(T/λ)                        Algorithm 1
        d_{t+1} = (1 − γ_t) d_t
        F_{t+1} = T_λ( [F_t, T] ; [1 − γ', γ'] ),     γ' = γ_t / (1 − d_{t+1})
        s_t     = d_t s_0 + (1 − d_t) exp(F_t/λ)

    Logarithms of d keep both ends exact: 1 − d after few steps and d after many.

    Args:
      tilted_loss: F_t, shape `[]`, in units of loss; not read at the first step.
      log_discount: log d_t, shape `[]`; 0 at the first step.
      batch_tilt: T, shape `[]`, in units of loss.
      lam: λ, shape `[]`.
      gamma: γ_t, shape `[]`, in (0, 1].
      init_s: s_0, shape `[]`, not negative; None leaves it out of s altogether.

    Returns:
      `F_{t+1}`; `log d_{t+1}`; and `exp(T/λ) / s_{t+1}`, at most 1/γ, by which the
      gradient of T becomes the direction of Eq. (2):
      `r_i V exp(T/λ) / s_{t+1} = exp(L_i/λ) / s_{t+1} = p_i`.
    """
    next_log_discount, corrected = _bias_correction(log_discount, gamma)

    both = jnp.stack([tilted_loss, batch_tilt])
    next_tilted_loss, _, _ = tilt(both, lam, jnp.stack([1.0 - corrected, corrected]))

    # s_{t+1} over exp(T/λ): each term of Algorithm 1's first line, divided.
    old = (tilted_loss - batch_tilt) / lam
    if init_s is None:
        s_ratio = corrected + _times_exp(1.0 - corrected, old)
    else:
        s_ratio = (
            gamma
            + _times_exp((1.0 - gamma) * -jnp.expm1(log_discount), old)
            + _times_exp(
                (1.0 - gamma) * jnp.exp(log_discount) * init_s, -batch_tilt / lam
            )
        )
    return next_tilted_loss, next_log_discount, 1.0 / s_ratio


def _bias_correction(
    log_discount: jax.Array, gamma: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`log d_{t+1}`, and `γ' = γ_t / (1 − d_{t+1})`: exactly 1 at the first step."""
    next_log_discount = log_discount + jnp.log1p(-gamma)
    corrected = jnp.minimum(gamma / -jnp.expm1(next_log_discount), 1.0)
    return next_log_discount, jnp.where(log_discount == 0.0, 1.0, corrected)


def _times_exp(weight: jax.Array, exponent: jax.Array) -> jax.Array:
    """`weight exp(exponent)`, and 0 for a weight of 0 however large the exponent."""
    return weight * jnp.exp(jnp.where(weight > 0.0, exponent, 0.0))


def bound_losses(
    losses: jax.Array,
    lam: jax.Array,
    weights: jax.Array,
    tilted_loss: jax.Array,
    log_discount: jax.Array,
    gamma: jax.Array,
    max_weight: jax.Array,
    axis_name: AxisName = None,
) -> jax.Array:
    """Limits the losses so that no example weighs more than `max_weight`.

    Clipping p_i alone would bound the step but still let one absurd loss set s so high
    that every later weight is near zero. So the bound acts inside the normaliser: s is
    the solution of ::

        s_{t+1} = (1 − γ') s_t + γ' Σ v_i min( exp(L_i/λ), c s_{t+1} ) / V .

    The right side is piecewise linear in s, with a break at each loss. If the k largest
    exponentials are the limited ones, holding V_k of V, then ::

        s = [ (1 − γ') s_t + γ' Σ_{i>k} v_i exp(L_i/λ) / V ] / (1 − γ' c V_k / V) ,

    and the smallest k whose next exponential is within c s is the answer. One sort.

    Args:
      losses: L, shape `[*batch]`.
      lam: λ, shape `[]`.
      weights: v, shape `[*batch]`.
      tilted_loss: F_t, shape `[]`.
      log_discount: log d_t, shape `[]`.
      gamma: γ_t, shape `[]`.
      max_weight: c, shape `[]`. Below 1 it acts as 1 here: weights cannot all be
        smaller than their average.
      axis_name: mapped axes that the batch is spread over.

    Returns:
      The losses with the k largest exponentials limited to c s, shape `[*batch]`.
    """
    all_losses, v = (_devices.gather(x, axis_name).ravel() for x in (losses, weights))
    c = jnp.maximum(max_weight, 1.0)

    signed = jnp.where(v > 0, jnp.where(lam > 0, all_losses, -all_losses), -jnp.inf)
    order = jnp.argsort(signed, descending=True)
    sorted_losses, v = all_losses[order], v[order]
    V = jnp.sum(v)
    top = sorted_losses[0]
    # Logarithms that overflow stay finite, or the bound would be as infinite as they.
    biggest = jnp.finfo(losses.dtype).max / 4
    above_top = lambda x: jnp.clip((x - top) / lam, -biggest, biggest)
    exponents = jnp.where(v > 0, above_top(sorted_losses), -jnp.inf)  # at most 0
    _, corrected = _bias_correction(log_discount, gamma)

    # Numerator (its logarithm) and denominator for k = 0, 1, ... all limited examples.
    nothing = jnp.full([1], -jnp.inf, v.dtype)
    rest = jnp.append(lax.cumlogsumexp(exponents + jnp.log(v), reverse=True), nothing)
    exponents = jnp.append(exponents, nothing)
    V_k = jnp.append(jnp.cumsum(v) - v, V)
    old = jnp.where(
        corrected < 1.0,
        jnp.log1p(-corrected) + above_top(tilted_loss),
        -jnp.inf,
    )
    numerator = jnp.logaddexp(old, jnp.log(corrected) + rest - jnp.log(V))
    denominator = 1.0 - corrected * c * V_k / V
    limit = jnp.log(c) + numerator - jnp.log(denominator)  # log(c s), above `top`
    k = jnp.argmax((denominator > 0.0) & (exponents <= limit))
    bound = top + lam * limit[k]
    if axis_name is not None:  # every device has the same; say so to the type checker
        bound = lax.pmax(bound, axis_name)
        k = lax.pmax(k, axis_name)

    limited = jnp.where(lam > 0, jnp.minimum(losses, bound), jnp.maximum(losses, bound))
    return jnp.where((k == 0) | jnp.isinf(lam), losses, limited)
