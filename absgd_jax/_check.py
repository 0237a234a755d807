"""Refusals: every check that quotes a value and the rule it breaks.

Concrete values, of Python, NumPy or JAX, are checked when a transform is built, shapes
and dtypes when it is traced. A traced value has no value yet and passes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from absgd_jax._devices import AxisName, already_summed, axis_names, devices, varies

_SCALAR, _SCHEDULE = "a scalar", "a scalar or a schedule"
_MAKERS_OF_LAM = (
    ("absgd_jax._radius", "kl_radius"),
    ("absgd_jax._schedules", "two_stage"),
    ("absgd_jax._schedules", "anneal"),
)
_Number: Any = bool | int | float | complex | np.generic | np.ndarray | jax.Array


def _concrete(name: str, value: Any, kind: str = _SCHEDULE) -> Any:
    """The scalar as a float, or None where it is traced or may be a schedule and is."""
    if not isinstance(value, _Number):
        if callable(value) and kind == _SCHEDULE:
            name_of_it = getattr(value, "__qualname__", None)
            if (value.__module__, name_of_it) in _MAKERS_OF_LAM:
                raise TypeError(
                    f"{name} must be {kind}, got the function {value.__name__} itself; "
                    f"give what it returns, {value.__name__}(...)."
                )
            return None
        raise TypeError(
            f"{name} must be {kind}, got {value!r} of type {type(value).__name__}."
        )
    if jnp.ndim(value) != 0:
        raise ValueError(f"{name} must be {kind}, got shape {jnp.shape(value)}.")
    if isinstance(value, Tracer):
        return None
    if jnp.iscomplexobj(value):
        raise TypeError(f"{name} must be a real number, got {value}.")
    return float(value)


def lam(value: Any, *, name: str = "lam", kind: str = _SCHEDULE) -> None:
    """λ: a nonzero number, ±inf included."""
    number = _concrete(name, value, kind)
    if number is not None and not abs(number) >= np.finfo(np.float32).tiny:
        raise ValueError(
            f"{name} must be nonzero (at least 1.2e-38 in size; ±inf is plain SGD), "
            f"got {number}."
        )


def number_lam(function: str, value: Any) -> None:
    """λ as a number, where a schedule or a radius has no step to follow."""
    if callable(value) or hasattr(value, "rho"):  # a KLRadius, built on this module
        kind = "schedule" if callable(value) else "radius"
        raise TypeError(
            f"{function} takes λ as a number, got the {kind} {value!r}. A {kind} "
            "belongs to the transform; read its λ of this step from the optimizer "
            "state: attention_state(opt_state).lam."
        )
    lam(value, kind=_SCALAR)


def stage(name: str, value: Any) -> None:
    """λ before or after a schedule, which is not one itself."""
    if callable(value):
        raise TypeError(
            f"{name} must be {_SCALAR}, got the function {value!r}. One schedule after "
            "another is optax.join_schedules."
        )
    lam(value, name=name, kind=_SCALAR)


def rho(value: Any) -> None:
    """ρ: nats of a radius."""
    number = _concrete("rho", value, _SCALAR)
    if number is not None and not 0.0 < number < math.inf:
        raise ValueError(f"rho must be positive and finite, got {number}.")


def fraction(value: Any) -> float | None:
    """The share of a batch that still counts, as a float; None where it is traced."""
    number = _concrete("fraction", value, _SCALAR)
    if number is not None and not 0.0 < number < 1.0:
        raise ValueError(f"fraction must lie in (0, 1), got {number}.")
    return number


def gamma(value: Any, *, name: str = "gamma") -> None:
    """γ: a share, in (0, 1]."""
    number = _concrete(name, value)
    if number is not None and not 0.0 < number <= 1.0:
        raise ValueError(f"{name} must lie in (0, 1], got {number}.")


def init_s(value: ArrayLike | None) -> None:
    """s_0: not negative; None leaves it out."""
    number = None if value is None else _concrete("init_s", value, "a scalar or None")
    if number is not None and not 0.0 <= number < math.inf:
        raise ValueError(
            f"init_s must be a finite number that is not negative, or None, "
            f"got {number}."
        )


def max_weight(value: ArrayLike | None) -> None:
    """The bound on p_i: at least the average weight, which is 1; None is no bound."""
    number = (
        None if value is None else _concrete("max_weight", value, "a scalar or None")
    )
    if number is not None and not number >= 1.0:
        raise ValueError(
            "max_weight must be at least 1, for weights average one and cannot all be "
            f"smaller, or None; got {number}."
        )


def bound_of_values(init_s: ArrayLike | None, max_weight: ArrayLike | None) -> None:
    """A bound on weights that `value=` can keep, which needs s_0 = None."""
    if init_s is not None and max_weight is not None:
        raise ValueError(
            f"max_weight={max_weight} with `value=` needs init_s=None, got "
            f"init_s={init_s}: s_0 scales all weights after the losses were limited. "
            "Leave init_s out, or give `losses=` and the pullback of jax.vjp."
        )


def radius_without_init_s(init_s: ArrayLike | None) -> None:
    """A λ that follows the weights needs weights that average one."""
    if init_s is not None:
        raise ValueError(
            f"init_s must be None with kl_radius or effective_fraction, got {init_s}: "
            "λ follows how the weights spread around their average, which s_0 moves."
        )


def plain_first(first: ArrayLike) -> None:
    """A first stage of plain SGD, which a radius needs."""
    if not np.isinf(first):
        raise ValueError(
            f"first must be inf or -inf where kl_radius comes second, got {first}: λ "
            "takes its first size from the losses at the switch."
        )


def same_shape(name: str, array: jax.Array, other: str, like: jax.Array) -> None:
    """Two arrays with one entry for each example."""
    if array.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of {other}, {like.shape}, got {array.shape}."
        )


def microbatch_size(value: int | None) -> None:
    """Examples in a microbatch."""
    if value is not None and value < 1:
        raise ValueError(f"microbatch_size must be positive, got {value}.")


def scalar(name: str, array: jax.Array) -> None:
    """A floating-point scalar that an update is given."""
    if array.ndim != 0:
        raise ValueError(f"{name} must be a scalar, got shape {array.shape}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got dtype {array.dtype}.")


_SWALLOWED = (
    " If you passed it to TrainState.apply_gradients: Flax hands extra arguments to "
    "TrainState.replace and not to the optimizer. Call state.tx.update(..., {given}) "
    "yourself, or override apply_gradients."
)


def missing_losses(name: str, value: Any) -> Exception:
    """The error for an aggregation without losses."""
    by_losses = "update(pullback, state, params, losses=losses)"
    if value is not None:
        return TypeError(
            f"{name} was given `value` and no losses: with the value and gradient of "
            "tilted_value_and_grad take scale_by_attention; this one takes a pullback, "
            f"{by_losses}."
        )
    if name == "attentional_aggregate":
        needs, given = f"the keyword argument 'losses': {by_losses}", "losses=losses"
    else:
        needs, given = (
            "the keyword argument 'value', with the gradient, both of "
            "tilted_value_and_grad: update(grads, state, params, value=value); or "
            f"'losses', with the pullback of jax.vjp: {by_losses}",
            "value=value",
        )
    return TypeError(f"{name}.update needs {needs}." + _SWALLOWED.format(given=given))


def missing_value(name: str, losses: Any) -> Exception:
    """The error for a rescaling without a value."""
    if losses is not None:
        return TypeError(
            f"{name} was given `losses` and no value: with losses and their pullback "
            "take attentional_aggregate; this one takes value and gradient of "
            "tilted_value_and_grad, update(grads, state, params, value=value)."
        )
    return TypeError(
        f"{name}.update needs the keyword argument 'value', that of "
        "tilted_value_and_grad or of tilted_loss: update(grads, state, params, "
        "value=value)." + _SWALLOWED.format(given="value=value")
    )


def plain_value(name: str, value: Any) -> Exception:
    """The error for a number where the gradient may be that of any mean."""
    return TypeError(
        f"{name} takes as `value` the TiltedValue of tilted_value_and_grad(loss_fn, "
        f"opt_state), with its gradient, got {_describe(value)}: the gradient of a "
        "plain mean would be multiplied by noise. For that of tilted_loss, "
        "differentiated by hand, take optax.chain(scale_by_attention(...), ...)."
    )


def function_with_value(name: str) -> Exception:
    """The error for a pullback where a gradient is needed."""
    return TypeError(
        f"{name} takes a gradient with `value=`, not a function; give a pullback "
        "with `losses=` to attentional_aggregate, absgd or abadam."
    )


def unlimited_value(name: str) -> Exception:
    """The error for the value of losses that were not limited to the bound."""
    return TypeError(
        f"{name} has a max_weight, so `value` must be that of "
        "tilted_value_and_grad(loss_fn, opt_state), which reads the bound from the "
        "optimizer state and limits the losses; got one that was made without it."
    )


def unfollowed_value(name: str) -> Exception:
    """The error for a value that lacks the KL divergence which λ follows."""
    return TypeError(
        f"{name} has a λ that follows a radius, so `value` must be that of "
        "tilted_value_and_grad(loss_fn, opt_state), which says how the weights are "
        "spread; got a number. With axis_name too: the value of the whole batch is "
        "needed, of tilted_value_and_grad(axis_name=)."
    )


def value_of_part(name: str) -> Exception:
    """The error for losses that were limited to the bound of a part of the batch."""
    return TypeError(
        f"{name} has a max_weight and an axis_name, so `value` must be that of the "
        "whole batch, of tilted_value_and_grad(axis_name=); got that of one device's "
        "part, whose losses were limited as if it were the batch."
    )


_INTO_NNX = (
    "nnx.Optimizer.update takes a pullback apart: take value and gradient of "
    "tilted_value_and_grad(..., value_and_grad=nnx.value_and_grad) and call "
    "optimizer.update(model, grads, value=value)."
)


def not_empty(name: str, updates: Any, params: Any) -> None:
    """Updates whose arrays the framework has kept."""
    if callable(updates) or jax.tree.leaves(updates) or not jax.tree.leaves(params):
        return
    raise TypeError(
        f"{name} was given updates without a single array for params that have some. "
        + _INTO_NNX
    )


def weighted_before(name: str, **arguments: ArrayLike | None) -> None:
    """Arguments of the loss function's value, which come too late for its gradient."""
    given = [key for key, argument in arguments.items() if argument is not None]
    if given:
        raise TypeError(
            f"{name}.update takes no {' and '.join(given)} with `value=`: the gradient "
            "is made with them already, by tilted_value_and_grad(...)(params, *batch, "
            f"{given[0]}={given[0]})."
        )


