"""The objective and its gradient, for loops that differentiate a scalar."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from absgd_jax import _attention, _check, _devices, _weights
from absgd_jax._devices import AxisName
from absgd_jax._radius import KLRadius
from absgd_jax._state import AttentionState, WeightBound, attention_state

_BEFORE_THE_MEAN = "The tilt needs the losses before their mean."


def tilted_loss(
    losses: ArrayLike,
    lam: ArrayLike,
    *,
    where: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""The tilted mean of a batch: ABSGD's objective, instead of `losses.mean()`.

    `T_λ(L; v) = λ log( Σ v_i exp(L_i/λ) / Σ v_i )`. It lies between the smallest and
    the largest loss, grows with λ⁻¹, and is the weighted mean at λ = ±∞; accurate to
    1e-6 in float32 for every λ between. Differentiable in losses, λ and weights, to
    any order; its gradient in the losses is `attentional_weights`. A weight of exactly
    0 is padding, whose derivative is 0: to learn weights start from small ones.

    Args:
      losses: L, floating, any shape `[*batch]`.
      lam: λ, nonzero scalar in units of loss, ±inf allowed; may be traced.
      where: bool `[*batch]`, False for padding, whose losses may be anything. Where the
        loss function is differentiated it needs a finite derivative there, too, for 0
        times NaN is NaN: pad with copies of examples.
      sample_weights: v, `[*batch]`, not negative; default 1.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.
        The result is then that of the whole batch, on every device, and differentiates
        like any `jax.lax.psum`: under `shard_map` the gradient of replicated
        parameters is the global one; under `pmap` take `jax.lax.pmean` of it, as of
        any other gradient.

    Returns:
      T, scalar, float32 (float64 for float64 losses). NaN, with a gradient of zero, if
      every example is masked; NaN, with a gradient of NaN, if a loss is not finite or
      a weight is negative or NaN.

    Raises:
      ValueError: λ is 0 or NaN; losses are a scalar; shapes differ.
      TypeError: losses are not floating point.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp
      >>> losses = jnp.array([0.0, 1.0, 5.0])
      >>> [round(float(absgd_jax.tilted_loss(losses, lam)), 4)
      ...  for lam in (0.01, 1.0, jnp.inf, -1.0, -0.01)]
      [4.989, 3.9261, 2.0, 0.7804, 0.011]
      >>> weights = jax.grad(absgd_jax.tilted_loss)(losses, 1.0)
      >>> bool(jnp.allclose(weights, jax.nn.softmax(losses)))
      True

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_: the objective that Algorithm 1 minimises.
    """
    _check.number_lam("tilted_loss", lam)
    batch = _weights.checked_batch(
        losses, where, sample_weights, reason=_BEFORE_THE_MEAN
    )
    tilt = _weights.tilt_batch(batch, lam, axis_name=axis_name).tilt
    return jnp.where(tilt.V > 0, tilt.T, jnp.nan)


