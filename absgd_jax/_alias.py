"""The paper's two optimizers, each a chain that a user could write."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from absgd_jax._devices import AxisName
from absgd_jax._radius import DEFAULT, KLRadius
from absgd_jax._schedules import ScalarOrSchedule
from absgd_jax._transform import attend
from absgd_jax._weights import Settings


def absgd(
    learning_rate: optax.ScalarOrSchedule,
    lam: ScalarOrSchedule | KLRadius = DEFAULT,
    gamma: ScalarOrSchedule | None = None,
    *,
    momentum: ArrayLike | None = 0.9,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    init_s: ArrayLike | None = None,
    max_weight: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""ABSGD: momentum SGD whose examples are weighted by attention (Eq. 2).

    With G_t the aggregate of `attentional_aggregate`, η the learning rate, β the
    momentum and α the weight decay (which p does not multiply)::

        v_{t+1} = β v_t + G_t + α w_t
        w_{t+1} = w_t − η v_{t+1}

    which is the paper's `w_{t+1} = w_t − η (G_t + α w_t) + β (w_t − w_{t−1})` as long
    as η is constant; where a schedule drops η, this form (PyTorch's and Optax's) lets
    the old steps shrink with it.

    Args:
      learning_rate: η, scalar or schedule.
      lam: `kl_radius`, after which λ follows by itself: the default, of 0.4, for
        imbalance; for labels that are wrong at random
        `two_stage(kl_radius(sign=-1), updates // 10)`. Or λ, nonzero scalar in units of
        loss, or schedule: λ > 0 for imbalance, λ < 0 for noisy labels, ±inf for plain
        SGD.
      gamma: γ, share of the newest batch in the normaliser, in (0, 1], or schedule.
        None is 0.1 with a radius and 0.5 with a λ.
      momentum: β in [0, 1); None for none.
      nesterov: whether the momentum is Nesterov's.
      weight_decay: α, not negative, scalar or schedule.
      init_s: s_0; None for weights that average one from the start, 0.0 as in the
        earlier version of the paper.
      max_weight: upper bound on each p_i, at least 1; None for none, and for 2 with
        `kl_radius`.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over. A
        `value` must be made with it too, and is then that of the whole batch.

    Returns:
      An `optax.GradientTransformationExtraArgs` with two forms of `update`:
      `update(per_example, state, params, *, losses, where=None, sample_weights=None)`
      as in `attentional_aggregate`, and `update(gradient, state, params, *, value)`
      with both of `tilted_value_and_grad`. A `value` that is a number is refused.

    Raises:
      ValueError: as `attentional_aggregate`; or `value` lacks an axis of `axis_name`.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp, optax
      >>> y = jnp.array(9 * [0.0] + [1.0])  # nine common examples and a rare one
      >>> per_example_losses = lambda w: (w - y) ** 2
      >>> def fit(lam):
      ...     tx = absgd_jax.absgd(0.1, lam)
      ...     @jax.jit
      ...     def step(w, state):
      ...         losses, pullback = jax.vjp(per_example_losses, w)
      ...         updates, state = tx.update(pullback, state, w, losses=losses)
      ...         return optax.apply_updates(w, updates), state
      ...     w = jnp.array(0.5)
      ...     state = tx.init(w)
      ...     for _ in range(100):
      ...         w, state = step(w, state)
      ...     return round(float(w), 2)

      Plain SGD finds the mean. λ > 0 attends to the rare example, λ < 0 treats its
      label as noise:

      >>> fit(jnp.inf), fit(0.3), fit(-0.3)
      (0.1, 0.3, 0.0)

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Algorithm 1 and Eq. (2).
    """
    return optax.chain(
        attend(Settings(lam, gamma, init_s, max_weight, axis_name), "absgd"),
        _decay(weight_decay),
        optax.sgd(learning_rate, momentum, nesterov),
    )


