"""Settings for the whole suite."""

import os

# Before JAX is imported: one CPU device, whatever machine the suite runs on.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of what the suite costs. This leaves XLA's own passes as they are,
# with FLOPs, memory and collectives, and spares a fifth of the time in LLVM's.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

from hypothesis import settings

# Eight devices are another process: see `test_devices.py`.
collect_ignore = (
    [] if "device_count=8" in os.environ.get("XLA_FLAGS", "") else ["eight_devices"]
)

# Compilation makes first calls slow, and a failure must be the same one tomorrow.
settings.register_profile("jax", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("jax")
