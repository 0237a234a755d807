"""Settings for the whole suite."""

import os

# Before JAX is imported: one CPU device, whatever machine the suite runs on.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from hypothesis import settings

# Eight devices are another process: see `test_devices.py`.
collect_ignore = (
    [] if "device_count=8" in os.environ.get("XLA_FLAGS", "") else ["eight_devices"]
)

# Compilation makes first calls slow, and a failure must be the same one tomorrow.
settings.register_profile("jax", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("jax")
