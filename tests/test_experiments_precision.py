"""bfloat16: what is rounded, what is not, and that it learns all the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import configs
from experiments.data.task import load_task
from experiments.models import norm
from experiments.train import loop, steps
from experiments.train.session import Session
from tests import training_problem as problem
from tests.digits_problem import LAYOUT, RUN

FLOAT32 = jnp.dtype("float32")


def _dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def test_only_maps_are_bfloat16():
    """Maps in bfloat16; parameters, statistics, features, logits and losses not."""
    half = configs.replace(
        problem.NORMALIZED, problem.SMALL | {"model.dtype": "bfloat16"}
    )
    network = steps.init_network(half, 0)
    network.eval()
    images = jnp.ones((2, 32, 32, 3))
    maps, features, logits = (
        jax.eval_shape(lambda method=method: method(images))
        for method in (lambda x: network.maps(x, None), network.features, network)
    )
    assert maps.dtype == jnp.bfloat16
    assert features.dtype == logits.dtype == FLOAT32
    assert _dtypes(nnx.state(network)) == {FLOAT32}


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_norms_take_their_moments_in_float32(kind):
    """Of numbers whose squares bfloat16 would not tell apart."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(10.0, 0.3, (64, 3, 3, 4)), jnp.bfloat16)
    present = jnp.arange(64) < 50
    make = {"batch": norm.BatchNorm, "group": norm.GroupNorm}[kind]
    ours, theirs = make(4, rngs=nnx.Rngs(0)), make(4, rngs=nnx.Rngs(0))
    found, wanted = ours(x, present), theirs(x.astype(jnp.float32), present)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wanted.astype(jnp.bfloat16))
    for mine, other in zip(
        jax.tree.leaves(nnx.state(ours)),
        jax.tree.leaves(nnx.state(theirs)),
        strict=True,
    ):
        assert mine.dtype == FLOAT32
        np.testing.assert_array_equal(mine, other)


def test_a_step_is_that_of_float32_to_rounding():
    run = configs.replace(problem.NORMALIZED, problem.SMALL)
    half = configs.replace(run, {"model.dtype": "bfloat16"})
    graphs, updates = [], []
    for each in (run, half):
        state = steps.program(each, LAYOUT).init(steps.init_network(each, 0), 0, 64)
        graphs.append(jax.device_get(state.params))
        step = jax.jit(steps.updates_of(each))
        hyperparams = steps.methods.step_hyperparams(each, 2, 3)
        updates.append(
            step(state, problem.batch(0), problem.given(LAYOUT), hyperparams)
        )
    problem.same(graphs[1], graphs[0])  # they begin with the same parameters
    (plain, seen), (after, seen_half) = updates
    assert seen_half.loss.dtype == FLOAT32
    assert _dtypes((after.params, after.statistics)) == {FLOAT32}
    assert _dtypes(after.optimizer) == _dtypes(plain.optimizer)
    assert seen_half.loss != seen.loss
    np.testing.assert_allclose(seen_half.loss, seen.loss, rtol=1e-2)
    for mine, other, before in zip(
        *(map(jax.tree.leaves, (after.params, plain.params, graphs[0]))), strict=True
    ):
        # Eight bits a number: the step is known to some percent of its length.
        assert np.linalg.norm(mine - other) <= 0.1 * np.linalg.norm(other - before)


def test_digits_are_learned_as_well():
    """To a few points of accuracy after few epochs, on 500 test images."""
    accuracy = {}
    for dtype in ("float32", "bfloat16"):
        changes = {
            "model.dtype": dtype,
            "model.widths": (8, 16),
            "model.dropout": 0.0,
            "method.lam": float("inf"),
            "data.noise_rate": 0.0,
            "data.examples_per_class": None,
            "data.crop_padding": 0,
            "data.augment_on": "host",
            "eval_every": 3,
            "epochs": 3,
        }
        run = configs.replace(RUN, changes)
        task = load_task(run.data, 0)
        session, events = Session(), []
        callbacks = loop.Callbacks(lambda own=events, **event: own.append(event))
        start = loop.begin(run, task, LAYOUT)
        loop.fit(run, task, LAYOUT, session, start, callbacks)
        accuracy[dtype] = events[-1]["test"]["accuracy"]
    assert accuracy["float32"] > 0.6
    assert abs(accuracy["bfloat16"] - accuracy["float32"]) < 0.05


def test_all_networks_of_images_compute_in_it():
    """Every convolution and linear layer but the head's."""
    for name in ("convnet", "resnet32", "resnet18", "resnet50", "sce_cnn"):
        model = configs.Model(name=name, dtype="bfloat16")
        data = configs.Data(source="cifar10")
        for path, module in nnx.iter_modules(problem.abstract(model, data)):
            if isinstance(module, nnx.Conv | nnx.Linear):
                half = module.dtype == jnp.bfloat16
                assert half != (path[0] == "head"), (name, path)
