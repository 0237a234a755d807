"""Loads pretrained weights, checked by name and shape."""

import pathlib
import zipfile

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from experiments import configs
from experiments.data.types import DamagedData, MissingData
from experiments.models.network import Network
from experiments.models.norm import BatchNorm
from experiments.models.resnet import ResNet, Subsample

_SHOWN = 10  # names in a message


def load(network: Network, path: pathlib.Path) -> None:
    """Overwrites parameters and running statistics with those of a file.

    The arrays are named and laid out as in torchvision's `resnet50` (`conv1.weight`,
    `layer1.0.bn1.running_mean`, `layer1.0.downsample.0.weight`, `fc.weight`), perhaps
    after `module.`; its counts of batches (`num_batches_tracked`) are skipped. In a
    file `.npz` nothing pickled is read.

    The head is taken if the file's has as many classes as the network's and the
    network's is linear. Otherwise it is left as it was drawn.

    Raises:
      configs.BadConfiguration: the network is no `ResNet` with BatchNorm and
        projections, or the file is neither `.safetensors` nor `.npz`.
      MissingData: there is no file.
      DamagedData: arrays are missing, too many, or of other shapes, or have numbers
        that are not finite. The network is then as it was.
    """
    parts = ()
    if isinstance(network, ResNet):
        parts = (type(network.stem.norm), type(network.blocks[0].shortcut))
    if BatchNorm not in parts or Subsample in parts:
        names = " with ".join(t.__name__ for t in (type(network), *parts))
        raise configs.BadConfiguration(
            "pretrained is for resnet18, resnet34, resnet50 and resnet152 with "
            f"BatchNorm, got a {names}."
        )
    _assign(network, _read(path), path)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a file, float32, by name."""
    if path.suffix not in (".safetensors", ".npz"):
        raise configs.BadConfiguration(
            "pretrained must be a file .safetensors or .npz (others can hold code), "
            f"got {path}."
        )
    if not path.is_file():
        raise MissingData(f"{path}: no such file of weights.")
    try:
        if path.suffix == ".npz":
            if not zipfile.is_zipfile(path):  # `np.load` opens other files too
                raise zipfile.BadZipFile("it is not a zip file.")
            with path.open("rb") as file:
                arrays = dict(np.load(file, allow_pickle=False))
        else:
            arrays = safetensors.numpy.load_file(path)
    except (
        OSError,
        EOFError,
        ValueError,  # pickled, among others
        zipfile.BadZipFile,
        safetensors.SafetensorError,
    ) as error:
        raise DamagedData(f"{path}: cannot be read: {error}") from error
    return {
        name.removeprefix("module."): np.asarray(array, np.float32)
        for name, array in arrays.items()
        if not name.endswith("num_batches_tracked")
    }


def _variables(network: ResNet) -> dict[str, tuple[nnx.Variable, tuple[int, ...]]]:
    """By name: what is set, and the order of the file's axes in it; no head."""
    layers = [("conv1", "bn1", network.stem)]
    indices = [(s, b) for s, count in enumerate(network.stages) for b in range(count)]
    for (stage, number), block in zip(indices, network.blocks, strict=True):
        name = f"layer{stage + 1}.{number}"
        for i, layer in enumerate(block.layers(), 1):
            layers.append((f"{name}.conv{i}", f"{name}.bn{i}", layer))
        if block.shortcut is not None:
            names = f"{name}.downsample.0", f"{name}.downsample.1"
            layers.append((*names, block.shortcut))
    found = {}
    for convolution, norm, layer in layers:
        # Out, in, height, width; ours is height, width, in, out.
        found[f"{convolution}.weight"] = (layer.convolution.kernel, (2, 3, 1, 0))
        found[f"{norm}.weight"] = (layer.norm.scale, (0,))
        found[f"{norm}.bias"] = (layer.norm.bias, (0,))
        found[f"{norm}.running_mean"] = (layer.norm.mean, (0,))
        found[f"{norm}.running_var"] = (layer.norm.var, (0,))
    return found


def _assign(network: ResNet, arrays: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Sets what a file has, if it has it all and no more."""
    variables = _variables(network)
    shapes = {
        name: tuple(variable.shape[axes.index(i)] for i in range(len(axes)))
        for name, (variable, axes) in variables.items()
    }
    features, classes = network.head.kernel.shape
    theirs = arrays["fc.bias"].size if "fc.bias" in arrays else classes
    shapes |= {"fc.weight": (theirs, features), "fc.bias": (theirs,)}

    wrong = [
        f"{name} is {array.shape}, not {shapes[name]}"
        for name, array in arrays.items()
        if name in shapes and array.shape != shapes[name]
    ]
    infinite = [name for name in arrays if not np.all(np.isfinite(arrays[name]))]
    for what, names in (
        ("are missing", sorted(shapes.keys() - arrays.keys())),
        ("are unknown", sorted(arrays.keys() - shapes.keys())),
        ("have other shapes", wrong),
        ("are not finite", infinite),
    ):
        if names:
            more = ", …" if len(names) > _SHOWN else ""
            raise DamagedData(
                f"{path}: {len(names)} arrays {what}: "
                f"{', '.join(names[:_SHOWN])}{more}."
            )

    if isinstance(network.head, nnx.Linear) and theirs == classes:
        variables["fc.weight"] = (network.head.kernel, (1, 0))
        variables["fc.bias"] = (network.head.bias, (0,))
    for name, (variable, axes) in variables.items():
        variable[...] = jnp.asarray(arrays[name].transpose(axes))
