"""BatchNorm, a sum and ReLU as residual blocks have them, against Flax's own layers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models import norm, resnet

SHAPE = (6, 4, 3, 5)
PRESENT = np.array([True, False, True, True, False, True])


def _fill(module, scale, bias):
    """In place of the initial values, which are float32 whatever is drawn."""
    module.scale, module.bias = nnx.Param(scale), nnx.Param(bias)
    module.mean = nnx.BatchStat(jnp.zeros_like(bias))
    module.var = nnx.BatchStat(jnp.ones_like(bias))


def _ours(scale, bias, present, x, shortcut):
    module = norm.BatchNorm(5, momentum=0.8, rngs=nnx.Rngs(0))
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
    """Scale, bias, x, shortcut; and other four in which to go."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    drawn = [(draw(5), draw(5), draw(*SHAPE), draw(*SHAPE)) for _ in range(2)]
    scale, bias, x, shortcut = drawn[0]
    # Channels that are not centred, one of them hardly scaled.
    x = 3.0 * x + jnp.arange(5.0, dtype=dtype)
    return (scale.at[2].multiply(0.01), bias, x, shortcut), drawn[1]


def _total(unit, present, scale, bias, x, shortcut):
    """A function of those present, of which all four are arguments."""
    y, statistics = unit(scale, bias, present, x, shortcut)
    weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    of_each = jnp.sum(jnp.sin(y) * weights, axis=(1, 2, 3))
    return jnp.sum(of_each, where=present), (y, statistics)


@pytest.mark.parametrize("present", [None, PRESENT])
@pytest.mark.parametrize(("dtype", "close"), [("float64", 1e-10), ("float32", 1e-4)])
def test_values_gradients_and_statistics_are_those_of_flax(dtype, close, present):
    with jax.enable_x64(dtype == "float64"):
        arguments, _ = _drawn(dtype)
        found, expected = (
            jax.jit(
                jax.value_and_grad(
                    functools.partial(_total, unit, present), (0, 1, 2, 3), has_aux=True
                )
            )(*arguments)
            for unit in (_ours, _theirs)
        )
        chex.assert_trees_all_equal_dtypes(found, expected)
        chex.assert_trees_all_close(found, expected, rtol=close, atol=close)
        if present is not None:
            for gradient in found[1][2:]:
                assert not np.any(np.asarray(gradient)[~present])


def test_second_derivatives_are_those_of_flax():
    with jax.enable_x64(True):
        arguments, direction = _drawn("float64")

        @functools.partial(jax.jit, static_argnums=0)
        def curved(unit, arguments, direction):
            total = lambda *arguments: _total(unit, PRESENT, *arguments)[0]
            return jax.jvp(jax.grad(total, (0, 1, 2, 3)), arguments, direction)

        found, expected = (
            curved(unit, arguments, direction) for unit in (_ours, _theirs)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-8, atol=1e-8)


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
