"""Settings for the whole suite."""

import os

# Before JAX is imported: one CPU device, whatever machine the suite runs on.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

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
