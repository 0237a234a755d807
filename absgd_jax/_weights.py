"""From the losses of a batch and a state to weights and the next state.

`step` is Algorithm 1, and every other module of the package builds on it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from absgd_jax import _attention, _check, _devices, _radius
from absgd_jax._attention import Tilt
from absgd_jax._devices import AxisName
from absgd_jax._radius import DEFAULT, KLRadius
from absgd_jax._schedules import ScalarOrSchedule
from absgd_jax._state import AttentionState, WeightBound

_FIXED_GAMMA = 0.5  # the default for a λ that does not follow a radius
_FIRST_OF_SCHEDULE = "{0}(0), the first value of the schedule {0},"
_NO_BOUND = 1e30  # stands for a max_weight of ∞, which times 0 is NaN


class Settings(NamedTuple):
    """The arguments of `attention`, and of every transform of this package."""

    lam: ScalarOrSchedule | KLRadius
    gamma: ScalarOrSchedule | None  # None before `checked`
    init_s: ArrayLike | None
    max_weight: ArrayLike | None
    axis_name: AxisName

    def checked(self) -> "Settings":
        """Itself with its defaults, or an error that quotes a value out of range."""
        gamma, max_weight = self.gamma, self.max_weight
        if isinstance(self.lam, KLRadius):
            _check.radius_without_init_s(self.init_s)
            gamma = _radius.GAMMA if gamma is None else gamma
            max_weight = _radius.MAX_WEIGHT if max_weight is None else max_weight
        else:
            _check.lam(self.lam)
            gamma = _FIXED_GAMMA if gamma is None else gamma
        _check.gamma(gamma)
        _check.init_s(self.init_s)
        _check.max_weight(max_weight)
        if isinstance(max_weight, float) and max_weight == jnp.inf:
            max_weight = None
        return self._replace(gamma=gamma, max_weight=max_weight)


def _at(value: Any, count: ArrayLike, dtype: Any) -> jax.Array:
    """The value of a scalar or schedule at a step, in a buffer of its own."""
    return jnp.array(value(count) if callable(value) else value, dtype, copy=True)


def _lam_at(
    lam: ScalarOrSchedule, count: ArrayLike, dtype: Any, before: jax.Array
) -> jax.Array:
    """λ at a step; of a schedule that reaches 0 the smallest of the sign before.

    At 0 itself, and at numbers that a processor may take for 0, a loss over λ is no
    number. At the smallest normal one the example of the largest (smallest) loss takes
    the step, which is the limit.
    """
    value = _at(lam, count, dtype)
    if callable(lam):
        tiny = jnp.finfo(dtype).tiny
        smallest = jnp.sign(before.astype(dtype)) * tiny
        value = jnp.where(jnp.abs(value) < tiny, smallest, value)
    return value


def _bound_at(
    settings: Settings, count: ArrayLike, dtype: Any, unbounded: ArrayLike = 0.0
) -> WeightBound | None:
    """The bound at a step and, for a radius, F_t of the weights without it."""
    if settings.max_weight is None:
        return None
    follows = isinstance(settings.lam, KLRadius)
    return WeightBound(
        max_weight=jnp.minimum(_at(settings.max_weight, count, dtype), _NO_BOUND),
        gamma=_at(settings.gamma, count, dtype),
        unbounded=_at(unbounded, count, dtype) if follows else None,
    )


def initial_state(settings: Settings, params: Any = None) -> AttentionState:
    """State before the first step; float64 only for float64 parameters."""
    dtypes = [getattr(p, "dtype", None) for p in jax.tree.leaves(params)]
    wide = any(dtype in (jnp.float64, jnp.complex128) for dtype in dtypes)
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64 if wide else jnp.float32)
    count = jnp.zeros([], jnp.int32)
    first_lam = settings.lam
    if isinstance(first_lam, KLRadius):
        first_lam = first_lam.sign * jnp.inf
    elif callable(first_lam):
        _check.lam(first_lam(count), name=_FIRST_OF_SCHEDULE.format("lam"))
    if callable(settings.gamma):
        gamma = settings.gamma(count)
        _check.gamma(gamma, name=_FIRST_OF_SCHEDULE.format("gamma"))
    return AttentionState(
        count=count,
        tilted_loss=jnp.zeros([], dtype),
        log_discount=jnp.zeros([], dtype),
        lam=_at(first_lam, count, dtype),
        bound=_bound_at(settings, count, dtype),
    )


class NextState(NamedTuple):
    """The next state, and the factor that makes ∇T the direction of Eq. (2)."""

    state: AttentionState
    scale: jax.Array  # exp(T/λ) / s_{t+1}, shape []
    usable: jax.Array  # bool []: the batch has examples, and only finite losses


def next_state(
    settings: Settings,
    state: AttentionState,
    batch: Tilt,
    lam: jax.Array,
    gamma: jax.Array | None = None,
) -> NextState:
    """One step of Algorithm 1's normaliser, from the T of a batch.

    Args:
      settings: γ, s_0, and λ of the next update.
      state: before.
      batch: the tilt of the whole batch; its r is not read. Without examples, or with a
        loss that is not finite, it leaves all but the count as it was.
      lam: λ that T was made with, shape `[]`.
      gamma: γ that its losses were limited with, shape `[]`; None is the settings'.
    """
    dtype = batch.T.dtype
    T = jnp.where(batch.V > 0, batch.T, state.tilted_loss.astype(dtype))
    usable = (batch.V > 0) & jnp.isfinite(T)
    before = _attention.Normalizer(
        state.tilted_loss.astype(dtype), state.log_discount.astype(dtype)
    )
    if gamma is None:
        gamma = _at(settings.gamma, state.count, dtype)
    init_s = settings.init_s
    init_s = None if init_s is None else jnp.asarray(init_s).astype(dtype)
    own = _attention.update_normalizer(before, T, lam, gamma=gamma, init_s=init_s)
    count = jnp.asarray(optax.safe_increment(state.count))

    def keep_or(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(usable, new.astype(old.dtype), old)

    unbounded = 0.0
    if isinstance(settings.lam, KLRadius):
        free, unbounded = own, keep_or(own.normalizer.tilted_loss, state.tilted_loss)
        apart = None if state.bound is None else state.bound.unbounded
        if apart is not None and batch.unbounded is not None:
            free = _without_bound(state, batch, lam, gamma)
            unbounded = keep_or(free.normalizer.tilted_loss, apart)
        reached = _radius.divergence(free.scale, batch.kl)
        followed = _radius.follow(settings.lam, lam, reached, batch.high, batch.low)
        with jax.numpy_dtype_promotion("standard"):  # of two integers
            waits = count < settings.lam.begin
        next_lam = jnp.where(waits, state.lam, keep_or(followed, state.lam))
        next_lam = lax.stop_gradient(next_lam)  # what it follows has no derivative
    else:
        next_lam = _lam_at(settings.lam, count, state.lam.dtype, lam)

    return NextState(
        AttentionState(
            count=count,
            tilted_loss=keep_or(own.normalizer.tilted_loss, state.tilted_loss),
            log_discount=keep_or(own.normalizer.log_discount, state.log_discount),
            lam=next_lam,
            bound=_bound_at(settings, count, state.lam.dtype, unbounded),
        ),
        own.scale,
        usable,
    )


def _without_bound(
    state: AttentionState, batch: Tilt, lam: jax.Array, gamma: jax.Array
) -> _attention.NormalizerUpdate:
    """`update_normalizer` of the weights without bound, which λ follows."""
    assert state.bound is not None
    assert state.bound.unbounded is not None
    assert batch.unbounded is not None
    dtype = batch.T.dtype
    before = _attention.Normalizer(
        state.bound.unbounded.astype(dtype), state.log_discount.astype(dtype)
    )
    T = jnp.where(batch.V > 0, batch.unbounded, before.tilted_loss)
    counted = _radius.counted(T, before, lam)
    return _attention.update_normalizer(before, counted, lam, gamma=gamma, init_s=None)


class Batch(NamedTuple):
    """The examples of a batch, in one dtype of 32 bits at least."""

    losses: jax.Array  # [*batch]: L; at padding anything
    weights: jax.Array  # [*batch]: v; 0 for padding, NaN if negative or NaN


def checked_batch(
    losses: ArrayLike,
    where: ArrayLike | None,
    sample_weights: ArrayLike | None,
    *,
    reason: str,
    at_least: Any = jnp.float32,
) -> Batch:
    """L and v; or an error, which gives the `reason` where the losses are a scalar."""
    given = jnp.asarray(losses)
    _check.losses(given, reason)
    dtype = _attention.wider_dtype(given.dtype, at_least)
    if sample_weights is None:
        v = jnp.ones_like(given, dtype)
    else:
        v = jnp.asarray(sample_weights)
        _check.sample_weights(v, given)
        v = v.astype(dtype)
        # One that is traced cannot be refused: it counts like a loss of NaN.
        v = _devices.spread_as(jnp.where(v >= 0, v, jnp.nan), given)
    if where is not None:
        mask = jnp.asarray(where)
        _check.where(mask, given)
        v = jnp.where(mask, v, 0.0)
    return Batch(given.astype(dtype), v)


def limit(batch: Batch, lam: jax.Array, state: AttentionState) -> jax.Array:
    """The losses of a whole batch, limited so that no weight exceeds the bound."""
    assert state.bound is not None
    dtype = batch.losses.dtype
    gamma = state.bound.gamma.astype(dtype)
    return _attention.bound_losses(
        batch.losses,
        lam,
        batch.weights,
        tilted_loss=state.tilted_loss.astype(dtype),
        gamma=_attention.bias_corrected(state.log_discount.astype(dtype), gamma),
        max_weight=state.bound.max_weight.astype(dtype),
    )


class Tilted(NamedTuple):
    """A batch's tilt, and what each of its examples has in the gradient."""

    tilt: Tilt  # of the whole batch; `r` of this device's part
    shares: jax.Array  # [*batch]: v_i r_i = ∂T/∂L_i; 0 for padding