def abadam(
    learning_rate: optax.ScalarOrSchedule,
    lam: ScalarOrSchedule | KLRadius = DEFAULT,
    gamma: ScalarOrSchedule | None = None,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    bias_correction: bool = True,
    init_s: ArrayLike | None = None,
    max_weight: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""ABAdam: Adam on ABSGD's direction (Eq. 9).

    With G_t the aggregate of `attentional_aggregate` and α the decoupled decay::

        v_{t+1} = b1 v_t + (1 − b1) G_t
        u_{t+1} = b2 u_t + (1 − b2) G_t²
        w_{t+1} = w_t − η ( v_{t+1} / (√u_{t+1} + eps) + α w_t )

    which is Eq. (9) as printed, for `bias_correction=False`. By default v and u are
    first divided by 1 − b1^t and 1 − b2^t, as Adam does. The decay is decoupled, as the
    equation has it; the authors' package adds α w to G_t before the moments instead.

    Args:
      learning_rate: η, scalar or schedule.
      lam: as in `absgd`; the default is `kl_radius(0.4)`.
      gamma: γ, share of the newest batch in the normaliser, in (0, 1], or schedule.
        None is 0.1 with a radius and 0.5 with a λ.
      b1: decay of the mean gradient, in [0, 1).
      b2: decay of the mean squared gradient, in [0, 1).
      eps: the paper's G_0, which it leaves open; positive. Parameters in float16, in
        which 1e-8 is 0, need 1e-4 or more, as those of `optax.adam` do.
      weight_decay: α, not negative, scalar or schedule.
      bias_correction: whether v and u start without bias.
      init_s: s_0; None for weights that average one from the start, 0.0 as in the
        earlier version of the paper.
      max_weight: upper bound on each p_i, at least 1; None for none, and for 2 with
        `kl_radius`.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over. A
        `value` must be made with it too, and is then that of the whole batch.

    Returns:
      An `optax.GradientTransformationExtraArgs` with two forms of `update`:
      `update(per_example, state, params, *, losses, where=None, sample_weights=None)`
      as in `attentional_aggregate`, and `update(gradient, state, params, *, value)`
      with both of `tilted_value_and_grad`. A `value` that is a number is refused.

    Raises:
      ValueError: as `attentional_aggregate`; or `value` lacks an axis of `axis_name`.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp
      >>> tx = absgd_jax.abadam(0.1, lam=1.0, bias_correction=False)
      >>> w = jnp.array(2.0)
      >>> losses, pullback = jax.vjp(lambda w: jnp.stack([w, 3.0 * w]), w)
      >>> updates, _ = tx.update(pullback, tx.init(w), w, losses=losses)

      The first step as printed is η (1 − b1) / √(1 − b2), whatever the gradient:

      >>> round(float(updates), 4)
      -0.3162

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Eq. (9).
    """
    adam = (
        optax.scale_by_adam(b1, b2, eps)
        if bias_correction
        else _scale_by_uncorrected_adam(b1, b2, eps)
    )
    return optax.chain(
        attend(Settings(lam, gamma, init_s, max_weight, axis_name), "abadam"),
        adam,
        _decay(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def _decay(weight_decay: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Adds `α w`; with a Python 0 for α it does nothing and needs no `params`."""
    if isinstance(weight_decay, float | int) and weight_decay == 0:
        return optax.identity()
    return optax.add_decayed_weights(weight_decay)


class _UncorrectedAdamState(NamedTuple):
    """State of `_scale_by_uncorrected_adam`."""

    mu: Any  # v_t, like the parameters
    nu: Any  # u_t, like the parameters


def _scale_by_uncorrected_adam(
    b1: ArrayLike, b2: ArrayLike, eps: ArrayLike
) -> optax.GradientTransformation:
    """Adam's direction without bias correction, which Optax does not offer."""

    def init_fn(params: Any) -> _UncorrectedAdamState:
        # Two trees, because no buffer of a donated state may occur twice in it.
        return _UncorrectedAdamState(
            mu=optax.tree.zeros_like(params), nu=optax.tree.zeros_like(params)
        )

    def update_fn(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, _UncorrectedAdamState]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        direction = jax.tree.map(lambda v, u: v / (jnp.sqrt(u) + eps), mu, nu)
        return direction, _UncorrectedAdamState(mu, nu)

    return optax.GradientTransformation(init_fn, update_fn)
