"""The norms: alone, over devices, and as residual blocks have them with a sum and ReLU.

Against Flax's own layers and NumPy.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models import norm, resnet

SHAPE = (12, 2, 3, 5)
# Of four devices with three examples each one has one present, and one has none.
PRESENT = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1], bool)


def _fill(module, scale, bias):
    """In place of the initial values, which are float32 whatever is drawn."""
    module.scale, module.bias = nnx.Param(scale), nnx.Param(bias)
    module.mean = nnx.BatchStat(jnp.zeros_like(bias))
    module.var = nnx.BatchStat(jnp.ones_like(bias))


def _ours(scale, bias, present, x, shortcut, axis_name=None):
    module = norm.BatchNorm(5, momentum=0.8, axis_name=axis_name, rngs=nnx.Rngs(0))
    _fill(module, scale, bias)
    y = resnet.relu(module(x, present) + shortcut)
    return y, (module.mean[...], module.var[...])


def _theirs(scale, bias, present, x, shortcut):
    module = nnx.BatchNorm(5, momentum=0.8, dtype=x.dtype, rngs=nnx.Rngs(0))
    _fill(module, scale, bias)
    mask = None if present is None else present[:, None, None, None]
    y = nnx.relu(module(x, mask=mask) + shortcut)
    return y, (module.mean[...], module.var[...])


def _drawn(dtype):
    """Scale, bias, x, shortcut; and other four in which to go, or to weight with."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    drawn = [(draw(5), draw(5), draw(*SHAPE), draw(*SHAPE)) for _ in range(2)]
    scale, bias, x, shortcut = drawn[0]
    # Channels that are not centred, one of them hardly scaled.
    x = 3.0 * x + jnp.arange(5.0, dtype=dtype)
    return (scale.at[2].multiply(0.01), bias, x, shortcut), drawn[1]


def _total(unit, present, weights, scale, bias, x, shortcut):
    """A function of those present, of which the last four are arguments."""
    y, statistics = unit(scale, bias, present, x, shortcut)
    of_each = jnp.sum(jnp.sin(y) * weights, axis=(1, 2, 3))
    return jnp.sum(of_each, where=present), (y, statistics)


@pytest.mark.parametrize("present", [None, PRESENT])
@pytest.mark.parametrize(("dtype", "close"), [("float64", 1e-10), ("float32", 1e-4)])
def test_values_gradients_and_statistics_are_those_of_flax(dtype, close, present):
    with jax.enable_x64(dtype == "float64"):
        arguments, (*_, weights) = _drawn(dtype)
        found, expected = (
            jax.jit(
                jax.value_and_grad(
                    functools.partial(_total, unit, present, weights),
                    (0, 1, 2, 3),
                    has_aux=True,
                )
            )(*arguments)
            for unit in (_ours, _theirs)
        )
        chex.assert_trees_all_equal_dtypes(found, expected)
        chex.assert_trees_all_close(found, expected, rtol=close, atol=close)
        if present is not None:
            for gradient in found[1][2:]:
                assert not np.any(np.asarray(gradient)[~present])


@pytest.mark.parametrize("present", [None, PRESENT])
def test_tangents_are_differences_and_the_gradient_turned_round(present):
    """Methods that look at clean examples go forward, and back from there."""
    with jax.enable_x64(True):
        arguments, direction = _drawn("float64")

        @jax.jit
        def losses(*arguments):
            return jnp.sin(_total(_ours, present, 1.0, *arguments)[1][0])

        @jax.jit
        def both_ways(arguments, direction):
            values, along = jax.linearize(losses, *arguments)
            pull = jax.linear_transpose(along, *arguments)
            _, back = jax.vjp(losses, *arguments)
            found = along(*direction), pull(jnp.cos(values)), pull(values)
            _, tangent = jax.jvp(losses, arguments, direction)
            return found, (tangent, back(jnp.cos(values)), back(values))

        found, expected = both_ways(arguments, direction)
        chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-12)
        there, before = (
            losses(*(a + by * d for a, d in zip(arguments, direction, strict=True)))
            for by in (1e-6, -1e-6)
        )
        differences = (there - before) / 2e-6
        np.testing.assert_allclose(found[0], differences, rtol=1e-5, atol=1e-6)


def test_second_derivatives_are_those_of_flax():
    with jax.enable_x64(True):
        arguments, direction = _drawn("float64")

        @functools.partial(jax.jit, static_argnums=0)
        def curved(unit, arguments, direction):
            total = lambda *arguments: _total(unit, PRESENT, 1.0, *arguments)[0]
            return jax.jvp(jax.grad(total, (0, 1, 2, 3)), arguments, direction)

        found, expected = (
            curved(unit, arguments, direction) for unit in (_ours, _theirs)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-8, atol=1e-8)


