"""Settings for the whole suite."""

import os
import signal

# Before JAX is imported: one CPU device, whatever machine the suite runs on.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from hypothesis import settings

from tests import compiling

# Run by `test_devices.py` and `test_compiled_by_default.py`, in other processes.
collect_ignore = ["eight_devices"]
if compiling.QUICK:
    os.environ.setdefault("XLA_FLAGS", compiling.FLAGS)
    collect_ignore += [f"{module}.py" for module in compiling.BY_DEFAULT]

# Compilation makes first calls slow, and a failure must be the same one tomorrow.
settings.register_profile("jax", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("jax")

# Their processes take minutes. Last, one of them would leave the other cores idle;
# those whose tests share what they set up come before what can be shared out.
FIRST = (
    "test_experiments_recovery",
    "test_experiments_hosts",
    "test_hosts",
    "test_compiled_by_default",
    "test_experiments_every_preset",
    "test_devices",
)
# Coverage is of the library; of all else it would take minutes.
NOT_COVERED = (
    "test_experiments_",
    "test_hosts",
    "test_scaling",
    "experiments/",
    "benchmarks/",
)


def pytest_collection_modifyitems(items):
    rank = {module: number for number, module in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(FIRST)))
    for item in items:
        if any(part in item.nodeid for part in NOT_COVERED):
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def processes_are_covered_too(request, monkeypatch):
    """Or neither the test nor the processes that it starts."""
    if request.node.get_closest_marker("no_cover"):
        for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
            monkeypatch.delenv(name)


@pytest.fixture
def interruptible():
    """A shell's background jobs ignore SIGINT, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