def tilt_batch(
    batch: Batch,
    lam: ArrayLike,
    state: AttentionState | None = None,
    axis_name: AxisName = None,
) -> Tilted:
    """T of a whole batch, also if it is spread over devices.

    Args:
      batch: L and v; on a mapped axis those of this device.
      lam: λ, scalar.
      state: has the bound to which the losses are limited; None is no bound.
      axis_name: mapped axes that the batch is spread over.
    """
    _check.mapped(axis_name)
    losses, weights = batch
    lam = jnp.asarray(lam).astype(losses.dtype)
    if state is None or state.bound is None:
        tilt = _attention.tilt(losses, lam, weights, axis_name)
    else:
        both = jnp.stack([losses, weights.astype(losses.dtype)])
        gathered = _devices.gather(both, axis_name)
        of_batch = 0 if axis_name is None else 1
        whole = Batch(
            lax.index_in_dim(gathered, 0, of_batch, keepdims=False),
            lax.index_in_dim(gathered, 1, of_batch, keepdims=False),
        )
        tilt = _attention.tilt(limit(whole, lam, state), lam, whole.weights)
        free = _attention.tilt(whole.losses, lam, whole.weights)
        r = _devices.own_part(tilt.r, axis_name)
        tilt = free._replace(T=tilt.T, r=r, unbounded=free.T)
    return Tilted(tilt, jnp.where(weights == 0, 0.0, weights * tilt.r))