def losses(array: jax.Array, reason: str) -> None:
    """Per-example losses: a floating-point array with a batch axis."""
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.itemsize < 2:
        raise TypeError(
            "losses must be floating point, of 16 bits or more, got dtype "
            f"{array.dtype}."
        )
    if array.ndim == 0:
        raise ValueError(f"losses must have a batch axis, got a scalar. {reason}")
    if array.size == 0:
        raise ValueError(
            f"losses must hold at least one example, got shape {array.shape}. Skip an "
            "empty batch, or pad it and mask the padding with `where`."
        )


def dense_by_jax(dense: bool, value_and_grad: Any) -> None:
    """Per-example gradients, which are those of `jax.grad`."""
    if dense and value_and_grad is not jax.value_and_grad:
        raise TypeError(
            "dense=True takes jax.vmap of jax.grad and would ignore value_and_grad="
            f"{value_and_grad!r}. Leave one of them out. Of a module give the arrays, "
            "by equinox.partition or flax.nnx.split, and put it together inside the "
            "loss function."
        )


def differentiates(value_and_grad: Any, model: Any, in_parts: bool) -> None:
    """A transform that fits the model: NNX's or Equinox's own for their modules."""
    module = _first_module(model, "flax.nnx")
    if module is not None and in_parts:
        raise TypeError(
            f"tilted_value_and_grad was given {type(module).__name__}, a module of "
            "Flax NNX, which would change inside a loop over parts of the batch. With "
            "microbatch_size or dense=True leave out value_and_grad= and give its "
            "parameters: `graph, params, rest = nnx.split(model, nnx.Param, ...)`, and "
            "`nnx.merge(graph, params, rest, copy=True)` inside the loss function. "
            "(Statistics and random keys then stay as they were.)"
        )
    if module is not None and value_and_grad is jax.value_and_grad:
        raise TypeError(
            f"tilted_value_and_grad was given {type(module).__name__}, a module of "
            "Flax NNX, and would differentiate a copy of it whose statistics and "
            "random keys are thrown away. Say value_and_grad=nnx.value_and_grad."
        )
    floating = lambda leaf: (
        hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    )
    module = _first_module(model, "equinox")
    if (
        module is not None
        and value_and_grad is jax.value_and_grad
        and not all(map(floating, jax.tree.leaves(module)))
    ):
        raise TypeError(
            f"tilted_value_and_grad was given {type(module).__name__}, a module of "
            "Equinox with leaves that are no floating-point arrays. Say value_and_grad="
            "equinox.filter_value_and_grad; or, with dense=True, give the arrays of "
            "equinox.partition(model, equinox.is_inexact_array)."
        )


