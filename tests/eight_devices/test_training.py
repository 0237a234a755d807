"""The experiments' step on eight devices: the curve of one device."""

import jax
import numpy as np
import pytest

from experiments import configs, methods
from experiments.data.types import Examples
from experiments.train import device_loop, sharding, steps
from tests import training_problem as problem

# BatchNorm, dropout, moves drawn on the device, and batches whose last devices hold
# padding alone: whatever could tell devices apart.
RUN = problem.DRAWN


def _batches(step):
    return problem.batch(step, present=(16, 9, 3, 16)[step])


@pytest.fixture(scope="module")
def on_one():
    return problem.train(RUN, batches=_batches)


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_eight_devices_train_as_one(on_one, parallel):
    on_eight = problem.train(RUN, batches=_batches, devices=8, parallel=parallel)
    problem.same(on_eight, on_one, rtol=1e-3, atol=2e-5)


def test_eight_devices_train_as_one_by_the_value_route():
    """Under `pmap`, where each device has a part of the tilted loss."""
    run = configs.replace(problem.RUN, problem.SMALL | {"method.route": "value"})
    eight = problem.train(run, 3, devices=8, parallel="pmap")
    problem.same(eight, problem.train(run, 3))


def test_eight_devices_learn_weights_on_a_meta_set_as_one():
    """The meta batch has padding of its own, which is all that some devices hold."""
    changes = {"data.meta_per_class": 1, "method": configs.Method(name="meta")}
    run = configs.replace(RUN, changes | {"method.step_size": 0.5})
    batches = lambda step: _batches(step)._replace(meta=problem.batch(9 + step, 10))
    one = problem.train(run, 3, batches=batches)
    eight = problem.train(run, 3, batches=batches, devices=8)
    problem.same(eight, one, rtol=1e-3, atol=2e-5)


def test_a_layout_of_some_of_the_devices():
    layout = sharding.layout(4)
    assert layout.devices == 4
    assert layout.rows(16) == slice(0, 16)  # one host has them all
    placed = layout.shard(np.arange(16))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4,)}
    copies = layout.replicate(np.arange(3))
    assert len(copies.addressable_shards) == 4
    too_many = f"at most {len(jax.devices())}, .* got 9"
    with pytest.raises(configs.BadConfiguration, match=too_many):
        sharding.layout(9)


def test_the_device_loop_on_eight_devices_is_that_of_one():
    """Every device has all inputs, and gathers its own part of each batch."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (problem.EXAMPLES, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, problem.EXAMPLES).astype(np.int32)
    batches = [_batches(step) for step in range(4)]
    found = []
    for devices in (1, 8):
        layout = sharding.layout(devices)
        state = steps.program(RUN, layout).init(
            steps.init_network(RUN, 0), 0, problem.EXAMPLES
        )
        step_inputs = device_loop.step_inputs(
            np.stack([batch.index for batch in batches]),
            np.stack([batch.present for batch in batches]),
            [methods.step_hyperparams(RUN, 2, step) for step in range(4)],
            5,
        )
        found.append(
            device_loop.compiled(RUN, layout)(
                state,
                device_loop.to_device(Examples(inputs, labels), layout),
                problem.given(layout),
                step_inputs,
            )
        )
    problem.same(found[1], found[0], rtol=1e-3, atol=2e-5)
    assert found[0][0].step == 4  # the padding update changes nothing
