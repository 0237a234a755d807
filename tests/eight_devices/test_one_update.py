"""Eight devices give the update of one, however the step is spread over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import absgd_jax
from tests.eight_devices import meshes
from tests.eight_devices.meshes import SPREADS, assert_equal, spread

batches = meshes.global_batches()
# Compiling is what takes the time: every way, and each route by XLA and by hand.
WAYS = {
    "pullback": tuple(SPREADS),
    "value": ("jit, Auto axes", "shard_map", "pmap"),
    "dense": ("jit, Explicit axes", "shard_map", "shard_map, unchecked"),
}


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize(
    ("route", "name"),
    [(route, name) for route, names in WAYS.items() for name in names],
)
def test_eight_devices_are_one(route, name):
    """With other values of λ, padding or NaN it is the same program."""
    for lam in (0.2, -0.5, np.inf):
        got = spread(name, route, lam, batches)
        assert_equal(got, meshes.alone(route, lam), lam)

    # A device that has only padding counts for nothing: weights of device 3, examples
    # 12 to 15, are 0 throughout.
    padding = (np.arange(meshes.GLOBAL_BATCH) // 4) == 3
    padded = [
        (jnp.where(padding[:, None], 1e3, x), labels, v * ~padding)
        for x, labels, v in batches
    ]
    real = [tuple(a[~padding] for a in batch) for batch in batches]
    step, tx = meshes.program(route, 0.5)
    without = meshes.train(jax.jit(step), tx, real)
    assert_equal(spread(name, route, 0.5, padded), without)

    # NaN on one device: s stays on every device, and every gradient is NaN.
    (x, labels, v), *_ = batches
    params, state = spread(name, route, 0.5, [(x.at[5].set(jnp.nan), labels, v)])
    assert np.isnan(params["w"]).all()
    attention = absgd_jax.attention_state(state)
    assert float(attention.log_discount) == 0.0
    assert int(attention.count) == 1