def _first_module(model: Any, package: str) -> Any:
    """The model if it is a module of the package, or the first in a tuple or dict."""

    def is_module(node: Any) -> bool:
        return any(
            base.__name__ == "Module" and base.__module__.startswith(package)
            for base in type(node).__mro__
        )

    nodes = jax.tree.leaves(model, is_leaf=is_module)
    return next(filter(is_module, nodes), None)


def losses_of_function(output: Any, has_aux: bool) -> None:
    """A per-example loss function that returns losses, or (losses, aux)."""
    if has_aux:
        if not (isinstance(output, tuple) and len(output) == 2):
            raise TypeError(
                "With has_aux=True the loss function must return (losses, aux), got "
                f"{_describe(output)}."
            )
        output = output[0]
    elif isinstance(output, tuple | list | dict):
        raise TypeError(
            f"The loss function must return an array of losses, got {_describe(output)}"
            ". With has_aux=True it may return (losses, aux). It is not differentiated "
            "before: give eqx.filter_value_and_grad or nnx.value_and_grad as "
            "value_and_grad=."
        )
    if not hasattr(output, "dtype"):
        raise TypeError(
            "The loss function must return an array of losses, one per example, got "
            f"{_describe(output)}."
        )


def _describe(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"


def averaged(path: Any, leaf: Any) -> None:
    """A leaf of aux without a batch axis, of which microbatches have the mean."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        raise TypeError(
            f"aux{jax.tree_util.keystr(path)}, {leaf.dtype} of shape {leaf.shape}, has "
            "neither a batch axis nor a mean, and with microbatch_size or dense=True "
            "aux is put together from that of parts. Return it per example (`pred == y`"
            " for a number of hits) or as a floating-point mean, or leave it out."
        )


def batch_first(path: Any, leaf: Any, shape: tuple[int, ...]) -> None:
    """A leaf of aux that has one entry for each example, on its first axis."""
    if leaf.shape != shape:
        raise ValueError(
            f"aux{jax.tree_util.keystr(path)} of shape {leaf.shape} grows with the "
            f"batch, and must then have the batch axis first, as {shape}: with "
            "microbatch_size or dense=True aux is put together from that of parts."
        )


def sample_weights(array: jax.Array, losses: jax.Array) -> None:
    """Sample weights v: one for each loss, none negative or NaN, with a finite sum."""
    same_shape("sample_weights", array, "losses", losses)
    if jnp.iscomplexobj(array):
        raise TypeError(f"sample_weights must be real, got dtype {array.dtype}.")
    if isinstance(array, Tracer) or not array.is_fully_addressable:
        return
    # On the host, because under `jax.jit` a comparison of constants is traced.
    values = np.asarray(array, np.float64)
    if not (values >= 0).all():
        raise ValueError(
            f"sample_weights must not be negative or NaN, got {np.min(values)}."
        )
    if values.sum() > np.finfo(np.float32).max:
        raise ValueError(
            "sample_weights must have a sum below 3.4e38, the largest float32, got "
            f"{np.max(values)} among them."
        )


def where(mask: jax.Array, losses: jax.Array) -> None:
    """A mask of the examples: one boolean for each loss."""
    same_shape("where", mask, "losses", losses)
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"where must be boolean, got dtype {mask.dtype}: of a mask of zeros and "
            "ones give mask > 0."
        )


def whole_tree(name: str, updates: Any) -> None:
    """The updates of every parameter, none of them masked."""
    leaves = jax.tree.leaves(updates, is_leaf=_is_masked)
    if any(_is_masked(leaf) for leaf in leaves):
        after = f"optax.chain({name}(...), optax.partition(...))"
        if name in ("absgd", "abadam"):  # which multiply by the learning rate already
            after = (
                "optax.chain(scale_by_attention(...), optax.partition({'trained': "
                "optax.sgd(...), ...}, labels)) with value=, or attentional_aggregate "
                "with losses=. Or freeze what is not to be trained: "
                f"optax.chain({name}(...), optax.masked(optax.set_to_zero(), frozen))"
            )
        raise ValueError(
            f"{name} was given a tree with masked leaves. Inside optax.masked or "
            "optax.partition it would treat some parameters and leave the others as "
            f"they are. Mask after attention: {after}."
        )


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def differentiable(name: str, gradients: Any) -> None:
    """Gradients of floating-point parameters."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        if not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{name} takes a pullback, which is what jax.vjp returns, or a tree of "
                f"arrays; {_name(path)} is {_describe(leaf)}."
            )
        if leaf.dtype == jax.dtypes.float0:
            raise TypeError(
                f"{name} was given a gradient of dtype float0 at {_name(path)}: its "
                "parameter is an integer or a random key, which has no gradient. "
                "Differentiate the floating-point leaves only: equinox.partition("
                "model, equinox.is_inexact_array), or nnx.split(model, nnx.Param, ...)."
            )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "the gradient"


