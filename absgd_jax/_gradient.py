"""The objective and its gradient, for loops that differentiate a scalar."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from absgd_jax import _attention, _check, _devices, _weights
from absgd_jax._devices import AxisName
from absgd_jax._state import attention_state


def tilted_loss(
    losses: ArrayLike,
    lam: ArrayLike,
    *,
    where: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""The tilted mean of a batch: ABSGD's objective in place of `losses.mean()`.

    `T_λ(L; v) = λ log( Σ v_i exp(L_i/λ) / Σ v_i )`. It lies between the smallest and
    the largest loss, grows with λ⁻¹, and is the weighted mean at λ = ±∞; accurate to
    1e-6 in float32 for every λ between. Differentiable in losses, λ and weights, to
    any order; its gradient in the losses is `attentional_weights`.

    Args:
      losses: L, floating, any shape `[*batch]`.
      lam: λ, nonzero scalar in units of loss, ±inf allowed; may be traced.
      where: bool `[*batch]`, False for padding, whose losses may be anything.
      sample_weights: v, `[*batch]`, not negative; default 1.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.
        The result is then that of the whole batch, on every device, and differentiates
        like any `jax.lax.psum`: under `shard_map` the gradient of replicated
        parameters is the global one; under `pmap` take `jax.lax.pmean` of it, as of
        any other gradient.

    Returns:
      T, scalar, float32 (float64 for float64 losses). NaN, with a gradient of zero, if
      every example is masked; NaN, with a gradient of NaN, if a loss is not finite.

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
    L, lam_, v = _batch("tilted_loss", losses, lam, where, sample_weights)
    tilt = _attention.tilt(L, lam_, v, axis_name)
    return jnp.where(tilt.V > 0, tilt.T, jnp.nan)


def attentional_weights(
    losses: ArrayLike,
    lam: ArrayLike,
    *,
    where: ArrayLike | None = None,
    sample_weights: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""The weights that are optimal for one batch on its own (Eq. 5).

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
    L, lam_, v = _batch("attentional_weights", losses, lam, where, sample_weights)
    return _weights.tilt_batch(L, lam_, v, axis_name=axis_name).shares


def _batch(
    name: str,
    losses: ArrayLike,
    lam: ArrayLike,
    where: ArrayLike | None,
    sample_weights: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checked L, λ and v, in one dtype of 32 bits at least."""
    _check.number_lam(name, lam)
    L, v = _weights.checked_batch(
        losses,
        where,
        sample_weights,
        jnp.float32,
        scalar="The tilt needs the losses before their mean.",
    )
    return L, jnp.asarray(lam).astype(L.dtype), v


class TiltedValue(NamedTuple):
    """The value that `tilted_value_and_grad` returns, for `update(..., value=)`."""

    tilted_loss: jax.Array  # float32 []: T_λ of the whole batch; NaN if all is masked
    mean_loss: jax.Array  # float32 []: Σ v_i L_i / Σ v_i, for the log
    kl: jax.Array  # float32 []: divergence of the batch's own weights from uniform
    high: jax.Array  # float32 []: largest loss
    low: jax.Array  # float32 []: smallest loss
    max_weight: jax.Array | None = None  # float32 []: the bound that was kept, if any
    # float32 []: T_λ without the bound, which a radius with a bound follows.
    unbounded: jax.Array | None = None


class _Part(NamedTuple):
    """A part of a batch, and all that the whole needs to know of it."""

    tilt: _attention.Tilt  # without its r
    grad: Any  # Σ shares_i ∇L_i, like the parameters; zero without examples


