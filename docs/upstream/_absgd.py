# Copyright 2026 DeepMind Technologies Limited. All Rights Reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""Attentional-Biased SGD.

Implementation of
"Attentional-Biased Stochastic Gradient Descent"
(https://arxiv.org/abs/2012.06951) by Qi Qi, Yi Xu, Wotao Yin, Rong Jin and
Tianbao Yang.
"""

from typing import NamedTuple, Optional

import jax
import jax.numpy as jnp
from optax._src import alias
from optax._src import base
from optax._src import combine
from optax._src import numerics


def tilted_loss(
    losses: jax.typing.ArrayLike,
    lam: jax.typing.ArrayLike,
    weights: Optional[jax.typing.ArrayLike] = None,
) -> jax.Array:
  r"""Tilted mean of a batch's losses.

  .. math::
    T_\lambda(L) = \lambda \log \frac{1}{B} \sum_{i=1}^B \exp(L_i / \lambda)

  It lies between the smallest and the largest loss, so it is finite whenever
  they are. Its gradient is the average of the examples' gradients weighted by
  ``exp(losses / lam)``, normalized in the batch.

  Args:
    losses: Loss of each example, of any shape.
    lam: Temperature, nonzero, in units of loss, maybe traced. Positive values
      attend to large losses, negative values to small ones, and ``inf`` gives
      the mean.
    weights: Non-negative weight of each example, zero for padding, of the shape
      of ``losses``. At least one has to be positive. ``None`` means ones.

  Returns:
    The tilted mean, a scalar in at least single precision.

  Examples:
    >>> from optax import contrib
    >>> import jax.numpy as jnp
    >>> losses = jnp.array([0., 1., 8.])
    >>> for lam in (-0.1, jnp.inf, 0.1):
    ...   print(f'{contrib.tilted_loss(losses, lam):.2f}')
    0.11
    3.00
    7.89
  """
  losses = jnp.asarray(losses)
  losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
  weights = jnp.ones_like(losses) if weights is None else jnp.asarray(weights)
  weights = weights.astype(losses.dtype)
  lam = jnp.asarray(lam, losses.dtype)
  present = weights > 0
  losses = jnp.where(present, losses, 0.0)  # padding may be NaN
  high = jnp.max(losses, where=present, initial=-jnp.inf)
  low = jnp.min(losses, where=present, initial=jnp.inf)
  # All exponents are at most 0, and the largest is 0.
  center = jax.lax.stop_gradient(jnp.where(lam > 0, high, low))
  from_center = jnp.where(present, losses - center, 0.0)
  share = weights / jnp.sum(weights)
  plain = jnp.isinf(lam)
  safe_lam = jnp.where(plain, 1.0, lam)
  exponents = jnp.where(plain, 0.0, from_center) / safe_lam
  # For large temperatures, expm1 and log1p keep digits that exp and log lose.
  lost = jnp.sum(share * jnp.expm1(exponents))
  far = lost < -0.5
  kept = jnp.where(far, jnp.sum(share * jnp.exp(exponents)), 1.0)
  log_mean = jnp.where(far, jnp.log(kept), jnp.log1p(jnp.where(far, 0.0, lost)))
  mean = jnp.sum(share * from_center)
  return center + jnp.where(plain, mean, safe_lam * log_mean)


class ScaleByAttentionState(NamedTuple):
  """State of :func:`optax.contrib.scale_by_attention`."""

  count: jax.typing.ArrayLike  # shape=(), dtype=jnp.int32.
  # The moving average of exp(loss / lam), as lam times its logarithm.
  tilted_loss: jax.typing.ArrayLike  # shape=(), at least single precision.
  weight: jax.typing.ArrayLike  # shape=(), what the batches so far sum up to.
  lam: jax.typing.ArrayLike  # shape=(), temperature of the next update.


def scale_by_attention(
    lam: base.ScalarOrSchedule,
    gamma: base.ScalarOrSchedule = 0.5,
) -> base.GradientTransformationExtraArgs:
  r"""Rescales the gradient of :func:`tilted_loss` by a moving normalizer.

  With losses :math:`L_i`, gradients :math:`g_i` and the normalizer :math:`s_t`,

  .. math::
    s_{t+1} &= (1 - \gamma) s_t + \gamma \frac{1}{B} \sum_i \exp(L_i / \lambda)
    \\
    u_t &= \frac{1}{B} \sum_i \frac{\exp(L_i / \lambda)}{s_{t+1}} g_i

  The sum of gradients is that of :func:`tilted_loss`, up to a scalar that this
  transformation multiplies by. So the update costs one backward pass.
  :math:`s_t` is kept as :math:`\lambda \log s_t`, which cannot overflow, and is
  corrected for its initialization as the moments of Adam are.

  Args:
    lam: Temperature, see :func:`tilted_loss`, or a schedule of it.
    gamma: Share of the latest batch in the normalizer, in (0, 1], or a schedule
      of it.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` whose update function takes
    ``value``, the tilted loss of the batch at the temperature in the state. If
    ``value`` is not finite, the state and the gradient are left as they are.

  .. warning::
    A mean of gradients of several batches, as in :class:`optax.MultiSteps`, is
    not the gradient of the tilted loss of all of them.
  """

  def lam_at(count):
    return lam(count) if callable(lam) else lam

  def init_fn(params):
    dtypes = [jnp.asarray(x).dtype for x in jax.tree.leaves(params)]
    dtypes = [x for x in dtypes if jnp.issubdtype(x, jnp.floating)]
    dtype = jnp.result_type(jnp.float32, *dtypes)
    count = jnp.zeros([], jnp.int32)
    return ScaleByAttentionState(
        count=count,
        tilted_loss=jnp.zeros([], dtype),
        weight=jnp.zeros([], dtype),
        lam=jnp.asarray(lam_at(count), dtype),
    )

  def update_fn(updates, state, params=None, *, value, **extra_args):
    del params, extra_args
    dtype = state.tilted_loss.dtype
    value, lam_t = jnp.asarray(value, dtype), state.lam
    gamma_t = gamma(state.count) if callable(gamma) else gamma
    gamma_t = jnp.asarray(gamma_t, dtype)

    weight = (1.0 - gamma_t) * state.weight + gamma_t
    corrected = gamma_t / weight  # 1 at the first update
    new = tilted_loss(
        jnp.stack([state.tilted_loss, value]),
        lam_t,
        jnp.stack([1.0 - corrected, corrected]),
    )
    finite = jnp.isfinite(value)
    scale = jnp.where(finite, jnp.exp((value - new) / lam_t), 1.0)
    count = numerics.safe_increment(state.count)
    new_state = ScaleByAttentionState(
        count=count,
        tilted_loss=jnp.where(finite, new, state.tilted_loss),
        weight=jnp.where(finite, weight, state.weight),
        lam=jnp.asarray(lam_at(count), dtype),
    )
    updates = jax.tree.map(lambda g: (scale * g).astype(g.dtype), updates)
    return updates, new_state

  return base.GradientTransformationExtraArgs(init_fn, update_fn)


def absgd(
    learning_rate: base.ScalarOrSchedule,
    lam: base.ScalarOrSchedule = 1.0,
    gamma: base.ScalarOrSchedule = 0.5,
    momentum: Optional[jax.typing.ArrayLike] = 0.9,
    nesterov: bool = False,
) -> base.GradientTransformationExtraArgs:
  r"""Attentional-Biased SGD.

  Weights each example by the exponential of its loss over a moving average, at
  the price of SGD. A positive temperature attends to examples of large loss, as
  for imbalanced classes; a negative one to those of small loss, as for noisy
  labels; an infinite one is SGD. It minimizes the objective

  .. math::
    F_\lambda(w) = \lambda \log \mathbb{E} \exp(L(w; z) / \lambda) .

  Args:
    learning_rate: A fixed global scaling factor, or a schedule.
    lam: Temperature, nonzero, in units of loss, or a schedule. The paper trains
      with ``inf`` first and switches to a finite value for the last epochs.
    gamma: Share of the latest batch in the moving average, in (0, 1].
    momentum: Decay rate of the momentum; ``None`` for none.
    nesterov: Whether Nesterov momentum is used.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` whose update function
    takes ``value``, the :func:`tilted_loss` of the batch.

  Examples:
    >>> from optax import contrib
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> x, y = jnp.array([1., 2., 3.]), jnp.array([1., 2., 9.])
    >>> def f(w, lam):
    ...   return contrib.tilted_loss((w * x - y) ** 2, lam)
    >>> solver = contrib.absgd(learning_rate=0.003, lam=10.0)
    >>> w = jnp.array(0.)
    >>> opt_state = solver.init(w)
    >>> for _ in range(4):
    ...   lam = optax.tree.get(opt_state, 'lam')
    ...   value, grad = jax.value_and_grad(f)(w, lam)
    ...   updates, opt_state = solver.update(grad, opt_state, w, value=value)
    ...   w = optax.apply_updates(w, updates)
    ...   print(f'Objective function: {value:.2f}')
    Objective function: 70.02
    Objective function: 61.52
    Objective function: 49.28
    Objective function: 37.14

  References:
    Qi et al., `Attentional-Biased Stochastic Gradient Descent
    <https://arxiv.org/abs/2012.06951>`_, 2023
  """
  return combine.chain(
      scale_by_attention(lam, gamma),
      alias.sgd(learning_rate, momentum, nesterov),
  )
