"""The objective and its gradient, for loops that differentiate a scalar."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from absgd_jax import _attention, _check
from absgd_jax._attention import AxisName


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
      <https://arxiv.org/abs/2012.06951>`_, Eq. (6).
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
    """A part of a batch, all that the whole needs to know of it."""

    V: jax.Array  # Σ v_i, shape []
    T: jax.Array  # T_λ of its losses, shape []; anything if V is 0
    grad: Any  # ∇T, like the parameters; zero if V is 0


def _combine(a: _Part, b: _Part, lam: jax.Array) -> _Part:
    """Two parts make one: `∇T = Σ_d V_d exp((T_d − T)/λ) ∇T_d / Σ_d V_d`."""
    weights = jnp.stack([a.V, b.V])
    T, r, V = _attention.tilt(jnp.stack([a.T, b.T]), lam, weights)
    q = jnp.where(weights > 0, weights * r, 0.0)

    def mix(x: jax.Array, y: jax.Array) -> jax.Array:
        return q[0].astype(x.dtype) * x + q[1].astype(x.dtype) * y

    return _Part(V, T, jax.tree.map(mix, a.grad, b.grad))


def tilted_value_and_grad(
    per_example_loss_fn: Callable[..., Any],
    lam: ArrayLike,
    *,
    has_aux: bool = False,
    microbatch_size: int | None = None,
) -> Callable[..., tuple[Any, Any]]:
    r"""Value and gradient of the tilted loss, a microbatch at a time if need be.

    The weights need the whole batch, so gradients of microbatches cannot just be
    averaged (which is what `optax.MultiSteps` does). They can be rescaled as the parts
    arrive: parts d with weight V_d, tilted mean T_d and gradient ∇T_d combine to ::

        T = T_λ([T_d]; [V_d]),     ∇T = Σ_d V_d exp((T_d − T)/λ) ∇T_d / Σ_d V_d

    Each example goes through one forward and one backward pass; at no time does more
    than one microbatch of activations exist. Hand the result to `scale_by_attention`.

    Args:
      per_example_loss_fn: `(params, *batch) -> losses`, floating `[batch, ...]`, or
        `(losses, aux)` with `has_aux`. Every leaf of `*batch` has the batch axis first.
      lam: λ, nonzero scalar in units of loss, ±inf allowed; may be traced.
      has_aux: whether the function returns auxiliary output beside the losses.
      microbatch_size: examples per microbatch; the last may be smaller. None takes the
        batch whole. Each microbatch is normalised alone by a BatchNorm.

    Returns:
      A function `(params, *batch, where=None, sample_weights=None)` to `(T, grads)`, or
      `((T, aux), grads)`. T is a scalar, float32 or wider; `grads` is like `params`.
      Of aux, leaves with a batch axis are put together in the order of the batch; the
      others (BatchNorm's moments, say) are averaged over the examples.

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

    def part(params: Any, batch: Any, where: Any, sample_weights: Any):
        """This part's V, T and ∇T, and its aux."""

        def losses_fn(params: Any):
            output = per_example_loss_fn(params, *batch)
            return output if has_aux else (output, None)

        losses, pullback, aux = jax.vjp(losses_fn, params, has_aux=True)
        L, lam_, v = _batch(losses, lam, where, sample_weights)
        T, r, V = _attention.tilt(L, lam_, v)
        cotangent = jnp.where(v > 0, v * r, 0.0).astype(losses.dtype)
        (grad,) = pullback(cotangent)
        return _Part(V, T, grad), aux

    def value_and_grad(
        params: Any,
        *batch: Any,
        where: ArrayLike | None = None,
        sample_weights: ArrayLike | None = None,
    ) -> tuple[Any, Any]:
        data = (batch, where, sample_weights)
        size = _batch_size(data)
        if microbatch_size is None or microbatch_size >= size:
            result, aux = part(params, *data)
        else:
            result, aux = in_parts(params, data, size, microbatch_size)
        return ((result.T, aux) if has_aux else result.T), result.grad

    def in_parts(params: Any, data: Any, size: int, micro: int) -> tuple[_Part, Any]:
        even = size - size % micro
        first = jax.tree.map(lambda x: x[:even], data)
        _, aux_of_all = jax.eval_shape(part, params, *data)
        _, aux_of_one = jax.eval_shape(
            part, params, *jax.tree.map(lambda x: x[:micro], data)
        )
        # A leaf of aux has a batch axis if it shrinks with the batch.
        per_example = jax.tree.map(
            lambda a, b: a.shape != b.shape, aux_of_all, aux_of_one
        )
        kind = optax.microbatching.AccumulationType
        aux_kinds = jax.tree.map(
            lambda batched: kind.CONCAT if batched else kind.RUNNING_MEAN, per_example
        )

        def widen(tree: Any) -> Any:
            return jax.tree.map(
                lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), tree
            )

        def wide_part(*args: Any) -> tuple[_Part, Any]:
            one, aux = part(*args)
            return one._replace(grad=widen(one.grad)), aux

        def rescale(total: Any, one: Any, _: Any = None) -> Any:
            return _combine(total, one, jnp.asarray(lam).astype(one.T.dtype))

        running_rescale = optax.microbatching.Accumulator(
            init=lambda one: jax.tree.map(jnp.zeros_like, one),
            update=rescale,
            finalize=lambda total: total,
            aggregate=lambda total: total,
        )
        microbatched = optax.microbatching.microbatch(
            wide_part,
            argnums=(1, 2, 3),
            microbatch_size=micro,
            accumulator=(running_rescale, aux_kinds),
        )
        result, aux = microbatched(params, *first)
        if even < size:
            last, last_aux = wide_part(params, *jax.tree.map(lambda x: x[even:], data))
            result = rescale(result, last)
            aux = jax.tree.map(
                lambda batched, a, b: (
                    jnp.concatenate([a, b])
                    if batched
                    else (even * a + (size - even) * b) / size
                ),
                per_example,
                aux,
                last_aux,
            )
        grad = jax.tree.map(lambda g, p: g.astype(p.dtype), result.grad, params)
        return result._replace(grad=grad), aux

    return value_and_grad


def _batch_size(data: Any) -> int:
    """The length of the leading axis that all leaves share."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "Every array of the batch must have the same leading axis, got leading "
            f"axes {sorted(sizes)}."
        )
    return sizes.pop()[0]
