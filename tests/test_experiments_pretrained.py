"""Weights from elsewhere: against a network in NumPy, and refused where they differ."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from experiments import configs
from experiments.data.types import DamagedData, MissingData
from experiments.models import pretrained
from tests.training_problem import abstract

BLOCKS, WIDTHS, CLASSES = (1, 2), (2, 3), 365
CONFIGS = {
    4: (
        configs.Model("resnet50", blocks=BLOCKS, widths=WIDTHS),
        configs.Data(source="places_lt", image_size=17),
    ),
    1: (
        configs.Model("resnet18", blocks=BLOCKS, widths=WIDTHS),
        configs.Data(source="cifar100"),
    ),
}


# The network in NumPy, float64, channels first, names as torchvision gives them. It
# knows a bottleneck by its third convolution.


def _convolved(x, kernel, stride, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, kernel)


def _normalised(x, file, name):
    get = lambda what: file[f"{name}.{what}"].astype(np.float64)[:, None, None]
    x = (x - get("running_mean")) / np.sqrt(get("running_var") + 1e-5)
    return x * get("weight") + get("bias")


def _block(x, file, name, stride):
    bottleneck = f"{name}.conv3.weight" in file
    y = x
    for i in (1, 2, 3) if bottleneck else (1, 2):
        kernel = file[f"{name}.conv{i}.weight"]
        strided = i == (2 if bottleneck else 1)
        y = _convolved(y, kernel, stride if strided else 1, kernel.shape[2] // 2)
        y = _normalised(y, file, f"{name}.bn{i}")
        if i < (3 if bottleneck else 2):
            y = np.maximum(y, 0.0)
    if f"{name}.downsample.0.weight" in file:
        x = _convolved(x, file[f"{name}.downsample.0.weight"], stride, 0)
        x = _normalised(x, file, f"{name}.downsample.1")
    return np.maximum(x + y, 0.0)


def _logits(file, images):
    x = images.astype(np.float64).transpose(0, 3, 1, 2)
    kernel = file["conv1.weight"]
    large = kernel.shape[2] == 7
    x = _convolved(x, kernel, 2 if large else 1, kernel.shape[2] // 2)
    x = np.maximum(_normalised(x, file, "bn1"), 0.0)
    if large:
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))  # zeros, after ReLU
        x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        x = x[:, :, ::2, ::2].max(axis=(-1, -2))
    for stage, count in enumerate(BLOCKS, 1):
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _block(x, file, f"layer{stage}.{block}", stride)
    return x.mean(axis=(2, 3)) @ file["fc.weight"].T.astype(float) + file["fc.bias"]


def _file(expansion, classes):
    """All arrays of a network of bottlenecks (4) or basic blocks (1)."""
    rng = np.random.default_rng(0)
    file = {}

    def normalised(convolution, norm, out, inputs, size):
        scale = np.sqrt(2.0 / (inputs * size * size))
        file[f"{convolution}.weight"] = scale * rng.normal(
            size=(out, inputs, size, size)
        )
        file[f"{norm}.weight"] = rng.uniform(0.5, 1.5, out)
        file[f"{norm}.bias"] = 0.3 * rng.normal(size=out)
        file[f"{norm}.running_mean"] = 0.3 * rng.normal(size=out)
        file[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, out)
        file[f"{norm}.num_batches_tracked"] = np.array(7)

    inputs = WIDTHS[0]
    normalised("conv1", "bn1", inputs, 3, 7 if expansion == 4 else 3)
    for stage, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), 1):
        for block in range(count):
            name, out = f"layer{stage}.{block}", width * expansion
            layers = [(width, inputs, 3), (width, width, 3)]
            if expansion == 4:
                layers = [(width, inputs, 1), (width, width, 3), (out, width, 1)]
            for i, sizes in enumerate(layers, 1):
                normalised(f"{name}.conv{i}", f"{name}.bn{i}", *sizes)
            if block == 0 and (stage > 1 or inputs != out):
                below = f"{name}.downsample"
                normalised(f"{below}.0", f"{below}.1", out, inputs, 1)
            inputs = out
    file["fc.weight"] = rng.normal(size=(classes, inputs))
    file["fc.bias"] = rng.normal(size=classes)
    return {
        name: array if array.dtype == np.int64 else array.astype(np.float32)
        for name, array in file.items()
    }


def _write(path, file):
    if path.suffix == ".npz":
        np.savez(path, **file)
    else:
        safetensors.numpy.save_file(file, path)
    return path


def _network(expansion, **changes):
    """Wants 365 classes of the bottleneck network and 100 of the basic one."""
    model, data = CONFIGS[expansion]
    model = configs.replace(model, changes)
    network = abstract(model, data)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), nnx.state(network))
    nnx.update(network, ones)
    return network


def _classified(network, images):
    network.eval()
    graph, state = nnx.split(network)
    return jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, images)


@pytest.mark.parametrize(
    ("expansion", "classes", "suffix", "prefix"),
    [(4, 365, "safetensors", "module."), (1, 100, "npz", "")],
)
def test_a_file_makes_its_own_logits(tmp_path, expansion, classes, suffix, prefix):
    file = _file(expansion, classes)
    named = {prefix + name: array for name, array in file.items()}
    network = _network(expansion)
    path = _write(tmp_path / f"weights.{suffix}", named)
    pretrained.load(network, path)
    images = np.random.default_rng(1).normal(size=(3, 17, 17, 3)).astype(np.float32)
    found, expected = _classified(network, images), _logits(file, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std(axis=0).mean() > 0.01  # the images differ


def test_a_head_of_other_classes_is_left_as_it_was(tmp_path):
    network, with_cosines = _network(1), _network(1, head="cosine")
    path = _write(tmp_path / "weights.npz", _file(1, classes=7))
    pretrained.load(network, path)
    assert np.all(network.head.kernel[...] == 1.0)
    assert np.any(network.stem.convolution.kernel[...] != 1.0)

    path = _write(tmp_path / "weights.npz", _file(1, classes=100))
    pretrained.load(with_cosines, path)
    assert np.all(with_cosines.head.kernel[...] == 1.0)


def _refused(network, path, message, error=DamagedData):
    before = nnx.state(network)
    before = jax.tree.map(np.asarray, before)
    with pytest.raises(error, match=message):
        pretrained.load(network, path)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, nnx.state(network)), before)


@functools.cache
def _whole():
    return _file(4, CLASSES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer2.1.bn2.running_mean": None, "conv1.weight": None},
         r"2 arrays are missing: conv1\.weight, layer2\.1\.bn2\.running_mean\."),
        ({"layer2.0.conv4.weight": np.zeros(3)}, r"are unknown: layer2\.0\.conv4"),
        ({"layer1.0.conv2.weight": np.zeros((2, 2, 1, 3))},
         r"layer1\.0\.conv2\.weight is \(2, 2, 1, 3\), not \(2, 2, 3, 3\)"),
        ({"fc.weight": np.zeros((5, 11)), "fc.bias": np.zeros(5)},
         r"fc\.weight is \(5, 11\), not \(5, 12\)"),
        ({"fc.bias": np.zeros(4)}, r"fc\.weight is \(365, 12\), not \(4, 12\)"),
        ({"bn1.bias": np.array([np.nan, 0.0])}, r"not finite: bn1\.bias"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused(tmp_path, changes, message):
    file = _whole() | changes
    file = {name: array for name, array in file.items() if array is not None}
    _refused(_network(4), _write(tmp_path / "weights.npz", file), message)


def test_damaged_files_are_refused(tmp_path):
    network = _network(4)
    for suffix in ("npz", "safetensors"):
        path = _write(tmp_path / f"weights.{suffix}", _whole())
        path.write_bytes(path.read_bytes()[:-100])
        _refused(network, path, f"weights.{suffix}: cannot be read")
        path.write_bytes(b"")
        _refused(network, path, f"weights.{suffix}: cannot be read")


def test_nothing_pickled_is_read(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **_whole(), more=np.array([object()]))
    _refused(_network(4), path, "cannot be read: .*allow_pickle=False")
    path.write_bytes(np.zeros(3).dumps())
    _refused(_network(4), path, "cannot be read: it is not a zip file")


def test_what_cannot_be_loaded_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.touch()
    misfit = configs.BadConfiguration
    _refused(_network(4), path, r"\.safetensors or \.npz .*weights\.pth", misfit)
    missing = tmp_path / "no.npz"
    _refused(_network(4), missing, "no such file", MissingData)
    grouped = _network(4, norm="group")
    _refused(grouped, missing, "with BatchNorm, got a ResNet", misfit)
    cifar = _network(1, name="resnet20")
    _refused(cifar, missing, "got a ResNet with BatchNorm with Subsample", misfit)
    convnet = _network(1, name="convnet", blocks=())
    _refused(convnet, missing, "got a ConvNet", misfit)
