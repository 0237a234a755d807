"""A small training for the tests of the step, on any layout of devices."""

import chex
import jax
import numpy as np
from flax import nnx

from experiments import configs, methods, models
from experiments.data.loader import Batch
from experiments.train import sharding, steps

EXAMPLES, SIZE = 64, 16  # training examples, and those of a batch
RUN = configs.Run(
    data=configs.Data(source="cifar10", mean=(0.5,) * 3, std=(0.25,) * 3),
    model=configs.Model(name="resnet20", blocks=(1, 1), widths=(4, 8), norm="group"),
    method=configs.Method(lam=0.5, init_s=0.0, start_at=0.25),
    optimizer=configs.Optimizer(
        learning_rate=0.05, drop_at=(0.5,), drop_factor=10.0, weight_decay=1e-3
    ),
    epochs=4,
    batch_size=SIZE,
)
NORMALIZED = configs.replace(RUN, {"model.norm": "batch"})
SMALL = {"model.blocks": (1,), "model.widths": (4,)}
# Compiled in half of the time, where it is of no account which network is trained.
CONVNET = {"model.name": "convnet", "model.blocks": (), "model.widths": (4,)}
# With all that is drawn on a device: dropout, and how images are moved.
DRAWN = configs.replace(
    NORMALIZED,
    SMALL | {
        "model.dropout": 0.3, "data.augment_on": "device", "data.crop_padding": 4,
        "data.flip": True,
    },
)  # fmt: skip
WRONG = np.arange(EXAMPLES) % 5 == 0
COUNTS = np.arange(10, 0, -1)


def abstract(model, data):
    """A network of shapes, without numbers."""
    return nnx.eval_shape(lambda: models.build(model, data, rngs=nnx.Rngs(0)))


def batch(step, present=SIZE, size=SIZE):
    """The same examples for the same step, whatever the padding."""
    rng = np.random.default_rng(step)
    inputs = rng.integers(0, 256, (SIZE, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, SIZE).astype(np.int32)
    index = rng.permutation(EXAMPLES)[:SIZE].astype(np.int32)
    missing = size - present
    pad = lambda x: np.pad(x[:present], [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    return Batch(pad(inputs), pad(labels), np.arange(size) < present, pad(index))


def given(layout, weights=None):
    """What is said of the examples, placed."""
    weights = np.ones(10, np.float32) if weights is None else weights
    return layout.replicate(
        steps.DatasetStats(COUNTS.astype(np.float32), np.float32(weights), WRONG)
    )


def train(
    run,
    updates=4,
    *,
    weights=None,
    batches=batch,
    network=None,
    devices=1,
    parallel="jit",
):
    """State and what was seen. Two steps an epoch: an epoch of `RUN` is a quarter."""
    layout = sharding.layout(devices)
    program = steps.program(run, layout, parallel)
    network = steps.init_network(run, run.seed) if network is None else network
    state, seen = program.init(network, run.seed, EXAMPLES), []
    for step in range(updates):
        hyperparams = methods.step_hyperparams(run, 2, step)
        state, one = program.train(hyperparams)(
            state, layout.shard(batches(step)), given(layout, weights), hyperparams
        )
        seen.append(jax.device_get(one))
    return state, seen


def same(a, b, rtol=1e-4, atol=1e-6):
    """Trees of arrays, wherever they lie, to float32 rounding."""
    chex.assert_trees_all_close(
        jax.device_get(a), jax.device_get(b), rtol=rtol, atol=atol
    )