def attentional_weights(
    losses: ArrayLike,
    lam: ArrayLike,
    *,
    where: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""The distribution over one batch that is optimal for that batch (Eq. 5).

    `p*_i = v_i exp(L_i/λ) / Σ_j v_j exp(L_j/λ)`: for λ > 0 the worst distribution over
    the batch at a price of λ per nat of KL divergence from the uniform one, for λ < 0
    the best. ABSGD with γ = 1 uses them; with γ < 1 it divides by a running
    normaliser instead, which is what makes it converge at any batch size.

    Args:
      losses: L, floating, any shape `[*batch]`.
      lam: λ, nonzero scalar in units of loss, ±inf allowed; may be traced.
      where: bool `[*batch]`, False for padding.
      sample_weights: v, `[*batch]`, not negative; default 1.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.

    Returns:
      p*, shape `[*batch]`, float32 (float64 for float64 losses); sums to 1, or to 0 if
      every example is masked.

    Raises:
      ValueError: λ is 0 or NaN; losses are a scalar; shapes differ.
      TypeError: losses are not floating point.

    Examples:
      >>> import absgd_jax, jax.numpy as jnp
      >>> losses = jnp.array([0.1, 0.1, 2.3])  # two easy examples, one hard
      >>> [round(float(p), 2) for p in absgd_jax.attentional_weights(losses, lam=1.0)]
      [0.09, 0.09, 0.82]
      >>> [round(float(p), 2) for p in absgd_jax.attentional_weights(losses, lam=-1.0)]
      [0.47, 0.47, 0.05]

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Eq. (5).
    """
    _check.number_lam("attentional_weights", lam)
    batch = _weights.checked_batch(
        losses, where, sample_weights, reason=_BEFORE_THE_MEAN
    )
    return _weights.tilt_batch(batch, lam, axis_name=axis_name).shares


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TiltedValue:
    """The value that `tilted_value_and_grad` returns, for `update(..., value=)`.

    Of all its numbers only `tilted_loss` is that of the losses limited to `max_weight`.
    It is a pytree and no number: a transform that reads a number from `value`, such as
    `optax.contrib.reduce_on_plateau`, refuses it.

    Examples:
      >>> import absgd_jax, jax.numpy as jnp
      >>> x = jnp.array([0.0, 1.0, 5.0])
      >>> losses_of = lambda w: (w - x) ** 2
      >>> value, grad = absgd_jax.tilted_value_and_grad(losses_of, 10.0)(1.0)
      >>> bool(value.low < value.mean_loss < value.tilted_loss < value.high)
      True
    """

    tilted_loss: jax.Array  #: float32 []: T_λ of the whole batch; NaN if all is masked
    mean_loss: jax.Array  #: float32 []: Σ v_i L_i / Σ v_i, for the log
    #: float32 []: divergence from uniform of the batch's own weights, without the bound
    kl: jax.Array
    high: jax.Array  #: float32 []: largest loss
    low: jax.Array  #: float32 []: smallest loss
    lam: jax.Array  #: float32 []: λ that it was made with
    max_weight: jax.Array | None = None  #: float32 []: the bound that was kept, if any
    #: float32 []: T_λ without the bound, if there is one; a radius follows it
    unbounded: jax.Array | None = None
    #: int32 []: updates of the state that λ was read from; None for λ as a number
    count: jax.Array | None = None
    #: float32 []: Σ v_i, the number of examples that are no padding without weights
    total_weight: jax.Array | None = None
    #: mapped axes that the batch is spread over; static
    axis_name: AxisName = dataclasses.field(default=None, metadata={"static": True})


def tilted_value_and_grad(
    per_example_loss_fn: Callable[..., Any],
    lam: Any,
    *,
    has_aux: bool = False,
    microbatch_size: int | None = None,
    dense: bool = False,
    axis_name: AxisName = None,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> Callable[..., tuple[Any, Any]]:
    r"""Value and gradient of the tilted loss, instead of `jax.value_and_grad`.

    For loops whose optimizer takes a gradient (`nnx.Optimizer`, a `TrainState`): write
    a function that returns the losses before their mean, and hand value and gradient
    to `absgd`, `abadam` or `scale_by_attention`::

        value, grads = tilted_value_and_grad(loss_fn, opt_state)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params, value=value)

    λ, and the bound on the weights if there is one, are read from the optimizer state
    when this is called, so that they are those that `update` counts on: call it in
    every step, inside `jax.jit`, and not once before the loop as `jax.value_and_grad`.
    A value from the state of an earlier step, where λ or the bound was another, is
    refused by `update`, or, where it is traced, makes the update NaN.

    The weights need the whole batch, so gradients of microbatches cannot just be
    averaged (which is what `optax.MultiSteps` does). They can be rescaled as the parts
    arrive: parts d with weight V_d, tilted mean T_d and gradient ∇T_d combine to ::

        T = T_λ([T_d]; [V_d]),     ∇T = Σ_d V_d exp((T_d − T)/λ) ∇T_d / Σ_d V_d

    Each example goes through one forward and one backward pass, and at no time does
    more than one microbatch of activations exist. With a bound on the weights a forward
    pass over the whole batch comes first: which losses are limited depends on all.

    On a mapped axis the weights of the whole (micro)batch are known on every device
    before the backward pass, so a BatchNorm synchronised over the axis gets its exact
    gradient. That takes two small collectives a microbatch.

    To a second derivative, as of meta-learning or a Hessian, the weights and the value
    are constants: take the pullback or `tilted_loss` for these.

    Args:
      per_example_loss_fn: `(params, *batch) -> losses`, floating `[batch, ...]`, or
        `(losses, aux)` with `has_aux`. With microbatches every leaf of `*batch` has the
        batch axis first.
      lam: an optimizer state that holds an `AttentionState`; or λ itself, a nonzero
        scalar in units of loss, ±inf allowed, which may be traced. `update` then takes
        this λ for the batch, whatever its own λ or schedule is.
      has_aux: whether the function returns auxiliary output after the losses.
      microbatch_size: examples per microbatch; the last may be smaller. None takes the
        batch whole. A microbatch is every n-th example, so that one of a sharded batch
        is sharded in the same way; on Explicit axes its size, and that of the last one,
        must be multiples of the devices. A BatchNorm takes its moments over one
        microbatch. Under `jax.jit`: without it every call compiles the loop over them
        again.
      dense: whether to make per-example gradients (`jax.vmap`), those of one microbatch
        at a time. The result is the same, and it costs more; for networks without
        operations across examples, and without `value_and_grad`.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.
        Value and gradient are then those of the whole batch, on every device: no
        `pmean` of them.
      value_and_grad: the framework's own: `flax.nnx.value_and_grad`,
        `equinox.filter_value_and_grad`. It is called as `value_and_grad(function,
        has_aux=True)(params, kwargs, *batch)`. For microbatches of Flax NNX leave it
        out, `nnx.split` the module and `nnx.merge` it inside the function.

    Returns:
      A function `(params, *batch, where=None, sample_weights=None, **kwargs)` to
      `(value, grads)`, or `((value, aux), grads)`. Other keyword arguments go to the
      loss function as they are, and are not cut into microbatches. The value is a
      `TiltedValue`: the tilted loss for `update(..., value=value)`, and the mean loss
      for the log. `grads` is like `params`. Both are those of the whole batch, on every
      device. Of the aux of microbatches, leaves with a batch axis are put together in
      the order of the (local) batch; the others (BatchNorm's moments, say) are averaged
      over its examples, and must be floating point.

    Raises:
      ValueError: λ is 0 or NaN; `microbatch_size` not positive; no `AttentionState` in
        the optimizer state; or, when called, shapes that do not fit.
      TypeError: λ is a schedule; the losses are not a floating-point array; `dense`
        with a `value_and_grad`, which it would ignore; a module of Flax NNX without
        `value_and_grad=nnx.value_and_grad`, or with `microbatch_size` or `dense`; a
        count or a key in the aux of microbatches.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp, optax
      >>> x, y = jnp.arange(5.0), jnp.array([1.0, 0.0, 3.0, 2.0, 9.0])
      >>> loss_fn = lambda w, x, y: (w * x - y) ** 2
      >>> tx = absgd_jax.absgd(0.01, lam=4.0)
      >>> w = jnp.array(1.0)
      >>> opt_state = tx.init(w)
      >>> value, grad = absgd_jax.tilted_value_and_grad(loss_fn, opt_state)(w, x, y)
      >>> updates, opt_state = tx.update(grad, opt_state, w, value=value)
      >>> bool(jnp.allclose(value.tilted_loss, absgd_jax.tilted_loss(
      ...     loss_fn(w, x, y), 4.0)))
      True
      >>> round(float(value.mean_loss), 4)
      5.8

      The same in microbatches of two:

      >>> parts = absgd_jax.tilted_value_and_grad(loss_fn, 4.0, microbatch_size=2)
      >>> bool(jnp.allclose(parts(w, x, y)[1], grad))
      True

    References:
      Qi et al., `Attentional-Biased Stochastic Gradient Descent
      <https://arxiv.org/abs/2012.06951>`_, Eq. (2).
    """
    state = None
    refused = callable(lam) or isinstance(lam, KLRadius)
    if not (refused or jax.tree_util.all_leaves([lam])):
        state = attention_state(lam)
        lam = state.lam
    _check.number_lam("tilted_value_and_grad", lam)
    _check.microbatch_size(microbatch_size)
    _check.dense_by_jax(dense, value_and_grad)

    def call(
        params: Any,
        *batch: Any,
        where: ArrayLike | None = None,
        sample_weights: ArrayLike | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        objective = _TiltedObjective(
            per_example_loss_fn, kwargs, lam, state, has_aux, dense, axis_name,
            value_and_grad,
        )  # fmt: skip
        in_parts = microbatch_size is not None or dense
        _check.differentiates(value_and_grad, params, in_parts)
        _check.whole_params("tilted_value_and_grad", params, axis_name)
        data = _Data(batch, where, sample_weights)
        if in_parts:
            data = jax.tree.map(jnp.asarray, data)
            # `shard_map` would sum the gradients of each part over the devices.
            if axis_name is not None:
                for leaf in jax.tree.leaves(data):
                    params = _devices.vary(params, leaf)
        if microbatch_size is None or microbatch_size >= _batch_size(data):
            whole = objective.differentiate(params, data)
        else:
            cut = _Cut(_batch_size(data), microbatch_size)
            whole = objective.accumulate(params, data, cut)
        grad = _devices.sum_gradients(whole.part.grad, whole.like, axis_name)
        value = objective.value(whole.part.tilt)
        return ((value, whole.aux) if has_aux else value), grad

    return call


class _Data(NamedTuple):
    """Some of the examples; every leaf has the batch axis first."""

    batch: Any
    where: Any
    sample_weights: Any
    shares: Any = None  # ∂T/∂L_i of the whole batch, where that is known already

    def checked(self, losses: ArrayLike) -> _weights.Batch:
        return _weights.checked_batch(
            losses, self.where, self.sample_weights, reason=_BEFORE_THE_MEAN
        )


class _Part(NamedTuple):
    """A part of a batch, and all that the whole needs to know of it."""

    tilt: Any  # a Tilt without its r; None where the shares are known already
    grad: Any  # Σ shares_i ∇L_i, like the parameters; zero without examples


def _mix(a: _Part, b: _Part, lam: ArrayLike) -> _Part:
    """Two parts make one."""
    lam = jnp.asarray(lam).astype(b.tilt.T.dtype)
    tilt, shares = _attention.combine(a.tilt, b.tilt, lam)

    def mix(x: jax.Array, y: jax.Array) -> jax.Array:
        of_a, of_b = shares.astype(_attention.wider_dtype(x.dtype, shares.dtype))
        wide = of_a * x.astype(of_a.dtype) + of_b * y.astype(of_b.dtype)
        return wide.astype(x.dtype)

    grad = jax.tree.map(mix, a.grad, b.grad)
    return _Part(tilt._replace(r=None), grad)


class _Piece(NamedTuple):
    """A part of a batch, differentiated."""

    part: _Part
    aux: Any
    like: jax.Array  # [], varies from device to device as the losses do


def _wide(x: Any) -> Any:
    """The dtype in which parts of a batch are added up."""
    return _attention.wider_dtype(x.dtype, jnp.float32)


class _Dense(NamedTuple):
    """Per-example results of a batch."""

    losses: jax.Array  # [batch]
    gradients: Any  # leaves [batch, *parameter]
    aux: Any  # of the whole batch


class _Cut(NamedTuple):
    """How a batch is cut into microbatches: every n-th example.

    Of a batch that is spread over devices, each microbatch is then spread in the same
    way.
    """

    size: int
    micro: int

    @property
    def even(self) -> int:
        """The examples in microbatches of full size."""
        return self.size - self.size % self.micro

    def parts(self, data: Any) -> tuple[Any, Any]:
        """Microbatches, stacked on a new first axis; and the smaller last one."""
        even = self.even
        whole = even == self.size
        stack = lambda x: (
            (x if whole else x[:even])
            .reshape(self.micro, -1, *x.shape[1:])
            .swapaxes(0, 1)
        )
        rest = None if whole else jax.tree.map(lambda x: x[even:], data)
        return jax.tree.map(stack, data), rest

    def join(
        self, per_example: bool, stacked: jax.Array, *rest: jax.Array
    ) -> jax.Array:
        """Results in the order of the batch; or their mean over its examples."""
        even = self.even
        if per_example:
            ordered = stacked.swapaxes(0, 1).reshape(even, *stacked.shape[2:])
            return jnp.concatenate([ordered, *rest])
        if self.size == 1:  # with or without a batch axis of its own
            return stacked[0]
        mean = stacked.mean(axis=0)
        share = even / self.size
        for last in rest:
            mean = share * mean + (1.0 - share) * last
        return mean

    def map(self, function: Callable[[Any], jax.Array], data: Any) -> jax.Array:
        """A function of a microbatch on all of them, in the order of the batch."""
        first, rest = self.parts(data)
        last = () if rest is None else (function(rest),)
        return self.join(True, lax.map(function, first), *last)


class _TiltedObjective(NamedTuple):
    """The tilted loss of a per-example loss function, and its gradient."""

    per_example_loss_fn: Callable[..., Any]
    kwargs: dict[str, Any]  # its keyword arguments
    lam: Any  # λ, scalar
    state: AttentionState | None  # has the bound on the weights, if there is one
    has_aux: bool
    dense: bool
    axis_name: AxisName
    value_and_grad: Callable[..., Any]

    @property
    def bound(self) -> WeightBound | None:
        return None if self.state is None else self.state.bound

    def losses_and_aux(
        self, params: Any, batch: Any, kwargs: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        kwargs = self.kwargs if kwargs is None else kwargs
        output = self.per_example_loss_fn(params, *batch, **kwargs)
        _check.losses_of_function(output, self.has_aux)
        return output if self.has_aux else (output, None)

    def tilt(self, batch: _weights.Batch) -> _weights.Tilted:
        return _weights.tilt_batch(batch, self.lam, self.state, self.axis_name)

    def value(self, tilt: _attention.Tilt) -> TiltedValue:
        some = tilt.V > 0
        # Of the state only copies, for `update` may be given both, the state donated.
        copy = functools.partial(jnp.array, copy=True)
        count = None if self.state is None else copy(self.state.count)
        return TiltedValue(
            tilted_loss=jnp.where(some, tilt.T, jnp.nan),
            mean_loss=jnp.where(some, tilt.mean, jnp.nan),
            kl=tilt.kl,
            high=tilt.high,
            low=tilt.low,
            lam=copy(self.lam, tilt.T.dtype),
            max_weight=None if self.bound is None else copy(self.bound.max_weight),
            unbounded=tilt.unbounded,
            count=count,
            total_weight=tilt.V,
            axis_name=self.axis_name,
        )

    def differentiate(self, params: Any, data: _Data) -> _Piece:
        """A part whose activations are in memory at once."""

        def weighted_sum(losses: jax.Array) -> tuple[jax.Array, Any]:
            L, v = data.checked(losses)
            fixed = lax.stop_gradient(L)
            tilt, shares = None, data.shares
            if shares is None:
                tilt, shares = self.tilt(_weights.Batch(fixed, v))
                tilt = tilt._replace(r=None)
            shares = shares.reshape(L.shape)
            total = jnp.sum(jnp.where(v == 0, 0.0, shares * L))
            return total, (tilt, shares, jnp.sum(fixed))

        if self.dense:
            losses, gradients, aux = self.one_by_one(params, data.batch)
            _, (tilt, shares, like) = weighted_sum(losses)
            grad = contract(gradients, shares, shares != 0)
            return _Piece(_Part(tilt, grad), aux, like)

        # An argument, too: Flax NNX has to know of a module or `Rngs` in it.
        def objective(
            params: Any, kwargs: dict[str, Any], *batch: Any
        ) -> tuple[jax.Array, Any]:
            losses, aux = self.losses_and_aux(params, batch, kwargs)
            total, (tilt, _, like) = weighted_sum(losses)
            return total, (tilt, aux, like)

        differentiated = self.value_and_grad(objective, has_aux=True)
        output = differentiated(params, self.kwargs, *data.batch)
        _check.differentiated(output)
        (_, (tilt, aux, like)), grad = output
        return _Piece(_Part(tilt, grad), aux, like)

    def one_by_one(self, params: Any, batch: Any) -> _Dense:
        """Each example as a batch of one."""

        def of_one(params: Any, example: Any) -> tuple[jax.Array, Any]:
            one = jax.tree.map(lambda x: x[None], example)
            losses, aux = self.losses_and_aux(params, one)
            if losses.shape != (1,):
                raise ValueError(
                    "dense gradients need one loss per example: a batch of one gave "
                    f"losses of shape {losses.shape}."
                )
            return losses[0], (losses[0], aux)

        gradient = jax.vmap(jax.grad(of_one, has_aux=True), in_axes=(None, 0))
        gradients, (losses, aux) = gradient(params, batch)
        cut = _Cut(losses.size, 1)
        return _Dense(losses, gradients, self.join_aux(params, batch, cut, aux))

    def accumulate(self, params: Any, data: _Data, cut: _Cut) -> _Piece:
        """A scan over the microbatches of full size, then the rest."""

        def losses_of(batch: Any) -> jax.Array:
            losses, _ = self.losses_and_aux(params, batch)
            examples = _batch_size(batch)
            _check.losses_of_examples(losses, examples)
            by_example = losses.shape[:1] == (examples,)
            return losses if by_example else losses.reshape(examples, -1)

        known = None
        if self.bound is not None:
            known = self.tilt(data.checked(cut.map(losses_of, data.batch)))
            data = data._replace(shares=known.shares)

        def add(total: _Part, data: _Data) -> tuple[_Part, Any]:
            part, aux, like = self.differentiate(params, data)
            part = jax.tree.map(lambda x: x.astype(_wide(x)), part)
            if known is not None:  # the shares are those of the whole batch already
                return jax.tree.map(jnp.add, total, part), (aux, like)
            return _mix(total, part, self.lam), (aux, like)

        first, rest = cut.parts(data)
        one = jax.tree.map(lambda x: x[0], first)
        jax.eval_shape(losses_of, one.batch)
        # The parameters are no argument: a module of Equinox holds functions, too.
        shapes = jax.eval_shape(lambda one: self.differentiate(params, one).part, one)
        nothing = jax.tree.map(lambda x: _devices.zeros_like(x, _wide(x)), shapes)
        (tilt, grad), (aux, likes) = lax.scan(add, nothing, first)
        rest_aux = ()
        if rest is not None:
            (tilt, grad), (*rest_aux, _) = add(_Part(tilt, grad), rest)
        if known is not None:
            tilt = known.tilt._replace(r=None)
        grad = jax.tree.map(lambda g, like: g.astype(like.dtype), grad, shapes.grad)
        aux = self.join_aux(params, data.batch, cut, aux, *rest_aux)
        return _Piece(_Part(tilt, grad), aux, jnp.sum(likes))

    def join_aux(
        self, params: Any, batch: Any, cut: _Cut, stacked: Any, *rest: Any
    ) -> Any:
        """Aux of the whole batch from that of its parts.

        A leaf has a batch axis if its shape for the whole batch, which is traced for
        that and not computed, is not that for a part.
        """
        if not self.has_aux:
            return None
        of_batch = lambda batch: self.losses_and_aux(params, batch)
        _, whole = jax.eval_shape(of_batch, batch)

        def join(path: Any, like: Any, parts: jax.Array, *rest: jax.Array) -> jax.Array:
            per_example = like.shape != parts.shape[1:]
            if per_example:
                _check.batch_first(path, like, (cut.size, *parts.shape[2:]))
            elif cut.size > 1:
                _check.averaged(path, like)
            return cut.join(per_example, parts, *rest)

        return jax.tree_util.tree_map_with_path(join, whole, stacked, *rest)


def contract(gradients: Any, cotangent: jax.Array, present: jax.Array | None) -> Any:
    """`Σ_i cotangent_i g_i`, leaf by leaf.

    Not a dot: it multiplies in bfloat16 on a TPU, and raises where the batch is sharded
    over an Explicit axis. XLA fuses the product into the sum.

    Args:
      gradients: per-example gradients, leaves `[*batch, *parameter]`.
      cotangent: `[*batch]`.
      present: `[*batch]`, False where a gradient is padding and may be anything, for 0
        times NaN is NaN; None if all are present.
    """

    def weighted_sum(g: jax.Array) -> jax.Array:
        over_parameter = tuple(range(cotangent.ndim, g.ndim))
        weights = jnp.expand_dims(cotangent, over_parameter)
        dtype = _attention.wider_dtype(g.dtype, weights.dtype)
        terms = weights.astype(dtype) * g.astype(dtype)
        if present is not None:
            terms = jnp.where(jnp.expand_dims(present, over_parameter), terms, 0.0)
        return jnp.sum(terms, axis=tuple(range(cotangent.ndim))).astype(g.dtype)

    return jax.tree.map(weighted_sum, gradients)


def _batch_size(data: Any) -> int:
    """The length of the leading axis that all leaves share."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "Every array of the batch must have the same leading axis, got leading "
            f"axes {sorted(sizes)}. With microbatch_size or dense=True the arrays of "
            "the batch are arguments, (params, x, y), of which parts can be taken. By "
            "keyword goes what has no batch axis: every part is given it as it is."
        )
    return sizes.pop()[0]
