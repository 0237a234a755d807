"""Runs `tests/eight_devices` in a process of its own.

JAX fixes the number of CPU devices when it starts, so eight of them need a fresh
process; the other tests keep the one device that a user has.
"""

import pathlib

import pytest

from tests import compiling

FOLDER = pathlib.Path(__file__).parent / "eight_devices"
EIGHT = "--xla_force_host_platform_device_count=8"
# What is read off the compiled program, which is to be the user's, or held to 1e-6.
BY_DEFAULT = ("test_communication", "test_costs_guard", "test_routes")


# The longest are the last by name, and begin.
MODULES = sorted((path.stem for path in FOLDER.glob("test_*.py")), reverse=True)


@pytest.mark.parametrize("module", MODULES)
def test_on_eight_devices(module):
    flags = "" if module in BY_DEFAULT else compiling.GIVEN
    name = f"tests/eight_devices/{module}.py"
    assert compiling.passed(name, flags=f"{flags} {EIGHT}") > 0