def _mix(a: _Part, b: _Part, lam: jax.Array) -> _Part:
    """Two parts make one."""
    tilt, shares = _attention.combine(a.tilt, b.tilt, lam)
    grad = jax.tree.map(lambda x, y: shares[0] * x + shares[1] * y, a.grad, b.grad)
    return _Part(tilt._replace(r=None), grad)


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
    r"""Value and gradient of the tilted loss, in place of `jax.value_and_grad`.

    For loops whose optimizer takes a gradient (`nnx.Optimizer`, a `TrainState`): write
    a function that returns the losses before their mean, and hand value and gradient
    to `absgd`, `abadam` or `scale_by_attention`::

        value, grads = tilted_value_and_grad(loss_fn, opt_state)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params, value=value)

    λ, and the bound on the weights if there is one, are read from the optimizer state,
    so that they are those that `update` counts on.

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

    Args:
      per_example_loss_fn: `(params, *batch) -> losses`, floating `[batch, ...]`, or
        `(losses, aux)` with `has_aux`. With microbatches every leaf of `*batch` has the
        batch axis first.
      lam: an optimizer state that holds an `AttentionState`; or λ itself, a nonzero
        scalar in units of loss, ±inf allowed, which may be traced.
      has_aux: whether the function returns auxiliary output beside the losses.
      microbatch_size: examples per microbatch; the last may be smaller. None takes the
        batch whole. A microbatch is every n-th example, so that one of a sharded batch
        is sharded alike. Each is normalised alone by a BatchNorm.
      dense: whether to make the gradient of every example by itself (`jax.vmap`), one
        microbatch of them at a time. The same result at a higher price; for networks
        in which examples do not meet.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.
        Value and gradient are then those of the whole batch, on every device: no
        `pmean` of them, and no `axis_name` for `scale_by_attention`.
      value_and_grad: the framework's own: `flax.nnx.value_and_grad`,
        `equinox.filter_value_and_grad`. It is called as `value_and_grad(function,
        has_aux=True)(params, *batch)`.

    Returns:
      A function `(params, *batch, where=None, sample_weights=None)` to `(value,
      grads)`, or `((value, aux), grads)`. The value is a `TiltedValue`: the tilted loss
      for `update(..., value=value)`, and the mean loss for the log. `grads` is like
      `params`. Both are those of the whole batch, on every device. Of aux, leaves with
      a batch axis are put together in the order of the (local) batch; the others
      (BatchNorm's moments, say) are averaged over its examples.

    Raises:
      ValueError: λ is 0 or NaN; `microbatch_size` not positive; no `AttentionState` in
        the optimizer state; or, when called, shapes that do not fit.
      TypeError: λ is a schedule; the losses are not a floating-point array; a module of
        Flax NNX without `value_and_grad=nnx.value_and_grad`.

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
    state, bound = None, None
    if not _check.is_number(lam):
        state = attention_state(lam)
        lam, bound = state.lam, state.bound
    _check.number_lam("tilted_value_and_grad", lam)
    _check.microbatch_size(microbatch_size)

    def losses_and_aux(params: Any, batch: Any) -> tuple[Any, Any]:
        output = per_example_loss_fn(params, *batch)
        _check.losses_of_function(output, has_aux)
        return output if has_aux else (output, None)

    def tilt_whole(losses: jax.Array, v: jax.Array) -> _weights.Tilted:
        lam_ = jnp.asarray(lam).astype(losses.dtype)
        return _weights.tilt_batch(losses, lam_, v, state, bound, axis_name)

    def piece(params: Any, data: _Data) -> _Piece:
        """What some of the examples have in value and gradient."""

        def objective(losses: jax.Array) -> tuple[jax.Array, Any]:
            L, v = data.checked(losses)
            fixed = lax.stop_gradient(L)
            if data.shares is None:
                tilt, shares = tilt_whole(fixed, v)
                tilt = tilt._replace(r=None)
            else:  # and the tilt is known
                tilt, shares = None, data.shares
            total = jnp.sum(jnp.where(v > 0, shares * L, 0.0))
            return total, (shares, tilt, jnp.sum(fixed))

        if dense:
            losses, examples, aux = _one_by_one(losses_and_aux, params, data.batch)
            _, (shares, tilt, like) = objective(losses)
            grad = contract(examples, shares, shares != 0)
            return _Piece(_Part(tilt, grad), aux, like)

        def scalar(params: Any, *batch: Any) -> tuple[jax.Array, Any]:
            losses, aux = losses_and_aux(params, batch)
            total, (_, tilt, like) = objective(losses)
            return total, (tilt, aux, like)

        differentiated = value_and_grad(scalar, has_aux=True)
        (_, (tilt, aux, like)), grad = differentiated(params, *data.batch)
        return _Piece(_Part(tilt, grad), aux, like)

    def call(
        params: Any,
        *batch: Any,
        where: ArrayLike | None = None,
        sample_weights: ArrayLike | None = None,
    ) -> tuple[Any, Any]:
        _check.differentiates(value_and_grad, params)
        data = _Data(batch, where, sample_weights)
        if microbatch_size is not None or dense:
            data = jax.tree.map(jnp.asarray, data)
            # `shard_map` would sum the gradients of each part over the devices.
            if axis_name is not None:
                for leaf in jax.tree.leaves(data):
                    params = _devices.vary(params, leaf)
        if microbatch_size is None or microbatch_size >= _batch_size(data):
            whole = piece(params, data)
        else:
            whole = in_parts(params, data, _Cut(_batch_size(data), microbatch_size))
        part, aux, like = whole
        grad = _devices.sum_gradients(part.grad, like, axis_name)
        tilt, some = part.tilt, part.tilt.V > 0
        value = TiltedValue(
            tilted_loss=jnp.where(some, tilt.T, jnp.nan),
            mean_loss=jnp.where(some, tilt.mean, jnp.nan),
            kl=tilt.kl,
            high=tilt.high,
            low=tilt.low,
            max_weight=None if bound is None else bound.max_weight,
            unbounded=tilt.unbounded,
        )
        return ((value, aux) if has_aux else value), grad

    def in_parts(params: Any, data: _Data, cut: _Cut) -> _Piece:
        """A scan over the microbatches of full size, then the rest."""
        known = None
        if bound is not None:
            losses = cut.map(lambda one: losses_and_aux(params, one)[0], data.batch)
            known = tilt_whole(*data.checked(losses))
            data = data._replace(shares=known.shares)

        def wide_piece(one: _Data) -> _Piece:
            new = piece(params, one)
            wide = lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32))
            grad = jax.tree.map(wide, new.part.grad)
            return new._replace(part=new.part._replace(grad=grad))

        def merge(a: _Part, b: _Part) -> _Part:
            if known is not None:  # the shares are those of the whole batch already
                return jax.tree.map(jnp.add, a, b)
            return _mix(a, b, jnp.asarray(lam).astype(b.tilt.T.dtype))

        def body(total: _Part, one: _Data) -> tuple[_Part, Any]:
            part, aux, like = wide_piece(one)
            return merge(total, part), (aux, like)

        first, rest = cut.parts(data)
        one = jax.tree.map(lambda x: x[0], first)
        nothing = jax.eval_shape(wide_piece, one).part
        total, (aux, likes) = lax.scan(
            body, jax.tree.map(jnp.zeros_like, nothing), first
        )
        rest_aux = None
        if rest is not None:
            part, rest_aux, _ = wide_piece(rest)
            total = merge(total, part)
        if known is not None:
            total = total._replace(tilt=known.tilt._replace(r=None))
        dtypes = jax.eval_shape(piece, params, one).part.grad
        grad = jax.tree.map(lambda g, like: g.astype(like.dtype), total.grad, dtypes)
        grows = _grows_with_the_batch(losses_and_aux, params, data.batch)
        joined = jax.tree.map(
            cut.join, grows, aux, *(() if rest is None else (rest_aux,))
        )
        return _Piece(total._replace(grad=grad), joined, jnp.sum(likes))

    return call


class _Data(NamedTuple):
    """What some of the examples are; every leaf has the batch axis first."""

    batch: Any
    where: Any
    sample_weights: Any
    shares: Any = None  # ∂T/∂L_i of the whole batch, where that is known already

    def checked(self, losses: ArrayLike) -> tuple[jax.Array, jax.Array]:
        return _weights.checked_batch(
            losses,
            self.where,
            self.sample_weights,
            jnp.float32,
            scalar="The tilt needs the losses before their mean.",
        )


class _Piece(NamedTuple):
    """Some of the examples, differentiated."""

    part: _Part
    aux: Any
    like: jax.Array  # [], varies from device to device as the losses do


class _Cut(NamedTuple):
    """How a batch is cut into microbatches: every n-th example.

    Of a batch that is spread over devices, each microbatch is then spread alike.
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
        mean = stacked.mean(axis=0)
        for last in rest:
            mean = (even * mean + (self.size - even) * last) / self.size
        return mean

    def map(self, function: Callable[[Any], jax.Array], data: Any) -> jax.Array:
        """A function of a microbatch on all of them, in the order of the batch."""
        first, rest = self.parts(data)
        last = () if rest is None else (function(rest),)
        return self.join(True, lax.map(function, first), *last)