def _same_structure(kind: str, gradients: Any, params: Any, more: str = "") -> None:
    """Gradients with the leaves that params has, or an error that names one."""
    if params is None or jax.tree.structure(params) == jax.tree.structure(gradients):
        return
    paths = [
        {jax.tree_util.keystr(path) for path, _ in tree}
        for tree in map(jax.tree_util.tree_leaves_with_path, (params, gradients))
    ]
    missing, unexpected = sorted(paths[0] - paths[1]), sorted(paths[1] - paths[0])
    details = [
        f"{text} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for text, names in (("they lack", missing), ("they add", unexpected))
        if names
    ] or [f"{jax.tree.structure(params)} is not {jax.tree.structure(gradients)}"]
    raise ValueError(
        f"{kind} must have the structure of params: {'; '.join(details)}. "
        f"Differentiate with respect to the tree that init was given.{more}"
    )


def dense_gradients(name: str, gradients: Any, losses: jax.Array, params: Any) -> None:
    """Per-example gradients: in each leaf the batch axes come before the parameter."""
    _same_structure("Per-example gradients", gradients, params, f" {_INTO_NNX}")
    shapes = None if params is None else [jnp.shape(p) for p in jax.tree.leaves(params)]
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(gradients)):
        shape = jnp.shape(leaf)
        if shape[: losses.ndim] != losses.shape:
            raise ValueError(
                f"{name} takes one gradient per loss: {_name(path)} has shape "
                f"{shape}, which does not begin with the losses' shape {losses.shape}. "
                "Pass the pullback that jax.vjp returns or the gradients of "
                "jax.vmap(jax.grad(...)); an ordinary gradient goes with `value=`, "
                "both of tilted_value_and_grad, to scale_by_attention, absgd or abadam."
            )
        if shapes is not None and shape != losses.shape + shapes[i]:
            raise ValueError(
                f"The per-example gradient {_name(path)} must have shape "
                f"{losses.shape + shapes[i]} (losses, then parameter), got {shape}."
            )


