"""The networks: their sizes, what padding and devices may not change, their parts."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import step_cost
from experiments import configs, models
from experiments.data import text
from experiments.models import convnet, heads, resnet, sce_cnn
from experiments.models.network import dropout
from tests.training_problem import abstract

CIFAR_10 = configs.Data(source="cifar10")
CIFAR_100 = configs.Data(source="cifar100")
IMDB = configs.Data(source="imdb", vocabulary=20, length=6)
IMAGENET = configs.Data(source="imagenet_lt", image_size=224)
PLACES = configs.Data(source="places_lt", image_size=32)

# One of each file, as small as it gets, with its data and number of features.
TINY = {
    "convnet": (configs.Model("convnet", widths=(4, 6)), CIFAR_10, 6),
    "resnet20": (configs.Model("resnet20", widths=(4, 7), blocks=(1, 2)), CIFAR_100, 7),
    "resnet18": (configs.Model("resnet18", widths=(4, 6), blocks=(1, 2)), CIFAR_10, 6),
    "resnet50": (configs.Model("resnet50", widths=(2, 3), blocks=(1, 2)), PLACES, 12),
    "sce_cnn": (configs.Model("sce_cnn", widths=(4, 6, 5)), CIFAR_10, 5),
    "bilstm": (configs.Model("bilstm", widths=(4, 3)), IMDB, 6),
}


def _inputs(data, batch):
    if data.info.inputs == "text":
        rows = data.vocabulary + text.FIRST_WORD
        return jax.random.randint(jax.random.key(1), (batch, data.length), 1, rows)
    size = data.image_size or 32
    return jax.random.normal(jax.random.key(1), (batch, size, size, data.channels))


def _filled(model, data):
    """Graph and arrays, drawn by NumPy, which has nothing to compile."""
    graph, state = nnx.split(abstract(model, data))
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype)
    return graph, jax.tree.map(draw, state)


def _parameters(network):
    return step_cost.parameters(nnx.state(network, nnx.Param))


@pytest.mark.parametrize(
    ("model", "data", "head", "parameters"),
    [
        ("resnet20", CIFAR_10, "linear", 269_722),
        ("resnet20", CIFAR_10, "cosine", 269_712),
        ("resnet32", CIFAR_10, "linear", 464_154),
        ("resnet32", CIFAR_100, "cosine", 469_904),
        ("resnet18", CIFAR_100, "linear", 11_220_132),
        ("resnet34", CIFAR_100, "linear", 21_328_292),
        ("resnet50", IMAGENET, "linear", 25_557_032),
        ("sce_cnn", CIFAR_10, "linear", 1_639_794),
    ],
)
def test_the_number_of_parameters_is_the_published_one(model, data, head, parameters):
    assert _parameters(abstract(configs.Model(model, head=head), data)) == parameters


def test_the_blocks_of_resnet152_make_the_published_number_of_parameters():
    """Of the 50 two a stage are built, for from the second on they are alike."""
    _, blocks = resnet.NETWORKS["resnet152"]
    network = abstract(configs.Model("resnet152", blocks=(2, 2, 2, 2)), IMAGENET)
    others = [
        (number - 2) * _parameters(network.blocks[2 * stage + 1])
        for stage, number in enumerate(blocks)
    ]
    assert _parameters(network) + sum(others) == 60_192_808


@pytest.mark.parametrize("name", TINY)
def test_networks_classify_and_ignore_padding(name):
    """Nor does dropout depend on who else is in the batch."""
    config, data, width = TINY[name]
    config = configs.replace(config, {"dropout": 0.5})
    present = jnp.array([True, True, False, True])
    keys = jax.random.split(jax.random.key(2), 4)

    graph, state = _filled(config, data)

    @jax.jit
    def classify(state, inputs):
        network = nnx.merge(graph, state)
        network.train()
        features = network.features(inputs, present)
        return (
            features,
            network.head(features),
            network(inputs, present),
            network(inputs, present, keys),
            nnx.state(network, nnx.BatchStat),
        )

    inputs = _inputs(data, 4)
    features, after, logits, dropped, statistics = classify(state, inputs)
    assert features.shape == (4, width)
    assert logits.shape == (4, data.classes)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, after, rtol=1e-5, atol=1e-6)
    assert not np.allclose(logits, dropped)
    assert not np.allclose(logits[0], logits[1])

    other = classify(state, inputs.at[2].set(7))
    assert not np.allclose(other[2][2], logits[2])
    where = np.asarray(present)
    for a, b in zip((features, after, logits, dropped), other[:4], strict=True):
        np.testing.assert_array_equal(a[where], b[where])
    chex.assert_trees_all_equal(statistics, other[4])


def test_sce_cnn_fits_other_images():
    digits = configs.Data(test_per_class=1)
    model = configs.Model("sce_cnn", widths=(4, 6, 5))
    network = abstract(model, digits)
    assert network.hidden.kernel.shape == (2 * 2 * 6, 5)
    logits = nnx.eval_shape(lambda n, x: n(x), network, jnp.zeros((3, 8, 8, 1)))
    assert logits.shape == (3, 10)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (configs.Model("convnet", blocks=(1,)), r"no residual blocks, got \(1,\)"),
        (configs.Model("resnet32", blocks=(1, 1)), r"\(1, 1\) and \(16, 32, 64\)"),
        (configs.Model("resnet18", widths=(4,)), r"\(2, 2, 2, 2\) and \(4,\)"),
        (configs.Model("resnet50", widths=(4,)), r"\(3, 4, 6, 3\) and \(4,\)"),
        (configs.Model("resnet152", widths=(4,)), r"\(3, 8, 36, 3\) and \(4,\)"),
        (configs.Model("resnet20", widths=(4, 2, 8)), r"not fall, got \(4, 2, 8\)"),
        (configs.Model("sce_cnn", widths=(4,)), r"got \(4,\) for 32 pixels"),
        (configs.Model("sce_cnn", widths=(4,) * 7), "for 32 pixels"),
    ],
)
def test_what_does_not_suit_a_network_is_refused(model, message):
    with pytest.raises(configs.BadConfiguration, match=message):
        abstract(model, CIFAR_10)


# Initial values.


def _drawn():
    """Variables; the bound if they are uniform in ±bound, else their deviation."""
    build = functools.partial(resnet.ResNet, rngs=nnx.Rngs(0))
    # He's by what comes in, also in the head; its bias as PyTorch draws it.
    network = build(resnet.CIFAR, (1,), 100, widths=(64,))
    second = network.blocks[0].second.convolution
    yield second.kernel, None, math.sqrt(2 / (3 * 3 * 64))
    yield network.head.kernel, None, math.sqrt(2 / 64)
    yield network.head.bias, 1 / 8, None
    # He's by what goes out, in the deep networks.
    network = build(resnet.IMAGENET, (1, 1), 3, widths=(64, 128))
    middle = network.blocks[1].middle.convolution
    yield middle.kernel, None, math.sqrt(2 / (3 * 3 * 128))
    # PyTorch's.
    network = build(resnet.WIDE_CIFAR, (1, 1), 10, widths=(32, 64))
    block = network.blocks[1]
    for layer, inputs in (
        (network.stem, 9 * 3),
        (block.first, 9 * 32),
        (block.second, 9 * 64),
        (block.shortcut, 32),
    ):
        yield layer.convolution.kernel, 1 / math.sqrt(inputs), None
    yield heads.head("linear", 64, 500, rngs=nnx.Rngs(0)).kernel, 1 / 8, None
    # He's uniform and Glorot's in the SCE network; biases are PyTorch's.
    network = sce_cnn.SceCnn(widths=(200, 5), size=8, rngs=nnx.Rngs(0))
    for convolution, inputs in zip(
        network.blocks[0].convolutions, (3, 200), strict=True
    ):
        yield convolution.kernel, math.sqrt(6 / (3 * 3 * inputs)), None
        yield convolution.bias, 1 / math.sqrt(9 * inputs), None
    network = sce_cnn.SceCnn(widths=(2, 500), size=8, rngs=nnx.Rngs(0))
    for layer, inputs in ((network.hidden, 2 * 4 * 4), (network.head, 500)):
        yield layer.kernel, math.sqrt(6 / (inputs + layer.kernel.shape[1])), None
    yield network.hidden.bias, 1 / math.sqrt(2 * 4 * 4), None


def test_initial_values_are_the_published_ones():
    for variable, bound, deviation in _drawn():
        values = np.asarray(variable[...])
        if bound is not None:
            assert np.abs(values).max() <= bound
            deviation = bound / math.sqrt(3)
        # Four standard deviations of that of so many draws.
        assert values.std() == pytest.approx(deviation, rel=3 / math.sqrt(values.size))


def test_initial_values_of_the_cosine_head():
    columns = np.asarray(heads.head("cosine", 64, 500, rngs=nnx.Rngs(0)).kernel[...])
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 1.0, rtol=1e-6)
    uniform = 1 / np.sqrt(64 / 3)  # the largest of a column
    assert np.abs(columns).max(axis=0).mean() == pytest.approx(uniform, rel=0.03)


# Parts.


def test_statistics_have_the_momentum_that_is_given():
    model = configs.Model("convnet", widths=(4,), statistics_momentum=0.5)
    assert abstract(model, CIFAR_10).blocks[0].norm.momentum == 0.5


@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_is_a_convolution(stride):
    ours = convnet.Convolution(3, 5, stride, rngs=nnx.Rngs(0))
    theirs = nnx.Conv(
        3, 5, (3, 3), strides=stride, padding=1, use_bias=False, rngs=nnx.Rngs(0)
    )
    theirs.kernel[...] = ours.product.kernel[...].reshape(3, 3, 3, 5)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    np.testing.assert_allclose(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [6, 7])
def test_shortcuts_take_every_second_pixel_and_pad_both_sides(size):
    images = np.random.default_rng(0).normal(size=(2, size, size, 3))
    half = (size + 1) // 2
    expected = np.zeros((2, half, half, 8))
    for i in range(half):
        for j in range(half):
            expected[:, i, j, 2:5] = images[:, 2 * i, 2 * j]
    found = resnet.Subsample(3, 8, 2)(jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(resnet.Subsample(8, 8, 1)(found), found)


def test_a_cosine_head_ignores_lengths():
    head = heads.Cosine(7, 3, rngs=nnx.Rngs(0))
    features = jax.random.normal(jax.random.key(0), (4, 7))
    kernel = np.asarray(head.kernel[...], np.float64)
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
    expected = np.asarray(features, np.float64) @ kernel / lengths
    np.testing.assert_allclose(head(features), expected, rtol=1e-5, atol=1e-6)

    head.kernel[...] = 5.0 * head.kernel[...]
    np.testing.assert_allclose(head(0.01 * features), expected, rtol=1e-5, atol=1e-6)

    squares = lambda features: jnp.sum((head(features) - 1.0) ** 2)
    zero = features.at[1].set(0.0)
    assert not np.any(head(zero)[1])
    gradient = jax.grad(squares)(zero)
    assert np.all(np.isfinite(gradient))
    assert not np.any(gradient[1])
    assert np.all(np.any(gradient[jnp.array([0, 2, 3])] != 0.0, axis=1))


def test_dropout_goes_by_the_keys_of_the_examples():
    x = jnp.ones((8, 5000))
    keys = jax.random.split(jax.random.key(0), 8)
    dropped = dropout(x, 0.3, keys)
    assert float(jnp.mean(dropped == 0.0)) == pytest.approx(0.3, abs=0.01)
    assert float(jnp.mean(dropped)) == pytest.approx(1.0, abs=0.02)
    assert not np.array_equal(dropped[0], dropped[1])
    order = np.random.default_rng(0).permutation(8)[:5]
    np.testing.assert_array_equal(dropout(x[order], 0.3, keys[order]), dropped[order])
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, keys) is x


def test_padding_in_front_of_a_text_changes_nothing():
    graph, params = _filled(*TINY["bilstm"][:2])
    classify = jax.jit(lambda params, words: nnx.merge(graph, params)(words))
    words = jnp.array([[3, 1, 4, 2], [0, 0, 5, 9], [0, 0, 0, 0]])
    logits = classify(params, words)
    longer = jnp.pad(words, ((0, 0), (3, 0)))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(classify(params, longer), logits)
    assert np.all(np.isfinite(logits))
    assert not np.allclose(classify(params, words[:, ::-1])[0], logits[0], rtol=1e-3)

    table = params["embedding"]["embedding"]
    assert len(table[...]) == IMDB.vocabulary + text.FIRST_WORD
    table[...] = table[...].at[text.PADDING].set(1e3)
    close(classify(params, words), logits)


@pytest.mark.parametrize("name", ["bilstm", "resnet20"])
def test_recurrent_and_group_norm_networks_hold_parameters_and_nothing_else(name):
    model, data, _ = TINY[name]
    network = abstract(configs.replace(model, {"norm": "group"}), data)
    assert not jax.tree.leaves(nnx.state(network, nnx.Not(nnx.Param)))


# What is trained.


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("convnet", {("blocks", 1)}),
        ("resnet20", {("blocks", 2)}),
        ("resnet50", {("blocks", 2)}),
        ("sce_cnn", {("blocks", 1), ("hidden", "kernel"), ("hidden", "bias")}),
        ("bilstm", {("blocks", 1)}),
    ],
)
def test_trainable_splits_parameters_and_loses_none(name, last):
    network = abstract(*TINY[name][:2])
    paths = lambda state: {path for path, _ in nnx.to_flat_state(state)}
    every = paths(nnx.state(network, nnx.Param))
    head = {("head", "kernel"), ("head", "bias")}
    in_last = {
        path for path in every if path[:2] in last or path[0] in ("norm", "hidden_norm")
    }
    assert len({path[:2] for path in in_last} & last) == len(last)
    for which, expected in (
        ("all", every),
        ("last_block", in_last | head),
        ("head", head),
    ):
        _, trained, frozen, statistics = nnx.split(
            network, models.trained(which, network), nnx.Param, ...
        )
        assert paths(trained) == expected
        assert paths(frozen) == every - expected
        assert all(path[-1] in ("mean", "var") for path in paths(statistics))
