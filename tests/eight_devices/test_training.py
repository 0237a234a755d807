"""The experiments' step on eight devices: the curve of one device."""

import jax
import numpy as np
import pytest

from experiments import configs, sharding
from tests import training_problem as problem

# BatchNorm, dropout, moves drawn on the device, and batches whose last devices hold
# padding alone: whatever could tell devices apart.
RUN = configs.replace(
    problem.NORMALIZED,
    {
        "model.dropout": 0.3,
        "data.augment_on": "device",
        "data.crop_padding": 4,
        "data.flip": True,
    },
)


def _batches(step):
    return problem.batch(step, present=(16, 9, 3, 16)[step])


@pytest.fixture(scope="module")
def on_one():
    return problem.train(RUN, batches=_batches)


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_eight_devices_train_as_one(on_one, parallel):
    on_eight = problem.train(RUN, batches=_batches, devices=8, parallel=parallel)
    problem.same(on_eight, on_one, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_the_value_route_too(parallel):
    run = configs.replace(problem.RUN, {"method.route": "value"})
    one = problem.train(run, 3)
    problem.same(problem.train(run, 3, devices=8, parallel=parallel), one)


def test_a_layout_of_some_of_the_devices():
    layout = sharding.layout(4)
    assert layout.devices == 4
    assert layout.rows(16) == slice(0, 16)  # one host has them all
    placed = layout.place(np.arange(16))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4,)}
    copies = layout.replicate(np.arange(3))
    assert len(copies.addressable_shards) == 4
    with pytest.raises(ValueError, match=f"at most {len(jax.devices())}, .* got 9"):
        sharding.layout(9)