class Step(NamedTuple):
    """The result of one step of Algorithm 1."""

    shares: jax.Array  # [*batch]: v_i p_i / V; 0 for padding
    state: AttentionState  # after the step


def step(settings: Settings, state: AttentionState, batch: Batch) -> Step:
    """One step of Algorithm 1: from losses to each one's share in Eq. (2)'s direction.

    Args:
      settings: λ, γ, s_0, bound and mapped axes.
      state: before.
      batch: L and v; on a mapped axis those of this device.
    """
    dtype, weights = batch.losses.dtype, batch.weights
    batch = batch._replace(losses=jnp.where(weights > 0, batch.losses, 0.0))
    if isinstance(settings.lam, KLRadius):
        lam = state.lam.astype(dtype)
    else:
        lam = _lam_at(settings.lam, state.count, dtype, state.lam)
    bound = _bound_at(settings, state.count, dtype)
    bounded = state._replace(bound=bound)
    tilt, shares = tilt_batch(batch, lam, bounded, settings.axis_name)
    after, scale, _ = next_state(settings, state, tilt, lam)
    shares = shares * scale
    if bound is not None:  # exceeded by rounding, and by s_0
        largest = bound.max_weight / jnp.where(tilt.V > 0, tilt.V, 1.0)
        bounded = jnp.minimum(shares, weights * largest)
        shares = jnp.where(weights == 0, 0.0, bounded)
    return Step(shares, after)


class Attention(NamedTuple):
    """A pair of pure functions, as an `optax.GradientTransformation` is.

    Examples:
      >>> import absgd_jax, jax.numpy as jnp
      >>> init, weigh = absgd_jax.attention(lam=jnp.inf)
      >>> weights, state = weigh(jnp.array([0.1, 3.0]), init())
      >>> weights.tolist()
      [1.0, 1.0]
    """

    #: `init(params=None) -> state`
    init: Callable[..., AttentionState]
    #: `weigh(losses, state, *, where=None, sample_weights=None) -> (weights, state)`
    weigh: Callable[..., tuple[jax.Array, AttentionState]]


