"""The objective and its gradient, for loops that differentiate a scalar."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from absgd_jax import _attention, _check, _devices
from absgd_jax._devices import AxisName


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
    L, lam_, v = _batch(losses, lam, where, sample_weights)
    return _attention.tilt(L, lam_, v, axis_name)[0]


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
    L, lam_, v = _batch(losses, lam, where, sample_weights)
    _, r, _ = _attention.tilt(L, lam_, v, axis_name)
    return jnp.where(v > 0, v * r, 0.0)


def _batch(
    losses: ArrayLike,
    lam: ArrayLike,
    where: ArrayLike | None,
    sample_weights: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checked L, λ and v, in one dtype of 32 bits at least."""
    _check.lam(lam)
    given = _check.losses(losses, scalar="The tilt needs the losses before their mean.")
    dtype = jnp.promote_types(given.dtype, jnp.float32)
    v = _check.example_weights(given, where, sample_weights, dtype)
    return given.astype(dtype), jnp.asarray(lam).astype(dtype), v


class _Part(NamedTuple):
    """A part of a batch, and all that the whole needs to know of it."""

    V: jax.Array  # Σ v_i, shape []
    T: jax.Array  # T_λ of its losses, shape []; anything if V is 0
    grad: Any  # ∇T, like the parameters; zero if V is 0


