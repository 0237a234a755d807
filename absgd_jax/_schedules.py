"""Schedules of λ."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from absgd_jax import _check


def two_stage(
    lam: ArrayLike, switch_step: int, first: ArrayLike = jnp.inf
) -> Callable[[ArrayLike], jax.Array]:
    """The paper's two-stage λ: `first` before a step, `lam` from it on.

    Attention pays once the network has learned what the data have in common: train
    with plain SGD first (λ = ∞), then switch. The running normaliser lives in units of
    loss, so it needs no warm-up at the switch.

    Args:
      lam: λ from `switch_step` on, nonzero scalar in units of loss.
      switch_step: number of updates made with `first`.
      first: λ before, nonzero scalar; ±inf is plain SGD.

    Returns:
      A schedule: step -> λ, float32 `[]`.

    Raises:
      ValueError: a λ is 0 or NaN, or `switch_step` is negative.

    Examples:
      >>> import absgd_jax
      >>> schedule = absgd_jax.two_stage(0.5, switch_step=1000)
      >>> [float(schedule(step)) for step in (0, 999, 1000)]
      [inf, inf, 0.5]

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_: the experiments on CIFAR, λ from epoch 160.
    """
    _check.lam(lam)
    _check.lam(first)
    if switch_step < 0:
        raise ValueError(f"switch_step must not be negative, got {switch_step}.")

    def schedule(count: ArrayLike) -> jax.Array:
        before = jnp.asarray(count) < switch_step
        return jnp.where(before, jnp.float32(first), jnp.float32(lam))

    return schedule