def _gradients(axis_name, present, weights, x, shortcut):
    """Gradients of parameters; those of examples, and outputs; statistics."""
    (scale, bias, _, _), _ = _drawn("float32")
    unit = functools.partial(_ours, axis_name=axis_name)
    total = functools.partial(_total, unit, present, weights)
    gradients = jax.grad(total, (0, 1, 2, 3), has_aux=True)
    of, (y, statistics) = gradients(scale, bias, x, shortcut)
    return of[:2], (*of[2:], y), statistics


@pytest.mark.parametrize("present", [None, PRESENT])
def test_batch_norm_over_devices_is_that_of_the_whole_batch(present):
    (_, _, x, shortcut), (_, _, _, weights) = _drawn("float32")
    if present is not None:
        x = jnp.where(present[:, None, None, None], x, 1e3)
    batch = (present, weights, x, shortcut)
    *whole, expected = jax.jit(functools.partial(_gradients, None))(*batch)

    over_devices = jax.vmap(functools.partial(_gradients, "i"), axis_name="i")
    cut_up = jax.tree.map(lambda a: a.reshape(4, 3, *a.shape[1:]), batch)
    params, examples, statistics = jax.jit(over_devices)(*cut_up)
    params = jax.tree.map(functools.partial(jnp.sum, axis=0), params)
    examples = jax.tree.map(lambda a: a.reshape(12, *a.shape[2:]), examples)
    chex.assert_trees_all_close([params, examples], whole, rtol=1e-4, atol=1e-4)
    for device in range(4):
        here = jax.tree.map(lambda a, i=device: a[i], statistics)
        chex.assert_trees_all_close(here, expected, rtol=1e-4, atol=1e-4)


def test_nobody_present_moves_no_statistics():
    (_, _, x, shortcut), (_, _, _, weights) = _drawn("float32")
    gradients = jax.jit(functools.partial(_gradients, None))
    found = gradients(jnp.zeros(12, bool), weights, x, shortcut)
    chex.assert_trees_all_equal(found[-1], (jnp.zeros(5), jnp.ones(5)))
    chex.assert_tree_all_finite(found)


def _moved(module, *arguments):
    """Output in training, then in evaluation, and the statistics."""
    module.train()
    trained = module(*arguments)
    module.eval()
    return trained, module(*arguments), nnx.state(module, nnx.BatchStat)


@pytest.mark.parametrize("shape", [(6, 5), (6, 4, 3, 5)])
def test_batch_norm_is_flax_batch_norm_where_all_are_present(shape):
    x = 3.0 * jax.random.normal(jax.random.key(0), shape) + 1.0
    ours = _moved(norm.BatchNorm(5, momentum=0.8, rngs=nnx.Rngs(0)), x)
    theirs = _moved(nnx.BatchNorm(5, momentum=0.8, rngs=nnx.Rngs(0)), x)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (64, 4), (196, 7), (17, 1)])
def test_group_norm_is_that_of_numpy(channels, groups):
    """Each example for itself."""
    x = np.random.default_rng(0).normal(1.0, size=(3, 2, 2, channels))
    x = x.astype(np.float32)
    module = norm.GroupNorm(channels, rngs=nnx.Rngs(0))
    normalise = jax.jit(lambda x, present: module(x, present))
    parts = x.astype(np.float64).reshape(3, 4, groups, -1)
    mean, var = (f(parts, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    found = normalise(x, np.ones(3, bool))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    x[1:] = 7.0
    alone = normalise(x, np.zeros(3, bool))
    np.testing.assert_array_equal(found[0], alone[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu_is_relu(dtype):
    x = jnp.array([-jnp.inf, -2.0, -0.0, 0.0, 3.0, jnp.inf, jnp.nan], dtype)
    chex.assert_trees_all_equal(resnet.relu(x), nnx.relu(x))
    slope = jax.vmap(jax.grad(lambda x: resnet.relu(x).astype(jnp.float32)))(x[:6])
    np.testing.assert_array_equal(slope, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0])


def _operations():
    """Floating-point operations of a gradient, as the compiler counts them."""
    make = lambda: resnet.ResNet(resnet.CIFAR, (3,), 10, widths=(4,), rngs=nnx.Rngs(0))
    graph, *arrays = nnx.split(nnx.eval_shape(make), nnx.Param, ...)

    def total(params, statistics, images):
        network = nnx.merge(graph, params, statistics, copy=True)
        network.train()
        return jnp.sum(network(images))

    images = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)
    compiled = jax.jit(jax.grad(total)).lower(*arrays, images).compile()
    return compiled.cost_analysis()["flops"]


def test_no_block_is_computed_anew_for_the_gradient(monkeypatch):
    """If this fails after an update, XLA repeats a maximum no more: take `nnx.relu`."""
    once = _operations()
    monkeypatch.setattr(resnet, "relu", nnx.relu)
    assert once < _operations()
