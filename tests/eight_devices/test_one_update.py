"""Eight devices give the update of one, however the step is spread over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import absgd_jax
from tests.eight_devices import meshes
from tests.eight_devices.meshes import SPREADS, assert_equal, spread
from tests.problems import ROUTES

batches = meshes.global_batches()
every_name = pytest.mark.parametrize("name", SPREADS)
every_route = pytest.mark.parametrize("route", ROUTES)


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@every_route
@every_name
def test_eight_devices_are_one(name, route):
    for lam in (0.2, -0.5, np.inf):
        got = spread(name, route, lam, batches)
        assert_equal(got, meshes.alone(route, lam))


@every_route
@every_name
def test_a_device_of_padding_alone_counts_for_nothing(name, route):
    """Device 3 holds weight 0 throughout: examples 12 to 15."""
    padding = (np.arange(meshes.GLOBAL_BATCH) // 4) == 3
    padded = [
        (jnp.where(padding[:, None], 1e3, x), labels, v * ~padding)
        for x, labels, v in batches
    ]
    real = [tuple(a[~padding] for a in batch) for batch in batches]
    step, tx = meshes.program(route, 0.5)
    without = meshes.train(jax.jit(step), tx, real)
    assert_equal(spread(name, route, 0.5, padded), without)


@pytest.mark.parametrize("route", ["pullback", "value"])
@every_name
def test_one_bad_device_is_known_to_all(name, route):
    """NaN on one device: s stays on every device, and every gradient is NaN."""
    (x, labels, v), *_ = batches
    params, state = spread(name, route, 0.5, [(x.at[5].set(jnp.nan), labels, v)])
    assert np.isnan(params["w"]).all()
    attention = absgd_jax.attention_state(state)
    assert float(attention.log_discount) == 0.0
    assert int(attention.count) == 1