def _shares(
    weights: jax.Array, means: jax.Array, lam: jax.Array, axis_name: AxisName = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The whole's V and T from those of its parts, and each part's share in ∇T."""
    T, r, V = _attention.tilt(means, lam, weights, axis_name)
    return V, T, jnp.where(weights > 0, weights * r, 0.0)


def _combine(a: _Part, b: _Part, lam: jax.Array) -> _Part:
    """Two parts make one: `∇T = Σ_d V_d exp((T_d − T)/λ) ∇T_d / Σ_d V_d`."""
    V, T, q = _shares(jnp.stack([a.V, b.V]), jnp.stack([a.T, b.T]), lam)

    def mix(x: jax.Array, y: jax.Array) -> jax.Array:
        return q[0].astype(x.dtype) * x + q[1].astype(x.dtype) * y

    return _Part(V, T, jax.tree.map(mix, a.grad, b.grad))


def tilted_value_and_grad(
    per_example_loss_fn: Callable[..., Any],
    lam: ArrayLike,
    *,
    has_aux: bool = False,
    microbatch_size: int | None = None,
    dense: bool = False,
    axis_name: AxisName = None,
) -> Callable[..., tuple[Any, Any]]:
    r"""Value and gradient of the tilted loss, a microbatch at a time if need be.

    The weights need the whole batch, so gradients of microbatches cannot just be
    averaged (which is what `optax.MultiSteps` does). They can be rescaled as the parts
    arrive: parts d with weight V_d, tilted mean T_d and gradient ∇T_d combine to ::

        T = T_λ([T_d]; [V_d]),     ∇T = Σ_d V_d exp((T_d − T)/λ) ∇T_d / Σ_d V_d

    Each example goes through one forward and one backward pass; at no time does more
    than one microbatch of activations exist. Devices are parts too. Hand the result to
    `scale_by_attention`, whose `axis_name` stays None: it is global already.

    Args:
      per_example_loss_fn: `(params, *batch) -> losses`, floating `[batch, ...]`, or
        `(losses, aux)` with `has_aux`. Every leaf of `*batch` has the batch axis first.
      lam: λ, nonzero scalar in units of loss, ±inf allowed; may be traced.
      has_aux: whether the function returns auxiliary output beside the losses.
      microbatch_size: examples per microbatch; the last may be smaller. None takes the
        batch whole. A microbatch is every n-th example, so that one of a sharded batch
        is sharded alike. Each is normalised alone by a BatchNorm.
      dense: whether to make the gradient of every example by itself (`jax.vmap`), one
        microbatch of them at a time. The same result at a higher price; for networks
        in which examples do not meet.
      axis_name: axis of `jax.pmap` or `jax.shard_map` that the batch is spread over.

    Returns:
      A function `(params, *batch, where=None, sample_weights=None)` to `(T, grads)`, or
      `((T, aux), grads)`. T is a scalar, float32 or wider; `grads` is like `params`.
      Both are those of the whole batch, on every device. Of aux, leaves with a batch
      axis are put together in the order of the (local) batch; the others (BatchNorm's
      moments, say) are averaged over its examples.

    Raises:
      ValueError: λ is 0 or NaN; `microbatch_size` not positive; or, when called, shapes
        that do not fit.

    Examples:
      >>> import absgd_jax, jax, jax.numpy as jnp
      >>> x, y = jnp.arange(5.0), jnp.array([1.0, 0.0, 3.0, 2.0, 9.0])
      >>> loss_fn = lambda w, x, y: (w * x - y) ** 2
      >>> whole = absgd_jax.tilted_value_and_grad(loss_fn, lam=4.0)
      >>> parts = absgd_jax.tilted_value_and_grad(loss_fn, lam=4.0, microbatch_size=2)
      >>> value, grad = parts(jnp.array(1.0), x, y)
      >>> bool(jnp.allclose(value, whole(jnp.array(1.0), x, y)[0]))
      True
      >>> bool(jnp.allclose(grad, whole(jnp.array(1.0), x, y)[1]))
      True
    """
    _check.lam(lam)
    if microbatch_size is not None and microbatch_size < 1:
        raise ValueError(f"microbatch_size must be positive, got {microbatch_size}.")

    def losses_and_aux(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        output = per_example_loss_fn(params, *batch)
        return output if has_aux else (output, None)

    def part(
        params: Any, batch: Any, where: Any, sample_weights: Any
    ) -> tuple[_Part, Any]:
        """V, T and ∇T of some examples, and their aux."""
        if dense:
            losses, examples, aux = _one_by_one(losses_and_aux, params, batch)
            pullback = lambda weights: (contract(examples, weights, weights != 0),)
        else:
            losses, pullback, aux = jax.vjp(
                lambda params: losses_and_aux(params, batch), params, has_aux=True
            )
        L, lam_, v = _batch(losses, lam, where, sample_weights)
        T, r, V = _attention.tilt(L, lam_, v)
        cotangent = jnp.where(v > 0, v * r, 0.0)
        (grad,) = pullback(cotangent.astype(losses.dtype))
        wide = lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32))
        return _Part(V, T, jax.tree.map(wide, grad)), aux

    def value_and_grad(
        params: Any,
        *batch: Any,
        where: ArrayLike | None = None,
        sample_weights: ArrayLike | None = None,
    ) -> tuple[Any, Any]:
        data = jax.tree.map(jnp.asarray, (batch, where, sample_weights))
        size = _batch_size(data)
        # Gradients of this device's examples alone: see `_devices`.
        if axis_name is not None:
            for leaf in jax.tree.leaves(data):
                params = _devices.vary(params, leaf)
        if microbatch_size is None or microbatch_size >= size:
            whole, aux = part(params, *data)
        else:
            whole, aux = in_parts(params, data, size, microbatch_size)

        value, grad = whole.T, whole.grad
        if axis_name is not None:
            V_d, T_d = whole.V[None], whole.T[None]
            _, value, q = _shares(
                V_d, T_d, jnp.asarray(lam).astype(T_d.dtype), axis_name
            )
            grad = jax.tree.map(lambda g: q[0].astype(g.dtype) * g, grad)
            grad = _devices.sum_gradients(grad, whole.T, axis_name)
        grad = jax.tree.map(lambda g, p: g.astype(p.dtype), grad, params)
        return ((value, aux) if has_aux else value), grad

    def in_parts(params: Any, data: Any, size: int, micro: int) -> tuple[_Part, Any]:
        """A scan over the microbatches of full size, then the rest."""
        even = size - size % micro
        # Every n-th example: of a sharded batch, a microbatch that is sharded alike.
        first = jax.tree.map(
            lambda x: x.reshape(micro, -1, *x.shape[1:]).swapaxes(0, 1),
            data if even == size else jax.tree.map(lambda x: x[:even], data),
        )

        def body(total: _Part, one: Any) -> tuple[_Part, Any]:
            new, aux = part(params, *one)
            return _combine(total, new, jnp.asarray(lam).astype(new.T.dtype)), aux

        one = jax.tree.map(lambda x: x[0], first)
        nothing, _ = jax.eval_shape(part, params, *one)
        whole, aux = lax.scan(body, jax.tree.map(jnp.zeros_like, nothing), first)

        grows = _grows_with_the_batch(losses_and_aux, params, data[0])
        aux = jax.tree.map(
            lambda per_example, a: (
                a.swapaxes(0, 1).reshape(even, *a.shape[2:])
                if per_example
                else a.mean(axis=0)
            ),
            grows,
            aux,
        )
        if even == size:
            return whole, aux
        last, last_aux = part(params, *jax.tree.map(lambda x: x[even:], data))
        aux = jax.tree.map(
            lambda per_example, a, b: (
                jnp.concatenate([a, b])
                if per_example
                else (even * a + (size - even) * b) / size
            ),
            grows,
            aux,
            last_aux,
        )
        return _combine(whole, last, jnp.asarray(lam).astype(last.T.dtype)), aux

    return value_and_grad


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