def mapped(axis_name: AxisName) -> None:
    """An axis that is mapped where the function is called."""
    try:
        devices(axis_name)
    except NameError as error:
        raise NameError(
            f"axis_name={axis_name!r} is mapped by no jax.pmap or jax.shard_map around "
            "this call: call it in one that has an axis of that name, or leave "
            "axis_name out. Sharded arrays under jax.jit need none."
        ) from error


def attention_state(call: str, state: Any) -> None:
    """The state of attention, not losses or what a checkpoint made of it."""
    if not hasattr(state, "tilted_loss"):
        raise TypeError(
            f"{call} takes an AttentionState, which init() or the step before "
            f"returned, got {_describe(state)}."
        )


def value_of_state(name: str, value: Any, state: Any) -> jax.Array:
    """Whether a value is of an earlier state with another λ or bound, bool `[]`.

    ValueError if that is known.
    """
    if value.count is None:
        return jnp.bool_(False)
    stale = value.count != state.count
    if value.max_weight is None:  # a λ that stays as it is is that of any state
        stale &= jnp.float32(value.lam) != jnp.float32(state.lam)
    if not isinstance(stale, Tracer) and stale:
        raise ValueError(
            f"{name} got a value of the state after {value.count} updates, with λ = "
            f"{value.lam}, and the state after {state.count}, with λ = {state.lam}. "
            "Call tilted_value_and_grad(loss_fn, opt_state) in every step, with the "
            "state that update gets: it reads λ and the bound on the weights at once."
        )
    return stale