def attention(
    lam: ScalarOrSchedule | KLRadius = DEFAULT,
    gamma: ScalarOrSchedule | None = None,
    *,
    init_s: ArrayLike | None = None,
    max_weight: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> Attention:
    r"""Weights of the examples of a batch, for any training loop.

    With L_i the loss and v_i the sample weight of example i, n examples in the whole
    batch, padding included, and s the running normaliser of Algorithm 1::

        s_{t+1} = (1 − γ) s_t + γ Σ v_i exp(L_i/λ) / Σ v_i
        p_i     = exp(L_i/λ) / s_{t+1}
        weights = p_i v_i n / Σ v_i

    where, without s_0, γ is at first larger (1 at the first step), as Adam's bias
    correction makes it; and with a bound c, `max_weight`, both exponentials are limited
    to c s_{t+1}, which makes `p_i = min(c, exp(L_i/λ)/s_{t+1})`. Then
    the gradient of `jnp.mean(weights * losses)` is Eq. (2)'s direction
    `Σ v_i p_i ∇L_i / Σ v_i`. Without padding and sample weights, weights are p itself,
    and average about one. No gradient flows through them. Whatever else is in the loss
    (a penalty, an auxiliary loss) is added to the mean and is not weighted.

    ======================  ==========================================================
    Edge                    What happens
    ======================  ==========================================================
    λ = ±∞                  all weights are one (times v): the mean loss
    padding (`where`)       its weight is 0, and those of examples are n / Σ v_i times
                            larger: take the mean over all n, not over the mask's sum.
                            Its loss must be finite, for 0 times NaN is NaN in the mean,
                            though not in `weigh`
    all masked              weights are 0; s stays as it was
    a loss is not finite,   all weights are NaN; s stays as it was
    or a sample weight NaN
    mapped axis             weights are scaled to the whole batch; the mean over
                            devices is left to the program: `pmean` of the gradients,
                            or, where `shard_map` checks replication, of the loss
    another λ               a state belongs to its λ: after a change of its sign, or
                            from a number to a radius, begin with `init()`
    microbatches            called once each, s is carried along: ABSGD with the
                            microbatch for its batch. For weights that need the whole
                            batch take `tilted_value_and_grad(microbatch_size=)`
    ======================  ==========================================================

    Args:
      lam: `kl_radius`, after which λ follows by itself; or λ, nonzero scalar in units
        of loss, or a schedule of the step. The default is a radius of 0.4.
      gamma: γ, share of the newest batch in s, in (0, 1], or a schedule of the step.
        None is 0.1 with a radius and 0.5 with a λ.
      init_s: s_0. None leaves it out (as Adam's bias correction does), so that weights
        average about one from the first step on; 0.0 is the earlier version of the
        paper, whose first weights are 1/γ times larger.
      max_weight: upper bound c on every p_i, at least 1. The bound acts on s too: an
        outlier counts in it as one of weight c, and training goes on after it. None
        is no bound, and 2 with `kl_radius`.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.
        Under `jax.jit` with sharded arrays none is needed.

    Returns:
      A pair of pure functions. `init(params=None) -> state`, an `AttentionState`, which
      is float64 for float64 parameters and float32 without them. `weigh(losses, state,
      *, where=None, sample_weights=None) -> (weights, state)` with `losses`
      floating, any shape `[*batch]`; `where` bool `[*batch]`, False for padding;
      `sample_weights` v, `[*batch]`, not negative; weights `[*batch]`, float32 or
      wider.

    Raises:
      ValueError: λ is 0 or NaN, γ outside (0, 1], `init_s` negative, `max_weight` below
        1; or shapes that do not fit, when `weigh` is traced.
      TypeError: `losses` are not floating point or `where` is not boolean.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp
      >>> attention = absgd_jax.attention(lam=1.0)
      >>> state = attention.init()
      >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 5.0])
      >>> def loss_fn(w, state):
      ...     losses = (w * x - y) ** 2
      ...     weights, state = attention.weigh(losses, state)
      ...     return jnp.mean(weights * losses) + 0.1 * w**2, (weights, state)
      >>> grad, (weights, state) = jax.grad(loss_fn, has_aux=True)(1.0, state)

      Of the losses 0, 0 and 4 the last has weight 3 e^4 / (e^4 + 2):

      >>> [round(float(w), 3) for w in weights]
      [0.053, 0.053, 2.894]
      >>> bool(jnp.allclose(grad, weights[2] * 2 * (3 - 5) * 3 / 3 + 0.2))
      True

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Algorithm 1 and Eq. (2).
    """
    settings = Settings(lam, gamma, init_s, max_weight, axis_name).checked()
    return Attention(
        functools.partial(initial_state, settings), functools.partial(_weigh, settings)
    )


def _weigh(
    settings: Settings,
    /,
    losses: ArrayLike,
    state: AttentionState,
    *,
    where: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
) -> tuple[jax.Array, AttentionState]:
    _check.attention_state("weigh(losses, state)", state)
    batch = checked_batch(
        losses,
        where,
        sample_weights,
        reason="The weights need the losses before their mean.",
        at_least=state.tilted_loss.dtype,
    )
    shares, new_state = step(settings, *lax.stop_gradient((state, batch)))
    weights = shares * (shares.size * _devices.devices(settings.axis_name))
    return lax.stop_gradient((weights, new_state))  # λ and γ may depend on losses, too
