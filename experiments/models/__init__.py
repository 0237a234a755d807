"""Networks, one per module; `build` makes the network of a config."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import configs
from experiments.data import text
from experiments.models import custom, norm, pretrained, resnet
from experiments.models.attention import Attention
from experiments.models.bilstm import BiLstm
from experiments.models.convnet import ConvNet
from experiments.models.mlp import Mlp
from experiments.models.network import ImageNetwork, Network, compute_in_bfloat16
from experiments.models.sce_cnn import SceCnn

__all__ = ["Network", "build", "check", "pretrained", "trained"]


def build(
    model: configs.Model,
    data: configs.Data,
    *,
    rngs: nnx.Rngs,
    axis_name: str | None = None,
) -> Network:
    """Initialises the network of a config, in training mode; see `Network`.

    `model.pretrained` is not loaded, see `pretrained.load`. `axis_name` is that of the
    `pmap` or `shard_map` over which batches are sharded, and over which BatchNorm sums
    its moments; None under `jit`. BadConfiguration if `model.blocks`, `model.widths` or
    `model.head` does not suit the network, or there is no network `model.custom`.
    """
    if model.custom is not None:
        return custom.build(model, data, rngs)
    network = _plain(model, data, rngs, axis_name)
    if model.head == "memory":
        if not isinstance(network, ImageNetwork):
            raise configs.BadConfiguration(
                f"{model.name} has no maps to attend to, got head {model.head!r}."
            )
        _, *sizes = _maps(model, data).shape
        network.attention = Attention(*sizes, rngs=rngs)
    if model.dtype == "bfloat16":
        compute_in_bfloat16(network)
    return network


def check(model: configs.Model, data: configs.Data) -> None:
    """Refuses a network of one's own that does not make logits of these classes."""
    if model.custom is not None:
        network = nnx.eval_shape(lambda: build(model, data, rngs=nnx.Rngs(0)))
        custom.check(network, model, data)


def _maps(model: configs.Model, data: configs.Data) -> jax.ShapeDtypeStruct:
    """Shape and dtype of its last maps, of one image; nothing is computed."""

    def maps() -> jax.Array:
        network = _plain(model, data, nnx.Rngs(0), None)
        network.eval()
        return network.maps(jnp.zeros((1, *data.shape)), None)

    return jax.eval_shape(maps)


def _plain(
    model: configs.Model, data: configs.Data, rngs: nnx.Rngs, axis_name: str | None
) -> Network:
    """The network without attention."""
    if model.blocks and model.name not in resnet.NETWORKS:
        raise configs.BadConfiguration(
            f"{model.name} has no residual blocks, got {model.blocks}."
        )
    shared: dict[str, Any] = {"head": model.head, "dropout": model.dropout}
    shared |= {"rngs": rngs} | ({"widths": model.widths} if model.widths else {})
    if model.name == "bilstm":
        words = data.vocabulary + text.FIRST_WORD
        return BiLstm(data.classes, words=words, **shared)
    if model.name == "mlp":
        return Mlp(data.classes, inputs=data.info.shape[0], **shared)
    shared["channels"] = data.channels
    shared["norm"] = norm.GroupNorm
    if model.norm == "batch":
        shared["norm"] = functools.partial(
            norm.BatchNorm, momentum=model.statistics_momentum, axis_name=axis_name
        )
    if model.name == "convnet":
        return ConvNet(data.classes, **shared)
    if model.name == "sce_cnn":
        return SceCnn(data.classes, size=data.shape[0], **shared)
    variant, blocks = resnet.NETWORKS[model.name]
    return resnet.ResNet(variant, model.blocks or blocks, data.classes, **shared)


def trained(
    which: Literal["all", "last_block", "head", "scale"], network: Network
) -> Any:
    """The parameters that are trained, as a filter of `nnx.split`.

    All, those of the last block and what follows it, the head (and attention, if there
    is any), or the factors of a scaled head.
    """
    last = len(network.blocks) - 1

    def follows(path: tuple[Any, ...], _: Any) -> bool:
        if path[0] == "blocks":
            return path[1] == last
        return path[0] not in ("stem", "embedding")

    return {
        "all": nnx.Param,
        "last_block": nnx.All(nnx.Param, follows),
        "head": nnx.All(nnx.Param, lambda path, _: path[0] in ("head", "attention")),
        "scale": nnx.All(nnx.Param, lambda path, _: path == ("head", "scale")),
    }[which]
