"""A network of one's own, from `module:function`; see docs/your_network.md."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import configs, user_code
from experiments.models.network import Network


class Custom(Network):
    """Any module that maps inputs to logits, with the interface of `Network`.

    Its logits stand for features, and there is no head after them.

    Padding would be in the moments of its BatchNorm. So padding rows are given to it as
    copies of the examples of their batch, in order: moments are those of real examples
    only, some of which count twice in the last batch of an epoch. Losses, weights and
    metrics leave the copies out. A module whose `__call__` has a parameter `present`
    gets the batch as it is and that mask.
    """

    def __init__(self, module: nnx.Module) -> None:
        self.module = module
        self.blocks = nnx.List([])
        self.head = _Logits()
        self.dropout = 0.0
        self.masks = "present" in inspect.signature(type(module).__call__).parameters

    def body(self, inputs: jax.Array, present: jax.Array | None) -> jax.Array:
        """Logits `[batch, classes]`."""
        if self.masks:
            return self.module(inputs, present=present)
        if present is not None:
            whole = jnp.all(present)
            inputs = jax.lax.cond(whole, lambda x, _: x, _filled, inputs, present)
        return self.module(inputs)


class _Logits(nnx.Module):
    """The head of a network whose features are its logits."""

    def __call__(self, features: jax.Array) -> jax.Array:
        return features


def _filled(inputs: jax.Array, present: jax.Array) -> jax.Array:
    """The batch with copies of its examples, in order, in the place of padding."""
    rows = jnp.arange(len(present))
    examples = jnp.argsort(~present)  # those that are present come first, in order
    copied = examples[rows % jnp.maximum(jnp.sum(present), 1)]
    return inputs[jnp.where(present, rows, copied)]


def build(model: configs.Model, data: configs.Data, rngs: nnx.Rngs) -> Network:
    """What the function of `model.custom` returns; within `Custom` if no `Network`.

    BadConfiguration if there is no such function, it fails, or it returns no module of
    `flax.nnx`.
    """
    function = user_code.load(model.custom, "classes, shape, rngs")
    module = user_code.call(model.custom, function, data.classes, data.shape, rngs)
    if not isinstance(module, nnx.Module):
        raise configs.BadConfiguration(
            f"{model.custom} must return a module of flax.nnx, got "
            f"{type(module).__name__}."
        )
    if model.norm == "group" and any(
        isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_modules(module)
    ):
        raise configs.BadConfiguration(
            f"--model.norm group says that {model.custom} does not mix examples, but "
            "it has a BatchNorm."
        )
    return module if isinstance(module, Network) else Custom(module)


def check(network: Network, model: configs.Model, data: configs.Data) -> None:
    """Refuses a network of one's own that fails, or returns anything but logits.

    These are one floating array `[batch, classes]`: integers have no gradient.
    It is abstract, as `nnx.eval_shape` makes it; nothing is computed.
    """
    graph, state = nnx.split(network)
    batch = 2
    dtype = jnp.int32 if data.info.inputs == "text" else jnp.float32
    inputs = jax.ShapeDtypeStruct((batch, *data.shape), dtype)

    def returned(state: Any, inputs: jax.Array) -> Any:
        network, present = nnx.merge(graph, state), jnp.ones(batch, bool)
        if isinstance(network, Custom):  # before they become float32
            return network.body(inputs, present)
        return network(inputs, present)

    found = user_code.call(model.custom, jax.eval_shape, returned, state, inputs)
    one = isinstance(found, jax.ShapeDtypeStruct)
    if not (one and jnp.issubdtype(found.dtype, jnp.floating)):
        parts = (f"{x.dtype} [{_sizes(x.shape)}]" for x in jax.tree.leaves(found))
        kind = "" if one else f"{type(found).__name__}: "
        raise configs.BadConfiguration(
            f"{model.custom} must return logits, one floating array "
            f"[batch, {data.classes}]: of a batch of {batch} it returns "
            f"{kind}{', '.join(parts) or 'no array'}."
        )
    if found.shape != (batch, data.classes):
        raise configs.BadConfiguration(
            f"{model.custom} must map inputs [batch, {_sizes(data.shape)}] to logits "
            f"[batch, {data.classes}]: of a batch of {batch} it makes "
            f"[{_sizes(found.shape)}]."
        )


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