_LossesAndAux = Callable[[Any, Any], tuple[jax.Array, Any]]


def _grows_with_the_batch(
    losses_and_aux: _LossesAndAux, params: Any, batch: Any
) -> Any:
    """For each leaf of aux, whether it has a batch axis. Only shapes are computed."""

    def of_twice(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
        return losses_and_aux(params, twice)

    _, shorter = jax.eval_shape(losses_and_aux, params, batch)
    _, longer = jax.eval_shape(of_twice, params, batch)
    return jax.tree.map(lambda a, b: a.shape != b.shape, shorter, longer)


def _one_by_one(
    losses_and_aux: _LossesAndAux, params: Any, batch: Any
) -> tuple[jax.Array, Any, Any]:
    """Losses, per-example gradients and aux, each example as a batch of one."""

    def of_one(params: Any, example: Any) -> tuple[jax.Array, Any]:
        losses, aux = losses_and_aux(params, jax.tree.map(lambda x: x[None], example))
        if losses.shape != (1,):
            raise ValueError(
                "dense gradients need one loss per example: a batch of one gave losses "
                f"of shape {losses.shape}."
            )
        return losses[0], (losses[0], aux)

    gradients, (losses, aux) = jax.vmap(
        jax.grad(of_one, has_aux=True), in_axes=(None, 0)
    )(params, batch)
    grows = _grows_with_the_batch(losses_and_aux, params, batch)
    aux = jax.tree.map(
        lambda per_example, a: a[:, 0] if per_example else a.mean(axis=0), grows, aux
    )
    return losses, gradients, aux


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
        dtype = jnp.promote_types(g.dtype, weights.dtype)
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
            f"axes {sorted(sizes)}."
        )
    return sizes.pop()[0]
