"""Eight devices give the update of one, however the step is spread over them."""

import jax
import pytest

from tests.eight_devices import meshes
from tests.eight_devices.meshes import SPREADS, assert_equal, spread
from tests.problems import ROUTES


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", SPREADS)
def test_eight_devices_are_one(name, route):
    for lam in (0.2, -0.5):
        got = spread(name, route, lam, meshes.global_batches())
        assert_equal(got, meshes.alone(route, lam))
