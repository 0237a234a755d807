"""Schedules of λ."""

from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from absgd_jax import _check
from absgd_jax._radius import KLRadius

ScalarOrSchedule = ArrayLike | Callable[[Any], Any]


@overload
def two_stage(
    lam: KLRadius, switch_step: int, first: ArrayLike = jnp.inf
) -> KLRadius: ...
@overload
def two_stage(
    lam: ArrayLike, switch_step: int, first: ArrayLike = jnp.inf
) -> Callable[[ArrayLike], jax.Array]: ...
def two_stage(lam: Any, switch_step: int, first: ArrayLike = jnp.inf) -> Any:
    """The paper's two-stage λ: `first` before a step, `lam` from it on.

    Attention pays once the network has learned what the data have in common: train
    with plain SGD first (λ = ∞), then switch. The running normaliser lives in units of
    loss, so it needs no warm-up at the switch.

    Args:
      lam: λ from `switch_step` on, nonzero scalar in units of loss; or `kl_radius`.
      switch_step: number of updates made with `first`: four fifths of all for rare
        classes, as in the paper; for `kl_radius(sign=-1)`, under wrong labels, a tenth,
        or half where classes are rare, too.
      first: λ before, nonzero scalar; ±inf is plain SGD.

    Returns:
      A schedule of the step, λ `[]`, float32 or, with `jax_enable_x64`, float64; or a
      radius that begins at `switch_step`.
      For a gradual change see `anneal`.

    Raises:
      ValueError: a λ is 0 or NaN, `switch_step` is negative, or a radius comes after a
        `first` that is not ±inf.
      TypeError: a λ is a schedule; `optax.join_schedules` puts one after another.

    Examples:
      >>> import absgd_jax
      >>> schedule = absgd_jax.two_stage(0.5, switch_step=1000)
      >>> [float(schedule(step)) for step in (0, 999, 1000)]
      [inf, inf, 0.5]
      >>> radius = absgd_jax.two_stage(absgd_jax.kl_radius(sign=-1), switch_step=200)
      >>> radius.begin
      200

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_: the experiments on CIFAR, λ from epoch 160.
    """
    if not isinstance(switch_step, Tracer) and switch_step < 0:
        raise ValueError(f"switch_step must not be negative, got {switch_step}.")
    if isinstance(lam, KLRadius):
        _check.stage("first", first)
        _check.plain_first(first)
        return lam._replace(begin=switch_step)
    _check.stage("lam", lam)
    _check.stage("first", first)

    def schedule(count: ArrayLike) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # of two integers
            before = jnp.asarray(count) < switch_step
        return jnp.where(before, jnp.asarray(first, float), jnp.asarray(lam, float))

    return schedule


def anneal(
    lam: ArrayLike, begin_step: int, end_step: int, first: ArrayLike = jnp.inf
) -> Callable[[ArrayLike], jax.Array]:
    """λ that goes gradually from `first` to `lam`, by interpolating 1/λ.

    The weights depend on losses through L/λ, so 1/λ is what a schedule may interpolate:
    it is 0 for plain SGD and changes sign through 0. Interpolating λ itself is wrong at
    both: from ∞ it gives NaN, and from a positive to a negative λ it passes λ = 0,
    where one example takes every step.

    Args:
      lam: λ from `end_step` on, nonzero scalar in units of loss; ±inf is plain SGD.
      begin_step: the last step with `first`.
      end_step: the first step with `lam`.
      first: λ up to `begin_step`, nonzero scalar; ±inf is plain SGD.

    Returns:
      A schedule of the step, λ `[]`, float32 or, with `jax_enable_x64`, float64.

    Raises:
      ValueError: a λ is 0 or NaN, or not 0 <= `begin_step` < `end_step`.
      TypeError: a λ is a schedule or a radius.

    Examples:
      >>> import absgd_jax
      >>> schedule = absgd_jax.anneal(0.5, begin_step=100, end_step=200)
      >>> [float(schedule(step)) for step in (0, 100, 125, 150, 200, 300)]
      [inf, inf, 2.0, 1.0, 0.5, 0.5]
    """
    _check.stage("lam", lam)
    _check.stage("first", first)
    traced = isinstance(begin_step, Tracer) or isinstance(end_step, Tracer)
    if not traced and not 0 <= begin_step < end_step:
        raise ValueError(
            "begin_step must not be negative and must come before end_step, got "
            f"{begin_step} and {end_step}."
        )

    def schedule(count: ArrayLike) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # of integers
            since, length = count - jnp.asarray(begin_step), end_step - begin_step
        done = jnp.asarray(since, float) / jnp.asarray(length, float)
        done = jnp.clip(done, 0.0, 1.0)
        before, after = jnp.asarray(first, float), jnp.asarray(lam, float)
        inverse = (1.0 - done) / before + done / after
        plain = inverse == 0.0
        return jnp.where(plain, jnp.inf, 1.0 / jnp.where(plain, 1.0, inverse))

    return schedule