def losses_of_examples(losses: Any, examples: int) -> None:
    """Losses of a microbatch, as many of each example: no mean that kept its axis."""
    if losses.size % examples:
        raise ValueError(
            "The loss function must return one loss per example, or several of each: "
            f"a microbatch of {examples} examples gave losses of shape {losses.shape}."
        )


def differentiated(output: Any) -> None:
    """What `value_and_grad` with an aux returns."""
    if not (isinstance(output, tuple) and len(output) == 2):
        raise TypeError(
            "value_and_grad must return ((value, aux), gradient), got "
            f"{_describe(output)}. One that returns more, such as that of Flax's "
            "DynamicScale, needs the weights of absgd_jax.attention in its loss."
        )


def whole_params(name: str, params: Any, axis_name: AxisName) -> None:
    """Parameters that every device of the axis has, by the types of shard_map."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, jax.Array) and varies(leaf, axis_name):
            raise ValueError(
                f"{name} sums gradients over axis_name={axis_name!r}, and params"
                f"{jax.tree_util.keystr(path)} differs from device to device. Where "
                "that is a part of one parameter (FSDP), its gradient is summed when "
                "the parts are gathered: take attention(axis_name="
                f"{axis_name!r}), or arrays that are sharded under jax.jit, without "
                "axis_name. Where every device has a copy, give it to shard_map with "
                "in_specs=PartitionSpec()."
            )


def value_of_axes(name: str, given: AxisName, axis_name: AxisName) -> None:
    """A value of the whole batch, where the transform was made for a mapped one."""
    if missing := axis_names(axis_name) - axis_names(given):
        raise ValueError(
            f"{name} has axis_name={axis_name!r}, and `value` was made by "
            f"tilted_value_and_grad with axis_name={given!r}: without "
            f"{', '.join(map(repr, sorted(missing)))} it is that of this device's part "
            "of the batch, and each device would make an update of its own. Call "
            f"tilted_value_and_grad(..., axis_name={axis_name!r}), and leave out the "
            "pmean of its gradient."
        )


def local_gradients(gradients: Any, like: jax.Array, axis_name: AxisName) -> None:
    """Gradients of this device's examples, which shard_map has not summed."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        if already_summed(leaf, like, axis_name):
            raise ValueError(
                f"{jax.tree_util.keystr(path) or 'The gradient'} is summed over "
                f"{axis_name!r} already, so its parts can no longer be weighted: "
                "shard_map sums the gradients of parameters that do not vary. Pass the "
                "pullback of jax.vjp to attentional_aggregate; or the gradient of "
                f"tilted_loss(..., axis_name={axis_name!r}) to scale_by_attention("
                "axis_name=None); or differentiate with respect to "
                f"jax.lax.pcast(params, {axis_name!r}, to='varying') (before JAX "
                f"0.8.2: jax.lax.pvary(params, {axis_name!r}))."
            )


def ordinary_gradients(name: str, gradients: Any, params: Any) -> None:
    """Gradients of `tilted_loss`: each leaf has its parameter's shape."""
    not_empty(name, gradients, params)
    whole_tree(name, gradients)
    differentiable(name, gradients)
    _same_structure("The gradients", gradients, params)
    if params is None:
        return
    shapes = [jnp.shape(p) for p in jax.tree.leaves(params)]
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    for (path, leaf), shape in zip(leaves, shapes, strict=True):
        if jnp.shape(leaf) != shape:
            raise ValueError(
                f"{name} takes the gradient of tilted_loss with `value=`: "
                f"{_name(path)} has shape {jnp.shape(leaf)} and its parameter {shape}. "
                "Give per-example gradients with `losses=` to attentional_aggregate."
            )
